//! The controller of one back-end's ceiling.

use core::time::Duration;

use super::agent::{self, AgentReport, AgentState};
use super::climb::{Climb, Move};
use super::curve::{Curve, Suggestion};
use super::guard::{self, Guard, View};
use super::reason::Reason;
use super::settings::{Bounds, Policy, Settings};
use super::window::Window;
use super::{fixed, gradient, queue_depth, response_time, slow_start, throughput};

/// A ceiling, and why it is what it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The ceiling from now on.
    pub ceiling: u32,
    /// What made it so, in words and numbers for people: `queue 12.3 > 4: raised`.
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

/// What moves the ceiling of one back-end.
#[derive(Clone, Debug)]
pub struct Controller {
    settings: Settings,
    bounds: Bounds,
    initial: u32,
    /// What the policy wants.
    target: u32,
    /// What is in force: the target, unless it is pinned or slow-started.
    ceiling: u32,
    pinned: Option<u32>,
    /// How long ago the back-end came up, while that matters.
    up_for: Option<Duration>,
    guard: Guard,
    curve: Curve,
    memory: Memory,
    last_change: Option<Change>,
}

/// What a policy remembers.
#[derive(Clone, Debug)]
struct Memory {
    climb: Climb,
    response_time: response_time::Memory,
    gradient: gradient::Memory,
    agent: agent::Memory,
    /// The p99 that the goal is held against.
    goal: response_time::Memory,
}

impl Memory {
    fn new() -> Self {
        Self {
            climb: Climb::new(),
            response_time: response_time::Memory::default(),
            gradient: gradient::Memory::default(),
            agent: agent::Memory::default(),
            goal: response_time::Memory::default(),
        }
    }
}

impl Controller {
    /// At `initial`, as near as the bounds allow. It is not slow-started: that is for a back-end
    /// that [came up](Self::came_up).
    #[must_use]
    pub fn new(settings: &Settings, bounds: Bounds, initial: u32) -> Self {
        let bounds = bounds.sane();
        let ceiling = bounds.clamp(initial);
        Self {
            settings: settings.clone(),
            bounds,
            initial,
            target: ceiling,
            ceiling,
            pinned: None,
            up_for: None,
            guard: Guard::default(),
            curve: Curve::default(),
            memory: Memory::new(),
            last_change: None,
        }
    }

    /// A window is over: the ceiling from now on.
    pub fn decide(&mut self, window: &Window) -> Decision {
        let window = window.sane();
        let why = self.judge(&window);
        self.put_in_force(&why);
        Decision {
            ceiling: self.ceiling,
            why,
        }
    }

    fn judge(&mut self, window: &Window) -> Reason {
        if let Some(up_for) = &mut self.up_for {
            *up_for = up_for.saturating_add(window.length);
            if *up_for < self.settings.slow_start && self.pinned.is_none() {
                return self.slow_start();
            }
            self.up_for = None;
        }
        self.memory.agent.pass(window.length);
        let taken = self.guard.take(window, self.ceiling);
        let taken = match taken {
            Ok(window) => window,
            // An agent knows without measurements.
            Err(_) if matches!(self.settings.policy, Policy::Agent(_)) => *window,
            Err(why) => return self.pinned.map_or(why, |_| Reason::Pinned),
        };
        let full = guard::is_full(&taken, self.ceiling);
        let concurrency = if full {
            f64::from(self.ceiling)
        } else {
            taken.held_mean
        };
        let asked = self.pinned.is_none().then(|| self.ask_policy(&taken));
        // A pause, or another server: the next windows tell.
        let is_odd = matches!(&asked, Some(wanted) if matches!(wanted.why, Reason::Changed { .. }));
        if !is_odd {
            self.curve.observe(concurrency, &taken);
        }
        let Some(Move { ceiling, why }) = asked else {
            return Reason::Pinned;
        };
        self.target = self.bounds.clamp(ceiling);
        why
    }

