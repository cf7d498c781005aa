//! Moves ceilings: the one place where what was measured of back-ends, what a policy says of it,
//! and effects meet. It runs beside the admission thread, which it asks for what that has measured,
//! and tells what is to change. Everything else is told through a [`Desk`].

mod health;
mod record;
mod standing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::admin::{BackendOrder, CeilingDone, CeilingOrder};
use crate::admission::{BackendId, BackendState, ServiceId, Time};
use crate::agent::{AgentTarget, Agents, Answer};
use crate::ceiling::Settings;
use crate::config::{self, Config};
use crate::datapath::Meters;
use crate::engine::{Adjustment, Enrolled, Handle, Roster, Since, clock};
use crate::health::{CHECKS_MAX, Checked, Checks, Target};
use crate::measure::Reading;
use crate::status::{ChecksStatus, Status};

use record::Record;

/// Longest time between two looks at what the program measures: it keeps the greatest times of the
/// last second and a half.
const LOOK: Duration = Duration::from_secs(1);

/// Questions that may wait.
const ASKS_MAX: usize = 64;

/// Answers of agents that may wait; an agent whose answer finds no room is asked later.
const ANSWERS_MAX: usize = 256;

/// Results of checks that may wait; a check whose result finds no room is followed by the next one
/// later.
const CHECKED_MAX: usize = 256;

const STOPPING: &str = "the daemon is stopping";

/// A service whose ceilings are moved.
struct Service {
    id: ServiceId,
    name: Arc<str>,
    address: SocketAddr,
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
    answers: mpsc::Receiver<Answer>,
    agents: Agents,
    checked: mpsc::Receiver<Checked>,
    checks: Checks,
}

enum Ask {
    FillIn(Box<Status>, oneshot::Sender<Box<Status>>),
    Ceiling(CeilingOrder, oneshot::Sender<Result<CeilingDone>>),
    Backend(BackendOrder, oneshot::Sender<Result<BackendState>>),
    Configure(Arc<Config>, oneshot::Sender<Result<Roster>>),
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

    /// Drains, resumes or disables a back-end. Returns its state from now on.
    ///
    /// # Errors
    ///
    /// When there is no such back-end, or the daemon is stopping.
    pub async fn set_backend(&self, order: BackendOrder) -> Result<BackendState> {
        self.ask(|answer| Ask::Backend(order, answer)).await?
    }

    /// Makes the services and back-ends those of the configuration, at the admission thread and
    /// here. Returns who is there then.
    ///
    /// # Errors
    ///
    /// When there is no room for them, or the daemon is stopping; then nothing has changed.
    pub async fn configure(&self, config: Arc<Config>) -> Result<Roster> {
        self.ask(|answer| Ask::Configure(config, answer)).await?
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let asked = self.0.send(ask(answer)).await;
        asked.map_err(|_| anyhow!(STOPPING))?;
        answered.await.map_err(|_| anyhow!(STOPPING))
    }
}

/// Starts to move the ceilings of the configured services. `before` says who was there before the
/// configuration removed some.
pub async fn start(
    config: &Config,
    roster: &Roster,
    before: Option<&(Config, Roster)>,
    meters: Meters,
    engine: Handle,
) -> Desk {
    let (desk, asks) = mpsc::channel(ASKS_MAX);
    let (answered, answers) = mpsc::channel(ANSWERS_MAX);
    let (told, checked) = mpsc::channel(CHECKED_MAX);
    let mut governor = Governor {
        services: Vec::new(),
        meters,
        engine,
        asks,
        answers,
        agents: Agents::new(answered),
        checked,
        checks: Checks::new(told, CHECKS_MAX),
    };
    let now = clock::now();
    block_in_place(|| match before {
        Some((all, known)) => {
            governor.enroll(now, all, known, false);
            governor.enroll(now, config, roster, true)
        }
        None => governor.enroll(now, config, roster, false),
    });
    governor.agents.set(targets(config, roster)).await;
    governor.checks.set(to_check(config, roster)).await;
    tokio::spawn(governor.run());
    Desk(desk)
}

/// Each configured service with its number and its back-ends, of which those that are configured
/// come first.
fn configured<'a>(
    config: &'a Config,
    roster: &'a Roster,
) -> impl Iterator<
    Item = (
        &'a config::Service,
        &'a Enrolled<ServiceId>,
        &'a [Enrolled<BackendId>],
    ),
> {
    let enrolled = roster.services.iter().zip(&roster.backends);
    let services = config.services.iter().zip(enrolled);
    services.map(|(service, (enrolled, backends))| (service, enrolled, &**backends))
}

/// The agents of all back-ends that have one.
fn targets(config: &Config, roster: &Roster) -> Vec<AgentTarget> {
    let of_service = |(service, _, backends): (&config::Service, _, &[Enrolled<BackendId>])| {
        let backends = service.backends.iter().zip(backends);
        let targets = backends.filter_map(|(one, known)| AgentTarget::new(known.id, service, one));
        targets.collect::<Vec<_>>()
    };
    configured(config, roster).flat_map(of_service).collect()
}

