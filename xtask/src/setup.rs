//! Finds what building, the demo and the tests need, and installs what is missing: with the
//! package manager (elevated), rustup and cargo (not elevated). Says what and why before.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use xtask::bpf;
use xtask::bpf::linker::{self, LINKER, LLVM};
use xtask::bpf::toolchain::{self, Origin, PINNED};
use xtask::command::Runner;

use crate::privilege;

mod packages;
mod quiet_services;

use packages::Need;

#[derive(Args)]
pub struct Options {
    /// Only tell what is missing; fail when something is.
    #[arg(long)]
    pub check: bool,
}

/// What is missing on this machine.
#[derive(Default)]
struct Missing {
    packages: Vec<&'static Need>,
    /// Why no compiler that is here builds for BPF.
    compiler: Option<String>,
    /// Why no linker that is here links for BPF.
    linker: Option<String>,
    /// The distribution's compiler is to be taken, and has no clippy beside it.
    clippy: bool,
}

impl Missing {
    fn find() -> Result<Self> {
        let candidates = toolchain::candidates()?;
        let compiler = toolchain::choose(&candidates);
        let clippy = compiler.as_ref().is_ok_and(|compiler| {
            matches!(compiler.origin, Origin::Distribution)
                && !compiler.rustc.with_file_name("cargo-clippy").exists()
        });
        let compiler = compiler.err();
        let linker = linker::find(&bpf::tools_directory()).err();
        let because = |error: anyhow::Error| format!("{error:#}");
        Ok(Self {
            packages: packages::missing(),
            compiler: compiler.map(because),
            linker: linker.map(because),
            clippy,
        })
    }

    /// One line for each thing, with the reason for it.
    fn list(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .packages
            .iter()
            .map(|need| format!("{}: {}", need.package, need.why))
            .collect();
        if self.compiler.is_some() {
            lines.push(format!(
                "Rust {PINNED} with the source of core, from rustup or else the distribution: \
                 core must be built for BPF; the default toolchain stays as it is"
            ));
        }
        if self.clippy {
            lines.push(format!(
                "{}: judges the program's source",
                packages::COMPILER_CLIPPY
            ));
        }
        if self.linker.is_some() {
            lines.push(format!(
                "bpf-linker {LINKER}, built by cargo in about a minute: links the BPF object"
            ));
        }
        lines
    }
}

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    let missing = Missing::find()?;
    let list = missing.list();
    if list.is_empty() {
        println!("setup: everything is there");
        return Ok(());
    }
    println!("setup: missing on this machine, and what for:");
    for line in &list {
        println!("  {line}");
    }
    for why in missing.compiler.iter().chain(&missing.linker) {
        println!("  ({why})");
    }
    if options.check {
        bail!("{} things are missing: run `cargo xtask setup`", list.len());
    }
    install(&missing, runner)?;
    if runner.dry_run {
        return Ok(());
    }
    let left = Missing::find()?;
    if let Some(why) = left.compiler.or(left.linker) {
        bail!("still missing after installing: {why}");
    }
    if let Some(need) = left.packages.first() {
        bail!(
            "{} is installed, but what it is for is not there: {}",
            need.package,
            need.why
        );
    }
    println!("setup: everything is there now");
    Ok(())
}

/// Installs what only the tests of the Debian package need.
pub fn for_dist(runner: Runner) -> Result<()> {
    if privilege::find("debootstrap").is_some() {
        return Ok(());
    }
    println!("setup: debootstrap is missing: makes a fresh Debian to test the package in");
    install_packages(&["debootstrap"], runner)
}

fn install(missing: &Missing, runner: Runner) -> Result<()> {
    let mut names: Vec<&str> = missing.packages.iter().map(|need| need.package).collect();
    if missing.compiler.is_some() && !compiler_from_rustup(runner)? {
        names.extend(packages::COMPILER);
        names.push(packages::COMPILER_CLIPPY);
    } else if missing.clippy {
        names.push(packages::COMPILER_CLIPPY);
    }
    if !names.is_empty() {
        install_packages(&names, runner)?;
    }
    if missing.linker.is_some() {
        install_linker(runner)?;
    }
    Ok(())
}

/// Whether rustup is there and could install the compiler; without a network it cannot.
fn compiler_from_rustup(runner: Runner) -> Result<bool> {
    if privilege::find("rustup").is_none() {
        return Ok(false);
    }
    let mut rustup = Command::new("rustup");
    toolchain::clean(&mut rustup)
        .args(["toolchain", "install", PINNED, "--profile", "minimal"])
        .args([
            "--component",
            "rust-src",
            "--component",
            "clippy",
            "--no-self-update",
        ]);
    if let Err(error) = runner.run(&mut rustup) {
        println!("setup: rustup cannot ({error:#}); taking the distribution's compiler");
        return Ok(false);
    }
    if runner.dry_run {
        return Ok(true);
    }
    Ok(toolchain::choose(&toolchain::candidates()?).is_ok())
}

fn install_packages(names: &[&str], runner: Runner) -> Result<()> {
    ensure!(
        privilege::find("apt-get").is_some(),
        "no apt-get here: install what Debian calls {} by hand, then run this again",
        names.join(" ")
    );
    let apt = || -> Result<Command> {
        // Through env, because sudo may be configured to clear the environment.
        let mut apt = privilege::elevated("env")?;
        apt.args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "--quiet",
            "--yes",
        ]);
        Ok(apt)
    };
    if let Err(error) = runner.run(apt()?.arg("update")) {
        // One repository out of many may be out of order; what is known may suffice.
        println!("setup: going on with the package lists that are here ({error:#})");
    }
    let quiet = quiet_services::Quiet::begin(names, runner)?;
    let installed = runner.run(
        apt()?
            .args(["install", "--no-install-recommends"])
            .args(names),
    );
    quiet.end(runner)?;
    installed.context("the package manager failed; what it says above tells why")
}

/// Where cargo puts programs, unless another version is there already: somebody else's, who keeps
/// it.
fn install_linker(runner: Runner) -> Result<()> {
    let mut cargo = Command::new("cargo");
    toolchain::clean(&mut cargo);
    cargo.args(["install", "bpf-linker", "--version", LINKER, "--locked"]);
    if privilege::find("bpf-linker").is_some() {
        cargo.arg("--root").arg(bpf::tools_directory());
    }
    runner
        .run(&mut cargo)
        .with_context(|| format!("bpf-linker for LLVM {LLVM} did not build"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_reason() {
        assert!(Missing::default().list().is_empty());
        let missing = Missing {
            packages: packages::NEEDS
                .iter()
                .filter(|need| need.package == "m4")
                .collect(),
            compiler: Some("no compiler".to_owned()),
            linker: Some("no linker".to_owned()),
            clippy: false,
        };
        let list = missing.list();
        assert_eq!(list[0], "m4: generates parts of libxdp");
        assert!(
            list[1].starts_with("Rust 1.96.0 with the source of core"),
            "{}",
            list[1]
        );
        assert!(list[2].starts_with("bpf-linker 0.10.3"), "{}", list[2]);
    }
}
