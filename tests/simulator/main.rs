//! `dispatcher-simulate`: draws a policy in a scenario, or judges all policies in all scenarios.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use dispatcher_simulator::manual::{self, Drawing};
use dispatcher_simulator::run::Outcome;
use dispatcher_simulator::scenario::Scenario;
use dispatcher_simulator::{judge, table};

/// Simulates ceiling policies: the real admission and the real controllers, in simulated time,
/// against simulated clients and servers.
///
/// Without a scenario, it prints a table of every policy on every scenario.
#[derive(Parser)]
#[command(name = "dispatcher-simulate")]
struct Options {
    /// What happens; `list` tells them.
    #[arg(long)]
    scenario: Option<String>,
    /// What moves the ceilings: queue-depth, response-time, throughput, gradient, or fixed.
    #[arg(long, default_value = "queue-depth", requires = "scenario")]
    policy: String,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the picture goes; SCENARIO-POLICY.svg unless told.
    #[arg(long, requires = "scenario")]
    output: Option<PathBuf>,
    /// Print each window, with what the controllers said.
    #[arg(long, requires = "scenario")]
    log: bool,
    /// Write the table, and the manual's pictures, into `docs/`.
    #[arg(long, conflicts_with = "scenario")]
    docs: bool,
}

fn main() -> ExitCode {
    match perform(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(options: &Options) -> Result<()> {
    match &options.scenario {
        Some(name) if name == "list" => {
            for scenario in Scenario::all() {
                println!("{:9} {}", scenario.name, scenario.about);
            }
            Ok(())
        }
        Some(name) => simulate(options, name),
        None => tabulate(options),
    }
}

fn tabulate(options: &Options) -> Result<()> {
    let table = table::markdown(&judge::judge_all(options.seed));
    if !options.docs {
        print!("{table}");
        return Ok(());
    }
    let directory = Path::new(manual::DIRECTORY);
    let path = directory.join(manual::NAME);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    write(&path, &table::replaced(&text, &table)?)?;
    for (scenario, policy) in manual::PICTURES {
        let drawing = Drawing::of(scenario, policy, options.seed)?;
        write(
            &directory.join(manual::picture(scenario, policy)),
            &drawing.svg()?,
        )?;
    }
    Ok(())
}

fn simulate(options: &Options, name: &str) -> Result<()> {
    let drawing = Drawing::of(name, &options.policy, options.seed)?;
    if options.log {
        log(&drawing.outcome);
    }
    println!("{name}: {}", drawing.scenario.about);
    for line in &drawing.told {
        println!("{}: {line}", options.policy);
    }
    for (index, controller) in drawing.outcome.controllers.iter().enumerate() {
        if let Some(suggestion) = controller.suggestion() {
            println!("back-end {index}: {suggestion}");
        }
    }
    let default = || PathBuf::from(manual::picture(name, &options.policy));
    let path = options.output.clone().unwrap_or_else(default);
    write(&path, &drawing.svg()?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn log(outcome: &Outcome) {
    for (window, sample) in outcome.samples.iter().enumerate() {
        print!(
            "{window:4} offered {:5.0} served {:5.0} queue {:6.1} response {:7.1} ms",
            sample.offered,
            sample.served,
            sample.queue,
            sample.response * 1000.0
        );
        for backend in &sample.backends {
            print!(
                " | {:3} held {:5.1} {}",
                backend.ceiling, backend.held, backend.why
            );
        }
        println!();
    }
}
