//! What the state machine asks of its caller. Commands are values; something else carries them out,
//! in the order in which they were polled.

use core::time::Duration;

use dispatcher_common::flow::FlowKey;

/// A service. The number is used again once the service and its last flow are gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(pub u32);

/// A back-end, and the index of its counters in the `BACKENDS` map. The number is used again once
/// the back-end was removed and its last flow is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendId(pub u32);

/// A group of back-ends under one ceiling. The number is used again once the group was removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId {
    /// Its place in the flow table.
    pub index: u32,
    /// Tells apart the flows that had this place one after the other; never 0.
    pub generation: u32,
}

/// An effect. `R` is what the caller passed with the request, given back untouched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<R> {
    /// Install both entries of the flow, then send its SYN to the back-end. If the entries cannot
    /// be installed, send nothing and say so by
    /// [`handle_install_failed`](super::Admission::handle_install_failed).
    Admit {
        /// The new flow.
        flow: FlowId,
        /// Its service.
        service: ServiceId,
        /// Where it goes.
        backend: BackendId,
        /// Client to service.
        key: FlowKey,
        /// Of the client's SYN.
        isn: u32,
        /// The caller's.
        request: R,
        /// How long after its arrival, if it came out of the queue. The same request says so again
        /// when it is admitted again after a collision.
        waited: Option<Duration>,
    },
    /// Answer with RST.
    Refuse {
        /// The service that was asked for.
        service: ServiceId,
        /// Client to service.
        key: FlowKey,
        /// Of the client's SYN.
        isn: u32,
        /// The caller's.
        request: R,
        /// Why.
        reason: RefuseReason,
    },
    /// Send nothing; the request is done with.
    Discard {
        /// The service that was asked for.
        service: ServiceId,
        /// The caller's.
        request: R,
        /// Why.
        reason: DiscardReason,
    },
    /// Delete both entries of the flow.
    Remove {
        /// The flow; its index may be in use again as soon as this was polled.
        flow: FlowId,
        /// Client to service.
        key: FlowKey,
        /// Where it went.
        backend: BackendId,
        /// Why.
        reason: RemoveReason,
    },
    /// Read when the flow was last seen and say so by
    /// [`handle_activity`](super::Admission::handle_activity), or, if it is not in the map, by
    /// [`handle_missing`](super::Admission::handle_missing). Asked again until answered.
    Probe {
        /// The flow.
        flow: FlowId,
        /// Client to service.
        key: FlowKey,
        /// Where it goes.
        backend: BackendId,
    },
    /// No answer of the back-end was told in time. Read the flow's phase in the map and say it by
    /// [`handle_phase`](super::Admission::handle_phase); if the back-end has not answered, say so
    /// by [`handle_connect_failed`](super::Admission::handle_connect_failed). At the end of the
    /// handshake's time the flow is kept for that, and asked about again until it is said.
    Unanswered {
        /// The flow.
        flow: FlowId,
        /// Client to service.
        key: FlowKey,
        /// Where it goes.
        backend: BackendId,
    },
}

/// What became of a SYN that was sent on to a back-end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConnectFailure {
    /// The back-end has answered by RST.
    Refused,
    /// Nobody has answered in time.
    Silent,
}

/// Why a request was turned away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefuseReason {
    /// No back-end had room, nor had the queue.
    QueueFull,
    /// As many requests as may wait from this client's address do.
    PerSource,
    /// The flow table is full.
    TableFull,
    /// At every back-end that could be tried, another flow has this 5-tuple.
    Collision,
    /// It waited as long as a request may.
    Expired,
    /// Its service was removed.
    ServiceRemoved,
    /// Every back-end that is up has refused it.
    BackendsRefused,
}

/// Why a request is done with and nothing is sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiscardReason {
    /// Turned away, by silence as [`Overflow::Drop`](super::Overflow) says.
    Refused(RefuseReason),
    /// The client missed a retransmission that it owed: it is gone, or never was.
    Abandoned,
    /// The client asked anew from the same port; the new request has its place.
    Replaced,
    /// The same request waits already, or was admitted a moment ago.
    Retransmission,
    /// Its 5-tuple is of a flow that has not ended; the client tries again.
    FlowLive,
    /// There is no such service.
    NoService,
}

/// Why a flow is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RemoveReason {
    /// It ended, and lingered.
    Ended,
    /// It ended, and its place in the table was wanted.
    Reclaimed,
    /// It ended, and the client asks anew from the same port.
    Replaced,
    /// The handshake was not finished in time.
    HandshakeTimeout,
    /// No packet for the idle time.
    IdleTimeout,
    /// One side had closed, and no packet for the closing time.
    ClosingTimeout,
    /// The map did not hold it any more.
    Missing,
    /// The caller asked for it.
    Requested,
    /// The back-end has refused it.
    Refused,
    /// The back-end has not answered. It may yet: tell it that nobody waits for that.
    Silent,
}

/// Why a flow could not be installed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InstallFailure {
    /// The map is full.
    TableFull,
    /// The back-end has a flow with the same client address and port, of another service.
    Collision,
}
