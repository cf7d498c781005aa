//! The AF_XDP sockets of all interfaces: one for each receive queue, and the way out of each
//! interface.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use dispatcher_common::link::{Link, NextHop};
use dispatcher_common::maps::{LINKS_MAX, XSKS_MAX};
use dispatcher_common::verdict::DropReason;
use nix::net::if_::if_nametoindex;

use crate::datapath::{AttachedMode, Datapath, DatapathError};
use crate::engine::syn::Packet;
use crate::network::NetworkView;
use crate::status::{AttachMode, FrameStatus, InterfaceState, InterfaceStatus};
use crate::xsk::{self, XskConfig, XskSocket};

/// Earlier indices that are remembered of an interface. A flow that had no packet while its
/// interface was made anew more often than this finds its way by the routing table alone.
const FORMER_MAX: usize = 8;

/// The sockets of one interface, by queue.
struct Interface {
    name: String,
    /// 0 while it is not there.
    ifindex: u32,
    /// Indices that it had before it was made anew, the last one at the end.
    former: Vec<u32>,
    /// Index of the first one in the `XSKS` map.
    base: u32,
    sockets: Vec<XskSocket>,
    mode: Option<AttachedMode>,
    trouble: Option<String>,
}

/// What has become of an interface, for [`Sockets::change`].
pub(super) struct InterfaceNow {
    /// Its place in the configuration.
    pub(super) place: usize,
    /// Its index; 0 while it is not there.
    pub(super) ifindex: u32,
    /// How the program is attached to it, if it is.
    pub(super) mode: Option<AttachedMode>,
    /// What keeps it from being used, apart from being down.
    pub(super) trouble: Option<String>,
    /// The sockets of so many queues are kept, from the first one on.
    pub(super) kept: usize,
    /// Transmit queues that it has.
    pub(super) transmit_queues: u32,
    /// Sockets of the queues that follow.
    pub(super) opened: Vec<XskSocket>,
}

impl Interface {
    /// Takes up what has become of it; returns sockets that are of no more use.
    fn change(&mut self, now: InterfaceNow) -> Vec<XskSocket> {
        if now.ifindex != self.ifindex {
            if self.ifindex != 0 {
                self.former.push(self.ifindex);
            }
            self.former.retain(|former| *former != now.ifindex);
            let forgotten = self.former.len().saturating_sub(FORMER_MAX);
            self.former.drain(..forgotten);
        }
        self.ifindex = now.ifindex;
        self.mode = now.mode;
        self.trouble = now.trouble;
        let closed = self.sockets.split_off(now.kept.min(self.sockets.len()));
        self.sockets.extend(now.opened);
        for socket in &mut self.sockets {
            socket.set_transmit_queues(now.transmit_queues);
        }
        closed
    }

    fn status(&self, view: &NetworkView) -> InterfaceStatus {
        let has_carrier = view.links.get(&self.ifindex).is_some_and(|link| link.up);
        let state = if self.ifindex == 0 {
            InterfaceState::Missing
        } else if self.trouble.is_some() {
            InterfaceState::Failed
        } else if has_carrier && self.mode.is_some() && !self.sockets.is_empty() {
            InterfaceState::Up
        } else {
            InterfaceState::Down
        };
        InterfaceStatus {
            name: self.name.clone(),
            state,
            attach_mode: self.mode.map(|mode| match mode {
                AttachedMode::Native => AttachMode::Native,
                AttachedMode::Generic => AttachMode::Generic,
            }),
            queues: self.sockets.len() as u64,
            why: self.trouble.clone(),
        }
    }

    /// Queues a packet on the first of the transmit queues that has room, if one has.
    fn queue(&mut self, way: &NextHop, packet: &Packet) -> bool {
        let len = packet.frame_len(way);
        self.sockets
            .iter_mut()
            .filter(|socket| socket.can_transmit())
            .any(|socket| {
                let sent = socket.send(len, |frame| packet.write_frame(way, frame));
                sent.is_ok()
            })
    }

