//! `throughput`: climbs to the ceiling of best throughput; or, with a minimum, to the least ceiling
//! that gives it.

use super::climb::{Climb, Move};
use super::curve::Curve;
use super::guard::{View, lowered_by_a_step};
use super::reason::Reason;
use super::settings::Throughput;

/// Throughput is enough above so many percent of the minimum, and too little below it: between them
/// the ceiling stays.
const ENOUGH_PERCENT: u32 = 110;

pub(super) fn decide(
    settings: &Throughput,
    climb: &mut Climb,
    curve: &mut Curve,
    view: &View<'_>,
) -> Move {
    let ceiling = view.ceiling;
    if !view.is_full() {
        return Move {
            ceiling: climb.give_up_trial(ceiling),
            why: Reason::NotReached {
                held: view.window.held_mean,
            },
        };
    }
    let rate = view.window.served() as f64 / view.window.length.as_secs_f64();
    let minimum = settings.minimum;
    if minimum == 0 || rate < f64::from(minimum) {
        return climb.step(curve, view, view.gate(true, true));
    }
    if rate * 100.0 <= f64::from(minimum) * f64::from(ENOUGH_PERCENT) {
        return Move {
            ceiling: climb.give_up_trial(ceiling),
            why: Reason::Best { ceiling, rate },
        };
    }
    let lower = view.bounds.clamp(lowered_by_a_step(ceiling));
    climb.move_to(lower);
    Move {
        ceiling: lower,
        why: Reason::Enough { rate, minimum },
    }
}
