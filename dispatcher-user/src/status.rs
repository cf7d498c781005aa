//! What the daemon tells about itself: the JSON of the admin socket and of `--json`. Names and
//! units here are a promise to users. Nothing is measured here.
//!
//! A value that is not measured, or not yet, is `null`: never an invented zero.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::admission;

/// The whole picture at one moment: `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Since the daemon started.
    pub uptime_seconds: f64,
    /// How the program is attached.
    pub attach_mode: AttachMode,
    /// The flow table.
    pub flows: FlowTableStatus,
    /// The frames of the AF_XDP sockets' memory.
    pub frames: FrameStatus,
    /// Health checks of all back-ends.
    pub checks: ChecksStatus,
    /// Frames dropped since the program was first attached, by the label of the
    /// [`DropReason`](dispatcher_common::verdict::DropReason); every reason is listed.
    pub dropped: BTreeMap<String, u64>,
    /// What else the program counted, by the label of
    /// [`Handled`](dispatcher_common::verdict::Handled); every one is listed.
    pub handled: BTreeMap<String, u64>,
    /// Ceilings that several back-ends share, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// The interfaces, in the order of the configuration.
    pub interfaces: Vec<InterfaceStatus>,
}

impl Status {
    /// A back-end by its names.
    #[must_use]
    pub fn backend(&self, service: &str, backend: &str) -> Option<&BackendStatus> {
        let service = self.services.iter().find(|one| one.name == service)?;
        service.backends.iter().find(|one| one.name == backend)
    }

    /// Addresses of a service and of its back-end, by their names.
    #[must_use]
    pub fn place(&self, service: &str, backend: &str) -> Option<(SocketAddr, SocketAddr)> {
        let found = self.services.iter().find(|one| one.name == service)?;
        Some((found.address, self.backend(service, backend)?.address))
    }

    /// A back-end by its service's address and its own.
    #[must_use]
    pub fn at(&self, (service, backend): (SocketAddr, SocketAddr)) -> Option<&BackendStatus> {
        let service = self.services.iter().find(|one| one.address == service)?;
        service.backends.iter().find(|one| one.address == backend)
    }
}

/// A ceiling that several back-ends share besides their own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Connections at all its back-ends, half-open ones included.
    pub active: u64,
    /// Most of them ever held at once since start.
    pub active_max: u64,
    /// Most of them that are admitted.
    pub ceiling: u64,
}

/// How the XDP program is attached to all interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path, which is slower.
    Generic,
}

impl AttachMode {
    /// As JSON has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: InterfaceState,
    /// How the program is attached to it, if it is.
    pub attach_mode: Option<AttachMode>,
    /// Receive queues with a socket.
    pub queues: u64,
    /// What is wrong, while it is `failed`.
    pub why: Option<String>,
}

/// How an interface is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceState {
    /// In use.
    Up,
    /// There, but down or without a carrier.
    Down,
    /// Not there.
    Missing,
    /// There, but the program cannot be attached or a socket cannot be opened.
    Failed,
}

impl InterfaceState {
    /// As JSON has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Missing => "missing",
            Self::Failed => "failed",
        }
    }
}

/// Use of the flow table, in connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// Connections held, those in quarantine after their end included.
    pub used: u64,
    /// Most connections that it holds.
    pub capacity: u64,
}

/// Where the frames of the AF_XDP sockets are; `home` and `in_flight` make up `total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FrameStatus {
    /// All frames.
    pub total: u64,
    /// Where an idle socket has them: free, or in its fill ring.
    pub home: u64,
    /// Being received or sent.
    pub in_flight: u64,
}

/// Health checks of all back-ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    /// Those that are being made.
    pub running: u64,
    /// Most that are made at once.
    pub most: u64,
    /// How often one had to wait for others to be over.
    pub waited: u64,
}

/// One service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Its queue.
    pub queue: QueueStatus,
    /// What became of its requests.
    pub requests: Requests,
    /// Its floods.
    pub flood: FloodStatus,
    /// In the order of the configuration.
    pub backends: Vec<BackendStatus>,
}

/// The queue of a service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Requests that wait now.
    pub depth: u64,
    /// Most that may wait.
    pub capacity: u64,
    /// How long the oldest of them has waited; 0 when none waits.
    pub oldest_wait_ms: u64,
    /// How long requests waited that have left the queue by being admitted.
    pub wait_ms: WaitMs,
    /// The same by size, since the service came; for the metrics, no part of the JSON.
    #[serde(skip)]
    pub wait_sizes: TimesBySize,
}

