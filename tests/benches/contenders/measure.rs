//! One contender under one load: what its clients had, and what that cost the whole machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dispatcher_tests::interrupt;
use dispatcher_tests::machine::{Processors, packets_sent};
use dispatcher_tests::topology::{ENDPOINT_DEVICE, Lab, Node};
use dispatcher_user::admission::LINGER;

use crate::backend::Backend;
use crate::clients::{self, Load, Span, Tally};
use crate::contender::Running;
use crate::exchange::BACKENDS;

/// Clients at once, over all namespaces.
pub const CLIENTS: usize = 64;
/// Requests a second, over all namespaces, at which times are measured: less than half of what the
/// slowest contender does.
pub const RATE: u32 = 2000;
/// Clients of a bulk load, over all namespaces.
pub const BULK_CLIENTS: usize = 8;
/// How long new connections come before they are measured: from then on as many are forgotten as
/// come, also by those that remember one for a while after its end.
const STEADY_AFTER: Duration = LINGER.saturating_add(Duration::from_millis(200));
/// What part of an equal share of the connections each back-end must have at least: all contenders
/// take them in turn, some of them in a turn for each of their threads.
const SHARE_LEAST: f64 = 0.8;

/// What a round found of one contender. Every load by itself may have failed.
#[derive(Debug)]
pub struct Figures {
    /// New connections, as fast as they go.
    pub connections: Result<Connections>,
    /// Requests over connections that stay.
    pub keep_alive: Result<Rate>,
    /// New connections at [`RATE`].
    pub steady: Result<Steady>,
    /// Bytes, as fast as they go.
    pub bulk: Result<Bulk>,
}

/// Requests, each over a new connection, in a closed loop.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// A second.
    pub rate: f64,
    /// Time of the whole machine for each.
    pub cost: Duration,
}

/// Requests in a closed loop over connections that stay.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// A second.
    pub rate: f64,
}

/// Requests, each over a new connection, at a fixed rate.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// Half of them took no longer, from when they were due to their whole answer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// Time of the whole machine for each.
    pub cost: Duration,
}

/// Endless answers.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// Payload, bits a second.
    pub rate: f64,
    /// Time of the whole machine for each packet that came to the dispatcher's machine.
    pub cost: Duration,
}

/// How long a load lasts: until it is steady, and while it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before anything is measured; longer where new connections come.
    pub settle: Duration,
    /// Measured.
    pub measure: Duration,
}

/// The lab with its back-ends.
pub struct Bench<'lab> {
    /// The lab.
    pub lab: &'lab Lab,
    /// In the lab's order.
    pub backends: Vec<Backend>,
    /// Of every load.
    pub times: Times,
}

/// What came of a load, and what it cost.
struct Outcome {
    tally: Tally,
    measured: Span,
    busy: Duration,
    /// That came to the dispatcher's machine.
    packets: u64,
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.tally.measured as f64 / self.measured.seconds()
    }

    fn cost(&self, of: u64) -> Duration {
        self.busy.div_f64(of.max(1) as f64)
    }
}

