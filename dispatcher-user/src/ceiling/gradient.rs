//! `gradient`: compares the response time with that of the same back-end at a small ceiling.
//!
//! That baseline is measured by lowering the ceiling for a window or two, while requests wait; none
//! is refused for it. It follows a faster server at once; a slower one by the next probe, and by no
//! more than [`RISE_MAX`] each, so that a time-out that came to be every response's time is not
//! taken for health. Above what is tolerated the ceiling is lowered, and nothing is added; below,
//! a higher one is tried, and kept if it serves more.

use core::time::Duration;

use super::climb::{Climb, Move};
use super::curve::{Curve, seconds, within};
use super::guard::View;
use super::reason::Reason;
use super::response_time::{self, lowered};
use super::settings::Gradient;
use super::window::Window;

/// The baseline may grow by this factor in a probe.
const RISE_MAX: f64 = 2.0;

/// What a measurement of the baseline counts, against what was known; all, if it is longer than
/// chance has it. The error that harms is a baseline that is too short.
const FRESH: f64 = 0.5;
const CHANCE: f64 = 0.3;

/// The ceiling is lowered only by a baseline that is at most so old: else it is measured again.
const FRESH_FOR: Duration = Duration::from_secs(15);

/// Around what is tolerated: within, the ceiling stays.
const BAND: f64 = 0.1;

/// The part of the ceiling that a probe leaves, if that is more than the least. Where a server is
/// past its best, its response time grows as the ceiling does: one tolerance, if it is less than
/// this, does not let the baseline and the ceiling raise each other.
const PROBE_PART: u32 = 4;

/// Windows of attrition that the first probe, and a later one, is worth.
const FIRST_ATTRITION: u64 = 16;
const ATTRITION: u64 = 4;

/// Responses that a probe waits for, and windows that it may last.
const PROBE_ENOUGH: u64 = 100;
const PROBE_MAX: u32 = 6;

/// What the policy remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Median response time at a small ceiling, in seconds.
    baseline: Option<f64>,
    /// Since that was measured.
    age: Duration,
    probe: Option<Probe>,
    response: response_time::Memory,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    /// The ceiling before; or, of the first one, where the search begins.
    before: u32,
    /// The response time there.
    response: f64,
    windows: u32,
    /// The window so far.
    so_far: Option<Window>,
}

impl Memory {
    /// Takes a response time at a small ceiling into account.
    fn learn(&mut self, response: f64) {
        self.baseline = Some(match self.baseline {
            Some(known) => {
                let off = response.min(known * RISE_MAX) - known;
                let part = if off > CHANCE * known { 1.0 } else { FRESH };
                known + off * part
            }
            None => response,
        });
        self.age = Duration::ZERO;
    }
}

/// How far the response time is from what is tolerated: 1 and less for too long, at most 2 and at
/// least a half. As in Netflix's and Envoy's controllers of that name.
pub(super) fn gradient(tolerance: f64, baseline: f64, response: f64) -> f64 {
    within(0.5, 2.0, tolerance * baseline / response)
}

/// The median response time in seconds, and whether there is one.
fn median(window: &Window) -> (f64, bool) {
    let response = window.response.p50.as_secs_f64();
    (response, window.response.count > 0 && response > 0.0)
}

/// Lowers the ceiling to measure the baseline, unless connections end too slowly for that.
fn start_probe(
    settings: &Gradient,
    memory: &mut Memory,
    climb: &mut Climb,
    view: &View<'_>,
    response: f64,
) -> Option<Move> {
    let ceiling = view.ceiling;
    let least = settings.probe_ceiling.max(1);
    let (small, windows) = match memory.baseline {
        Some(_) => (least.max(ceiling / PROBE_PART), ATTRITION),
        None => (least, FIRST_ATTRITION),
    };
    let small = small.min(ceiling);
    if ceiling - small > view.attrition(windows) {
        return None;
    }
    let before = climb.give_up_trial(ceiling);
    memory.probe = Some(Probe {
        before: memory.baseline.map_or(small, |_| before),
        response: memory.baseline.map_or(0.0, |_| response),
        windows: 0,
        so_far: None,
    });
    Some(Move {
        ceiling: small,
        why: Reason::Probe,
    })
}

