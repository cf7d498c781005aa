//! What was measured of a back-end, out of what the program counted: what came between two
//! readings, means, quantiles and maxima of it, and sums over longer times. Pure.
//!
//! How true it is: a time is measured to a unit of 1.024 µs. A quantile is the middle of its
//! bucket, so it lies within 1/32 and a unit of the value that it stands for, up to 69 s; what is
//! longer shows only in mean and maximum. A mean is of the values themselves. So is a maximum, when
//! readings are less than 1.5 s apart and each is made as a tick begins. Else the greatest value
//! may have been overwritten, or hidden in its tick by a greater one of the reading before: then
//! the upper end of its bucket is told, at most 1/16 more.

use std::time::Duration;

use dispatcher_common::measure::{Histogram, UNIT_NANOS, bounds_of, bucket};
use dispatcher_common::service::BackendCounters;

use crate::admission::Time;
use crate::ceiling::Times;

/// All that the program has counted of a back-end, summed over processors. It only grows, and means
/// something only beside another reading of the same back-end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Packets, bytes, requests.
    pub counters: BackendCounters,
    /// From a request to its answer.
    pub response: Histogram,
    /// From SYN to SYN-ACK.
    pub connect: Histogram,
}

/// What came between two readings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measured {
    /// Packets, bytes, requests.
    pub counters: BackendCounters,
    /// From a request to its answer; their number is that of the answers.
    pub response: Distribution,
    /// From SYN to SYN-ACK.
    pub connect: Distribution,
}

impl Reading {
    /// What came since an `earlier` reading. Counts of one bucket may have wrapped, once.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Measured {
        Measured {
            counters: self.counters.since(&earlier.counters),
            response: Distribution::between(&earlier.response, &self.response),
            connect: Distribution::between(&earlier.connect, &self.connect),
        }
    }
}

impl Measured {
    /// Adds what was measured at another time, or of another back-end.
    pub fn add(&mut self, other: &Self) {
        self.counters += other.counters;
        self.response.add(&other.response);
        self.connect.add(&other.connect);
    }
}

/// Adds what another processor recorded.
pub(crate) fn add_processor(total: &mut Histogram, one: &Histogram) {
    total.sum = total.sum.wrapping_add(one.sum);
    for (total, one) in total.buckets.iter_mut().zip(&one.buckets) {
        *total = total.wrapping_add(*one);
    }
    for (total, one) in total.peaks.iter_mut().zip(&one.peaks) {
        *total = (*total).max(*one);
    }
}

/// How often something took how long. One in which nothing was recorded takes no memory but itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// By bucket, up to the last that has any.
    counts: Vec<u64>,
    count: u64,
    /// Units.
    sum: u64,
    /// Units.
    max: u32,
}

impl Distribution {
    /// What was recorded after `earlier` and up to `later`.
    #[must_use]
    pub fn between(earlier: &Histogram, later: &Histogram) -> Self {
        let counts = later.buckets.iter().zip(&earlier.buckets);
        let mut counts: Vec<_> = counts
            .map(|(later, earlier)| u64::from(later.wrapping_sub(*earlier)))
            .collect();
        let Some(last) = counts.iter().rposition(|count| *count > 0) else {
            return Self::default();
        };
        counts.truncate(last + 1);
        // A word that changed is the greatest of its tick, and came since.
        let news = later.peaks.iter().zip(&earlier.peaks);
        let peaks = news
            .filter(|(later, earlier)| later != earlier)
            .map(|(later, _)| *later as u32)
            .filter(|peak| bucket(*peak) == last);
        Self {
            count: counts.iter().sum(),
            sum: later.sum.wrapping_sub(earlier.sum),
            max: peaks.max().unwrap_or(bounds_of(last).1),
            counts,
        }
    }

    /// Adds what another one holds.
    pub fn add(&mut self, other: &Self) {
        let len = self.counts.len().max(other.counts.len());
        self.counts.resize(len, 0);
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All values together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        units(u128::from(self.sum))
    }

