//! When a back-end is checked. Pure: time is an argument, and chance comes from a seed.

use core::time::Duration;

/// The first check comes within this time, or within the interval if that is shorter, so that a
/// start is soon over and yet not all are checked at once.
pub const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// How far an interval may be from the one that is configured, of it: one in so many. Checks of
/// several dispatchers do not keep step.
const JITTER: u32 = 10;

/// The times of the checks of one back-end, since it began.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    random: u64,
    due: Duration,
}

impl Schedule {
    /// Begins at 0.
    #[must_use]
    pub fn new(interval: Duration, seed: u64) -> Self {
        let mut schedule = Self {
            interval,
            random: seed,
            due: Duration::ZERO,
        };
        schedule.due = schedule.up_to(interval.min(FIRST_WITHIN));
        schedule
    }

    /// When the next check is due.
    #[must_use]
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// A check is over. The next one comes an interval after that was due, a tenth more or less; if
    /// that is past, a check was late, and none is caught up on.
    pub fn advance(&mut self, now: Duration) {
        let spread = self.interval / JITTER;
        let step = self.interval - spread + self.up_to(2 * spread);
        self.due = self.due.saturating_add(step).max(now);
    }

    /// At random from 0 to `most`.
    fn up_to(&mut self, most: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = (mixed ^ (mixed >> 31)) >> 32;
        // A day of nanoseconds times 2^32 is below 2^80.
        let nanos = (most.as_nanos() * u128::from(part)) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn first_checks_of_many_are_spread_evenly() {
        let mut tenths = [0; 10];
        for seed in 0..4096 {
            let due = Schedule::new(60 * SECOND, seed).due();
            tenths[(due.as_millis() / 200) as usize] += 1;
        }
        for tenth in tenths {
            assert!((300..=520).contains(&tenth), "{tenths:?}");
        }
    }

    #[test]
    fn a_check_that_is_late_is_not_caught_up_on() {
        let mut schedule = Schedule::new(SECOND, 1);
        schedule.advance(100 * SECOND);
        assert_eq!(schedule.due(), 100 * SECOND);
        schedule.advance(100 * SECOND);
        let due = schedule.due();
        assert!((SECOND * 9 / 10..=SECOND * 11 / 10).contains(&(due - 100 * SECOND)));
    }

    proptest! {
        #[test]
        fn intervals_are_about_what_is_configured(
            millis in 100_u64..=86_400_000,
            seed: u64,
        ) {
            let interval = Duration::from_millis(millis);
            let mut schedule = Schedule::new(interval, seed);
            prop_assert!(schedule.due() <= interval.min(FIRST_WITHIN));
            let first = schedule.due();
            let mut before = first;
            for _ in 0..200 {
                schedule.advance(before);
                let step = schedule.due() - before;
                prop_assert!(step >= interval * 9 / 10 && step <= interval * 11 / 10);
                before = schedule.due();
            }
            let mean = (before - first) / 200;
            prop_assert!(mean >= interval * 95 / 100 && mean <= interval * 105 / 100);
        }
    }
}
