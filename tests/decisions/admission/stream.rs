//! A service under a steady stream of requests, in simulated time.

use core::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_decisions::admission::{
    Admission, BackendId, BackendSettings, BackendState, Balance, Ceiling, Command, FloodSettings,
    FlowId, GROUPS_PER_SERVICE_MAX, LINGER, Overflow, ServiceId, ServiceSettings, Time,
};
use foldhash::quality::FixedState;

/// As large as what the daemon keeps of a SYN.
type Request = [u8; 120];

/// Longer than any row takes: no flow is asked about meanwhile.
const LONG: Duration = Duration::from_secs(3600);
/// The daemon's hashes begin with a random number; these with this one, so that counts of
/// instructions are the same in each run.
const SEED: u64 = 7;
const RESET: Phase = Phase::ANSWERED.with(Phase::ESTABLISHED).with(Phase::RESET);

/// How a service chooses among its back-ends, and what these are like.
#[derive(Clone, Copy)]
pub struct Pool {
    pub name: &'static str,
    pub balance: Balance,
    /// Greatest weight; a back-end has one of those up to it.
    weights: u32,
    /// Groups that the back-ends are spread over; never full.
    groups: u32,
}

pub const POOLS: [Pool; 6] = [
    Pool::new("round-robin", Balance::RoundRobin),
    Pool {
        weights: 4,
        ..Pool::new("round-robin, weighted", Balance::RoundRobin)
    },
    Pool {
        groups: GROUPS_PER_SERVICE_MAX,
        ..Pool::new("round-robin, 8 groups", Balance::RoundRobin)
    },
    Pool::new("least-connections", Balance::LeastConnections),
    Pool::new("least-response-time", Balance::LeastResponseTime),
    Pool::new("source-hash", Balance::SourceHash),
];

impl Pool {
    pub const fn new(name: &'static str, balance: Balance) -> Self {
        Self {
            name,
            balance,
            weights: 1,
            groups: 0,
        }
    }
}

/// How much of everything there is.
#[derive(Clone, Copy)]
pub struct Size {
    pub backends: u32,
    /// Requests that wait.
    pub queue: u32,
    /// Connections that live.
    pub flows: u32,
    /// Between two requests, each from a client of its own.
    pub apart: Duration,
}

/// The service, and what is under way.
pub struct Stream {
    admission: Admission<Request, FixedState>,
    service: ServiceId,
    size: Size,
    /// Those that were admitted or wait.
    clients: u32,
    /// Those that were refused.
    beyond: u32,
    now: Time,
    /// Flows in the order of their admission, and the next to end.
    admitted: Vec<FlowId>,
    next_to_end: usize,
}

impl Stream {
    /// Without requests. `ceiling` is a back-end's.
    pub fn new(pool: Pool, size: Size, ceiling: u32) -> Self {
        let lingering = (LINGER.as_nanos() / size.apart.as_nanos()) as u32;
        let hasher = FixedState::with_seed(SEED);
        let mut admission = Admission::new(size.flows + lingering + 1024, hasher);
        let settings = ServiceSettings {
            queue_capacity: size.queue,
            queue_timeout: LONG,
            overflow: Overflow::Refuse,
            per_source: 0,
            connect: LONG,
            handshake: LONG,
            idle: LONG,
            closing: LONG,
            balance: pool.balance,
            flood: FloodSettings::OFF,
        };
        let service = admission.add_service(settings).expect("the first service");
        let groups: Vec<_> = (0..pool.groups)
            .map(|_| admission.add_group(u32::MAX).expect("few groups"))
            .collect();
        for number in 0..size.backends {
            let backend = BackendSettings {
                addr: Addr::from_v4_bytes((0x0a00_0000 + number).to_be_bytes()),
                port: Port::new(8080),
                ceiling: Ceiling {
                    initial: ceiling,
                    min: 0,
                    max: ceiling,
                },
                capacity: u32::MAX,
                weight: 1 + number % pool.weights,
                group: groups.get(number as usize % groups.len().max(1)).copied(),
            };
            let id = admission
                .add_backend(Time::ZERO, service, backend)
                .expect("few back-ends");
            let response = Duration::from_micros(500 + u64::from(id.0 * 7919 % 1000));
            admission.set_response_time(id, Some(response));
        }
        Self {
            admission,
            service,
            size,
            clients: 0,
            beyond: 0,
            now: Time::ZERO,
            admitted: Vec::new(),
            next_to_end: 0,
        }
    }

    /// With slots to spare, and as many flows that linger as do in a steady state.
    pub fn flowing(pool: Pool, size: Size) -> Self {
        let mut stream = Self::new(pool, size, 2 * (size.flows / size.backends + 1));
        for _ in 0..size.flows {
            stream.request();
        }
        stream.linger();
        assert_eq!(stream.admission.queued_count(), 0);
        stream
    }

    /// With every slot taken, and as many requests that wait as the queue holds.
    pub fn full(pool: Pool, size: Size) -> Self {
        let mut stream = Self::new(pool, size, size.flows / size.backends);
        for _ in 0..size.flows + size.queue {
            stream.request();
        }
        stream.assert_full();
        stream
    }

    /// That, while connections end and requests take their places.
    pub fn turning_over(pool: Pool, size: Size) -> Self {
        let mut stream = Self::full(pool, size);
        stream.linger();
        stream.assert_full();
        stream
    }

    /// The queue is as full as it can be: neither of what is measured has changed that.
    pub fn assert_full(&self) {
        assert_eq!(self.admission.queued_count(), self.size.queue);
    }

    fn linger(&mut self) {
        let end = self.now + LINGER;
        while self.now < end {
            self.end();
            self.request();
        }
    }

    fn key(client: u32) -> FlowKey {
        let src = Addr::from_v4_bytes((client >> 8).to_be_bytes());
        let dst = Addr::from_v4_bytes([192, 0, 2, 10]);
        FlowKey::new(
            src,
            Port::new(1024 + (client & 0xff) as u16),
            dst,
            Port::new(80),
        )
    }

    fn syn(&mut self, client: u32) {
        self.now = self.now + self.size.apart;
        self.admission.handle_timeout(self.now);
        let (now, service) = (self.now, self.service);
        self.admission
            .handle_syn(now, service, Self::key(client), client, [0; 120]);
        self.carry_out();
    }

    /// The next client asks.
    pub fn request(&mut self) {
        self.clients += 1;
        self.syn(self.clients);
    }

    /// A client asks for which there is no room.
    pub fn refused(&mut self) {
        self.beyond += 1;
        self.syn(self.clients + self.beyond);
    }

    /// One of those that wait asks again; `step` says which, and steps that follow each other mean
    /// places that are far apart in memory.
    pub fn repeat(&mut self, step: u32) {
        let first = self.clients - self.size.queue + 1;
        self.syn(first + step.wrapping_mul(40_503) % self.size.queue);
    }

    /// The connection that has lasted longest ends.
    pub fn end(&mut self) {
        let flow = self.admitted[self.next_to_end];
        self.next_to_end += 1;
        self.admission.handle_phase(self.now, flow, RESET);
        self.carry_out();
    }

    /// A back-end goes down or comes up.
    pub fn set_state(&mut self, backend: u32, state: BackendState) {
        let now = self.now;
        self.admission.set_state(now, BackendId(backend), state);
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.admission.poll_command() {
            if let Command::Admit { flow, .. } = &std::hint::black_box(command) {
                self.admitted.push(*flow);
            }
        }
    }
}
