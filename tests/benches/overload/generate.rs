//! The clients, as a process of their own inside a client's namespace: each request over a new
//! connection, each told of on standard output when all are over. A process of their own, because
//! a process may have only so many files open.

use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use dispatcher_tests::apache::is_whole;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";

/// What a process of clients does.
#[derive(Clone, Debug, Args)]
pub struct Job {
    /// Whom they ask.
    #[arg(long)]
    pub to: SocketAddr,
    /// When they begin, microseconds since the Unix epoch.
    #[arg(long)]
    pub begin: u64,
    /// How long each waits for its answer, milliseconds.
    #[arg(long)]
    pub patience: u64,
    /// Closed loop: so many clients, each asks again when it has its answer.
    #[arg(long)]
    pub clients: Option<u32>,
    /// Open loop: requests per second, evenly spaced, one number for each stretch.
    #[arg(long, value_delimiter = ',')]
    pub rates: Vec<f64>,
    /// How long each stretch lasts, seconds.
    #[arg(long, value_delimiter = ',')]
    pub seconds: Vec<f64>,
}

impl Job {
    /// The words that make the same job again.
    pub fn to_arguments(&self) -> Vec<String> {
        let list = |numbers: &[f64]| {
            let words: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            words.join(",")
        };
        let mut arguments = vec![
            format!("--to={}", self.to),
            format!("--begin={}", self.begin),
            format!("--patience={}", self.patience),
            format!("--seconds={}", list(&self.seconds)),
        ];
        arguments.extend(self.clients.map(|clients| format!("--clients={clients}")));
        if !self.rates.is_empty() {
            arguments.push(format!("--rates={}", list(&self.rates)));
        }
        arguments
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The whole page came.
    Served,
    /// An RST in answer to the SYN.
    Refused,
    /// The client lost its patience.
    TimedOut,
    /// The connection broke, or what came was not the page.
    Failed,
}

impl Outcome {
    /// All, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Served, Self::Refused, Self::TimedOut, Self::Failed];
}

/// A request; times since the job's beginning.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it was to be sent.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
    /// When it was over.
    pub over: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Record {
    fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        let [due, sent, over] = [self.due, self.sent, self.over].map(|time| time.as_micros());
        writeln!(out, "{due} {sent} {over} {}", self.outcome as u8)
    }

    /// Reads a line that the clients wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut columns = line.split(' ').map(|column| column.parse::<u64>().ok());
        let mut time = || Some(Duration::from_micros(columns.next()??));
        let (due, sent, over) = (time()?, time()?, time()?);
        let outcome = usize::try_from(columns.next()??).ok()?;
        Some(Self {
            due,
            sent,
            over,
            outcome: *Outcome::ALL.get(outcome)?,
        })
    }
}

/// Does the job, and tells.
pub fn run(job: &Job) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot open more files")?;
    let begin = Instant::now() + until(job.begin)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let records = runtime.block_on(async {
        match job.clients {
            Some(clients) => closed(job, clients, begin).await,
            None => open(job, begin).await,
        }
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for record in records {
        record.write(&mut out)?;
    }
    Ok(out.flush()?)
}

fn until(begin: u64) -> Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let left = Duration::from_micros(begin).checked_sub(now);
    left.context("the clients came too late to begin")
}

async fn closed(job: &Job, clients: u32, begin: Instant) -> Result<Vec<Record>> {
    let end = begin + Duration::from_secs_f64(job.seconds.iter().sum());
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let job = job.clone();
        running.spawn(async move {
            let mut records = Vec::new();
            sleep_until(begin).await;
            // What is under way at the end is of no interest, and nobody waits for it.
            while let Ok(record) = timeout_at(end, request(&job, begin, Instant::now())).await {
                records.push(record?);
            }
            Ok::<_, anyhow::Error>(records)
        });
    }
    let mut all = Vec::new();
    while let Some(records) = running.join_next().await {
        all.extend(records??);
    }
    Ok(all)
}

async fn open(job: &Job, begin: Instant) -> Result<Vec<Record>> {
    let mut running = JoinSet::new();
    let mut stretch = begin;
    for (rate, seconds) in std::iter::zip(&job.rates, &job.seconds) {
        let requests = (rate * seconds) as u32;
        for i in 0..requests {
            let due = stretch + Duration::from_secs_f64(f64::from(i) / rate);
            sleep_until(due).await;
            let job = job.clone();
            running.spawn(async move { request(&job, begin, due).await });
        }
        stretch += Duration::from_secs_f64(*seconds);
    }
    let mut records = Vec::new();
    while let Some(record) = running.join_next().await {
        records.push(record??);
    }
    Ok(records)
}

/// One request; an error is one of the clients' own machine, which says nothing about the server.
async fn request(job: &Job, begin: Instant, due: Instant) -> Result<Record> {
    let sent = Instant::now();
    let patience = due + Duration::from_millis(job.patience);
    let outcome = match timeout_at(patience, exchange(job.to)).await {
        Err(_) => Outcome::TimedOut,
        Ok(Ok(response)) if is_whole(&response) => Outcome::Served,
        Ok(Ok(_)) => Outcome::Failed,
        Ok(Err(error)) => match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => Outcome::Refused,
            (ErrorKind::AddrNotAvailable, _) | (_, Some(libc::EMFILE | libc::ENFILE)) => {
                bail!("the clients cannot offer so much: {error}")
            }
            _ => Outcome::Failed,
        },
    };
    Ok(Record {
        due: due - begin,
        sent: sent - begin,
        over: begin.elapsed(),
        outcome,
    })
}

async fn exchange(to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(REQUEST).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(response)
}
