//! What becomes of an admitted flow: established, closing, ended; missed, silent, adopted, removed.

use core::fmt;
use core::hash::BuildHasher;
use core::time::Duration;

use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;

use super::command::{
    BackendId, Command, FlowId, InstallFailure, RefuseReason, RemoveReason, ServiceId,
};
use super::flows::{COLLISIONS_MAX, Flow, FlowState, Links, Tried};
use super::keys::{Owner, OwnerKind};
use super::limiter::Slot;
use super::request::Request;
use super::{Admission, Time};

/// How long a flow that has ended is still translated: a last acknowledgement that was lost is
/// asked for again by a retransmitted FIN, at most a few round trips or timeouts later.
pub const LINGER: Duration = Duration::from_secs(1);

/// How long it is, even if its place in the table is wanted: packets of it may be in a receive
/// queue, and its entries in use on another processor.
pub const RECLAIM_AFTER: Duration = Duration::from_millis(10);

/// When a probe that was not answered is repeated.
pub const PROBE_RETRY: Duration = Duration::from_secs(1);

/// Why a flow cannot be adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdoptError {
    /// The service has no such back-end.
    NoBackend,
    /// The index is beyond the flow table's capacity, which is told; or the generation is 0.
    OutOfBounds(u32),
    /// The index is in use.
    IndexInUse,
    /// The 5-tuple is in use.
    KeyInUse,
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackend => f.write_str("its back-end is not one of its service's"),
            Self::OutOfBounds(capacity) => {
                write!(
                    f,
                    "its index is not below the flow capacity of {capacity}, or its generation is 0"
                )
            }
            Self::IndexInUse => f.write_str("another flow has its index"),
            Self::KeyInUse => f.write_str("another flow or request has its 5-tuple"),
        }
    }
}

