//! A real server that collapses when it is given too much, offered several times what it can carry:
//! straight, and through the dispatcher. `cargo xtask bench overload [-- --quick]`
//!
//! The server is Apache with PHP inside, with the number of workers that Debian gives it, in a
//! limit of memory that is too small for so many: past its best it swaps, and each request takes
//! the memory of the others. First its best is found, by clients in a closed loop; then requests
//! come at several times that rate in an open loop, each over a new connection, and each end is
//! counted. "Straight" is to the server's own address, by plain routing through the dispatcher's
//! machine, with no daemon and no XDP program. Every side begins with a fresh server and an easy
//! load; rounds alternate, and their figures are put together.
//!
//! Fails unless the dispatcher serves at least [`RATIO`] times as much as the server finishes
//! without it, answers to clients that have gone included, and its p99 stays below the queue's
//! timeout and the normal p99 together.

mod figures;
mod generate;
mod load;
mod picture;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use dispatcher_tests::apache::{self, Apache, Finished, WORKERS_MAX};
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{self, Daemon};
use dispatcher_tests::status::Status;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::zram::Swap;
use dispatcher_tests::{interrupt, machine};
use nix::unistd::geteuid;

use crate::figures::{DaemonSample, Run, Sample, Window, curve, milliseconds, table};
use crate::generate::Job;
use crate::load::{Load, PATIENCE};

/// Memory of the server.
const MEMORY: u64 = 128 << 20;
/// Pages that can be swapped out: more than all workers together ever have.
const SWAP: u64 = 4 << 30;
/// How many times its best the server is offered.
const FACTORS: [f64; 2] = [5.0, 10.0];
/// What it is offered before that.
const EASY: f64 = 0.5;
/// How many times as much the dispatcher must make of the server.
const RATIO: f64 = 3.0;
/// The daemon's default, which its configuration here leaves alone.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// A concurrency this near to the best throughput is as good, and has shorter response times.
const AS_GOOD: f64 = 0.9;
/// Clients in a closed loop that it takes as much longer to get used to.
const MANY: u32 = 50;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Parser)]
struct Arguments {
    /// One round, and shorter: for a look, not for figures.
    #[arg(long)]
    quick: bool,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The clients of one namespace; this program starts them.
    #[command(hide = true)]
    Generate(Job),
}

/// How long everything takes.
struct Plan {
    rounds: usize,
    concurrencies: &'static [u32],
    /// Of a concurrency: to get used to it, and to measure.
    closed: (Duration, Duration),
    easy: Duration,
    /// Of each factor: to get used to it, and to measure.
    open: [(Duration, Duration); FACTORS.len()],
    /// Whether the best fixed ceiling is measured too.
    reference: bool,
}

impl Plan {
    const fn new(quick: bool) -> Self {
        const fn seconds(of: u64) -> Duration {
            Duration::from_secs(of)
        }
        if quick {
            Self {
                rounds: 1,
                concurrencies: &[16, 32, 48, 64, WORKERS_MAX],
                closed: (seconds(1), seconds(2)),
                easy: seconds(3),
                open: [(seconds(8), seconds(4)), (seconds(2), seconds(4))],
                reference: false,
            }
        } else {
            Self {
                rounds: 2,
                concurrencies: &[8, 16, 24, 32, 48, 64, WORKERS_MAX],
                closed: (seconds(2), seconds(2)),
                easy: seconds(4),
                open: [(seconds(10), seconds(7)), (seconds(3), seconds(7))],
                reference: true,
            }
        }
    }

    /// Pairs of requests per second and time.
    fn stretches(&self, best: f64) -> Vec<(f64, Duration)> {
        let overload = std::iter::zip(FACTORS, self.open);
        let overload = overload.map(|(factor, (used, measured))| (factor * best, used + measured));
        std::iter::once((EASY * best, self.easy))
            .chain(overload)
            .collect()
    }

    /// From when to when each factor is measured.
    fn windows(&self) -> [(Duration, Duration); FACTORS.len()] {
        let mut begin = self.easy;
        self.open.map(|(used, measured)| {
            let from = begin + used;
            begin = from + measured;
            (from, begin)
        })
    }
}

/// The way to the server.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By plain routing, without a daemon.
    Straight,
    /// Through the daemon.
    Dispatched(Ceiling),
}

