//! What the daemon says of itself, with the ways to it that tests need.

use dispatcher_common::verdict::DropReason;
use serde_json::Value;

/// What `status --json` says, with the ways to it that tests need.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    fn number(&self, pointer: &str) -> u64 {
        let number = self.0.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("no number at {pointer} in {:#}", self.0))
    }

    /// Flows in the table.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.number("/flows/used")
    }

    /// Requests of the first service that wait.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.number("/services/0/queue/depth")
    }

    /// Requests of the first service that may wait.
    #[must_use]
    pub fn queue_capacity(&self) -> u64 {
        self.number("/services/0/queue/capacity")
    }

    /// How long requests waited: `p50`, `p99` or `max`; `None` while none has.
    #[must_use]
    pub fn wait_ms(&self, which: &str) -> Option<u64> {
        let pointer = format!("/services/0/queue/wait_ms/{which}");
        self.0.pointer(&pointer).and_then(Value::as_u64)
    }

    /// Frames dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.number(&format!("/dropped/{}", reason.label()))
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn drops(&self) -> u64 {
        let reasons = self.0.pointer("/dropped").and_then(Value::as_object);
        reasons.map_or(0, |reasons| {
            reasons.values().filter_map(Value::as_u64).sum()
        })
    }

    /// Frames of the AF_XDP sockets that are being received or sent.
    #[must_use]
    pub fn frames_in_flight(&self) -> u64 {
        self.number("/frames/in_flight")
    }

    /// A counter of the first service's requests: `admitted`, `refused` and so on.
    #[must_use]
    pub fn requests(&self, outcome: &str) -> u64 {
        self.number(&format!("/services/0/requests/{outcome}"))
    }

    /// A number of the i-th back-end of the first service: `active`, `active_max` and so on.
    #[must_use]
    pub fn backend(&self, i: usize, what: &str) -> u64 {
        self.number(&format!("/services/0/backends/{i}/{what}"))
    }

    /// State of the i-th back-end of the first service: `up`, `draining` and so on.
    #[must_use]
    pub fn state(&self, i: usize) -> String {
        let state = self.0.pointer(&format!("/services/0/backends/{i}/state"));
        let state = state.and_then(Value::as_str);
        state
            .unwrap_or_else(|| panic!("no back-end {i} in {:#}", self.0))
            .to_owned()
    }

    /// Connections at all back-ends of the first service.
    #[must_use]
    pub fn active(&self) -> u64 {
        let backends = self
            .0
            .pointer("/services/0/backends")
            .and_then(Value::as_array);
        (0..backends.map_or(0, Vec::len))
            .map(|i| self.backend(i, "active"))
            .sum()
    }

    /// Whether nothing is going on: no flow, no connection, nobody waiting, every frame home.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        [
            self.flows(),
            self.active(),
            self.queued(),
            self.frames_in_flight(),
        ] == [0; 4]
    }

    /// Panics unless every request received is accounted for exactly once.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let outcomes = ["admitted", "refused", "expired", "abandoned"];
        let sum: u64 = outcomes.iter().map(|outcome| self.requests(outcome)).sum();
        assert_eq!(
            self.requests("received"),
            sum + self.queued(),
            "requests do not add up: {:#}",
            self.0
        );
    }
}
