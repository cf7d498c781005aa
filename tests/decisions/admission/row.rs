//! What is measured: kinds of decisions, and how much there is of what may make them dearer.

use core::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::stream::{POOLS, Pool, Size, Stream};

/// Near enough that none that waits is given up while it is measured, in the longest queue too.
const APART: Duration = Duration::from_micros(15);
/// Where requests are only refused or repeated: those that wait are the same ones all the time.
const APART_WAITING: Duration = Duration::from_micros(1);

const BACKENDS: [u32; 6] = [1, 4, 16, 64, 256, 1024];
const QUEUES: [u32; 5] = [1, 256, 4096, 16_384, 65_536];
const FLOWS: [u32; 5] = [1, 1024, 65_536, 262_144, 1_048_576];
/// Of what is not varied.
const TYPICAL: Size = Size {
    backends: 16,
    queue: 1024,
    flows: 2048,
    apart: APART,
};

/// What a run decides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody waits: a request is admitted; a connection ends.
    Admit,
    /// The queue is full: a connection ends, which releases a request; another begins to wait.
    Release,
    /// The queue is full: one of those that wait asks again.
    Repeat,
    /// The queue is full: another request is refused.
    Refuse,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit, end",
            Self::Release => "end and release, wait",
            Self::Repeat => "retransmission",
            Self::Refuse => "refuse",
        }
    }

    const fn decisions(self) -> u32 {
        match self {
            Self::Admit | Self::Release => 2,
            Self::Repeat | Self::Refuse => 1,
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Row {
    pub kind: Kind,
    pub pool: Pool,
    pub size: Size,
}

impl Row {
    const fn new(kind: Kind, size: Size) -> Self {
        let pool = POOLS[0];
        Self { kind, pool, size }
    }

    /// Every row, in the order in which they are printed.
    pub fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        let of_backends = BACKENDS.map(|backends| Size {
            backends,
            ..TYPICAL
        });
        let of_flows = FLOWS.map(|flows| Size {
            flows: flows.max(TYPICAL.backends),
            ..TYPICAL
        });
        let of_queue = QUEUES.map(|queue| Size { queue, ..TYPICAL });
        let waiting = QUEUES.map(|queue| Size {
            queue,
            apart: APART_WAITING,
            ..TYPICAL
        });
        let each = |kind, sizes: &[Size]| {
            let row = |size: &Size| Self::new(kind, *size);
            sizes.iter().map(row).collect::<Vec<_>>()
        };
        rows.extend(each(Kind::Admit, &of_backends));
        rows.extend(each(Kind::Admit, &of_flows));
        rows.extend(each(Kind::Release, &of_backends));
        rows.extend(each(Kind::Release, &of_queue));
        rows.extend(each(Kind::Release, &of_flows));
        rows.extend(each(Kind::Repeat, &waiting));
        rows.extend(each(Kind::Refuse, &waiting));
        for pool in &POOLS[1..] {
            for kind in [Kind::Admit, Kind::Release] {
                for size in [of_backends[0], of_backends[5]] {
                    rows.push(Self {
                        kind,
                        pool: *pool,
                        size,
                    });
                }
            }
        }
        rows
    }

    /// A few that stand for all and are quickly made, by the names of their counts in `costs.toml`.
    pub fn guarded() -> [(&'static str, Self); 7] {
        let quick = Size {
            apart: Duration::from_micros(250),
            ..TYPICAL
        };
        let many = Size {
            backends: 1024,
            ..quick
        };
        let by = |pool: usize| Self {
            kind: Kind::Release,
            pool: POOLS[pool],
            size: many,
        };
        [
            ("admit", Self::new(Kind::Admit, quick)),
            ("release", Self::new(Kind::Release, quick)),
            ("repeat", Self::new(Kind::Repeat, quick)),
            ("refuse", Self::new(Kind::Refuse, quick)),
            ("release_weighted_of_1024", by(1)),
            ("release_in_groups_of_1024", by(2)),
            ("release_by_connections_of_1024", by(3)),
        ]
    }

    /// What it is about, in words.
    pub fn label(&self) -> String {
        let Size {
            backends,
            queue,
            flows,
            ..
        } = self.size;
        let (kind, pool) = (self.kind.name(), self.pool.name);
        match self.kind {
            Kind::Admit => format!("{kind}; {pool}, {backends} back-ends, {flows} flows"),
            _ => format!("{kind}; {pool}, {backends} back-ends, {flows} flows, queue {queue}"),
        }
    }

    /// A service in the state that the row is about.
    pub fn prepare(&self) -> Prepared {
        let stream = match self.kind {
            Kind::Admit => Stream::flowing(self.pool, self.size),
            Kind::Release => Stream::turning_over(self.pool, self.size),
            Kind::Repeat | Kind::Refuse => Stream::full(self.pool, self.size),
        };
        Prepared {
            kind: self.kind,
            stream,
            steps: 0,
        }
    }
}

/// A row that is ready to run, and is in the same state after it.
pub struct Prepared {
    kind: Kind,
    stream: Stream,
    steps: u32,
}

impl Prepared {
    /// Runs so often. Returns how many decisions that were.
    #[inline(always)]
    pub fn run(&mut self, runs: u32) -> u32 {
        for _ in 0..runs {
            self.steps += 1;
            match self.kind {
                Kind::Admit => {
                    self.stream.request();
                    self.stream.end();
                }
                Kind::Release => {
                    self.stream.end();
                    self.stream.request();
                }
                Kind::Repeat => self.stream.repeat(self.steps),
                Kind::Refuse => self.stream.refused(),
            }
        }
        runs * self.kind.decisions()
    }

    /// As [`Self::run`]. callgrind finds it by its name.
    #[inline(never)]
    pub fn run_counted_decisions(&mut self, runs: u32) -> u32 {
        self.run(runs)
    }

    /// Nanoseconds a decision, of the processor: others may want it meanwhile.
    pub fn time(&mut self, runs: u32) -> f64 {
        let start = processor_time();
        let decisions = self.run(runs);
        (processor_time() - start).as_nanos() as f64 / f64::from(decisions)
    }

    /// Panics if it is not in the state any more that it is about.
    pub fn check(&self) {
        if self.kind != Kind::Admit {
            self.stream.assert_full();
        }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.expect("Linux has this clock").into()
}
