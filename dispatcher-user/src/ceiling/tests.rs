//! Tests of controllers as a whole: what no measurement can break, and stories of each policy.

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;

/// The same cases in every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` ask for others.
fn seeded() -> Config {
    let default = Config::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5eed),
        asked_for => asked_for,
    };
    Config {
        rng_seed,
        failure_persistence: None,
        ..default
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const BOUNDS: Bounds = Bounds { min: 2, max: 100 };

fn settings(policy: Policy) -> Settings {
    Settings {
        policy,
        ..Settings::default()
    }
}

fn response_time() -> Policy {
    Policy::ResponseTime(ResponseTime {
        metric: Metric::Mean,
        low: ms(50),
        high: ms(150),
    })
}

/// Policies that raise because of what they measure.
fn measuring() -> Vec<Policy> {
    vec![
        Policy::QueueDepth(QueueDepth::default()),
        response_time(),
        Policy::Throughput(Throughput::default()),
        Policy::Throughput(Throughput { minimum: 100 }),
        Policy::Gradient(Gradient::default()),
    ]
}

fn all() -> Vec<Policy> {
    let mut policies = measuring();
    policies.extend([Policy::Fixed, Policy::Agent(Agent::default())]);
    policies
}

/// Numbers as they should not be, and ordinary ones.
fn mean() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..200.0,
        1 => prop_oneof![
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(-1.0),
            Just(f64::MAX),
            Just(f64::MIN_POSITIVE),
            Just(0.0),
        ],
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..3000_u64, 1 => Just(0), 1 => Just(1), 1 => Just(u64::MAX)]
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        6 => (0..2000_u64).prop_map(ms),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::MAX),
        1 => Just(Duration::from_nanos(1)),
    ]
}

fn times() -> impl Strategy<Value = Times> {
    (count(), duration(), duration(), duration(), duration()).prop_map(
        |(count, mean, p50, p99, max)| Times {
            count,
            mean,
            p50,
            p99,
            max,
        },
    )
}

fn window() -> impl Strategy<Value = Window> {
    let length = prop_oneof![8 => Just(ms(1000)), 1 => duration()];
    let held = (mean(), any::<u32>(), any::<bool>(), mean());
    let counts = (count(), count(), count(), times());
    (length, held, counts).prop_map(
        |(length, (held_mean, held_max, reached, queue_mean), counts)| Window {
            length,
            held_mean,
            held_max,
            reached,
            queue_mean,
            admitted: counts.0,
            ended: counts.1,
            unanswered: counts.2,
            response: counts.3,
            ..Window::default()
        },
    )
}

/// What can be done to a controller.
#[derive(Clone, Debug)]
enum Act {
    Decide(Window),
    /// A window as a server that is held at its ceiling gives it.
    Full(u64, u64),
    Pin(Option<u32>),
    Bounds(u32, u32),
    CameUp,
    Report(AgentReport),
}

fn act() -> impl Strategy<Value = Act> {
    let report = (
        any::<Option<u32>>(),
        any::<Option<u32>>(),
        any::<Option<u32>>(),
    );
    prop_oneof![
        8 => window().prop_map(Act::Decide),
        8 => (0..1000_u64, 1..1000_u64).prop_map(|(served, response)| Act::Full(served, response)),
        1 => any::<Option<u32>>().prop_map(Act::Pin),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(min, max)| Act::Bounds(min, max)),
        1 => Just(Act::CameUp),
        1 => report.prop_map(|(ceiling, share_percent, load_percent)| Act::Report(AgentReport {
            ceiling,
            share_percent,
            load_percent,
            ..AgentReport::default()
        })),
    ]
}

