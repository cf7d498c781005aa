//! Why a ceiling is what it is: for people, with the figures that moved it; for metrics, a label.

use core::fmt;
use core::time::Duration;

use super::settings::Metric;

/// What moved a ceiling, or kept it. Rates are requests a second of the back-end, `queue` the
/// requests that waited, averaged over the window.
#[derive(Clone, PartialEq, Debug)]
pub enum Reason {
    /// The policy never moves it.
    Fixed,
    /// An operator pinned it.
    Pinned,
    /// The bounds were changed.
    Bounds,
    /// The back-end came up a short time ago.
    SlowStart {
        /// How much of its ceiling it is given.
        percent: u32,
        /// That ceiling.
        whole: u32,
    },
    /// What was measured is from before the last change took effect.
    Settling,
    /// Too little was served to learn from.
    Few {
        /// Requests.
        served: u64,
    },
    /// The ceiling was not held all the time, so nothing was learned of it.
    NotReached {
        /// Connections held, averaged over the window.
        held: f64,
    },
    /// The queue is as it should be.
    QueueInBand {
        /// Waiting.
        queue: f64,
    },
    /// Many wait: a higher ceiling is tried, or one that was good before is taken.
    QueueLong {
        /// Waiting.
        queue: f64,
        /// Raised above this.
        above: u32,
    },
    /// Few wait.
    QueueShort {
        /// Waiting.
        queue: f64,
        /// Lowered below this.
        below: u32,
    },
    /// Another ceiling is tried.
    Try {
        /// A higher one.
        up: bool,
        /// The best so far.
        ceiling: u32,
        /// What that gave.
        rate: f64,
    },
    /// The ceiling that is tried needs more windows.
    Measuring {
        /// What it gave so far.
        rate: f64,
    },
    /// What was tried is better, and is kept.
    Better {
        /// What it gives.
        rate: f64,
        /// The one before.
        before: u32,
        /// What that gave.
        before_rate: f64,
    },
    /// What was tried is not worth it: back to the best.
    Back {
        /// A higher one was tried.
        up: bool,
        /// Which.
        tried: u32,
        /// What it gave.
        rate: f64,
        /// The best.
        best: u32,
        /// What that gave.
        best_rate: f64,
    },
    /// The best known.
    Best {
        /// The ceiling.
        ceiling: u32,
        /// What it gives.
        rate: f64,
    },
    /// The server gives other than it did.
    Changed {
        /// What it gives.
        rate: f64,
        /// What it gave.
        before: f64,
    },
    /// Responses take so much longer than the shortest that more would not help.
    Slow {
        /// Mean.
        response: Duration,
        /// The shortest mean.
        shortest: Duration,
    },
    /// Too many requests had no answer.
    Unanswered {
        /// How many.
        unanswered: u64,
        /// Of so many connections.
        ended: u64,
    },
    /// Responses take longer than the goal.
    Goal {
        /// p99.
        p99: Duration,
        /// The goal.
        goal: Duration,
    },
    /// A response time is out of its band.
    Response {
        /// Which.
        metric: Metric,
        /// How long.
        value: Duration,
        /// The edge of the band.
        edge: Duration,
        /// Above the band.
        above: bool,
    },
    /// Throughput is above the minimum: a lower ceiling is enough.
    Enough {
        /// What it gives.
        rate: f64,
        /// The minimum.
        minimum: u32,
    },
    /// Responses against the baseline.
    Gradient {
        /// Mean.
        response: Duration,
        /// The baseline.
        baseline: Duration,
        /// What is tolerated, in percent of the baseline.
        tolerance: u32,
        /// It is above.
        above: bool,
    },
    /// The baseline is measured at a small ceiling.
    Probe,
    /// The baseline was measured: back to the ceiling before.
    Probed {
        /// The baseline.
        baseline: Duration,
    },
    /// The agent wants this ceiling.
    Agent {
        /// It.
        ceiling: u32,
    },
    /// The agent reports a load out of its band.
    AgentLoad {
        /// In percent.
        load: u32,
        /// The edge of the band, in percent.
        edge: u32,
    },
    /// The agent reports a load within its band, or nothing new.
    AgentHeld,
    /// The agent has said nothing yet.
    AgentSilent,
    /// The agent's last report is too old.
    AgentStale {
        /// How old.
        age: Duration,
    },
}

