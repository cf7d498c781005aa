//! The simulator: builds `dispatcher-simulate`, and hands over to it. What it simulates is in
//! package dispatcher-simulator.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use xtask::command::{self, Runner};

use crate::cargo;

#[derive(Args)]
pub struct Options {
    /// What `dispatcher-simulate` is given: `--scenario S --policy P`, `--docs`, `--help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    let [simulate] =
        cargo::build_binaries(["dispatcher-simulate"], cargo::Build::default(), runner)?;
    let mut simulate = Command::new(simulate);
    simulate.args(&options.arguments);
    if runner.dry_run {
        return runner.run(&mut simulate);
    }
    let error = simulate.exec();
    Err(error).with_context(|| format!("cannot run {}", command::describe(&simulate)))
}
