//! What a server gave at each concurrency so far: a short memory of points that fades.

use core::time::Duration;
use std::collections::BTreeMap;

use super::window::Window;

/// What of a point's weight is left after each window: half after 34 windows.
const FADE: f64 = 0.98;

/// Most weight of a point, in requests: with more, it would follow a slow change too late.
const WEIGHT_MAX: f64 = 1500.0;

/// A point of less weight is forgotten.
const WEIGHT_MIN: f64 = 1.0;

/// Buckets of an octave; below this concurrency each number has its own.
const OCTAVE: u32 = 8;

/// What was measured around one concurrency.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Point {
    /// Connections held.
    pub(super) held: f64,
    /// Requests served a second.
    pub(super) rate: f64,
    /// Mean response time, in seconds; 0 where none was measured.
    pub(super) response: f64,
    /// Its 99th percentile.
    pub(super) p99: f64,
    /// Requests that this stands on; what is long ago counts less.
    pub(super) weight: f64,
}

impl Point {
    /// Of one window; `None` if nothing was served.
    pub(super) fn of(window: &Window) -> Option<Self> {
        let (served, seconds) = (window.served(), window.length.as_secs_f64());
        (served > 0 && seconds > 0.0).then(|| Self {
            held: window.held_mean,
            rate: served as f64 / seconds,
            response: window.response.mean.as_secs_f64(),
            p99: window.response.p99.as_secs_f64(),
            weight: served as f64,
        })
    }

    /// Both together, each by its weight.
    pub(super) fn and(self, other: Self) -> Self {
        let weight = self.weight + other.weight;
        let part = other.weight / weight;
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Self {
            held: mix(self.held, other.held),
            rate: mix(self.rate, other.rate),
            response: mix(self.response, other.response),
            p99: mix(self.p99, other.p99),
            weight,
        }
    }

    /// Relative standard error of `rate`, as if requests ended at random.
    pub(super) fn error(&self) -> f64 {
        1.0 / self.weight.max(1.0).sqrt()
    }
}

/// Points by concurrency.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    points: BTreeMap<u32, Point>,
}

impl Curve {
    /// A window is over in which the server had that many connections.
    pub(super) fn observe(&mut self, held: f64, window: &Window) {
        self.points.retain(|_, point| {
            point.weight *= FADE;
            point.weight >= WEIGHT_MIN
        });
        if let Some(mut new) = Point::of(window) {
            new.held = held;
            self.points
                .entry(bucket(held))
                .and_modify(|old| {
                    *old = old.and(new);
                    old.weight = old.weight.min(WEIGHT_MAX);
                })
                .or_insert(new);
        }
    }

    /// What was measured around a ceiling.
    pub(super) fn at(&self, ceiling: u32) -> Option<Point> {
        self.points.get(&bucket(f64::from(ceiling))).copied()
    }

    /// It is measured anew: what was known of it counts a quarter.
    pub(super) fn doubt(&mut self, ceiling: u32) {
        if let Some(point) = self.points.get_mut(&bucket(f64::from(ceiling))) {
            point.weight /= 4.0;
        }
    }

    /// The server is another one.
    pub(super) fn forget(&mut self) {
        self.points.clear();
    }

    /// All points, by rising concurrency.
    pub(super) fn points(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.values()
    }
}

/// One number for what is close together: each up to 8, then eight to the octave.
fn bucket(held: f64) -> u32 {
    let held = held.clamp(0.0, f64::from(u32::MAX));
    if held < f64::from(OCTAVE) {
        held.round() as u32
    } else {
        (f64::from(OCTAVE) * (held / f64::from(OCTAVE)).log2()) as u32 + OCTAVE
    }
}

/// The ceiling that the measurements so far point to. Displayed with why: `best 812 requests/s at
/// 14 connections, p99 38 ms; 9 % less at 24`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Suggestion {
    /// The ceiling.
    pub ceiling: u32,
    /// Requests a second at it.
    pub rate: f64,
    /// The response time there, p99; zero where none was measured.
    pub p99: Duration,
    /// The greatest concurrency measured beyond it, and how much less it gave, in percent.
    pub beyond: Option<(u32, f64)>,
    /// Whether more may be better still: nothing was measured beyond.
    pub open: bool,
}

/// Requests that a point must stand on to be suggested.
const SUGGESTED_WEIGHT_MIN: f64 = 200.0;

/// Throughput as good as the best, as a part of it: among those, the least ceiling is suggested.
const AS_GOOD: f64 = 0.97;

impl Curve {
    /// The concurrency of best throughput whose p99 is within the goal.
    pub(super) fn suggestion(&self, goal: Option<Duration>) -> Option<Suggestion> {
        let goal = goal.map_or(f64::INFINITY, |goal| goal.as_secs_f64());
        let known = || {
            self.points()
                .filter(|point| point.weight >= SUGGESTED_WEIGHT_MIN)
        };
        if known().count() < 2 {
            return None;
        }
        let good = || known().filter(|point| point.p99 <= goal);
        let most = good().map(|point| point.rate).fold(0.0, f64::max);
        let best = good().find(|point| point.rate >= most * AS_GOOD)?;
        let last = known().next_back()?;
        let less = (1.0 - last.rate / best.rate) * 100.0;
        let beyond = (last.held > best.held * 1.1).then(|| (last.held.round() as u32, less));
        Some(Suggestion {
            ceiling: (best.held.round() as u32).max(1),
            rate: best.rate,
            p99: Duration::from_secs_f64(best.p99.max(0.0)),
            beyond,
            open: beyond.is_none(),
        })
    }
}

