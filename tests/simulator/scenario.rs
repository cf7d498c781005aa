//! Scenarios: what clients want, what the servers can do, and when that changes.

use core::time::Duration;

use dispatcher_user::ceiling::Bounds;

use crate::server::Capacity;

/// Clients.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Load {
    /// Open loop, Poisson: requests a second, whatever became of the earlier ones.
    Steady(f64),
    /// Open loop: another rate from that second on.
    Step {
        /// At first.
        before: f64,
        /// From when on, in seconds.
        at: f64,
        /// Afterwards.
        after: f64,
    },
    /// Open loop: a high and a low rate, in turn, each for so many seconds.
    Bursts {
        /// High.
        high: f64,
        /// Low.
        low: f64,
        /// How long each lasts, in seconds.
        seconds: f64,
    },
    /// Open loop: a sine between two rates.
    Diurnal {
        /// Least.
        low: f64,
        /// Most.
        high: f64,
        /// Length of a day, in seconds.
        day: f64,
    },
    /// Closed loop: so many clients, each waits for its answer, thinks, and asks again.
    Closed {
        /// How many.
        clients: u32,
        /// Mean of the time that one thinks, in seconds.
        think: f64,
    },
}

impl Load {
    /// Requests a second at a time; of a closed loop, those that it would send if every answer
    /// came at once.
    #[must_use]
    pub fn rate(&self, seconds: f64) -> f64 {
        match *self {
            Self::Steady(rate) => rate,
            Self::Step { before, at, after } => {
                if seconds < at {
                    before
                } else {
                    after
                }
            }
            Self::Bursts {
                high,
                low,
                seconds: each,
            } => {
                if ((seconds / each) as u64).is_multiple_of(2) {
                    high
                } else {
                    low
                }
            }
            Self::Diurnal { low, high, day } => {
                let phase = core::f64::consts::TAU * seconds / day;
                low + (high - low) * (1.0 - phase.cos()) / 2.0
            }
            Self::Closed { clients, think } => f64::from(clients) / think,
        }
    }

    /// No rate is above.
    #[must_use]
    pub fn rate_max(&self) -> f64 {
        match *self {
            Self::Step { before, after, .. } => before.max(after),
            Self::Bursts { high, .. } | Self::Diurnal { high, .. } => high,
            Self::Steady(_) | Self::Closed { .. } => self.rate(0.0),
        }
    }
}

/// Another capacity, from a time on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Event {
    /// Which server.
    pub server: usize,
    /// When, in seconds.
    pub at: f64,
    /// What it can do from then on.
    pub capacity: Capacity,
}

/// Windows over which a policy is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// What it is.
    pub name: &'static str,
    /// The window in which it begins: the start, or a change.
    pub begins: usize,
    /// The window in which it ends.
    pub ends: usize,
}

/// What happens.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// As the command line has it.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// What clients do.
    pub load: Load,
    /// What the servers can do at first.
    pub servers: Vec<Capacity>,
    /// What changes.
    pub events: Vec<Event>,
    /// Every so many seconds, all servers stand still for so many.
    pub pauses: Option<(f64, f64)>,
    /// How long a window is: the operator's `interval`.
    pub window: Duration,
    /// Bounds of all ceilings.
    pub bounds: Bounds,
    /// All ceilings at first.
    pub initial: u32,
    /// What is judged.
    pub stretches: Vec<Stretch>,
}

/// How long a window is, unless a scenario says otherwise.
const WINDOW: Duration = Duration::from_secs(1);

/// Windows that a policy has for finding its ceiling, at the start or after a change.
pub const SETTLING_MAX: usize = 60;

/// Windows of a stretch.
const STRETCH: usize = SETTLING_MAX + 40;

const BOUNDS: Bounds = Bounds { min: 1, max: 255 };

/// Best at 14 requests; 219 requests a second. At 32 it serves 78 % of that, at 255 13 %.
const LAW: Capacity = law(40.0, 0.005);

/// Twenty processors, and memory for 60 requests.
const MEMORY: Capacity = Capacity::Memory {
    one: 12.0,
    processors: 20.0,
    resident: 60.0,
};

const fn law(one: f64, crosstalk: f64) -> Capacity {
    Capacity::Scalability {
        one,
        contention: 0.05,
        crosstalk,
    }
}

