//! The admission thread: the one place where decisions and effects meet. It polls the sockets and
//! the event ring, feeds `admission`, and carries out what that decides. Everything else the
//! daemon does runs elsewhere and talks to it through a [`Handle`].

mod admitted;
mod adopt;
pub(crate) mod clock;
mod configure;
mod effects;
mod floods;
mod handle;
mod host_stack;
mod interfaces;
mod plan;
mod refusals;
mod removed;
mod report;
mod resets;
mod retry;
mod sockets;
mod start;
pub mod syn;
mod waits;
mod wakeups;

use std::collections::HashMap;
use std::iter;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use dispatcher_common::control::{self, Control};
use dispatcher_common::event::FlowEvent;
use dispatcher_common::link::NextHop;
use dispatcher_common::service::ServiceKey;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::{DropReason, Handled};
use foldhash::quality::RandomState;
use nix::sys::epoll::EpollTimeout;
use tokio::sync::watch;

use crate::admission::{Admission, BackendId, FlowId, GroupId, ServiceId, Time};
use crate::config::Unattended;
use crate::datapath::{AttachedMode, Datapath};
use crate::fault::{self, Point};
use crate::network::{NetworkView, Way};
use crate::xsk::XskSocket;

pub use configure::{Enrolled, Roster, Since};
pub use handle::{Adjustment, Handle};
pub use plan::NoRoom;
pub use start::{Running, Started, start};

use admitted::Admitted;
use floods::Floods;
use handle::{Inbox, Message, Names};
use host_stack::HostStack;
use refusals::{Notice, Refusals};
use removed::Removed;
use resets::Resets;
use retry::Kept;
use sockets::{InterfaceNow, Sockets};
use syn::Syn;
use waits::Waits;
use wakeups::Wakeups;

/// Frames taken from one socket before the others have their turn.
const FRAMES_A_TURN: usize = 256;
/// Events taken from the ring before the sockets have their turn.
const EVENTS_A_TURN: usize = 4096;
/// Flows compared with the map in one turn while events were lost.
const RECONCILED_A_TURN: usize = 1024;

/// A service as it is called.
struct ServiceInfo {
    id: ServiceId,
    name: Arc<str>,
    address: SocketAddr,
    backends: Vec<BackendInfo>,
    waits: Waits,
}

/// A group as it is called.
struct GroupInfo {
    id: GroupId,
    name: Arc<str>,
}

/// A back-end as it is called.
struct BackendInfo {
    id: BackendId,
    name: Arc<str>,
    address: SocketAddr,
    policy: &'static str,
    group: Option<Arc<str>>,
}

/// Everything that the admission thread owns.
struct Engine {
    admission: Admission<Syn, RandomState>,
    datapath: Datapath,
    sockets: Sockets,
    wakeups: Wakeups,
    host_stack: HostStack,
    inbox: Inbox,
    /// Those of the configuration in its order, then those that are kept for back-ends that leave.
    groups: Vec<GroupInfo>,
    /// Those of the configuration in its order, then those that leave; so are the back-ends of
    /// each.
    services: Vec<ServiceInfo>,
    /// Place of each service in `services`, by [`ServiceId`].
    places: Vec<usize>,
    /// Something was removed that had flows when it was last looked at.
    any_leaving: bool,
    /// What everybody else reads names from.
    names: watch::Sender<Arc<Names>>,
    by_key: HashMap<ServiceKey, ServiceId, RandomState>,
    /// Where each back-end is and the way to it, by [`BackendId`].
    backends: Vec<BackendWay>,
    network: Arc<NetworkView>,
    control: Control,
    /// Error number of the last flow that the kernel refused for another reason than the two
    /// that are expected.
    install_refused: Option<i32>,
    /// How often that happened.
    install_refusals: Notice,
    /// Requests that were turned away, to be told.
    refusals: Refusals,
    /// Frames that user space dropped, by reason.
    dropped: [u64; DropReason::ALL.len()],
    /// The program's count of lost events when they were last made up for.
    events_lost: u64,
    /// Flows still to be compared with the map.
    to_reconcile: Vec<FlowId>,
    resets: Resets,
    /// Requests of half-open flows.
    kept: Kept,
    /// Those that are admitted and not yet sent on.
    admitted: Vec<Admitted>,
    /// Those whose entries are yet to be removed.
    removed: Removed,
    /// Flows that the kernel's table holds. Admission is ahead of it by the commands that it has
    /// given.
    in_table: usize,
    floods: Floods,
    started: Time,
    /// Never sleeps.
    busy_poll: bool,
    /// None while everything is opened.
    attached: Option<AttachedMode>,
    stopping: bool,
}

