//! What was measured of a back-end, out of what the program counted: what came between two
//! readings, means, quantiles and maxima of it, and sums over longer times. Pure.
//!
//! How true it is: a time is measured to a unit of 1.024 µs. A quantile is the middle of its bucket,
//! so it lies within 1/32 and a unit of the value that it stands for, up to 69 s; what is longer
//! shows only in mean and maximum. A mean is of the values themselves. So is a maximum, if the
//! readings are less than 1.5 s apart: what is overwritten by then, or was hidden in its tick by a
//! greater one before the first reading, is told as the upper end of its bucket, at most 1/16 more.

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
    /// histogram wants them. A bucket goes where its middle is: what lies within 1/32 of a bound may
    /// be counted on its wrong side.
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
