//! A control group with a limit on memory: made, entered by a child process, looked at, and
//! removed with all that runs in it. Version 2 of the interface, or 1 where the kernel has the
//! memory controller there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scratch::{is_stale, unique};
use crate::{PATIENCE, POLL};

/// Processes of the group, one a line; who writes 0 joins.
const PROCESSES: &str = "cgroup.procs";

/// A group; whatever runs in it is killed when it is dropped.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    One,
    Two,
}

/// What a group has and had.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUse {
    /// In memory now, bytes; never above the limit.
    pub resident: u64,
    /// Swapped out now, bytes.
    pub swapped: u64,
    /// Pages that had to be read back before the process could go on, since it was made.
    pub major_faults: u64,
    /// Processes killed for want of memory, since it was made.
    pub killed: u64,
}

impl MemoryGroup {
    /// Makes a group that holds at most `limit` bytes in memory and may swap, after removing those
    /// of processes that died without doing so.
    pub fn new(limit: u64) -> Result<Self> {
        let (root, version) = root()?;
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if is_stale(&entry.file_name().to_string_lossy()) {
                remove(&entry.path());
            }
        }
        let path = root.join(unique("memory"));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let group = Self { path, version };
        let file = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(group.path.join(file), limit.to_string())
            .with_context(|| format!("cannot set {file} to {limit}"))?;
        Ok(group)
    }

    /// Lets the command's process, and all that it starts, run in the group.
    pub fn confine(&self, command: &mut Command) -> Result<()> {
        let mut door = File::options()
            .write(true)
            .open(self.path.join(PROCESSES))?;
        // SAFETY: between fork and exec the closure makes one system call on a file that it owns;
        // it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || door.write_all(b"0")) };
        Ok(())
    }

    /// How many processes run in it.
    #[must_use]
    pub fn processes(&self) -> usize {
        processes(&self.path).len()
    }

    /// What it has and had.
    pub fn usage(&self) -> Result<MemoryUse> {
        let number = |file: &str| -> Result<u64> {
            let text = fs::read_to_string(self.path.join(file))?;
            Ok(text.trim().parse()?)
        };
        let entry = |file: &str, name: &str| -> Result<u64> {
            let text = fs::read_to_string(self.path.join(file))?;
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            let found = lines.find(|(key, _)| *key == name);
            let (_, value) = found.with_context(|| format!("no {name} in {file}"))?;
            Ok(value.parse()?)
        };
        Ok(match self.version {
            Version::One => MemoryUse {
                resident: number("memory.usage_in_bytes")?,
                swapped: entry("memory.stat", "swap")?,
                major_faults: entry("memory.stat", "pgmajfault")?,
                killed: entry("memory.oom_control", "oom_kill")?,
            },
            Version::Two => MemoryUse {
                resident: number("memory.current")?,
                swapped: number("memory.swap.current")?,
                major_faults: entry("memory.stat", "pgmajfault")?,
                killed: entry("memory.events", "oom_kill")?,
            },
        })
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where groups with the memory controller are made.
fn root() -> Result<(PathBuf, Version)> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    for line in mounts.lines() {
        let mut columns = line.split(' ').skip(1);
        let (place, kind, options) = (columns.next(), columns.next(), columns.next());
        let Some(root) = place.map(PathBuf::from) else {
            continue;
        };
        let options = options.unwrap_or_default();
        if kind == Some("cgroup") && options.split(',').any(|option| option == "memory") {
            return Ok((root, Version::One));
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers"));
        let has_memory = |text: String| text.split_whitespace().any(|word| word == "memory");
        if kind == Some("cgroup2") && controllers.is_ok_and(has_memory) {
            // Where it is on already, as under systemd, this changes nothing.
            fs::write(root.join("cgroup.subtree_control"), "+memory")
                .context("cannot give the memory controller to groups below the root")?;
            return Ok((root, Version::Two));
        }
    }
    bail!("no control groups with the memory controller are mounted here")
}

fn processes(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join(PROCESSES)).unwrap_or_default();
    let pids = text.lines().filter_map(|line| line.parse().ok());
    pids.map(Pid::from_raw).collect()
}

/// Kills what runs in there, as often as it takes, and removes it.
fn remove(group: &Path) {
    let end = Instant::now() + PATIENCE;
    // What was killed is still in the way for a moment.
    while fs::remove_dir(group).is_err() && group.exists() && Instant::now() < end {
        for process in processes(group) {
            let _ = kill(process, Signal::SIGKILL);
        }
        std::thread::sleep(POLL);
    }
}
