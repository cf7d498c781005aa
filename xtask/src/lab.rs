//! The demo and the lab: builds the dispatcher and `dispatcher-lab`, and hands over to the latter
//! as root. What a lab is, is in package dispatcher-tests.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use xtask::command::{self, Runner};

use crate::{cargo, privilege, setup};

#[derive(Args)]
pub struct DemoOptions {
    /// Build with optimizations.
    #[arg(long)]
    release: bool,
    /// What the demo is given; `-- --help` lists it.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Subcommand)]
pub enum Lab {
    /// Make the namespaces and leave them.
    Up(LabArguments),
    /// Remove the namespaces.
    Down(LabArguments),
    /// Run a command in one of the namespaces.
    Exec(LabArguments),
}

#[derive(Args)]
pub struct LabArguments {
    /// What `dispatcher-lab` is given after the subcommand.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn demo(options: &DemoOptions, runner: Runner) -> Result<()> {
    setup::run(&setup::Options { check: false }, runner)?;
    hand_over("demo", &options.arguments, options.release, runner)
}

pub fn run(lab: &Lab, runner: Runner) -> Result<()> {
    let (subcommand, options) = match lab {
        Lab::Up(options) => ("up", options),
        Lab::Down(options) => ("down", options),
        Lab::Exec(options) => ("exec", options),
    };
    hand_over(subcommand, &options.arguments, false, runner)
}

fn hand_over(
    subcommand: &str,
    arguments: &[OsString],
    release: bool,
    runner: Runner,
) -> Result<()> {
    let names = ["dispatcher", "dispatcher-lab"];
    let build = cargo::Build {
        release,
        ..Default::default()
    };
    let [dispatcher, lab] = cargo::build_binaries(names, build, runner)?;
    let mut lab = privilege::elevated(lab)?;
    lab.env("DISPATCHER_BIN", dispatcher)
        .env("DISPATCHER_LAB_COMMAND", "cargo xtask lab")
        .arg(subcommand)
        .args(arguments);
    if runner.dry_run {
        return runner.run(&mut lab);
    }
    // In our place: the lab cleans up on Ctrl-C, and its exit code is ours.
    let error = lab.exec();
    Err(error).with_context(|| format!("cannot run {}", command::describe(&lab)))
}
