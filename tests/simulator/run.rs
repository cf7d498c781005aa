//! One run: discrete events in simulated time, through the real admission and the real controllers.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_user::admission::{
    Admission, BackendId, BackendSettings, Balance, Ceiling, Command, DiscardReason, FloodSettings,
    FlowId, Overflow, ServiceId, ServiceSettings, Time,
};
use dispatcher_user::ceiling::{Controller, Reason, Settings, Times, Window};
use foldhash::fast::FixedState;

use crate::random::Random;
use crate::scenario::{Load, Scenario};
use crate::server::Server;

/// From the SYN that leaves the dispatcher to the request at the server, and from the end of the
/// response to the end of the connection, in seconds.
const NETWORK: f64 = 0.000_5;

/// When a client repeats its SYN, in seconds after the first.
const RETRANSMISSIONS: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

const QUEUE: ServiceSettings = ServiceSettings {
    queue_capacity: 256,
    queue_timeout: Duration::from_secs(5),
    overflow: Overflow::Refuse,
    per_source: 0,
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(5),
    idle: Duration::from_secs(3600),
    closing: Duration::from_secs(30),
    balance: Balance::RoundRobin,
    flood: FloodSettings::OFF,
};

const FLOWS_MAX: u32 = 16_384;

/// What was seen in a window.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Requests that clients made, a second.
    pub offered: f64,
    /// Requests that were answered well, a second.
    pub served: f64,
    /// Requests that waited, averaged over time.
    pub queue: f64,
    /// Mean response time, in seconds; 0 without responses.
    pub response: f64,
    /// Its 99th percentile.
    pub p99: f64,
    /// Of each back-end.
    pub backends: Vec<BackendSample>,
}

/// What was seen of a back-end in a window.
#[derive(Clone, Debug)]
pub struct BackendSample {
    /// The ceiling that was in force.
    pub ceiling: u32,
    /// Connections, averaged over time.
    pub held: f64,
    /// What its controller said at the end of it.
    pub why: Reason,
}

/// What a controller said last, and what it suggests, of each back-end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Window by window.
    pub samples: Vec<Sample>,
    /// The controllers, as the run left them.
    pub controllers: Vec<Controller>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// A client of the open loop, or one that has thought, asks.
    Ask,
    /// A client repeats its SYN.
    Repeat(u32),
    /// A request is at its server.
    Start(u32),
    /// A server is done with a request, unless its number of changes is another by now.
    Finish(usize, u32),
    /// A connection has ended.
    End(u32),
    /// A server changes.
    Change(usize),
    /// All servers stand still, or work again.
    Stall(bool),
    /// A window is over.
    Window,
}

/// A request and its connection.
#[derive(Clone, Copy, Debug)]
struct Request {
    key: FlowKey,
    /// Waiting for a slot.
    waits: bool,
    backend: usize,
    flow: FlowId,
    started: f64,
}

#[derive(Debug)]
struct Backend {
    id: BackendId,
    server: Server,
    /// Which of its `Finish` events counts.
    version: u32,
    controller: Controller,
    meter: Meter,
}

/// What the clients' side tells of a window; the program in the kernel measures the same.
#[derive(Debug, Default)]
struct Meter {
    responses: Vec<f64>,
    served: u64,
}

struct Run<'a> {
    scenario: &'a Scenario,
    random: Random,
    admission: Admission<u32, FixedState>,
    service: ServiceId,
    backends: Vec<Backend>,
    requests: Vec<Request>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    now: f64,
    asked: u64,
    samples: Vec<Sample>,
}

