//! The demonstration: the same load with and without the dispatcher, shown while it runs and
//! summed up at the end. Every figure is counted in the run, none is computed from the model.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{self, Daemon};
use dispatcher_tests::interrupt;
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::server::Server;
use dispatcher_tests::status::Status;
use dispatcher_tests::topology::{Family, Lab, Topology};

use crate::display::{self, Moment, Screen};
use crate::load::{Load, Tally};
use crate::workload::MODELS;

/// Requests that may wait: fewer than the clients that find no place, so that some are refused.
const QUEUE_CAPACITY: u32 = 128;
/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(500);

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct Options {
    /// How long the whole demonstration takes.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(4..=3600))]
    pub seconds: u64,
    /// Clients that ask at once when all have joined.
    #[arg(long, default_value_t = 210, value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub clients: u16,
}

/// What was counted in one half.
#[derive(Debug)]
pub struct Outcome {
    /// What became of the requests.
    pub tally: Arc<Tally>,
    /// How long the load lasted.
    pub lasted: Duration,
    /// The most connections at each back-end at once, by its own count or its kernel's.
    pub most: [usize; MODELS.len()],
    /// What the daemon said at the end; `None` without one.
    pub status: Option<Status>,
}

/// Runs it; the exit code says whether it was interrupted, or a ceiling did not hold.
pub fn run(options: &Options) -> Result<ExitCode> {
    interrupt::catch()?;
    match demonstrate(options) {
        // The signal reaches what we started as well, and fails it.
        Err(_) if interrupt::requested() => Ok(interrupt::heeded()),
        result => result,
    }
}

fn demonstrate(options: &Options) -> Result<ExitCode> {
    daemon::binary()?;
    let mut screen = Screen::new();
    screen.introduce(options.clients, QUEUE_CAPACITY);
    let half = Duration::from_secs(options.seconds) / 2;
    let lab = topology().up()?;
    let Some(with) = with_dispatcher(&lab, options, half, &mut screen)? else {
        return Ok(interrupt::heeded());
    };
    let Some(without) = without_dispatcher(&lab, options, half, &mut screen)? else {
        return Ok(interrupt::heeded());
    };
    drop(lab);
    display::table(&with, &without);
    Ok(if held(&with) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says whether the dispatcher did what it is for.
fn held(with: &Outcome) -> bool {
    let exceeded =
        std::iter::zip(MODELS, with.most).find(|(model, most)| *most > model.ceiling as usize);
    match exceeded {
        None if with.tally.answered() > 0 => {
            println!("Every ceiling held.");
            true
        }
        None => {
            eprintln!("dispatcher-lab: nothing was answered through the dispatcher");
            false
        }
        Some((model, most)) => {
            let (name, ceiling) = (model.name, model.ceiling);
            eprintln!("dispatcher-lab: {name} had {most} connections, its ceiling is {ceiling}");
            false
        }
    }
}

fn topology() -> Topology {
    Topology {
        backends: MODELS.len() as u8,
        ..Topology::default()
    }
}

/// The daemon's configuration: each back-end with its model's ceiling and capacity.
fn configuration(lab: &Lab) -> Config {
    let mut config = Config::new(lab, Family::V4, 1);
    let web = config.web();
    web.queue_capacity = QUEUE_CAPACITY;
    web.queue_timeout = "5s";
    for (backend, model) in std::iter::zip(&mut web.backends, MODELS) {
        backend.name = model.name.to_owned();
        backend.ceiling = model.ceiling;
        backend.capacity = model.capacity;
    }
    config
}

fn with_dispatcher(
    lab: &Lab,
    options: &Options,
    half: Duration,
    screen: &mut Screen,
) -> Result<Option<Outcome>> {
    let mut daemon = Daemon::start(lab, &configuration(lab)).context("with the dispatcher")?;
    let service = vec![lab.service(Family::V4, SERVICE_PORT)];
    screen.begin("through the dispatcher", true);
    let Some(mut outcome) = drive(lab, service, options, half, screen, Some(&daemon))? else {
        return Ok(None);
    };
    outcome.status = Some(Status(daemon.try_status()?));
    daemon.stop()?;
    Ok(Some(outcome))
}

fn without_dispatcher(
    lab: &Lab,
    options: &Options,
    half: Duration,
    screen: &mut Screen,
) -> Result<Option<Outcome>> {
    let backends = lab.backends().iter();
    let targets = backends
        .map(|node| node.at(Family::V4, BACKEND_PORT))
        .collect();
    screen.begin(
        "without it: the same clients, a third of them straight to each back-end",
        false,
    );
    drive(lab, targets, options, half, screen, None)
}

/// One half: fresh back-ends, the load, a picture every now and then. `None` if interrupted.
fn drive(
    lab: &Lab,
    targets: Vec<SocketAddr>,
    options: &Options,
    half: Duration,
    screen: &mut Screen,
    daemon: Option<&Daemon>,
) -> Result<Option<Outcome>> {
    let mut servers = Vec::new();
    for (node, model) in std::iter::zip(lab.backends(), MODELS) {
        servers.push(Server::start(node, BACKEND_PORT, model.serve())?);
    }
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    let load = Load::start(lab.client(0), options.clients.into(), half / 2, targets);
    let begin = Instant::now();
    let mut finished = true;
    while finished && begin.elapsed() < half {
        finished = interrupt::sleep_until((Instant::now() + FRAME).min(begin + half));
        if finished {
            let status = daemon.map(Daemon::try_status).transpose()?;
            screen.show(&Moment {
                elapsed: begin.elapsed(),
                half,
                clients: load.joined(),
                tally: load.tally(),
                active: std::array::from_fn(|i| servers[i].count().active()),
                status: status.map(Status).as_ref(),
            });
        }
    }
    let lasted = begin.elapsed();
    load.stop();
    let most = std::array::from_fn(|i| samplers[i].most().max(servers[i].count().most()));
    // What is still under way is not waited for.
    drop(servers);
    let tally = load.finish();
    Ok(finished.then_some(Outcome {
        tally,
        lasted,
        most,
        status: None,
    }))
}
