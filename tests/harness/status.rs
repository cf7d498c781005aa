//! What the daemon says of itself, with the ways to it that tests need.

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

    /// Whether nothing is going on: no flow, no connection, nobody waiting.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flows() == 0 && self.active() == 0 && self.queued() == 0
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
