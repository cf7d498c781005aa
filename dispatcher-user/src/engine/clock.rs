//! The only place that asks the time.

use dispatcher_common::control::TICK_MS;
use nix::time::{ClockId, clock_gettime};

use crate::admission::Time;

/// Now, by the clock that a restart of the daemon does not touch.
pub fn now() -> Time {
    // CLOCK_MONOTONIC exists on every Linux and cannot fail.
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    Time(u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX))
}

/// The tick that `now` lies in, as the program stamps entries with it.
pub fn ticks(now: Time) -> u32 {
    (now.0 / (TICK_MS * 1_000_000)) as u32
}

/// The time at which a tick began.
pub fn of_ticks(ticks: u32) -> Time {
    Time(u64::from(ticks) * TICK_MS * 1_000_000)
}
