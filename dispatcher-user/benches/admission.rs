//! What a decision costs, with one and with 1024 back-ends, with an empty and a full queue, for
//! each way to balance. The aim is 300 ns, and no more with many back-ends or a full queue.
//!
//! A decision is one input (a SYN, or the end of a connection) with every command that follows from
//! it, the deadlines that are due, and the removal of the flow that has lingered. Where the state
//! is to stay the same, a run is two decisions. Rows are measured in turn, in rounds; the median
//! is printed with the least.

use std::time::Instant;

use core::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_user::admission::{
    Admission, BackendId, BackendSettings, BackendState, Balance, Ceiling, Command, FloodSettings,
    FlowId, GROUPS_PER_SERVICE_MAX, Overflow, ServiceId, ServiceSettings, Time,
};
use foldhash::quality::RandomState;

/// As large as what the daemon keeps of a SYN.
type Request = [u8; 120];

const BACKENDS: [u32; 2] = [1, 1024];
const QUEUE: u32 = 65_536;
const FLOWS: u32 = 262_144;
/// Between two requests. Near enough that none that waits is abandoned while it is measured.
const APART: Duration = Duration::from_micros(15);
const RESET: Phase = Phase(0x43);

const SETTINGS: ServiceSettings = ServiceSettings {
    queue_capacity: QUEUE,
    queue_timeout: Duration::from_secs(5),
    overflow: Overflow::Refuse,
    per_source: 0,
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(5),
    idle: Duration::from_secs(300),
    closing: Duration::from_secs(30),
    balance: Balance::RoundRobin,
    flood: FloodSettings::OFF,
};

/// A service's back-ends, and which of them takes a request.
#[derive(Clone, Copy)]
struct Pool {
    name: &'static str,
    balance: Balance,
    /// Greatest weight; a back-end has one of those up to it.
    weights: u32,
    /// Groups that the back-ends are spread over; never full.
    groups: u32,
}

const POOLS: [Pool; 6] = [
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
    const fn new(name: &'static str, balance: Balance) -> Self {
        Self {
            name,
            balance,
            weights: 1,
            groups: 0,
        }
    }
}

/// A service under a steady stream of requests, each from a client of its own.
struct Stream {
    admission: Admission<Request, RandomState>,
    service: ServiceId,
    clients: u32,
    now: Time,
    /// Flows in the order of their admission, and the next to end.
    admitted: Vec<FlowId>,
    next_to_end: usize,
}

impl Stream {
    fn new(pool: Pool, backends: u32, ceiling: u32) -> Self {
        let mut admission = Admission::new(FLOWS, RandomState::default());
        let settings = ServiceSettings {
            balance: pool.balance,
            ..SETTINGS
        };
        let service = admission.add_service(settings).expect("the first service");
        let groups: Vec<_> = (0..pool.groups)
            .map(|_| admission.add_group(u32::MAX).expect("few groups"))
            .collect();
        for number in 0..backends {
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
            clients: 0,
            now: Time::ZERO,
            admitted: Vec::new(),
            next_to_end: 0,
        }
    }

    /// With half of the slots taken, and as many flows that linger as do in a steady state.
    fn flowing(pool: Pool, backends: u32) -> Self {
        let mut stream = Self::new(pool, backends, 4096);
        for _ in 0..2048 {
            stream.request();
        }
        for _ in 0..70_000 {
            stream.request();
            stream.end();
        }
        stream
    }

    /// With every slot taken, and as many requests that wait as the queue holds.
    fn saturated(pool: Pool, backends: u32) -> Self {
        let mut stream = Self::new(pool, backends, 2048 / backends);
        for _ in 0..2048 + QUEUE {
            stream.request();
        }
        assert_eq!(stream.admission.queued_count(), QUEUE);
        stream
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
        self.now = self.now + APART;
        self.admission.handle_timeout(self.now);
        let (now, service) = (self.now, self.service);
        self.admission
            .handle_syn(now, service, Self::key(client), client, [0; 120]);
        self.carry_out();
    }

    fn request(&mut self) {
        self.clients += 1;
        self.syn(self.clients);
    }

    /// The connection that has lasted longest ends.
    fn end(&mut self) {
        let flow = self.admitted[self.next_to_end];
        self.next_to_end += 1;
        self.admission.handle_phase(self.now, flow, RESET);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(command) = self.admission.poll_command() {
            if let Command::Admit { flow, .. } = &std::hint::black_box(command) {
                self.admitted.push(*flow);
            }
        }
    }
}

