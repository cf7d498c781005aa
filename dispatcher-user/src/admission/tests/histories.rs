//! Histories against the reference: all short ones, and long ones at random. After every step both
//! have given the same commands, count the same, and keep what always holds.

use proptest::prelude::*;

use super::model::Model;
use super::*;

/// Times of which no small sums meet, so that each timer has a moment of its own.
const TIMES: ServiceSettings = ServiceSettings {
    queue_capacity: 2,
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Syn(char, u32),
    Phase(char, Phase),
    Activity(char, u64),
    Missing(char),
    Failed(char, ConnectFailure),
    Ceiling(u32, u32),
    GroupCeiling(u32, u32),
    Window,
    PassToNext,
    Pass(u64),
}

/// The state machine and its reference, side by side.
#[derive(Clone)]
struct Twins {
    bench: Bench,
    model: Model,
    now: u64,
    highest_ceiling: Vec<u32>,
    window_begun: u64,
    /// Back-ends refuse, or do not answer.
    with_failures: bool,
}

impl Twins {
    fn new(
        flows: u32,
        settings: ServiceSettings,
        backends: &[(u32, Option<u32>)],
        groups: &[u32],
    ) -> Self {
        Self {
            bench: Bench::grouped(flows, settings, backends, groups),
            model: Model::new(flows, settings, backends, groups),
            now: 0,
            highest_ceiling: backends.iter().map(|(ceiling, _)| *ceiling).collect(),
            window_begun: 0,
            with_failures: false,
        }
    }

    fn with_failures(self) -> Self {
        Self {
            with_failures: true,
            ..self
        }
    }

    fn step(&mut self, step: Step) {
        let passed = match step {
            Step::PassToNext => self.model.next_due().map_or(0, |(due, _)| due - self.now),
            Step::Pass(time) => time,
            _ => 1,
        };
        self.now += passed;
        let now = self.now;
        let before = (self.bench.pass(now), self.model.pass(now));
        assert_eq!(before.0, before.1, "as time passes to {now}");
        let (told, expected) = match step {
            Step::Syn(client, isn) => (
                self.bench.syn_with(now, client, isn),
                self.model.syn_with(now, client, isn),
            ),
            Step::Phase(client, phase) if self.bench.flows.contains_key(&client) => (
                self.bench.phase(now, client, phase),
                self.model.phase(now, client, phase),
            ),
            Step::Activity(client, ago) if self.bench.flows.contains_key(&client) => {
                let last_seen = now.saturating_sub(ago);
                (
                    self.bench.activity(now, client, last_seen),
                    self.model.activity(now, client, last_seen),
                )
            }
            Step::Missing(client) if self.bench.flows.contains_key(&client) => (
                self.bench.missing(now, client),
                self.model.missing(now, client),
            ),
            Step::Failed(client, failure) => {
                let known = self.model.flows().iter().find(|flow| flow.client == client);
                match known.map(|flow| flow.isn) {
                    Some(isn) => (
                        self.bench
                            .failed_with(now, client, failure, Some((client, isn))),
                        self.model.failed(now, client, failure),
                    ),
                    None => (vec![], vec![]),
                }
            }
            Step::Ceiling(backend, ceiling) => {
                let highest = &mut self.highest_ceiling[backend as usize];
                *highest = ceiling.max(*highest);
                let told = self.bench.set_ceiling(now, backend, ceiling);
                (told, self.model.set_ceiling(now, backend, ceiling))
            }
            Step::GroupCeiling(group, ceiling) => (
                self.bench.set_group_ceiling(now, group, ceiling),
                self.model.set_group_ceiling(now, group, ceiling),
            ),
            Step::Window => {
                self.check_window();
                (vec![], vec![])
            }
            Step::Phase(..)
            | Step::Activity(..)
            | Step::Missing(_)
            | Step::PassToNext
            | Step::Pass(_) => (vec![], vec![]),
        };
        assert_eq!(told, expected, "{step:?} at {now}");
        self.check();
    }

