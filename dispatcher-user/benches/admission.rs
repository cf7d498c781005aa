//! What a decision costs, with one and with 1024 back-ends, with an empty and a full queue. The
//! aim is 300 ns, and no more with many back-ends or a full queue.
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
    Admission, BackendSettings, Balance, Ceiling, Command, FlowId, Overflow, ServiceId,
    ServiceSettings, Time,
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
    handshake: Duration::from_secs(5),
    idle: Duration::from_secs(300),
    closing: Duration::from_secs(30),
    balance: Balance::RoundRobin,
};

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
    fn new(settings: ServiceSettings, backends: u32, ceiling: u32) -> Self {
        let mut admission = Admission::new(FLOWS, RandomState::default());
        let service = admission.add_service(settings).expect("the first service");
        let backend = BackendSettings {
            addr: Addr::from_v4_bytes([10, 0, 0, 11]),
            port: Port::new(8080),
            ceiling: Ceiling {
                initial: ceiling,
                min: 0,
                max: ceiling,
            },
            capacity: u32::MAX,
            weight: 1,
            group: None,
        };
        for _ in 0..backends {
            admission
                .add_backend(Time::ZERO, service, backend)
                .expect("few back-ends");
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
    fn flowing(backends: u32) -> Self {
        let mut stream = Self::new(SETTINGS, backends, 4096);
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
    fn saturated(backends: u32) -> Self {
        let mut stream = Self::new(SETTINGS, backends, 2048 / backends);
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
const RUNS: u32 = 20_000;
/// Rounds of all rows; odd, for the median.
const ROUNDS: usize = 15;

/// One line of the table.
struct Row {
    name: &'static str,
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

fn rows(backends: u32) -> [Row; 4] {
    let row = |name, decisions, stream, run| Row {
        name,
        backends,
        decisions,
        stream,
        run,
        measured: Vec::new(),
    };
    [
        row(
            "empty queue: admit; a connection ends",
            2,
            Stream::flowing(backends),
            |stream, _| {
                stream.request();
                stream.end();
            },
        ),
        row(
            "full queue: an end releases; a request waits",
            2,
            Stream::saturated(backends),
            |s, _| {
                s.end();
                s.request();
            },
        ),
        row(
            "full queue: a retransmission",
            1,
            Stream::saturated(backends),
            |stream, step| {
                // An odd stride, so that memory is not walked in order.
                stream.syn(2049 + step.wrapping_mul(40_503) % QUEUE);
            },
        ),
        row(
            "full queue: a refusal",
            1,
            Stream::saturated(backends),
            |stream, _| {
                stream.request();
            },
        ),
    ]
}

fn main() {
    let mut rows: Vec<Row> = BACKENDS.into_iter().flat_map(rows).collect();
    for _ in 0..ROUNDS {
        rows.iter_mut().for_each(Row::measure);
    }
    println!(
        "{:<46} {:>9} {:>8} {:>8}",
        "admission, ns a decision", "back-ends", "median", "least"
    );
    for row in &mut rows {
        row.measured.sort_by(f64::total_cmp);
        let (median, least) = (row.measured[ROUNDS / 2], row.measured[0]);
        println!(
            "{:<46} {:>9} {median:>8.0} {least:>8.0}",
            row.name, row.backends
        );
    }
}
