//! Runs the benchmarks: those of the decisions as the user, those of the program as root.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use clap::Args;
use xtask::command::Runner;

use crate::cargo::{self, TESTS_PACKAGE, Target};
use crate::setup;

/// Takes minutes, and a server that nothing else needs: it runs only when it is named.
const OVERLOAD: &str = "overload";

#[derive(Args)]
pub struct Options {
    /// Names of benchmarks, as `admission` or `program`; without any, all but `overload`.
    names: Vec<String>,
    /// What the benchmarks are given: `overload` takes `--quick`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
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
    let asked = |target: &&Target| match &*options.names {
        [] => target.name != OVERLOAD,
        names => names.contains(&target.name),
    };
    for target in there.iter().filter(asked) {
        if target.name == OVERLOAD {
            setup::install_for(OVERLOAD, setup::packages::OVERLOAD, runner)?;
        }
        let mut cargo = cargo::command("bench");
        cargo.args(["--package", &target.package, "--bench", &target.name]);
        if target.package == TESTS_PACKAGE {
            let [dispatcher] =
                cargo::build_binaries(["dispatcher"], cargo::Build::RELEASE, runner)?;
            cargo
                .env("DISPATCHER_BIN", dispatcher)
                .envs(cargo::elevating_runner()?);
        }
        runner.run(cargo.arg("--").args(&options.arguments))?;
    }
    Ok(())
}
