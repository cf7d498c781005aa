//! The controller of one back-end's ceiling.

use core::fmt;
use core::time::Duration;

use super::agent::{AgentReport, AgentState};
use super::reason::Reason;
use super::settings::{Bounds, Settings};
use super::window::Window;

/// A ceiling, and why it is what it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The ceiling from now on.
    pub ceiling: u32,
    /// What made it so, in words and numbers for people: `queue 12.3 > 1.0`.
    pub why: Reason,
}

/// The last time that a ceiling moved.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Before.
    pub from: u32,
    /// After.
    pub to: u32,
    /// What moved it.
    pub why: Reason,
}

/// The ceiling that the measurements so far point to. Displayed with why: `best 812 requests/s at
/// 14 connections, p99 38 ms; 9 % less at 24`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Suggestion {
    /// The ceiling.
    pub ceiling: u32,
    /// Requests a second at it.
    pub rate: f64,
    /// The response time there, p99; zero where none was measured.
    pub p99: Duration,
    /// The most connections measured, and how much less they gave, in percent of `rate`.
    pub beyond: Option<(u32, f64)>,
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "best {:.0} requests/s at {} connections",
            self.rate, self.ceiling
        )
    }
}

/// What moves the ceiling of one back-end.
#[derive(Clone, Debug)]
pub struct Controller {
    settings: Settings,
    bounds: Bounds,
    ceiling: u32,
    pinned: Option<u32>,
    last_change: Option<Change>,
}

impl Controller {
    /// At `initial`, as near as the bounds allow. It is not slow-started: that is for a back-end
    /// that [came up](Self::came_up).
    #[must_use]
    pub fn new(settings: &Settings, bounds: Bounds, initial: u32) -> Self {
        Self {
            settings: settings.clone(),
            bounds,
            ceiling: initial.clamp(bounds.min, bounds.max),
            pinned: None,
            last_change: None,
        }
    }

    /// A window is over: the ceiling from now on.
    pub fn decide(&mut self, _window: &Window) -> Decision {
        Decision {
            ceiling: self.ceiling(),
            why: Reason::Fixed,
        }
    }

    /// Pins the ceiling, as near as the bounds allow, or gives it back to its policy. Returns the
    /// ceiling from now on.
    pub fn pin(&mut self, ceiling: Option<u32>) -> u32 {
        self.pinned = ceiling;
        self.ceiling()
    }

    /// Other settings. With the same policy, what was learned is kept.
    pub fn set_settings(&mut self, settings: &Settings) {
        self.settings = settings.clone();
    }

    /// Other bounds. Returns the ceiling from now on.
    pub fn set_bounds(&mut self, bounds: Bounds) -> u32 {
        self.bounds = bounds;
        self.ceiling = self.ceiling.clamp(bounds.min, bounds.max);
        self.ceiling()
    }

    /// The back-end came up, or came back: its ceiling starts small. Returns the ceiling from now
    /// on.
    pub fn came_up(&mut self) -> u32 {
        self.ceiling()
    }

    /// The agent reported. What it says of the ceiling takes effect with the next window; returns
    /// what it says of the back-end's state, if it says anything. Other policies take no notice of
    /// the rest.
    pub fn report(&mut self, report: &AgentReport) -> Option<AgentState> {
        report.state
    }

    /// The ceiling in force.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        self.pinned.unwrap_or(self.ceiling)
    }

    /// Whether an operator pinned it.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// What the measurements so far point to; nothing while there are too few.
    #[must_use]
    pub fn suggestion(&self) -> Option<Suggestion> {
        None
    }

    /// When the ceiling last moved: from what to what, and why.
    #[must_use]
    pub const fn last_change(&self) -> Option<&Change> {
        self.last_change.as_ref()
    }
}
