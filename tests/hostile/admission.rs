//! Histories of admission, a byte or two each step, beside the reference that looks at everything
//! each time: both say the same.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::Ipv4Addr;
use std::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_user::admission::{
    Admission, BackendId, BackendSettings, BackendView, Balance, Ceiling, Command, ConnectFailure,
    FloodSettings, FlowId, FlowState, FlowView, GroupId, InstallFailure, LINGER, Overflow,
    PROBE_RETRY, RECLAIM_AFTER, ServiceCounters, ServiceId, ServiceSettings, ServiceWindow,
    TRIED_FOR, Time,
};

// The tests of admission have the bench and the reference; they are theirs.
#[expect(dead_code, reason = "what only those tests ask")]
#[path = "../../dispatcher-user/src/admission/tests/bench.rs"]
mod bench;
#[expect(dead_code, reason = "what only those tests ask")]
#[path = "../../dispatcher-user/src/admission/tests/model.rs"]
mod model;
use bench::Bench;
use model::Model;

const CLIENTS: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
const PHASES: [Phase; 4] = [Phase(0x03), Phase(0x07), Phase(0x3f), Phase(0x43)];
/// Ceilings, and the group that each is in.
const BACKENDS: [(u32, Option<u32>); 3] = [(1, Some(0)), (2, None), (0, Some(0))];
const GROUPS: [u32; 1] = [1];

struct Twins {
    bench: Bench,
    model: Model,
    now: u64,
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
        Self {
            bench: Bench::grouped(flows, settings, &BACKENDS, &GROUPS),
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
        let Self { bench, model, now } = self;
        let now = *now;
        assert_eq!(bench.pass(now), model.pass(now), "as time passes to {now}");

        let client = CLIENTS[which % CLIENTS.len()];
        let flow = bench.flows.contains_key(&client);
        let (told, expected) = match what {
            0 | 1 => {
                let isn = 1 + u32::from(what);
                (
                    bench.syn_with(now, client, isn),
                    model.syn_with(now, client, isn),
                )
            }
            2 if flow => {
                let phase = PHASES[more as usize % PHASES.len()];
                (
                    bench.phase(now, client, phase),
                    model.phase(now, client, phase),
                )
            }
            3 if flow => {
                let seen = now.saturating_sub(more * 50);
                (
                    bench.activity(now, client, seen),
                    model.activity(now, client, seen),
                )
            }
            4 if flow => match more % 4 {
                1 => {
                    let phase = Phase::ANSWERED;
                    (
                        bench.phase(now, client, phase),
                        model.phase(now, client, phase),
                    )
                }
                2 => self.fail(client, ConnectFailure::Refused),
                3 => self.fail(client, ConnectFailure::Silent),
                _ => (bench.missing(now, client), model.missing(now, client)),
            },
            5 if which % 4 == 3 => {
                let ceiling = more as u32 % 4;
                let told = bench.set_group_ceiling(now, 0, ceiling);
                (told, model.set_group_ceiling(now, 0, ceiling))
            }
            5 => {
                let (backend, ceiling) = (which as u32 % 4, more as u32 % 4);
                let told = bench.set_ceiling(now, backend, ceiling);
                (told, model.set_ceiling(now, backend, ceiling))
            }
            _ => return self.check(),
        };
        assert_eq!(told, expected, "step {what} {which} {more} at {now}");
        self.check();
    }

    /// The client's SYN has failed, and who sent it on still has it.
    fn fail(&mut self, client: char, failure: ConnectFailure) -> (Vec<String>, Vec<String>) {
        let Self { bench, model, now } = self;
        let known = model.flows().iter().find(|flow| flow.client == client);
        let Some(isn) = known.map(|flow| flow.isn) else {
            return (vec![], vec![]);
        };
        let told = bench.failed_with(*now, client, failure, Some((client, isn)));
        (told, model.failed(*now, client, failure))
    }

    fn check(&self) {
        let Self { bench, model, .. } = self;
        let admission = &bench.admission;
        assert_eq!(bench.waiting(), model.waiting());
        assert!(!model.first_could_go() || model.is_table_full());
        assert_eq!(bench.counters(), model.counters);
        for (place, backend) in admission.backends().enumerate() {
            assert_eq!(backend.ceiling, model.ceiling(place));
            assert_eq!(backend.half_open + backend.active, model.held(place));
            assert_eq!(backend.silent, model.silent(place));
        }
        for (group, ceiling) in admission.groups().zip(model.groups()) {
            let held = model.group_held(group.id.0);
            assert_eq!((group.ceiling, group.held), (*ceiling, held));
        }
        let states = |flow: &model::ModelFlow| (flow.client, flow.state);
        let mut expected: Vec<_> = model.flows().iter().map(states).collect();
        let states = |flow: FlowView| (bench::client_of(&flow.key), flow.state);
        let mut flows: Vec<_> = admission.flows().map(states).collect();
        expected.sort_unstable();
        flows.sort_unstable();
        assert_eq!(flows, expected);
    }
}
