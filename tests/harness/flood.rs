//! A flood of connection requests from random sources, and clients that connect meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dispatcher_common::checksum;
use dispatcher_common::header::TcpFlags;

use crate::client;
use crate::raw::Crowd;
use crate::topology::Lab;
use crate::wire::Segment;

/// Requests that are made and sent together.
const BATCH: usize = 256;
/// How long a client waits for its answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);
/// Between an answer and the client's next request.
const PAUSE: Duration = Duration::from_millis(20);

/// How an attacker goes about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Requests a second; `None` for as many as the machine makes.
    pub rate: Option<u32>,
    /// After how long each is sent once more, if it is.
    pub again: Option<Duration>,
}

/// A flood, from the wire of the lab's first client. It ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins. The same seed makes the same sources.
    #[must_use]
    pub fn start(lab: &Lab, service: SocketAddr, seed: u64, manner: Manner) -> Self {
        let crowd = Crowd::of_clients(lab).expect("a packet socket");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sender = thread::spawn(move || send(&crowd, service, seed, manner, &stopped, &count));
        Self {
            stop,
            sent,
            sender: Some(sender),
        }
    }

    /// Requests that were sent, repetitions included.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

fn send(
    crowd: &Crowd,
    service: SocketAddr,
    seed: u64,
    manner: Manner,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let mut forger = Forger::new(crowd, service, seed);
    let mut once: VecDeque<(Instant, Vec<Vec<u8>>)> = VecDeque::new();
    let began = Instant::now();
    let mut made = 0u64;
    let mut spare = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut frames = std::mem::take(&mut spare);
        frames.resize(BATCH, Vec::new());
        for frame in &mut frames {
            forger.forge(frame);
        }
        crowd.send_frames(&frames).expect("frames are sent");
        made += BATCH as u64;
        sent.fetch_add(BATCH as u64, Ordering::Relaxed);
        if let Some(after) = manner.again {
            once.push_back((Instant::now() + after, frames));
            while once.front().is_some_and(|(due, _)| *due <= Instant::now())
                && let Some((_, frames)) = once.pop_front()
            {
                crowd.send_frames(&frames).expect("frames are sent");
                sent.fetch_add(BATCH as u64, Ordering::Relaxed);
                spare = frames;
            }
        } else {
            spare = frames;
        }
        if let Some(rate) = manner.rate {
            let due = Duration::from_secs_f64(made as f64 / f64::from(rate));
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// Makes requests that differ in source address, port and sequence number.
struct Forger {
    template: Vec<u8>,
    is_v4: bool,
    state: u64,
}

impl Forger {
    const IP: usize = 14;

    fn new(crowd: &Crowd, service: SocketAddr, seed: u64) -> Self {
        let source = match service {
            SocketAddr::V4(_) => SocketAddr::from(([198, 18, 0, 0], 1024)),
            SocketAddr::V6(_) => "[2001:2::]:1024".parse().expect("an address"),
        };
        let mut segment = Segment::new(source, service, TcpFlags::SYN, 0, 0);
        // MSS 1460, as a client would say.
        segment.options = vec![2, 4, 5, 180];
        Self {
            template: crowd.frame(&segment),
            is_v4: service.is_ipv4(),
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// xorshift64 (Marsaglia 2003).
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Makes the next request, in place of what is there.
    fn forge(&mut self, frame: &mut Vec<u8>) {
        let (who, isn) = (self.random(), (self.random() >> 16) as u32);
        frame.clear();
        frame.extend_from_slice(&self.template);
        let [a, b, c, ..] = who.to_le_bytes();
        // The networks for benchmarks are 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180).
        let (source, host, tcp) = match self.is_v4 {
            true => (Self::IP + 12, [0xc6, 0x12 | a & 1, b, c], Self::IP + 20),
            false => (Self::IP + 16, [0, a, b, c], Self::IP + 40),
        };
        let port = 1024 + (who >> 32) as u16 % (u16::MAX - 1024);
        let address = replace(frame, source, &host);
        if self.is_v4 {
            renew(frame, Self::IP + 10, address);
        }
        let port = replace(frame, tcp, &port.to_be_bytes());
        let isn = replace(frame, tcp + 4, &isn.to_be_bytes());
        let all = checksum::combine(checksum::combine(address, port), isn);
        renew(frame, tcp + 16, all);
    }
}

fn replace(frame: &mut [u8], at: usize, new: &[u8]) -> checksum::Delta {
    let field = &mut frame[at..at + new.len()];
    let delta = checksum::delta(field, new);
    field.copy_from_slice(new);
    delta
}

fn renew(frame: &mut [u8], at: usize, delta: checksum::Delta) {
    let changed = checksum::update([frame[at], frame[at + 1]], delta);
    frame[at..at + 2].copy_from_slice(&changed);
}

/// What clients met with, one connection after the other.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// How long each connection took to be made that was answered, shortest first.
    pub connect: Vec<Duration>,
    /// What went wrong with the others.
    pub errors: Vec<String>,
}

impl Met {
    /// Requests.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.connect.len() + self.errors.len()
    }

    /// Share of the requests that were answered.
    #[must_use]
    pub fn served(&self) -> f64 {
        self.connect.len() as f64 / self.asked() as f64
    }

    /// So many of a hundred connections were made within this.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.connect.len().saturating_sub(1);
        let at = self.connect.len() * percent / 100;
        self.connect.get(at.min(last)).copied().unwrap_or_default()
    }
}

/// So many clients, each asking over one connection after the other for `time`. Who has asked by
/// then is waited for.
#[must_use]
pub fn ask(lab: &Lab, service: SocketAddr, clients: usize, time: Duration) -> Met {
    let end = Instant::now() + time;
    let mut met = Met::default();
    thread::scope(|scope| {
        let client = || {
            lab.client(0).enter(|| {
                let mut met = Met::default();
                while Instant::now() < end {
                    match once(service) {
                        Ok(connect) => met.connect.push(connect),
                        Err(error) => met.errors.push(error.to_string()),
                    }
                    thread::sleep(PAUSE);
                }
                met
            })
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        for client in clients {
            let one = client.join().expect("clients do not panic");
            met.connect.extend(one.connect);
            met.errors.extend(one.errors);
        }
    });
    met.connect.sort_unstable();
    met
}

fn once(service: SocketAddr) -> std::io::Result<Duration> {
    use std::io::Read as _;
    let began = Instant::now();
    let mut stream = client::connect_within(service, CLIENT_PATIENCE)?;
    let connect = began.elapsed();
    client::get(&mut stream, "/", false)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(connect),
        false => Err(std::io::Error::other(format!("answered {answer:?}"))),
    }
}
