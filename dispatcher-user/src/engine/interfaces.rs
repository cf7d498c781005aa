//! Follows the configured interfaces: one that is gone gives up its sockets, one that came back is
//! given the program and sockets, one with another number of queues as many sockets. On a thread of
//! its own, because all of that takes as long as a driver takes.
//!
//! It goes by what is there, not by what was reported: a report is a reason to look sooner.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use dispatcher_common::maps::XSKS_MAX;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::clock;
use super::handle::Handle;
use super::sockets::{InterfaceNow, Sockets};
use crate::admission::Time;
use crate::datapath::{AttachMode, AttachedMode, Attacher};
use crate::network::LinkEvents;
use crate::xsk::{self, XskConfig, XskError, XskSocket};

/// How often interfaces are looked at when nothing is reported: not every driver's change of its
/// queues is.
const LOOK: u64 = 500;
/// Time between two looks in a storm of reports.
const REST: u16 = 10;
/// Pause before what failed is tried again the first time, and the longest one.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The thread, running.
pub(super) struct Follower {
    thread: JoinHandle<()>,
    stop: Arc<EventFd>,
}

impl Follower {
    /// Starts to follow interfaces that are in use already.
    ///
    /// # Errors
    ///
    /// When the thread or its descriptors cannot be had.
    pub(super) fn start(
        sockets: &Sockets,
        attacher: Attacher,
        mode: AttachMode,
        config: XskConfig,
        handle: Handle,
    ) -> Result<Self> {
        let interface = |(name, ifindex, sockets, mode): (&str, u32, usize, _)| Interface {
            name: name.to_owned(),
            ifindex,
            mode,
            sockets: sockets as u32,
            transmit_queues: xsk::transmit_queues(name).unwrap_or(0),
            unloaded: false,
            trouble: None,
            tries: Tries::default(),
        };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.context("cannot make an eventfd")?);
        let events = LinkEvents::listen().context("cannot open a netlink socket")?;
        let state = Interfaces {
            interfaces: sockets.interfaces().map(interface).collect(),
            attacher,
            mode,
            config,
            handle,
            events,
        };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("interfaces".into())
            .spawn(move || state.run(stopped.as_fd()))
            .context("cannot start the thread that follows interfaces")?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread: from here on nothing is attached any more.
    pub(super) fn stop(self) {
        // It can only fail when the count is at its end, and then the thread is awake.
        let _ = self.stop.write(1);
        if self.thread.join().is_err() {
            tracing::error!("the thread that follows interfaces panicked");
        }
    }
}

/// Everything that the thread holds.
struct Interfaces {
    interfaces: Vec<Interface>,
    attacher: Attacher,
    mode: AttachMode,
    config: XskConfig,
    handle: Handle,
    events: LinkEvents,
}

/// One of them, as it was left.
struct Interface {
    name: String,
    /// 0 while it is not there.
    ifindex: u32,
    mode: Option<AttachedMode>,
    sockets: u32,
    transmit_queues: u32,
    /// Somebody took the program off on purpose.
    unloaded: bool,
    trouble: Option<String>,
    tries: Tries,
}

/// When something is tried again.
#[derive(Clone, Copy, Default)]
struct Tries {
    last: Time,
    pause: Duration,
}

impl Tries {
    fn are_due(self, now: Time) -> bool {
        now.since(self.last) >= self.pause
    }

    fn failed(&mut self, now: Time) {
        self.last = now;
        self.pause = (2 * self.pause).clamp(PAUSE_FIRST, PAUSE_MAX);
    }

    /// Something changed: what failed may do now.
    fn hasten(&mut self) {
        self.pause = self.pause.min(PAUSE_FIRST);
    }
}

