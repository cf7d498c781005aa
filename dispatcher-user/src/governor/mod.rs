//! Moves ceilings: the one place where what was measured of back-ends, what a policy says of it,
//! and effects meet. It runs beside the admission thread, which it asks for what that has measured,
//! and tells what is to change. Everything else is told through a [`Desk`].

mod record;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::admin::{CeilingDone, CeilingOrder};
use crate::admission::{BackendId, ServiceId, Time};
use crate::agent::{self, AgentError, AgentTarget};
use crate::ceiling::AgentReport;
use crate::config::{self, Config};
use crate::datapath::Meters;
use crate::engine::{Handle, clock};
use crate::status::Status;

use record::Record;

/// Longest time between two looks at what the program measures: it keeps the greatest times of the
/// last second and a half.
const LOOK: Duration = Duration::from_secs(1);

/// Questions that may wait.
const ASKS_MAX: usize = 64;

/// Answers of agents that may wait; an agent whose answer finds no room is asked later.
const ANSWERS_MAX: usize = 256;

const STOPPING: &str = "the daemon is stopping";

/// A service whose ceilings are moved.
struct Service {
    id: ServiceId,
    name: Arc<str>,
    policy: &'static str,
    /// How long a window is.
    interval: Duration,
    /// When the program was last looked at.
    looked: Time,
    /// When the window ends.
    due: Time,
    backends: Vec<Record>,
}

/// Everything that moves ceilings.
struct Governor {
    services: Vec<Service>,
    meters: Meters,
    engine: Handle,
    asks: mpsc::Receiver<Ask>,
    answers: mpsc::Receiver<agent::Answer>,
}

enum Ask {
    FillIn(Box<Status>, oneshot::Sender<Box<Status>>),
    Ceiling(CeilingOrder, oneshot::Sender<Result<CeilingDone>>),
}

/// Talks to the governor; cheap to clone.
#[derive(Clone)]
pub struct Desk(mpsc::Sender<Ask>);

impl Desk {
    /// Adds to a status what the governor knows.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping.
    pub async fn fill_in(&self, status: Status) -> Result<Status> {
        let filled = self.ask(|answer| Ask::FillIn(Box::new(status), answer));
        Ok(*filled.await?)
    }

    /// Pins a ceiling, or gives it back to its policy.
    ///
    /// # Errors
    ///
    /// When there is no such back-end, or the daemon is stopping.
    pub async fn set_ceiling(&self, order: CeilingOrder) -> Result<CeilingDone> {
        self.ask(|answer| Ask::Ceiling(order, answer)).await?
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let asked = self.0.send(ask(answer)).await;
        asked.map_err(|_| anyhow!(STOPPING))?;
        answered.await.map_err(|_| anyhow!(STOPPING))
    }
}

/// Starts to move the ceilings of the configured services, whose numbers are `numbers`.
#[must_use]
pub fn start(
    config: &Config,
    numbers: &[(ServiceId, Vec<BackendId>)],
    meters: Meters,
    engine: Handle,
) -> Desk {
    let now = clock::now();
    let (desk, asks) = mpsc::channel(ASKS_MAX);
    let (answered, answers) = mpsc::channel(ANSWERS_MAX);
    let mut services = Vec::with_capacity(numbers.len());
    let mut targets = Vec::new();
    for (service, (id, backends)) in config.services.iter().zip(numbers) {
        let of_backends = || service.backends.iter().zip(backends);
        targets.extend(of_backends().filter_map(|(one, id)| AgentTarget::new(*id, service, one)));
        services.push(Service::new(now, *id, service, backends, &meters));
    }
    if !targets.is_empty() {
        tokio::spawn(agent::run(targets, answered));
    }
    let governor = Governor {
        services,
        meters,
        engine,
        asks,
        answers,
    };
    tokio::spawn(governor.run());
    Desk(desk)
}

impl Service {
    fn new(
        now: Time,
        id: ServiceId,
        service: &config::Service,
        backends: &[BackendId],
        meters: &Meters,
    ) -> Self {
        let records = service.backends.iter().zip(backends);
        let records = records.map(|(backend, id)| {
            let reading = meters.read(id.0);
            Record::new(now, *id, backend, &service.ceiling, reading)
        });
        Self {
            id,
            name: service.name.as_str().into(),
            policy: service.ceiling.policy.label(),
            interval: service.ceiling.interval,
            looked: now,
            due: now + service.ceiling.interval,
            backends: records.collect(),
        }
    }

