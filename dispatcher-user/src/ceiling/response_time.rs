//! `response-time`: keeps a response time within a band.
//!
//! Above the band the ceiling is lowered in proportion, at most to half. Below it a higher one is
//! tried, and kept if it serves more; within it, only a lower one, that serves as much.

use core::time::Duration;

use super::climb::{Climb, Move};
use super::curve::{Average, Curve, seconds, within};
use super::guard::View;
use super::reason::Reason;
use super::settings::{Metric, ResponseTime};

/// A lowered ceiling keeps at least and at most so much.
const LOWERED_TO_MIN: f64 = 0.5;
const LOWERED_TO_MAX: f64 = 0.9;

/// What the policy remembers: the response time since the ceiling was changed, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    ceiling: u32,
    average: Average,
}

impl Memory {
    /// Takes a window into account. The average is over three windows or so: one alone is chance.
    pub(super) fn add(&mut self, ceiling: u32, response: Duration) -> f64 {
        if self.ceiling != ceiling {
            *self = Self {
                ceiling,
                average: Average::default(),
            };
        }
        self.average.add(response.as_secs_f64())
    }
}

pub(super) fn decide(
    settings: &ResponseTime,
    memory: &mut Memory,
    climb: &mut Climb,
    curve: &mut Curve,
    view: &View<'_>,
) -> Move {
    let ceiling = view.ceiling;
    let response = view.window.response;
    if response.count == 0 {
        return Move {
            ceiling: climb.give_up_trial(ceiling),
            why: Reason::Few { served: 0 },
        };
    }
    let value = match settings.metric {
        Metric::Mean => response.mean,
        Metric::P50 => response.p50,
        Metric::P99 => response.p99,
        Metric::Max => response.max,
    };
    let average = memory.add(ceiling, value);
    let value = seconds(average);
    let out = |edge, above| Reason::Response {
        metric: settings.metric,
        value,
        edge,
        above,
    };
    if !view.is_full() {
        return Move {
            ceiling: climb.give_up_trial(ceiling),
            why: Reason::NotReached {
                held: view.window.held_mean,
            },
        };
    }
    if value > settings.high {
        if let Some(ceiling) = climb.refuse_trial(ceiling) {
            return Move {
                ceiling,
                why: out(settings.high, true),
            };
        }
        let part = settings.high.as_secs_f64() / value.as_secs_f64();
        let lower = lowered(ceiling, part).max(view.bounds.min);
        climb.move_to(lower);
        return Move {
            ceiling: lower,
            why: out(settings.high, true),
        };
    }
    let is_short = value < settings.low;
    let gate = view.gate(is_short, true);
    let mut step = climb.step(curve, view, gate);
    if matches!(step.why, Reason::Try { up: true, .. }) {
        step.why = out(settings.low, false);
    }
    step
}

/// That part of a ceiling, within bounds, and at least one less.
pub(super) fn lowered(ceiling: u32, part: f64) -> u32 {
    let part = within(LOWERED_TO_MIN, LOWERED_TO_MAX, part);
    ((f64::from(ceiling) * part).round() as u32).min(ceiling.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Netflix's AIMD limit backs off from 10 to 9 and from 30 to 27.
    #[test]
    fn lowering_is_bounded() {
        assert_eq!((lowered(10, 0.9), lowered(30, 0.9)), (9, 27));
        assert_eq!((lowered(100, 0.001), lowered(100, 0.999)), (50, 90));
        assert_eq!((lowered(1, 0.9), lowered(0, 0.9)), (0, 0));
        assert_eq!(lowered(4, f64::NAN), 2);
    }
}
