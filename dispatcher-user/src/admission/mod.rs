//! Admission: which connection request goes to which back-end, and when. A pure state machine: time
//! is an argument, effects are [`Command`]s that its caller polls and carries out. No clock, no
//! input or output, no log.
//!
//! It is driven by `handle_…(now, …)`. After each of them, poll [`Admission::poll_command`] until
//! there is no more, and call [`Admission::handle_timeout`] no later than
//! [`Admission::poll_timeout`] says. `now` never goes back.
//!
//! What always holds between two calls:
//! - slots held at a back-end were below its ceiling whenever one was taken by a request, and so
//!   were those held in its group, if it has one;
//! - a request waits only while no back-end of its service is available, or the flow table is full;
//!   a back-end is available while it is up, has room, and its group has room; but to the request
//!   at the front it is not for a second after that was put back from it;
//! - what a group holds is what its back-ends hold, removed ones with flows included;
//! - of a back-end, admitted = ended + failed + held, but for flows that were adopted;
//! - of a service, received = admitted + refused + expired + abandoned + those that wait;
//! - a 5-tuple belongs to at most one record, a waiting request or a flow.
//!
//! Nothing on the path of a request or of an event looks at all back-ends, all of a group or all of
//! a queue; only a hash table is made anew when a back-end went up or down.

mod time;
mod settings;
mod command;
mod slab;
mod keys;
mod timer;
mod window;
mod limiter;
mod group;
mod select;
mod backlog;
mod flows;
mod service;
mod configure;
mod request;
mod connection;
mod retry;
mod flood;
mod view;
#[cfg(test)]
mod tests;

use core::hash::BuildHasher;
use std::collections::VecDeque;

use dispatcher_common::addr::Addr;
use dispatcher_common::flow::FlowKey;

use backlog::Backlog;
use flows::Flows;
use group::Groups;
use keys::{KeyIndex, Owner, OwnerKind};
use limiter::Slot;
use service::{Backend, Service};
use slab::Slab;
use timer::{Step, Wheel};

pub use command::{
    BackendId, Command, ConnectFailure, DiscardReason, FlowId, GroupId, InstallFailure,
    RefuseReason, RemoveReason, ServiceId,
};
pub use configure::{AddError, GroupInUse};
pub use connection::{AdoptError, LINGER, PROBE_RETRY, RECLAIM_AFTER};
pub use flood::{FloodChange, FloodView};
pub use flows::FlowState;
pub use group::GROUPS_MAX;
pub use retry::TRIED_FOR;
pub use select::GROUPS_PER_SERVICE_MAX;
pub use service::ServiceCounters;
pub use settings::{
    BackendSettings, BackendState, Balance, Ceiling, FloodMode, FloodSettings, Overflow,
    ServiceSettings, WEIGHT_MAX,
};
pub use time::Time;
pub use view::{BackendView, FlowView, GroupView, QueuedView, ServiceView};
pub use window::{BackendWindow, ServiceWindow};

/// Most timers that one [`Admission::handle_timeout`] looks at: a crowd that is due at once must
/// not hold up the packets that arrive meanwhile.
pub const TIMEOUT_STEPS_MAX: u32 = 4096;

