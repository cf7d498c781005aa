//! Swap space in compressed memory, for as long as a bench runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::scratch::{is_stale, unique};

/// Where the kernel makes and removes devices.
const CONTROL: &str = "/sys/class/zram-control";
/// Where a file names each device that is ours, so that one that was left is found.
const CLAIMS: &str = "/run";
/// What the names of these files end in; the device's number follows.
const PURPOSE: &str = "zram";

/// A device that the kernel swaps to before any other; it goes when this is dropped.
#[derive(Debug)]
pub struct Swap {
    device: u32,
    claim: PathBuf,
}

impl Swap {
    /// Makes one for `bytes` of pages, after removing those of processes that died without doing
    /// so. It takes memory only for what is swapped out, and less than that.
    pub fn new(bytes: u64) -> Result<Self> {
        remove_stale()?;
        let number = fs::read_to_string(Path::new(CONTROL).join("hot_add")).context(
            "this kernel has no zram, or has not loaded it; `modprobe zram num_devices=0` does",
        )?;
        let device = number.trim().parse().context("zram's number")?;
        let claim = Path::new(CLAIMS).join(format!("{}{device}", unique(PURPOSE)));
        let swap = Self { device, claim };
        fs::write(&swap.claim, "")
            .with_context(|| format!("cannot write {}", swap.claim.display()))?;
        fs::write(
            format!("/sys/block/zram{device}/disksize"),
            bytes.to_string(),
        )
        .with_context(|| format!("cannot make zram{device} hold {bytes} bytes"))?;
        quietly(Command::new("mkswap").arg(node(device)))?;
        // Before any other swap space that this machine may have.
        quietly(
            Command::new("swapon")
                .args(["--priority", "32767"])
                .arg(node(device)),
        )?;
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        remove(self.device, &self.claim);
    }
}

fn node(device: u32) -> String {
    format!("/dev/zram{device}")
}

fn remove(device: u32, claim: &Path) {
    // Fails when it was not yet in use.
    let _ = quietly(Command::new("swapoff").arg(node(device)));
    match fs::write(Path::new(CONTROL).join("hot_remove"), device.to_string()) {
        Ok(()) => {
            let _ = fs::remove_file(claim);
        }
        Err(error) => eprintln!("cannot remove {}: {error}", node(device)),
    }
}

fn remove_stale() -> Result<()> {
    for entry in fs::read_dir(CLAIMS)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let device = name.rsplit_once(PURPOSE).map(|(_, device)| device.parse());
        if is_stale(&name)
            && let Some(Ok(device)) = device
        {
            remove(device, &entry.path());
        }
    }
    Ok(())
}

fn quietly(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        words.trim()
    );
    Ok(())
}
