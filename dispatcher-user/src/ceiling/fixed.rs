//! `fixed`: the ceiling is its initial value.

use super::climb::Move;
use super::reason::Reason;

pub(super) const fn decide(initial: u32) -> Move {
    Move {
        ceiling: initial,
        why: Reason::Fixed,
    }
}
