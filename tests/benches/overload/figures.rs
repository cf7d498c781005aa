//! From what each request's end was to the figures of a window of time, and the tables of them.

use std::fmt::Write as _;
use std::time::Duration;

use dispatcher_tests::apache::Finished;
use dispatcher_tests::cgroup::MemoryUse;

use crate::generate::{Outcome, Record};

/// All that is known of one load; times since its beginning.
#[derive(Debug, Default)]
pub struct Run {
    /// Every request.
    pub records: Vec<Record>,
    /// What the server finished, by its own log.
    pub finished: Vec<Finished>,
    /// Looks at server and daemon, in order.
    pub samples: Vec<Sample>,
}

/// A look at server and daemon.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When.
    pub at: Duration,
    /// Processes of the server that serve.
    pub workers: usize,
    /// Its memory.
    pub memory: MemoryUse,
    /// What the daemon says; `None` without one.
    pub daemon: Option<DaemonSample>,
}

/// What the daemon says of its only back-end and the queue.
#[derive(Clone, Copy, Debug)]
pub struct DaemonSample {
    /// Connections that the server may have.
    pub ceiling: u64,
    /// Connections that it has, established or not yet.
    pub held: u64,
    /// Requests that wait.
    pub queued: u64,
}

/// The figures of one stretch of time, or of several put together.
#[derive(Clone, Debug, Default)]
pub struct Window {
    lasted: Duration,
    /// From when each was due to its whole answer, of those answered in the window; sorted.
    served: Vec<Duration>,
    /// Ends of the requests that were due in the window, in the order of [`Outcome::ALL`].
    ends: [usize; Outcome::ALL.len()],
    finished: usize,
    major_faults: u64,
    swapped_most: u64,
}

impl Run {
    /// The figures from one moment to another.
    pub fn window(&self, from: Duration, to: Duration) -> Window {
        let within = |time: Duration| from <= time && time < to;
        let answered = self.records.iter().filter(|record| within(record.over));
        let mut served: Vec<_> = answered
            .filter(|record| record.outcome == Outcome::Served)
            .map(|record| record.over - record.due)
            .collect();
        served.sort_unstable();
        let mut ends = [0; Outcome::ALL.len()];
        for record in self.records.iter().filter(|record| within(record.due)) {
            ends[record.outcome as usize] += 1;
        }
        let done = self.finished.iter();
        let looks: Vec<_> = self.samples.iter().filter(|look| within(look.at)).collect();
        let faults = |look: Option<&&Sample>| look.map_or(0, |look| look.memory.major_faults);
        Window {
            lasted: to - from,
            served,
            ends,
            finished: done.filter(|each| each.whole && within(each.at)).count(),
            major_faults: faults(looks.last()) - faults(looks.first()),
            swapped_most: looks
                .iter()
                .map(|look| look.memory.swapped)
                .max()
                .unwrap_or(0),
        }
    }
}

impl Window {
    /// Takes in another one's figures.
    pub fn add(&mut self, other: &Self) {
        self.lasted += other.lasted;
        self.served.extend(&other.served);
        self.served.sort_unstable();
        for (ends, more) in std::iter::zip(&mut self.ends, other.ends) {
            *ends += more;
        }
        self.finished += other.finished;
        self.major_faults += other.major_faults;
        self.swapped_most = self.swapped_most.max(other.swapped_most);
    }

    /// Requests whose whole answer came, per second.
    pub fn served_rate(&self) -> f64 {
        self.rate(self.served.len())
    }

    /// Requests that the server finished, per second, those included whose client had gone.
    pub fn finished_rate(&self) -> f64 {
        self.rate(self.finished)
    }

    fn rate(&self, count: usize) -> f64 {
        count as f64 / self.lasted.as_secs_f64()
    }

    /// The time that this share of the served requests did not exceed.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let last = self.served.len().checked_sub(1)?;
        Some(self.served[(last as f64 * share) as usize])
    }

    /// From the median to the longest, as columns.
    fn times(&self) -> String {
        let times = [0.5, 0.99, 1.0].map(|share| milliseconds(self.quantile(share)));
        times.join(" | ")
    }

    /// What the memory was too small for, as columns.
    fn memory(&self) -> String {
        let faults = self.major_faults as f64 / self.lasted.as_secs_f64();
        format!("{faults:.0} | {} MiB", self.swapped_most >> 20)
    }

    fn offered(&self) -> usize {
        self.ends.iter().sum()
    }

    /// Shares of the ways to end, as columns.
    fn shares(&self) -> String {
        let offered = self.offered().max(1) as f64;
        let share = |ends| format!("{:.1} %", 100.0 * ends as f64 / offered);
        self.ends.map(share).join(" | ")
    }
}

/// A time, or a dash for none.
pub fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "–".to_owned(), |time| format!("{} ms", time.as_millis()))
}

/// The Markdown table of loads in an open loop, with what they are called.
pub fn table<'a>(rows: impl IntoIterator<Item = (String, &'a Window)>) -> String {
    let mut table = "| offered | a second | served/s | finished by the server/s | p50 | p99 | \
                     longest | served | refused | timed out | failed | major faults/s | swapped |\n\
                     |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for (name, window) in rows {
        let _ = writeln!(
            table,
            "| {name} | {:.0} | {:.1} | {:.1} | {} | {} | {} |",
            window.rate(window.offered()),
            window.served_rate(),
            window.finished_rate(),
            window.times(),
            window.shares(),
            window.memory()
        );
    }
    table
}

/// The Markdown table of clients in a closed loop, with how many they are.
pub fn curve<'a>(rows: impl IntoIterator<Item = (u32, &'a Window)>) -> String {
    let mut table = "| clients | served/s | p50 | p99 | longest | major faults/s | swapped |\n\
                     |--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for (clients, window) in rows {
        let (served, times, memory) = (window.served_rate(), window.times(), window.memory());
        let _ = writeln!(table, "| {clients} | {served:.1} | {times} | {memory} |");
    }
    table
}