    fn check_window(&mut self) {
        let length = self.now - self.window_begun;
        self.window_begun = self.now;
        let told = self.bench.window(self.now);
        let measured = self.model.window(self.now);
        let (queue_mean, queue_max) = measured.queue;
        let equal = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert_eq!(told.length, Duration::from_millis(length));
        assert!(equal(told.queue_mean, queue_mean), "{told:?}");
        assert_eq!(told.queue_max, queue_max);
        for (told, (held_mean, held_max, reached)) in told.backends.iter().zip(measured.backends) {
            assert!(equal(told.held_mean, held_mean), "{told:?}: {held_mean}");
            assert_eq!((told.held_max, told.reached), (held_max, reached));
        }
    }

    fn check(&self) {
        let Self { bench, model, .. } = self;
        let waiting = bench.waiting();
        assert_eq!(waiting, model.waiting());
        let counters = bench.counters();
        assert_eq!(counters, model.counters);
        let accounted =
            counters.admitted + counters.refused + counters.expired + counters.abandoned;
        assert_eq!(counters.received, accounted + waiting.len() as u64);
        assert!(!model.first_could_go() || model.is_table_full());
        for (backend, &highest) in self.highest_ceiling.iter().enumerate() {
            let view = bench.backend(backend as u32);
            assert_eq!(view.ceiling, model.ceiling(backend));
            assert_eq!(view.half_open + view.active, model.held(backend));
            assert_eq!(view.silent, model.silent(backend));
            assert!(view.active_max <= highest);
        }
        let groups: Vec<_> = bench.admission.groups().collect();
        assert_eq!(groups.len(), model.groups().len());
        for (view, &ceiling) in groups.iter().zip(model.groups()) {
            assert_eq!(view.ceiling, ceiling);
            assert_eq!(view.held, model.group_held(view.id.0));
        }
        assert_eq!(bench.admission.flow_count() as usize, model.flows().len());
        let sighted = bench.admission.poll_timeout();
        assert!(sighted <= model.next_due().map(|(due, _)| ms(due)));
        assert_eq!(sighted.is_some(), model.next_due().is_some());
    }

    /// What may happen next, but nothing that would plainly change nothing. A client that has not
    /// been there yet is as good as any other.
    fn possible(&self, clients: &[(char, u32)]) -> Vec<Step> {
        let mut steps = vec![Step::PassToNext];
        for &(client, isn) in clients {
            steps.extend([Step::Syn(client, isn), Step::Syn(client, isn + 1)]);
        }
        if let Some(newcomer) = "abcd".chars().nth(clients.len()) {
            steps.push(Step::Syn(newcomer, 1));
        }
        for flow in self.model.flows() {
            match flow.state {
                FlowState::HalfOpen => {
                    steps.extend([
                        Step::Phase(flow.client, ESTABLISHED),
                        Step::Phase(flow.client, RESET),
                    ]);
                    if self.with_failures {
                        let failures = [ConnectFailure::Refused, ConnectFailure::Silent];
                        steps.extend(failures.map(|how| Step::Failed(flow.client, how)));
                        steps.push(Step::Phase(flow.client, Phase::ANSWERED));
                    }
                }
                FlowState::Established => steps.push(Step::Phase(flow.client, CLOSING)),
                FlowState::Closing => steps.push(Step::Phase(flow.client, ENDED)),
                FlowState::Lingering => {}
            }
        }
        for backend in 0..2 {
            let others = (0..=2).filter(|&c| c != self.model.ceiling(backend));
            steps.extend(others.map(|ceiling| Step::Ceiling(backend as u32, ceiling)));
        }
        for (group, &ceiling) in (0..).zip(self.model.groups()) {
            let others = (0..=2).filter(|&other| other != ceiling);
            steps.extend(others.map(|ceiling| Step::GroupCeiling(group, ceiling)));
        }
        steps
    }

