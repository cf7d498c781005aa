//! The slots of one back-end and the ceiling that bounds them. It counts and compares; it does not
//! know whose the slots are.

use core::time::Duration;

use super::Time;
use super::settings::Ceiling;
use super::window::Level;

/// What a slot is held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// A handshake that is not finished.
    HalfOpen,
    /// An established or closing connection.
    Active,
}

/// Counts of a back-end. A slot is taken at admission and given back when the connection ends;
/// nothing but the ceiling at admission bounds them, so a lowered ceiling cuts no connection.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    ceiling: u32,
    min: u32,
    max: u32,
    half_open: u32,
    active: u32,
    /// Percent of the ceiling that unfinished handshakes may hold; at least one slot.
    half_open_percent: u32,
    held_max: u32,
    /// Slots in use, over the window.
    level: Level,
    /// None was free at some time in the window.
    reached: bool,
}

impl Limiter {
    pub(super) fn new(now: Time, bounds: Ceiling, capacity: u32) -> Self {
        let mut limiter = Self {
            ceiling: bounds.initial,
            min: 0,
            max: 0,
            half_open: 0,
            active: 0,
            half_open_percent: 100,
            held_max: 0,
            level: Level::new(now),
            reached: false,
        };
        limiter.set_bounds(bounds, capacity);
        limiter
    }

    /// Changes the bounds, and the ceiling as far as they force it.
    pub(super) fn set_bounds(&mut self, bounds: Ceiling, capacity: u32) {
        self.max = bounds.max.min(capacity.saturating_sub(1));
        self.min = bounds.min.min(self.max);
        self.set_ceiling(self.ceiling);
    }

    /// As near to `ceiling` as the bounds allow.
    pub(super) fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.clamp(self.min, self.max);
        self.reached |= self.is_full();
    }

    /// Changes what unfinished handshakes may hold of the ceiling, percent; at least one slot.
    pub(super) fn bound_half_open(&mut self, percent: u32) {
        self.half_open_percent = percent;
    }

    /// Whether a slot may be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full() && self.half_open < self.half_open_max()
    }

    fn half_open_max(&self) -> u32 {
        let share = u64::from(self.ceiling) * u64::from(self.half_open_percent) / 100;
        // Of a ceiling, so it fits.
        (share as u32).max(1)
    }

    const fn is_full(&self) -> bool {
        self.held() >= self.ceiling
    }

    /// Takes a slot. A flow that lived through a restart takes one even above the ceiling.
    pub(super) fn take(&mut self, now: Time, slot: Slot) {
        *self.count(slot) += 1;
        self.held_max = self.held_max.max(self.held());
        self.level.set(now, self.held());
        self.reached |= self.is_full();
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, now: Time, slot: Slot) {
        self.count_down(slot);
        self.level.set(now, self.held());
    }

    /// A handshake was finished: its slot is held for a connection now.
    pub(super) fn establish(&mut self) {
        self.count_down(Slot::HalfOpen);
        self.active += 1;
    }

    /// Slots held in a window that ends now, on average and at most, and whether there was a time
    /// when none was free.
    pub(super) fn take_window(&mut self, now: Time, length: Duration) -> (f64, u32, bool) {
        let (mean, max) = self.level.take(now, length);
        let reached = self.reached;
        self.reached = self.is_full();
        (mean, max, reached)
    }

    /// Slots in use.
    pub(super) const fn held(&self) -> u32 {
        self.half_open + self.active
    }

    pub(super) const fn ceiling(&self) -> u32 {
        self.ceiling
    }

    pub(super) const fn bounds(&self) -> (u32, u32) {
        (self.min, self.max)
    }

    pub(super) const fn half_open(&self) -> u32 {
        self.half_open
    }

    pub(super) const fn active(&self) -> u32 {
        self.active
    }

    /// Most slots ever in use at once.
    pub(super) const fn held_max(&self) -> u32 {
        self.held_max
    }

    fn count_down(&mut self, slot: Slot) {
        let count = self.count(slot);
        debug_assert!(*count > 0, "a slot is given back once");
        *count = count.saturating_sub(1);
    }

    fn count(&mut self, slot: Slot) -> &mut u32 {
        match slot {
            Slot::HalfOpen => &mut self.half_open,
            Slot::Active => &mut self.active,
        }
    }
}
