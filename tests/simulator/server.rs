//! Simulated servers. A server shares its capacity among all requests that it has: how much work it
//! does a second depends on their number alone.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// How much work a server does a second, by the number of requests that it has.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Capacity {
    /// The Universal Scalability Law: `one * n / (1 + contention * (n - 1) + crosstalk * n *
    /// (n - 1))`. Best at `sqrt((1 - contention) / crosstalk)`.
    Scalability {
        /// Requests a second when there is one.
        one: f64,
        /// σ: what is done one after the other.
        contention: f64,
        /// κ: what each pair of requests costs.
        crosstalk: f64,
    },
    /// So many processors, until the requests no longer fit into memory: beyond, it thrashes, and
    /// throughput falls with the square of how much it is beyond.
    Memory {
        /// Requests a second of one processor.
        one: f64,
        /// Processors.
        processors: f64,
        /// Requests that fit into memory.
        resident: f64,
    },
    /// Whatever it depends on is gone: each request takes a second, then fails. It looks like an
    /// answer.
    Broken,
}

/// How long a request takes at a broken server, in seconds.
const BROKEN_SECONDS: f64 = 1.0;

impl Capacity {
    /// Work a second that each of `n` requests gets, in requests of mean size.
    #[must_use]
    pub fn share(&self, n: usize) -> f64 {
        let n = n as f64;
        match *self {
            Self::Scalability {
                one,
                contention,
                crosstalk,
            } => one / (1.0 + contention * (n - 1.0) + crosstalk * n * (n - 1.0)),
            Self::Memory {
                one,
                processors,
                resident,
            } => {
                let thrashing = (resident / n).min(1.0).powi(2);
                one * (processors / n).min(1.0) * thrashing
            }
            Self::Broken => 1.0 / BROKEN_SECONDS,
        }
    }

    /// How long a request of mean size takes when there is no other, in seconds.
    #[must_use]
    pub fn unloaded(&self) -> f64 {
        1.0 / self.share(1)
    }

    /// Whether what it answers is worth anything.
    #[must_use]
    pub const fn works(&self) -> bool {
        !matches!(self, Self::Broken)
    }
}

/// A server and the requests that it has.
#[derive(Clone, Debug)]
pub struct Server {
    capacity: Capacity,
    stalled: bool,
    /// Work that each request present since the start would have got.
    attained: f64,
    /// When that was brought up to date, in seconds.
    at: f64,
    jobs: BinaryHeap<Job>,
}

/// A request, by the `attained` at which it will be done; the least comes first.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Job {
    done_at: f64,
    request: u32,
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .done_at
            .total_cmp(&self.done_at)
            .then(other.request.cmp(&self.request))
    }
}

impl Server {
    /// Without requests.
    #[must_use]
    pub const fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            stalled: false,
            attained: 0.0,
            at: 0.0,
            jobs: BinaryHeap::new(),
        }
    }

    fn share(&self) -> f64 {
        if self.stalled || self.jobs.is_empty() {
            0.0
        } else {
            self.capacity.share(self.jobs.len())
        }
    }

    fn advance(&mut self, now: f64) {
        self.attained += (now - self.at) * self.share();
        self.at = now;
    }

    /// Its capacity.
    #[must_use]
    pub const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// From `now` on it has another capacity.
    pub fn set_capacity(&mut self, now: f64, capacity: Capacity) {
        self.advance(now);
        self.capacity = capacity;
    }

    /// From `now` on it does nothing, or works again.
    pub fn stall(&mut self, now: f64, stalled: bool) {
        self.advance(now);
        self.stalled = stalled;
    }

    /// A request of `work` arrives; 1 is the mean. At a broken server size does not matter.
    pub fn start(&mut self, now: f64, request: u32, work: f64) {
        self.advance(now);
        let work = if self.capacity.works() { work } else { 1.0 };
        let done_at = self.attained + work;
        self.jobs.push(Job { done_at, request });
    }

    /// When the next request will be done, if nothing else happens.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let share = self.share();
        let job = self.jobs.peek().filter(|_| share > 0.0)?;
        Some(self.at + (job.done_at - self.attained).max(0.0) / share)
    }

    /// The request that is done now.
    pub fn finish(&mut self, now: f64) -> Option<u32> {
        self.advance(now);
        let job = self.jobs.pop()?;
        self.attained = self.attained.max(job.done_at);
        Some(job.request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_shares_what_it_can_do() {
        let mut server = Server::new(Capacity::Memory {
            one: 10.0,
            processors: 1.0,
            resident: 2.0,
        });
        server.start(0.0, 1, 1.0);
        assert_eq!(server.next(), Some(0.1));
        // Two share one processor: the first has half its work left, at half the speed.
        server.start(0.05, 2, 1.0);
        assert!((server.next().unwrap() - 0.15).abs() < 1e-9);
        assert_eq!(server.finish(0.15), Some(1));
        assert!((server.next().unwrap() - 0.2).abs() < 1e-9);
        server.stall(0.16, true);
        assert_eq!(server.next(), None);
        server.stall(0.26, false);
        assert!((server.next().unwrap() - 0.3).abs() < 1e-9);
    }

    #[test]
    fn the_law_has_its_best_where_it_says() {
        let law = Capacity::Scalability {
            one: 40.0,
            contention: 0.05,
            crosstalk: 0.005,
        };
        let total = |n: usize| law.share(n) * n as f64;
        let best = (1..255).max_by(|a, b| total(*a).total_cmp(&total(*b)));
        assert_eq!(best, Some(14));
        assert!(total(255) < total(14) / 5.0);
    }
}
