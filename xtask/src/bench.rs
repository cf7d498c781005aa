//! Runs the benchmarks: those of the decisions as the user, those of the program as root.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use clap::Args;
use xtask::command::Runner;

use crate::cargo::{self, TESTS_PACKAGE, Target};
use crate::setup;

/// Takes minutes, and a server that nothing else needs: it runs only when it is named.
const OVERLOAD: &str = "overload";
/// Compares with programs that nothing else needs.
const CONTENDERS: &str = "contenders";
/// Makes a bench that measures for minutes shorter.
const QUICK: &str = "--quick";

#[derive(Args)]
pub struct Options {
    /// Names of benchmarks, as `admission` or `program`; without any, all but `overload`.
    names: Vec<String>,
    /// What the benchmarks are given: `contenders` and `overload` take `--quick`.
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
        let needs = match &*target.name {
            OVERLOAD => setup::packages::OVERLOAD,
            CONTENDERS => setup::packages::CONTENDERS,
            _ => &[],
        };
        setup::install_for(&target.name, needs, runner)?;
        let mut cargo = cargo::command("bench");
        // Of the whole workspace, for the reason of `cargo::build_binaries`.
        cargo.args(["--workspace", "--bench", &target.name]);
        if target.package == TESTS_PACKAGE {
            let [dispatcher] =
                cargo::build_binaries(["dispatcher"], cargo::Build::RELEASE, runner)?;
            cargo
                .env("DISPATCHER_BIN", dispatcher)
                .envs(cargo::elevating_runner()?);
        }
        runner.run(cargo.arg("--").args(options.arguments_of(&target.name)))?;
    }
    Ok(())
}

impl Options {
    /// What a benchmark is given. One that was not asked for by name is not given what it does not
    /// know.
    fn arguments_of(&self, name: &str) -> Vec<&OsString> {
        let quick = [CONTENDERS, OVERLOAD].contains(&name);
        let known = |argument: &&OsString| (*argument == QUICK) == quick;
        let all = self.arguments.iter();
        all.filter(|argument| !self.names.is_empty() || known(argument))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(names: &[&str], arguments: &[&str], to: &str) -> Vec<OsString> {
        let options = Options {
            names: names.iter().map(ToString::to_string).collect(),
            arguments: arguments.iter().map(OsString::from).collect(),
        };
        options.arguments_of(to).into_iter().cloned().collect()
    }

    #[test]
    fn without_names_each_is_given_what_it_knows() {
        let arguments = ["--quick", "--json"];
        assert_eq!(given(&[], &arguments, "contenders"), ["--quick"]);
        assert_eq!(given(&[], &arguments, "program"), ["--json"]);
        assert_eq!(given(&["program"], &arguments, "program"), arguments);
    }
}