    /// The value that `quantile` of them do not exceed; zero when there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile * self.count as f64).ceil() as u64;
        let rank = rank.clamp(1, self.count.max(1));
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return middle(at).min(self.max());
            }
        }
        Duration::ZERO
    }

    /// The greatest value; zero when there are none.
    #[must_use]
    pub fn max(&self) -> Duration {
        units(u128::from(self.max))
    }

    /// Mean; zero when there are none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let Some(first) = self.counts.iter().position(|count| *count > 0) else {
            return Duration::ZERO;
        };
        // A value that was being recorded when it was read may be in the counts and not in the sum.
        let least = units(u128::from(bounds_of(first).0));
        let mean = u128::from(self.sum) * u128::from(UNIT_NANOS) / u128::from(self.count);
        nanos(mean).clamp(least, self.max().max(least))
    }

    /// In short.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            count: self.count,
            mean: self.mean(),
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            max: self.max(),
        }
    }

    /// For each of the `bounds`, which ascend, how many values do not exceed it, as a Prometheus
    /// histogram wants them. A bucket goes where its middle is: what lies within 1/32 of a bound
    /// may be counted on its wrong side.
    #[must_use]
    pub fn up_to(&self, bounds: &[Duration]) -> Vec<u64> {
        let mut counts = self.counts.iter().enumerate().peekable();
        let mut below = 0;
        let up_to = |bound: &Duration| {
            while let Some((_, count)) = counts.next_if(|(at, _)| middle(*at) <= *bound) {
                below += count;
            }
            below
        };
        bounds.iter().map(up_to).collect()
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let (least, greatest) = bounds_of(bucket);
    nanos((u128::from(least) + u128::from(greatest)) * u128::from(UNIT_NANOS) / 2)
}