/// The state machine. `R` is what the caller wants to have back with a request, `S` hashes
/// 5-tuples: clients choose these, so it should be keyed.
#[derive(Clone, Debug)]
pub struct Admission<R, S> {
    services: Slab<Service<S>>,
    backends: Slab<Backend>,
    groups: Groups,
    flows: Flows,
    backlog: Backlog<R>,
    index: KeyIndex,
    timers: Wheel,
    hasher: S,
    commands: VecDeque<Command<R>>,
    /// Services that may release a request; empty between two calls.
    ready: VecDeque<ServiceId>,
    /// Services that could not because the flow table was full.
    starved: VecDeque<ServiceId>,
    /// Nothing is released: a change of several parts is under way.
    held: bool,
}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// Without services. At most `flow_capacity` flows, those that linger included.
    #[must_use]
    pub fn new(flow_capacity: u32, hasher: S) -> Self {
        let flow_capacity = flow_capacity.min(keys::RECORDS_MAX);
        let mut admission = Self {
            services: Slab::new(dispatcher_common::maps::SERVICES_MAX),
            backends: Slab::new(dispatcher_common::maps::BACKENDS_MAX),
            groups: Groups::new(),
            flows: Flows::new(flow_capacity),
            backlog: Backlog::new(),
            index: KeyIndex::new(),
            timers: Wheel::new(flow_capacity),
            hasher,
            commands: VecDeque::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            held: false,
        };
        admission.set_queue_capacity();
        admission
    }

    /// The next effect to carry out.
    pub fn poll_command(&mut self) -> Option<Command<R>> {
        self.commands.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest. It may be before anything is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Does what is due by `now`, at most [`TIMEOUT_STEPS_MAX`] of it: more is left exactly when
    /// [`Self::poll_timeout`] is not after `now`. Nothing is done early, and what is done in time
    /// is done at most a millisecond late.
    pub fn handle_timeout(&mut self, now: Time) {
        for _ in 0..TIMEOUT_STEPS_MAX {
            match self.timers.step(now) {
                Step::Fired(owner) => {
                    let changed = match owner.kind() {
                        OwnerKind::Request(index) => self.request_due(now, index),
                        OwnerKind::Flow(index) => self.flow_due(now, index),
                    };
                    if changed {
                        self.settle(now);
                    }
                }
                Step::Moved => {}
                Step::Idle => break,
            }
        }
    }

    /// Releases what may be released, at the end of every input. Services that the full flow table
    /// or a full group held up have their turn as soon as that has room, the longest held up first.
    fn settle(&mut self, now: Time) {
        if self.held {
            return;
        }
        loop {
            while let Some(service) = self.ready.pop_front() {
                self.release(now, service);
            }
            if !self.starved.is_empty()
                && self.has_room(now)
                && let Some(id) = self.starved.pop_front()
            {
                if let Some(service) = self.services.get_mut(id.0) {
                    service.starved = false;
                }
                self.ready.push_back(id);
            } else if let Some((group, id)) = self.groups.next() {
                self.not_held_up(id, group);
                self.ready.push_back(id);
            } else {
                return;
            }
        }
    }

    /// Tells the selector how a back-end stands, after anything that bears on it.
    fn refresh(&mut self, id: BackendId) {
        let backend = &self.backends[id.0];
        let service = &mut self.services[backend.service.0];
        let standing = backend.standing();
        service.selector.set(backend.position, standing);
        if standing.available && !service.queue.is_empty() {
            match backend.settings.group {
                None => self.ready.push_back(backend.service),
                Some(group) => self.hold_up(backend.service, group),
            }
        }
    }

    /// Notes that a service could release a request if a group had room. Also where it has: others
    /// may have waited longer for it.
    fn hold_up(&mut self, id: ServiceId, group: GroupId) {
        let service = &mut self.services[id.0];
        if service.held_up >> group.0 & 1 == 0 {
            service.held_up |= 1 << group.0;
            self.groups.wait(group, id);
        }
    }

    fn not_held_up(&mut self, id: ServiceId, group: GroupId) {
        if let Some(service) = self.services.get_mut(id.0) {
            service.held_up &= !(1 << group.0);
        }
    }

    /// Takes a slot at a back-end, and one in its group.
    fn take_slot(&mut self, now: Time, id: BackendId, slot: Slot) {
        let backend = &mut self.backends[id.0];
        backend.limiter.take(now, slot);
        self.groups.take(backend.settings.group);
        self.refresh(id);
    }

    /// Gives a slot back that a flow has held at a back-end.
    fn give_back_slot(&mut self, now: Time, id: BackendId, slot: Slot) {
        let backend = &mut self.backends[id.0];
        backend.limiter.give_back(now, slot);
        self.groups.give_back(backend.settings.group);
        self.refresh(id);
    }

    /// The hash of a 5-tuple. Its words are taken in faster than its bytes.
    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        let word = |addr: &Addr| u128::from_ne_bytes(*addr.bytes());
        let ports = (key.src_port.bytes(), key.dst_port.bytes());
        let ([a, b], [c, d]) = ports;
        let ports = u32::from_ne_bytes([a, b, c, d]);
        self.hasher
            .hash_one((word(&key.src), word(&key.dst), ports))
    }

    fn find(&self, hash: u64, key: &FlowKey) -> Option<OwnerKind> {
        let found = self.index.find(hash, |owner| match owner.kind() {
            OwnerKind::Request(index) => self.backlog.get(index).key == *key,
            OwnerKind::Flow(index) => self.flows.at(index).key == *key,
        });
        found.map(Owner::kind)
    }
}