impl Scenario {
    /// How many windows it lasts.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.stretches
            .iter()
            .map(|stretch| stretch.ends)
            .max()
            .unwrap_or(0)
    }

    /// All of them, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let plain = |name, about, load, server| Self {
            name,
            about,
            load,
            servers: vec![server],
            events: Vec::new(),
            pauses: None,
            window: WINDOW,
            bounds: BOUNDS,
            initial: 32,
            stretches: vec![Stretch {
                name: "",
                begins: 0,
                ends: STRETCH,
            }],
        };
        let changing = |name, about, load, server, then: &[Capacity]| {
            let stretch = |index| Stretch {
                name: ["before", "after", "again"][index],
                begins: index * STRETCH,
                ends: (index + 1) * STRETCH,
            };
            Self {
                events: then
                    .iter()
                    .enumerate()
                    .map(|(index, &capacity)| Event {
                        server: 0,
                        at: ((index + 1) * STRETCH) as f64,
                        capacity,
                    })
                    .collect(),
                stretches: (0..=then.len()).map(stretch).collect(),
                ..plain(name, about, load, server)
            }
        };
        vec![
            Self {
                initial: 255,
                ..plain(
                    "overload",
                    "only `capacity = 256` was set; five times what the server can carry",
                    Load::Steady(1100.0),
                    LAW,
                )
            },
            Self {
                initial: 1,
                ..plain(
                    "from-one",
                    "twice what the server can carry, from a ceiling of 1",
                    Load::Steady(440.0),
                    LAW,
                )
            },
            plain(
                "light",
                "a third of what the server can carry",
                Load::Steady(75.0),
                LAW,
            ),
            plain(
                "closed",
                "300 clients that wait for their answer and think for half a second",
                Load::Closed {
                    clients: 300,
                    think: 0.5,
                },
                LAW,
            ),
            Self {
                initial: 255,
                ..plain(
                    "memory",
                    "a server that thrashes beyond 60 requests, offered twice what it can carry",
                    Load::Steady(480.0),
                    MEMORY,
                )
            },
            Self {
                initial: 8,
                ..plain(
                    "large",
                    "a server that is best at 99 requests, from a ceiling of 8",
                    Load::Steady(900.0),
                    Capacity::Scalability {
                        one: 12.0,
                        contention: 0.01,
                        crosstalk: 0.000_1,
                    },
                )
            },
            Self {
                window: Duration::from_secs(5),
                ..plain(
                    "sluggish",
                    "a server that serves 22 requests a second at best, in windows of 5 s",
                    Load::Steady(60.0),
                    Capacity::Scalability {
                        one: 6.0,
                        contention: 0.02,
                        crosstalk: 0.02,
                    },
                )
            },
            plain(
                "bursts",
                "20 s at twice what the server can carry, 20 s at a quarter",
                Load::Bursts {
                    high: 440.0,
                    low: 55.0,
                    seconds: 20.0,
                },
                LAW,
            ),
            plain(
                "diurnal",
                "days of 100 s between a tenth of what the server can carry and twice that",
                Load::Diurnal {
                    low: 22.0,
                    high: 440.0,
                    day: 100.0,
                },
                LAW,
            ),
            Self {
                stretches: vec![
                    Stretch {
                        name: "before",
                        begins: 0,
                        ends: STRETCH,
                    },
                    Stretch {
                        name: "after",
                        begins: STRETCH,
                        ends: 2 * STRETCH,
                    },
                ],
                ..plain(
                    "step",
                    "from half of what the server can carry to three times that",
                    Load::Step {
                        before: 110.0,
                        at: STRETCH as f64,
                        after: 660.0,
                    },
                    LAW,
                )
            },
            changing(
                "slower",
                "the server's speed halves",
                Load::Steady(440.0),
                LAW,
                &[law(20.0, 0.005)],
            ),
            changing(
                "crowded",
                "the server comes to be best at 5 requests instead of 14, and recovers",
                Load::Steady(440.0),
                LAW,
                &[law(40.0, 0.04), LAW],
            ),
            Self {
                stretches: vec![Stretch {
                    name: "",
                    begins: 0,
                    ends: 240,
                }],
                ..plain(
                    "leak",
                    "a leak takes the server's memory, from 60 requests to 20 in four minutes",
                    Load::Steady(480.0),
                    MEMORY,
                )
            }
            .leaking(60.0, 20.0),
            Self {
                pauses: Some((7.0, 0.4)),
                ..plain(
                    "pauses",
                    "the server stands still for 0.4 s every 7 s",
                    Load::Steady(440.0),
                    LAW,
                )
            },
            Self {
                servers: vec![LAW, law(10.0, 0.005), LAW],
                ..plain(
                    "slow-one",
                    "three servers, one of them four times slower than the others",
                    Load::Steady(900.0),
                    LAW,
                )
            },
            Self {
                events: vec![
                    Event {
                        server: 0,
                        at: 60.0,
                        capacity: Capacity::Broken,
                    },
                    Event {
                        server: 0,
                        at: 100.0,
                        capacity: LAW,
                    },
                ],
                stretches: vec![Stretch {
                    name: "after",
                    begins: 100,
                    ends: 100 + STRETCH,
                }],
                ..plain(
                    "timeout",
                    "for 40 s the server fails every request after exactly one second",
                    Load::Steady(440.0),
                    LAW,
                )
            },
        ]
    }

    /// The one of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all()
            .into_iter()
            .find(|scenario| scenario.name == name)
    }

    /// Memory shrinks evenly over the run, a little every second.
    fn leaking(mut self, from: f64, to: f64) -> Self {
        let seconds = self.windows();
        self.events = (0..seconds)
            .map(|second| {
                let part = second as f64 / seconds as f64;
                Event {
                    server: 0,
                    at: second as f64,
                    capacity: Capacity::Memory {
                        one: 12.0,
                        processors: 20.0,
                        resident: from + (to - from) * part,
                    },
                }
            })
            .collect();
        self
    }
}