/// Waiting times, milliseconds; `null` while nothing was measured.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WaitMs {
    /// Half of them waited no longer.
    pub p50: Option<u64>,
    /// 99 of a hundred waited no longer.
    pub p99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

/// Connection requests of a service since the daemon started.
///
/// `received = admitted + refused + expired + abandoned + queued`, at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Requests {
    /// All, each counted once however often the client repeats it.
    pub received: u64,
    /// Sent on to a back-end, and not put back.
    pub admitted: u64,
    /// Still waiting: the queue's depth.
    pub queued: u64,
    /// Turned away, because there was no place in the queue or in the flow table, or every back-end
    /// refused.
    pub refused: u64,
    /// Waited for as long as the queue's timeout allows.
    pub expired: u64,
    /// Given up by the client while they waited.
    pub abandoned: u64,
    /// Repetitions of requests that were counted before; no part of the sum.
    pub retransmitted: u64,
    /// How often a request was put back, because its back-end refused it or did not answer; no part
    /// of the sum.
    pub retried: u64,
    /// The most that `admitted` ever was, since one that is put back is not admitted; for the
    /// metrics, no part of the JSON.
    #[serde(skip)]
    pub admitted_max: u64,
}

/// Floods of connection requests to a service.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FloodStatus {
    /// Whether one is on: only requests that have proved alive are let in.
    pub on: bool,
    /// For how long the one that is on has been; `null` while none is.
    pub since_seconds: Option<f64>,
    /// How many there were since the daemon started, this one included.
    pub count: u64,
    /// Packets with connection requests that were dropped because they had not proved alive, since
    /// the daemon started.
    pub unproven: u64,
}

/// Whether a back-end gets new connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It does.
    Up,
    /// Its health, or its agent, says so.
    Down,
    /// No more, by hand; those it has go on.
    Draining,
    /// No more, by hand; those it had were reset.
    Disabled,
}

impl BackendState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::Draining, Self::Disabled];

    /// As JSON has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

impl From<admission::BackendState> for BackendState {
    fn from(state: admission::BackendState) -> Self {
        match state {
            admission::BackendState::Up => Self::Up,
            admission::BackendState::Down => Self::Down,
            admission::BackendState::Draining => Self::Draining,
            admission::BackendState::Disabled => Self::Disabled,
        }
    }
}

/// One back-end of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it gets new connections.
    pub state: BackendState,
    /// Its health; `null` where nobody watches it.
    pub health: Option<HealthStatus>,
    /// Established and closing connections.
    pub active: u64,
    /// Connections whose handshake is not finished.
    pub half_open: u64,
    /// Most of both ever held at once since start.
    pub active_max: u64,
    /// Most of both that are admitted now.
    pub ceiling: u64,
    /// Least that the ceiling may become.
    pub ceiling_min: u64,
    /// Most that the ceiling may become.
    pub ceiling_max: u64,
    /// Connections that the server is capable of.
    pub capacity: u64,
    /// Its share in balancing, relative to the others of its service.
    pub weight: u32,
    /// Name of the group whose ceiling it shares.
    pub group: Option<String>,
    /// Label of the policy that moves the ceiling.
    pub policy: String,
    /// Whether an operator has pinned the ceiling: then the policy does not move it.
    pub pinned: bool,
    /// How the ceiling was last moved, and why; `null` while it was not.
    pub moved: Option<CeilingMove>,
    /// How often the ceiling was moved, by reason.
    pub moves: BTreeMap<String, u64>,
    /// The ceiling that the measurements point to; `null` while they tell too little.
    pub suggested: Option<SuggestedCeiling>,
    /// Time from a request's first byte to the first byte of its response.
    pub response_ms: TimesMs,
    /// Time from SYN to SYN-ACK.
    pub connect_ms: TimesMs,
    /// Response times by size; for the metrics, no part of the JSON.
    #[serde(skip)]
    pub response_sizes: TimesBySize,
    /// Connect times by size; the same.
    #[serde(skip)]
    pub connect_sizes: TimesBySize,
    /// What happens each second.
    pub rate: Rate,
    /// What happened since start.
    pub total: Totals,
}