impl core::fmt::Display for Suggestion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            ceiling,
            rate,
            p99,
            beyond,
            open,
        } = self;
        write!(f, "best {rate:.0} requests/s at {ceiling} connections")?;
        if !p99.is_zero() {
            write!(f, ", p99 {:.0} ms", p99.as_secs_f64() * 1000.0)?;
        }
        if let Some((held, less)) = beyond {
            let word = if *less < 0.0 { "more" } else { "less" };
            write!(f, "; {:.0} % {word} at {held}", less.abs())?;
        }
        if *open {
            f.write_str("; nothing was measured beyond")?;
        }
        Ok(())
    }
}

/// An exponential average that begins as a plain one: the first `warm_up` samples count alike,
/// then each new one by `2 / (window + 1)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Average {
    value: f64,
    count: u32,
    warm_up: u32,
    factor: f64,
}

impl Average {
    pub(super) fn new(window: u32, warm_up: u32) -> Self {
        Self {
            value: 0.0,
            count: 0,
            warm_up,
            factor: 2.0 / (f64::from(window) + 1.0),
        }
    }

    /// Takes a sample into account; returns the average.
    pub(super) fn add(&mut self, sample: f64) -> f64 {
        let factor = if self.count < self.warm_up {
            self.count += 1;
            1.0 / f64::from(self.count)
        } else {
            self.factor
        };
        self.value += (sample - self.value) * factor;
        self.value
    }

    /// The average; 0 before the first sample.
    pub(super) const fn get(&self) -> f64 {
        self.value
    }
}

impl Default for Average {
    /// Over three samples, more or less.
    fn default() -> Self {
        Self::new(5, 3)
    }
}

/// The nearest number within; the least for what is none, which `clamp` would hand on.
pub(super) fn within(low: f64, high: f64, number: f64) -> f64 {
    if number > low { number.min(high) } else { low }
}

/// A time in seconds; the longest there is for what is too long, or none.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::window::Times;
    use super::*;

    /// Netflix concurrency-limits, `ExpAvgMeasurementTest`.
    #[test]
    fn an_average_warms_up() {
        let mut average = Average::new(100, 10);
        for (sample, expected) in [10.0, 10.5, 11.0, 11.5, 12.0, 12.5, 13.0, 13.5, 14.0, 14.5]
            .iter()
            .enumerate()
        {
            let value = average.add(sample as f64 + 10.0);
            assert!((value - expected).abs() < 0.01);
        }
        assert!((average.add(100.0) - 16.2).abs() < 0.1);
    }

    fn measured(held: f64, served: u64, p99_ms: u64) -> Window {
        Window {
            length: Duration::from_secs(1),
            held_mean: held,
            response: Times {
                count: served,
                p99: Duration::from_millis(p99_ms),
                ..Times::default()
            },
            ..Window::default()
        }
    }

    fn curve(points: &[(f64, u64, u64)]) -> Curve {
        let mut curve = Curve::default();
        for &(held, served, p99) in points {
            curve.observe(held, &measured(held, served, p99));
        }
        curve
    }

    #[test]
    fn what_is_suggested_is_the_least_of_the_best() {
        let curve = curve(&[(8.0, 700, 20), (14.0, 812, 38), (24.0, 739, 90)]);
        let told = |goal| curve.suggestion(goal).map(|it| it.to_string());
        assert_eq!(
            told(None).unwrap(),
            "best 812 requests/s at 14 connections, p99 38 ms; 9 % less at 24"
        );
        assert_eq!(
            told(Some(Duration::from_millis(30))).unwrap(),
            "best 700 requests/s at 8 connections, p99 20 ms; 6 % more at 24"
        );
        assert_eq!(told(Some(Duration::from_millis(10))), None);
    }

    #[test]
    fn too_little_suggests_nothing() {
        assert_eq!(curve(&[]).suggestion(None), None);
        assert_eq!(curve(&[(8.0, 700, 20)]).suggestion(None), None);
        assert_eq!(
            curve(&[(8.0, 700, 20), (16.0, 20, 9)]).suggestion(None),
            None
        );
    }

    #[test]
    fn a_point_fades_and_its_neighbours_are_another() {
        let mut curve = curve(&[(8.0, 1000, 20)]);
        for _ in 0..400 {
            curve.observe(40.0, &measured(40.0, 1_000_000, 20));
        }
        assert_eq!(curve.points().count(), 1);
        assert_eq!(bucket(f64::from(u32::MAX)), 239);
        for held in 1..8 {
            assert!(bucket(f64::from(held)) < bucket(f64::from(held) + 1.0));
        }
    }
}
