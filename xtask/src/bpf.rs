//! Builds the BPF object, for `cargo xtask build-ebpf` and for the build script of dispatcher-user
//! alike. Does not load it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

pub mod linker;
pub mod toolchain;

use toolchain::{Candidate, clean};

/// File name of the object.
pub const OBJECT: &str = "dispatcher.bpf.o";
/// Names an object to be taken as it is; nothing is built then (for packagers).
pub const PREBUILT_VARIABLE: &str = "DISPATCHER_BPF_OBJECT_PREBUILT";

/// Package of the kernel half.
pub const PACKAGE: &str = "dispatcher-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// LLVM may then read packet fields at any address, as BPF's own interpreter and JITs can; without
/// it every load from a byte array is taken apart into bytes.
const MISALIGNED: &str = "allows-misaligned-mem-access";

/// Root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target` in the workspace.
#[must_use]
pub fn target_directory() -> PathBuf {
    // A relative one is relative to where the user stands, which a build script cannot know.
    std::env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .filter(|directory| directory.is_absolute())
        .unwrap_or_else(|| workspace().join("target"))
}

/// Where setup puts tools whose version on the path is not ours.
#[must_use]
pub fn tools_directory() -> PathBuf {
    target_directory().join("tools")
}

/// What the object is made of: a build script runs again when one of these changes.
#[must_use]
pub fn inputs() -> Vec<PathBuf> {
    let inputs = [
        "Cargo.lock",
        "Cargo.toml",
        "dispatcher-common/Cargo.toml",
        "dispatcher-common/src",
        "dispatcher-ebpf/Cargo.toml",
        "dispatcher-ebpf/src",
    ];
    inputs.iter().map(|input| workspace().join(input)).collect()
}

/// Environment variables that the object depends on.
pub const INPUT_VARIABLES: [&str; 2] = [PREBUILT_VARIABLE, toolchain::TOOLCHAIN_VARIABLE];

/// Builds the object and puts it into the directory `out`; returns its path. With `log`, its
/// program can tell what becomes of packets; bpftool does not load it then.
///
/// # Errors
///
/// When the toolchain is not complete (the error says what to run), or the program does not build.
pub fn build(out: &Path, log: bool) -> Result<PathBuf> {
    let made = match std::env::var_os(PREBUILT_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => compile(log)?,
    };
    let object = out.join(OBJECT);
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    fs::copy(&made, &object)
        .with_context(|| format!("cannot copy {} to {}", made.display(), object.display()))?;
    Ok(object)
}

/// The command that compiles the object, with or without `log`.
///
/// # Errors
///
/// When the toolchain is not complete.
pub fn cargo_build(log: bool) -> Result<Command> {
    let candidates = toolchain::candidates()?;
    let compiler = toolchain::choose(&candidates)?;
    let mut cargo = compiler_command(compiler, &compiler.cargo)?;
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        PACKAGE,
    ]);
    if log {
        cargo.args(["--features", "log"]);
    }
    Ok(cargo)
}

fn compile(log: bool) -> Result<PathBuf> {
    command::run(&mut cargo_build(log)?)?;
    let object = own_target_directory()
        .join(TARGET)
        .join("release")
        .join(PACKAGE);
    ensure!(
        object.exists(),
        "cargo built {PACKAGE} but there is no {}",
        object.display()
    );
    Ok(object)
}

/// A directory of its own: the cargo that runs a build script holds the lock of the other one.
fn own_target_directory() -> PathBuf {
    target_directory().join("bpf")
}

/// `program`, which is cargo or runs it, ready for a subcommand that builds for BPF.
///
/// # Errors
///
/// When the linker or its LLVM is missing.
pub fn compiler_command(compiler: &Candidate, program: &Path) -> Result<Command> {
    let target = own_target_directory();
    let linker = linker::find(&tools_directory())?;
    let library = linker::llvm_library(compiler)?;
    let mut cargo = Command::new(program);
    clean(&mut cargo)
        .current_dir(workspace())
        .env("CARGO", &compiler.cargo)
        .env("RUSTC", &compiler.rustc)
        // build-std and the intrinsics behind atomics are unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            rustflags(compiler, &linker)?.join("\u{1f}"),
        )
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_UNSTABLE_BUILD_STD", "core")
        .env("CARGO_BUILD_TARGET", TARGET)
        .env("PATH", path_with_llvm(&library, &target)?);
    Ok(cargo)
}

fn rustflags(compiler: &Candidate, linker: &Path) -> Result<Vec<String>> {
    let mut rustc = Command::new(&compiler.rustc);
    let features =
        command::ask(clean(&mut rustc).args(["--print", "target-features", "--target", TARGET]))?;
    let mut codegen = vec![
        format!("linker={}", linker.display()),
        // Version 3 has atomic operations that return a value; the linker knows no version 4.
        "target-cpu=v3".to_owned(),
        "debuginfo=2".to_owned(),
        "link-arg=--btf".to_owned(),
    ];
    if features.contains(MISALIGNED) {
        // To the linker, which generates the code; rustc would warn of an unstable feature.
        codegen.push(format!("link-arg=--cpu-features=+{MISALIGNED}"));
    }
    Ok(codegen
        .into_iter()
        .flat_map(|option| ["-C".to_owned(), option])
        .collect())
}

/// `PATH` with a directory in front whose sibling `lib` holds nothing but `library`: that is where
/// the linker looks for LLVM.
fn path_with_llvm(library: &Path, target: &Path) -> Result<OsString> {
    let home = target.join("llvm");
    let link = home.join("lib/libLLVM.so");
    if fs::read_link(&link).ok().as_deref() != Some(library) {
        for directory in ["bin", "lib"] {
            fs::create_dir_all(home.join(directory))
                .with_context(|| format!("cannot make {}", home.display()))?;
        }
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(library, &link)
            .with_context(|| format!("cannot link {} to {}", link.display(), library.display()))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(home.join("bin")).chain(std::env::split_paths(&path));
    std::env::join_paths(directories).context("PATH is not a list of directories")
}
