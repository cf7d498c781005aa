//! Looks again and again at which connections a back-end's kernel has at a port: what `ss` would
//! print, from the same source, often enough to see an excess that lasts a few milliseconds.
//!
//! One look takes a while: it may see a connection and, after that one's end, its successor. So
//! what counts is what two looks in a row have seen: that was there, all of it, in between.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netns::Namespace;

/// Time between two looks, at least.
const INTERVAL: Duration = Duration::from_millis(2);
/// How many times longer it rests than it looks: a long table must not cost a processor.
const REST: u32 = 15;
/// `TCP_ESTABLISHED` as `/proc/net/tcp` prints it.
const ESTABLISHED: &str = "01";
/// `TCP_SYN_RECV`: the SYN-ACK was sent, and nothing has come back.
const HALF_OPEN: &str = "03";

/// A sampler that runs until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    looker: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts to look at established connections at a local port in there.
    #[must_use]
    pub fn start(namespace: &Namespace, port: u16) -> Self {
        Self::start_for(namespace, port, ESTABLISHED)
    }

    /// Starts to look at handshakes at a local port in there that are not finished.
    #[must_use]
    pub fn start_half_open(namespace: &Namespace, port: u16) -> Self {
        Self::start_for(namespace, port, HALF_OPEN)
    }

    fn start_for(namespace: &Namespace, port: u16, state: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let now = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (stopped, current, maximum) = (Arc::clone(&stop), Arc::clone(&now), Arc::clone(&most));
        let looker = namespace.spawn(move || {
            let mut before = HashSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let seen = remotes(port, state);
                let count = before.intersection(&seen).count();
                before = seen;
                current.store(count, Ordering::Relaxed);
                maximum.fetch_max(count, Ordering::Relaxed);
                std::thread::sleep(INTERVAL.max(REST * begin.elapsed()));
            }
        });
        Self {
            stop,
            now,
            most,
            looker: Some(looker),
        }
    }

    /// Connections a moment ago.
    #[must_use]
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The most that were there at once.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(looker) = self.looker.take() {
            let _ = looker.join();
        }
    }
}

/// The other ends of the connections in a state at a local port, in the calling thread's namespace,
/// as the kernel prints them.
fn remotes(port: u16, wanted: &str) -> HashSet<String> {
    let suffix = format!(":{port:04X}");
    let mut remotes = HashSet::new();
    for table in ["tcp", "tcp6"] {
        // `/proc/net` is the main thread's.
        let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        for row in table.unwrap_or_default().lines().skip(1) {
            let mut columns = row.split_whitespace().skip(1);
            let (local, remote, state) = (columns.next(), columns.next(), columns.next());
            if let Some(remote) = remote
                && state == Some(wanted)
                && local.is_some_and(|local| local.ends_with(&suffix))
            {
                remotes.insert(remote.to_owned());
            }
        }
    }
    remotes
}
