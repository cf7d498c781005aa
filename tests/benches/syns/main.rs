//! Connection requests a second through AF_XDP: admitted by the daemon, beside a bare echo of the
//! same frames, when as much is offered as the daemon can take, twice and four times that.
//!
//! Requests are made by a program in the kernel on one processor, which thereby pays for what the
//! receiving half of the driver does as well; the contender has the other one. So that machines
//! with other work on them can compare, what is told besides the rate is the processor time that
//! the contender used for a frame: their ratio is that of the rates, had each a processor alone.
//! Rounds of the contenders take turns; medians are printed.

mod echo;
mod programs;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_common::checksum;
use dispatcher_common::header::TcpFlags;
use dispatcher_tests::bpf::{self, MapKind, Mode};
use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::eventually;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::wire::Segment;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long requests are offered.
const ROUND: Duration = Duration::from_millis(1500);
/// Rounds of each contender at each rate; odd, for the median.
const ROUNDS: usize = 3;
/// Requests that are made by one call into the kernel; at a rate, those of this time.
const BURST: u32 = 4096;
const BURST_TIME: Duration = Duration::from_millis(2);
/// More than can be admitted in a round.
const FLOWS: u32 = 1 << 20;
const CEILING: u32 = 1 << 20;
/// Where requests are made, and where the contender runs.
const PROCESSORS: [usize; 2] = [0, 1];

/// What a round gave.
#[derive(Clone, Copy)]
struct Outcome {
    /// Frames a second.
    offered: f64,
    answered: f64,
    /// Processor time of the contender for each that it answered.
    nanos: f64,
}

fn main() {
    let lab = Topology::default().up().unwrap();
    let front = Sink::at(&lab, "front-port");
    let back = Sink::at(&lab, "back-port");
    let contenders: [(&str, Contender<'_>); 2] = [
        ("bare echo", &|rate| of_echo(&lab, &front, rate)),
        ("dispatcher", &|rate| of_daemon(&lab, &back, rate)),
    ];
    // As much as the daemon can take with a processor alone.
    let once = 1e9 / of_daemon(&lab, &back, None).nanos;
    let rates = [Some(once), Some(2.0 * once), Some(4.0 * once), None];
    let mut outcomes = vec![[const { Vec::new() }; 2]; rates.len()];
    for _ in 0..ROUNDS {
        for (rate, outcomes) in rates.iter().zip(&mut outcomes) {
            for ((_, contender), outcomes) in contenders.iter().zip(outcomes) {
                outcomes.push(contender(*rate));
            }
        }
    }
    println!("| contender | to be offered | offered a second | answered a second | ns a frame |");
    println!("|---|---|--:|--:|--:|");
    let mut best = [f64::MAX; 2];
    for (name, outcomes) in ["1x", "2x", "4x", "all that is made"].iter().zip(&outcomes) {
        for (place, (contender, _)) in contenders.iter().enumerate() {
            let of = |what: fn(&Outcome) -> f64| median(&outcomes[place], what);
            let nanos = of(|one| one.nanos);
            best[place] = best[place].min(nanos);
            println!(
                "| {contender} | {name} | {:.0} | {:.0} | {nanos:.0} |",
                of(|one| one.offered),
                of(|one| one.answered)
            );
        }
    }
    println!(
        "\ndispatcher / bare echo, each with a processor alone: {:.2}",
        best[0] / best[1]
    );
}

type Contender<'a> = &'a dyn Fn(Option<f64>) -> Outcome;

fn median(outcomes: &[Outcome], what: fn(&Outcome) -> f64) -> f64 {
    let mut all: Vec<_> = outcomes.iter().map(what).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Puts this thread, and what it starts, on a processor.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("few processors");
    sched_setaffinity(Pid::from_raw(0), &set).expect("the machine has two processors");
}

fn of_echo(lab: &Lab, sink: &Sink, rate: Option<f64>) -> Outcome {
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            pin(PROCESSORS[1]);
            lab.dispatcher()
                .enter(|| echo::run("front", &stop, &ready).unwrap())
        });
        eventually(PATIENCE, "the echo is there", || {
            ready.load(Ordering::Acquire) || echo.is_finished()
        });
        let round = offer(lab, sink, rate);
        stop.store(true, Ordering::Relaxed);
        round.outcome(echo.join().unwrap())
    })
}