/// Where a back-end is, and how to get there.
#[derive(Clone, Copy)]
struct BackendWay {
    address: SocketAddr,
    next_hop: NextHop,
    /// Another service has this address and port among its back-ends, or may have: then two flows
    /// may have one reply key.
    is_shared: bool,
}

impl BackendWay {
    /// Fills a number that no back-end has.
    const UNUSED: Self = Self {
        address: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        next_hop: NextHop::UNKNOWN,
        is_shared: true,
    };
}

impl Engine {
    /// Works until it is told to stop.
    fn run(mut self) -> Self {
        while !self.stopping {
            let busy = self.turn();
            if self.busy_poll {
                std::hint::spin_loop();
            } else if !busy {
                self.wait();
            }
        }
        self.remove_the_rest();
        self
    }

    /// One round over everything that may have come in. Returns whether more waits already.
    ///
    /// Slots that became free are known before whoever wants them or asks for them, and messages of
    /// operators before requests.
    fn turn(&mut self) -> bool {
        let now = clock::now();
        // 1. Phases that flows entered.
        let mut busy = self.handle_events(now);
        // 2. What the rest of the daemon wants.
        while let Some(message) = self.inbox.next() {
            self.handle_message(now, message);
        }
        // 3. Connection requests.
        busy |= self.receive(now);
        // 4. Deadlines.
        self.admission.handle_timeout(now);
        busy |= self
            .admission
            .poll_timeout()
            .is_some_and(|deadline| deadline <= now);
        // 5. What all this led to.
        self.carry_out(now);
        // 6. Flows whose events were lost: after 5, because the map must hold what was admitted.
        if self.reconcile(now) {
            self.carry_out(now);
        }
        // 7. Connections that an operator wants reset.
        busy |= self.reset_some(now);
        self.sockets.flush();
        self.tick(now);
        busy |= self.want_every_event();
        busy || !self.to_reconcile.is_empty()
    }

    /// Has every event wake this thread while a request waits. Returns whether that is new: what
    /// came before the program knew is to be taken before the thread sleeps.
    fn want_every_event(&mut self) -> bool {
        if self.control.waiting != 0 || self.admission.queued_count() == 0 {
            return false;
        }
        self.control.waiting = 1;
        self.tell_program();
        true
    }

    fn handle_events(&mut self, now: Time) -> bool {
        let mut events = Vec::new();
        let taken = self
            .datapath
            .drain_events(EVENTS_A_TURN, |event: &FlowEvent| {
                let flow = FlowId {
                    index: event.flow,
                    generation: event.generation,
                };
                events.push((flow, Phase(event.phase)));
            });
        if taken > 0 {
            fault::point(Point::EventsTaken);
        }
        for (flow, phase) in events {
            self.enter_phase(now, flow, phase);
        }
        taken == EVENTS_A_TURN
    }

    fn receive(&mut self, now: Time) -> bool {
        let Self {
            sockets,
            admission,
            by_key,
            dropped,
            ..
        } = self;
        sockets.receive(FRAMES_A_TURN, |device, frame| {
            let accepted = Syn::read(frame, device).and_then(|(syn, segment)| {
                let key = ServiceKey::new(segment.key.dst, segment.key.dst_port);
                let service = *by_key.get(&key).ok_or(DropReason::NotARequest)?;
                admission.handle_syn(now, service, segment.key, segment.tcp.seq, syn);
                Ok(())
            });
            if let Err(reason) = accepted {
                dropped[reason as usize] += 1;
            }
        })
    }

