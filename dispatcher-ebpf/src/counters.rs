//! One increment for each verdict.

use crate::maps::COUNTERS;

/// Adds one to a slot of `COUNTERS`.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the slot belongs to this processor, which runs one XDP program at a time.
        unsafe { *value += 1 };
    }
}
