//! What a decision costs: admitting, waiting, refusing, with few and many back-ends, with an empty
//! and a full queue. The aim is 300 ns, and no more with 1024 back-ends or a full queue.
//!
//! Each measured run is one whole request: its SYN, the commands that follow, and the end of an
//! earlier connection where the state is to stay the same.

use core::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_user::admission::{
    Admission, BackendSettings, Ceiling, Command, FlowId, Overflow, ServiceId, ServiceSettings,
    Time,
};
use divan::Bencher;
use foldhash::fast::RandomState;

/// As large as what the daemon keeps of a SYN.
type Request = [u8; 136];

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
};

fn main() {
    divan::main();
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
            .handle_syn(now, service, Self::key(client), client, [0; 136]);
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
            if let Command::Admit { flow, .. } = &divan::black_box(command) {
                self.admitted.push(*flow);
            }
        }
    }
}

/// A request, admitted at once; a connection ends, lingers, and is removed a second later.
#[divan::bench(args = BACKENDS, sample_size = 1000)]
fn admit(bencher: Bencher<'_, '_>, backends: u32) {
    let mut stream = Stream::new(SETTINGS, backends, 4096);
    for _ in 0..2048 {
        stream.request();
    }
    // Until as many linger as do in a steady state.
    for _ in 0..70_000 {
        stream.request();
        stream.end();
    }
    bencher.bench_local(|| {
        stream.request();
        stream.end();
    });
}

/// A connection ends and the longest waiting of 65 536 is released; a request joins the queue.
#[divan::bench(args = BACKENDS, sample_size = 1000)]
fn release_and_queue(bencher: Bencher<'_, '_>, backends: u32) {
    let mut stream = Stream::saturated(backends);
    bencher.bench_local(|| {
        stream.end();
        stream.request();
    });
}

/// A SYN that is seen again while 65 536 wait.
#[divan::bench(args = BACKENDS, sample_size = 1000)]
fn retransmission(bencher: Bencher<'_, '_>, backends: u32) {
    let mut stream = Stream::saturated(backends);
    let mut step = 0_u32;
    bencher.bench_local(|| {
        // An odd stride, so that memory is not walked in order.
        step = step.wrapping_add(40_503);
        stream.syn(2049 + step % QUEUE);
    });
}

/// A request that finds the queue full.
#[divan::bench(args = BACKENDS, sample_size = 1000)]
fn refuse(bencher: Bencher<'_, '_>, backends: u32) {
    let mut stream = Stream::saturated(backends);
    bencher.bench_local(|| stream.request());
}
