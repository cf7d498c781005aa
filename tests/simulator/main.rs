//! `dispatcher-simulate`: draws a policy in a scenario, or judges all policies in all scenarios.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use dispatcher_simulator::judge::{self, Sweep, Verdict};
use dispatcher_simulator::run::Outcome;
use dispatcher_simulator::scenario::Scenario;
use dispatcher_simulator::{picture, table};
use dispatcher_user::ceiling::Policy;

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
    /// Where the picture goes; SCENARIO-POLICY.svg, unless told.
    #[arg(long, requires = "scenario")]
    output: Option<PathBuf>,
    /// Print each window, with what the controllers said.
    #[arg(long, requires = "scenario")]
    log: bool,
    /// Write the table into the manual, at this path, between its markers.
    #[arg(long, value_name = "MANUAL", conflicts_with = "scenario")]
    docs: Option<PathBuf>,
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
    let Some(path) = &options.docs else {
        print!("{table}");
        return Ok(());
    };
    let manual = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let manual = table::replaced(&manual, &table)?;
    fs::write(path, manual).with_context(|| format!("write {}", path.display()))?;
    println!("wrote the table into {}", path.display());
    Ok(())
}

fn simulate(options: &Options, name: &str) -> Result<()> {
    let Some(scenario) = Scenario::named(name) else {
        let names: Vec<_> = Scenario::all()
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        bail!("no scenario `{name}`; there are {}", names.join(", "));
    };
    let mut policies = judge::policies(&scenario);
    policies.push(Policy::Fixed);
    let labels: Vec<_> = policies.iter().map(Policy::label).collect();
    let Some(index) = labels.iter().position(|label| *label == options.policy) else {
        bail!(
            "no policy `{}`; there are {}",
            options.policy,
            labels.join(", ")
        );
    };
    let outcome = judge::run_policy(&scenario, policies.swap_remove(index), options.seed);
    if options.log {
        log(&outcome);
    }
    let sweep = Sweep::of(&scenario, options.seed);
    let told: Vec<_> = scenario
        .stretches
        .iter()
        .map(|stretch| {
            let verdict = Verdict::of(&outcome, &sweep, stretch);
            let settled = verdict.settled.map_or_else(
                || "never settled".to_owned(),
                |at| format!("settled after {at} s"),
            );
            let best = sweep.best(stretch).0;
            let text = format!(
                "{} {:.0} requests/s at {}, {:.0} % of the best fixed ceiling ({best}), {settled}",
                stretch.name,
                verdict.served,
                verdict.ceiling,
                verdict.share * 100.0,
            );
            text.trim_start().to_owned()
        })
        .collect();
    println!("{name}: {}", scenario.about);
    for line in &told {
        println!("{}: {line}", options.policy);
    }
    for (index, controller) in outcome.controllers.iter().enumerate() {
        if let Some(suggestion) = controller.suggestion() {
            println!("back-end {index}: {suggestion}");
        }
    }
    let default = || PathBuf::from(format!("{name}-{}.svg", options.policy));
    let path = options.output.clone().unwrap_or_else(default);
    let title = format!("{}: {}", options.policy, scenario.about);
    let svg = picture::svg(&scenario, &outcome, &title, &told.join("; "))?;
    fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
    println!("drew {}", path.display());
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
