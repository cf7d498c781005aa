//! `gradient`: compares the response time with that of the same back-end at a small ceiling.
//!
//! That baseline is measured by lowering the ceiling for a window or two, while requests wait; none
//! is refused for it. It follows a faster server at once; a slower one by the next probe, and by no
//! more than [`RISE_MAX`] each, so that a time-out that came to be every response's time is not
//! taken for health. Above what is tolerated the ceiling is lowered, and nothing is added; below,
//! a higher one is tried, and kept if it serves more.

use core::time::Duration;

use super::climb::{Climb, Move};
use super::curve::seconds;
use super::guard::View;
use super::reason::Reason;
use super::response_time::{self, lowered};
use super::settings::Gradient;

/// The baseline may grow by this factor in a probe.
const RISE_MAX: f64 = 2.0;

/// What a measurement of the baseline counts, against what was known.
const FRESH: f64 = 0.5;

/// Around what is tolerated: within, the ceiling stays.
const BAND: f64 = 0.1;

/// Windows that a probe may last.
const PROBE_MAX: u32 = 5;

/// What the policy remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Mean response time at a small ceiling, in seconds.
    baseline: Option<f64>,
    /// Since that was measured.
    age: Duration,
    probe: Option<Probe>,
    response: response_time::Memory,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    /// The ceiling before.
    before: u32,
    windows: u32,
}

impl Memory {
    /// Takes a response time at a small ceiling into account.
    fn learn(&mut self, response: f64) {
        self.baseline = Some(match self.baseline {
            Some(known) if response > known => {
                known + (response.min(known * RISE_MAX) - known) * FRESH
            }
            Some(known) => known + (response - known) * FRESH,
            None => response,
        });
        self.age = Duration::ZERO;
    }
}

/// How far the response time is from what is tolerated: 1 and less for too long, at most 2 and at
/// least a half. As in Netflix's and Envoy's controllers of that name.
pub(super) fn gradient(tolerance: f64, baseline: f64, response: f64) -> f64 {
    (tolerance * baseline / response).max(0.5).min(2.0)
}

pub(super) fn decide(
    settings: &Gradient,
    memory: &mut Memory,
    climb: &mut Climb,
    view: &View<'_>,
) -> Move {
    let (window, ceiling) = (view.window, view.ceiling);
    memory.age = memory.age.saturating_add(window.length);
    let hold = |ceiling, why| Move { ceiling, why };
    let response = window.response.mean.as_secs_f64();
    let measured = window.response.count > 0 && response > 0.0;
    if let Some(mut probe) = memory.probe {
        probe.windows += 1;
        if !measured && probe.windows < PROBE_MAX {
            memory.probe = Some(probe);
            return hold(ceiling, Reason::Probe);
        }
        memory.probe = None;
        memory.age = Duration::ZERO;
        if measured {
            memory.learn(response);
        }
        let baseline = seconds(memory.baseline.unwrap_or(0.0));
        return hold(probe.before, Reason::Probed { baseline });
    }
    // A window with little to do is a probe for nothing.
    if measured && window.held_mean <= f64::from(settings.probe_ceiling) {
        memory.learn(response);
    }
    if !view.is_full() || !measured {
        let why = Reason::NotReached {
            held: window.held_mean,
        };
        return hold(climb.give_up_trial(ceiling), why);
    }
    let (Some(baseline), false) = (memory.baseline, memory.age >= settings.probe_interval) else {
        let before = climb.give_up_trial(ceiling);
        memory.probe = Some(Probe { before, windows: 0 });
        let small = settings.probe_ceiling.max(1).min(before);
        return hold(small, Reason::Probe);
    };
    let response = memory.response.add(ceiling, window.response.mean);
    let tolerance = f64::from(settings.tolerance_percent) / 100.0;
    let why = |above| Reason::Gradient {
        response: seconds(response),
        baseline: seconds(baseline),
        tolerance: settings.tolerance_percent,
        above,
    };
    let gradient = gradient(tolerance, baseline, response);
    if gradient < 1.0 - BAND {
        if let Some(ceiling) = climb.refuse_trial(ceiling) {
            return hold(ceiling, why(true));
        }
        let lower = lowered(ceiling, gradient).max(view.bounds.min);
        climb.move_to(lower);
        return hold(lower, why(true));
    }
    let is_short = gradient > 1.0 + BAND;
    let gate = view.gate(is_short, true);
    let mut step = climb.step(window, ceiling, view.bounds, gate);
    if matches!(step.why, Reason::Try { up: true, .. }) {
        step.why = why(false);
    }
    step
}