impl core::error::Error for AdoptError {}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// What happened on a flow so far, from an event or from the map itself. Phases that are known
    /// and flows that are not change nothing.
    pub fn handle_phase(&mut self, now: Time, id: FlowId, phase: Phase) {
        let Some(flow) = self.flows.find(id) else {
            return;
        };
        let answers = phase.has(Phase::ANSWERED) && !flow.phase.has(Phase::ANSWERED);
        flow.phase = flow.phase.with(phase);
        let (before, after) = (flow.state, FlowState::of(flow.phase));
        if after <= before {
            if answers && before == FlowState::HalfOpen {
                // From now on only the client is waited for.
                let end = self.handshake_end(id.index);
                self.timers.arm(self.flows.at(id.index).timer, end.max(now));
            }
            return;
        }
        flow.state = after;
        flow.changed_at = now;
        let (timer, backend, service) = (flow.timer, flow.backend, flow.service);
        let waited = flow.has_waited;
        let settings = self.services[service.0].settings;
        let mut slot = before.slot();
        // The end may be all that is heard of a connection that was established.
        let established = after != FlowState::Lingering || flow.phase.is_established();
        if before == FlowState::HalfOpen && established {
            self.backends[backend.0].limiter.establish();
            slot = Some(Slot::Active);
            let flood = &mut self.services[service.0].flood;
            if waited {
                flood.prove();
            }
            if flood.is_on() {
                self.refresh(backend);
            }
        }
        if after == FlowState::Lingering {
            self.timers.arm(timer, now + LINGER);
            self.flows.linger(id.index);
            self.end_connection(now, backend, slot);
        } else {
            let silence = if after == FlowState::Closing {
                settings.closing
            } else {
                settings.idle
            };
            self.timers.arm(timer, now + silence);
        }
        self.settle(now);
    }

    /// When a flow was last seen: the answer to [`Command::Probe`]. A flow that was silent for too
    /// long is removed.
    pub fn handle_activity(&mut self, now: Time, id: FlowId, last_seen: Time) {
        let Some(flow) = self.flows.find(id) else {
            return;
        };
        let settings = &self.services[flow.service.0].settings;
        let (silence, reason) = match flow.state {
            FlowState::Established => (settings.idle, RemoveReason::IdleTimeout),
            FlowState::Closing => (settings.closing, RemoveReason::ClosingTimeout),
            FlowState::HalfOpen | FlowState::Lingering => return,
        };
        // A state is entered by a packet: it counts even if the map was read before it.
        let deadline = last_seen.max(flow.changed_at).min(now) + silence;
        if deadline > now {
            self.timers.arm(flow.timer, deadline);
        } else {
            self.remove_flow_at(now, id.index, reason);
            self.settle(now);
        }
    }

    /// The map does not hold a flow that it should: the flow is over.
    pub fn handle_missing(&mut self, now: Time, id: FlowId) {
        self.remove(now, id, RemoveReason::Missing);
    }

    /// Ends a flow because an operator wants so.
    pub fn remove_flow(&mut self, now: Time, id: FlowId) {
        self.remove(now, id, RemoveReason::Requested);
    }

    fn remove(&mut self, now: Time, id: FlowId, reason: RemoveReason) {
        if self.flows.find(id).is_some() {
            self.remove_flow_at(now, id.index, reason);
            self.settle(now);
        }
    }

    /// The entries of an admitted flow could not be installed; its SYN was not sent. After a
    /// collision the request goes to a back-end that it has not met; if none is available, or the
    /// map is full, it is refused.
    pub fn handle_install_failed(
        &mut self,
        now: Time,
        id: FlowId,
        failure: InstallFailure,
        request: R,
    ) {
        if self.flows.find(id).is_none() {
            return;
        }
        let Some(flow) = self.forget_flow(id.index) else {
            return;
        };
        if let Some(slot) = flow.state.slot() {
            // It was not given to the back-end after all; nor has it ended there.
            self.backends[flow.backend.0].counters.admitted -= u64::from(flow.isn.is_some());
            self.give_back_slot(now, flow.backend, slot);
        }
        if let Some(isn) = flow.isn {
            let waited = flow.admitted_at.since(flow.arrived);
            let request = Request {
                service: flow.service,
                key: flow.key,
                isn,
                request,
                arrived: flow.arrived,
                waited: flow.has_waited.then_some(waited),
                tried: flow.tried.and(self.backends[flow.backend.0].position),
                collisions: flow.collisions + 1,
            };
            match failure {
                InstallFailure::Collision => self.try_another(now, request),
                InstallFailure::TableFull => self.unadmit(request, RefuseReason::TableFull),
            }
        }
        self.retire(flow.backend);
        self.settle(now);
    }

    fn try_another(&mut self, now: Time, request: Request<R>) {
        let service = request.service;
        let open = self.services[service.0].selector.open(&self.groups);
        if request.collisions < COLLISIONS_MAX
            && let Some(backend) = self.pick(service, open, &request.key.src, request.tried)
        {
            self.admit(now, backend, request, None);
        } else {
            self.unadmit(request, RefuseReason::Collision);
        }
    }

    fn unadmit(&mut self, request: Request<R>, reason: RefuseReason) {
        self.services[request.service.0].counters.admitted -= 1;
        self.turn_away(request, reason);
    }

    /// Takes up a flow that the kernel's table held when this daemon started, with the identity
    /// that its entries have. It counts against its back-end's ceiling, even above it. Its times
    /// start anew.
    ///
    /// # Errors
    ///
    /// When the table of flows or the configuration has no place for it; then nothing changes.
    pub fn adopt(
        &mut self,
        now: Time,
        service: ServiceId,
        backend: BackendId,
        key: FlowKey,
        id: FlowId,
        phase: Phase,
    ) -> Result<(), AdoptError> {
        if self
            .backends
            .get(backend.0)
            .is_none_or(|known| known.service != service)
        {
            return Err(AdoptError::NoBackend);
        }
        if id.index >= self.flows.capacity() || id.generation == 0 {
            return Err(AdoptError::OutOfBounds(self.flows.capacity()));
        }
        if self.flows.get(id.index).is_some() {
            return Err(AdoptError::IndexInUse);
        }
        let hash = self.hash(&key);
        if self.find(hash, &key).is_some() {
            return Err(AdoptError::KeyInUse);
        }
        let owner = Owner::new(OwnerKind::Flow(id.index));
        let timer = self.timers.add(owner);
        let adopted = Flow {
            key,
            service,
            backend,
            isn: None,
            generation: id.generation,
            phase: Phase::default(),
            silent: false,
            state: FlowState::HalfOpen,
            timer,
            admitted_at: now,
            changed_at: now,
            arrived: now,
            has_waited: false,
            collisions: 0,
            tried: Tried::NONE,
            links: Links::NONE,
        };
        if self.flows.insert_at(id.index, adopted).is_err() {
            self.timers.remove(timer);
            return Err(AdoptError::IndexInUse);
        }
        self.index.insert(hash, owner);
        self.timers
            .arm(timer, now + self.services[service.0].settings.handshake);
        self.backends[backend.0].flows += 1;
        self.take_slot(now, backend, Slot::HalfOpen);
        self.handle_phase(now, id, phase);
        Ok(())
    }

    /// The time of a flow's state is over. Tells whether that changed anything.
    pub(super) fn flow_due(&mut self, now: Time, index: u32) -> bool {
        let flow = self.flows.at(index);
        match flow.state {
            FlowState::HalfOpen => {
                let end = self.handshake_end(index);
                if now < end || !flow.is_answer_known() {
                    let again = if now < end { end } else { now + PROBE_RETRY };
                    self.timers.arm(flow.timer, again);
                    self.ask_for_answer(index, flow.backend);
                    return false;
                }
                self.remove_flow_at(now, index, RemoveReason::HandshakeTimeout);
            }
            FlowState::Lingering => self.remove_flow_at(now, index, RemoveReason::Ended),
            FlowState::Established | FlowState::Closing => {
                self.timers.arm(flow.timer, now + PROBE_RETRY);
                self.probe(index);
                return false;
            }
        }
        true
    }

    /// When the time of a flow's handshake is over.
    pub(super) fn handshake_end(&self, index: u32) -> Time {
        let flow = self.flows.at(index);
        flow.admitted_at + self.services[flow.service.0].handshake_in()
    }

    pub(super) fn probe(&mut self, index: u32) {
        let flow = self.flows.at(index);
        self.commands.push_back(Command::Probe {
            flow: self.flows.id(index),
            key: flow.key,
            backend: flow.backend,
        });
    }

    /// Removes a flow from the table and asks for the same in the kernel's.
    pub(super) fn remove_flow_at(&mut self, now: Time, index: u32, reason: RemoveReason) {
        let id = self.flows.id(index);
        let Some(flow) = self.forget_flow(index) else {
            return;
        };
        self.end_connection(now, flow.backend, flow.state.slot());
        self.commands.push_back(Command::Remove {
            flow: id,
            key: flow.key,
            backend: flow.backend,
            reason,
        });
        self.retire(flow.backend);
    }

    /// A connection is over: its slot, if it held one, is free.
    fn end_connection(&mut self, now: Time, backend: BackendId, slot: Option<Slot>) {
        let Some(slot) = slot else { return };
        let counters = &mut self.backends[backend.0].counters;
        match slot {
            Slot::HalfOpen => counters.failed += 1,
            Slot::Active => counters.ended += 1,
        }
        self.give_back_slot(now, backend, slot);
    }

    /// Takes a flow out, with all that was kept for it but its slot.
    fn forget_flow(&mut self, index: u32) -> Option<Flow> {
        let flow = self.flows.remove(index)?;
        self.timers.remove(flow.timer);
        let owner = Owner::new(OwnerKind::Flow(index));
        self.index.remove(self.hash(&flow.key), owner);
        self.backends[flow.backend.0].flows -= 1;
        Some(flow)
    }
}