    /// Whether the kernel had all sockets transmit, as it does not once the interface is gone.
    fn flush(&mut self) -> bool {
        let mut flushed = true;
        for socket in &mut self.sockets {
            if let Err(error) = socket.flush() {
                tracing::debug!(interface = self.name, %error, "cannot transmit");
                flushed = false;
            }
        }
        flushed
    }
}

/// All of them.
pub struct Sockets {
    interfaces: Vec<Interface>,
    /// Frames that sockets which are closed now had no room for.
    dropped_before: u64,
}

impl Sockets {
    /// Opens a socket on every receive queue of every interface.
    ///
    /// # Errors
    ///
    /// When one cannot be opened, or there are more queues than the program's map has room for.
    pub fn open(interfaces: &[String], config: &XskConfig) -> Result<Self> {
        let mut opened = Vec::new();
        let mut base = 0;
        for name in interfaces {
            let ifindex = if_nametoindex(name.as_str()).map_err(|_| {
                anyhow::anyhow!("there is no interface {name:?}; `ip link` lists those there are")
            })?;
            let queues = xsk::receive_queues(name)
                .with_context(|| format!("cannot tell how many receive queues {name} has"))?;
            if base + queues > XSKS_MAX {
                anyhow::bail!(
                    "the interfaces have more than {XSKS_MAX} receive queues, {queues} of them on \
                     {name}; give them fewer with `ethtool -L {name} combined N`"
                );
            }
            let sockets = (0..queues)
                .map(|queue| XskSocket::open(name, queue, config))
                .collect::<Result<Vec<_>, _>>()?;
            opened.push(Interface {
                name: name.clone(),
                ifindex,
                former: Vec::new(),
                base,
                sockets,
                mode: None,
                trouble: None,
            });
            base += queues;
        }
        Ok(Self {
            interfaces: opened,
            dropped_before: 0,
        })
    }

    /// Notes how the program was attached to each interface.
    pub(super) fn set_modes(&mut self, modes: &[AttachedMode]) {
        for (interface, mode) in self.interfaces.iter_mut().zip(modes) {
            interface.mode = Some(*mode);
        }
    }

    /// How the program is attached: generically if it is so anywhere. Nothing while it is attached
    /// nowhere.
    #[must_use]
    pub fn attached(&self) -> Option<AttachedMode> {
        self.interfaces.iter().filter_map(|one| one.mode).max()
    }

    /// Each interface with its index, its sockets and how the program is attached to it.
    pub(super) fn interfaces(
        &self,
    ) -> impl Iterator<Item = (&str, u32, usize, Option<AttachedMode>)> {
        self.interfaces
            .iter()
            .map(|one| (&*one.name, one.ifindex, one.sockets.len(), one.mode))
    }

    /// Takes up what has become of an interface; the program knows after [`Self::register`] and
    /// with the next [`Self::links`]. Returns the sockets that are of no more use: closing them
    /// takes time.
    ///
    /// All sockets together are at most [`XSKS_MAX`].
    pub(super) fn change(&mut self, now: InterfaceNow) -> Vec<XskSocket> {
        let place = now.place;
        let Some(interface) = self.interfaces.get_mut(place) else {
            return now.opened;
        };
        let closed = interface.change(now);
        self.dropped_before += drops_of(&closed);
        let mut spans: Vec<_> = self.interfaces.iter().map(Span::of).collect();
        make_room(&mut spans, place);
        for (interface, span) in self.interfaces.iter_mut().zip(&spans) {
            interface.base = span.base;
        }
        closed
    }

    /// The index that an interface has now which was known under this one.
    #[must_use]
    pub fn current(&self, ifindex: u32) -> u32 {
        let known = |one: &&Interface| one.ifindex != 0 && one.former.contains(&ifindex);
        let is_current = self.interfaces.iter().any(|one| one.ifindex == ifindex);
        match self.interfaces.iter().find(known) {
            Some(one) if !is_current => one.ifindex,
            _ => ifindex,
        }
    }