/// A second in which the server had as many connections as it was given, and requests waited.
fn full(ceiling: u32, served: u64, response: Duration) -> Window {
    Window {
        length: ms(1000),
        held_mean: f64::from(ceiling),
        held_max: ceiling,
        reached: true,
        queue_mean: 50.0,
        admitted: served,
        ended: served,
        response: Times {
            count: served,
            mean: response,
            p50: response,
            p99: response * 2,
            max: response * 3,
        },
        ..Window::default()
    }
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn no_measurement_leads_out_of_bounds(acts in vec(act(), 1..60)) {
        for policy in all() {
            let settings = Settings {
                slow_start: ms(5000),
                response_goal: Some(ms(500)),
                ..settings(policy)
            };
            let mut controller = Controller::new(&settings, BOUNDS, 20);
            let mut bounds = BOUNDS;
            let mut pinned = None;
            for act in &acts {
                let told = match act {
                    Act::Decide(window) => controller.decide(window).ceiling,
                    Act::Full(served, response) => {
                        let window = full(controller.ceiling(), *served, ms(*response));
                        controller.decide(&window).ceiling
                    }
                    Act::Pin(ceiling) => {
                        pinned = *ceiling;
                        controller.pin(*ceiling)
                    }
                    Act::Bounds(min, max) => {
                        bounds = Bounds { min: *min, max: *max };
                        controller.set_bounds(bounds)
                    }
                    Act::CameUp => controller.came_up(),
                    Act::Report(report) => {
                        controller.report(report);
                        controller.ceiling()
                    }
                };
                let (min, max) = (bounds.min.max(1), bounds.max.max(bounds.min.max(1)));
                prop_assert_eq!(told, controller.ceiling());
                prop_assert!((min..=max).contains(&told), "{} not in {}..={}", told, min, max);
                if let Some(pinned) = pinned {
                    prop_assert_eq!(told, pinned.clamp(min, max));
                }
                // What is told never panics either.
                let _ = controller.suggestion().map(|suggestion| suggestion.to_string());
                let _ = controller.last_change().map(|change| change.why.to_string());
            }
        }
    }

    #[test]
    fn no_ceiling_is_raised_above_all_before_unless_it_was_reached(
        windows in vec(window(), 1..60),
    ) {
        for policy in measuring() {
            let mut controller = Controller::new(&settings(policy), BOUNDS, 20);
            let mut highest = 20;
            let mut reached = false;
            for window in &windows {
                reached |= window.reached;
                let ceiling = controller.decide(window).ceiling;
                if ceiling > highest {
                    prop_assert!(reached);
                    highest = ceiling;
                    reached = false;
                }
            }
        }
    }
}

/// Decides on windows of `(served, response in ms)`, each at the ceiling in force; tells ceilings.
fn story(controller: &mut Controller, windows: &[(u64, u64)]) -> Vec<u32> {
    let decide = |&(served, response): &(u64, u64)| {
        let window = full(controller.ceiling(), served, ms(response));
        controller.decide(&window).ceiling
    };
    windows.iter().map(decide).collect()
}

#[test]
fn a_queue_raises_only_as_long_as_more_is_served() {
    let policy = Policy::QueueDepth(QueueDepth::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 10);
    // Measured; twice as much is tried; it serves twice as much, and so on to where it does not.
    let windows = [(500, 20), (1000, 20), (1010, 40), (1010, 40)];
    assert_eq!(story(&mut controller, &windows[..1]), [20]);
    assert_eq!(story(&mut controller, &windows[1..2]), [40]);
    assert_eq!(story(&mut controller, &windows[2..3]), [20]);
    let change = controller.last_change().unwrap();
    assert_eq!((change.from, change.to), (40, 20));
    assert_eq!(change.why.label(), "lowered_guard");
    assert_eq!(
        change.why.to_string(),
        "1010 requests/s at 40 against 1000 at 20: back"
    );
}

#[test]
fn a_short_queue_lowers_to_what_is_used() {
    let policy = Policy::QueueDepth(QueueDepth::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 8);
    controller.pin(Some(20));
    controller.pin(None);
    let quiet = Window {
        held_mean: 5.0,
        held_max: 12,
        reached: false,
        queue_mean: 0.2,
        ..full(5, 100, ms(10))
    };
    let why = controller.decide(&quiet).why;
    let ceilings: Vec<_> = (0..5).map(|_| controller.decide(&quiet).ceiling).collect();
    assert_eq!(ceilings, [14, 12, 12, 12, 12]);
    assert_eq!(controller.decide(&quiet).why.label(), "held_queue");
    assert_eq!(
        (why.label(), why.to_string().as_str()),
        ("lowered_queue", "queue 0.2 < 1: lowered")
    );
    let idle = Window {
        held_mean: 0.5,
        held_max: 2,
        ..quiet
    };
    let ceilings: Vec<_> = (0..5).map(|_| controller.decide(&idle).ceiling).collect();
    assert_eq!(ceilings, [10, 8, 8, 8, 8], "not below where it started");
}

