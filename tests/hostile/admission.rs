//! Histories of admission, a byte or two each step, beside the reference that looks at everything
//! each time: both say the same.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_user::admission::{
    Admission, BackendId, BackendSettings, Balance, Ceiling, Command, ConnectFailure,
    FloodSettings, FlowId, FlowState, GroupId, LINGER, Overflow, PROBE_RETRY, RECLAIM_AFTER,
    ServiceCounters, ServiceId, ServiceSettings, TRIED_FOR, Time,
};

// The tests of admission have the reference; it is theirs.
#[expect(
    dead_code,
    reason = "what a window is and who refuses, only those tests ask"
)]
#[path = "../../dispatcher-user/src/admission/tests/model.rs"]
mod model;
use model::Model;

/// A request as it is told of: a client's letter and its initial sequence number.
type Ask = (char, u32);

const CLIENTS: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
const PHASES: [Phase; 4] = [Phase(0x03), Phase(0x07), Phase(0x3f), Phase(0x43)];
/// Ceilings, and the group that each is in.
const BACKENDS: [(u32, Option<u32>); 3] = [(1, Some(0)), (2, None), (0, Some(0))];
const GROUPS: [u32; 1] = [1];

struct Twins {
    admission: Admission<Ask, BuildHasherDefault<DefaultHasher>>,
    service: ServiceId,
    flows: BTreeMap<char, FlowId>,
    model: Model,
    now: u64,
}

const fn time(milliseconds: u64) -> Time {
    Time(milliseconds * 1_000_000)
}

fn key(client: char) -> FlowKey {
    let src = Addr::from_v4_bytes([198, 51, 100, client as u8]);
    let dst = Addr::from_v4_bytes([192, 0, 2, 10]);
    FlowKey::new(src, Port::new(40_000), dst, Port::new(80))
}

/// Steps: the low three bits of a byte say what, the rest which.
pub fn histories(bytes: &[u8]) {
    let [flows, queue, rest @ ..] = bytes else {
        return;
    };
    let mut twins = Twins::new(1 + u32::from(flows % 12), u32::from(queue % 6));
    let mut bytes = rest.iter().copied();
    while let Some(step) = bytes.next() {
        let more = u64::from(bytes.next().unwrap_or(0));
        twins.step(step & 7, usize::from(step >> 3), more);
    }
}

impl Twins {
    fn new(flows: u32, queue_capacity: u32) -> Self {
        // Times of which no small sums meet, so that each timer has a moment of its own.
        let settings = ServiceSettings {
            queue_capacity,
            queue_timeout: Duration::from_millis(5003),
            overflow: Overflow::Refuse,
            per_source: 0,
            connect: Duration::from_millis(4007),
            handshake: Duration::from_millis(4007),
            idle: Duration::from_millis(9011),
            closing: Duration::from_millis(2003),
            balance: Balance::RoundRobin,
            flood: FloodSettings::OFF,
        };
        let mut admission = Admission::new(flows, BuildHasherDefault::default());
        for ceiling in GROUPS {
            admission.add_group(ceiling).expect("there is room");
        }
        let service = admission.add_service(settings).expect("the first");
        for (initial, group) in BACKENDS {
            let backend = BackendSettings {
                addr: Addr::from_v4_bytes([10, 0, 0, 11]),
                port: Port::new(8080),
                ceiling: Ceiling {
                    initial,
                    min: 0,
                    max: 100,
                },
                capacity: 1000,
                weight: 1,
                group: group.map(GroupId),
            };
            let added = admission.add_backend(Time::ZERO, service, backend);
            added.expect("there is room");
        }
        Self {
            admission,
            service,
            flows: BTreeMap::new(),
            model: Model::new(flows, settings, &BACKENDS, &GROUPS),
            now: 0,
        }
    }

