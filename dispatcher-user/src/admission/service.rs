//! What is kept of a service and of a back-end.

use core::hash::BuildHasher;
use std::collections::HashMap;

use dispatcher_common::addr::Addr;

use super::backlog::Queue;
use super::command::{BackendId, ServiceId};
use super::flood::Flood;
use super::limiter::Limiter;
use super::select::{Selector, Standing};
use super::settings::{BackendSettings, BackendState, ServiceSettings};
use super::time::Time;
use super::window::{BackendCounters, Level};

/// What became of a service's requests since it was added. At any time
/// `received == admitted + refused + expired + abandoned + waiting`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceCounters {
    /// Requests, each counted once however often its SYN was sent.
    pub received: u64,
    /// Sent on to a back-end, and not put back.
    pub admitted: u64,
    /// Began to wait, whatever became of them; one that is put back may do so again.
    pub queued: u64,
    /// Turned away: no room in the queue or in the flow table, or no back-end could take them.
    pub refused: u64,
    /// Waited as long as a request may.
    pub expired: u64,
    /// Given up by their client while they waited.
    pub abandoned: u64,
    /// SYNs that repeated a request.
    pub retransmitted: u64,
    /// How often one was put back because its back-end refused it or did not answer; it is not
    /// admitted then.
    pub retried: u64,
    /// The greatest that `admitted` ever was: what only grows, for those who subtract.
    pub admitted_max: u64,
}

impl ServiceCounters {
    /// One more is sent on to a back-end.
    pub(super) const fn admit(&mut self) {
        self.admitted += 1;
        if self.admitted_max < self.admitted {
            self.admitted_max = self.admitted;
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Service<S> {
    pub(super) settings: ServiceSettings,
    pub(super) counters: ServiceCounters,
    pub(super) queue: Queue,
    /// Requests that wait, over the window.
    pub(super) queue_level: Level,
    /// When the window began; none before anything could be measured.
    pub(super) window_begun: Option<Time>,
    pub(super) selector: Selector,
    /// Back-ends by their position; a position is used again.
    pub(super) members: Vec<Option<BackendId>>,
    /// How many requests of each source wait; empty while sources have no bound.
    pub(super) sources: HashMap<Addr, u32, S>,
    /// Removed, with flows left.
    pub(super) leaving: bool,
    /// Stands in the list of those that the full flow table holds up.
    pub(super) starved: bool,
    /// A bit for each group in whose list it stands.
    pub(super) held_up: u64,
    pub(super) flood: Flood,
}

impl<S: BuildHasher> Service<S> {
    pub(super) fn new(settings: ServiceSettings, hasher: S) -> Self {
        Self {
            settings,
            counters: ServiceCounters::default(),
            queue: Queue::EMPTY,
            queue_level: Level::new(Time::ZERO),
            window_begun: None,
            selector: Selector::new(settings.balance),
            members: Vec::new(),
            sources: HashMap::with_hasher(hasher),
            leaving: false,
            starved: false,
            held_up: 0,
            flood: Flood::default(),
        }
    }

    pub(super) fn may_wait_from(&self, source: &Addr) -> bool {
        let bound = self.settings.per_source;
        bound == 0
            || self
                .sources
                .get(source)
                .is_none_or(|&waiting| waiting < bound)
    }

    pub(super) fn count_source(&mut self, source: Addr) {
        if self.settings.per_source != 0 {
            *self.sources.entry(source).or_default() += 1;
        }
    }

    /// Counts one less, and forgets a source of which none waits.
    pub(super) fn uncount_source(&mut self, source: &Addr) {
        if let Some(waiting) = self.sources.get_mut(source) {
            *waiting -= 1;
            if *waiting == 0 {
                self.sources.remove(source);
            }
        }
    }

    pub(super) fn has_members(&self) -> bool {
        self.members.iter().any(Option::is_some)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) service: ServiceId,
    /// Where it stands in its service.
    pub(super) position: u32,
    pub(super) settings: BackendSettings,
    pub(super) state: BackendState,
    pub(super) limiter: Limiter,
    /// Flows in the table, those that linger included.
    pub(super) flows: u32,
    /// Removed, with flows left.
    pub(super) leaving: bool,
    pub(super) counters: BackendCounters,
    /// What was told of them, window by window.
    pub(super) told: BackendCounters,
}

impl Backend {
    pub(super) fn new(
        now: Time,
        service: ServiceId,
        position: u32,
        settings: BackendSettings,
    ) -> Self {
        Self {
            service,
            position,
            settings,
            state: BackendState::Up,
            limiter: Limiter::new(now, settings.ceiling, settings.capacity),
            flows: 0,
            leaving: false,
            counters: BackendCounters::default(),
            told: BackendCounters::default(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let up = self.state == BackendState::Up && !self.leaving;
        Standing {
            up,
            available: up && self.limiter.has_room(),
            held: self.limiter.held(),
        }
    }
}