/// All back-ends that are checked.
fn to_check(config: &Config, roster: &Roster) -> Vec<Target> {
    type Known<'a> = (
        &'a config::Service,
        &'a Enrolled<ServiceId>,
        &'a [Enrolled<BackendId>],
    );
    let of_service = |(service, enrolled, backends): Known<'_>| {
        let backends = service.backends.iter().zip(backends);
        let targets =
            backends.filter_map(|(one, known)| Target::new(enrolled.id, known.id, service, one));
        targets.collect::<Vec<_>>()
    };
    configured(config, roster).flat_map(of_service).collect()
}

impl Service {
    fn new(now: Time, enrolled: &Enrolled<ServiceId>, settings: &Settings) -> Self {
        Self {
            id: enrolled.id,
            name: Arc::clone(&enrolled.name),
            address: enrolled.address,
            policy: settings.policy.label(),
            interval: settings.interval,
            looked: now,
            due: now + settings.interval,
            backends: Vec::new(),
        }
    }

    /// Makes it what is configured of it. A shorter window ends sooner.
    fn update(&mut self, now: Time, enrolled: &Enrolled<ServiceId>, settings: &Settings) {
        self.name = Arc::clone(&enrolled.name);
        self.policy = settings.policy.label();
        self.interval = settings.interval;
        self.due = self.due.min(now + settings.interval);
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
                Some(answer) = self.answers.recv() => self.hear(answer).await,
                Some(checked) = self.checked.recv() => self.check(checked).await,
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
            let (name, records) = (&service.name, service.backends.iter_mut());
            let woken = records.filter_map(|record| record.handle_timeout(now, name));
            let woken: Vec<_> = woken.collect();
            if !woken.is_empty() {
                engine.adjust(woken).await?;
            }
            if service.due > now {
                block_in_place(|| service.look(now, meters));
                continue;
            }
            // What admission and the program measure should be of the same time.
            let window = engine.window(service.id).await?;
            block_in_place(|| service.look(clock::now(), meters));
            service.due = now + service.interval;
            let Some(window) = window else {
                // It was removed, and its last flow is gone.
                service.backends.clear();
                continue;
            };
            let there = |id| window.backends.iter().any(|one| one.id == id);
            service.backends.retain(|record| there(record.id()));
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
        services.retain(|service| !service.backends.is_empty());
        Ok(())
    }

    /// The admission thread changes first, and nothing is asked or told of it in between: numbers
    /// mean the same here and there.
    async fn configure(&mut self, config: Arc<Config>) -> Result<Roster> {
        let roster = self.engine.configure(Arc::clone(&config)).await?;
        let dropped = self.agents.set(targets(&config, &roster)).await;
        while let Ok(answer) = self.answers.try_recv() {
            if !dropped.contains(&answer.0) {
                self.hear(answer).await?;
            }
        }
        let dropped = self.checks.set(to_check(&config, &roster)).await;
        while let Ok(checked) = self.checked.try_recv() {
            if !dropped.contains(&checked.backend) {
                self.check(checked).await?;
            }
        }
        let adjustments = block_in_place(|| self.enroll(clock::now(), &config, &roster, true));
        self.engine.adjust(adjustments).await?;
        Ok(roster)
    }