    fn step(&mut self, what: u8, which: usize, more: u64) {
        self.now += match what {
            6 => 1 + 30 * more,
            7 => self.model.next_due().map_or(1, |(due, _)| due - self.now),
            _ => 1,
        };
        let now = self.now;
        while let Some(due) = self.admission.poll_timeout()
            && due <= time(now)
        {
            self.admission.handle_timeout(due);
        }
        let expected = self.model.pass(now);
        assert_eq!(self.commands(), expected, "as time passes to {now}");

        let client = CLIENTS[which % CLIENTS.len()];
        let flow = self.flows.get(&client).copied();
        let expected = match (what, flow) {
            (0 | 1, _) => {
                let isn = 1 + u32::from(what);
                let ask = (client, isn);
                self.admission
                    .handle_syn(time(now), self.service, key(client), isn, ask);
                self.model.syn_with(now, client, isn)
            }
            (2, Some(flow)) => {
                let phase = PHASES[more as usize % PHASES.len()];
                self.admission.handle_phase(time(now), flow, phase);
                self.model.phase(now, client, phase)
            }
            (3, Some(flow)) => {
                let seen = now.saturating_sub(more * 50);
                self.admission.handle_activity(time(now), flow, time(seen));
                self.model.activity(now, client, seen)
            }
            (4, Some(flow)) => {
                self.admission.handle_missing(time(now), flow);
                self.model.missing(now, client)
            }
            (5, _) if which % 4 == 3 => {
                let ceiling = more as u32 % 4;
                self.admission
                    .set_group_ceiling(time(now), GroupId(0), ceiling);
                self.model.set_group_ceiling(now, 0, ceiling)
            }
            (5, _) => {
                let (backend, ceiling) = (which as u32 % 4, more as u32 % 4);
                self.admission
                    .set_ceiling(time(now), BackendId(backend), ceiling);
                self.model.set_ceiling(now, backend, ceiling)
            }
            _ => Vec::new(),
        };
        assert_eq!(
            self.commands(),
            expected,
            "step {what} {which} {more} at {now}"
        );
        self.check();
    }

    fn check(&self) {
        let Self {
            admission, model, ..
        } = self;
        let queue = admission.queue(self.service);
        let waiting: String = queue.map(|queued| queued.request.0).collect();
        assert_eq!(waiting, model.waiting());
        assert!(waiting.is_empty() || !model.any_available() || model.is_table_full());
        let service = admission.service(self.service).expect("it stays");
        assert_eq!(service.counters, model.counters);
        for (place, backend) in admission.backends().enumerate() {
            assert_eq!(backend.ceiling, model.ceiling(place));
            assert_eq!(backend.half_open + backend.active, model.held(place));
        }
        for (group, ceiling) in admission.groups().zip(model.groups()) {
            let held = model.group_held(group.id.0);
            assert_eq!((group.ceiling, group.held), (*ceiling, held));
        }
        let states = |flow: &model::ModelFlow| (flow.client, flow.state);
        let mut expected: Vec<_> = model.flows().iter().map(states).collect();
        let states = |flow: dispatcher_user::admission::FlowView| {
            (char::from(flow.key.src.v4_bytes()[3]), flow.state)
        };
        let mut flows: Vec<_> = admission.flows().map(states).collect();
        expected.sort_unstable();
        flows.sort_unstable();
        assert_eq!(flows, expected);
    }

    /// All commands, as sentences.
    fn commands(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(command) = self.admission.poll_command() {
            told.push(match command {
                Command::Admit {
                    flow,
                    backend,
                    request: (client, isn),
                    waited,
                    ..
                } => {
                    self.flows.insert(client, flow);
                    let after = |waited: Duration| format!(" after {} ms", waited.as_millis());
                    let waited = waited.map_or(String::new(), after);
                    format!("admit {client}{isn} to {}{waited}", backend.0)
                }
                Command::Refuse {
                    request: (client, isn),
                    reason,
                    ..
                } => format!("refuse {client}{isn}: {reason:?}"),
                Command::Discard {
                    request: (client, isn),
                    reason,
                    ..
                } => format!("discard {client}{isn}: {reason:?}"),
                Command::Remove {
                    key,
                    backend,
                    reason,
                    ..
                } => {
                    let client = char::from(key.src.v4_bytes()[3]);
                    format!("remove {client} from {}: {reason:?}", backend.0)
                }
                Command::Probe { key, .. } => {
                    format!("probe {}", char::from(key.src.v4_bytes()[3]))
                }
                Command::Unanswered { key, backend, .. } => {
                    let client = char::from(key.src.v4_bytes()[3]);
                    format!("no answer to {client} from {}", backend.0)
                }
            });
        }
        told
    }
}