impl Interfaces {
    fn run(mut self, stop: BorrowedFd<'_>) {
        loop {
            let mut fds = [stop, self.events.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            // An interruption is one more reason to look.
            let _ = poll(&mut fds, self.timeout(clock::now()));
            if fds[0].any().unwrap_or(false) {
                return;
            }
            if self.events.drain() {
                for interface in &mut self.interfaces {
                    interface.tries.hasten();
                }
            }
            for place in 0..self.interfaces.len() {
                if self.look(place).is_err() {
                    // The admission thread is gone, and with it the sockets.
                    return;
                }
            }
            let _ = poll(&mut [PollFd::new(stop, PollFlags::POLLIN)], REST);
        }
    }

    fn timeout(&self, now: Time) -> PollTimeout {
        let failed = self.interfaces.iter().map(|one| one.tries);
        let failed = failed.filter(|tries| tries.pause > Duration::ZERO);
        let next = failed.map(|tries| (tries.last + tries.pause).since(now).as_millis() as u64 + 1);
        let millis = next.chain([LOOK]).min().unwrap_or(LOOK);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::ZERO)
    }

    /// Does what one interface needs. An error means that nobody listens any more.
    fn look(&mut self, place: usize) -> Result<()> {
        let now = clock::now();
        let name = self.interfaces[place].name.clone();
        let is_there = if_nametoindex(&*name).unwrap_or(0);
        if is_there != self.interfaces[place].ifindex {
            self.replaced(place, is_there)?;
        }
        if is_there == 0 {
            return Ok(());
        }
        self.see_whether_unloaded(place)?;
        let one = &self.interfaces[place];
        if one.unloaded || !one.tries.are_due(now) {
            return Ok(());
        }
        if one.mode.is_none() {
            self.attach(place, now)?;
        }
        // Without the program nothing comes in by sockets; they wait until it is attached.
        if self.interfaces[place].mode.is_some() {
            self.follow_queues(place, now)?;
        }
        Ok(())
    }

    /// Its index is another one: what was there is gone, whatever is there now.
    fn replaced(&mut self, place: usize, ifindex: u32) -> Result<()> {
        let one = &mut self.interfaces[place];
        let was = std::mem::replace(&mut one.ifindex, ifindex);
        one.mode = None;
        one.sockets = 0;
        one.tries = Tries::default();
        if !one.unloaded {
            one.trouble = None;
        }
        if was != 0 {
            tracing::error!(
                interface = one.name,
                "the interface is gone: its requests are not served until it is back"
            );
            self.attacher.detach(&one.name);
        }
        self.tell(place, Vec::new())
    }

    fn see_whether_unloaded(&mut self, place: usize) -> Result<()> {
        let one = &mut self.interfaces[place];
        let attached = one.mode.filter(|_| !one.unloaded);
        if attached.is_none_or(|mode| self.attacher.is_pinned(&one.name, mode)) {
            return Ok(());
        }
        one.unloaded = true;
        one.mode = None;
        tracing::error!(interface = one.name, "{UNLOADED}");
        one.trouble = Some(UNLOADED.to_owned());
        self.tell(place, Vec::new())
    }

    /// First of all, and also while it is down: a packet of an established connection that the
    /// host's stack sees untranslated is answered by an RST.
    fn attach(&mut self, place: usize, now: Time) -> Result<()> {
        let one = &mut self.interfaces[place];
        match self.attacher.attach_anew(&one.name, self.mode) {
            Ok(mode) => {
                one.mode = Some(mode);
                one.succeeded();
            }
            Err(error) => one.failed(now, error.to_string()),
        }
        self.tell(place, Vec::new())
    }

