//! What the threads of a process may do, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

/// What a running daemon keeps: NET_ADMIN, NET_RAW and IPC_LOCK, by their bits.
pub const RUNNING: u64 = 1 << 12 | 1 << 13 | 1 << 14;

/// The capabilities of a thread: a bit each, at its number in linux/capability.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Privileges {
    /// What it may do.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What it may pass on to programs with such capabilities of their own.
    pub inheritable: u64,
    /// What it passes on to every program.
    pub ambient: u64,
    /// More than this no program that it executes can gain.
    pub bounding: u64,
    /// Nor more than it has itself.
    pub no_new_privileges: bool,
}

/// Of every thread of the process, by name and number; the admission thread is just `admission`.
pub fn of_threads(process: Pid) -> Result<BTreeMap<String, Privileges>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // One may have ended since.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let (name, has) = parse(&status).with_context(|| format!("in {status}"))?;
        let name = match name.as_str() {
            "admission" => name,
            _ => format!("{name} {}", task.file_name().to_string_lossy()),
        };
        threads.insert(name, has);
    }
    ensure!(!threads.is_empty(), "process {process} has no thread");
    Ok(threads)
}

fn parse(status: &str) -> Result<(String, Privileges)> {
    let field = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.map(str::trim).with_context(|| format!("no {name}"))
    };
    let set = |name: &str| Ok::<_, anyhow::Error>(u64::from_str_radix(field(name)?, 16)?);
    let has = Privileges {
        effective: set("CapEff:")?,
        permitted: set("CapPrm:")?,
        inheritable: set("CapInh:")?,
        ambient: set("CapAmb:")?,
        bounding: set("CapBnd:")?,
        no_new_privileges: field("NoNewPrivs:")? == "1",
    };
    Ok((field("Name:")?.to_owned(), has))
}