    fn next_look(&self) -> Time {
        self.due.min(self.looked + LOOK)
    }

    /// Takes up what the program measured since the last look.
    fn look(&mut self, now: Time, meters: &Meters) {
        self.looked = now;
        for record in &mut self.backends {
            record.look(now, meters.read(record.id().0));
        }
    }
}

impl Governor {
    async fn run(mut self) {
        let ended = loop {
            let now = clock::now();
            let next = self.services.iter().map(Service::next_look).min();
            let pause = next.map_or(LOOK, |next| next.since(now));
            let done = tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                Some((backend, report)) = self.answers.recv() => {
                    self.hear(backend, report).await
                }
                () = sleep(pause) => self.turn(clock::now()).await,
            };
            if let Err(error) = done {
                break error;
            }
        };
        tracing::debug!(error = format!("{ended:#}"), "ceilings are moved no more");
    }

    /// Looks at the services whose time it is, and decides where a window is over.
    async fn turn(&mut self, now: Time) -> Result<()> {
        let Self {
            services,
            meters,
            engine,
            ..
        } = self;
        for service in services.iter_mut().filter(|one| one.next_look() <= now) {
            if service.due > now {
                block_in_place(|| service.look(now, meters));
                continue;
            }
            // What admission and the program measure should be of the same time.
            let window = engine.window(service.id).await?;
            block_in_place(|| service.look(clock::now(), meters));
            service.due = now + service.interval;
            let Some(window) = window else {
                continue;
            };
            let mut adjustments = Vec::new();
            for of_backend in &window.backends {
                let mut records = service.backends.iter_mut();
                if let Some(record) = records.find(|record| record.id() == of_backend.id) {
                    let decided = record.decide(now, &service.name, &window, of_backend);
                    adjustments.push(decided);
                }
            }
            engine.adjust(adjustments).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, ask: Ask) -> Result<()> {
        match ask {
            // Whoever asked may have gone: then nobody misses the answer.
            Ask::FillIn(mut status, answer) => {
                block_in_place(|| self.fill_in(clock::now(), &mut status));
                let _ = answer.send(status);
            }
            Ask::Ceiling(order, answer) => {
                let done = self.set_ceiling(order).await;
                let _ = answer.send(done);
            }
        }
        Ok(())
    }

    /// Looks at every service, so that totals are of now.
    fn fill_in(&mut self, now: Time, status: &mut Status) {
        for service in &mut self.services {
            service.look(now, &self.meters);
            let mut told = status.services.iter_mut();
            let Some(told) = told.find(|told| *told.name == *service.name) else {
                continue;
            };
            for record in &mut service.backends {
                let mut told = told.backends.iter_mut();
                if let Some(told) = told.find(|told| told.name == record.name()) {
                    record.fill_in(now, told);
                }
            }
        }
    }

    async fn set_ceiling(&mut self, order: CeilingOrder) -> Result<CeilingDone> {
        let CeilingOrder {
            service,
            backend,
            ceiling,
        } = order;
        let mut services = self.services.iter_mut();
        let of = services.find(|known| *known.name == *service);
        let (of, at) = of
            .and_then(|of| {
                let at = of
                    .backends
                    .iter()
                    .position(|known| known.name() == backend)?;
                Some((of, at))
            })
            .with_context(|| format!("no back-end {service}/{backend}"))?;
        let record = &mut of.backends[at];
        let adjustment = record.pin(clock::now(), &service, ceiling);
        let done = CeilingDone {
            ceiling: record.ceiling(),
            pinned: ceiling.is_some(),
            policy: of.policy.to_owned(),
            service,
            backend,
        };
        self.engine.adjust(vec![adjustment]).await?;
        Ok(done)
    }

    /// An agent was asked.
    async fn hear(
        &mut self,
        backend: BackendId,
        report: Result<AgentReport, AgentError>,
    ) -> Result<()> {
        for service in &mut self.services {
            let mut records = service.backends.iter_mut();
            if let Some(record) = records.find(|record| record.id() == backend) {
                if let Some(adjustment) = record.hear(clock::now(), &service.name, report) {
                    self.engine.adjust(vec![adjustment]).await?;
                }
                break;
            }
        }
        Ok(())
    }
}
