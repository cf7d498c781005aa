//! The configuration: what the file means, validated, with units and defaults. Nothing here acts on
//! it. The modules stand from the whole file down to its single values.

mod sections;
mod group;
mod service;
mod flood;
mod ceiling;
mod health;
mod backend;
mod identity;
mod reader;
mod scalar;
mod diagnostics;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dispatcher_common::maps;

use crate::ceiling::Settings;

pub use diagnostics::{ConfigError, Problem};

/// Fewest requests a second that can be said to make a flood: below, chance would.
pub const FLOOD_RATE_MIN: u32 = 10;
/// Most: beyond what an AF_XDP socket can take.
pub const FLOOD_RATE_MAX: u32 = 10_000_000;
/// Shortest handshake that may be asked for in a flood.
pub const FLOOD_HANDSHAKE_MIN: Duration = Duration::from_secs(1);
/// Most services: the `SERVICES` map holds no more.
pub const SERVICES_MAX: usize = maps::SERVICES_MAX as usize;
/// Most back-ends of one service.
pub const BACKENDS_PER_SERVICE_MAX: usize = 1024;
/// Most back-ends of all services together: the `BACKENDS` map holds no more.
pub const BACKENDS_MAX: usize = maps::BACKENDS_MAX as usize;
/// Most groups.
pub const GROUPS_MAX: usize = 64;
/// Most different groups of one service's back-ends.
pub const GROUPS_PER_SERVICE_MAX: usize = 8;
/// Most weight of a back-end: a thousandth is the smallest share beside another.
pub const WEIGHT_MAX: u32 = 1000;
/// Most interfaces.
pub const INTERFACES_MAX: usize = 64;
/// Most requests that wait for one service.
pub const QUEUE_CAPACITY_MAX: u32 = 65_536;
/// Most connections that the flow table can be made for: 1.63 GiB of kernel memory, at 416 bytes
/// each.
pub const FLOW_CAPACITY_MAX: u32 = 4_194_304;
/// Least capacity of a back-end: a ceiling of 1 must stay below it.
pub const CAPACITY_MIN: u32 = 2;
/// Most capacity of a back-end: more than the flow table can hold means nothing.
pub const CAPACITY_MAX: u32 = FLOW_CAPACITY_MAX;
/// Shortest timeout or interval: shorter ones are below what a busy host keeps.
pub const DURATION_MIN: Duration = Duration::from_millis(10);
/// Longest timeout or interval.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest window of a ceiling's policy, and shortest interval between questions to an agent or
/// health checks:
/// shorter ones tell more of chance than of the server.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Shortest response time asked for: below it, all that is measured is the way between machines.
pub const RESPONSE_TIME_MIN: Duration = Duration::from_micros(10);
/// Longest response time asked for.
pub const RESPONSE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// Most requests a second asked of one back-end.
pub const RATE_MAX: u32 = 10_000_000;
/// Greatest percentage of what an agent's load may be.
pub const PERCENT_MAX: u32 = 1000;
/// Greatest percentage of the response time at rest that is still good. That is measured at a
/// quarter of the ceiling, where a server that does one thing at a time answers four times as fast:
/// a ceiling that is far too high must show.
pub const TOLERANCE_MAX: u32 = 399;
/// Where a ceiling that moves starts unless something says otherwise, as near as its bounds allow.
/// An operator who knows only the capacity must not start at it: a server pushed past its best at
/// once answers too slowly to be measured, whereas one that is given too little is given more
/// window by window.
pub const INITIAL_MOVING: u32 = 10;
/// Most bytes that are sent to an agent over TCP.
pub const AGENT_SEND_BYTES_MAX: usize = 256;
/// Most bytes of an HTTP path, query included, that an agent or a health check asks for.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most bytes of the `Host` of a health check: a name of 253 bytes, a colon and a port.
pub const HOST_BYTES_MAX: usize = 259;
/// Most successive health checks asked for before a back-end changes its state.
pub const HEALTH_COUNT_MAX: u32 = 100;
/// Most successive requests without an answer asked for before a back-end is down.
pub const PASSIVE_MAX: u32 = 10_000;
/// Most bytes of a name.
pub const NAME_BYTES_MAX: usize = 63;
/// Most bytes of an interface's name (`IFNAMSIZ`, less the closing zero).
pub const INTERFACE_BYTES_MAX: usize = 15;
/// Most bytes of a Unix socket's path (`sun_path`, less the closing zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Most bytes of a configuration file: 4096 back-ends with every key take a quarter of it.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Where the admin socket is unless something says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/dispatcher/admin.sock";
/// Where maps and links are pinned unless the configuration says otherwise.
pub const PIN_PATH_DEFAULT: &str = "/sys/fs/bpf/dispatcher";

