//! `cargo xtask`: the workshop, one module a subcommand. How the BPF object is built is in the
//! library, because a build script needs it too.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::command::Runner;

mod cargo;
mod privilege;

mod setup;
mod build;
mod load;
mod lab;
mod test;
mod vm;
mod bench;
mod simulate;
mod fuzz;
mod dist;
mod lint;
mod tidy;
mod docs;

/// The workshop of Dispatcher: set-up, build, run, demo, lab, test, bench, lint, dist.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    /// Print the commands that would change something, and run none of them.
    #[arg(long, global = true)]
    dry_run: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building, the demo and the tests need; say what and why before.
    Setup(setup::Options),
    /// Build the BPF object; print its programs, their instructions, and its maps.
    BuildEbpf,
    /// Build the dispatcher with the BPF object inside.
    Build(build::Options),
    /// Build the dispatcher and run it, elevating only that.
    Run(build::RunOptions),
    /// Attach the program alone to an interface, for a look with bpftool.
    Load(load::LoadOptions),
    /// Detach what `load` attached, and remove its pins.
    Unload(load::UnloadOptions),
    /// Drive the real daemon past its capacity in network namespaces, and show what it does.
    Demo(lab::DemoOptions),
    /// Keep the demo's network namespaces, for trying things by hand.
    #[command(subcommand)]
    Lab(lab::Lab),
    /// Run tests; without a group, all of them.
    Test(test::Options),
    /// Run benchmarks; without a name, all of them.
    Bench(bench::Options),
    /// Draw a ceiling policy in a scenario, or judge all policies in all scenarios.
    Simulate(simulate::Options),
    /// Fuzz what reads bytes of others: frames, requests, answers, files.
    Fuzz(fuzz::Options),
    /// Make a tarball and a Debian package for users.
    Dist(dist::Options),
    /// Formatting, clippy for host and BPF, documentation, dependencies, invariants, what the
    /// program costs.
    Lint,
    /// Check the invariants of the architecture that can be read off the source.
    Tidy,
    /// Write the parts of the manual that the code says: keys, commands, metrics, bounds.
    Docs,
    /// Exactly what CI runs: setup, lint, every test, those of the status page included.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<()> {
    let runner = Runner {
        dry_run: arguments.dry_run,
    };
    match arguments.task {
        Task::Setup(options) => setup::run(&options, runner),
        Task::BuildEbpf => build::build_ebpf(runner),
        Task::Build(options) => build::run(&options, runner),
        Task::Run(options) => build::run_daemon(&options, runner),
        Task::Load(options) => load::load(&options, runner),
        Task::Unload(options) => load::unload(&options, runner),
        Task::Demo(options) => lab::demo(&options, runner),
        Task::Lab(lab) => lab::run(&lab, runner),
        Task::Test(options) => test::run(&options, runner),
        Task::Bench(options) => bench::run(&options, runner),
        Task::Simulate(options) => simulate::run(&options, runner),
        Task::Fuzz(options) => fuzz::run(&options, runner),
        Task::Dist(options) => dist::run(&options, runner),
        Task::Lint => lint::run(runner),
        Task::Tidy => tidy::run(),
        Task::Docs => docs::run(runner),
        Task::Ci => ci(runner),
    }
}

fn ci(runner: Runner) -> Result<()> {
    setup::run(&setup::Options { check: false }, runner)?;
    lint::run(runner)?;
    test::page_tools(runner)?;
    test::run_group(test::Group::All, &[], runner)?;
    test::run_group(test::Group::Page, &[], runner)?;
    test::run_group(test::Group::Log, &[], runner)
}
