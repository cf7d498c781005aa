//! The last minutes, sample by sample: ceilings, connections, queues and rates as the status told
//! them. Nothing is measured here.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::admin::Control;
use crate::engine::clock;
use crate::status::{BackendStatus, ServiceStatus, Status};

/// Samples that are kept: five minutes of them. A back-end's take 8 bytes each, a service's 28:
/// with 256 services and 4096 back-ends, the most there may be, 12 MB together.
pub const SAMPLES_MAX: usize = 300;

/// From a sample to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// A sample takes at most such a part of the time; where it takes long, samples are rarer.
const PERIOD_BY_COST: u32 = 20;

/// What is kept, of one daemon; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<watch::Sender<Ring>>);

/// The samples.
#[derive(Debug, Default)]
pub struct Ring {
    /// The newest status.
    latest: Option<Arc<Status>>,
    /// Samples taken since the daemon started.
    taken: u64,
    /// When, seconds since the daemon started.
    seconds: VecDeque<f64>,
    services: Vec<ServiceRing>,
}

#[derive(Debug)]
struct ServiceRing {
    name: String,
    samples: VecDeque<ServiceSample>,
    backends: Vec<BackendRing>,
}

#[derive(Debug)]
struct BackendRing {
    name: String,
    samples: VecDeque<BackendSample>,
}

#[derive(Clone, Copy, Debug)]
struct ServiceSample {
    queue: u32,
    connections: Option<f32>,
    requests: Option<f32>,
    p99_ms: Option<f32>,
}

#[derive(Clone, Copy, Debug)]
struct BackendSample {
    ceiling: u32,
    held: u32,
}

/// `GET /v1/history`: each series ends with the newest sample; what joined later has fewer.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HistoryList {
    /// Number of the newest sample; the first since the daemon started is 1.
    pub last: u64,
    /// When the samples were taken, seconds since the daemon started; oldest first.
    pub seconds: Vec<f64>,
    /// In the order of the configuration.
    pub services: Vec<ServiceHistory>,
}

/// One service's; `null` where nothing was measured.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceHistory {
    /// Its name.
    pub name: String,
    /// Requests that waited.
    pub queue: Vec<u32>,
    /// Connections admitted, per second.
    pub connections: Vec<Option<f32>>,
    /// Requests answered on them, per second.
    pub requests: Vec<Option<f32>>,
    /// Response time that 99 of a hundred did not exceed, at the slowest of its back-ends;
    /// milliseconds.
    pub p99_ms: Vec<Option<f32>>,
    /// In the order of the configuration.
    pub backends: Vec<BackendHistory>,
}

/// One back-end's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BackendHistory {
    /// Its name.
    pub name: String,
    /// Most connections that were admitted.
    pub ceiling: Vec<u32>,
    /// Connections that it held, half-open ones included.
    pub held: Vec<u32>,
}

/// The parameters of `GET /v1/history`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Only samples after the one of this number.
    pub since: Option<u64>,
}

impl History {
    /// Takes samples for as long as it is polled.
    pub async fn keep<C: Control>(self, control: C) {
        loop {
            let began = clock::now();
            // Too many ask, or the daemon is stopping: a sample is missing then.
            if let Ok(status) = control.status().await {
                self.take(status);
            }
            let took = clock::now().since(began);
            sleep((took * PERIOD_BY_COST).max(PERIOD).saturating_sub(took)).await;
        }
    }

    /// Takes one sample.
    pub fn take(&self, status: Arc<Status>) {
        self.0.send_modify(|ring| ring.take(status));
    }

    /// The samples after number `since`; of a number that was not reached yet, all: it is of an
    /// earlier daemon.
    #[must_use]
    pub fn list(&self, since: u64) -> HistoryList {
        self.0.borrow().list(|_, _| Some(since))
    }

    /// Tells of each new sample.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Ring> {
        self.0.subscribe()
    }
}

