//! What an operator decides of ceilings: the policies, their parameters and defaults. Checked where
//! the configuration is read; contradictions are only survived here.

use core::time::Duration;

/// `1 <= min <= max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Never below.
    pub min: u32,
    /// Never above.
    pub max: u32,
}

impl Bounds {
    /// With its promise kept, whatever was said.
    pub(super) const fn sane(self) -> Self {
        let min = if self.min == 0 { 1 } else { self.min };
        let max = if self.max < min { min } else { self.max };
        Self { min, max }
    }

    /// The nearest ceiling within.
    pub(super) fn clamp(self, ceiling: u32) -> u32 {
        ceiling.clamp(self.min, self.max)
    }
}

/// What an operator decides of a service's ceilings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What moves them.
    pub policy: Policy,
    /// How long a window is.
    pub interval: Duration,
    /// How long a back-end that came up, or came back, takes to be given its whole ceiling; zero
    /// for at once.
    pub slow_start: Duration,
    /// The response time (p99) that is still good; nothing where none was stated.
    pub response_goal: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::QueueDepth(QueueDepth::default()),
            interval: Duration::from_secs(1),
            slow_start: Duration::ZERO,
            response_goal: None,
        }
    }
}

/// What moves a ceiling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Nothing.
    Fixed,
    /// The number of requests that wait.
    QueueDepth(QueueDepth),
    /// A response time that should stay within a band.
    ResponseTime(ResponseTime),
    /// The throughput: the best there is, or a minimum.
    Throughput(Throughput),
    /// The response time against that of the same back-end when it has little to do.
    Gradient(Gradient),
    /// The back-end itself.
    Agent(Agent),
}

impl Policy {
    /// As the configuration has it.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::QueueDepth(_) => "queue-depth",
            Self::ResponseTime(_) => "response-time",
            Self::Throughput(_) => "throughput",
            Self::Gradient(_) => "gradient",
            Self::Agent(_) => "agent",
        }
    }
}

/// Raises while many requests wait, lowers while few do; `lower_below <= raise_above`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueDepth {
    /// Raised while more than this wait, averaged over the window.
    pub raise_above: u32,
    /// Lowered while fewer than this wait, averaged over the window.
    pub lower_below: u32,
}

impl Default for QueueDepth {
    fn default() -> Self {
        Self {
            raise_above: 4,
            lower_below: 1,
        }
    }
}

/// Lowers while the response time is above a band, raises while it is below; `low < high`. There is
/// no default: what is good depends on the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseTime {
    /// Which response time.
    pub metric: Metric,
    /// Raised while below.
    pub low: Duration,
    /// Lowered while above.
    pub high: Duration,
}

/// A figure of the response times of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Metric {
    /// Mean.
    #[default]
    Mean,
    /// Median.
    P50,
    /// 99th percentile.
    P99,
    /// The longest.
    Max,
}

impl Metric {
    /// As the configuration has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Max => "max",
        }
    }
}

/// Climbs to the best throughput, or holds a minimum with the least ceiling that does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Throughput {
    /// Requests a second, of one back-end, that are enough; 0 for as many as there can be.
    pub minimum: u32,
}

/// Compares the response time with that of the same back-end at a small ceiling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gradient {
    /// The response time that is still good, in percent of the baseline; above 100, below 400.
    pub tolerance_percent: u32,
    /// The baseline is measured at a quarter of the ceiling, at this at least, and at this the
    /// first time; at least 1.
    pub probe_ceiling: u32,
    /// How long a measured baseline is good for.
    pub probe_interval: Duration,
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            tolerance_percent: 250,
            probe_ceiling: 3,
            probe_interval: Duration::from_secs(60),
        }
    }
}

/// Does what the back-end's agent reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Raised while the load it reports is below this, in percent.
    pub load_low_percent: u32,
    /// Lowered while the load it reports is above this, in percent; above the other.
    pub load_high_percent: u32,
    /// How long a report is good for; then the ceiling goes back to its initial value.
    pub stale_after: Duration,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            load_low_percent: 80,
            load_high_percent: 95,
            stale_after: Duration::from_secs(30),
        }
    }
}
