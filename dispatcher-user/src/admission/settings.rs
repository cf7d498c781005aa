//! What an operator decides: bounds and times of a service and of a back-end. Checked where the
//! configuration is read; here they are only obeyed, and clamped where they contradict each other.

use core::time::Duration;

use dispatcher_common::addr::{Addr, Port};

use super::command::GroupId;

/// Greatest weight that counts.
pub const WEIGHT_MAX: u32 = 1000;

/// How a request that cannot be taken is turned away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Overflow {
    /// By RST: the client learns at once.
    Refuse,
    /// By silence: the client tries again.
    Drop,
}

/// Which of the back-ends that have room takes a request. All go by weights; where weights are the
/// same, they make no difference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one that holds the fewest slots for its weight, those that are equal in turn.
    LeastConnections,
    /// Of at most 8 drawn at random, the one that answered fastest, but none that holds more slots
    /// for its weight than the 84th percentile of these. One that was not measured counts as fast.
    LeastResponseTime,
    /// The one that the client's address hashes to. When it has no room, the next that has of at
    /// most 16 further slots of the hash table; after that, any that has, in turn.
    SourceHash,
}

/// Of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceSettings {
    /// Most requests that wait. A lower value than what waits now takes effect by attrition.
    pub queue_capacity: u32,
    /// Longest wait.
    pub queue_timeout: Duration,
    /// What a client hears whose request is turned away.
    pub overflow: Overflow,
    /// Most requests that wait from one client address; 0 for no bound.
    pub per_source: u32,
    /// From admission to the back-end's answer; another back-end is asked then, or at the end of
    /// the handshake's time if that is sooner.
    pub connect: Duration,
    /// From admission to the end of the handshake.
    pub handshake: Duration,
    /// Without a packet on an established flow.
    pub idle: Duration,
    /// Without a packet once one side has closed.
    pub closing: Duration,
    /// Which back-end takes a request.
    pub balance: Balance,
    /// What is done about floods.
    pub flood: FloodSettings,
}

/// Whether floods are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FloodMode {
    /// They are.
    Auto,
    /// One is taken to be on at any time.
    On,
    /// None ever is.
    Off,
}

/// What makes a flood of requests, and what holds while it is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloodSettings {
    /// Whether they are looked for.
    pub mode: FloodMode,
    /// Requests a second that do not prove alive: more over a second are a flood.
    pub rate: u32,
    /// How long it must have been away before it is over.
    pub hold: Duration,
    /// What unfinished handshakes may hold of a back-end's ceiling, percent; at least one slot.
    pub half_open: u32,
    /// From admission to the end of the handshake, if that is shorter than at other times.
    pub handshake: Duration,
}

impl FloodSettings {
    /// Floods are not looked for.
    pub const OFF: Self = Self {
        mode: FloodMode::Off,
        rate: u32::MAX,
        hold: Duration::ZERO,
        half_open: 100,
        handshake: Duration::MAX,
    };
}

/// Bounds of a back-end's ceiling, and where it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    /// At first.
    pub initial: u32,
    /// Never below.
    pub min: u32,
    /// Never above; and never at or above the back-end's capacity.
    pub max: u32,
}

/// Of a back-end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendSettings {
    /// Where it is.
    pub addr: Addr,
    /// Where it listens.
    pub port: Port,
    /// Its ceiling.
    pub ceiling: Ceiling,
    /// Connections that the server is capable of.
    pub capacity: u32,
    /// Its share, relative to the others, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The group whose ceiling it shares, besides its own.
    pub group: Option<GroupId>,
}

/// Whether a back-end takes new flows. Those it has are left alone in every state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BackendState {
    /// It does.
    Up,
    /// Its health checks fail.
    Down,
    /// An operator lets its flows end.
    Draining,
    /// An operator has taken it out.
    Disabled,
}
