//! Fuzzing: libFuzzer in front of the bodies in `tests/hostile`, from the corpus beside them. It
//! is built with counters of the compiler's own, so that any toolchain will do, stable too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use xtask::bpf;
use xtask::command::{self, Runner};

use crate::setup;

#[derive(Args)]
pub struct Options {
    /// Which target; without one, each in turn.
    target: Option<String>,
    /// How long each runs, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Add to the corpus what reaches code that nothing in it reached.
    #[arg(long)]
    keep: bool,
}

/// What libFuzzer reads to learn where an input went (clang's SanitizerCoverage).
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    setup::run(&setup::Options { check: false }, runner)?;
    setup::install_for("cargo xtask fuzz", setup::packages::FUZZ, runner)?;
    let workspace = bpf::workspace();
    let all = targets(&workspace.join("fuzz/targets"))?;
    let chosen: Vec<_> = match &options.target {
        Some(target) => {
            ensure!(
                all.contains(target),
                "no target {target:?}; there are {}",
                all.join(", ")
            );
            vec![target.clone()]
        }
        None => all,
    };
    let directory = bpf::target_directory().join("fuzz");
    let triple = host()?;
    // With a target named, cargo keeps the flags from build scripts.
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace.join("fuzz"))
        .args(["build", "--locked", "--release", "--target", &triple])
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    runner.run(&mut cargo)?;
    for target in chosen {
        let binary = directory.join(&triple).join("release").join(&target);
        let kept = workspace.join("tests/hostile/corpus").join(&target);
        fuzz(&binary, &directory, &target, &kept, options, runner)?;
    }
    Ok(())
}

fn fuzz(
    binary: &Path,
    directory: &Path,
    target: &str,
    kept: &Path,
    options: &Options,
    runner: Runner,
) -> Result<()> {
    let found = directory.join("found").join(target);
    let crashes = directory.join("crashes");
    if !runner.dry_run {
        for directory in [&found, &crashes] {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
    }
    let prefix = format!("-artifact_prefix={}/{target}-", crashes.display());
    let mut fuzzer = Command::new(binary);
    fuzzer
        .args([&found, kept])
        .args([prefix, format!("-max_total_time={}", options.seconds)])
        .args(["-timeout=30", "-print_final_stats=1"]);
    runner.run(&mut fuzzer).with_context(|| {
        let (crashes, kept) = (crashes.display(), kept.display());
        format!("what {target} fails on is in {crashes}; the tests replay it once it is in {kept}")
    })?;
    if options.keep {
        let mut merge = Command::new(binary);
        runner.run(merge.arg("-merge=1").args([kept, &found]))?;
    }
    Ok(())
}

fn targets(directory: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = paths.iter().filter_map(stem).collect();
    names.sort();
    Ok(names)
}

/// The triple of this machine.
fn host() -> Result<String> {
    let version = command::ask(Command::new("rustc").arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc -vV tells no host")
}