impl Reason {
    /// One of few words, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Pinned => "pinned",
            Self::Bounds => "bounds",
            Self::SlowStart { .. } => "slow_start",
            Self::Settling => "held_settling",
            Self::Few { .. } => "held_few",
            Self::NotReached { .. } => "held_not_reached",
            Self::QueueInBand { .. } => "held_queue",
            Self::QueueLong { .. } => "raised_queue",
            Self::QueueShort { .. } => "lowered_queue",
            Self::Try { up: true, .. } => "raised_try",
            Self::Try { up: false, .. } => "lowered_try",
            Self::Measuring { .. } => "held_measuring",
            Self::Better { .. } => "held_better",
            Self::Back { up: true, .. } => "lowered_guard",
            Self::Back { up: false, .. } => "raised_back",
            Self::Best { .. } => "held_best",
            Self::Changed { .. } => "held_changed",
            Self::Slow { .. } => "held_slow",
            Self::Unanswered { .. } => "held_unanswered",
            Self::Goal { .. } => "lowered_goal",
            Self::Response { above: true, .. } => "lowered_response",
            Self::Response { above: false, .. } => "raised_response",
            Self::Enough { .. } => "lowered_enough",
            Self::Gradient { above: true, .. } => "lowered_gradient",
            Self::Gradient { above: false, .. } => "raised_gradient",
            Self::Probe => "lowered_probe",
            Self::Probed { .. } => "raised_probed",
            Self::Agent { .. } => "agent",
            Self::AgentLoad { .. } => "agent_load",
            Self::AgentHeld => "agent_held",
            Self::AgentSilent => "agent_silent",
            Self::AgentStale { .. } => "agent_stale",
        }
    }
}

/// In milliseconds, to three figures or so.
struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_secs_f64() * 1000.0;
        if ms < 10.0 {
            write!(f, "{ms:.1} ms")
        } else {
            write!(f, "{ms:.0} ms")
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Pinned => f.write_str("pinned by an operator"),
            Self::Bounds => f.write_str("the bounds were changed"),
            Self::SlowStart { percent, whole } => {
                write!(f, "came up: {percent} % of {whole}")
            }
            Self::Settling => f.write_str("the last change has yet to take effect: held"),
            Self::Few { served } => write!(f, "{served} requests served, too few: held"),
            Self::NotReached { held } => write!(f, "{held:.1} connections, not full: held"),
            Self::QueueInBand { queue } => write!(f, "queue {queue:.1}: held"),
            Self::QueueLong { queue, above } => write!(f, "queue {queue:.1} > {above}: raised"),
            Self::QueueShort { queue, below } => write!(f, "queue {queue:.1} < {below}: lowered"),
            Self::Try { up, ceiling, rate } => {
                let word = if *up { "raised" } else { "lowered" };
                write!(f, "{rate:.0} requests/s at {ceiling}: {word} to compare")
            }
            Self::Measuring { rate } => write!(f, "{rate:.0} requests/s so far: held"),
            Self::Better {
                rate,
                before,
                before_rate,
            } => write!(
                f,
                "{rate:.0} requests/s beat {before_rate:.0} at {before}: kept"
            ),
            Self::Back {
                tried,
                rate,
                best,
                best_rate,
                ..
            } => write!(
                f,
                "{rate:.0} requests/s at {tried} against {best_rate:.0} at {best}: back"
            ),
            Self::Best { ceiling, rate } => {
                write!(
                    f,
                    "{rate:.0} requests/s at {ceiling} is the best known: held"
                )
            }
            Self::Changed { rate, before } => write!(
                f,
                "{rate:.0} requests/s where it was {before:.0}: the server may have changed"
            ),
            Self::Slow { response, shortest } => write!(
                f,
                "responses in {}, when {} is possible: not raised",
                Ms(*response),
                Ms(*shortest)
            ),
            Self::Unanswered { unanswered, ended } => {
                write!(
                    f,
                    "{unanswered} of {ended} connections unanswered: not raised"
                )
            }
            Self::Goal { p99, goal } => {
                write!(f, "response p99 {} > {}: lowered", Ms(*p99), Ms(*goal))
            }
            Self::Response {
                metric,
                value,
                edge,
                above,
            } => {
                let (sign, word) = if *above {
                    ('>', "lowered")
                } else {
                    ('<', "raised")
                };
                let (metric, value, edge) = (metric.label(), Ms(*value), Ms(*edge));
                write!(f, "response {metric} {value} {sign} {edge}: {word}")
            }
            Self::Enough { rate, minimum } => {
                write!(f, "{rate:.0} requests/s, {minimum} are enough: lowered")
            }
            Self::Gradient {
                response,
                baseline,
                tolerance,
                above,
            } => {
                let (sign, word) = if *above {
                    ('>', "lowered")
                } else {
                    ('<', "raised")
                };
                let (response, baseline) = (Ms(*response), Ms(*baseline));
                write!(
                    f,
                    "response {response} {sign} {tolerance} % of {baseline}: {word}"
                )
            }
            Self::Probe => f.write_str("lowered to measure the shortest response time"),
            Self::Probed { baseline } => {
                write!(f, "{} is the shortest response time: back", Ms(*baseline))
            }
            Self::Agent { ceiling } => write!(f, "the agent wants {ceiling}"),
            Self::AgentLoad { load, edge } => {
                let (sign, word) = if load > edge {
                    ('>', "lowered")
                } else {
                    ('<', "raised")
                };
                write!(f, "the agent's load {load} % {sign} {edge} %: {word}")
            }
            Self::AgentHeld => f.write_str("the agent asks for no change: held"),
            Self::AgentSilent => f.write_str("the agent has said nothing yet: held"),
            Self::AgentStale { age } => write!(
                f,
                "the agent has said nothing for {:.0} s: back to the initial ceiling",
                age.as_secs_f64()
            ),
        }
    }
}
