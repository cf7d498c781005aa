//! A hierarchical timing wheel: arm and cancel in constant time, the next deadline in one step a
//! level, memory for one timer a record. It does not know what its timers are for.
//!
//! A timer stands at the level of the highest digit (base 64) in which its tick differs from the
//! tick that the wheel has reached; so slots never wrap. Reaching a slot of a higher level moves
//! its timers down one by one, and each move counts as a step, so that a caller can bound its
//! steps however many timers share a slot.

use super::keys::Owner;
use super::slab::{NONE, Slab};
use super::time::Time;
use core::num::NonZeroU32;

/// Resolution: a timer fires at the first whole tick at or after its deadline, never before.
pub(super) const NANOS_PER_TICK: u64 = 1_000_000;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 8;
const _: () = assert!(
    u64::MAX / NANOS_PER_TICK < 1 << (SLOT_BITS as usize * LEVELS),
    "every deadline has a slot"
);

const UNARMED: u16 = u16::MAX;

/// A timer. Its owner has exactly one, armed or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TimerId(NonZeroU32);

impl TimerId {
    const fn index(self) -> u32 {
        self.0.get() - 1
    }
}

#[derive(Clone, Debug)]
struct Timer {
    tick: u64,
    previous: u32,
    next: u32,
    owner: Owner,
    place: u16,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The timer of this owner fired, and is no longer armed.
    Fired(Owner),
    /// A timer came nearer.
    Moved,
    /// Nothing is due.
    Idle,
}

/// The wheel.
#[derive(Clone, Debug)]
pub(super) struct Wheel {
    /// Tick that was reached: everything before it has fired.
    reached: u64,
    /// No timer is due before this tick; maybe none is due at it.
    soonest: u64,
    /// Which slots of a level have timers.
    occupied: [u64; LEVELS],
    slots: Vec<List>,
    timers: Slab<Timer>,
}

impl Wheel {
    /// Bytes of one timer.
    #[cfg(test)]
    pub(super) const BYTES_PER_TIMER: usize = size_of::<super::slab::Entry<Timer>>();

    /// Without timers, of which there may be `capacity`.
    pub(super) fn new(capacity: u32) -> Self {
        let empty = List {
            first: NONE,
            last: NONE,
        };
        Self {
            reached: 0,
            soonest: u64::MAX,
            occupied: [0; LEVELS],
            slots: vec![empty; LEVELS * SLOTS],
            timers: Slab::new(capacity),
        }
    }

    /// Changes how many timers there may be.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.timers.set_capacity(capacity);
    }

    /// Makes a timer for `owner`, not armed.
    pub(super) fn add(&mut self, owner: Owner) -> TimerId {
        let index = self
            .timers
            .insert(Timer {
                tick: 0,
                previous: NONE,
                next: NONE,
                owner,
                place: UNARMED,
            })
            .ok()
            .and_then(|index| NonZeroU32::new(index + 1));
        TimerId(index.expect("there is room for a timer for each record that there may be"))
    }

    /// Gives a timer to another owner, who is to arm it anew.
    pub(super) fn hand_over(&mut self, timer: TimerId, owner: Owner) {
        self.timers[timer.index()].owner = owner;
    }

    /// Forgets a timer, armed or not.
    pub(super) fn remove(&mut self, timer: TimerId) {
        self.unlink(timer.index());
        self.timers.remove(timer.index());
    }

    /// Sets the deadline of a timer, whether or not it had one. One that has passed fires at the
    /// next step.
    pub(super) fn arm(&mut self, timer: TimerId, deadline: Time) {
        self.unlink(timer.index());
        let tick = deadline.0.div_ceil(NANOS_PER_TICK).max(self.reached);
        self.timers[timer.index()].tick = tick;
        self.link(timer.index());
    }

    /// Whether an armed timer should have fired by `now`.
    pub(super) fn is_due(&self, timer: TimerId, now: Time) -> bool {
        let timer = &self.timers[timer.index()];
        timer.place != UNARMED && timer.tick <= now.0 / NANOS_PER_TICK
    }

    /// When to take the next step: not after the first deadline's tick, though maybe before it.
    pub(super) fn next(&self) -> Option<Time> {
        let (tick, _) = self.first_slot()?;
        Some(Time(tick.saturating_mul(NANOS_PER_TICK)))
    }

    /// Fires one timer that is due by `now`, or comes one step nearer to that. Timers fire in the
    /// order of their ticks.
    pub(super) fn step(&mut self, now: Time) -> Step {
        let now = now.0 / NANOS_PER_TICK;
        if now < self.soonest {
            self.reached = self.reached.max(now);
            return Step::Idle;
        }
        let (tick, place) = self.first_slot().unwrap_or((u64::MAX, 0));
        self.soonest = tick;
        if now < tick {
            self.reached = self.reached.max(now);
            return Step::Idle;
        }
        self.reached = tick;
        let index = self.slots[place as usize].first;
        self.unlink(index);
        if usize::from(place) < SLOTS {
            Step::Fired(self.timers[index].owner)
        } else {
            self.link(index);
            Step::Moved
        }
    }

    /// The slot to be reached first, and its first tick. Of two that begin together the higher
    /// level comes first, if the lower one does not fire already: it may hold timers for that very
    /// tick.
    fn first_slot(&self) -> Option<(u64, u16)> {
        // While a slot of the lowest level fires, it stays the first.
        let slot = self.reached as usize % SLOTS;
        if self.occupied[0] >> slot & 1 != 0 {
            return Some((self.reached, slot as u16));
        }
        let mut first = None;
        for level in (0..LEVELS).rev() {
            if self.occupied[level] == 0 {
                continue;
            }
            let slot = self.occupied[level].trailing_zeros();
            let shift = level as u32 * SLOT_BITS;
            let above = self.reached >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
            let tick = above | u64::from(slot) << shift;
            if first.is_none_or(|(earliest, _)| tick < earliest) {
                first = Some((tick, (level * SLOTS) as u16 + slot as u16));
            }
        }
        first
    }

    fn link(&mut self, index: u32) {
        let tick = self.timers[index].tick;
        let level = ((self.reached ^ tick) | (SLOTS as u64 - 1)).ilog2() / SLOT_BITS;
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        let place = level as usize * SLOTS + slot;
        self.occupied[level as usize] |= 1 << slot;
        let shift = level * SLOT_BITS;
        self.soonest = self.soonest.min(tick >> shift << shift);

        let last = self.slots[place].last;
        self.slots[place].last = index;
        if last == NONE {
            self.slots[place].first = index;
        } else {
            self.timers[last].next = index;
        }
        let timer = &mut self.timers[index];
        (timer.previous, timer.next) = (last, NONE);
        timer.place = place as u16;
    }

    fn unlink(&mut self, index: u32) {
        let Timer {
            previous,
            next,
            place,
            ..
        } = self.timers[index];
        if place == UNARMED {
            return;
        }
        self.timers[index].place = UNARMED;
        let place = usize::from(place);
        if previous == NONE {
            self.slots[place].first = next;
        } else {
            self.timers[previous].next = next;
        }
        if next == NONE {
            self.slots[place].last = previous;
        } else {
            self.timers[next].previous = previous;
        }
        if self.slots[place].first == NONE {
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }
}