pub(super) fn decide(
    settings: &Gradient,
    memory: &mut Memory,
    climb: &mut Climb,
    curve: &mut Curve,
    view: &View<'_>,
) -> Move {
    let (window, ceiling) = (view.window, view.ceiling);
    memory.age = memory.age.saturating_add(window.length);
    let hold = |ceiling, why| Move { ceiling, why };
    let (response, measured) = median(window);
    let tolerance = f64::from(settings.tolerance_percent) / 100.0;
    if let Some(mut probe) = memory.probe {
        probe.windows += 1;
        let all = probe.so_far.map_or(*window, |so_far| so_far.and(window));
        probe.so_far = Some(all);
        if all.response.count < PROBE_ENOUGH && probe.windows < PROBE_MAX {
            memory.probe = Some(probe);
            return hold(ceiling, Reason::Probe);
        }
        let (response, measured) = median(&all);
        memory.probe = None;
        memory.age = Duration::ZERO;
        if measured {
            memory.learn(response);
        }
        let baseline = memory.baseline.unwrap_or(0.0);
        let tolerated = gradient(tolerance, baseline, probe.response);
        let mut back = probe.before;
        if tolerated < 1.0 - BAND {
            back = lowered(back, tolerated).max(view.bounds.min);
            climb.move_to(back);
        }
        let baseline = seconds(baseline);
        return hold(back, Reason::Probed { baseline });
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
    let average = memory.response.add(ceiling, window.response.p50);
    let is_due = memory.baseline.is_none_or(|baseline| {
        let is_long = gradient(tolerance, baseline, average) < 1.0 - BAND;
        let is_stale = is_long && !climb.is_trying(ceiling) && memory.age >= FRESH_FOR;
        is_stale || memory.age >= settings.probe_interval
    });
    if is_due && let Some(probe) = start_probe(settings, memory, climb, view, average) {
        return probe;
    }
    let Some(baseline) = memory.baseline else {
        return climb.step(curve, view, view.gate(false, true));
    };
    let response = average;
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
    let mut step = climb.step(curve, view, gate);
    if matches!(step.why, Reason::Try { up: true, .. }) {
        step.why = why(false);
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Envoy's controller: the limit becomes `l + sqrt(l)`, with `l` the limit times the gradient,
    /// at a tolerance of 125 %. Where it rests, responses take 1.71 times the least at a limit of
    /// 10, 1.38 at 100 and 1.29 at 1000.
    #[test]
    fn the_gradient_is_that_of_envoy() {
        for (limit, ratio) in [(10.0, 1.712), (100.0, 1.381), (1000.0, 1.290)] {
            let l: f64 = limit * gradient(1.25, 1.0, ratio);
            assert!((l + l.sqrt() - limit).abs() < limit / 500.0, "{limit}");
        }
        assert_eq!(
            (gradient(1.25, 1.0, 0.1), gradient(1.25, 1.0, 99.0)),
            (2.0, 0.5)
        );
    }

    /// Netflix's Gradient2: the limit rests at `q / (1 - gradient)`, with 4 for q and a tolerance
    /// of 150 %.
    #[test]
    fn the_gradient_is_that_of_netflix() {
        let rests_at = |response| 4.0 / (1.0 - gradient(1.5, 1.0, response));
        assert_eq!((rests_at(2.0), rests_at(3.0)), (16.0, 8.0));
        assert_eq!(rests_at(100.0), 8.0, "at most halved");
    }

    #[test]
    fn what_cannot_be_divided_is_the_least() {
        assert_eq!(gradient(2.0, 0.0, 0.0), 0.5);
        assert_eq!(gradient(2.0, f64::NAN, 1.0), 0.5);
        assert_eq!(gradient(2.0, f64::INFINITY, 1.0), 2.0);
    }

    #[test]
    fn a_baseline_falls_by_halves_and_rises_at_most_twofold() {
        let mut memory = Memory::default();
        let mut learned = |response| {
            memory.learn(response);
            memory.baseline.unwrap()
        };
        assert_eq!(learned(0.020), 0.020);
        assert_eq!(learned(0.010), 0.015);
        // A time-out that every response takes is not believed at once.
        let risen = [learned(1.0), learned(1.0), learned(1.0)];
        assert_eq!(risen, [0.030, 0.060, 0.120]);
    }
}