#[test]
fn what_was_measured_before_a_change_took_effect_is_ignored() {
    let mut controller = Controller::new(&settings(response_time()), BOUNDS, 40);
    // Too slow by a third: lowered in proportion.
    assert_eq!(story(&mut controller, &[(400, 200)]), [30]);
    // Connections from before are above the ceiling: whatever they took, it says nothing.
    let over = Window {
        held_max: 40,
        ..full(30, 400, ms(900))
    };
    for _ in 0..5 {
        let decision = controller.decide(&over);
        assert_eq!(
            (decision.ceiling, decision.why.label()),
            (30, "held_settling")
        );
    }
    let decision = controller.decide(&full(30, 400, ms(100)));
    assert_ne!(decision.why.label(), "held_settling");
}

/// Connections that last for hours do not make room for a lower ceiling.
#[test]
fn a_trial_that_connections_outlast_is_given_up() {
    let policy = Policy::Throughput(Throughput::default());
    let mut controller = Controller::new(&settings(policy), Bounds { min: 1, max: 40 }, 40);
    let lasting = |ended| Window {
        ended,
        ..full(40, 500, ms(20))
    };
    for _ in 0..50 {
        assert_eq!(
            controller.decide(&lasting(0)).ceiling,
            40,
            "none ends: nothing lower is tried"
        );
    }
    let mut decide = |_| controller.decide(&lasting(1)).ceiling;
    let ceilings: Vec<_> = (0..30).map(&mut decide).collect();
    assert_eq!(ceilings[..16], [32; 16], "eight windows of attrition");
    assert_eq!(ceilings[17..], [40; 13], "which are over, and it rests");
}

/// As at a server that fails every request after a second: the more at once, the more a second.
#[test]
fn responses_that_take_ten_times_the_shortest_forbid_a_raise() {
    let policy = Policy::Throughput(Throughput::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 40);
    let healthy = Window {
        held_mean: 5.0,
        reached: false,
        ..full(40, 250, ms(20))
    };
    controller.decide(&healthy);
    let mut labels = Vec::new();
    for _ in 0..60 {
        let ceiling = controller.ceiling();
        let decision = controller.decide(&full(ceiling, u64::from(ceiling), ms(1000)));
        assert!(decision.ceiling <= 40);
        labels.push(decision.why.label());
    }
    assert!(labels.contains(&"held_slow"));
}

#[test]
fn a_minimum_is_held_with_the_least_ceiling() {
    let policy = Policy::Throughput(Throughput { minimum: 300 });
    let mut controller = Controller::new(&settings(policy), BOUNDS, 40);
    // Ten requests a second of each connection: 30 are enough, and 33 are not too many.
    for _ in 0..20 {
        let ceiling = controller.ceiling();
        controller.decide(&full(ceiling, u64::from(ceiling) * 10, ms(100)));
    }
    assert!(
        (30..=33).contains(&controller.ceiling()),
        "{}",
        controller.ceiling()
    );
}

#[test]
fn a_goal_that_is_missed_lowers() {
    let settings = Settings {
        response_goal: Some(ms(100)),
        ..settings(Policy::Throughput(Throughput::default()))
    };
    let mut controller = Controller::new(&settings, BOUNDS, 20);
    let decision = controller.decide(&full(20, 500, ms(60)));
    assert_eq!(decision.ceiling, 18);
    assert_eq!(
        decision.why.to_string(),
        "response p99 120 ms > 100 ms: lowered"
    );
}

#[test]
fn unanswered_requests_forbid_a_raise() {
    for policy in measuring() {
        let mut controller = Controller::new(&settings(policy), BOUNDS, 20);
        for _ in 0..30 {
            let window = Window {
                unanswered: 400,
                ..full(controller.ceiling(), 500, ms(20))
            };
            let decision = controller.decide(&window);
            assert!(decision.ceiling <= 20, "{}", decision.why);
        }
    }
}

