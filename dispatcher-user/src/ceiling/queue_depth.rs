//! `queue-depth`: raises while many wait, as far as that serves more; lowers while few do.
//!
//! While the queue is long, the ceiling is searched for as in `throughput`: a long queue alone does
//! not raise it. While the queue is short, it sinks to what is used, but not below what was found
//! best, or where it started as long as nothing was: a crowd after a quiet time need not wait.

use super::climb::{Climb, Move};
use super::curve::Curve;
use super::guard::{View, lowered_by_a_step};
use super::reason::Reason;
use super::settings::QueueDepth;

pub(super) fn decide(
    settings: &QueueDepth,
    climb: &mut Climb,
    curve: &mut Curve,
    view: &View<'_>,
) -> Move {
    let (queue, ceiling) = (view.window.queue_mean, view.ceiling);
    if queue < f64::from(settings.lower_below) {
        let ceiling = climb.give_up_trial(ceiling);
        let used = view
            .window
            .held_max
            .max(climb.best().unwrap_or(view.initial));
        let lower = lowered_by_a_step(ceiling).max(used).min(ceiling);
        let below = settings.lower_below;
        return Move {
            ceiling: lower,
            why: if lower < ceiling {
                Reason::QueueShort { queue, below }
            } else {
                Reason::QueueInBand { queue }
            },
        };
    }
    let long = Reason::QueueLong {
        queue,
        above: settings.raise_above,
    };
    let is_long = queue > f64::from(settings.raise_above);
    if view.is_full() && is_long {
        let mut step = climb.step(curve, view, view.gate(true, true));
        if matches!(step.why, Reason::Try { up: true, .. }) {
            step.why = long;
        }
        return step;
    }
    match climb.best() {
        Some(best) if is_long && best > ceiling && view.forbidden.is_none() => Move {
            ceiling: best,
            why: long,
        },
        _ => Move {
            ceiling: climb.give_up_trial(ceiling),
            why: Reason::QueueInBand { queue },
        },
    }
}
