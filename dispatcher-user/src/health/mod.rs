//! Checks whether back-ends are well, from this host's own address, over TCP or HTTP. What that
//! means for a back-end is decided by its [`Tracker`], which also hears what became of requests.

mod check;
mod schedule;
mod tracker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use std::hash::BuildHasher;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::admission::{BackendId, ServiceId};
use crate::config::{self, Health, HealthKind};
use crate::exchange::Asked;

pub use check::Fault;
pub use schedule::{FIRST_WITHIN, Schedule};
pub use tracker::{BACKOFF_MAX, BACKOFF_MIN, Cause, Passive, Rules, Tracker, Verdict};

/// Checks that are made at once; each takes a descriptor, of which a process has 1024 by default.
/// One that finds no place waits for it, and its time begins then.
pub const CHECKS_MAX: usize = 512;

/// A back-end to be checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Whose it is.
    pub service: ServiceId,
    /// Which it is.
    pub backend: BackendId,
    /// Where it is checked.
    pub address: SocketAddr,
    /// How it is checked.
    pub health: Health,
}

impl Target {
    /// A back-end of this service, if its back-ends are checked.
    #[must_use]
    pub fn new(
        service: ServiceId,
        id: BackendId,
        of: &config::Service,
        backend: &config::Backend,
    ) -> Option<Self> {
        let health = of.health.clone();
        let mut address = backend.address;
        if let Some(port) = health.port {
            address.set_port(port.get());
        }
        (health.kind != HealthKind::Off).then_some(Self {
            service,
            backend: id,
            address,
            health,
        })
    }
}

/// A check that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Whose it is.
    pub service: ServiceId,
    /// Which it is.
    pub backend: BackendId,
    /// What came of it.
    pub result: Result<(), Fault>,
    /// How long it took.
    pub took: Duration,
}

/// What all checks share.
struct Places {
    free: Semaphore,
    waited: AtomicU64,
}

/// Checks each back-end once an interval, and sends what came of it, for as long as it is not
/// dropped.
///
/// A receiver that is slow delays the checks; none is caught up on.
pub struct Checks {
    checked: mpsc::Sender<Checked>,
    asked: Asked<Target>,
    places: Arc<Places>,
    at_once: usize,
    seeds: RandomState,
}

impl Checks {
    /// Nobody is checked yet; `at_once` checks will be made at once, at most.
    #[must_use]
    pub fn new(checked: mpsc::Sender<Checked>, at_once: usize) -> Self {
        let places = Places {
            free: Semaphore::new(at_once),
            waited: AtomicU64::new(0),
        };
        Self {
            checked,
            asked: Asked::new(),
            places: Arc::new(places),
            at_once,
            seeds: RandomState::default(),
        }
    }

    /// Has these checked from now on. Those that are checked in the same way already keep their
    /// turn. Returns who is checked no more, or in another way: nothing of these comes any more,
    /// but for what came already.
    pub async fn set(&mut self, targets: Vec<Target>) -> Vec<BackendId> {
        let targets = targets.into_iter().map(|one| (one.backend, one)).collect();
        let start = |target: &Target, place, _| {
            let schedule = Schedule::new(target.health.interval, self.seeds.hash_one(place));
            let (checked, places) = (self.checked.clone(), Arc::clone(&self.places));
            tokio::spawn(keep_checking(target.clone(), schedule, places, checked))
        };
        self.asked.set(targets, start).await
    }

    /// Checks that are being made.
    #[must_use]
    pub fn running(&self) -> usize {
        self.at_once - self.places.free.available_permits()
    }

    /// How often a check had to wait for others to be over.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.places.waited.load(Ordering::Relaxed)
    }
}

async fn keep_checking(
    target: Target,
    mut schedule: Schedule,
    places: Arc<Places>,
    results: mpsc::Sender<Checked>,
) {
    let began = Instant::now();
    loop {
        sleep_until(began + schedule.due()).await;
        let place = match places.free.try_acquire() {
            Ok(place) => place,
            Err(_) => {
                places.waited.fetch_add(1, Ordering::Relaxed);
                let Ok(place) = places.free.acquire().await else {
                    return;
                };
                place
            }
        };
        let asked = Instant::now();
        let result = check::check(&target).await;
        drop(place);
        let checked = Checked {
            service: target.service,
            backend: target.backend,
            result,
            took: asked.elapsed(),
        };
        if results.send(checked).await.is_err() {
            return;
        }
        schedule.advance(began.elapsed());
    }
}
