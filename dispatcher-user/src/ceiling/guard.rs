//! What all policies obey: which windows teach something, and when a ceiling must not be raised.

use core::time::Duration;

use super::climb::{Climb, Gate, Move};
use super::curve::seconds;
use super::reason::Reason;
use super::response_time;
use super::settings::Bounds;
use super::window::Window;

/// Requests that a window must have served to teach something.
const SERVED_MIN: u64 = 20;

/// Windows that are taken together until they have.
const GATHERED_MAX: u32 = 10;

/// Windows that a lowered ceiling is waited for; connections may last for hours.
const ATTRITION_MAX: u32 = 16;

/// Where connections held, averaged over the window, are at least this part of the ceiling, the
/// server had as many as it was given.
const FULL: f64 = 0.9;

/// Above this part of the ceiling there are connections from before it was lowered.
const OVER: f64 = 1.1;

/// A lower ceiling is not tried if connections end so slowly that it would take more windows to
/// take effect: requests wait meanwhile.
const ATTRITION_TRIED: u64 = 8;

/// Responses that take so many times the shortest are not cured by more of them at once.
const SLOW: f64 = 10.0;

/// What the shortest response time gains a window: it doubles in 140, so a server that came to be
/// slow for good is found out.
const SHORTEST_GROWS: f64 = 0.005;

/// What a ceiling is judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// Windows since the last change, while it has yet to take effect.
    settling: Option<u32>,
    gathered: Option<(Window, u32)>,
    /// The shortest mean response time, in seconds.
    shortest: Option<f64>,
}

impl Guard {
    /// The ceiling was changed.
    pub(super) fn changed(&mut self) {
        self.settling = Some(0);
        self.gathered = None;
    }

    /// A window of which something may be learned at `ceiling`, or why not.
    ///
    /// After a change, windows are ignored until attrition is over; and the first one, if responses
    /// took so long that much of it belongs to what was before.
    pub(super) fn take(&mut self, window: &Window, ceiling: u32) -> Result<Window, Reason> {
        if window.length.is_zero() {
            return Err(Reason::Few { served: 0 });
        }
        if let Some(windows) = self.settling.take() {
            let over = window.held_max > ceiling;
            let slow = windows == 0 && window.response.mean > window.length / 8;
            if (over || slow) && windows < ATTRITION_MAX {
                self.settling = Some(windows + 1);
                return Err(Reason::Settling);
            }
        }
        let (window, windows) = match self.gathered.take() {
            Some((before, windows)) => (before.and(window), windows + 1),
            None => (*window, 1),
        };
        if window.served() < SERVED_MIN && windows < GATHERED_MAX {
            self.gathered = Some((window, windows));
            return Err(Reason::Few {
                served: window.served(),
            });
        }
        self.note(&window, windows);
        Ok(window)
    }

    fn note(&mut self, window: &Window, windows: u32) {
        if let Some(shortest) = &mut self.shortest {
            *shortest *= 1.0 + SHORTEST_GROWS * f64::from(windows);
        }
        if window.response.count > 0 {
            let mean = window.response.mean.as_secs_f64();
            self.shortest = Some(self.shortest.map_or(mean, |shortest| shortest.min(mean)));
        }
    }

    /// Why the ceiling must not be raised after this window.
    pub(super) fn forbids_raise(&self, window: &Window, goal: Option<Duration>) -> Option<Reason> {
        if window.unanswered > window.ended / 2 {
            return Some(Reason::Unanswered {
                unanswered: window.unanswered,
                ended: window.ended,
            });
        }
        let response = window.response;
        if let Some(goal) = goal
            && response.p99 > goal
        {
            return Some(Reason::Goal {
                p99: response.p99,
                goal,
            });
        }
        let shortest = self.shortest?;
        (response.mean.as_secs_f64() > SLOW * shortest).then(|| Reason::Slow {
            response: response.mean,
            shortest: Duration::try_from_secs_f64(shortest).unwrap_or(Duration::MAX),
        })
    }
}

/// What a policy is shown: a window that teaches something, and what it may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) window: &'a Window,
    pub(super) ceiling: u32,
    /// Where it started.
    pub(super) initial: u32,
    pub(super) bounds: Bounds,
    /// Why it must not be raised, if so.
    pub(super) forbidden: Option<&'a Reason>,
}

impl View<'_> {
    /// Whether the server had as many connections as it was given, all the time.
    pub(super) fn is_full(&self) -> bool {
        is_full(self.window, self.ceiling)
    }

    /// Whether connections from before outlast a lowered ceiling.
    pub(super) fn is_over(&self) -> bool {
        is_over(self.window, self.ceiling)
    }

    /// How much the ceiling can be lowered so that it takes effect in so many windows.
    pub(super) fn attrition(&self, windows: u64) -> u32 {
        let ended = self.window.ended.saturating_mul(windows);
        u32::try_from(ended).unwrap_or(u32::MAX)
    }

    /// As the policy wishes, as far as it may.
    pub(super) fn gate(&self, raise: bool, lower: bool) -> Gate {
        Gate {
            raise: raise && self.forbidden.is_none(),
            lower,
            drop_max: self.attrition(ATTRITION_TRIED),
        }
    }
}

/// A ceiling a small step lower: an eighth, at least 1.
pub(super) const fn lowered_by_a_step(ceiling: u32) -> u32 {
    ceiling.saturating_sub(step(ceiling))
}

/// A small step: an eighth, at least 1.
pub(super) const fn step(ceiling: u32) -> u32 {
    let eighth = ceiling.div_ceil(8);
    if eighth == 0 { 1 } else { eighth }
}

/// Whether the server had as many connections as the ceiling gave it, all the time, and no more.
pub(super) fn is_full(window: &Window, ceiling: u32) -> bool {
    window.reached && window.held_mean >= FULL * f64::from(ceiling) && !is_over(window, ceiling)
}

/// Whether connections from before outlast a lowered ceiling.
fn is_over(window: &Window, ceiling: u32) -> bool {
    window.held_mean > OVER * f64::from(ceiling) + 0.5
}

/// While responses take longer than the goal (p99), back from what is tried, or a tenth lower.
pub(super) fn keep_goal(
    goal: Option<Duration>,
    memory: &mut response_time::Memory,
    climb: &mut Climb,
    view: &View<'_>,
) -> Option<Move> {
    let goal = goal.filter(|_| view.is_full())?;
    let p99 = seconds(memory.add(view.ceiling, view.window.response.p99));
    if p99 <= goal {
        return None;
    }
    let ceiling = climb.refuse_trial(view.ceiling).unwrap_or_else(|| {
        let lower = view.bounds.clamp(response_time::lowered(view.ceiling, 1.0));
        climb.move_to(lower);
        lower
    });
    let why = Reason::Goal { p99, goal };
    Some(Move { ceiling, why })
}
