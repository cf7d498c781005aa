//! Runs the benchmarks: those of the decisions as the user, those of the program as root.

use anyhow::{Result, ensure};
use clap::Args;
use xtask::command::Runner;

use crate::cargo::{self, TESTS_PACKAGE, Target};

#[derive(Args)]
pub struct Options {
    /// Names of benchmarks, as `admission` or `program`.
    names: Vec<String>,
}

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    let there = cargo::targets("bench")?;
    for name in &options.names {
        let known: Vec<_> = there.iter().map(|target| target.name.as_str()).collect();
        ensure!(
            known.contains(&name.as_str()),
            "no benchmark {name}; there are {known:?}"
        );
    }
    let asked = |target: &&Target| options.names.is_empty() || options.names.contains(&target.name);
    for target in there.iter().filter(asked) {
        let mut cargo = cargo::command("bench");
        cargo.args(["--package", &target.package, "--bench", &target.name]);
        if target.package == TESTS_PACKAGE {
            let [dispatcher] = cargo::build_binaries(["dispatcher"], true, runner)?;
            cargo
                .env("DISPATCHER_BIN", dispatcher)
                .envs(cargo::elevating_runner()?);
        }
        runner.run(&mut cargo)?;
    }
    Ok(())
}