impl Ring {
    fn take(&mut self, status: Arc<Status>) {
        push(
            &mut self.seconds,
            (status.uptime_seconds * 100.0).round() / 100.0,
        );
        self.taken += 1;
        let mut before = by_name(&mut self.services, |service| &service.name);
        self.services = status
            .services
            .iter()
            .map(|service| {
                let mut ring = before.remove(&service.name).unwrap_or_else(|| ServiceRing {
                    name: service.name.clone(),
                    samples: VecDeque::new(),
                    backends: Vec::new(),
                });
                ring.take(service);
                ring
            })
            .collect();
        self.latest = Some(status);
    }

    /// The newest status.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<Status>> {
        self.latest.as_ref()
    }

    /// Number of the newest sample.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.taken
    }

    /// For each service, and each back-end of it, the samples after the number that `since` gives
    /// for their names; none are told of what it gives no number for. When they were taken is told
    /// for the longest series.
    #[must_use]
    pub fn list(&self, since: impl Fn(&str, Option<&str>) -> Option<u64>) -> HistoryList {
        let mut longest = 0;
        let mut newest = |since: u64, len: usize| {
            let after = self.taken.checked_sub(since).unwrap_or(self.taken);
            let count = len.min(usize::try_from(after).unwrap_or(usize::MAX));
            longest = longest.max(count);
            len - count
        };
        let mut services = Vec::with_capacity(self.services.len());
        for service in &self.services {
            let Some(after) = since(&service.name, None) else {
                continue;
            };
            let samples = service
                .samples
                .range(newest(after, service.samples.len())..);
            let backends = service.backends.iter().filter_map(|backend| {
                let after = since(&service.name, Some(&backend.name))?;
                let samples = backend
                    .samples
                    .range(newest(after, backend.samples.len())..);
                Some(BackendHistory {
                    name: backend.name.clone(),
                    ceiling: samples.clone().map(|sample| sample.ceiling).collect(),
                    held: samples.map(|sample| sample.held).collect(),
                })
            });
            services.push(ServiceHistory {
                name: service.name.clone(),
                queue: samples.clone().map(|sample| sample.queue).collect(),
                connections: samples.clone().map(|sample| sample.connections).collect(),
                requests: samples.clone().map(|sample| sample.requests).collect(),
                p99_ms: samples.map(|sample| sample.p99_ms).collect(),
                backends: backends.collect(),
            });
        }
        HistoryList {
            last: self.taken,
            seconds: self
                .seconds
                .range(self.seconds.len() - longest..)
                .copied()
                .collect(),
            services,
        }
    }
}

impl ServiceRing {
    fn take(&mut self, service: &ServiceStatus) {
        let backends = || service.backends.iter();
        let sample = ServiceSample {
            queue: narrow(service.queue.depth),
            connections: total(backends().map(|backend| backend.rate.connections)),
            requests: total(backends().map(|backend| backend.rate.requests)),
            p99_ms: backends()
                .filter_map(|backend| backend.response_ms.p99)
                .reduce(f64::max)
                .map(tenths),
        };
        push(&mut self.samples, sample);
        let mut before = by_name(&mut self.backends, |backend| &backend.name);
        let rings = service.backends.iter().map(|backend| {
            let mut ring = before.remove(&backend.name).unwrap_or_else(|| BackendRing {
                name: backend.name.clone(),
                samples: VecDeque::new(),
            });
            push(&mut ring.samples, BackendSample::of(backend));
            ring
        });
        self.backends = rings.collect();
    }
}

impl BackendSample {
    fn of(backend: &BackendStatus) -> Self {
        Self {
            ceiling: narrow(backend.ceiling),
            held: narrow(backend.active + backend.half_open),
        }
    }
}

fn push<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == SAMPLES_MAX {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// What is left in the map at the end is gone from the configuration, and goes.
fn by_name<T>(rings: &mut Vec<T>, name: impl Fn(&T) -> &String) -> HashMap<String, T> {
    rings
        .drain(..)
        .map(|ring| (name(&ring).clone(), ring))
        .collect()
}

/// Counts of connections fit, whatever the type of the status.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Together, of those that were measured.
fn total(rates: impl Iterator<Item = Option<f64>>) -> Option<f32> {
    rates.flatten().reduce(|a, b| a + b).map(tenths)
}

/// A picture shows no finer.
fn tenths(value: f64) -> f32 {
    ((value * 10.0).round() / 10.0) as f32
}
