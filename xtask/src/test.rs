//! Runs the tests, by what they need: nothing, a kernel, or network namespaces. Cargo runs them;
//! only the binaries that need root get it.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use xtask::command::Runner;

use crate::cargo::{self, TESTS_PACKAGE, Target};
use crate::{setup, vm};

#[derive(Args)]
pub struct Options {
    /// Which tests.
    #[arg(value_enum, default_value_t = Group::All)]
    group: Group,
    /// What the test binaries are given: a filter, and options of the test harness.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Group {
    /// What needs neither root nor a kernel of some kind.
    Unit,
    /// The program in the kernel's test run: verifier, contract, program, differential.
    Kernel,
    /// The daemon and the program on real interfaces in network namespaces.
    Netns,
    /// The program, the daemon's core and VLAN devices on Linux 6.1, in a virtual machine; not part
    /// of `all`.
    Vm,
    /// The status page in Chromium, which setup installs for it; not part of `all`.
    Page,
    /// Long runs; not part of `all`.
    Soak,
    /// Draws the figures of the manual that take a daemon under load; not part of `all`.
    Figures,
    /// What the program tells in the log, by a daemon that is built for it; not part of `all`.
    Log,
    /// The package in a fresh Debian from the network, and promtool's judgement; not part of `all`.
    Dist,
    /// Unit, kernel and netns.
    All,
}

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    setup::run(&setup::Options { check: false }, runner)?;
    if matches!(options.group, Group::Page | Group::Figures) {
        page_tools(runner)?;
    }
    run_group(options.group, &options.arguments, runner)
}

/// Installs what the tests of the status page need, unless it is there.
pub fn page_tools(runner: Runner) -> Result<()> {
    setup::install_for("cargo xtask test page", setup::packages::BROWSER, runner)
}

/// Runs a group; the tools are there.
pub fn run_group(group: Group, arguments: &[OsString], runner: Runner) -> Result<()> {
    match group {
        Group::Unit => unit(arguments, runner),
        Group::All => {
            for group in [Group::Unit, Group::Kernel, Group::Netns] {
                run_group(group, arguments, runner)?;
            }
            Ok(())
        }
        Group::Dist => {
            setup::install_for("cargo xtask test dist", setup::packages::DIST, runner)?;
            privileged(group, arguments, runner)
        }
        Group::Kernel | Group::Netns | Group::Page | Group::Log | Group::Figures | Group::Soak => {
            privileged(group, arguments, runner)
        }
        Group::Vm => on_oldest_kernel(arguments, runner),
    }
}

/// What of the group `netns` runs on the oldest kernel too: connections from the first SYN to the
/// last ACK, sockets, adoption, what the daemon gives up.
const CORE: [&str; 5] = [
    "netns_admission",
    "netns_forward",
    "netns_lifecycle",
    "netns_privilege",
    "netns_xsk",
];

fn on_oldest_kernel(arguments: &[OsString], runner: Runner) -> Result<()> {
    setup::install_for("cargo xtask test vm", setup::packages::VM, runner)?;
    let targets = cargo::targets("test")?;
    let mut names = of_group(&targets, Group::Kernel);
    // What a package holds and what a document says is the same on all kernels.
    names.retain(|name| !matches!(&**name, "contract_package" | "contract_bounds"));
    names.extend(of_group(&targets, Group::Vm));
    names.extend(CORE.map(str::to_owned));
    let [dispatcher] = cargo::build_binaries(["dispatcher"], cargo::Build::default(), runner)?;
    let executables = cargo::build_tests(&names, runner)?;
    let tests: Vec<_> = std::iter::zip(names, executables)
        .map(|(name, executable)| vm::Test { name, executable })
        .collect();
    vm::run(&tests, &dispatcher, arguments, runner)
}

// Always the whole workspace, or cargo would choose other features of the dependencies and build
// those twice; what runs is chosen among its targets.
fn unit(arguments: &[OsString], runner: Runner) -> Result<()> {
    let mut cargo = cargo::command("test");
    cargo.args(["--workspace", "--no-fail-fast", "--lib", "--bins"]);
    for target in cargo::targets("test")? {
        if target.package != TESTS_PACKAGE {
            cargo.args(["--test", &target.name]);
        }
    }
    runner.run(cargo.arg("--").args(arguments))?;
    runner.run(
        cargo::command("test")
            .args(["--workspace", "--doc", "--"])
            .args(arguments),
    )
}

fn privileged(group: Group, arguments: &[OsString], runner: Runner) -> Result<()> {
    let names = of_group(&cargo::targets("test")?, group);
    ensure!(
        !names.is_empty(),
        "package {TESTS_PACKAGE} has no test target of group {group:?}"
    );
    // What is packaged is what users are given.
    let build = cargo::Build {
        release: group == Group::Dist,
        program_log: group == Group::Log,
    };
    let [dispatcher] = cargo::build_binaries(["dispatcher"], build, runner)?;
    let mut cargo = cargo::command("test");
    cargo
        .args(["--workspace", "--no-fail-fast"])
        .env("DISPATCHER_BIN", dispatcher);
    cargo.envs(cargo::elevating_runner()?);
    for name in &names {
        cargo.args(["--test", name]);
    }
    cargo.arg("--").args(arguments);
    if group != Group::Kernel {
        // Their timing is the subject: they share no machine with each other.
        cargo.arg("--test-threads=1");
    }
    runner.run(&mut cargo)
}

fn of_group(targets: &[Target], group: Group) -> Vec<String> {
    let ours = targets
        .iter()
        .filter(|target| target.package == TESTS_PACKAGE);
    ours.map(|target| target.name.clone())
        .filter(|name| belongs(name, group))
        .collect()
}

fn belongs(target: &str, group: Group) -> bool {
    let prefixes: &[&str] = match group {
        Group::Kernel => &["contract", "differential", "program_", "verifier"],
        Group::Netns => &["netns_"],
        Group::Vm => &["vlan_devices"],
        Group::Page => &["page_"],
        Group::Log => &["log_"],
        Group::Figures => &["figure_"],
        Group::Soak => &["soak_"],
        Group::Dist => &["dist_"],
        Group::Unit | Group::All => &[],
    };
    prefixes.iter().any(|prefix| target.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_belongs_to_the_group_of_its_name() {
        assert!(belongs("program_parse", Group::Kernel));
        assert!(belongs("contract", Group::Kernel));
        assert!(belongs("netns_admission", Group::Netns));
        assert!(!belongs("soak_day", Group::Netns));
    }

    #[test]
    fn what_runs_on_the_oldest_kernel_is_there() {
        let targets = cargo::targets("test").unwrap();
        for name in CORE {
            assert!(targets.iter().any(|target| target.name == name), "{name}");
        }
    }

    #[test]
    fn every_target_of_the_tests_package_belongs_to_one_group() {
        let groups = [
            Group::Kernel,
            Group::Netns,
            Group::Vm,
            Group::Page,
            Group::Log,
            Group::Figures,
            Group::Soak,
            Group::Dist,
        ];
        for target in cargo::targets("test").unwrap() {
            if target.package == TESTS_PACKAGE {
                let of = groups.iter().filter(|group| belongs(&target.name, **group));
                assert_eq!(of.count(), 1, "{}: no group runs it", target.name);
            }
        }
    }
}