    /// Takes up who is there. Returns what follows for those that stay.
    fn enroll(
        &mut self,
        now: Time,
        config: &Config,
        roster: &Roster,
        running: bool,
    ) -> Vec<Adjustment> {
        let mut adjustments = Vec::new();
        let known = std::mem::take(&mut self.services);
        let mut known: HashMap<_, _> = known.into_iter().map(|one| (one.id, one)).collect();
        // The number of one that is gone may be another's now.
        let mut take = |enrolled: &Enrolled<ServiceId>| {
            let found = known.remove(&enrolled.id);
            found.filter(|_| enrolled.since != Since::New)
        };
        for (settings, enrolled, backends) in configured(config, roster) {
            let mut service = match take(enrolled) {
                Some(mut service) => {
                    service.update(now, enrolled, &settings.ceiling);
                    service
                }
                None => Service::new(now, enrolled, &settings.ceiling),
            };
            let mut records: HashMap<_, _> = service
                .backends
                .drain(..)
                .map(|one| (one.id(), one))
                .collect();
            for (place, known) in backends.iter().enumerate() {
                let record = records.remove(&known.id);
                let configured = settings.backends.get(place);
                let record = match (record, configured, known.since) {
                    (Some(mut record), Some(backend), Since::Kept) => {
                        adjustments.push(record.update(now, backend, settings));
                        Some(record)
                    }
                    (Some(mut record), Some(backend), Since::Revived) => {
                        record.renew(now, backend, settings);
                        Some(record)
                    }
                    (Some(mut record), _, Since::Leaving) => {
                        record.leave(known);
                        Some(record)
                    }
                    (_, Some(backend), _) if running => {
                        // Nothing is counted of one that is new.
                        let nothing = Reading::default();
                        let mut new = Record::new(now, known.id, backend, settings, nothing);
                        new.come();
                        Some(new)
                    }
                    (_, Some(backend), _) => {
                        let reading = self.meters.read(known.id.0);
                        Some(Record::new(now, known.id, backend, settings, reading))
                    }
                    (_, None, _) => None,
                };
                service.backends.extend(record);
            }
            self.services.push(service);
        }
        let rest = roster.services.iter().zip(&roster.backends);
        for (enrolled, backends) in rest.skip(config.services.len()) {
            let Some(mut service) = take(enrolled) else {
                continue;
            };
            service.name = Arc::clone(&enrolled.name);
            for record in &mut service.backends {
                if let Some(known) = backends.iter().find(|one| one.id == record.id()) {
                    record.leave(known);
                }
            }
            self.services.push(service);
        }
        adjustments
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
            Ask::Backend(order, answer) => {
                let done = self.set_backend(order).await;
                let _ = answer.send(done);
            }
            Ask::Configure(config, answer) => {
                let done = self.configure(config).await;
                let _ = answer.send(done);
            }
        }
        Ok(())
    }

    /// Looks at every service, so that totals are of now.
    fn fill_in(&mut self, now: Time, status: &mut Status) {
        status.checks = ChecksStatus {
            running: self.checks.running() as u64,
            most: CHECKS_MAX as u64,
            waited: self.checks.waited(),
        };
        for service in &mut self.services {
            service.look(now, &self.meters);
            let mut told = status.services.iter_mut();
            let Some(told) = told.find(|told| told.address == service.address) else {
                continue;
            };
            for record in &mut service.backends {
                let mut told = told.backends.iter_mut();
                if let Some(told) = told.find(|told| told.address == record.address()) {
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
        let (policy, record) = self.find(&service, &backend)?;
        let adjustment = record.pin(clock::now(), &service, ceiling);
        let done = CeilingDone {
            ceiling: record.ceiling(),
            pinned: ceiling.is_some(),
            policy: policy.to_owned(),
            service,
            backend,
        };
        self.engine.adjust(vec![adjustment]).await?;
        Ok(done)
    }

    async fn set_backend(&mut self, order: BackendOrder) -> Result<BackendState> {
        let (_, record) = self.find(&order.service, &order.backend)?;
        let (adjustment, state) = record.order(clock::now(), &order.service, order.action)?;
        self.engine.adjust(vec![adjustment]).await?;
        Ok(state)
    }

    /// A back-end by its names, and the policy of its service.
    fn find(&mut self, service: &str, backend: &str) -> Result<(&'static str, &mut Record)> {
        let mut services = self.services.iter_mut();
        let of = services.find(|known| *known.name == *service);
        of.and_then(|of| {
            let mut records = of.backends.iter_mut();
            let record = records.find(|known| known.name() == backend)?;
            Some((of.policy, record))
        })
        .with_context(|| format!("no back-end {service}/{backend}"))
    }

    /// An agent was asked.
    async fn hear(&mut self, (backend, report): Answer) -> Result<()> {
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

    /// A back-end was checked.
    async fn check(&mut self, checked: Checked) -> Result<()> {
        let mut services = self.services.iter_mut();
        let Some(service) = services.find(|known| known.id == checked.service) else {
            return Ok(());
        };
        let mut records = service.backends.iter_mut();
        let Some(record) = records.find(|record| record.id() == checked.backend) else {
            return Ok(());
        };
        match record.check(clock::now(), &service.name, checked) {
            Some(adjustment) => self.engine.adjust(vec![adjustment]).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::admin::fake;

    #[test]
    fn who_asks_when_no_more_may_wait_waits_for_room() {
        let (desk, mut asks) = mpsc::channel(ASKS_MAX);
        let desk = Desk(desk);
        let mut questions: Vec<_> = (0..=ASKS_MAX)
            .map(|_| Box::pin(desk.fill_in(fake::status())))
            .collect();
        for question in &mut questions {
            assert!(question.now_or_never().is_none());
        }
        assert_eq!(asks.len(), ASKS_MAX);
        let Some(Ask::FillIn(status, answer)) = asks.recv().now_or_never().flatten() else {
            panic!("a question waits");
        };
        assert!(questions[ASKS_MAX].as_mut().now_or_never().is_none());
        assert_eq!(asks.len(), ASKS_MAX, "the last one has found its place");
        answer.send(status).unwrap();
        assert!(questions[0].as_mut().now_or_never().unwrap().is_ok());
    }
}
