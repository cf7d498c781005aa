//! Clients in a closed loop: each asks, waits for the answer, and asks again over a new
//! connection. They join one after another, so that the load grows past what is good.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dispatcher_tests::client;
use dispatcher_tests::topology::Node;

/// How long a client waits for an answer before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client that was refused waits before it tries again.
const BACKOFF: Duration = Duration::from_secs(1);

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    answered: AtomicUsize,
    refused: AtomicUsize,
    gave_up: AtomicUsize,
    times: Mutex<Vec<Duration>>,
}

impl Tally {
    /// Requests that got their answer.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Requests that got an RST instead of a connection.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Requests without an answer within [`PATIENCE`].
    #[must_use]
    pub fn gave_up(&self) -> usize {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// The time from the SYN to the whole answer that this share of the answered requests did not
    /// exceed; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut times = self
            .times
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        Some(times[(last as f64 * share) as usize])
    }

    fn count(&self, outcome: std::io::Result<String>, took: Duration) {
        match outcome {
            Ok(_) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.times
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(took);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                thread::sleep(BACKOFF);
            }
            Err(_) => {
                self.gave_up.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Clients at work until [`Self::stop`].
#[derive(Debug)]
pub struct Load {
    tally: Arc<Tally>,
    joined: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    clients: JoinHandle<()>,
}

impl Load {
    /// `clients` of them in `node`, joining evenly over `ramp`. Each stays with one of `targets`,
    /// as it would with an address from a round-robin DNS.
    pub fn start(node: &Node, clients: usize, ramp: Duration, targets: Vec<SocketAddr>) -> Self {
        let tally = Arc::new(Tally::default());
        let stop = Arc::new(AtomicBool::new(false));
        let joined = Arc::new(AtomicUsize::new(0));
        let (counts, stopped) = (Arc::clone(&tally), Arc::clone(&stop));
        let at_work = Arc::clone(&joined);
        let clients = node.spawn(move || {
            let begin = Instant::now();
            thread::scope(|scope| {
                for i in 0..clients {
                    let join_at = begin + ramp.mul_f64(i as f64 / clients as f64);
                    let target = targets[i % targets.len()];
                    let (tally, joined, stop) = (&*counts, &*at_work, &*stopped);
                    scope.spawn(move || {
                        while Instant::now() < join_at && !stop.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(20));
                        }
                        joined.fetch_add(1, Ordering::Relaxed);
                        while !stop.load(Ordering::Relaxed) {
                            let (outcome, took) = ask(target);
                            if !stop.load(Ordering::Relaxed) {
                                tally.count(outcome, took);
                            }
                        }
                    });
                }
            });
        });
        Self {
            tally,
            joined,
            stop,
            clients,
        }
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Clients that have joined so far.
    #[must_use]
    pub fn joined(&self) -> usize {
        self.joined.load(Ordering::Relaxed)
    }

    /// Begins no more requests and counts none of those under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the clients, after [`Self::stop`], and returns what became of the requests.
    pub fn finish(self) -> Arc<Tally> {
        self.stop();
        if let Err(panic) = self.clients.join() {
            std::panic::resume_unwind(panic);
        }
        self.tally
    }
}

fn ask(target: SocketAddr) -> (std::io::Result<String>, Duration) {
    let begin = Instant::now();
    let outcome = client::fetch_within(target, PATIENCE);
    (outcome, begin.elapsed())
}
