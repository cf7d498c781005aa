//! What becomes of a connection request: admitted, queued, or turned away; and of one that waits:
//! released, expired, or abandoned.

use core::hash::BuildHasher;
use core::time::Duration;

use dispatcher_common::addr::Addr;
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;

use super::backlog::Queued;
use super::command::{
    BackendId, Command, DiscardReason, GroupId, RefuseReason, RemoveReason, ServiceId,
};
use super::connection::RECLAIM_AFTER;
use super::flows::{Flow, FlowState, Links, Tried};
use super::keys::{Owner, OwnerKind};
use super::limiter::Slot;
use super::retry::TRIED_FOR;
use super::select::Open;
use super::service::Service;
use super::settings::Overflow;
use super::timer::TimerId;
use super::{Admission, Time};

/// A request on its way through.
pub(super) struct Request<R> {
    pub(super) service: ServiceId,
    pub(super) key: FlowKey,
    pub(super) isn: u32,
    pub(super) request: R,
    /// When it came.
    pub(super) arrived: Time,
    /// How long after that it came out of the queue.
    pub(super) waited: Option<Duration>,
    pub(super) tried: Tried,
    /// How often it has collided.
    pub(super) collisions: u8,
}

/// What a request has while it waits, and its flow takes over: a timer, and the key under this
/// owner.
pub(super) struct Held {
    timer: TimerId,
    owner: Owner,
}

