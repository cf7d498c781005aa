//! Writes the parts of the manual that the code says: keys, commands, metrics, alerts, bounds. A
//! test of dispatcher-user makes and compares them; here it is told to write.

use anyhow::Result;
use xtask::command::Runner;

use crate::cargo;

pub fn run(runner: Runner) -> Result<()> {
    let mut cargo = cargo::command("test");
    // The whole workspace, so that cargo chooses the features that all tests are built with.
    cargo.args(["--workspace", "--test", "manual"]);
    runner.run(cargo.env("DISPATCHER_DOCS_WRITE", "1"))
}
