//! What is known of the health of one back-end: by its checks, and by what became of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::admission::{BackendState, BackendWindow, Time};
use crate::config::{self, HealthKind, OnDown};
use crate::health::{Cause, Fault, Passive, Rules, Tracker, Verdict};
use crate::status::{HealthCheck, HealthStatus};

/// The health of a back-end.
pub(super) struct Health {
    kind: &'static str,
    watched: bool,
    on_down: OnDown,
    tracker: Tracker,
    /// What changed the verdict last, and the last fault that was known then.
    why: Option<String>,
    last: Option<Last>,
    /// Checks by label of what came of them.
    checks: BTreeMap<&'static str, u64>,
    /// The last check could not be made.
    hindered: bool,
}

/// The last check.
struct Last {
    at: Time,
    took: Duration,
    fault: Option<Fault>,
}

impl Health {
    pub(super) fn new(now: Time, settings: &config::Health) -> Self {
        Self {
            kind: settings.kind.label(),
            watched: is_watched(settings),
            on_down: settings.on_down,
            tracker: Tracker::new(now, Rules::from(settings)),
            why: None,
            last: None,
            checks: BTreeMap::new(),
            hindered: false,
        }
    }

    /// Other settings.
    pub(super) fn update(&mut self, now: Time, settings: &config::Health) -> Option<Cause> {
        self.kind = settings.kind.label();
        self.watched = is_watched(settings);
        self.on_down = settings.on_down;
        if settings.kind == HealthKind::Off {
            (self.last, self.hindered) = (None, false);
        }
        let cause = self.tracker.set_rules(now, Rules::from(settings));
        self.explain(cause)
    }

    /// It was checked.
    pub(super) fn check(
        &mut self,
        now: Time,
        took: Duration,
        result: Result<(), Fault>,
    ) -> Option<Cause> {
        let fault = result.err();
        let label = fault.as_ref().map_or(Fault::PASSED, Fault::label);
        *self.checks.entry(label).or_default() += 1;
        let not_made = matches!(fault, Some(Fault::NotMade(_)));
        let passed = fault.is_none();
        self.last = Some(Last {
            at: now,
            took,
            fault,
        });
        if not_made {
            return None;
        }
        let cause = self.tracker.check(now, passed);
        self.explain(cause)
    }

    /// Why it could not be checked, if that is news.
    pub(super) fn hindrance(&mut self) -> Option<String> {
        let fault = self.last.as_ref().and_then(|last| last.fault.as_ref());
        let hindered = fault.filter(|fault| matches!(fault, Fault::NotMade(_)));
        let before = std::mem::replace(&mut self.hindered, hindered.is_some());
        hindered.filter(|_| !before).map(ToString::to_string)
    }

    /// A window is over, in which the back-end answered so many requests.
    pub(super) fn observe(
        &mut self,
        now: Time,
        window: &BackendWindow,
        answered: u64,
    ) -> Option<Cause> {
        let passive = Passive {
            answered,
            refused: window.refused,
            silent: window.silent,
        };
        let cause = self.tracker.observe(now, passive);
        self.explain(cause)
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Time) -> Option<Cause> {
        let cause = self.tracker.handle_timeout(now);
        self.explain(cause)
    }

    fn explain(&mut self, cause: Option<Cause>) -> Option<Cause> {
        if let Some(cause) = cause {
            let fault = self.last.as_ref().and_then(|last| last.fault.as_ref());
            self.why = Some(match (cause, fault) {
                (Cause::Checks(_), Some(fault)) => format!("{cause}: {fault}"),
                _ => cause.to_string(),
            });
        }
        cause
    }

    /// What changed the verdict last, in words.
    pub(super) fn why(&self) -> &str {
        self.why.as_deref().unwrap_or_default()
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.tracker.verdict()
    }

    /// What it says of the back-end's state.
    pub(super) fn state(&self) -> BackendState {
        match self.tracker.verdict() {
            Verdict::Up | Verdict::Trial => BackendState::Up,
            Verdict::Down => BackendState::Down,
        }
    }

    /// Whether the connections of a back-end that went down are to be reset.
    pub(super) fn resets(&self) -> bool {
        self.on_down == OnDown::Reset && self.verdict() == Verdict::Down
    }

    /// For the status; nothing of one that nobody watches.
    pub(super) fn status(&self, now: Time) -> Option<HealthStatus> {
        let status = || HealthStatus {
            kind: self.kind.to_owned(),
            verdict: match self.verdict() {
                Verdict::Up => "up",
                Verdict::Trial => "trial",
                Verdict::Down => "down",
            }
            .to_owned(),
            since_seconds: now.since(self.tracker.since()).as_secs_f64(),
            why: self.why.clone(),
            last: self.last.as_ref().map(|last| HealthCheck {
                result: last
                    .fault
                    .as_ref()
                    .map_or(Fault::PASSED, Fault::label)
                    .to_owned(),
                why: last.fault.as_ref().map(ToString::to_string),
                took_ms: last.took.as_secs_f64() * 1000.0,
                seconds_ago: now.since(last.at).as_secs_f64(),
            }),
            checks: self
                .checks
                .iter()
                .map(|(label, count)| ((*label).to_owned(), *count))
                .collect(),
        };
        self.watched.then(status)
    }
}

fn is_watched(settings: &config::Health) -> bool {
    settings.kind != HealthKind::Off || settings.passive > 0
}