    fn ask_policy(&mut self, window: &Window) -> Move {
        let goal = self.settings.response_goal;
        let forbidden = self.guard.forbids_raise(window, goal);
        let view = View {
            window,
            ceiling: self.ceiling,
            initial: self.bounds.clamp(self.initial),
            bounds: self.bounds,
            forbidden: forbidden.as_ref(),
        };
        let curve = &mut self.curve;
        let Memory {
            climb,
            response_time,
            gradient,
            agent,
            goal: missed,
        } = &mut self.memory;
        let searches = !matches!(self.settings.policy, Policy::Fixed | Policy::Agent(_));
        if searches && view.is_over() {
            return Move {
                ceiling: climb.abandon_trial(self.ceiling),
                why: Reason::Settling,
            };
        }
        if searches && let Some(lower) = guard::keep_goal(goal, missed, climb, &view) {
            return lower;
        }
        let mut wanted = match &self.settings.policy {
            Policy::Fixed => fixed::decide(self.initial),
            Policy::Agent(settings) => agent::decide(settings, agent, self.initial, &view),
            Policy::QueueDepth(settings) => queue_depth::decide(settings, climb, curve, &view),
            Policy::ResponseTime(settings) => {
                response_time::decide(settings, response_time, climb, curve, &view)
            }
            Policy::Throughput(settings) => throughput::decide(settings, climb, curve, &view),
            Policy::Gradient(settings) => gradient::decide(settings, gradient, climb, curve, &view),
        };
        if let Some(why) = forbidden
            && matches!(wanted.why, Reason::Best { .. } | Reason::QueueInBand { .. })
        {
            wanted.why = why;
        }
        wanted
    }

    fn slow_start(&mut self) -> Reason {
        let elapsed = self.up_for.unwrap_or_default();
        let whole = self.target;
        let (_, percent) = slow_start::ceiling(whole, elapsed, self.settings.slow_start);
        Reason::SlowStart { percent, whole }
    }

    /// Makes what is decided the ceiling in force.
    fn put_in_force(&mut self, why: &Reason) {
        let wanted = match (self.pinned, self.up_for) {
            (Some(pinned), _) => pinned,
            (None, Some(up_for)) => {
                slow_start::ceiling(self.target, up_for, self.settings.slow_start).0
            }
            (None, None) => self.target,
        };
        let ceiling = self.bounds.clamp(wanted);
        if ceiling != self.ceiling {
            self.last_change = Some(Change {
                from: self.ceiling,
                to: ceiling,
                why: why.clone(),
            });
            self.ceiling = ceiling;
            self.guard.changed();
        }
    }

    /// Pins the ceiling, as near as the bounds allow, or gives it back to its policy, which goes on
    /// from there. Returns the ceiling from now on.
    pub fn pin(&mut self, ceiling: Option<u32>) -> u32 {
        self.pinned = ceiling;
        if ceiling.is_none() && self.up_for.is_none() {
            self.target = self.ceiling;
        }
        self.put_in_force(&Reason::Pinned);
        self.ceiling
    }

    /// Other settings. With the same policy, what was learned is kept.
    pub fn set_settings(&mut self, settings: &Settings) {
        if self.settings.policy != settings.policy {
            self.memory = Memory::new();
        }
        self.settings = settings.clone();
    }

    /// Another initial ceiling: what `agent` holds without a report. One that its policy never
    /// moves goes there at once, as nothing else takes it there. Returns the ceiling from now on.
    pub fn set_initial(&mut self, initial: u32) -> u32 {
        self.initial = initial;
        if self.settings.policy == Policy::Fixed {
            self.target = self.bounds.clamp(initial);
            self.put_in_force(&Reason::Fixed);
        }
        self.ceiling
    }

    /// Other bounds. Returns the ceiling from now on.
    pub fn set_bounds(&mut self, bounds: Bounds) -> u32 {
        self.bounds = bounds.sane();
        self.target = self.bounds.clamp(self.target);
        self.put_in_force(&Reason::Bounds);
        self.ceiling
    }

    /// The back-end came up, or came back: its ceiling starts small. Returns the ceiling from now
    /// on.
    pub fn came_up(&mut self) -> u32 {
        if !self.settings.slow_start.is_zero() {
            self.up_for = Some(Duration::ZERO);
            let why = self.slow_start();
            self.put_in_force(&why);
        }
        self.ceiling
    }

    /// The agent reported. What it says of the ceiling takes effect with the next window, under
    /// policy `agent`. Returns what it says of the back-end's state, if it says anything.
    pub fn report(&mut self, report: &AgentReport) -> Option<AgentState> {
        self.memory.agent.report(report);
        report.state
    }

    /// The ceiling in force.
    #[must_use]
    pub const fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Whether an operator pinned it.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.pinned.is_some()
    }

    /// What the measurements so far point to; nothing while there are too few.
    #[must_use]
    pub fn suggestion(&self) -> Option<Suggestion> {
        self.curve.suggestion(self.settings.response_goal)
    }

    /// When the ceiling last moved: from what to what, and why.
    #[must_use]
    pub const fn last_change(&self) -> Option<&Change> {
        self.last_change.as_ref()
    }
}
