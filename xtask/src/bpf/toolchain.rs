//! Finds a compiler that can build `core` for BPF. Installs nothing: that is `cargo xtask setup`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::linker::{LINKER, LLVM};
use crate::command;

/// The release that setup asks rustup for, and Debian's `rustc-web` is.
pub const PINNED: &str = "1.96.0";
/// `core::intrinsics` of older releases have other signatures.
const RELEASE_MIN: (u32, u32) = (1, 96);
/// Names a rustup toolchain, or the path of a rustc, to be used and no other.
pub const TOOLCHAIN_VARIABLE: &str = "DISPATCHER_BPF_TOOLCHAIN";

/// Where a compiler was found, in the order in which they are preferred.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Named by [`TOOLCHAIN_VARIABLE`].
    Asked,
    /// A toolchain of rustup's, by name.
    Rustup(String),
    /// `/usr/bin/rustc`.
    Distribution,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => write!(f, "the one named by {TOOLCHAIN_VARIABLE}"),
            Self::Rustup(name) => write!(f, "rustup's {name}"),
            Self::Distribution => write!(f, "the distribution's"),
        }
    }
}

/// A compiler on this machine, fit or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Where it was found.
    pub origin: Origin,
    /// The compiler.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// Directory that holds `lib/rustlib`.
    pub sysroot: PathBuf,
    /// Major and minor release.
    pub release: (u32, u32),
    /// Major version of its LLVM.
    pub llvm: u32,
    /// Whether the source of `core` is in the sysroot.
    pub source: bool,
}

impl Candidate {
    /// Why it cannot build for BPF, if so.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        let (major, minor) = self.release;
        if self.release < RELEASE_MIN {
            let (major_min, minor_min) = RELEASE_MIN;
            Some(format!(
                "is {major}.{minor}, older than {major_min}.{minor_min}"
            ))
        } else if self.llvm != LLVM {
            let llvm = self.llvm;
            Some(format!(
                "has LLVM {llvm}, but bpf-linker {LINKER} reads LLVM {LLVM}"
            ))
        } else if !self.source {
            Some("has no source of core (component rust-src)".to_owned())
        } else {
            None
        }
    }
}

/// The first fit one of `candidates`; one that was asked for is taken or refused, not passed over.
///
/// # Errors
///
/// When none is fit: what was found, and why each was refused.
pub fn choose(candidates: &[Candidate]) -> Result<&Candidate> {
    let mut refused = String::new();
    for candidate in candidates {
        let Some(why) = candidate.unfit() else {
            return Ok(candidate);
        };
        if candidate.origin == Origin::Asked {
            bail!("{}, {}, {why}", candidate.origin, candidate.rustc.display());
        }
        refused.push_str(&format!("; {} {why}", candidate.origin));
    }
    bail!("no compiler that builds for BPF: run `cargo xtask setup`{refused}")
}

/// What is on this machine, best first.
///
/// # Errors
///
/// When a toolchain was asked for and is not there.
pub fn candidates() -> Result<Vec<Candidate>> {
    if let Some(asked) = std::env::var_os(TOOLCHAIN_VARIABLE) {
        let rustc = if Path::new(&asked).is_absolute() {
            PathBuf::from(asked)
        } else {
            rustup_rustc(&asked.to_string_lossy()).with_context(|| {
                format!("{TOOLCHAIN_VARIABLE} is neither a path nor a toolchain")
            })?
        };
        return Ok(vec![probe(Origin::Asked, rustc)?]);
    }
    let mut found = Vec::new();
    for name in rustup_toolchains() {
        // A toolchain that does not run is no candidate; the others may be.
        let probed = rustup_rustc(&name).and_then(|rustc| probe(Origin::Rustup(name), rustc));
        found.extend(probed);
    }
    let distribution = PathBuf::from("/usr/bin/rustc");
    if distribution.exists() {
        found.extend(probe(Origin::Distribution, distribution));
    }
    Ok(found)
}

fn probe(origin: Origin, rustc: PathBuf) -> Result<Candidate> {
    let ask = |arguments: &[&str]| command::ask(clean(&mut Command::new(&rustc)).args(arguments));
    let (release, llvm) = parse_versions(&ask(&["-vV"])?)
        .with_context(|| format!("{} does not tell its version", rustc.display()))?;
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let source = sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .exists();
    let cargo = rustc.with_file_name("cargo");
    if !cargo.exists() {
        bail!("there is no cargo beside {}", rustc.display());
    }
    Ok(Candidate {
        origin,
        rustc,
        cargo,
        sysroot,
        release,
        llvm,
        source,
    })
}

