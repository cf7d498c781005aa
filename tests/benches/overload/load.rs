//! A load on its way: the processes of clients in all namespaces, and what they told at the end.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use dispatcher_tests::topology::{Lab, Node};

use crate::generate::{Job, Record};

/// How long a client waits for its answer, from when it meant to ask.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// From starting the processes to the first request.
const LEAD: Duration = Duration::from_millis(500);
/// A request sent later than this after it was due is the clients' fault, not the server's.
const LATE: Duration = Duration::from_millis(250);

/// Processes of clients at work; they are ended when this is dropped.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Clients>,
    /// When the first request is due.
    pub begin: Instant,
    /// The same, since the Unix epoch.
    pub begin_unix: Duration,
}

#[derive(Debug)]
struct Clients {
    process: Child,
    reader: Option<JoinHandle<Result<Vec<Record>>>>,
}

impl Load {
    /// `clients` of them in one namespace, each asking again when it has its answer.
    pub fn closed(lab: &Lab, to: SocketAddr, clients: u32, lasts: Duration) -> Result<Self> {
        let job = |begin| Job {
            to,
            begin,
            patience: PATIENCE.as_millis() as u64,
            clients: Some(clients),
            rates: Vec::new(),
            seconds: vec![lasts.as_secs_f64()],
        };
        Self::start(
            &lab.clients()[..1],
            |_, begin| job(begin.as_micros() as u64),
        )
    }

    /// Requests at a rate, whatever becomes of them, for one stretch after another: pairs of
    /// requests per second and time. Each namespace has an equal share.
    pub fn open(lab: &Lab, to: SocketAddr, stretches: &[(f64, Duration)]) -> Result<Self> {
        let nodes = lab.clients().len() as f64;
        let first = stretches.first().map_or(1.0, |(rate, _)| *rate);
        let job = |i: usize, begin: Duration| Job {
            to,
            // One after the other, so that all of them together are evenly spaced.
            begin: (begin + Duration::from_secs_f64(i as f64 / first)).as_micros() as u64,
            patience: PATIENCE.as_millis() as u64,
            clients: None,
            rates: stretches.iter().map(|(rate, _)| rate / nodes).collect(),
            seconds: stretches
                .iter()
                .map(|(_, lasts)| lasts.as_secs_f64())
                .collect(),
        };
        Self::start(lab.clients(), job)
    }

    fn start(nodes: &[Node], job: impl Fn(usize, Duration) -> Job) -> Result<Self> {
        let begin = Instant::now() + LEAD;
        let begin_unix = SystemTime::now().duration_since(UNIX_EPOCH)? + LEAD;
        let own = std::env::current_exe()?;
        let clients: Result<Vec<_>> = nodes
            .iter()
            .enumerate()
            .map(|(i, node)| {
                let job = job(i, begin_unix);
                // Clients are other machines: what the server does must not keep them waiting.
                let mut command = node.command("nice");
                command.args(["-n", "-10"]).arg(&own).arg("generate");
                Clients::start(command.args(job.to_arguments()))
            })
            .collect();
        Ok(Self {
            clients: clients?,
            begin,
            begin_unix,
        })
    }

    /// Whether all of them have told all.
    pub fn is_over(&self) -> bool {
        let mut readers = self.clients.iter().filter_map(|each| each.reader.as_ref());
        readers.all(JoinHandle::is_finished)
    }

    /// What they told; fails when they were too slow to be believed.
    pub fn finish(mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for clients in &mut self.clients {
            records.extend(clients.finish()?);
        }
        let mut late: Vec<_> = records
            .iter()
            .map(|record| record.sent - record.due)
            .collect();
        late.sort_unstable();
        let late = late.get(late.len() * 99 / 100).copied().unwrap_or_default();
        ensure!(
            late < LATE,
            "the clients were {late:?} late (p99): this machine is too busy to offer so much"
        );
        Ok(records)
    }
}

impl Clients {
    fn start(command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the clients")?;
        let told = process.stdout.take().context("no pipe to the clients")?;
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(told).lines();
            lines
                .map(|line| {
                    let line = line?;
                    Record::parse(&line).with_context(|| format!("the clients told {line:?}"))
                })
                .collect()
        });
        Ok(Self {
            process,
            reader: Some(reader),
        })
    }

    fn finish(&mut self) -> Result<Vec<Record>> {
        let reader = self.reader.take().context("told already")?;
        let records = match reader.join() {
            Ok(records) => records?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the clients ended with {status}");
        }
        Ok(records)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