/// What is known of a back-end's health.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HealthStatus {
    /// How it is checked: `tcp`, `http` or `off`.
    pub kind: String,
    /// `up`, `down`, or `trial`: it is given one connection, to see what becomes of it. Operators
    /// and agents may say otherwise of its state.
    pub verdict: String,
    /// Since the verdict changed, or it came.
    pub since_seconds: f64,
    /// What changed it, in words; `null` while nothing has.
    pub why: Option<String>,
    /// The last check; `null` while there was none.
    pub last: Option<HealthCheck>,
    /// Checks since it came, by what came of them.
    pub checks: BTreeMap<String, u64>,
}

/// A health check.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HealthCheck {
    /// `passed`, or the label of a [`Fault`](crate::health::Fault).
    pub result: String,
    /// The fault in words; `null` where it was passed.
    pub why: Option<String>,
    /// How long it took, milliseconds.
    pub took_ms: f64,
    /// Since then.
    pub seconds_ago: f64,
}

/// How a ceiling was moved.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CeilingMove {
    /// The ceiling before.
    pub from: u64,
    /// The ceiling after.
    pub to: u64,
    /// Label of the reason: one of a few.
    pub reason: String,
    /// The reason in words, with the measurement that moved it.
    pub why: String,
    /// Since then.
    pub seconds_ago: f64,
}

/// A ceiling that measurements point to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SuggestedCeiling {
    /// The ceiling.
    pub ceiling: u64,
    /// What was measured, in words.
    pub why: String,
}

/// How long something took over the last one to two minutes, milliseconds; `null` while nothing was
/// measured. Quantiles are within 1/32 of the truth; mean and longest are exact.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TimesMs {
    /// Mean.
    pub mean: Option<f64>,
    /// Half of them took no longer.
    pub p50: Option<f64>,
    /// 99 of a hundred took no longer.
    pub p99: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
}

/// Times by size, since the daemon started.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TimesBySize {
    /// How many took at most so long, for each bound of their histogram:
    /// [`TIMES_BUCKETS`](crate::telemetry::TIMES_BUCKETS), of waits
    /// [`QUEUE_WAIT_BUCKETS`](crate::telemetry::QUEUE_WAIT_BUCKETS).
    pub at_most: Vec<u64>,
    /// All.
    pub count: u64,
    /// How long they took together.
    pub sum_seconds: f64,
}

/// Per second, over the last window of measurement; `null` while nothing was measured.
/// `in` is towards the back-end, bytes count from the IP header on.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Rate {
    /// Connections admitted.
    pub connections: Option<f64>,
    /// Requests answered on those connections.
    pub requests: Option<f64>,
    /// Packets from clients.
    pub packets_in: Option<f64>,
    /// Packets to clients.
    pub packets_out: Option<f64>,
    /// Bytes from clients.
    pub bytes_in: Option<f64>,
    /// Bytes to clients.
    pub bytes_out: Option<f64>,
}

/// Totals of a back-end. `in` is towards it, bytes count from the IP header on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Connections admitted.
    pub connections: u64,
    /// Requests begun on those connections.
    pub requests: u64,
    /// Connections that ended while a request had no answer.
    pub unanswered: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Connections that it refused.
    pub refused: u64,
    /// Connections that it did not answer in time.
    pub silent: u64,
}

/// Where a flow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// The handshake is not finished.
    HalfOpen,
    /// The handshake is finished.
    Active,
    /// One side has closed.
    Closing,
    /// Over, and counted no more; its entry goes shortly.
    Ended,
}

impl FlowState {
    /// As JSON has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open",
            Self::Active => "active",
            Self::Closing => "closing",
            Self::Ended => "ended",
        }
    }
}

/// One connection in the flow table. `in` is towards the back-end, bytes count from the IP header
/// on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowRow {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// The client's end.
    pub client: SocketAddr,
    /// Where it stands.
    pub state: FlowState,
    /// Packets from the client.
    pub packets_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Since it was admitted.
    pub age_seconds: f64,
    /// Since its last packet.
    pub idle_seconds: f64,
}

/// One waiting request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueRow {
    /// Name of the service.
    pub service: String,
    /// The client's end.
    pub client: SocketAddr,
    /// Its place in the queue of its service: 1 is the next to be admitted.
    pub position: u64,
    /// Since it was received.
    pub waited_ms: u64,
    /// How often the client has repeated it.
    pub retransmissions: u32,
}

/// `GET /v1/flows`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FlowList {
    /// In no order.
    pub flows: Vec<FlowRow>,
    /// There are more than the limit of the listing let through.
    pub truncated: bool,
}

/// `GET /v1/queue`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueList {
    /// Oldest first, service by service.
    pub queue: Vec<QueueRow>,
    /// There are more than the limit of the listing let through.
    pub truncated: bool,
}
