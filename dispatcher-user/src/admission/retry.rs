//! What becomes of a request whose back-end has refused it or does not answer: it goes back to the
//! front of its queue, for another back-end. It has lost nothing but time.

use core::hash::BuildHasher;
use core::time::Duration;

use dispatcher_common::tcp::Phase;

use super::command::{BackendId, Command, ConnectFailure, FlowId, RefuseReason, RemoveReason};
use super::flows::FlowState;
use super::request::{Place, Request};
use super::{Admission, Time};

/// How long a request that waits is kept from the back-ends that it was put back from. A server
/// that is started anew is back within as much, and one that is not is asked no oftener by those
/// who wait.
pub const TRIED_FOR: Duration = Duration::from_secs(1);

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// The SYN of a half-open flow has failed: its back-end refused it, or has not answered it and
    /// the network says that it will not, or the time for that is over
    /// ([`Command::Unanswered`]). `request` is what came with [`Command::Admit`].
    ///
    /// The flow is removed, and the request goes to the front of its queue, as old as it is. When
    /// every back-end that is up has failed it, it is refused by RST; but a silent back-end is left
    /// the rest of the handshake's time then. Silence is counted once, however often it is said.
    /// Without `request` the client's retransmission, which has no flow any more, is a new request.
    pub fn handle_connect_failed(
        &mut self,
        now: Time,
        id: FlowId,
        failure: ConnectFailure,
        request: Option<R>,
    ) {
        let Some(flow) = self.flows.find(id) else {
            return;
        };
        if flow.state != FlowState::HalfOpen || flow.phase.has(Phase::ANSWERED) {
            return;
        }
        let (service, key, arrived) = (flow.service, flow.key, flow.arrived);
        let request = flow.isn.zip(request);
        let backend = &mut self.backends[flow.backend.0];
        let tried = flow.tried.and(backend.position);
        let reason = match failure {
            ConnectFailure::Refused => {
                backend.counters.refused += 1;
                RemoveReason::Refused
            }
            ConnectFailure::Silent => {
                backend.counters.silent += u64::from(!flow.silent);
                flow.silent = true;
                RemoveReason::Silent
            }
        };
        let is_up_elsewhere = self.services[service.0].selector.is_up_beyond(tried);
        if failure == ConnectFailure::Silent && !is_up_elsewhere {
            if now >= self.handshake_end(id.index) {
                self.remove_flow_at(now, id.index, RemoveReason::HandshakeTimeout);
                self.settle(now);
            }
            return;
        }
        let request = request.map(|(isn, request)| Request {
            service,
            key,
            isn,
            request,
            arrived,
            waited: None,
            tried,
            collisions: 0,
        });
        match request {
            Some(request) if is_up_elsewhere => {
                self.remove_flow_at(now, id.index, reason);
                self.put_back(now, request);
            }
            Some(request) => {
                // Before the flow: with its last one, a service that was removed is gone.
                self.refuse_for_backends(request);
                self.remove_flow_at(now, id.index, reason);
            }
            None => self.remove_flow_at(now, id.index, reason),
        }
        self.settle(now);
    }

    /// It is admitted at once where another back-end has room, since nobody is before it.
    fn put_back(&mut self, now: Time, request: Request<R>) {
        let id = request.service;
        let service = &mut self.services[id.0];
        service.counters.admitted -= 1;
        service.counters.retried += 1;
        if request.arrived + service.settings.queue_timeout <= now {
            service.counters.expired += 1;
            self.refuse(request, RefuseReason::Expired);
            return;
        }
        let open = service.selector.open(&self.groups);
        if let Some(backend) = self.pick(id, open, &request.key.src, request.tried) {
            if self.make_room(now) {
                self.services[id.0].counters.admit();
                self.admit(now, backend, request, None);
                return;
            }
            self.starve(id);
        }
        self.enqueue(now, request, Place::Front);
    }

    /// The back-ends themselves say no, so the client is told, whatever the queue's overflow says.
    fn refuse_for_backends(&mut self, request: Request<R>) {
        let counters = &mut self.services[request.service.0].counters;
        counters.admitted -= 1;
        counters.refused += 1;
        let Request {
            service,
            key,
            isn,
            request,
            ..
        } = request;
        self.commands.push_back(Command::Refuse {
            service,
            key,
            isn,
            request,
            reason: RefuseReason::BackendsRefused,
        });
    }

    /// The time in which a back-end answers is over, and no answer was told. Nobody is told of one
    /// before the handshake is finished.
    pub(super) fn ask_for_answer(&mut self, index: u32, backend: BackendId) {
        let flow = self.flows.at(index);
        if !flow.phase.has(Phase::ANSWERED) {
            self.commands.push_back(Command::Unanswered {
                flow: self.flows.id(index),
                key: flow.key,
                backend,
            });
        }
    }
}
