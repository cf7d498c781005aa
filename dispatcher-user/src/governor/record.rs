//! What is known of one back-end: what was measured, what its ceiling is, and why.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};

use crate::admin::BackendAction;
use crate::admission::{BackendId, BackendState, BackendWindow, ServiceWindow, Time};
use crate::agent::AgentError;
use crate::ceiling::{
    AgentReport, AgentState, Bounds, Change, Controller, Policy, Settings, Window,
};
use crate::config;
use crate::engine::{Adjustment, Enrolled};
use crate::health::{Cause, Checked, Verdict};
use crate::measure::{Distribution, Measured, Reading, Recent};
use crate::status::{
    BackendStatus, CeilingMove, Rate, SuggestedCeiling, TimesBySize, TimesMs, Totals,
};
use crate::telemetry::TIMES_BUCKETS;

use super::health::Health;
use super::standing::{Order, Standing};

/// One back-end.
pub(super) struct Record {
    id: BackendId,
    name: Arc<str>,
    address: SocketAddr,
    /// It is configured no more; its flows go on.
    leaving: bool,
    controller: Controller,
    standing: Standing,
    health: Health,
    /// Whether its agent gave a report when it was last asked; nothing before it was.
    heard: Option<bool>,
    /// What the program had counted at the last look.
    reading: Reading,
    /// Since the window began.
    window: Measured,
    /// Since the daemon started.
    total: Measured,
    response: Recent,
    connect: Recent,
    /// In the last window.
    rate: Rate,
    moved: Option<(Time, Change)>,
    moves: BTreeMap<&'static str, u64>,
}

impl Record {
    /// Nothing measured; `reading` is what an earlier daemon may have left.
    pub(super) fn new(
        now: Time,
        id: BackendId,
        backend: &config::Backend,
        of: &config::Service,
        reading: Reading,
    ) -> Self {
        Self {
            id,
            name: backend.name.as_str().into(),
            address: backend.address,
            leaving: false,
            controller: controller(backend, &of.ceiling),
            standing: Standing::NEW,
            health: Health::new(now, &of.health),
            heard: None,
            reading,
            window: Measured::default(),
            total: Measured::default(),
            response: Recent::new(now),
            connect: Recent::new(now),
            rate: Rate::default(),
            moved: None,
            moves: BTreeMap::new(),
        }
    }

    /// It came while others serve: it starts slowly.
    pub(super) fn come(&mut self) {
        self.controller.came_up();
    }

    /// It was removed.
    pub(super) fn leave(&mut self, enrolled: &Enrolled<BackendId>) {
        self.name = Arc::clone(&enrolled.name);
        self.leaving = true;
    }

    /// It was removed, and comes back: as a new one, but for what was measured.
    pub(super) fn renew(&mut self, now: Time, backend: &config::Backend, of: &config::Service) {
        self.name = backend.name.as_str().into();
        self.leaving = false;
        self.standing = Standing::NEW;
        self.health = Health::new(now, &of.health);
        self.heard = None;
        self.controller = controller(backend, &of.ceiling);
        self.come();
    }