/// Who says how many connections the server is given.
#[derive(Clone, Copy, Debug)]
enum Ceiling {
    /// The daemon, by its default policy.
    Default,
    /// This bench.
    Fixed(u32),
}

/// What the server can do.
#[derive(Debug)]
pub struct Carries {
    /// Concurrency, and what it gives.
    curve: Vec<(u32, Window)>,
    /// The most requests per second that any concurrency gives.
    best_rate: f64,
    /// The least concurrency that is as good.
    best_concurrency: u32,
    /// With that many, for longer.
    normal: Window,
}

/// What came of it all.
struct Results {
    carries: Carries,
    /// Straight and dispatched, for each factor.
    sides: [[Window; 2]; FACTORS.len()],
    /// At the best fixed ceiling.
    reference: Option<[Window; FACTORS.len()]>,
    /// The last round, for the picture.
    last: [Run; 2],
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.part {
        Some(Part::Generate(job)) => generate::run(job).map(|()| ExitCode::SUCCESS),
        None => overload(arguments.quick),
    };
    match done {
        Ok(code) => code,
        // The signal reaches what we started as well, and fails it.
        Err(_) if interrupt::requested() => interrupt::heeded(),
        Err(error) => {
            eprintln!("overload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn overload(quick: bool) -> Result<ExitCode> {
    ensure!(geteuid().is_root(), "network namespaces need root");
    interrupt::catch()?;
    daemon::binary()?;
    let setting = setting()?;
    println!("{setting}\n");
    let plan = Plan::new(quick);
    let results = measure(&plan)?;
    let report = format!("{setting}\n\n{}", report(&results));
    let report_file = |name| machine::report(env!("CARGO_TARGET_TMPDIR"), name);
    let (table, picture) = (
        report_file("bench-overload.md"),
        report_file("bench-overload.svg"),
    );
    fs::write(&table, &report).with_context(|| format!("cannot write {}", table.display()))?;
    let drawn = picture::draw(&results.carries, &results.last, &plan);
    fs::write(&picture, drawn).with_context(|| format!("cannot write {}", picture.display()))?;
    println!("\n{report}");
    println!("written to {} and {}", table.display(), picture.display());
    Ok(if judge(&results) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Machine and server, without which the figures mean nothing.
fn setting() -> Result<String> {
    Ok(format!(
        "{}, PHP inside, {WORKERS_MAX} workers at most, {} MiB of memory, swap on zram; clients \
         wait {} s; {}.",
        apache::version()?,
        MEMORY >> 20,
        PATIENCE.as_secs(),
        machine::describe()?
    ))
}

fn measure(plan: &Plan) -> Result<Results> {
    // Dropped last: it waits for all pages to come back.
    let _swap = Swap::new(SWAP)?;
    let lab = Topology {
        clients: 4,
        backends: 1,
        ..Topology::default()
    }
    .up()?;
    for client in lab.clients() {
        client.sysctl(&[
            ("ipv4/ip_local_port_range", "1024 65535"),
            // A port comes back to the server while it still remembers it (TIME_WAIT) under the
            // other address of the service. It then goes by timestamps, which must not be hashed
            // from addresses.
            ("ipv4/tcp_timestamps", "2"),
        ])?;
    }
    let carries = carries(&lab, plan)?;
    let fixed = Way::Dispatched(Ceiling::Fixed(carries.best_concurrency));
    let dispatched = Way::Dispatched(Ceiling::Default);
    let mut sides: [[Window; 2]; FACTORS.len()] = Default::default();
    let mut last: [Run; 2] = Default::default();
    for round in 1..=plan.rounds {
        for (side, way) in [Way::Straight, dispatched].into_iter().enumerate() {
            println!("\nround {round} of {}, {}", plan.rounds, way.name());
            let (run, windows) = offer(&lab, way, &carries, plan)?;
            for (sides, window) in std::iter::zip(&mut sides, windows) {
                sides[side].add(&window);
            }
            last[side] = run;
        }
    }
    let reference = if plan.reference {
        println!("\nfor comparison, {}", fixed.name());
        Some(offer(&lab, fixed, &carries, plan)?.1)
    } else {
        None
    };
    Ok(Results {
        carries,
        sides,
        reference,
        last,
    })
}

/// Finds the server's best by a closed loop of more and more clients.
fn carries(lab: &Lab, plan: &Plan) -> Result<Carries> {
    let at = lab.backend(0).at(Family::V4, BACKEND_PORT);
    let (used, measured) = plan.closed;
    let closed = |apache: &Apache, clients: u32, longer: u32| -> Result<Window> {
        // Apache starts its workers over some seconds, and only then is it full.
        let used = used * (1 + clients / MANY);
        let end = used + measured * longer;
        let run = watch(Load::closed(lab, at, clients, end)?, apache, None)?;
        Ok(run.window(used, end))
    };
    println!("the server's best: so many clients, each asks again when it has its answer");
    let mut curve = Vec::new();
    let apache = Apache::start(lab.backend(0), BACKEND_PORT, MEMORY)?;
    for &clients in plan.concurrencies {
        let window = closed(&apache, clients, 1)?;
        println!("{clients:>5}: {}", brief(&window));
        curve.push((clients, window));
    }
    drop(apache);
    let rates = curve.iter().map(|(_, window)| window.served_rate());
    let best_rate = rates.fold(0.0, f64::max);
    let as_good = |(_, window): &&(u32, Window)| window.served_rate() >= AS_GOOD * best_rate;
    let (best_concurrency, _) = curve.iter().find(as_good).context("nothing was served")?;
    let best_concurrency = *best_concurrency;
    let apache = Apache::start(lab.backend(0), BACKEND_PORT, MEMORY)?;
    let normal = closed(&apache, best_concurrency, 3)?;
    println!("normal, {best_concurrency} clients: {}", brief(&normal));
    Ok(Carries {
        curve,
        best_rate,
        best_concurrency,
        normal,
    })
}

fn brief(window: &Window) -> String {
    format!(
        "{:6.1} served a second, p50 {}, p99 {}",
        window.served_rate(),
        milliseconds(window.quantile(0.5)),
        milliseconds(window.quantile(0.99)),
    )
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Straight => "straight to the server".to_owned(),
            Self::Dispatched(Ceiling::Default) => "through the dispatcher".to_owned(),
            Self::Dispatched(Ceiling::Fixed(ceiling)) => {
                format!("through the dispatcher, ceiling fixed at {ceiling}")
            }
        }
    }
}

/// A fresh server, easy and then too great a load, and the figures of each factor.
fn offer(
    lab: &Lab,
    way: Way,
    carries: &Carries,
    plan: &Plan,
) -> Result<(Run, [Window; FACTORS.len()])> {
    let apache = Apache::start(lab.backend(0), BACKEND_PORT, MEMORY)?;
    let (to, daemon) = match way {
        Way::Straight => (lab.backend(0).at(Family::V4, BACKEND_PORT), None),
        Way::Dispatched(ceiling) => {
            let to = lab.service(Family::V4, SERVICE_PORT);
            let daemon = Daemon::start(lab, &configuration(lab, to, ceiling))?;
            (to, Some(daemon))
        }
    };
    let load = Load::open(lab, to, &plan.stretches(carries.best_rate))?;
    let run = watch(load, &apache, daemon.as_ref())?;
    if let Some(daemon) = &daemon {
        let status = Status(daemon.try_status()?);
        let count = |outcome| status.requests(outcome);
        println!(
            "  the daemon: {} requests, {} admitted, {} refused, {} expired, {} abandoned",
            count("received"),
            count("admitted"),
            count("refused"),
            count("expired"),
            count("abandoned")
        );
    }
    let windows = plan.windows().map(|(from, to)| run.window(from, to));
    for (factor, window) in std::iter::zip(FACTORS, &windows) {
        println!("  {factor:>2} times its best: {}", brief(window));
    }
    Ok((run, windows))
}

/// Only what has no default; and a ceiling where one is asked for.
fn configuration(lab: &Lab, to: SocketAddr, ceiling: Ceiling) -> Config {
    let backend = lab.backend(0).at(Family::V4, BACKEND_PORT);
    let (policy, bounds) = match ceiling {
        Ceiling::Default => (String::new(), String::new()),
        Ceiling::Fixed(ceiling) => (
            "[service.ceiling]\npolicy = \"fixed\"\n".to_owned(),
            format!("ceiling = {{ initial = {ceiling} }}\n"),
        ),
    };
    let mut config = Config::new(lab, Family::V4, 1);
    config.flow_capacity = 262_144;
    config.metrics = None;
    config.services.clear();
    config.extra = format!(
        "\n[[service]]\nname = \"web\"\naddress = \"{to}\"\n{policy}\
         [[service.backend]]\nname = \"apache\"\naddress = \"{backend}\"\n\
         capacity = {WORKERS_MAX}\n{bounds}"
    );
    config
}

/// Looks at server and daemon until the load is over.
fn watch(load: Load, apache: &Apache, daemon: Option<&Daemon>) -> Result<Run> {
    let mut samples = Vec::new();
    let mut next = load.begin;
    while !load.is_over() {
        ensure!(interrupt::sleep_until(next), "interrupted");
        next = Instant::now() + LOOK;
        let status = daemon
            .and_then(|daemon| daemon.try_status().ok())
            .map(Status);
        samples.push(Sample {
            at: load.begin.elapsed(),
            workers: apache.workers(),
            memory: apache.memory()?,
            daemon: status.map(|status| DaemonSample {
                ceiling: status.backend(0, "ceiling"),
                held: status.backend(0, "active") + status.backend(0, "half_open"),
                queued: status.queued(),
            }),
        });
    }
    let killed = samples.last().map_or(0, |sample| sample.memory.killed);
    ensure!(
        killed == 0,
        "the kernel killed {killed} of the server's processes: too little swap"
    );
    let begin = load.begin_unix;
    let finished = apache.finished()?.into_iter().filter_map(|each| {
        let at = each.at.checked_sub(begin)?;
        Some(Finished { at, ..each })
    });
    Ok(Run {
        finished: finished.collect(),
        samples,
        records: load.finish()?,
    })
}

/// How many times as much the dispatcher makes of the server.
fn ratio([straight, dispatched]: &[Window; 2]) -> f64 {
    dispatched.served_rate() / straight.served_rate().max(straight.finished_rate())
}

fn limit(results: &Results) -> Option<Duration> {
    Some(QUEUE_TIMEOUT + results.carries.normal.quantile(0.99)?)
}

fn report(results: &Results) -> String {
    let carries = &results.carries;
    let points = carries
        .curve
        .iter()
        .map(|(clients, window)| (*clients, window));
    let normal = (carries.best_concurrency, &carries.normal);
    let mut report = format!(
        "What it can carry: {:.0} requests a second; {} clients at once are as good. In a closed \
         loop, the last line for longer:\n\n{}\n",
        carries.best_rate,
        carries.best_concurrency,
        curve(points.chain([normal]))
    );
    let mut rows = Vec::new();
    for (i, factor) in FACTORS.iter().enumerate() {
        let [straight, dispatched] = &results.sides[i];
        rows.push((format!("{factor} times that, straight to it"), straight));
        rows.push((
            format!("{factor} times, through the dispatcher"),
            dispatched,
        ));
        if let Some(reference) = &results.reference {
            let ceiling = carries.best_concurrency;
            rows.push((
                format!("{factor} times, ceiling fixed at {ceiling}"),
                &reference[i],
            ));
        }
    }
    report += &table(rows);
    let _ = writeln!(report, "\nThrough the dispatcher, and what must hold:\n");
    for (factor, sides) in std::iter::zip(FACTORS, &results.sides) {
        let _ = writeln!(
            report,
            "- {factor} times: {:.1} times as much as the server finished without it, answers to \
             clients that had gone included (at least {RATIO}); p99 {} (below {})",
            ratio(sides),
            milliseconds(sides[1].quantile(0.99)),
            milliseconds(limit(results)),
        );
    }
    report
}

/// Says what did not hold.
fn judge(results: &Results) -> bool {
    let mut held = true;
    for (factor, sides) in std::iter::zip(FACTORS, &results.sides) {
        let ratio = ratio(sides);
        // No number: nothing was served on either side.
        if ratio.is_nan() || ratio < RATIO {
            eprintln!("overload: at {factor} times its best only {ratio:.1} times as much");
            held = false;
        }
        let p99 = sides[1].quantile(0.99);
        if p99.is_none() || p99 >= limit(results) {
            let p99 = milliseconds(p99);
            eprintln!("overload: at {factor} times its best the p99 is {p99}");
            held = false;
        }
    }
    held
}
