//! Everything that judges the source without running it. Changes nothing.

use std::process::Command;

use anyhow::{Context, Result};
use xtask::bpf;
use xtask::bpf::toolchain;
use xtask::command::{self, Runner};

use crate::{cargo, privilege, tidy};

pub fn run(runner: Runner) -> Result<()> {
    tidy::run()?;
    component("rustfmt", "fmt")?;
    component("clippy", "clippy")?;
    let mut format = Command::new("cargo");
    runner.run(
        format
            .current_dir(bpf::workspace())
            .args(["fmt", "--all", "--check"]),
    )?;
    runner.run(cargo::command("clippy").args([
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    clippy_for_bpf(runner)?;
    let mut doc = cargo::command("doc");
    runner.run(
        doc.args(["--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    deny(runner)
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
fn deny(runner: Runner) -> Result<()> {
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