    /// After events were lost, has every flow compared with the map.
    fn look_for_lost_events(&mut self) {
        let lost = self.datapath.handled(Handled::EventLost);
        // Those that are lost while flows are being compared need another round after it.
        if lost == self.events_lost || !self.to_reconcile.is_empty() {
            return;
        }
        tracing::warn!(
            events = lost - self.events_lost,
            "the event ring was full: reconciling"
        );
        self.events_lost = lost;
        self.to_reconcile = self.admission.flows().map(|flow| flow.id).collect();
    }

    /// Compares flows with the map, some each turn. Returns whether there were any. The map must
    /// hold every flow that was admitted, and none that was replaced.
    fn reconcile(&mut self, now: Time) -> bool {
        if self.to_reconcile.is_empty() {
            return false;
        }
        let rest = self.to_reconcile.len().saturating_sub(RECONCILED_A_TURN);
        for id in self.to_reconcile.split_off(rest) {
            let Some(flow) = self.admission.flow(id) else {
                continue;
            };
            match self.datapath.flows().get(&flow.key) {
                Some(pair) => self.enter_phase(now, id, Phase(pair.forward.phase)),
                None => self.admission.handle_missing(now, id),
            }
        }
        true
    }

    fn handle_message(&mut self, now: Time, message: Message) {
        match message {
            Message::Network(view) => self.set_network(view),
            // Whoever asked may have gone: then nobody misses the answer.
            Message::Status(answer) => {
                self.forget_gone();
                // Whoever hears that a flow is gone finds nothing of it.
                self.remove_the_rest();
                let _ = answer.send(self.status(now));
            }
            Message::Queue(filter, answer) => {
                let _ = answer.send(self.queue(now, &filter));
            }
            Message::Window(service, answer) => {
                let _ = answer.send(self.admission.take_window(now, service));
            }
            Message::Adjust(adjustments) => {
                for adjustment in adjustments {
                    self.adjust(now, &adjustment);
                }
            }
            Message::Configure(config, answer) => {
                // Commands and entries name back-ends by numbers, which it may give to others.
                self.carry_out(now);
                self.remove_the_rest();
                let done = self.configure(now, &config, |_, _| None);
                let _ = answer.send(done);
            }
            Message::Alive(answer) => {
                let _ = answer.send(());
            }
            Message::Stop => self.stopping = true,
            Message::Interface(interface, answer) => {
                // Whoever asked may be gone: then they are closed here.
                let _ = answer.send(self.change_interface(interface));
            }
        }
    }

    fn adjust(&mut self, now: Time, adjustment: &Adjustment) {
        let id = adjustment.backend;
        if let Some(response_time) = adjustment.response_time {
            self.admission.set_response_time(id, response_time);
        }
        if let Some(ceiling) = adjustment.ceiling {
            self.admission.set_ceiling(now, id, ceiling);
        }
        if let Some(state) = adjustment.state {
            self.admission.set_state(now, id, state);
        }
        match adjustment.reset {
            Some(true) => self.resets.begin(id),
            Some(false) => self.resets.cancel(id),
            None => {}
        }
    }

    /// Takes up a new view of the network: ways first, then the generation that makes the program
    /// ask anew.
    fn set_network(&mut self, view: Arc<NetworkView>) {
        self.network = view;
        for backend in &mut self.backends {
            backend.next_hop = way_to(&self.network, backend.address.ip());
        }
        self.tell_links();
        self.control.network_generation = self.network.generation;
        self.tell_program();
    }