    /// All histories of `depth` more steps; tells how many there are.
    fn explore(&self, depth: u32, clients: &[(char, u32)]) -> u64 {
        if depth == 0 {
            self.clone().step(Step::Window);
            return 1;
        }
        let mut histories = 0;
        for step in self.possible(clients) {
            let mut next = self.clone();
            next.step(step);
            let mut clients = clients.to_vec();
            if let Step::Syn(client, isn) = step {
                clients.retain(|(known, _)| *known != client);
                clients.push((client, isn));
                clients.sort_unstable();
            }
            histories += next.explore(depth - 1, &clients);
        }
        histories
    }
}

#[test]
fn all_short_histories_are_as_the_reference_has_them() {
    let histories = Twins::new(64, TIMES, &[(1, None), (1, None)], &[]).explore(6, &[]);
    assert!(histories > 100_000, "only {histories} histories");
}

#[test]
fn all_short_histories_with_a_small_flow_table_are_as_the_reference_has_them() {
    let silent = ServiceSettings {
        overflow: Overflow::Drop,
        queue_capacity: 1,
        ..TIMES
    };
    let histories = Twins::new(1, silent, &[(2, None), (0, None)], &[]).explore(5, &[]);
    assert!(histories > 20_000, "only {histories} histories");
}

#[test]
fn all_short_histories_under_a_group_are_as_the_reference_has_them() {
    let both = [(1, Some(0)), (1, Some(0))];
    let histories = Twins::new(64, TIMES, &both, &[1]).explore(5, &[]);
    let one = [(1, Some(0)), (1, None)];
    let histories = histories + Twins::new(2, TIMES, &one, &[1]).explore(5, &[]);
    assert!(histories > 50_000, "only {histories} histories");
}

#[test]
fn all_short_histories_with_failures_are_as_the_reference_has_them() {
    let two = Twins::new(64, TIMES, &[(1, None), (1, None)], &[]).with_failures();
    let histories = two.explore(5, &[]);
    let both = [(1, Some(0)), (2, Some(0))];
    let grouped = Twins::new(2, TIMES, &both, &[1]).with_failures();
    let histories = histories + grouped.explore(5, &[]);
    assert!(histories > 50_000, "only {histories} histories");
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = prop::sample::select("abcdefgh".chars().collect::<Vec<_>>());
    let phase = prop::sample::select(vec![Phase::ANSWERED, ESTABLISHED, CLOSING, ENDED, RESET]);
    let failure = prop::sample::select(vec![ConnectFailure::Refused, ConnectFailure::Silent]);
    let step = prop_oneof![
        6 => (client.clone(), 1..3u32).prop_map(|(client, isn)| Step::Syn(client, isn)),
        4 => (client.clone(), phase).prop_map(|(client, phase)| Step::Phase(client, phase)),
        2 => (client.clone(), 0..12_000u64)
            .prop_map(|(client, ago)| Step::Activity(client, ago)),
        1 => client.clone().prop_map(Step::Missing),
        4 => (client, failure).prop_map(|(client, how)| Step::Failed(client, how)),
        1 => (0..4u32, 0..4u32).prop_map(|(backend, ceiling)| Step::Ceiling(backend, ceiling)),
        1 => (0..2u32, 0..4u32).prop_map(|(group, ceiling)| Step::GroupCeiling(group, ceiling)),
        1 => Just(Step::Window),
        2 => Just(Step::PassToNext),
        1 => (0..6000u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn long_histories_are_as_the_reference_has_them(
        steps in steps(),
        flows in 1..12u32,
        queue_capacity in 0..6u32,
        connect in prop::sample::select(vec![1013, 4007]),
    ) {
        let connect = Duration::from_millis(connect);
        let settings = ServiceSettings { queue_capacity, connect, ..TIMES };
        let backends = [(1, Some(0)), (0, None), (2, Some(1)), (2, Some(0))];
        let mut twins = Twins::new(flows, settings, &backends, &[2, 1]);
        for step in steps {
            twins.step(step);
        }
    }
}