fn units(units: u128) -> Duration {
    nanos(units * u128::from(UNIT_NANOS))
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What was measured in the last minutes: the current half of the time, and the one before.
#[derive(Clone, Debug)]
pub struct Recent {
    current: Distribution,
    previous: Distribution,
    since: Time,
}

/// Each half.
const HALF: Duration = Duration::from_secs(60);

impl Recent {
    /// Nothing measured.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            current: Distribution::default(),
            previous: Distribution::default(),
            since: now,
        }
    }

    /// Adds what was measured until now.
    pub fn add(&mut self, now: Time, measured: &Distribution) {
        self.turn(now);
        self.current.add(measured);
    }

    /// What was measured in the last one to two minutes.
    pub fn both(&mut self, now: Time) -> Distribution {
        self.turn(now);
        let mut both = self.current.clone();
        both.add(&self.previous);
        both
    }

    fn turn(&mut self, now: Time) {
        let passed = now.since(self.since);
        if passed < HALF {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if passed >= 2 * HALF {
            self.previous = Distribution::default();
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use dispatcher_common::measure::bucket;
    use proptest::prelude::*;

    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_nanos(micros * UNIT_NANOS)
    }

    fn of(values: &[u32]) -> Distribution {
        Distribution::between(&Histogram::EMPTY, &recorded(Histogram::EMPTY, values, 1))
    }

    fn recorded(mut histogram: Histogram, values: &[u32], tick: u32) -> Histogram {
        for value in values {
            histogram.record(*value, tick);
        }
        histogram
    }

    #[test]
    fn nothing_recorded_is_zero_everywhere() {
        let none = of(&[]);
        assert_eq!(none, Distribution::default());
        assert_eq!(none.times(), Times::default());
        assert_eq!((none.count(), none.sum()), (0, Duration::ZERO));
        assert_eq!(none.up_to(&[us(1), us(2)]), [0, 0]);
    }

    #[test]
    fn small_values_are_told_as_they_are() {
        let times = of(&[1, 2, 3, 4, 30]).times();
        let expected = Times {
            count: 5,
            mean: us(8),
            p50: us(3),
            p99: us(30),
            max: us(30),
        };
        assert_eq!(times, expected);
    }

    #[test]
    fn no_quantile_is_above_the_maximum() {
        let least = 1 << 20;
        assert_eq!(
            of(&[least]).times().p99,
            us(1 << 20),
            "lowest of its bucket"
        );
        let beyond = of(&[u32::MAX]);
        assert_eq!(
            beyond.max(),
            us(u64::from(u32::MAX)),
            "the maximum has no range"
        );
        assert_eq!(beyond.mean(), beyond.max());
        assert!(beyond.quantile(0.5) < us(1 << 26));
    }

    #[test]
    fn a_difference_holds_what_came_between_and_nothing_else() {
        let earlier = recorded(Histogram::EMPTY, &[5, 900_000], 7);
        let later = recorded(earlier, &[7, 7, 80], 8);
        let between = Distribution::between(&earlier, &later);
        assert_eq!(between, of(&[7, 7, 80]));
        assert_eq!(Distribution::between(&later, &later), of(&[]));
    }

    #[test]
    fn a_maximum_is_the_windows_own_also_in_a_tick_that_two_windows_share() {
        let earlier = recorded(Histogram::EMPTY, &[1003], 7);
        let greater = recorded(earlier, &[1005], 7);
        assert_eq!(Distribution::between(&earlier, &greater).max(), us(1005));
        // Hidden by a greater one of the window before: the upper end of its bucket.
        let hidden = recorded(earlier, &[600], 7);
        let (least, greatest) = bounds_of(bucket(600));
        assert!(least < 600 && 600 < greatest);
        let max = Distribution::between(&earlier, &hidden).max();
        assert_eq!(max, us(u64::from(greatest)));
        // The same when the reader came so late that its place was taken.
        let late = recorded(recorded(earlier, &[600], 8), &[3], 24);
        assert_eq!(Distribution::between(&earlier, &late).max(), max);
    }

    #[test]
    fn counts_and_sums_may_wrap() {
        let mut earlier = Histogram::EMPTY;
        earlier.buckets[9] = u32::MAX;
        earlier.sum = u64::MAX - 8;
        let later = recorded(earlier, &[9, 9], 1);
        assert_eq!(Distribution::between(&earlier, &later), of(&[9, 9]));
    }

    #[test]
    fn a_value_that_is_just_being_recorded_leaves_a_mean_within_its_bounds() {
        let mut half = Histogram::EMPTY;
        half.buckets[bucket(5000)] = 1;
        let times = Distribution::between(&Histogram::EMPTY, &half).times();
        assert!(us(4800) < times.mean && times.mean <= times.max);
        let mut rest = half;
        rest.sum = 5000;
        assert_eq!(Distribution::between(&half, &rest), of(&[]));
    }

    #[test]
    fn processors_add_up() {
        let one = recorded(Histogram::EMPTY, &[5, 6], 20);
        let other = recorded(Histogram::EMPTY, &[6, 900], 4);
        let mut total = Histogram::EMPTY;
        add_processor(&mut total, &one);
        add_processor(&mut total, &other);
        let sum = Distribution::between(&Histogram::EMPTY, &total);
        assert_eq!(
            sum.max(),
            us(u64::from(bounds_of(bucket(900)).1)),
            "an older tick"
        );
        assert_eq!(sum.count(), 4);
        assert_eq!(sum.sum(), us(917));
    }

    #[test]
    fn buckets_for_prometheus_ascend_and_hold_what_is_below() {
        let values = of(&[10, 10, 1000, 3_000_000]);
        let bounds = [us(5), us(10), us(1100), us(2_000_000)];
        assert_eq!(values.up_to(&bounds), [0, 2, 3, 3]);
    }

    #[test]
    fn what_was_measured_is_shown_for_minutes_and_forgotten_then() {
        const fn at(seconds: u64) -> Time {
            Time(seconds * 1_000_000_000)
        }
        let mut recent = Recent::new(at(0));
        recent.add(at(1), &of(&[5]));
        recent.add(at(61), &of(&[9]));
        assert_eq!(recent.both(at(62)), of(&[5, 9]));
        assert_eq!(recent.both(at(121)), of(&[9]));
        assert_eq!(recent.both(at(182)), of(&[]));
        recent.add(at(183), &of(&[5]));
        assert_eq!(recent.both(at(400)), of(&[]));
    }

    proptest! {
        #[test]
        fn quantiles_are_as_near_as_stated(
            values in prop::collection::vec(
                (0..26u32, 0..1u32 << 26).prop_map(|(shift, value)| value >> shift),
                1..200,
            ),
            quantile in 0.0..=1.0f64,
        ) {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let all = of(&values);
            let rank = ((quantile * sorted.len() as f64).ceil() as usize).max(1);
            let exact = us(u64::from(sorted[rank - 1]));
            let error = all.quantile(quantile).abs_diff(exact);
            prop_assert!(32 * error <= exact, "{error:?} of {exact:?}");
            prop_assert_eq!(all.max(), us(u64::from(sorted[sorted.len() - 1])));
            prop_assert!(all.quantile(quantile) <= all.max());
            let sum: u64 = sorted.iter().map(|value| u64::from(*value)).sum();
            prop_assert_eq!(all.mean(), us(sum) / sorted.len() as u32);
        }

        #[test]
        fn sums_of_windows_are_the_whole(
            windows in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..20), 1..30),
        ) {
            let (mut now, mut sum) = (Histogram::EMPTY, Distribution::default());
            for (tick, values) in windows.iter().enumerate() {
                let next = recorded(now, values, tick as u32);
                sum.add(&Distribution::between(&now, &next));
                now = next;
            }
            prop_assert_eq!(sum, of(&windows.concat()));
        }
    }
}