    fn follow_queues(&mut self, place: usize, now: Time) -> Result<()> {
        let others = self.interfaces.iter().enumerate();
        let others = others.filter(|(at, _)| *at != place);
        let room = XSKS_MAX - others.map(|(_, one)| one.sockets).sum::<u32>();
        let one = &mut self.interfaces[place];
        let (Ok(queues), Ok(transmit_queues)) = (
            xsk::receive_queues(&one.name),
            xsk::transmit_queues(&one.name),
        ) else {
            // It went just now: the next look finds that out.
            return Ok(());
        };
        let (wanted, mut failure) = sockets_for(&one.name, queues, room);
        if wanted == one.sockets && transmit_queues == one.transmit_queues {
            return Ok(());
        }
        let before = one.sockets;
        if let Some(mode) = one.mode.filter(|_| before > 0 && wanted > before)
            && let Err(error) = self.attacher.renew(&one.name, mode)
        {
            one.failed(now, error.to_string());
            return self.tell(place, Vec::new());
        }
        one.transmit_queues = transmit_queues;
        one.sockets = before.min(wanted);
        let mut opened = Vec::new();
        for queue in one.sockets..wanted {
            match XskSocket::open(&one.name, queue, &self.config) {
                Ok(socket) => opened.push(socket),
                // Without a word: it is seen to be down.
                Err(XskError::InterfaceDown { .. }) => {
                    one.tries.failed(now);
                    break;
                }
                Err(error) => {
                    failure = Some(error.to_string());
                    break;
                }
            }
        }
        let (kept, is_complete) = (one.sockets, one.sockets + opened.len() as u32 == wanted);
        match failure {
            Some(failure) => one.failed(now, failure),
            None if is_complete => one.succeeded(),
            None => {}
        }
        if kept + opened.len() as u32 != before {
            tracing::info!(
                interface = one.name,
                queues = kept + opened.len() as u32,
                before,
                "listening on another number of receive queues"
            );
        }
        self.tell(place, opened)
    }

    /// Tells the admission thread what there is of an interface now, and closes what that has no
    /// more use for.
    fn tell(&mut self, place: usize, opened: Vec<XskSocket>) -> Result<()> {
        let one = &mut self.interfaces[place];
        let kept = one.sockets as usize;
        one.sockets += opened.len() as u32;
        let closed = self.handle.change_interface(InterfaceNow {
            place,
            ifindex: one.ifindex,
            mode: one.mode,
            trouble: one.trouble.clone(),
            kept,
            transmit_queues: one.transmit_queues,
            opened,
        })?;
        drop(closed);
        Ok(())
    }
}

/// How many of its receive queues are listened to when there is room for `room` sockets, and what
/// is wrong if that is not all.
fn sockets_for(name: &str, queues: u32, room: u32) -> (u32, Option<String>) {
    let trouble = (queues > room).then(|| {
        format!(
            "it has {queues} receive queues, and there is room for {room} sockets; give it fewer \
             with `ethtool -L {name} combined N`"
        )
    });
    (queues.min(room), trouble)
}

impl Interface {
    fn succeeded(&mut self) {
        self.tries = Tries::default();
        self.trouble = None;
    }

    /// Told when it is news.
    fn failed(&mut self, now: Time, why: String) {
        self.tries.failed(now);
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(interface = self.name, why, "cannot be used; trying again");
            self.trouble = Some(why);
        }
    }
}

const UNLOADED: &str = "somebody unloaded the program: nobody is admitted and nothing forwarded \
                        before the daemon is started anew";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely_until_something_changes() {
        let mut tries = Tries::default();
        let mut now = Time::ZERO;
        assert!(tries.are_due(now), "at once at first");
        let mut pauses = Vec::new();
        for _ in 0..9 {
            tries.failed(now);
            assert!(!tries.are_due(now));
            pauses.push(tries.pause.as_millis());
            now = now + tries.pause;
            assert!(tries.are_due(now));
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        tries.failed(now);
        tries.hasten();
        assert!(!tries.are_due(now), "a storm of reports is no reason to");
        assert!(tries.are_due(now + PAUSE_FIRST));
    }

    #[test]
    fn queues_beyond_the_room_for_sockets_are_not_listened_to_and_told() {
        assert_eq!(sockets_for("eth0", XSKS_MAX, XSKS_MAX), (XSKS_MAX, None));
        let (wanted, trouble) = sockets_for("eth0", 9, 4);
        assert_eq!(wanted, 4);
        let trouble = trouble.unwrap();
        assert!(trouble.contains("9 receive queues"), "{trouble}");
        assert!(
            trouble.contains("`ethtool -L eth0 combined N`"),
            "{trouble}"
        );
    }
}
