//! Ceilings: how many connections a back-end is given, moved by what was measured of it. Pure: a
//! window of measurements goes in, a ceiling and its reason come out. No clock, no input or output.
//!
//! A [`Controller`] belongs to one back-end. It holds the back-end's policy, what that remembers,
//! and the guards that all policies obey:
//! - a ceiling stays within its [`Bounds`], whatever was measured;
//! - it moves by bounded steps, and is raised only if it was reached in the window: otherwise
//!   nothing was learned;
//! - what was measured before the last change took effect is ignored;
//! - a pinned ceiling stays where it is.

use core::fmt;
use core::time::Duration;

/// What was measured of one back-end over one window.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Window {
    /// How long it was.
    pub length: Duration,
    /// Slots held, averaged over time.
    pub held_mean: f64,
    /// Most slots held at once.
    pub held_max: u32,
    /// Whether all slots under the ceiling were held at some time in the window.
    pub reached: bool,
    /// Requests that waited in the service's queue, averaged over time.
    pub queue_mean: f64,
    /// Connections given to the back-end.
    pub admitted: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections that ended while a request on them had no answer, or never finished their
    /// handshake.
    pub unanswered: u64,
    /// From a request's first byte to the first byte of its response; how many is the number of
    /// requests answered.
    pub response: Times,
    /// From SYN to SYN-ACK.
    pub connect: Times,
    /// Packets to and from the back-end.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// How long something took; all zero when `count` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// How often it was measured.
    pub count: u64,
    /// Mean.
    pub mean: Duration,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of a hundred took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// `1 <= min <= max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Never below.
    pub min: u32,
    /// Never above.
    pub max: u32,
}

/// What an operator decides of a service's ceilings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What moves them.
    pub policy: Policy,
    /// How long a window is.
    pub interval: Duration,
    /// How long a back-end that came up, or came back, takes to be given its whole ceiling; zero
    /// for at once.
    pub slow_start: Duration,
    /// The response time (p99) that is still good; nothing where none was stated.
    pub response_goal: Option<Duration>,
}

/// What moves a ceiling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nothing.
    Fixed,
}

impl Policy {
    /// As the configuration has it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
        }
    }
}

/// A ceiling, and why it is what it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The ceiling from now on.
    pub ceiling: u32,
    /// What made it so, in words and numbers for people: `queue 12.3 > 1.0`.
    pub why: Reason,
}

/// What moved a ceiling, or kept it.
#[derive(Clone, PartialEq, Debug)]
pub enum Reason {
    /// The policy never moves it.
    Fixed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
        }
    }
}

/// What moves the ceiling of one back-end.
#[derive(Clone, Debug)]
pub struct Controller {
    bounds: Bounds,
    ceiling: u32,
}

impl Controller {
    /// At `initial`, as near as the bounds allow.
    #[must_use]
    pub fn new(_settings: &Settings, bounds: Bounds, initial: u32) -> Self {
        Self {
            bounds,
            ceiling: initial.clamp(bounds.min, bounds.max),
        }
    }

    /// A window is over: the ceiling from now on.
    pub fn decide(&mut self, _window: &Window) -> Decision {
        Decision {
            ceiling: self.ceiling,
            why: Reason::Fixed,
        }
    }
}
