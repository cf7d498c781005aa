//! The available back-ends one after the other, by position, each as often as any.

use super::lanes::{Open, of_lane};
use super::set::PositionSet;
use super::{Exclude, POSITIONS_MAX};

/// A set of positions for each lane, gone through by one cursor as if they were one.
#[derive(Clone, Debug)]
pub(super) struct InTurn {
    lanes: Vec<PositionSet>,
    cursor: u32,
}

impl InTurn {
    pub(super) const fn new() -> Self {
        Self {
            lanes: Vec::new(),
            cursor: 0,
        }
    }

    pub(super) fn set(&mut self, lane: usize, position: u32, available: bool) {
        of_lane(&mut self.lanes, lane, || PositionSet::EMPTY).set(position, available);
    }

    /// The next; in constant time, times the lanes and those that are excluded.
    pub(super) fn pick(&mut self, open: Open, exclude: &mut Exclude<'_>) -> Option<u32> {
        let first = self.next_from(open, self.cursor)?;
        let mut position = first;
        while exclude(position) {
            position = self.next_from(open, after(position))?;
            if position == first {
                return None;
            }
        }
        self.cursor = after(position);
        Some(position)
    }

    fn next_from(&self, open: Open, from: u32) -> Option<u32> {
        let next = |lane: usize| self.lanes.get(lane)?.next_from(from);
        open.lanes()
            .filter_map(next)
            .min_by_key(|position| position.wrapping_sub(from) % POSITIONS_MAX)
    }
}

const fn after(position: u32) -> u32 {
    (position + 1) % POSITIONS_MAX
}