impl Bench<'_> {
    /// All loads, one after the other, new connections last: they leave something to be tidied up.
    /// An error is the bench's own trouble; that of a contender is in its figures.
    pub fn measure(&self, contender: &Running) -> Result<Figures> {
        let targets = &contender.targets;
        let figures = Figures {
            keep_alive: self.keep_alive(targets),
            bulk: self.bulk(targets),
            connections: self.connections(targets),
            steady: self.steady(targets),
        };
        ensure!(!interrupt::requested(), "interrupted");
        Ok(figures)
    }

    fn connections(&self, targets: &[SocketAddr]) -> Result<Connections> {
        let outcome = self.put(Load::Connections(self.share(CLIENTS)), targets)?;
        shares(&outcome.tally)?;
        Ok(Connections {
            rate: outcome.rate(),
            cost: outcome.cost(outcome.tally.measured),
        })
    }

    fn keep_alive(&self, targets: &[SocketAddr]) -> Result<Rate> {
        let outcome = self.put(Load::KeepAlive(self.share(CLIENTS)), targets)?;
        Ok(Rate {
            rate: outcome.rate(),
        })
    }

    fn steady(&self, targets: &[SocketAddr]) -> Result<Steady> {
        let nodes = u32::try_from(self.lab.clients().len())?;
        let mut outcome = self.put(Load::Rate(RATE / nodes), targets)?;
        shares(&outcome.tally)?;
        let done = outcome.rate();
        ensure!(
            done > 0.97 * f64::from(RATE),
            "{done:.0} requests a second of {RATE}"
        );
        let cost = outcome.cost(outcome.tally.measured);
        let times = &mut outcome.tally.latencies;
        times.sort_unstable();
        let quantile = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Ok(Steady {
            p50: quantile(0.5),
            p99: quantile(0.99),
            cost,
        })
    }

    fn bulk(&self, targets: &[SocketAddr]) -> Result<Bulk> {
        let outcome = self.put(Load::Bulk(self.share(BULK_CLIENTS)), targets)?;
        ensure!(outcome.tally.bytes > 0, "nothing came");
        Ok(Bulk {
            rate: 8.0 * outcome.tally.bytes as f64 / outcome.measured.seconds(),
            cost: outcome.cost(outcome.packets),
        })
    }

    /// Of so many clients, those of one namespace.
    fn share(&self, clients: usize) -> usize {
        clients / self.lab.clients().len()
    }

    /// Has all clients put a load on a contender, and believes what they tell if nothing failed,
    /// both back-ends were used, and these say the same.
    fn put(&self, load: Load, targets: &[SocketAddr]) -> Result<Outcome> {
        let settle = match load {
            Load::Connections(_) | Load::Rate(_) => self.times.settle.max(STEADY_AFTER),
            Load::KeepAlive(_) | Load::Bulk(_) => self.times.settle,
        };
        let from = Instant::now() + settle;
        let measured = Span {
            from,
            to: from + self.times.measure,
        };
        let answered = self.backends.iter().map(Backend::answers);
        let before: Vec<_> = answered.collect();
        let threads = self.lab.clients().iter().enumerate().map(|(i, node)| {
            // Each client namespace begins with another one, or they would take turns together.
            let mut targets = targets.to_vec();
            let first = i % targets.len();
            targets.rotate_left(first);
            node.spawn(move || clients::run(load, &targets, measured))
        });
        let threads: Vec<_> = threads.collect();
        let watched = self.watch(measured);
        let mut tally = Tally::default();
        for thread in threads {
            match thread.join() {
                Ok(told) => tally.add(told?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let (busy, packets) = watched?;
        if let Some((why, count)) = tally.failures.first_key_value() {
            let all: u64 = tally.failures.values().sum();
            bail!("{all} requests failed, {count} of them: {why}");
        }
        for (i, backend) in self.backends.iter().enumerate() {
            let (told, itself) = (tally.answers[i], backend.answers() - before[i]);
            ensure!(
                told == itself,
                "clients had {told} answers of back-end {i}, which gave {itself}"
            );
            ensure!(told > 0, "back-end {i} was never asked");
        }
        Ok(Outcome {
            tally,
            measured,
            busy,
            packets,
        })
    }

    /// Busy time and packets while it is measured.
    fn watch(&self, measured: Span) -> Result<(Duration, u64)> {
        ensure!(interrupt::sleep_until(measured.from), "interrupted");
        let (busy, packets) = (Processors::now()?, self.packets()?);
        ensure!(interrupt::sleep_until(measured.to), "interrupted");
        let (later, more) = (Processors::now()?, self.packets()?);
        Ok((later.busy_since(&busy), more - packets))
    }

    /// Packets that endpoints have sent: all that the dispatcher's machine receives.
    fn packets(&self) -> Result<u64> {
        let endpoints = self.lab.clients().iter().chain(self.lab.backends());
        let sent = |node: &Node| packets_sent(node, ENDPOINT_DEVICE);
        endpoints.map(sent).sum()
    }
}

/// Whether both back-ends had their part.
fn shares(tally: &Tally) -> Result<()> {
    let all: u64 = tally.answers.iter().sum();
    for (backend, answers) in tally.answers.iter().enumerate() {
        ensure!(
            *answers as f64 >= SHARE_LEAST * all as f64 / BACKENDS as f64,
            "back-end {backend} had {answers} of {all} connections"
        );
    }
    Ok(())
}
