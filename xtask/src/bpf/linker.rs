//! Finds bpf-linker, and the LLVM that it loads at run time. Installs neither.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::toolchain::{Candidate, clean, rustup_rustc, rustup_toolchains};
use crate::command;

/// What [`LINKER`] reads; bitcode of another major version is not safe to read.
pub const LLVM: u32 = 22;
/// The linker's version; later ones want a later LLVM.
pub const LINKER: &str = "0.10.3";

/// The linker in `tools`, or on the path, if its version is [`LINKER`].
///
/// # Errors
///
/// When there is none, or only another version.
pub fn find(tools: &Path) -> Result<PathBuf> {
    let mut other = None;
    for directory in std::iter::once(tools.join("bin")).chain(search_path()) {
        let path = directory.join("bpf-linker");
        if !path.exists() {
            continue;
        }
        let version = command::ask(clean(&mut Command::new(&path)).arg("--version"))?;
        if version.trim().strip_prefix("bpf-linker ") == Some(LINKER) {
            return Ok(path);
        }
        other.get_or_insert_with(|| format!("; {} is {}", path.display(), version.trim()));
    }
    let other = other.unwrap_or_default();
    bail!("no bpf-linker {LINKER}: run `cargo xtask setup`{other}")
}

/// Directories of `PATH`, then cargo's own.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home: OsString| PathBuf::from(home).join(".cargo"))
        });
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .collect()
}

/// A shared library of LLVM [`LLVM`]: the compiler's own, that of another toolchain, or the
/// distribution's.
///
/// # Errors
///
/// When there is none.
pub fn llvm_library(compiler: &Candidate) -> Result<PathBuf> {
    let mut directories = vec![compiler.sysroot.join("lib")];
    for name in rustup_toolchains() {
        if let Ok(rustc) = rustup_rustc(&name) {
            directories.extend(rustc.ancestors().nth(2).map(|sysroot| sysroot.join("lib")));
        }
    }
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    directories.extend([PathBuf::from(multiarch), PathBuf::from("/usr/lib64")]);
    for directory in &directories {
        let Ok(entries) = directory.read_dir() else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if llvm_major(&name) == Some(LLVM) && is_elf(&path) {
                return Ok(path);
            }
        }
    }
    bail!("no libLLVM of version {LLVM} beside any compiler: run `cargo xtask setup`")
}

/// Toolchains also hold linker scripts under such names.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

/// The major version in the name of a shared library of LLVM's.
fn llvm_major(file_name: &str) -> Option<u32> {
    let rest = file_name.strip_prefix("libLLVM")?;
    let rest = rest
        .strip_prefix(".so.")
        .or_else(|| rest.strip_prefix('-'))?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_known_by_the_name_of_its_file() {
        assert_eq!(llvm_major("libLLVM-22-rust-1.95.0-stable.so"), Some(22));
        assert_eq!(llvm_major("libLLVM.so.22.1-rust-1.95.0-stable"), Some(22));
        assert_eq!(llvm_major("libLLVM.so.22.1"), Some(22));
        assert_eq!(llvm_major("libLLVM-14.0.6.so.1"), Some(14));
        assert_eq!(llvm_major("libLLVM.so"), None);
        assert_eq!(llvm_major("librustc_driver-6108105cd7e839cf.so"), None);
    }
}
