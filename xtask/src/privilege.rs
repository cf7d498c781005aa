//! Root, for one program at a time. Nothing here makes this process root.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Whether this process is root already.
pub fn is_root() -> Result<bool> {
    let own = std::fs::metadata("/proc/self").context("cannot tell who runs this: no /proc")?;
    Ok(own.uid() == 0)
}

/// The words in front of a program that must run as root: none, or sudo's.
pub fn elevation() -> Result<&'static [&'static str]> {
    if is_root()? {
        return Ok(&[]);
    }
    ensure!(
        find("sudo").is_some(),
        "this needs root, and there is no sudo: run it as root"
    );
    // The environment stays: it names the dispatcher to test and what cargo tells its tests.
    Ok(&["sudo", "-E"])
}

/// A command that runs `program` as root.
pub fn elevated(program: impl AsRef<OsStr>) -> Result<Command> {
    let Some((sudo, options)) = elevation()?.split_first() else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new(sudo);
    command.args(options).arg(program);
    Ok(command)
}

/// Where a program is, on the path or among the administrator's programs, which Debian keeps off
/// a user's path.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(administrators)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