#[test]
fn a_pinned_ceiling_stays_and_is_given_back() {
    let policy = Policy::QueueDepth(QueueDepth::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 20);
    assert_eq!(controller.pin(Some(1000)), 100);
    assert!(controller.is_pinned());
    let decision = controller.decide(&full(100, 500, ms(2000)));
    assert_eq!((decision.ceiling, decision.why), (100, Reason::Pinned));
    assert_eq!(controller.came_up(), 100);
    assert_eq!(controller.pin(None), 100);
    assert!(!controller.is_pinned());

    let mut fixed = Controller::new(&settings(Policy::Fixed), BOUNDS, 20);
    fixed.pin(Some(7));
    fixed.pin(None);
    assert_eq!(fixed.decide(&Window::default()).why.label(), "held_few");
    assert_eq!(fixed.decide(&full(7, 500, ms(1))).ceiling, 20);
}

#[test]
fn a_back_end_that_came_up_is_given_its_ceiling_little_by_little() {
    let settings = Settings {
        slow_start: ms(4000),
        ..settings(Policy::Fixed)
    };
    let mut controller = Controller::new(&settings, BOUNDS, 40);
    assert_eq!(controller.ceiling(), 40, "not at the daemon's own start");
    assert_eq!(controller.came_up(), 2, "the least of the bounds");
    let ceilings = story(&mut controller, &[(100, 20); 5]);
    assert_eq!(ceilings, [10, 20, 30, 40, 40]);
    assert_eq!(controller.last_change().unwrap().to, 40);
}

#[test]
fn agents_are_obeyed() {
    let policy = Policy::Agent(Agent::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 20);
    let quiet = Window {
        length: ms(1000),
        ..Window::default()
    };
    assert_eq!(controller.decide(&quiet).why, Reason::AgentSilent);
    let mut say = |report: AgentReport| {
        controller.report(&report);
        let decision = controller.decide(&quiet);
        (decision.ceiling, decision.why.to_string())
    };
    let text = |text| AgentReport::parse_text(text).unwrap();
    assert_eq!(
        say(text("maxconn:30")),
        (30, "the agent wants 30".to_owned())
    );
    assert_eq!(say(text("75%")).0, 75);
    assert_eq!(
        say(text("maxconn:30 75%")).0,
        30,
        "a number goes before a share"
    );
    assert_eq!(say(text("up")).0, 30, "what is not said does not change");
    assert_eq!(say(text("maxconn:0")).0, 2);
    assert_eq!(say(text("maxconn:4000000000")).0, 100);
    let load = |load_percent| AgentReport {
        load_percent: Some(load_percent),
        ..AgentReport::default()
    };
    assert_eq!(
        say(load(96)),
        (87, "the agent's load 96 % > 95 %: lowered".to_owned())
    );
    assert_eq!(say(load(90)).0, 87);
    assert_eq!(say(load(10)).0, 87, "raised only if it was reached");
    controller.report(&load(10));
    assert_eq!(controller.decide(&full(87, 500, ms(20))).ceiling, 98);
    let ceilings: Vec<_> = (0..31).map(|_| controller.decide(&quiet).ceiling).collect();
    assert_eq!(
        (ceilings[28], ceilings[30]),
        (98, 20),
        "back to the initial ceiling in the end"
    );
}

#[test]
fn other_settings_keep_what_was_learned_unless_the_policy_is_another() {
    let policy = Policy::QueueDepth(QueueDepth::default());
    let mut controller = Controller::new(&settings(policy), BOUNDS, 20);
    story(
        &mut controller,
        &[(500, 20), (900, 20), (1000, 40), (1000, 20)],
    );
    let before = controller.suggestion();
    assert!(before.is_some());
    controller.set_settings(&settings(Policy::Fixed));
    assert_eq!(controller.suggestion(), before);
    controller.set_initial(33);
    assert_eq!(controller.decide(&full(20, 500, ms(20))).ceiling, 33);
    assert_eq!(controller.set_bounds(Bounds { min: 1, max: 9 }), 9);
    assert_eq!(controller.last_change().unwrap().why, Reason::Bounds);
}