/// Runs in a round of one row.
const RUNS: u32 = 2_000;
/// Rounds of all rows; odd, for the median.
const ROUNDS: usize = 151;
/// Times that a hash table is made anew; odd, for the median.
const REMAKES: usize = 101;

/// One line of the table.
struct Row {
    name: &'static str,
    pool: &'static str,
    backends: u32,
    /// Decisions in one run.
    decisions: u32,
    stream: Stream,
    run: fn(&mut Stream, u32),
    /// Nanoseconds a decision, by round.
    measured: Vec<f64>,
}

impl Row {
    fn measure(&mut self) {
        // What the flows' vector holds is only the bench's own.
        let start = Instant::now();
        for step in 0..RUNS {
            (self.run)(&mut self.stream, step);
        }
        let nanos = start.elapsed().as_nanos() as f64;
        self.measured.push(nanos / f64::from(RUNS * self.decisions));
    }
}

/// What changes with the way to balance: a back-end is picked, a slot is given back.
fn picking(pool: Pool, backends: u32) -> [Row; 2] {
    [
        Row {
            name: "empty queue: admit; a connection ends",
            pool: pool.name,
            backends,
            decisions: 2,
            stream: Stream::flowing(pool, backends),
            run: |stream, _| {
                stream.request();
                stream.end();
            },
            measured: Vec::new(),
        },
        Row {
            name: "full queue: an end releases; a request waits",
            pool: pool.name,
            backends,
            decisions: 2,
            stream: Stream::saturated(pool, backends),
            run: |stream, _| {
                stream.end();
                stream.request();
            },
            measured: Vec::new(),
        },
    ]
}

/// What does not.
fn queueing(backends: u32) -> [Row; 2] {
    [
        Row {
            name: "full queue: a retransmission",
            pool: POOLS[0].name,
            backends,
            decisions: 1,
            stream: Stream::saturated(POOLS[0], backends),
            run: |stream, step| {
                // An odd stride, so that memory is not walked in order.
                stream.syn(2049 + step.wrapping_mul(40_503) % QUEUE);
            },
            measured: Vec::new(),
        },
        Row {
            name: "full queue: a refusal",
            pool: POOLS[0].name,
            backends,
            decisions: 1,
            stream: Stream::saturated(POOLS[0], backends),
            run: |stream, _| stream.request(),
            measured: Vec::new(),
        },
    ]
}

/// The request for which the hash table is made anew, because a back-end went down or came up;
/// microseconds, the median and the least.
fn remake(backends: u32) -> (f64, f64) {
    let mut stream = Stream::new(
        Pool::new("source-hash", Balance::SourceHash),
        backends,
        4096,
    );
    let mut measured: Vec<_> = [BackendState::Down, BackendState::Up]
        .into_iter()
        .cycle()
        .take(REMAKES)
        .map(|state| {
            stream
                .admission
                .set_state(stream.now, BackendId(backends / 2), state);
            let start = Instant::now();
            stream.request();
            start.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    measured.sort_by(f64::total_cmp);
    (measured[REMAKES / 2], measured[0])
}

fn main() {
    let mut rows: Vec<Row> = Vec::new();
    for backends in BACKENDS {
        rows.extend(queueing(backends));
    }
    for pool in POOLS {
        for backends in BACKENDS {
            rows.extend(picking(pool, backends));
        }
    }
    for _ in 0..ROUNDS {
        rows.iter_mut().for_each(Row::measure);
    }
    println!(
        "{:<46} {:<22} {:>9} {:>8} {:>8}",
        "admission, ns a decision", "balance", "back-ends", "median", "least"
    );
    for row in &mut rows {
        row.measured.sort_by(f64::total_cmp);
        let (median, least) = (row.measured[ROUNDS / 2], row.measured[0]);
        println!(
            "{:<46} {:<22} {:>9} {median:>8.0} {least:>8.0}",
            row.name, row.pool, row.backends
        );
    }
    println!();
    for backends in [2, 40, 1024] {
        let (median, least) = remake(backends);
        println!(
            "{:<46} {backends:>32} {median:>5.0} us {least:>5.0} us",
            "hash table made anew"
        );
    }
}
