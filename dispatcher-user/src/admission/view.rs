//! What can be seen from outside, in the order of numbers or of waiting. Reading changes nothing.

use core::hash::BuildHasher;

use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;

use super::command::{BackendId, FlowId, GroupId, ServiceId};
use super::flood::FloodView;
use super::flows::{Flow, FlowState};
use super::group::Group;
use super::service::{Backend, Service, ServiceCounters};
use super::settings::{BackendSettings, BackendState, ServiceSettings};
use super::{Admission, Time};

/// A service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceView {
    /// Its number.
    pub id: ServiceId,
    /// Its settings.
    pub settings: ServiceSettings,
    /// What became of its requests.
    pub counters: ServiceCounters,
    /// Requests that wait.
    pub queue_depth: u32,
    /// When the request at the head of the queue began to wait.
    pub oldest: Option<Time>,
    /// Removed; its flows go on.
    pub leaving: bool,
    /// Its floods.
    pub flood: FloodView,
}

/// A back-end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendView {
    /// Its number.
    pub id: BackendId,
    /// Its service.
    pub service: ServiceId,
    /// Its settings.
    pub settings: BackendSettings,
    /// Whether it takes flows.
    pub state: BackendState,
    /// Ceiling in force.
    pub ceiling: u32,
    /// Least ceiling, as clamped.
    pub ceiling_min: u32,
    /// Greatest ceiling, as clamped below the capacity.
    pub ceiling_max: u32,
    /// Handshakes that are not finished.
    pub half_open: u32,
    /// Established and closing connections.
    pub active: u32,
    /// Most of both ever held at once.
    pub active_max: u32,
    /// The group whose ceiling it shares.
    pub group: Option<GroupId>,
    /// Connections given to it, since it was added.
    pub admitted: u64,
    /// Connections that were established and have ended.
    pub ended: u64,
    /// Connections that are over and never were established.
    pub failed: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Connections that it did not answer in time.
    pub silent: u64,
    /// Flows in the table, those that linger included: it is not gone before they are.
    pub flows: u32,
    /// Removed; its flows go on.
    pub leaving: bool,
}

/// A group of back-ends that share a ceiling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupView {
    /// Its number.
    pub id: GroupId,
    /// Most slots in use over all of its back-ends.
    pub ceiling: u32,
    /// Slots in use, at removed back-ends too.
    pub held: u32,
    /// Most slots ever in use at once.
    pub held_max: u32,
}

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueuedView<'a, R> {
    /// Client to service.
    pub key: FlowKey,
    /// Of the client's SYN.
    pub isn: u32,
    /// When it began to wait.
    pub enqueued_at: Time,
    /// When its SYN was last seen, to the millisecond.
    pub last_seen: Time,
    /// How often its SYN was seen again.
    pub retransmissions: u16,
    /// The caller's.
    pub request: &'a R,
}

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowView {
    /// Its identity.
    pub id: FlowId,
    /// Client to service.
    pub key: FlowKey,
    /// Its service.
    pub service: ServiceId,
    /// Where it goes.
    pub backend: BackendId,
    /// What is known to have happened on it.
    pub phase: Phase,
    /// Where it stands.
    pub state: FlowState,
    /// When it was admitted or adopted.
    pub admitted_at: Time,
    /// When it came to where it stands.
    pub since: Time,
}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// All services, removed ones with flows included.
    pub fn services(&self) -> impl Iterator<Item = ServiceView> {
        self.services
            .iter()
            .map(|(id, service)| self.service_view(ServiceId(id), service))
    }

    /// A service.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<ServiceView> {
        self.services
            .get(id.0)
            .map(|service| self.service_view(id, service))
    }

    /// All back-ends, removed ones with flows included.
    pub fn backends(&self) -> impl Iterator<Item = BackendView> {
        self.backends
            .iter()
            .map(|(id, backend)| backend_view(BackendId(id), backend))
    }

    /// A back-end; none once it was removed and its last flow is gone.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<BackendView> {
        self.backends
            .get(id.0)
            .map(|backend| backend_view(id, backend))
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = GroupView> {
        self.groups.iter().map(|(id, group)| group_view(id, group))
    }

    /// A group.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<GroupView> {
        self.groups.get(id).map(|group| group_view(id, group))
    }

    /// The requests that wait for a service, in the order in which they will be released.
    pub fn queue(&self, id: ServiceId) -> impl Iterator<Item = QueuedView<'_, R>> {
        let service = self.services.get(id.0).into_iter();
        service
            .flat_map(|service| self.backlog.iter(&service.queue))
            .map(|(_, queued)| QueuedView {
                key: queued.key,
                isn: queued.isn,
                enqueued_at: queued.enqueued_at,
                last_seen: queued.last_seen(),
                retransmissions: queued.retransmissions,
                request: &queued.request,
            })
    }

    /// All flows, those that linger included.
    pub fn flows(&self) -> impl Iterator<Item = FlowView> {
        self.flows
            .iter()
            .map(|(index, flow)| flow_view(index, flow))
    }

    /// A flow; none once it was removed, or another has its index.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<FlowView> {
        let flow = self.flows.get(id.index)?;
        (flow.generation == id.generation).then(|| flow_view(id.index, flow))
    }

    /// The flow at an index of the table.
    #[must_use]
    pub fn flow_at(&self, index: u32) -> Option<FlowView> {
        self.flows.get(index).map(|flow| flow_view(index, flow))
    }

    /// Flows in the table, those that linger included.
    #[must_use]
    pub const fn flow_count(&self) -> u32 {
        self.flows.len()
    }

    /// Most flows in the table.
    #[must_use]
    pub const fn flow_capacity(&self) -> u32 {
        self.flows.capacity()
    }

    /// Requests that wait, of all services.
    #[must_use]
    pub const fn queued_count(&self) -> u32 {
        self.backlog.len()
    }

    fn service_view(&self, id: ServiceId, service: &Service<S>) -> ServiceView {
        ServiceView {
            id,
            settings: service.settings,
            counters: service.counters,
            queue_depth: service.queue.len(),
            oldest: service
                .queue
                .first()
                .map(|index| self.backlog.get(index).enqueued_at),
            leaving: service.leaving,
            flood: service.flood.view(),
        }
    }
}

fn backend_view(id: BackendId, backend: &Backend) -> BackendView {
    let (ceiling_min, ceiling_max) = backend.limiter.bounds();
    BackendView {
        id,
        service: backend.service,
        settings: backend.settings,
        state: backend.state,
        ceiling: backend.limiter.ceiling(),
        ceiling_min,
        ceiling_max,
        half_open: backend.limiter.half_open(),
        active: backend.limiter.active(),
        active_max: backend.limiter.held_max(),
        group: backend.settings.group,
        admitted: backend.counters.admitted,
        ended: backend.counters.ended,
        failed: backend.counters.failed,
        refused: backend.counters.refused,
        silent: backend.counters.silent,
        flows: backend.flows,
        leaving: backend.leaving,
    }
}

const fn group_view(id: GroupId, group: &Group) -> GroupView {
    GroupView {
        id,
        ceiling: group.ceiling,
        held: group.held,
        held_max: group.held_max,
    }
}

const fn flow_view(index: u32, flow: &Flow) -> FlowView {
    FlowView {
        id: FlowId {
            index,
            generation: flow.generation,
        },
        key: flow.key,
        service: flow.service,
        backend: flow.backend,
        phase: flow.phase,
        state: flow.state,
        admitted_at: flow.admitted_at,
        since: flow.changed_at,
    }
}
