//! From rounds to medians and ratios.

use std::time::Duration;

use anyhow::Result;

use crate::contender::Contender;
use crate::measure::{BULK_CLIENTS, CLIENTS, Figures, RATE};

/// A quantity that every contender has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// New connections a second.
    Connections,
    /// Requests a second over connections that stay.
    KeepAlive,
    /// Bulk throughput, payload.
    Bulk,
    /// Half of the requests at a fixed rate took no longer.
    Median,
    /// 99 of 100 did.
    Tail,
    /// Time of the whole machine for a connection, when there are as many as it goes.
    ConnectionCost,
    /// The same at a fixed rate.
    SteadyCost,
    /// Time of the whole machine for a packet.
    PacketCost,
}

impl Measure {
    /// All, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::KeepAlive,
        Self::Bulk,
        Self::Median,
        Self::Tail,
        Self::ConnectionCost,
        Self::SteadyCost,
        Self::PacketCost,
    ];

    /// What tables call it, with its unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "new connections/s",
            Self::KeepAlive => "keep-alive requests/s",
            Self::Bulk => "bulk, Gbit/s",
            Self::Median => "p50, µs",
            Self::Tail => "p99, µs",
            Self::ConnectionCost => "CPU a connection, µs",
            Self::SteadyCost => "at a fixed rate, µs",
            Self::PacketCost => "CPU a packet, µs",
        }
    }

    /// What a picture calls it.
    pub fn title(self) -> String {
        match self {
            Self::Connections => format!("new connections a second, {CLIENTS} clients"),
            Self::KeepAlive => format!("keep-alive requests a second, {CLIENTS} clients"),
            Self::Bulk => format!("bulk throughput, {BULK_CLIENTS} clients, Gbit/s"),
            Self::Median => format!("p50 at {RATE} new connections a second, µs"),
            Self::Tail => format!("p99 at {RATE} new connections a second, µs"),
            Self::ConnectionCost => {
                "processor time of the whole machine a connection, µs".to_owned()
            }
            Self::SteadyCost => format!("the same at {RATE} new connections a second, µs"),
            Self::PacketCost => {
                "processor time of the whole machine a packet of the bulk load, µs".to_owned()
            }
        }
    }

    /// Its number in words.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Connections | Self::KeepAlive | Self::Median | Self::Tail => {
                format!("{value:.0}")
            }
            Self::ConnectionCost | Self::SteadyCost => format!("{value:.1}"),
            Self::Bulk | Self::PacketCost => format!("{value:.2}"),
        }
    }

    /// Its number of one round; an error that of the load.
    pub fn of(self, figures: &Figures) -> Result<f64, String> {
        fn known<T>(figure: &Result<T>) -> Result<&T, String> {
            figure.as_ref().map_err(|error| format!("{error:#}"))
        }
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        Ok(match self {
            Self::Connections => known(&figures.connections)?.rate,
            Self::KeepAlive => known(&figures.keep_alive)?.rate,
            Self::Bulk => known(&figures.bulk)?.rate / 1e9,
            Self::Median => micros(known(&figures.steady)?.p50),
            Self::Tail => micros(known(&figures.steady)?.p99),
            Self::ConnectionCost => micros(known(&figures.connections)?.cost),
            Self::SteadyCost => micros(known(&figures.steady)?.cost),
            Self::PacketCost => micros(known(&figures.bulk)?.cost),
        })
    }
}

/// All rounds; in each, the figures of each contender in the order of [`Contender::ALL`]. Where it
/// did not start, that is the error.
#[derive(Debug, Default)]
pub struct Rounds(pub Vec<Vec<Result<Figures>>>);

impl Rounds {
    /// The median of the rounds that have a number; where most have none, the first error.
    pub fn value(&self, measure: Measure, of: Contender) -> Result<f64, String> {
        self.median(|round| number(round, measure, of))
    }

    /// The median of the rounds' ratios to another contender.
    pub fn ratio(&self, measure: Measure, of: Contender, to: Contender) -> Result<f64, String> {
        self.median(|round| Ok(number(round, measure, of)? / number(round, measure, to)?))
    }

    /// The median of how much more it is than another contender's, round by round.
    pub fn above(&self, measure: Measure, of: Contender, other: Contender) -> Result<f64, String> {
        self.median(|round| Ok(number(round, measure, of)? - number(round, measure, other)?))
    }

    /// The least and the greatest of the rounds.
    pub fn range(&self, measure: Measure, of: Contender) -> Result<(f64, f64), String> {
        let numbers = self.numbers(|round| number(round, measure, of))?;
        Ok((numbers[0], numbers[numbers.len() - 1]))
    }

    fn median(
        &self,
        of: impl Fn(&[Result<Figures>]) -> Result<f64, String>,
    ) -> Result<f64, String> {
        let numbers = self.numbers(of)?;
        let middle = numbers.len() / 2;
        Ok(if numbers.len().is_multiple_of(2) {
            f64::midpoint(numbers[middle - 1], numbers[middle])
        } else {
            numbers[middle]
        })
    }

    /// Of every round that has one, sorted; at least of every second.
    fn numbers(
        &self,
        of: impl Fn(&[Result<Figures>]) -> Result<f64, String>,
    ) -> Result<Vec<f64>, String> {
        let (mut numbers, mut errors) = (Vec::new(), Vec::new());
        for round in &self.0 {
            match of(round) {
                Ok(number) => numbers.push(number),
                Err(why) => errors.push(why),
            }
        }
        numbers.sort_unstable_by(f64::total_cmp);
        match errors.into_iter().next() {
            _ if !numbers.is_empty() && 2 * numbers.len() >= self.0.len() => Ok(numbers),
            Some(why) => Err(why),
            None => Err("no round".to_owned()),
        }
    }

    /// What went wrong in any round: contender, and why.
    pub fn errors(&self) -> Vec<(Contender, String)> {
        let mut errors: Vec<(Contender, String)> = Vec::new();
        for (round, n) in self.0.iter().zip(1..) {
            for contender in Contender::ALL {
                for measure in Measure::ALL {
                    let Err(why) = number(round, measure, contender) else {
                        continue;
                    };
                    let error = (contender, format!("in round {n}, {why}"));
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                }
            }
        }
        errors
    }
}

fn number(round: &[Result<Figures>], measure: Measure, of: Contender) -> Result<f64, String> {
    match round.get(of as usize) {
        Some(Ok(figures)) => measure.of(figures),
        Some(Err(error)) => Err(format!("{error:#}")),
        None => Err("not measured".to_owned()),
    }
}