    /// Whether packets can leave by this interface.
    #[must_use]
    pub fn can_send(&self, ifindex: u32) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|one| one.ifindex == ifindex && !one.sockets.is_empty())
    }

    /// What is told of the interfaces.
    #[must_use]
    pub fn status(&self, view: &NetworkView) -> Vec<InterfaceStatus> {
        self.interfaces.iter().map(|one| one.status(view)).collect()
    }

    /// What the program is to know of the interfaces: [`LINKS_MAX`] of them at most, those that are
    /// configured first. What goes in or out by others is left to the host's stack.
    #[must_use]
    pub fn links(&self, view: &NetworkView) -> Vec<(u32, Link)> {
        let link = |ifindex: u32, device: u32, vlan: u16| {
            let own = self
                .interfaces
                .iter()
                .find(|interface| interface.ifindex == ifindex);
            let link = Link {
                device,
                vlan: u32::from(vlan),
                xsk_base: own.map_or(Link::NO_SOCKET, |interface| interface.base),
                xsk_queues: own.map_or(0, |interface| interface.sockets.len() as u32),
            };
            (ifindex, link)
        };
        let (own, vlans): (Vec<_>, Vec<_>) = view
            .links
            .values()
            .map(|known| link(known.ifindex, known.device, known.vlan))
            .partition(|(ifindex, link)| *ifindex == link.device);
        // Flows whose way the routing table does not tell still name the interface as it was.
        let present = self.interfaces.iter().filter(|one| one.ifindex != 0);
        let former = present.flat_map(|one| one.former.iter().map(|was| (*was, one.ifindex)));
        let former = former
            .filter(|(was, _)| !view.links.contains_key(was))
            .map(|(was, is)| link(was, is, 0));
        let all = own.into_iter().chain(former).chain(vlans);
        all.take(LINKS_MAX as usize).collect()
    }

    /// Lets the program give connection requests to the sockets.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn register(&self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        for interface in &self.interfaces {
            for (queue, socket) in interface.sockets.iter().enumerate() {
                datapath.set_socket(interface.base + queue as u32, socket.fd())?;
            }
        }
        Ok(())
    }

    /// Shows every waiting frame with the index of its interface, at most `budget` a socket.
    /// Returns whether more may wait.
    pub fn receive(&mut self, budget: usize, mut each: impl FnMut(u32, &[u8])) -> bool {
        let mut more = false;
        for interface in &mut self.interfaces {
            let ifindex = interface.ifindex;
            for socket in &mut interface.sockets {
                more |= socket.receive(budget, |frame| each(ifindex, frame)) == budget;
            }
        }
        more
    }

    /// Queues `packet` to leave by `way`; it leaves with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The reason for which it is dropped.
    pub fn send(&mut self, way: &NextHop, packet: &Packet) -> Result<(), DropReason> {
        let interface = self
            .interfaces
            .iter_mut()
            .find(|interface| interface.ifindex == way.ifindex)
            .ok_or(DropReason::Unreachable)?;
        // A crowd that is released or refused at once is more than the rings hold.
        if interface.queue(way, packet) || (interface.flush() && interface.queue(way, packet)) {
            Ok(())
        } else {
            Err(DropReason::TransmitFull)
        }
    }

    /// Makes the kernel take what is queued; what it does not take now goes with the next call.
    pub fn flush(&mut self) {
        for interface in &mut self.interfaces {
            interface.flush();
        }
    }

    /// Descriptors to wait on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.interfaces
            .iter()
            .flat_map(|interface| &interface.sockets)
            .map(XskSocket::fd)
    }

    /// Frames that were given to the sockets and did not fit.
    #[must_use]
    pub fn receive_drops(&self) -> u64 {
        let open = self.interfaces.iter().map(|one| drops_of(&one.sockets));
        self.dropped_before + open.sum::<u64>()
    }

    /// Where the frames are.
    #[must_use]
    pub fn frames(&self) -> FrameStatus {
        let mut status = FrameStatus::default();
        for socket in self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.sockets)
        {
            let frames = socket.frames();
            status.total += u64::from(frames.total);
            status.home += u64::from(frames.receive_home + frames.transmit_free);
            status.in_flight += u64::from(frames.receive_held + frames.transmit_in_flight);
        }
        status
    }
}