fn of_daemon(lab: &Lab, sink: &Sink, rate: Option<f64>) -> Outcome {
    let mut config = Config::new(lab, Family::V4, CEILING);
    config.flow_capacity = FLOWS;
    let service = config.web();
    service.flood = "mode = \"off\"";
    service.connect_timeout = Some("1m");
    service.handshake_timeout = "1m";
    let start = || {
        pin(PROCESSORS[1]);
        Daemon::start(lab, &config).unwrap()
    };
    let daemon = thread::scope(|scope| scope.spawn(start).join().unwrap());
    let before = (
        daemon.processor_time().unwrap(),
        daemon.status().requests("admitted"),
    );
    let round = offer(lab, sink, rate);
    let used = daemon.processor_time().unwrap() - before.0;
    let admitted = daemon.status().requests("admitted") - before.1;
    daemon.status().assert_balanced();
    // A few are drawn twice, and the program sends on what repeats a request.
    assert!(
        (admitted..=admitted + admitted / 100 + 1).contains(&round.answered_at_last),
        "{} SYNs arrived, {admitted} were admitted",
        round.answered_at_last
    );
    daemon.finish().unwrap();
    round.outcome(used)
}

struct Round {
    time: Duration,
    offered: u64,
    answered: u64,
    /// Also those that were answered when no more were offered.
    answered_at_last: u64,
}

impl Round {
    fn outcome(&self, used: Duration) -> Outcome {
        let seconds = self.time.as_secs_f64();
        Outcome {
            offered: self.offered as f64 / seconds,
            answered: self.answered as f64 / seconds,
            nanos: used.as_nanos() as f64 / self.answered_at_last as f64,
        }
    }
}

/// Offers requests for a while, and waits until no more answers come.
fn offer(lab: &Lab, sink: &Sink, rate: Option<f64>) -> Round {
    let before = sink.count();
    let offered = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let (mut last, mut answered) = (before, 0);
    thread::scope(|scope| {
        let maker = scope.spawn(|| {
            pin(PROCESSORS[0]);
            lab.switch().enter(|| make(lab, rate, &offered));
        });
        maker.join().unwrap();
        answered = sink.count() - before;
    });
    let time = began.elapsed();
    eventually(PATIENCE, "all are answered", || {
        thread::sleep(Duration::from_millis(50));
        std::mem::replace(&mut last, sink.count()) == sink.count()
    });
    Round {
        time,
        offered: offered.load(Ordering::Relaxed),
        answered,
        answered_at_last: last - before,
    }
}

/// Makes requests on the wire of `front`, in the switch's namespace.
fn make(lab: &Lab, rate: Option<f64>, offered: &AtomicU64) {
    let device = if_nametoindex("front-port").unwrap();
    let program = programs::generator(device).unwrap();
    // One that is attached nowhere would be made known to the kernel's dispatcher of such programs
    // and taken back by each call, which waits for milliseconds. This device has no traffic.
    let _link = bpf::attach_xdp(&program, if_nametoindex("lo").unwrap(), Mode::Generic).unwrap();
    let frame = template(lab);
    let burst = rate.map_or(BURST, |rate| (rate * BURST_TIME.as_secs_f64()) as u32);
    let began = Instant::now();
    let mut made = 0;
    while began.elapsed() < ROUND {
        bpf::run_live(&program, &frame, burst).unwrap();
        made += u64::from(burst);
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(made as f64 / rate);
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
    offered.store(made, Ordering::Relaxed);
}

/// A request whose checksums are right, with the halves of the generator's numbers as complements.
fn template(lab: &Lab) -> Vec<u8> {
    const ID: usize = 18;
    const IP_CHECKSUM: usize = 24;
    // The network for benchmarks (RFC 2544).
    let source = "198.18.0.0:0".parse().expect("an address");
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut segment = Segment::new(source, service, TcpFlags::SYN, u32::MAX, 0);
    // MSS 1460, as a client would say.
    segment.options = vec![2, 4, 5, 180];
    let to = lab.dispatcher().mac("front").unwrap();
    let mut frame = segment.to_frame([2, 0, 0, 0, 0, 1], to);
    let delta = checksum::delta(&frame[ID..ID + 2], &[0xff; 2]);
    frame[ID..ID + 2].fill(0xff);
    let sum = [frame[IP_CHECKSUM], frame[IP_CHECKSUM + 1]];
    frame[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&checksum::update(sum, delta));
    frame
}

/// Counts TCP that comes to a port of the switch, and ends it there.
struct Sink {
    counter: OwnedFd,
    _link: OwnedFd,
}

impl Sink {
    fn at(lab: &Lab, port: &'static str) -> Self {
        // In the place of the program by which redirects arrive.
        let off = ["ip", "link", "set", "dev", port, "xdpdrv", "off"];
        lab.switch().run(&off).unwrap();
        let counter = bpf::create_map(MapKind::Array, 4, 8, 1).unwrap();
        let program = programs::sink(&counter).unwrap();
        let link = lab
            .switch()
            .enter(|| bpf::attach_xdp(&program, if_nametoindex(port).unwrap(), Mode::Native));
        Self {
            counter,
            _link: link.unwrap(),
        }
    }

    fn count(&self) -> u64 {
        // SAFETY: it was made as such an array.
        unsafe { bpf::number(self.counter.as_raw_fd()) }.unwrap()
    }
}
