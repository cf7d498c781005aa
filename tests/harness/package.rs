//! What users are given, as the workshop makes it of the binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::daemon;
use crate::debian::succeed;

/// Makes tarball and package in `directory`.
pub fn make(directory: &Path) -> Result<()> {
    let dispatcher = daemon::binary()?;
    let mut xtask = Command::new(dispatcher.with_file_name("xtask"));
    xtask
        .args(["dist", "--binary"])
        .arg(&dispatcher)
        .arg("--to")
        .arg(directory);
    succeed(&mut xtask).map(drop)
}

/// The file in `directory` whose name ends so.
pub fn find(directory: &Path, end: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(end) {
            return Ok(path);
        }
    }
    None.with_context(|| format!("nothing in {} ends in {end}", directory.display()))
}
