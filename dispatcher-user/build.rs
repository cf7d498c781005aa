//! Builds the BPF object that the daemon carries inside. How it is built is xtask's business.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    for input in xtask::bpf::inputs() {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    for variable in xtask::bpf::INPUT_VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let log = std::env::var_os("CARGO_FEATURE_PROGRAM_LOG").is_some();
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .context("cargo sets OUT_DIR")?;
    let object = xtask::bpf::build(&out, log)?;
    println!(
        "cargo::rustc-env=DISPATCHER_BPF_OBJECT={}",
        object.display()
    );
    Ok(())
}