/// A configuration that was found right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `[admin]`
    pub admin: Admin,
    /// `[metrics]`; without that section there is no listener.
    pub metrics: Option<Metrics>,
    /// `[dataplane]`
    pub dataplane: Dataplane,
    /// `[[service]]`, at least one.
    pub services: Vec<Service>,
    /// `[[group]]`; each is that of a back-end.
    pub groups: Vec<Group>,
}

/// `[admin]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Absolute path of the admin socket; default [`SOCKET_DEFAULT`].
    pub socket: PathBuf,
}

/// `[metrics]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// Where `GET /metrics` is served; default `127.0.0.1:9464`.
    pub listen: SocketAddr,
}

/// `[dataplane]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataplane {
    /// Interfaces to attach to, at least one, no two the same.
    pub interfaces: Vec<String>,
    /// Default [`AttachMode::Auto`].
    pub attach_mode: AttachMode,
    /// Default [`XskMode::Auto`].
    pub xsk_mode: XskMode,
    /// Connections that the flow table holds; default 262 144.
    pub flow_capacity: u32,
    /// Directory of the pins, absolute; default [`PIN_PATH_DEFAULT`].
    pub pin_path: PathBuf,
    /// Default [`OnExit::Keep`].
    pub on_exit: OnExit,
    /// Default [`Unattended::Drop`].
    pub unattended: Unattended,
    /// The admission thread never sleeps; default no.
    pub busy_poll: bool,
}

/// How to attach the XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// Native, or generic with a warning.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic path.
    Generic,
}

/// How AF_XDP sockets get their frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XskMode {
    /// Zero-copy where the driver is known good, else copy.
    Auto,
    /// The kernel copies each frame.
    Copy,
    /// The driver writes into our memory, or the daemon does not start.
    ZeroCopy,
}

/// What becomes of the program when the daemon stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExit {
    /// It stays attached: established flows go on.
    Keep,
    /// It is detached and the pins are removed.
    Detach,
}

/// What a new SYN gets while no daemon runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unattended {
    /// Nothing: the client tries again.
    Drop,
    /// The host's stack answers it.
    Pass,
}

/// `[[service]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Unlike that of any other service; default: the address, with `-` for every `:`.
    pub name: String,
    /// Where clients connect to; unlike that of any other service and any back-end.
    pub address: SocketAddr,
    /// Default [`Balance::RoundRobin`].
    pub balance: Balance,
    /// `[service.queue]`
    pub queue: Queue,
    /// `[service.ceiling]`
    pub ceiling: Settings,
    /// `[service.ceiling.agent]`; there exactly when the policy is `agent`.
    pub agent: Option<Agent>,
    /// `[service.health]`
    pub health: Health,
    /// `[service.timeouts]`
    pub timeouts: Timeouts,
    /// `[service.flood]`
    pub flood: Flood,
    /// `[[service.backend]]`, at least one, all of the service's address family.
    pub backends: Vec<Backend>,
}

/// Which of several back-ends below their ceilings gets a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// Each in turn, by weight.
    RoundRobin,
    /// The one with the fewest connections for its weight.
    LeastConnections,
    /// The one that answers soonest.
    LeastResponseTime,
    /// The one that the client's address points to, as long as the back-ends stay the same.
    SourceHash,
}

/// `[service.queue]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Most requests that wait; default 1024.
    pub capacity: u32,
    /// The longest that one waits; default 5 s.
    pub timeout: Duration,
    /// What a request gets that finds the queue full; default [`Overflow::Refuse`].
    pub overflow: Overflow,
    /// Most that wait from one client address; 0, the default, for no bound.
    pub per_source: u32,
}

/// What a request gets that finds the queue full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// An RST.
    Refuse,
    /// Nothing: the client tries again.
    Drop,
}

/// `[service.ceiling.agent]`: how a back-end's agent is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agent {
    /// In what way; no default.
    pub kind: AgentKind,
    /// Where it listens, at the back-end's address. Over HTTP by default at the back-end's own
    /// port; over TCP there is no default, as what speaks there is the service.
    pub port: Option<NonZeroU16>,
    /// From one question to the next, at least [`INTERVAL_MIN`]; default 2 s.
    pub interval: Duration,
    /// How long one waits for its answer, the connection included, at most the interval; default
    /// 1 s.
    pub timeout: Duration,
}

/// In what way an agent is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentKind {
    /// It is connected to and answers with one line of words, such as HAProxy's agents do.
    Tcp {
        /// Sent after connecting, at most [`AGENT_SEND_BYTES_MAX`] bytes; by default nothing.
        send: String,
    },
    /// `GET`, answered with JSON or with a line of words.
    Http {
        /// Path and query, at most [`PATH_BYTES_MAX`] bytes; default `/`.
        path: String,
    },
}

