//! The machine that a bench runs on: what it is, and what it was busy with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::netns::Namespace;

/// Processors and kernel, without which figures mean nothing: "2 × AMD EPYC, Linux 6.18".
pub fn describe() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let models = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let models: Vec<_> = models
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{} × {}, Linux {}",
        models.len(),
        models.first().unwrap_or(&"processor"),
        kernel.trim()
    ))
}

/// Today, of Greenwich: "2026-11-26".
pub fn today() -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // Days to a date of the proleptic Gregorian calendar, whose eras are 400 years from a 1 March.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    Ok(format!("{year}-{month:02}-{day:02}"))
}

/// Where a bench leaves its report: a file in the directory that holds `tmp`, cargo's own for
/// benches (`CARGO_TARGET_TMPDIR`).
#[must_use]
pub fn report(tmp: &str, name: &str) -> PathBuf {
    let tmp = Path::new(tmp);
    tmp.parent().unwrap_or(tmp).join(name)
}

/// What all processors together have done up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    at: Instant,
    count: u32,
    /// Time without work, and time that the machine below took for itself.
    away: Duration,
}

impl Processors {
    /// Now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let at = Instant::now();
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.context("no ticks")? as f64;
        let all = text.lines().next().context("no processors")?;
        let columns: Vec<u64> = all
            .split_whitespace()
            .skip(1)
            .map_while(|column| column.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal.
        let [_, _, _, idle, waiting, _, _, stolen, ..] = *columns else {
            anyhow::bail!("/proc/stat begins with {all:?}");
        };
        let lines = text.lines().skip(1);
        Ok(Self {
            at,
            count: lines.take_while(|line| line.starts_with("cpu")).count() as u32,
            away: Duration::from_secs_f64((idle + waiting + stolen) as f64 / ticks_per_second),
        })
    }

    /// Time that they were busy since an earlier moment, all together. Everybody's: time in soft
    /// interrupts is charged to whoever runs, so nobody's own is known.
    #[must_use]
    pub fn busy_since(&self, earlier: &Self) -> Duration {
        let all = (self.at - earlier.at) * self.count;
        all.saturating_sub(self.away.saturating_sub(earlier.away))
    }
}

/// Packets that a device in there has sent.
pub fn packets_sent(namespace: &Namespace, device: &str) -> Result<u64> {
    // `/proc/net` is the main thread's.
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let row = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == device).then_some(counters)
    });
    let row = row.with_context(|| format!("no device {device}"))?;
    // Eight columns of what was received, then bytes and packets sent.
    let sent = row.split_whitespace().nth(9);
    Ok(sent.context("too few columns")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_loop_is_seen() {
        let before = Processors::now().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        let busy = Processors::now().unwrap().busy_since(&before);
        assert!(busy > Duration::from_millis(100), "{busy:?}");
    }
}