/// Runs a scenario with a controller of these settings at each back-end.
#[must_use]
pub fn run(scenario: &Scenario, settings: &Settings, initial: u32, seed: u64) -> Outcome {
    let mut run = Run::new(scenario, settings, initial, seed);
    run.schedule_all();
    let end = Time(scenario.windows() as u64 * scenario.window.as_nanos() as u64);
    while let Some(Reverse((at, _, event))) = run.events.pop()
        && at <= end
    {
        run.pass(at);
        run.handle(at, event);
        run.carry_out(at);
    }
    Outcome {
        samples: run.samples,
        controllers: run
            .backends
            .into_iter()
            .map(|backend| backend.controller)
            .collect(),
    }
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, settings: &Settings, initial: u32, seed: u64) -> Self {
        let mut admission = Admission::new(FLOWS_MAX, FixedState::with_seed(seed));
        let service = admission
            .add_service(QUEUE)
            .expect("the first service fits");
        let bounds = scenario.bounds;
        let backend = |&capacity| {
            let settings_of_backend = BackendSettings {
                addr: Addr::from_v4_bytes([10, 0, 0, 11]),
                port: Port::new(8080),
                ceiling: Ceiling {
                    initial,
                    min: bounds.min,
                    max: bounds.max,
                },
                capacity: bounds.max + 1,
                weight: 1,
                group: None,
            };
            let id = admission
                .add_backend(Time::ZERO, service, settings_of_backend)
                .expect("a scenario has few servers");
            Backend {
                id,
                server: Server::new(capacity),
                version: 0,
                controller: Controller::new(settings, bounds, initial),
                meter: Meter::default(),
            }
        };
        Self {
            scenario,
            random: Random::new(seed),
            backends: scenario.servers.iter().map(backend).collect(),
            admission,
            service,
            requests: Vec::new(),
            events: BinaryHeap::new(),
            scheduled: 0,
            now: 0.0,
            asked: 0,
            samples: Vec::new(),
        }
    }

    fn schedule(&mut self, seconds: f64, event: Event) {
        self.scheduled += 1;
        let at = Time((seconds * 1e9) as u64);
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn schedule_all(&mut self) {
        for index in 0..self.scenario.events.len() {
            self.schedule(self.scenario.events[index].at, Event::Change(index));
        }
        if let Some((every, _)) = self.scenario.pauses {
            self.schedule(every, Event::Stall(true));
        }
        for window in 1..=self.scenario.windows() {
            self.schedule(
                window as f64 * self.scenario.window.as_secs_f64(),
                Event::Window,
            );
        }
        match self.scenario.load {
            Load::Closed { clients, .. } => {
                for _ in 0..clients {
                    self.think();
                }
            }
            Load::Steady(_) | Load::Step { .. } | Load::Bursts { .. } | Load::Diurnal { .. } => {
                self.arrive();
            }
        }
    }

    /// The next arrival of an open loop: as many as at the greatest rate, of which the rest is
    /// passed over.
    fn arrive(&mut self) {
        let load = self.scenario.load;
        let most = load.rate_max();
        let mut at = self.now;
        loop {
            at += self.random.exponential() / most;
            if self.random.unit() <= load.rate(at) / most {
                break;
            }
        }
        self.schedule(at, Event::Ask);
    }

    fn think(&mut self) {
        if let Load::Closed { think, .. } = self.scenario.load {
            let at = self.now + think * self.random.exponential();
            self.schedule(at, Event::Ask);
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.scenario.load, Load::Closed { .. })
    }

    /// Time passes; what admission has to do meanwhile, it does in time.
    fn pass(&mut self, until: Time) {
        while let Some(due) = self.admission.poll_timeout()
            && due <= until
        {
            self.admission.handle_timeout(due);
            self.carry_out(due);
        }
        self.now = until.0 as f64 / 1e9;
    }

    fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Ask => self.ask(now),
            Event::Repeat(request) => {
                let Request { key, waits, .. } = self.requests[request as usize];
                if waits {
                    self.admission
                        .handle_syn(now, self.service, key, 1, request);
                }
            }
            Event::Start(request) => {
                let Request { backend, flow, .. } = self.requests[request as usize];
                self.requests[request as usize].started = self.now;
                let established = Phase::ANSWERED.with(Phase::ESTABLISHED);
                self.admission.handle_phase(now, flow, established);
                let work = self.random.exponential();
                self.backends[backend].server.start(self.now, request, work);
                self.expect(backend);
            }
            Event::Finish(backend, version) => {
                if self.backends[backend].version == version {
                    self.finish(backend);
                }
            }
            Event::End(request) => {
                let flow = self.requests[request as usize].flow;
                self.admission.handle_phase(now, flow, ENDED);
            }
            Event::Change(index) => {
                let change = self.scenario.events[index];
                let server = &mut self.backends[change.server].server;
                server.set_capacity(self.now, change.capacity);
                self.expect(change.server);
            }
            Event::Stall(stalled) => {
                let (every, length) = self.scenario.pauses.unwrap_or_default();
                let until = if stalled { length } else { every - length };
                self.schedule(self.now + until, Event::Stall(!stalled));
                for index in 0..self.backends.len() {
                    self.backends[index].server.stall(self.now, stalled);
                    self.expect(index);
                }
            }
            Event::Window => self.close_window(now),
        }
    }

    fn ask(&mut self, now: Time) {
        let request = self.requests.len() as u32;
        let host = (request >> 14).to_be_bytes();
        let port = 1024 + (request & 0x3fff) as u16;
        let src = Addr::from_v4_bytes([10, 1 + host[1], host[2], host[3]]);
        let dst = Addr::from_v4_bytes([192, 0, 2, 10]);
        let key = FlowKey::new(src, Port::new(port), dst, Port::new(80));
        self.requests.push(Request {
            key,
            waits: true,
            backend: 0,
            flow: FlowId {
                index: 0,
                generation: 0,
            },
            started: 0.0,
        });
        self.asked += 1;
        self.admission
            .handle_syn(now, self.service, key, 1, request);
        self.carry_out(now);
        if self.requests[request as usize].waits {
            for after in RETRANSMISSIONS {
                self.schedule(self.now + after, Event::Repeat(request));
            }
        }
        if !self.is_closed() {
            self.arrive();
        }
    }

    /// Sets the time at which a server will be done next.
    fn expect(&mut self, index: usize) {
        let backend = &mut self.backends[index];
        backend.version = backend.version.wrapping_add(1);
        let (next, version) = (backend.server.next(), backend.version);
        if let Some(at) = next {
            self.schedule(at, Event::Finish(index, version));
        }
    }

    fn finish(&mut self, index: usize) {
        let backend = &mut self.backends[index];
        let works = backend.server.capacity().works();
        if let Some(request) = backend.server.finish(self.now) {
            let took = self.now - self.requests[request as usize].started;
            backend.meter.responses.push(took);
            backend.meter.served += u64::from(works);
            self.schedule(self.now + NETWORK, Event::End(request));
            self.think();
        }
        self.expect(index);
    }

    fn carry_out(&mut self, now: Time) {
        while let Some(command) = self.admission.poll_command() {
            match command {
                Command::Admit {
                    flow,
                    backend,
                    request,
                    ..
                } => self.admit(flow, backend, request),
                Command::Refuse { request, .. } => self.give_up(request),
                Command::Discard {
                    request, reason, ..
                } => {
                    if reason != DiscardReason::Retransmission {
                        self.give_up(request);
                    }
                }
                Command::Probe { flow, .. } => self.admission.handle_activity(now, flow, now),
                // Servers here answer every SYN.
                Command::Unanswered { flow, .. } => {
                    self.admission.handle_phase(now, flow, Phase::ANSWERED);
                }
                Command::Remove { .. } => {}
            }
        }
    }

    fn admit(&mut self, flow: FlowId, id: BackendId, request: u32) {
        let Some(index) = self.backends.iter().position(|backend| backend.id == id) else {
            return;
        };
        let admitted = &mut self.requests[request as usize];
        admitted.waits = false;
        admitted.backend = index;
        admitted.flow = flow;
        self.schedule(self.now + NETWORK, Event::Start(request));
    }

    fn give_up(&mut self, request: u32) {
        self.requests[request as usize].waits = false;
        self.think();
    }

    fn close_window(&mut self, now: Time) {
        let Some(measured) = self.admission.take_window(now, self.service) else {
            return;
        };
        let seconds = measured.length.as_secs_f64();
        let mut responses = Vec::new();
        let mut served = 0;
        let mut samples = Vec::new();
        for (backend, seen) in self.backends.iter_mut().zip(&measured.backends) {
            let mut meter = core::mem::take(&mut backend.meter);
            served += meter.served;
            responses.extend_from_slice(&meter.responses);
            let window = Window {
                length: measured.length,
                held_mean: seen.held_mean,
                held_max: seen.held_max,
                reached: seen.reached,
                queue_mean: measured.queue_mean,
                admitted: seen.admitted,
                ended: seen.ended,
                unanswered: seen.failed,
                response: times(&mut meter.responses),
                ..Window::default()
            };
            let ceiling = backend.controller.ceiling();
            let decision = backend.controller.decide(&window);
            self.admission.set_ceiling(now, seen.id, decision.ceiling);
            samples.push(BackendSample {
                ceiling,
                held: seen.held_mean,
                why: decision.why,
            });
        }
        let all = times(&mut responses);
        self.samples.push(Sample {
            offered: self.asked as f64 / seconds,
            served: served as f64 / seconds,
            queue: measured.queue_mean,
            response: all.mean.as_secs_f64(),
            p99: all.p99.as_secs_f64(),
            backends: samples,
        });
        self.asked = 0;
    }
}

/// Both sides have closed, and all is acknowledged.
const ENDED: Phase = Phase(
    Phase::ANSWERED.0
        | Phase::ESTABLISHED.0
        | Phase::CLIENT_FIN.0
        | Phase::BACKEND_FIN.0
        | Phase::CLIENT_FIN_ACKED.0
        | Phase::BACKEND_FIN_ACKED.0,
);

/// The figures of response times in seconds; sorts them.
fn times(seconds: &mut [f64]) -> Times {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        let index = (seconds.len() as f64 * part) as usize;
        let value = seconds.get(index.min(seconds.len().saturating_sub(1)));
        Duration::from_secs_f64(value.copied().unwrap_or_default())
    };
    let sum: f64 = seconds.iter().sum();
    Times {
        count: seconds.len() as u64,
        mean: Duration::from_secs_f64(sum / (seconds.len() as f64).max(1.0)),
        p50: at(0.5),
        p99: at(0.99),
        max: at(1.0),
    }
}