/// Release and LLVM's major version, from what `rustc -vV` prints.
fn parse_versions(text: &str) -> Option<((u32, u32), u32)> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let mut release = field("release: ")?.split('.');
    let mut llvm = field("LLVM version: ")?.split('.');
    let release = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    Some((release, llvm.next()?.parse().ok()?))
}

/// Names of rustup's toolchains, [`PINNED`] first; none where there is no rustup.
pub(super) fn rustup_toolchains() -> Vec<String> {
    let listed = command::ask(clean(&mut Command::new("rustup")).args(["toolchain", "list", "-q"]));
    let mut names: Vec<String> = listed
        .unwrap_or_default()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    names.sort_by_key(|name| !name.starts_with(PINNED));
    names
}

pub(super) fn rustup_rustc(toolchain: &str) -> Result<PathBuf> {
    let mut rustup = Command::new("rustup");
    let path = command::ask(clean(&mut rustup).args(["which", "--toolchain", toolchain, "rustc"]))?;
    Ok(PathBuf::from(path.trim()))
}

/// Removes what an outer cargo, clippy or rustup put into the environment for itself.
pub fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            command.env_remove(name);
        }
    }
    command
}

fn belongs_to_outer_build(name: &str) -> bool {
    // Where crates come from, and the job server, are the user's and the machine's.
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let removed = name == "CARGO"
        || name == "RUSTUP_TOOLCHAIN"
        // The linker looks for LLVM here first, and cargo puts its own toolchain there.
        || name == "LD_LIBRARY_PATH"
        || name.starts_with("CARGO_")
        || name.starts_with("CLIPPY_")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS";
    removed && !KEPT.iter().any(|kept| name.starts_with(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(origin: Origin) -> Candidate {
        Candidate {
            origin,
            rustc: PathBuf::from("/t/bin/rustc"),
            cargo: PathBuf::from("/t/bin/cargo"),
            sysroot: PathBuf::from("/t"),
            release: RELEASE_MIN,
            llvm: LLVM,
            source: true,
        }
    }

    fn rustup(name: &str) -> Candidate {
        candidate(Origin::Rustup(name.to_owned()))
    }

    #[test]
    fn the_first_fit_compiler_is_taken() {
        let stable = Candidate {
            release: (1, 95),
            ..rustup("stable")
        };
        let nightly = Candidate {
            source: false,
            ..rustup("nightly")
        };
        let found = [stable, nightly, candidate(Origin::Distribution)];
        assert_eq!(choose(&found).unwrap().origin, Origin::Distribution);
        assert_eq!(choose(&[rustup("a"), rustup("b")]).unwrap(), &rustup("a"));
    }

    #[test]
    fn without_a_fit_compiler_the_error_says_what_to_do_and_why() {
        let nightly = Candidate {
            source: false,
            ..rustup("nightly")
        };
        let newest = Candidate {
            llvm: 23,
            ..rustup("beta")
        };
        assert_eq!(
            choose(&[nightly, newest]).unwrap_err().to_string(),
            "no compiler that builds for BPF: run `cargo xtask setup`; rustup's nightly has no \
             source of core (component rust-src); rustup's beta has LLVM 23, but bpf-linker \
             0.10.3 reads LLVM 22"
        );
    }

    #[test]
    fn one_that_was_asked_for_is_not_passed_over() {
        let asked = Candidate {
            release: (1, 90),
            ..candidate(Origin::Asked)
        };
        let found = [asked, candidate(Origin::Distribution)];
        assert_eq!(
            choose(&found).unwrap_err().to_string(),
            "the one named by DISPATCHER_BPF_TOOLCHAIN, /t/bin/rustc, is 1.90, older than 1.96"
        );
    }

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_versions(text), Some(((1, 97), 22)));
        assert_eq!(parse_versions("rustc 1.97.0\n"), None);
    }

    #[test]
    fn the_outer_build_does_not_leak_and_the_users_settings_stay() {
        for leaked in [
            "CARGO",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC",
            "RUSTUP_TOOLCHAIN",
            "CARGO_BUILD_TARGET",
            "LD_LIBRARY_PATH",
        ] {
            assert!(belongs_to_outer_build(leaked), "{leaked}");
        }
        for kept in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_HOME",
            "PATH",
            "HTTPS_PROXY",
        ] {
            assert!(!belongs_to_outer_build(kept), "{kept}");
        }
    }
}