    /// Takes up what has become of an interface: sockets first, then the way to them. Returns the
    /// sockets that are of no more use.
    fn change_interface(&mut self, now: InterfaceNow) -> Vec<XskSocket> {
        let closed = self.sockets.change(now);
        self.attached = self.sockets.attached().or(self.attached);
        if let Err(error) = self.sockets.register(&mut self.datapath) {
            tracing::error!(%error, "the program does not know the sockets");
        }
        match wakeups(&self.inbox, &self.datapath, &self.sockets) {
            Ok(wakeups) => self.wakeups = wakeups,
            // It looks every tick all the same.
            Err(error) => tracing::error!(%error, "requests on new sockets wake nobody"),
        }
        self.tell_links();
        closed
    }

    fn tell_links(&mut self) {
        if let Err(error) = self.datapath.set_links(&self.sockets.links(&self.network)) {
            tracing::error!(%error, "the program does not know the interfaces");
        }
    }

    /// Tells the program the time, by which it stamps flows as seen.
    fn tick(&mut self, now: Time) {
        let ticks = clock::ticks(now);
        if ticks != self.control.ticks {
            self.control.ticks = ticks;
            self.control.waiting = u32::from(self.admission.queued_count() > 0);
            self.tell_program();
            self.forget_gone();
            self.remove_the_rest();
            self.look_for_lost_events();
            self.tell_refusals(now);
            self.watch_floods(now);
        }
    }

    fn tell_refusals(&mut self, now: Time) {
        for (service, reason, count) in self.refusals.due(now) {
            // A service that is gone has no name any more.
            let Some(info) = self.services.iter().find(|info| info.id == service) else {
                continue;
            };
            tracing::warn!(
                service = &*info.name,
                requests = count,
                why = refusals::why(reason),
                "refused"
            );
        }
        let Some(flows) = self.install_refusals.due(now) else {
            return;
        };
        if let Some(errno) = self.install_refused {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::error!(flows, %error, "the kernel refuses flows: their requests are refused");
        }
    }

    fn tell_program(&mut self) {
        if let Err(error) = self.datapath.set_control(&self.control) {
            tracing::error!(%error, "the program does not hear the daemon");
        }
    }

    /// Sleeps until something comes in, a deadline is due or the next tick begins.
    fn wait(&self) {
        let now = clock::now();
        let tick = clock::of_ticks(clock::ticks(now).wrapping_add(1));
        let deadline = self
            .admission
            .poll_timeout()
            .map_or(tick, |deadline| deadline.min(tick));
        // Rounded up: woken early, it would turn idly until the deadline.
        let millis = deadline.since(now).as_nanos().div_ceil(1_000_000);
        let timeout = EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::ZERO);
        if self.wakeups.wait(timeout) {
            self.inbox.woken();
        }
    }
}

/// What is to wake the admission thread.
fn wakeups(inbox: &Inbox, datapath: &Datapath, sockets: &Sockets) -> nix::Result<Wakeups> {
    Wakeups::by(inbox, iter::once(datapath.events_fd()).chain(sockets.fds()))
}

/// The next hop to a back-end, or one that makes the host's stack find the way.
fn way_to(view: &NetworkView, address: IpAddr) -> NextHop {
    match view.way(address) {
        Some(Way::Via(next_hop)) => *next_hop,
        Some(&Way::HostStack { mtu, .. }) => NextHop {
            ifindex: NextHop::HOST_STACK,
            generation: view.generation,
            mtu,
            ..NextHop::UNKNOWN
        },
        Some(Way::Unresolved { .. }) | None => NextHop::UNKNOWN,
    }
}

/// What the program is told first.
fn first_control(generation: u32, says: Unattended, now: Time) -> Control {
    Control {
        layout: control::LAYOUT,
        network_generation: generation,
        ticks: clock::ticks(now),
        unattended: unattended(says),
        secret: floods::secret(),
        waiting: 0,
    }
}

/// What the program does with requests while no daemon runs.
const fn unattended(says: Unattended) -> u32 {
    match says {
        Unattended::Drop => control::UNATTENDED_DROP,
        Unattended::Pass => control::UNATTENDED_PASS,
    }
}
