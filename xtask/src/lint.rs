//! Everything that judges the source: without running it, but for what program and decisions cost.
//! Changes nothing.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::bpf;
use xtask::bpf::toolchain;
use xtask::command::{self, Runner};
use xtask::costs;

use crate::{cargo, privilege, tidy};

type Step = fn(Runner) -> Result<()>;

/// Takes every step, whatever an earlier one found.
pub fn run(runner: Runner) -> Result<()> {
    let steps: [(&str, Step); 8] = [
        ("tidy", |_| tidy::run()),
        ("format", format),
        ("clippy for BPF", clippy_for_bpf),
        ("clippy", clippy),
        ("documentation", documentation),
        ("dependencies", dependencies),
        ("cost of the program", cost_of_the_program),
        ("cost of decisions", cost_of_decisions),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        if let Err(error) = step(runner) {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    ensure!(
        failed.is_empty(),
        "lint failed: {}; see above",
        failed.join(", ")
    );
    Ok(())
}

fn format(runner: Runner) -> Result<()> {
    component("rustfmt", "fmt")?;
    let mut cargo = Command::new("cargo");
    runner.run(
        cargo
            .current_dir(bpf::workspace())
            .args(["fmt", "--all", "--check"]),
    )
}

fn clippy(runner: Runner) -> Result<()> {
    component("clippy", "clippy")?;
    let mut cargo = cargo::command("clippy");
    runner.run(cargo.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation(runner: Runner) -> Result<()> {
    let mut cargo = cargo::command("doc");
    runner.run(
        cargo
            .args(["--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The verifier counts it, so the program is loaded, for which root is needed.
fn cost_of_the_program(runner: Runner) -> Result<()> {
    let root = cargo::elevating_runner().context("the program cannot be loaded")?;
    let mut cargo = cargo::command("test");
    runner.run(cargo.args(["--workspace", "--test", "verifier"]).envs(root))
}

/// Instructions, counted by callgrind in a simulation: the same in every run.
fn cost_of_decisions(runner: Runner) -> Result<()> {
    ensure!(
        privilege::find("valgrind").is_some(),
        "no valgrind: run `cargo xtask setup`"
    );
    let mut bench = cargo::command("bench");
    bench.args(["--package", "dispatcher-decisions", "--bench", "admission"]);
    bench.args(["--", "--guarded"]);
    if runner.dry_run {
        return runner.run(&mut bench);
    }
    let counts = command::ask(&mut bench)?;
    let counted: Vec<_> = counts
        .lines()
        .filter_map(|line| {
            let (name, count) = line.split_once(' ')?;
            Some((name, count.parse().ok()?))
        })
        .collect();
    costs::check("admission", &compiler()?, &counted)
}

/// What the counts depend on besides the source: `rustc 1.95.0 on x86_64`.
fn compiler() -> Result<String> {
    let version = command::ask(Command::new("rustc").arg("--version"))?;
    let number: Vec<_> = version.split(' ').take(2).collect();
    Ok(format!(
        "{} on {}",
        number.join(" "),
        std::env::consts::ARCH
    ))
}

fn component(name: &str, subcommand: &str) -> Result<()> {
    command::ask(Command::new("cargo").args([subcommand, "--version"]))
        .map(drop)
        .with_context(|| format!("no {name}: run `rustup component add {name}`"))
}

/// The program has code that exists for BPF only.
fn clippy_for_bpf(runner: Runner) -> Result<()> {
    let candidates = toolchain::candidates()?;
    let compiler = toolchain::choose(&candidates)?;
    let clippy = compiler.rustc.with_file_name("cargo-clippy");
    if !clippy.exists() {
        println!(
            "lint: SKIPPED clippy for BPF: {} has none (rust-web-clippy on Debian, or \
             `rustup component add clippy`)",
            compiler.origin
        );
        return Ok(());
    }
    let mut cargo = bpf::compiler_command(compiler, &clippy)?;
    cargo.args(["clippy", "--locked", "--release", "--package", bpf::PACKAGE]);
    runner.run(cargo.args(["--", "-D", "warnings"]))
}

/// Licences, advisories and sources of the dependencies, where cargo-deny is installed.
fn dependencies(runner: Runner) -> Result<()> {
    if privilege::find("cargo-deny").is_none() {
        println!("lint: SKIPPED cargo deny: not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    let mut deny = Command::new("cargo");
    runner.run(
        deny.current_dir(bpf::workspace())
            .args(["deny", "--workspace", "check"]),
    )
}