    /// Makes it what is configured of it. Its ceiling stays, pinned or not, as far as its bounds
    /// allow; what an operator said of it stays; what its agent said stays while it is asked, and
    /// what its health says while it is watched.
    pub(super) fn update(
        &mut self,
        now: Time,
        backend: &config::Backend,
        of: &config::Service,
    ) -> Adjustment {
        self.name = backend.name.as_str().into();
        let (service, settings) = (of.name.as_str(), &of.ceiling);
        let before = self.controller.ceiling();
        let mut standing = self.standing;
        if !matches!(settings.policy, Policy::Agent(_)) {
            standing.agent = BackendState::Up;
            self.heard = None;
        }
        let cause = self.health.update(now, &of.health);
        self.note_health(service, cause);
        standing.health = self.health.state();
        self.controller.set_settings(settings);
        self.controller.set_bounds(bounds(backend));
        self.controller.set_initial(backend.ceiling.initial);
        self.note_move(now, service, before);
        self.stand(now, service, standing)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn id(&self) -> BackendId {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn ceiling(&self) -> u32 {
        self.controller.ceiling()
    }

    /// Takes up what the program counted.
    pub(super) fn look(&mut self, now: Time, reading: Reading) {
        let measured = reading.since(&self.reading);
        self.reading = reading;
        self.response.add(now, &measured.response);
        self.connect.add(now, &measured.connect);
        self.window.add(&measured);
        self.total.add(&measured);
    }

    /// A window is over.
    pub(super) fn decide(
        &mut self,
        now: Time,
        service: &str,
        of_service: &ServiceWindow,
        of_backend: &BackendWindow,
    ) -> Adjustment {
        let measured = std::mem::take(&mut self.window);
        let counters = measured.counters;
        let window = Window {
            length: of_service.length,
            held_mean: of_backend.held_mean,
            held_max: of_backend.held_max,
            reached: of_backend.reached,
            queue_mean: of_service.queue_mean,
            admitted: of_backend.admitted,
            ended: of_backend.ended + of_backend.failed,
            unanswered: counters.unanswered + of_backend.failed,
            response: measured.response.times(),
            connect: measured.connect.times(),
            packets: counters.packets_in + counters.packets_out,
            bytes: counters.bytes_in + counters.bytes_out,
        };
        let seconds = window.length.as_secs_f64();
        let rate = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        self.rate = Rate {
            connections: rate(window.admitted),
            requests: rate(window.response.count),
            packets_in: rate(counters.packets_in),
            packets_out: rate(counters.packets_out),
            bytes_in: rate(counters.bytes_in),
            bytes_out: rate(counters.bytes_out),
        };
        // What one request tells of a back-end that is tried tells nothing of its ceiling.
        if self.health.verdict() != Verdict::Trial {
            let before = self.controller.ceiling();
            self.controller.decide(&window);
            self.note_move(now, service, before);
        }
        let cause = match self.leaving {
            false => self.health.observe(now, of_backend, window.connect.count),
            true => None,
        };
        Adjustment {
            response_time: Some((window.response.count > 0).then_some(window.response.mean)),
            ..self.change_health(now, service, cause)
        }
    }

    /// It was checked.
    pub(super) fn check(
        &mut self,
        now: Time,
        service: &str,
        checked: Checked,
    ) -> Option<Adjustment> {
        let cause = self.health.check(now, checked.took, checked.result);
        if let Some(why) = self.health.hindrance() {
            tracing::error!(service, backend = &*self.name, why, "not checked");
        }
        cause.map(|cause| self.change_health(now, service, Some(cause)))
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Time, service: &str) -> Option<Adjustment> {
        let cause = self.health.handle_timeout(now)?;
        Some(self.change_health(now, service, Some(cause)))
    }

    /// Takes up what its health says after `cause`, if that is anything new.
    fn change_health(&mut self, now: Time, service: &str, cause: Option<Cause>) -> Adjustment {
        self.note_health(service, cause);
        let standing = Standing {
            health: self.health.state(),
            ..self.standing
        };
        if cause == Some(Cause::Answered) {
            // It is given more than one from now on.
            let before = self.controller.ceiling();
            self.controller.came_up();
            self.note_move(now, service, before);
        }
        let stays_disabled = standing.operator == Order::Disable;
        Adjustment {
            reset: match cause {
                Some(_) if self.health.resets() => Some(true),
                Some(_) if !stays_disabled => Some(false),
                _ => None,
            },
            ..self.stand(now, service, standing)
        }
    }

    /// Tells of a change, if there was one.
    fn note_health(&self, service: &str, cause: Option<Cause>) {
        if cause.is_none() {
            return;
        }
        let (backend, why) = (&*self.name, self.health.why());
        match self.health.verdict() {
            Verdict::Down => tracing::warn!(service, backend, why, "down by its health"),
            Verdict::Trial => tracing::info!(service, backend, why, "tried with one connection"),
            Verdict::Up => tracing::info!(service, backend, why, "up by its health"),
        }
    }

    /// Pins the ceiling, or gives it back.
    pub(super) fn pin(&mut self, now: Time, service: &str, ceiling: Option<u32>) -> Adjustment {
        let before = self.controller.ceiling();
        self.controller.pin(ceiling);
        self.note_move(now, service, before);
        Adjustment {
            ceiling: Some(self.ceiling_in_force()),
            ..Adjustment::of(self.id)
        }
    }

    /// What its controller says, unless it is tried.
    fn ceiling_in_force(&self) -> u32 {
        match self.health.verdict() {
            Verdict::Trial => 1,
            Verdict::Up | Verdict::Down => self.controller.ceiling(),
        }
    }

    /// Its agent was asked.
    pub(super) fn hear(
        &mut self,
        now: Time,
        service: &str,
        answer: std::result::Result<AgentReport, AgentError>,
    ) -> Option<Adjustment> {
        let report = match answer {
            Ok(report) => report,
            Err(error) => {
                // Once for each silence, not once for each question.
                if self.heard.replace(false) != Some(false) {
                    tracing::warn!(%error, "no report");
                }
                return None;
            }
        };
        if self.heard.replace(true) == Some(false) {
            tracing::info!(service, backend = &*self.name, "its agent reports again");
        }
        let agent = self.controller.report(&report).map(|state| match state {
            AgentState::Up => BackendState::Up,
            AgentState::Drain => BackendState::Draining,
            AgentState::Down => BackendState::Down,
        });
        let mut standing = self.standing;
        if let Some(state) = agent.filter(|state| *state != standing.agent) {
            standing.agent = state;
            let message = report.message.as_deref().unwrap_or_default();
            tracing::info!(
                service,
                backend = &*self.name,
                ?state,
                message,
                "its agent says"
            );
        }
        Some(self.stand(now, service, standing))
    }

    /// An operator orders something. Returns what is to be done and the state that it comes to.
    pub(super) fn order(
        &mut self,
        now: Time,
        service: &str,
        action: BackendAction,
    ) -> Result<(Adjustment, BackendState)> {
        let resumes = action == BackendAction::Resume;
        ensure!(
            !(self.leaving && resumes),
            "{service}/{} is configured no more; it comes back with a configuration that has it",
            self.name
        );
        let standing = Standing {
            operator: match action {
                BackendAction::Drain => Order::Drain,
                BackendAction::Resume => Order::Serve,
                BackendAction::Disable => Order::Disable,
            },
            ..self.standing
        };
        let adjustment = Adjustment {
            reset: Some(action == BackendAction::Disable),
            ..self.stand(now, service, standing)
        };
        let state = match self.standing.state() {
            _ if self.leaving => BackendState::Draining,
            state => state,
        };
        let action = action.label();
        tracing::info!(service, backend = &*self.name, action, ?state, "ordered");
        Ok((adjustment, state))
    }

    /// Takes up what is said of it. A back-end that comes up by that starts slowly.
    fn stand(&mut self, now: Time, service: &str, standing: Standing) -> Adjustment {
        let before = self.controller.ceiling();
        let was = std::mem::replace(&mut self.standing, standing).state();
        let state = standing.state();
        if state == BackendState::Up && was != state {
            self.controller.came_up();
        }
        self.note_move(now, service, before);
        Adjustment {
            ceiling: Some(self.ceiling_in_force()),
            state: (state != was).then_some(state),
            ..Adjustment::of(self.id)
        }
    }

    /// Tells of a move, if there was one.
    fn note_move(&mut self, now: Time, service: &str, before: u32) {
        let after = self.controller.ceiling();
        let Some(change) = self.controller.last_change() else {
            return;
        };
        if after == before {
            return;
        }
        tracing::info!(
            service,
            backend = &*self.name,
            from = before,
            to = after,
            why = %change.why,
            "ceiling moved"
        );
        *self.moves.entry(change.why.label()).or_default() += 1;
        self.moved = Some((now, change.clone()));
    }

    /// Adds what is known to a status.
    pub(super) fn fill_in(&mut self, now: Time, told: &mut BackendStatus) {
        let counters = self.total.counters;
        told.health = self.health.status(now).filter(|_| !self.leaving);
        told.pinned = self.controller.is_pinned();
        told.moved = self.moved.as_ref().map(|(then, change)| CeilingMove {
            from: u64::from(change.from),
            to: u64::from(change.to),
            reason: change.why.label().to_owned(),
            why: change.why.to_string(),
            seconds_ago: now.since(*then).as_secs_f64(),
        });
        let moves = self.moves.iter();
        told.moves = moves
            .map(|(reason, count)| ((*reason).to_owned(), *count))
            .collect();
        told.suggested = self
            .controller
            .suggestion()
            .map(|suggestion| SuggestedCeiling {
                ceiling: u64::from(suggestion.ceiling),
                why: suggestion.to_string(),
            });
        told.response_ms = times_ms(&self.response.both(now));
        told.connect_ms = times_ms(&self.connect.both(now));
        told.response_sizes = by_size(&self.total.response);
        told.connect_sizes = by_size(&self.total.connect);
        told.rate = self.rate;
        told.total = Totals {
            requests: counters.requests,
            unanswered: counters.unanswered,
            packets_in: counters.packets_in,
            packets_out: counters.packets_out,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            ..told.total
        };
    }
}

fn bounds(backend: &config::Backend) -> Bounds {
    Bounds {
        min: backend.ceiling.min,
        max: backend.ceiling.max,
    }
}

fn controller(backend: &config::Backend, settings: &Settings) -> Controller {
    Controller::new(settings, bounds(backend), backend.ceiling.initial)
}

fn times_ms(times: &Distribution) -> TimesMs {
    if times.count() == 0 {
        return TimesMs::default();
    }
    let ms = |time: std::time::Duration| Some(time.as_secs_f64() * 1000.0);
    TimesMs {
        mean: ms(times.mean()),
        p50: ms(times.quantile(0.5)),
        p99: ms(times.quantile(0.99)),
        max: ms(times.max()),
    }
}

fn by_size(times: &Distribution) -> TimesBySize {
    let bounds = TIMES_BUCKETS.map(std::time::Duration::from_secs_f64);
    TimesBySize {
        at_most: times.up_to(&bounds),
        count: times.count(),
        sum_seconds: times.sum().as_secs_f64(),
    }
}