/// Frames that these sockets had no room for.
fn drops_of(sockets: &[XskSocket]) -> u64 {
    let told = sockets.iter().filter_map(|one| one.statistics().ok());
    told.map(|statistics| statistics.dropped()).sum()
}

/// Places of an interface's sockets in the `XSKS` map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    base: u32,
    len: u32,
}

impl Span {
    fn of(interface: &Interface) -> Self {
        Self {
            base: interface.base,
            len: interface.sockets.len() as u32,
        }
    }

    const fn end(self) -> u32 {
        self.base + self.len
    }

    const fn overlaps(self, other: Self) -> bool {
        self.len > 0 && other.len > 0 && self.base < other.end() && other.base < self.end()
    }
}

/// Moves the span at `place`, whose length is another one now, to where no other is; all of them
/// if there is no such place. They are at most [`XSKS_MAX`] together.
fn make_room(spans: &mut [Span], place: usize) {
    let len = spans[place].len;
    let others = spans.iter().enumerate().filter(|(at, _)| *at != place);
    let others: Vec<Span> = others.map(|(_, span)| *span).collect();
    let after_others = others.iter().map(|span| span.end());
    let fits = |base: &u32| {
        let span = Span { base: *base, len };
        span.end() <= XSKS_MAX && !others.iter().any(|other| span.overlaps(*other))
    };
    let found = [spans[place].base, 0]
        .into_iter()
        .chain(after_others)
        .find(fits);
    match found {
        Some(base) => spans[place].base = base,
        None => {
            let mut next = 0;
            for span in spans {
                span.base = next;
                next = span.end();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dispatcher_common::addr::Mac;

    use super::*;
    use crate::network::{LinkInfo, LinkKind};

    /// Interfaces without sockets.
    fn of(names_and_indices: &[(&str, u32)]) -> Sockets {
        let interface = |&(name, ifindex): &(&str, u32)| Interface {
            name: name.to_owned(),
            ifindex,
            former: Vec::new(),
            base: 0,
            sockets: Vec::new(),
            mode: None,
            trouble: None,
        };
        Sockets {
            interfaces: names_and_indices.iter().map(interface).collect(),
            dropped_before: 0,
        }
    }

    fn made_anew(sockets: &mut Sockets, place: usize, ifindex: u32) {
        sockets.change(InterfaceNow {
            place,
            ifindex,
            mode: None,
            trouble: None,
            kept: 0,
            transmit_queues: 0,
            opened: Vec::new(),
        });
    }

    #[test]
    fn an_interface_is_known_by_the_last_few_of_its_earlier_indices() {
        let mut sockets = of(&[("eth0", 100), ("eth1", 2)]);
        let last = 100 + FORMER_MAX as u32 + 3;
        for ifindex in 101..=last {
            // It is gone in between.
            made_anew(&mut sockets, 0, 0);
            made_anew(&mut sockets, 0, ifindex);
        }
        let first_known = last - FORMER_MAX as u32;
        for forgotten in 100..first_known {
            assert_eq!(sockets.current(forgotten), forgotten);
        }
        for known in first_known..=last {
            assert_eq!(sockets.current(known), last);
        }
        assert_eq!(sockets.current(2), 2, "another one is none of its own");
    }

    /// The configured interfaces 1 and 2, and VLANs on the first one.
    fn view(vlans: u32) -> NetworkView {
        let link = |ifindex, device, vlan| LinkInfo {
            name: format!("link{ifindex}"),
            ifindex,
            device,
            vlan,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            kind: if vlan == 0 {
                LinkKind::Physical
            } else {
                LinkKind::Vlan
            },
        };
        let own = [link(1, 1, 0), link(5000, 5000, 0)];
        let vlans = (0..vlans).map(|i| link(10 + i, 1, 1 + i as u16));
        NetworkView::of_links(own.into_iter().chain(vlans))
    }

    #[test]
    fn of_more_interfaces_than_the_program_can_know_the_configured_ones_come_first() {
        let mut sockets = of(&[("eth0", 1), ("eth1", 4000)]);
        made_anew(&mut sockets, 1, 5000);
        let all = sockets.links(&view(LINKS_MAX - 3));
        assert_eq!(all.len(), LINKS_MAX as usize);
        let most = sockets.links(&view(LINKS_MAX));
        assert_eq!(most.len(), LINKS_MAX as usize);
        let device = |ifindex: u32| {
            let found = most.iter().find(|(known, _)| *known == ifindex);
            found.map(|(_, link)| link.device)
        };
        assert_eq!(device(1), Some(1));
        assert_eq!(device(5000), Some(5000));
        assert_eq!(device(4000), Some(5000), "as a flow may still know it");
        assert_eq!(device(10), Some(1));
        assert_eq!(device(10 + LINKS_MAX - 1), None, "it is the host's");
    }

    fn spans(all: &[(u32, u32)]) -> Vec<Span> {
        let span = |&(base, len): &(u32, u32)| Span { base, len };
        all.iter().map(span).collect()
    }

    #[track_caller]
    fn moved(all: &[(u32, u32)], place: usize, expected: &[(u32, u32)]) {
        let mut all = spans(all);
        make_room(&mut all, place);
        assert_eq!(all, spans(expected));
    }

    #[test]
    fn sockets_stay_where_they_are_if_they_can() {
        moved(&[(0, 4), (8, 4)], 0, &[(0, 4), (8, 4)]);
        moved(&[(0, 8), (8, 4)], 0, &[(0, 8), (8, 4)]);
        moved(&[(0, 4), (4, 200)], 1, &[(0, 4), (4, 200)]);
        moved(&[(0, 4), (2, 0)], 1, &[(0, 4), (2, 0)]);
    }

    #[test]
    fn sockets_that_do_not_fit_there_any_more_move_to_a_gap() {
        moved(&[(0, 5), (4, 4)], 0, &[(8, 5), (4, 4)]);
        moved(&[(0, 4), (8, 3), (9, 9)], 1, &[(0, 4), (4, 3), (9, 9)]);
        moved(&[(250, 4), (252, 7)], 1, &[(250, 4), (0, 7)]);
    }

    #[test]
    fn without_a_gap_all_move_together() {
        moved(&[(100, 20), (0, 156)], 1, &[(0, 20), (20, 156)]);
        moved(
            &[(100, 56), (0, 100), (156, 100)],
            2,
            &[(100, 56), (0, 100), (156, 100)],
        );
        moved(
            &[(60, 6), (0, 200), (120, 50)],
            1,
            &[(0, 6), (6, 200), (206, 50)],
        );
    }

    #[test]
    fn sockets_of_any_changes_never_share_a_place() {
        let mut random = 7_u64;
        let mut next = |below: u32| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as u32 % below
        };
        let mut all = spans(&[(0, 0); 5]);
        for step in 0..10_000 {
            let place = next(5) as usize;
            let used: u32 = all.iter().map(|span| span.len).sum();
            let room = XSKS_MAX - used + all[place].len;
            all[place].len = next(room + 1);
            make_room(&mut all, place);
            for (at, span) in all.iter().enumerate() {
                assert!(span.end() <= XSKS_MAX || span.len == 0, "{step}: {all:?}");
                let overlap = |other: &Span| span.overlaps(*other);
                assert!(!all[at + 1..].iter().any(overlap), "{step}: {all:?}");
            }
        }
    }
}
