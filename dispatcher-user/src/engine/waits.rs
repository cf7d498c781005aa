//! How long requests waited that were admitted from a queue: quantiles over the last minutes, and
//! counts by size since the service came.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::admission::Time;
use crate::status::{TimesBySize, WaitMs};
use crate::telemetry::QUEUE_WAIT_BUCKETS;

/// Each half of the window; what is shown covers the current half and the one before.
const HALF: Duration = Duration::from_secs(60);

/// Longest wait that is told apart, ms: the longest queue timeout.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;

/// Waits of one service's queue.
pub struct Waits {
    current: Histogram<u32>,
    previous: Histogram<u32>,
    since: Time,
    sizes: TimesBySize,
}

impl Waits {
    /// Nothing measured.
    #[must_use]
    pub fn new(now: Time) -> Self {
        // Two significant digits: every value is told within 1 %.
        let empty = || {
            Histogram::new_with_bounds(1, LONGEST_MS, 2)
                .expect("1 <= 1, 2 * 1 <= LONGEST_MS and at most 5 digits are what it asks for")
        };
        Self {
            current: empty(),
            previous: empty(),
            since: now,
            sizes: TimesBySize {
                at_most: vec![0; QUEUE_WAIT_BUCKETS.len()],
                ..TimesBySize::default()
            },
        }
    }

    /// A request was admitted after waiting.
    pub fn record(&mut self, now: Time, waited: Duration) {
        self.turn(now);
        self.current
            .saturating_record(u64::try_from(waited.as_millis()).unwrap_or(LONGEST_MS));
        let seconds = waited.as_secs_f64();
        for (bound, count) in QUEUE_WAIT_BUCKETS.iter().zip(&mut self.sizes.at_most) {
            *count += u64::from(seconds <= *bound);
        }
        self.sizes.count += 1;
        self.sizes.sum_seconds += seconds;
    }

    /// All of them by size.
    #[must_use]
    pub const fn sizes(&self) -> &TimesBySize {
        &self.sizes
    }

    /// Quantiles of the last one to two minutes.
    pub fn quantiles(&mut self, now: Time) -> WaitMs {
        self.turn(now);
        let mut both = self.current.clone();
        // Both have the same bounds.
        let _ = both.add(&self.previous);
        if both.is_empty() {
            return WaitMs::default();
        }
        WaitMs {
            p50: Some(both.value_at_quantile(0.5)),
            p99: Some(both.value_at_quantile(0.99)),
            max: Some(both.max()),
        }
    }

    fn turn(&mut self, now: Time) {
        let passed = now.since(self.since);
        if passed < HALF {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.reset();
        if passed >= 2 * HALF {
            self.previous.reset();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn waits_are_shown_for_the_last_minutes_and_forgotten_then() {
        let mut waits = Waits::new(at(0));
        assert_eq!(waits.quantiles(at(0)), WaitMs::default());
        for ms in 1..=100 {
            waits.record(at(1), Duration::from_millis(ms));
        }
        let expected = WaitMs {
            p50: Some(50),
            p99: Some(99),
            max: Some(100),
        };
        assert_eq!(waits.quantiles(at(1)), expected);
        assert_eq!(
            waits.quantiles(at(61)),
            expected,
            "the half before still counts"
        );
        assert_eq!(waits.quantiles(at(122)), WaitMs::default());
    }

    #[test]
    fn waits_are_counted_by_size_for_ever() {
        let mut waits = Waits::new(at(0));
        for (second, ms) in [(1, 1), (2, 2), (500, 700), (501, 60_000)] {
            waits.record(at(second), Duration::from_millis(ms));
        }
        let sizes = waits.sizes();
        assert_eq!(sizes.at_most, [1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
        assert_eq!((sizes.count, sizes.sum_seconds), (4, 60.703));
    }
}
