//! What the program counted, summed over processors.

use dispatcher_common::verdict::{DropReason, Handled};

use super::Datapath;

impl Datapath {
    /// Frames that the program dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counter(reason.counter())
    }

    /// What else the program counted.
    #[must_use]
    pub fn handled(&self, handled: Handled) -> u64 {
        self.counter(handled.counter())
    }

    fn counter(&self, index: u32) -> u64 {
        self.counters
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}
