//! The available back-ends in the order of their load, and of two that are loaded alike, of their
//! turns. The first is known at once, and one that changes finds its place in a step a level.
//!
//! Turns are those of stride scheduling: each back-end has a virtual time at which it is due, a
//! pick moves that on by a stride, and strides are in inverse proportion to weights. One that was
//! away and comes back may be due long since: it is picked once, and then has its next turn a
//! stride from now; what it missed is not made up for.

use super::lanes::{Open, of_lane};
use super::{Exclude, POSITIONS_MAX};

/// Stride of weight 1. What a weight is worth is rounded by less than its thousandth part.
pub(super) const STRIDE: u32 = 1 << 20;

const POSITION_BITS: u32 = POSITIONS_MAX.ilog2();
const _: () = assert!(POSITIONS_MAX.is_power_of_two());
/// A stride for each of 2^52 picks: they do not run out.
const TURN_BITS: u32 = 72;
const LOAD_BITS: u32 = u128::BITS - TURN_BITS - POSITION_BITS;

/// Greatest load that is told from a greater one: 16 million slots at weight 1.
const LOAD_MAX: u64 = (1 << LOAD_BITS) - 1;

/// Load, turn and position, from the highest bit on.
type Key = u128;

/// Greater than every key: a load is kept below its last value.
const ABSENT: Key = Key::MAX;

/// An order for each lane, with one virtual time.
#[derive(Clone, Debug)]
pub(super) struct Ordered {
    lanes: Vec<Tournament>,
    /// When each back-end is due, by position.
    turns: Vec<u128>,
    time: u128,
}

impl Ordered {
    pub(super) const fn new() -> Self {
        Self {
            lanes: Vec::new(),
            turns: Vec::new(),
            time: 0,
        }
    }

    /// A back-end that is new is due now.
    pub(super) fn enter(&mut self, position: u32) {
        let position = position as usize;
        if position >= self.turns.len() {
            self.turns.resize(position + 1, 0);
        }
        self.turns[position] = self.time;
    }

    /// Its load, or nothing when it is not available.
    pub(super) fn set(&mut self, lane: usize, position: u32, load: Option<u64>) {
        let key = load.map_or(ABSENT, |load| {
            let load = Key::from(load.min(LOAD_MAX - 1));
            let turn = self.turns[position as usize];
            (load << TURN_BITS | turn) << POSITION_BITS | Key::from(position)
        });
        of_lane(&mut self.lanes, lane, Tournament::new).set(position as usize, key);
    }

    /// The first of all open lanes, which `stride_of` moves on.
    pub(super) fn pick(
        &mut self,
        open: Open,
        exclude: &mut Exclude<'_>,
        stride_of: impl Fn(u32) -> u32,
    ) -> Option<u32> {
        let mut excluded = Vec::new();
        let picked = loop {
            let Some((key, lane)) = self.first(open) else {
                break None;
            };
            let position = position_of(key);
            if !exclude(position) {
                break Some((key, lane, position));
            }
            self.lanes[lane].set(position as usize, ABSENT);
            excluded.push((key, lane));
        };
        for (key, lane) in excluded {
            self.lanes[lane].set(position_of(key) as usize, key);
        }
        let (key, lane, position) = picked?;
        let turn = &mut self.turns[position as usize];
        self.time = self.time.max(*turn);
        *turn = self.time + u128::from(stride_of(position));
        let load = key >> (TURN_BITS + POSITION_BITS);
        self.set(lane, position, Some(load as u64));
        Some(position)
    }

    fn first(&self, open: Open) -> Option<(Key, usize)> {
        let first = |lane: usize| Some((self.lanes.get(lane)?.first()?, lane));
        open.lanes().filter_map(first).min()
    }
}

const fn position_of(key: Key) -> u32 {
    (key & (POSITIONS_MAX as Key - 1)) as u32
}

/// A tree whose leaves are keys by position, and each of whose nodes is the lesser of its two.
#[derive(Clone, Debug)]
struct Tournament {
    /// The root is the second; the children of each are at twice its place, and the next.
    nodes: Vec<Key>,
}

impl Tournament {
    fn new() -> Self {
        Self {
            nodes: vec![ABSENT; 2],
        }
    }

    fn first(&self) -> Option<Key> {
        Some(self.nodes[1]).filter(|&key| key != ABSENT)
    }

    fn set(&mut self, position: usize, key: Key) {
        let leaves = self.nodes.len() / 2;
        if position >= leaves {
            self.grow(position);
        }
        let mut at = self.nodes.len() / 2 + position;
        if self.nodes[at] == key {
            return;
        }
        self.nodes[at] = key;
        let mut lesser = key;
        while at > 1 {
            lesser = lesser.min(self.nodes[at ^ 1]);
            at /= 2;
            self.nodes[at] = lesser;
        }
    }

    fn grow(&mut self, position: usize) {
        let leaves = (position + 1).next_power_of_two();
        let old = core::mem::replace(&mut self.nodes, vec![ABSENT; 2 * leaves]);
        let (_, keys) = old.split_at(old.len() / 2);
        for (position, &key) in keys.iter().enumerate() {
            self.set(position, key);
        }
    }
}
