//! What the program counted, summed over processors.

use dispatcher_common::verdict::{DropReason, Handled};

use aya::maps::{MapData, PerCpuArray};

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

    /// Requests to a service that the program dropped because they had not proved alive.
    #[must_use]
    pub fn unproven(&self, service: u32) -> u64 {
        sum(&self.unproven, service)
    }

    fn counter(&self, index: u32) -> u64 {
        sum(&self.counters, index)
    }
}

fn sum(of: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    of.get(&index, 0).map_or(0, |values| values.iter().sum())
}