/// `[service.health]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Default [`HealthKind::Tcp`].
    pub kind: HealthKind,
    /// Where it is checked, at the back-end's address; by default at the back-end's own port.
    pub port: Option<NonZeroU16>,
    /// Address of this machine that checks come from, of the service's family; by default what the
    /// routing table says.
    pub source: Option<IpAddr>,
    /// From one check to the next, at least [`INTERVAL_MIN`]; default 2 s.
    pub interval: Duration,
    /// How long a check waits for its whole answer, the connection included, at most the interval;
    /// default 1 s.
    pub timeout: Duration,
    /// Good checks in succession until a back-end is up; default 2.
    pub rise: u32,
    /// Bad checks in succession until it is down; default 3.
    pub fall: u32,
    /// Requests in succession that were sent on and not answered until it is down, at most
    /// [`PASSIVE_MAX`]; 0 for any number. Default 5; with [`HealthKind::Off`] 0.
    pub passive: u32,
    /// What becomes of its connections when it goes down; default [`OnDown::Keep`].
    pub on_down: OnDown,
}

/// How the health of back-ends is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HealthKind {
    /// Not at all.
    Off,
    /// It accepts a connection.
    Tcp,
    /// It answers `GET`.
    Http {
        /// Path and query, at most [`PATH_BYTES_MAX`] bytes; default `/`.
        path: String,
        /// The `Host` of the request; by default address and port of what is asked.
        host: Option<String>,
        /// The statuses that are good, within 100 to 599; default 200 to 399.
        status: RangeInclusive<u16>,
    },
}

impl HealthKind {
    /// As the configuration has it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Tcp => "tcp",
            Self::Http { .. } => "http",
        }
    }
}

/// What becomes of the connections of a back-end that goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDown {
    /// They go on, if they can.
    Keep,
    /// They are reset, at both ends.
    Reset,
}

/// `[service.timeouts]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// SYN forwarded, not answered: another back-end is asked. At most `handshake`; default 2 s.
    pub connect: Duration,
    /// SYN forwarded, handshake not finished; default 5 s.
    pub handshake: Duration,
    /// No packet either way; default 5 min.
    pub idle: Duration,
    /// One side has closed; default 30 s.
    pub closing: Duration,
}

/// `[service.flood]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flood {
    /// Default [`FloodMode::Auto`].
    pub mode: FloodMode,
    /// Requests a second that find no slot free and do not prove alive: more over a second are a
    /// flood; [`FLOOD_RATE_MIN`] to [`FLOOD_RATE_MAX`]; default the queue's capacity and 1000.
    pub rate: u32,
    /// How long a flood must have been away before it is over; default 10 s.
    pub hold: Duration,
    /// What unfinished handshakes may hold of a back-end's ceiling while one is on, percent; at
    /// least one connection; default 50.
    pub half_open: u32,
    /// SYN forwarded, handshake not finished, while one is on; where it is longer than
    /// [`Timeouts::handshake`], that holds. At least [`FLOOD_HANDSHAKE_MIN`]; default 2 s.
    pub handshake: Duration,
}

/// Whether floods are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloodMode {
    /// They are.
    Auto,
    /// One is taken to be on at any time.
    On,
    /// None ever is.
    Off,
}

/// `[[service.backend]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Unlike that of any other back-end of the service; default: the address, with `-` for every
    /// `:`.
    pub name: String,
    /// Where the server listens; unlike that of any other back-end of the service.
    pub address: SocketAddr,
    /// Connections that the server is capable of; at least [`CAPACITY_MIN`].
    pub capacity: u32,
    /// What it is to be given.
    pub ceiling: CeilingBounds,
    /// Its share in balancing, 1 to [`WEIGHT_MAX`]; default 1.
    pub weight: u32,
    /// Place in [`Config::groups`] of the group whose ceiling it shares, if it does.
    pub group: Option<usize>,
}

/// `[[group]]`: back-ends that share something, such as a database, and therefore a ceiling
/// besides their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Unlike that of any other group.
    pub name: String,
    /// Most connections of all its back-ends together, whatever their services.
    pub ceiling: u32,
}

/// `1 <= min <= initial <= max < capacity`, connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CeilingBounds {
    /// What it starts with. With the policy `fixed` the default is `max`, as nothing raises it;
    /// with any other it is [`INITIAL_MOVING`], or the bound that is nearest to that.
    pub initial: u32,
    /// Never below; default 1.
    pub min: u32,
    /// Never above; default one less than the capacity.
    pub max: u32,
}

impl Config {
    /// Reads and validates the file.
    ///
    /// # Errors
    /// The file cannot be read, or what is wrong in it: all that is, not only the first.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let bytes = diagnostics::read(file)?;
        Self::parse(file, &bytes)
    }

    /// Validates what was read from `file`, which is not touched: its name is for messages.
    ///
    /// # Errors
    /// All that is wrong; of wrong syntax the first.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        sections::parse(file, bytes)
    }

    /// Back-ends of all services.
    #[must_use]
    pub fn backends_len(&self) -> usize {
        self.services.iter().map(|s| s.backends.len()).sum()
    }
}
