//! What it costs to stand between clients and back-ends: this dispatcher beside a bare XDP NAT,
//! plain routing, nftables, HAProxy and nginx. `cargo xtask bench contenders [-- --quick]`
//!
//! All of them stand, one after the other, on the same machine of the lab, between the same two
//! clients and two back-ends, under the same loads: new connections as fast as they go, requests
//! over connections that stay, new connections at a fixed rate, endless answers. Rounds over all
//! contenders alternate, each begins with another one, and medians of ratios within a round are
//! what counts: what else the machine does disturbs all alike. On two processors clients and
//! back-ends take most of the time, so rates say less than time above the floor does.
//!
//! A contender that does not serve everything, by the right back-ends, and by their own count, has
//! an error in the place of a number, and the bench fails.

mod backend;
mod clients;
mod contender;
mod exchange;
mod figures;
mod measure;
mod peers;
mod picture;
mod queue;
mod report;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use dispatcher_tests::topology::{Lab, Topology};
use dispatcher_tests::{adoption, daemon, interrupt, machine};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

use crate::backend::Backend;
use crate::contender::{CLIENT_PORTS, Contender};
use crate::exchange::BACKENDS;
use crate::figures::{Measure, Rounds};
use crate::measure::{Bench, Figures, Times};
use crate::report::Results;

#[derive(Debug, Parser)]
struct Arguments {
    /// One round, and shorter: for a look, not for figures.
    #[arg(long)]
    quick: bool,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long everything takes.
struct Plan {
    rounds: usize,
    times: Times,
    /// Numbers of flows that a start finds, and how often that is tried.
    starts: &'static [u32],
    tries: usize,
}

impl Plan {
    const QUICK: Self = Self {
        rounds: 1,
        times: Times {
            settle: Duration::from_millis(200),
            measure: Duration::from_millis(800),
        },
        starts: &[1, 100_000],
        tries: 1,
    };
    /// Many, and short: what disturbs lasts for seconds, and a long round is not steadier.
    const FULL: Self = Self {
        rounds: 11,
        times: Times {
            settle: Duration::from_millis(300),
            measure: Duration::from_millis(800),
        },
        starts: &[1, 100_000, 1_000_000],
        tries: 3,
    };
}

fn main() -> ExitCode {
    let plan = if Arguments::parse().quick {
        Plan::QUICK
    } else {
        Plan::FULL
    };
    match compare(&plan) {
        Ok(code) => code,
        // The signal reaches what we started as well, and fails it.
        Err(_) if interrupt::requested() => interrupt::heeded(),
        Err(error) => {
            eprintln!("contenders: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(plan: &Plan) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "network namespaces need root");
    interrupt::catch()?;
    daemon::binary()?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot open more files")?;
    let setting = report::setting(plan.rounds)?;
    println!("{setting}\n");

    let results = measure(plan)?;
    let file = |name| machine::report(env!("CARGO_TARGET_TMPDIR"), name);
    let (table, picture) = (file("bench-contenders.md"), file("bench-contenders.svg"));
    let target = table.parent().context("no directory for the report")?;
    let report = report::write(&setting, &results, target);
    fs::write(&table, &report).with_context(|| format!("cannot write {}", table.display()))?;
    fs::write(&picture, picture::draw(&results.rounds))
        .with_context(|| format!("cannot write {}", picture.display()))?;
    println!("\n{report}");
    println!("written to {} and {}", table.display(), picture.display());
    Ok(judge(&results))
}

/// Says what has no number.
fn judge(results: &Results) -> ExitCode {
    let contenders = results.rounds.errors().into_iter();
    let contenders = contenders.map(|(contender, why)| format!("{}: {why}", contender.name()));
    let queued = results.queued.as_ref().err();
    let starts = results
        .starts
        .iter()
        .filter_map(|start| start.as_ref().err());
    let others = queued.into_iter().chain(starts);
    let errors: Vec<_> = contenders
        .chain(others.map(|error| format!("{error:#}")))
        .collect();
    for error in &errors {
        eprintln!("contenders: {error}");
    }
    if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn measure(plan: &Plan) -> Result<Results> {
    let lab = lab()?;
    let backends: Result<Vec<_>> = (0..BACKENDS)
        .map(|number| Backend::start(lab.backend(number), number))
        .collect();
    let bench = Bench {
        lab: &lab,
        backends: backends?,
        times: plan.times,
    };
    let mut rounds = Rounds::default();
    for round in 0..plan.rounds {
        println!("round {} of {}", round + 1, plan.rounds);
        rounds.0.push(self::round(&bench, round)?);
    }
    println!("a full queue");
    let queued = queue::bytes_of_a_request(&lab);
    drop(bench);
    let mut starts = Vec::new();
    for &flows in plan.starts {
        ensure!(!interrupt::requested(), "interrupted");
        println!("starts over {flows} flows");
        starts.push(adoption::starts(flows, plan.tries).map(|mut all| {
            all.sort_unstable_by_key(|start| start.ready);
            all[all.len() / 2]
        }));
    }
    Ok(Results {
        rounds,
        queued,
        starts,
    })
}

/// All contenders once, in the order of [`Contender::ALL`]; `number` says who begins.
fn round(bench: &Bench, number: usize) -> Result<Vec<Result<Figures>>> {
    let count = Contender::ALL.len();
    let mut found: Vec<_> = (0..count).map(|_| None).collect();
    for turn in 0..count {
        let i = (number + turn) % count;
        let contender = Contender::ALL[i];
        let figures = match contender.start(bench.lab) {
            Ok(running) => Ok(bench.measure(&running)?),
            Err(error) => Err(error),
        };
        ensure!(!interrupt::requested(), "interrupted");
        println!("  {}: {}", contender.name(), brief(&figures));
        found[i] = Some(figures);
    }
    Ok(found.into_iter().flatten().collect())
}

fn brief(figures: &Result<Figures>) -> String {
    match figures {
        Err(error) => format!("error: {error:#}"),
        Ok(figures) => {
            let words = Measure::ALL.map(|measure| {
                let number = measure.of(figures);
                let number = number.map_or_else(
                    |error| format!("error ({error})"),
                    |number| measure.show(number),
                );
                format!("{number} {}", measure.name())
            });
            words.join(", ")
        }
    }
}

fn lab() -> Result<Lab> {
    let lab = Topology {
        clients: 2,
        backends: BACKENDS as u8,
        ..Topology::default()
    }
    .up()?;
    let (first, last) = (CLIENT_PORTS.start(), CLIENT_PORTS.end());
    let ports = format!("{first} {last}");
    // A port comes back to a back-end while that still remembers it (TIME_WAIT), perhaps under
    // another of the service's addresses. It then goes by timestamps, which must not be hashed
    // from addresses.
    let timestamps = ("ipv4/tcp_timestamps", "2");
    for client in lab.clients() {
        client.sysctl(&[("ipv4/ip_local_port_range", &ports), timestamps])?;
    }
    // A proxy needs a port for each connection to a back-end: as many as there are.
    lab.dispatcher()
        .sysctl(&[("ipv4/ip_local_port_range", "1024 65535"), timestamps])?;
    Ok(lab)
}