/// Where a request stands that has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Behind all others.
    End,
    /// Before all others, behind those that came before it and were put back, too.
    Front,
}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// A SYN without a flow in the kernel's table.
    pub fn handle_syn(
        &mut self,
        now: Time,
        service: ServiceId,
        key: FlowKey,
        isn: u32,
        request: R,
    ) {
        if self
            .services
            .get(service.0)
            .is_none_or(|service| service.leaving)
        {
            self.discard(service, request, DiscardReason::NoService);
            return;
        }
        let hash = self.hash(&key);
        match self.find(hash, &key) {
            Some(OwnerKind::Request(index)) => {
                self.handle_repeated(now, index, isn, request);
                self.settle(now);
                return;
            }
            Some(OwnerKind::Flow(index)) if self.flows.at(index).state != FlowState::Lingering => {
                self.handle_raced(index, isn, request);
                return;
            }
            Some(OwnerKind::Flow(index)) => {
                self.remove_flow_at(now, index, RemoveReason::Replaced);
            }
            None => {}
        }
        self.receive(
            now,
            Request {
                service,
                key,
                isn,
                request,
                arrived: now,
                waited: None,
                tried: Tried::NONE,
                collisions: 0,
            },
        );
        self.settle(now);
    }

    /// A SYN whose 5-tuple waits already. The same request keeps its place and proves that its
    /// client is there. A client that asks anew has given the old request up, and its new one gets
    /// the old one's place: nobody stands behind it who had not stood behind it before.
    fn handle_repeated(&mut self, now: Time, index: u32, isn: u32, request: R) {
        let before = self.deadline(index);
        let queued = self.backlog.get_mut(index);
        let service = queued.service();
        let Service {
            counters, flood, ..
        } = &mut self.services[service.0];
        let (request, reason) = if queued.isn == isn {
            if queued.retransmissions == 0 {
                flood.prove();
            }
            queued.see(now);
            counters.retransmitted += 1;
            (request, DiscardReason::Retransmission)
        } else {
            counters.abandoned += 1;
            counters.received += 1;
            counters.queued += 1;
            if !queued.tried.is_empty() {
                self.ready.push_back(service);
            }
            (queued.renew(isn, request, now), DiscardReason::Replaced)
        };
        // A timer that fires too early finds out; only one that would be late is moved.
        if self.deadline(index) < before {
            self.arm_request(index);
        }
        self.discard(service, request, reason);
    }

    /// A SYN whose flow lives. It left the kernel before the flow was installed; or, with another
    /// number, the kernel may have lost the flow, which a probe will show.
    fn handle_raced(&mut self, index: u32, isn: u32, request: R) {
        let flow = self.flows.at(index);
        let service = flow.service;
        if flow.isn == Some(isn) && flow.state == FlowState::HalfOpen {
            self.services[service.0].counters.retransmitted += 1;
            self.discard(service, request, DiscardReason::Retransmission);
        } else {
            self.discard(service, request, DiscardReason::FlowLive);
            self.probe(index);
        }
    }

    fn receive(&mut self, now: Time, request: Request<R>) {
        let service = &mut self.services[request.service.0];
        service.counters.received += 1;
        let open = service.selector.open(&self.groups);
        if !service.queue.is_empty() || open.is_empty() {
            self.enqueue(now, request, Place::End);
        } else if !self.make_room(now) {
            self.turn_away(request, RefuseReason::TableFull);
        } else if let Some(backend) =
            self.pick(request.service, open, &request.key.src, request.tried)
        {
            self.services[request.service.0].counters.admit();
            self.admit(now, backend, request, None);
        }
    }

    /// The back-end whose request it is, among those of a service that are available and not tried.
    pub(super) fn pick(
        &mut self,
        service: ServiceId,
        open: Open,
        source: &Addr,
        tried: Tried,
    ) -> Option<BackendId> {
        let service = &mut self.services[service.0];
        let picked = service
            .selector
            .pick(open, source, &mut |position| tried.has(position))?;
        service.members.get(picked as usize).copied().flatten()
    }

    /// Takes a slot and a place in the flow table, which must have one. `held` is what the request
    /// had while it waited.
    pub(super) fn admit(
        &mut self,
        now: Time,
        backend: BackendId,
        request: Request<R>,
        held: Option<Held>,
    ) {
        let id = self.flows.next_id();
        let owner = Owner::new(OwnerKind::Flow(id.index));
        let hash = self.hash(&request.key);
        let timer = match held {
            Some(held) => {
                self.index.replace(hash, held.owner, owner);
                self.timers.hand_over(held.timer, owner);
                held.timer
            }
            None => {
                self.index.insert(hash, owner);
                self.timers.add(owner)
            }
        };
        let inserted = self.flows.insert(Flow {
            key: request.key,
            service: request.service,
            backend,
            isn: Some(request.isn),
            generation: id.generation,
            phase: Phase::default(),
            silent: false,
            state: FlowState::HalfOpen,
            timer,
            admitted_at: now,
            changed_at: now,
            arrived: request.arrived,
            has_waited: request.waited.is_some(),
            collisions: request.collisions,
            tried: request.tried,
            links: Links::NONE,
        });
        debug_assert!(inserted.is_ok(), "room was made before");
        let answer = self.services[request.service.0].answer_in();
        self.timers.arm(timer, now + answer);

        let taken = &mut self.backends[backend.0];
        taken.flows += 1;
        taken.counters.admitted += 1;
        self.take_slot(now, backend, Slot::HalfOpen);
        self.commands.push_back(Command::Admit {
            flow: id,
            service: request.service,
            backend,
            key: request.key,
            isn: request.isn,
            request: request.request,
            waited: request.waited,
        });
    }

    pub(super) fn enqueue(&mut self, now: Time, request: Request<R>, place: Place) {
        let service = &self.services[request.service.0];
        let is_full =
            service.queue.len() >= service.settings.queue_capacity || self.backlog.is_full();
        if is_full && place == Place::End {
            self.turn_away(request, RefuseReason::QueueFull);
            return;
        }
        if !service.may_wait_from(&request.key.src) {
            self.turn_away(request, RefuseReason::PerSource);
            return;
        }
        if is_full && !self.make_way(now, request.service) {
            self.turn_away(request, RefuseReason::QueueFull);
            return;
        }
        let service = &mut self.services[request.service.0];
        let (id, key) = (request.service, request.key);
        let owner = Owner::new(OwnerKind::Request(self.backlog.next_index()));
        let timer = self.timers.add(owner);
        let mut queued = Queued::new(request, timer);
        let pushed = match place {
            Place::End => self.backlog.push(&mut service.queue, queued),
            Place::Front => {
                queued.put_back(now, now + TRIED_FOR);
                self.backlog.push_front(&mut service.queue, queued)
            }
        };
        if let Ok(index) = pushed {
            service.counters.queued += 1;
            service.count_source(key.src);
            service.window_begun.get_or_insert(now);
            service.queue_level.set(now, service.queue.len());
            self.index.insert(self.hash(&key), owner);
            self.arm_request(index);
            self.wait_for_groups(id);
        }
    }

    /// Whoever came last makes way for a request that is put back, which is older: there would
    /// have been no place for the one, had the other waited. Tells whether there was one.
    fn make_way(&mut self, now: Time, id: ServiceId) -> bool {
        let last = self.services[id.0].queue.last();
        let Some(last) = last.and_then(|index| self.dequeue(now, index)) else {
            return false;
        };
        self.turn_away(last.into(), RefuseReason::QueueFull);
        true
    }

    /// Takes a request out of the queue, with all that was kept for it.
    pub(super) fn dequeue(&mut self, now: Time, index: u32) -> Option<Queued<R>> {
        let (queued, held) = self.take_out(now, index)?;
        self.timers.remove(held.timer);
        self.index.remove(self.hash(&queued.key), held.owner);
        Some(queued)
    }

    /// Takes a request out of the queue, and tells what it still has: its timer and its key.
    fn take_out(&mut self, now: Time, index: u32) -> Option<(Queued<R>, Held)> {
        let id = self.backlog.get(index).service();
        let service = &mut self.services[id.0];
        let queued = self.backlog.remove(&mut service.queue, index)?;
        if !queued.tried.is_empty() {
            // Those behind it may go where it could not.
            self.ready.push_back(id);
        }
        service.uncount_source(&queued.key.src);
        service.queue_level.set(now, service.queue.len());
        let held = Held {
            timer: queued.timer,
            owner: Owner::new(OwnerKind::Request(index)),
        };
        Some((queued, held))
    }

    /// Whichever comes first, the end of a request's wait or of the hope that its client is there.
    fn end_of_wait(&self, index: u32) -> Time {
        let queued = self.backlog.get(index);
        let timeout = self.services[queued.service().0].settings.queue_timeout;
        queued.owed_by().min(queued.enqueued_at + timeout)
    }

    /// That, or when the back-ends that it was put back from are as good as others again.
    fn deadline(&self, index: u32) -> Time {
        let end = self.end_of_wait(index);
        let retry = self.backlog.get(index).tried_until();
        retry.map_or(end, |retry| retry.min(end))
    }

    /// Sets a request's timer to its deadline.
    pub(super) fn arm_request(&mut self, index: u32) {
        self.timers
            .arm(self.backlog.get(index).timer, self.deadline(index));
    }

    /// A request's timer is due. Tells whether that changed anything: if its client has shown
    /// itself since the timer was set, it has a later deadline.
    pub(super) fn request_due(&mut self, now: Time, index: u32) -> bool {
        if self.deadline(index) > now {
            self.arm_request(index);
            return false;
        }
        if self.end_of_wait(index) > now {
            let queued = self.backlog.get_mut(index);
            queued.forget_tried();
            let service = queued.service();
            self.arm_request(index);
            self.ready.push_back(service);
            return true;
        }
        let Some(queued) = self.dequeue(now, index) else {
            return false;
        };
        let service = queued.service();
        let Service {
            counters, settings, ..
        } = &mut self.services[service.0];
        if queued.enqueued_at + settings.queue_timeout > now {
            counters.abandoned += 1;
            self.discard(service, queued.request, DiscardReason::Abandoned);
        } else {
            counters.expired += 1;
            self.refuse(queued.into(), RefuseReason::Expired);
        }
        true
    }

    /// Lets requests out of a queue, the oldest first, while a back-end is available. One whose
    /// time is over is not admitted, even if its timer has yet to fire.
    pub(super) fn release(&mut self, now: Time, id: ServiceId) {
        while let Some(service) = self.services.get(id.0)
            && let Some(index) = service.queue.first()
        {
            let open = service.selector.open(&self.groups);
            if open.is_empty() {
                self.wait_for_groups(id);
                return;
            }
            if self.timers.is_due(self.backlog.get(index).timer, now) {
                self.request_due(now, index);
                continue;
            }
            if !self.make_room(now) {
                self.starve(id);
                return;
            }
            let (source, tried) = (
                self.backlog.get(index).key.src,
                self.backlog.get(index).tried,
            );
            let Some(backend) = self.pick(id, open, &source, tried) else {
                // It was put back from all that are available. Nobody overtakes it: those are
                // asked again by one request at a time.
                self.wait_for_groups(id);
                return;
            };
            let Some((queued, held)) = self.take_out(now, index) else {
                return;
            };
            self.services[id.0].counters.admit();
            let waited = Some(now.since(queued.enqueued_at));
            let request = Request {
                waited,
                ..queued.into()
            };
            self.admit(now, backend, request, Some(held));
        }
    }

    /// Notes of which full groups a service waits for room.
    fn wait_for_groups(&mut self, id: ServiceId) {
        let mut groups = self.services[id.0].selector.held_up_by(&self.groups);
        while groups != 0 {
            self.hold_up(id, GroupId(groups.trailing_zeros()));
            groups &= groups - 1;
        }
    }

    /// The flow that may give up its place in the table: the one that ended first, but not while
    /// its last packets are in flight.
    fn reclaimable(&self, now: Time) -> Option<u32> {
        let index = self.flows.lingered_longest()?;
        (now.since(self.flows.at(index).changed_at) >= RECLAIM_AFTER).then_some(index)
    }

    /// Whether the flow table has a place, or can have.
    pub(super) fn has_room(&self, now: Time) -> bool {
        !self.flows.is_full() || self.reclaimable(now).is_some()
    }

    /// Sees to a free place in the flow table.
    pub(super) fn make_room(&mut self, now: Time) -> bool {
        if self.flows.is_full()
            && let Some(index) = self.reclaimable(now)
        {
            self.remove_flow_at(now, index, RemoveReason::Reclaimed);
        }
        !self.flows.is_full()
    }

    /// Notes that a service could release a request if the flow table had room.
    pub(super) fn starve(&mut self, id: ServiceId) {
        let service = &mut self.services[id.0];
        if !service.starved {
            service.starved = true;
            self.starved.push_back(id);
        }
    }

    /// Turns away all that wait for a service.
    pub(super) fn turn_away_queue(&mut self, now: Time, id: ServiceId) {
        while let Some(index) = self.services[id.0].queue.first() {
            let Some(queued) = self.dequeue(now, index) else {
                return;
            };
            self.turn_away(queued.into(), RefuseReason::ServiceRemoved);
        }
    }

    /// Counts a request as refused, and refuses it.
    pub(super) fn turn_away(&mut self, request: Request<R>, reason: RefuseReason) {
        self.services[request.service.0].counters.refused += 1;
        self.refuse(request, reason);
    }

    pub(super) fn refuse(&mut self, request: Request<R>, reason: RefuseReason) {
        let Request {
            service,
            key,
            isn,
            request,
            ..
        } = request;
        match self.services[service.0].overflow() {
            Overflow::Refuse => self.commands.push_back(Command::Refuse {
                service,
                key,
                isn,
                request,
                reason,
            }),
            Overflow::Drop => self.discard(service, request, DiscardReason::Refused(reason)),
        }
    }

    pub(super) fn discard(&mut self, service: ServiceId, request: R, reason: DiscardReason) {
        self.commands.push_back(Command::Discard {
            service,
            request,
            reason,
        });
    }
}

impl<R> From<Queued<R>> for Request<R> {
    fn from(queued: Queued<R>) -> Self {
        Self {
            service: queued.service(),
            key: queued.key,
            isn: queued.isn,
            request: queued.request,
            arrived: queued.enqueued_at,
            waited: None,
            // What it met before it waited is old by now.
            tried: Tried::NONE,
            collisions: 0,
        }
    }
}
