//! `fixed`: the ceiling stays where it is.

use super::climb::Move;
use super::guard::View;
use super::reason::Reason;

pub(super) const fn decide(view: &View<'_>) -> Move {
    Move {
        ceiling: view.ceiling,
        why: Reason::Fixed,
    }
}
