//! Floods as stories: what becomes of requests while one begins, goes on and is over.

use super::*;

const SETTINGS: ServiceSettings = ServiceSettings {
    queue_capacity: 100,
    flood: FloodSettings {
        mode: FloodMode::Auto,
        rate: 20,
        hold: Duration::from_secs(3),
        half_open: 50,
        handshake: Duration::from_secs(2),
    },
    ..super::SETTINGS
};

/// The i-th of many clients.
fn stranger(i: u32) -> FlowKey {
    let src = Addr::from_v4_bytes((0xc612_0000 + i).to_be_bytes());
    let dst = Addr::from_v4_bytes([192, 0, 2, 10]);
    FlowKey::new(src, Port::new(1024), dst, Port::new(80))
}

/// A service under attack.
struct Siege {
    bench: Bench,
    /// What the program counts as unproven.
    unproven: u64,
}

impl Siege {
    fn new(settings: ServiceSettings, ceilings: &[u32]) -> Self {
        let mut siege = Self {
            bench: Bench::new(settings, ceilings),
            unproven: 0,
        };
        assert_eq!(siege.look(0), None);
        siege
    }

    fn look(&mut self, at: u64) -> Option<FloodChange> {
        let Self { bench, unproven } = self;
        bench
            .admission
            .handle_flood(ms(at), bench.service, *unproven, 0)
    }

    /// SYNs of strangers that nobody has heard of; what is said to them, shortened.
    fn strangers(&mut self, at: u64, all: core::ops::Range<u32>) -> Vec<String> {
        let Self { bench, .. } = self;
        let mut told = Vec::new();
        for i in all {
            bench
                .admission
                .handle_syn(ms(at), bench.service, stranger(i), i, ('x', i));
            while let Some(command) = bench.admission.poll_command() {
                told.push(match command {
                    Command::Admit { backend, .. } => format!("admit to {}", backend.0),
                    Command::Refuse { reason, .. } => format!("refuse: {reason:?}"),
                    Command::Discard { reason, .. } => format!("discard: {reason:?}"),
                    other => format!("{other:?}"),
                });
            }
        }
        told
    }

    fn flood(&self) -> FloodView {
        self.bench
            .admission
            .service(self.bench.service)
            .unwrap()
            .flood
    }

    /// Lets time pass, in which back-ends have answered those that they were given: whose handshake
    /// is not finished in time is given up. Tells what else is done.
    fn pass(&mut self, until: u64) -> Vec<String> {
        let bench = &mut self.bench;
        let mut told = Vec::new();
        while let Some(due) = bench.admission.poll_timeout()
            && due <= ms(until)
        {
            bench.admission.handle_timeout(due);
            while let Some(command) = bench.admission.poll_command() {
                match command {
                    Command::Unanswered { flow, .. } => {
                        bench.admission.handle_phase(due, flow, Phase::ANSWERED);
                    }
                    Command::Remove { reason, .. } => {
                        assert_eq!(reason, RemoveReason::HandshakeTimeout);
                    }
                    command => told.push(bench.tell(&command)),
                }
            }
        }
        told
    }

    fn assert_balanced(&self) {
        let service = self.bench.admission.service(self.bench.service).unwrap();
        let ServiceCounters {
            received,
            admitted,
            refused,
            expired,
            abandoned,
            ..
        } = service.counters;
        let waiting = u64::from(service.queue_depth);
        assert_eq!(received, admitted + refused + expired + abandoned + waiting);
    }
}

#[test]
fn strangers_that_crowd_in_are_a_flood_and_those_that_wait_are_given_up() {
    let mut siege = Siege::new(SETTINGS, &[2]);
    let told = siege.strangers(10, 0..50);
    assert_eq!(told, ["admit to 0"; 2]);
    assert_eq!(siege.bench.syn(20, 'a'), [""; 0]);
    assert_eq!(siege.look(100), Some(FloodChange::Begun));
    assert_eq!(siege.flood().since, Some(ms(100)));
    assert_eq!(
        siege.bench.waiting().len(),
        49,
        "some may be on their way still"
    );
    assert_eq!(siege.look(200), None);
    let given_up = siege.bench.admission.service(siege.bench.service).unwrap();
    assert_eq!((given_up.queue_depth, given_up.counters.abandoned), (0, 49));
    siege.bench.commands();
    siege.assert_balanced();

    // The program lets through whoever asks again; the strangers at the back-end are in the way
    // until their handshakes have taken two seconds, not five.
    assert_eq!(siege.bench.syn(1020, 'a'), [""; 0]);
    let gone = siege.bench.admission.flows().count();
    assert_eq!(gone, 2);
    assert_eq!(siege.pass(2010), ["admit a1 to 0 after 990 ms"]);
    siege.assert_balanced();
}

#[test]
fn who_has_proved_alive_keeps_its_place() {
    let mut siege = Siege::new(SETTINGS, &[0]);
    siege.bench.syn(0, 'a');
    siege.bench.syn(0, 'b');
    siege.bench.syn(1000, 'b');
    siege.strangers(1010, 0..60);
    assert_eq!(siege.look(1100), Some(FloodChange::Begun));
    siege.look(1200);
    siege.bench.admission.poll_command();
    assert_eq!(siege.bench.waiting(), "b");
}

#[test]
fn nobody_is_answered_by_rst_while_a_flood_is_on() {
    let settings = ServiceSettings {
        queue_capacity: 0,
        ..SETTINGS
    };
    let mut siege = Siege::new(settings, &[0]);
    let silent = "discard: Refused(QueueFull)";
    let told = siege.strangers(10, 0..50);
    assert_eq!(told[..5], ["refuse: QueueFull"; 5]);
    assert_eq!(told[5..], [silent; 45], "more than a quarter of a flood");
    assert_eq!(siege.look(100), Some(FloodChange::Begun));
    assert_eq!(siege.strangers(110, 50..60), [silent; 10]);
    assert_eq!(siege.flood().begun, 1);
    // Ten strangers asked twice, and nobody else since.
    siege.unproven += 10;
    for at in (200..5000).step_by(100) {
        if siege.look(at) == Some(FloodChange::Over) {
            assert_eq!(siege.strangers(5000, 60..61), ["refuse: QueueFull"]);
            assert_eq!((siege.flood().since, siege.flood().unproven), (None, 10));
            siege.assert_balanced();
            return;
        }
    }
    panic!("it is never over");
}

#[test]
fn handshakes_that_are_not_finished_hold_half_of_a_ceiling() {
    let mut siege = Siege::new(SETTINGS, &[6]);
    siege.bench.syn(0, 'a');
    siege.bench.phase(1, 'a', ESTABLISHED);
    let told = siege.strangers(10, 0..50);
    assert_eq!(
        told.len(),
        5,
        "before it is noticed they may hold all of it"
    );
    siege.look(100).expect("a flood");
    siege.look(200);
    siege.pass(2100);
    assert_eq!(
        siege.bench.backend(0).half_open,
        0,
        "gone after two seconds"
    );

    // Strangers who send twice.
    let told = siege.strangers(2200, 100..110);
    assert_eq!(told, ["admit to 0"; 3], "half of six");
    assert_eq!(siege.bench.syn(2300, 'b'), [""; 0]);
    let backend = siege.bench.backend(0);
    assert_eq!((backend.half_open, backend.active), (3, 1));
    let window = siege.bench.window(2400);
    assert_eq!(window.backends[0].held_max, 6);
    let window = siege.bench.window(2500);
    assert!(
        !window.backends[0].reached,
        "the ceiling was never in the way"
    );
}

#[test]
fn a_handshake_that_is_finished_makes_room_for_the_next() {
    let mut siege = Siege::new(SETTINGS, &[2]);
    siege.strangers(0, 0..50);
    siege.look(100).expect("a flood");
    siege.look(200);
    siege.pass(2100);
    assert_eq!(siege.bench.syn(2200, 'a'), ["admit a1 to 0"]);
    assert_eq!(siege.bench.syn(2201, 'b'), [""; 0], "one of two");
    assert_eq!(
        siege.bench.phase(2300, 'a', ESTABLISHED),
        ["admit b1 to 0 after 99 ms"]
    );
}

#[test]
fn a_back_end_that_is_silent_in_a_flood_is_asked_about_when_its_shorter_time_is_over() {
    let mut siege = Siege::new(SETTINGS, &[9]);
    siege.bench.syn(0, 'a');
    siege.bench.syn(0, 'b');
    siege.bench.phase(1, 'b', Phase::ANSWERED);
    siege.strangers(10, 0..50);
    siege.look(100).expect("a flood");
    siege.look(200);
    siege.bench.commands();
    let told = siege.bench.pass(2000);
    let expected = ["remove b from 0: HandshakeTimeout", "no answer to a from 0"];
    for line in expected {
        assert!(told.iter().any(|one| one == line), "{told:?}");
    }
    assert_eq!(
        siege.bench.failed(2000, 'a', ConnectFailure::Silent),
        ["remove a from 0: HandshakeTimeout"]
    );
    assert_eq!(siege.bench.backend(0).silent, 1, "and not the other");
}

#[test]
fn a_slow_flood_shows_by_those_that_wait_in_vain() {
    // Fifteen are too few to say so, and so is one of four who has come again.
    let rows = [(15, 0, false), (16, 0, true), (20, 5, true), (20, 6, false)];
    for (strangers, alive, expected) in rows {
        let mut siege = Siege::new(SETTINGS, &[0]);
        for i in 0..strangers {
            siege.strangers(u64::from(i) * 60, i..i + 1);
        }
        siege.strangers(1100, 0..alive);
        for at in (1200..2400).step_by(100) {
            assert_eq!(siege.look(at), None, "nobody has waited for long: {at} ms");
        }
        let change = siege.look(2700);
        assert_eq!(
            change.is_some(),
            expected,
            "{strangers}, {alive} of them alive"
        );
    }
}

#[test]
fn what_the_sockets_lost_counts() {
    let mut siege = Siege::new(SETTINGS, &[100]);
    let Siege { bench, .. } = &mut siege;
    let mut look = |at, lost| bench.admission.handle_flood(ms(at), bench.service, 0, lost);
    assert_eq!(look(100, 20), None);
    assert_eq!(look(200, 25), Some(FloodChange::Begun));
}

#[test]
fn one_service_is_flooded_and_the_other_is_not() {
    let mut siege = Siege::new(SETTINGS, &[0]);
    let other = siege.bench.admission.add_service(SETTINGS).unwrap();
    siege.strangers(10, 0..50);
    assert_eq!(siege.look(100), Some(FloodChange::Begun));
    let admission = &mut siege.bench.admission;
    assert_eq!(admission.handle_flood(ms(100), other, 0, 0), None);
    assert_eq!(admission.handle_flood(ms(200), other, 0, 0), None);
    assert_eq!(
        admission.service(other).unwrap().flood,
        FloodView::default()
    );
}

#[test]
fn of_a_long_queue_those_at_its_head_are_looked_at() {
    const LOOKED_AT: u32 = 64;
    let settings = ServiceSettings {
        queue_capacity: 1000,
        flood: FloodSettings {
            rate: 10_000,
            ..SETTINGS.flood
        },
        ..SETTINGS
    };
    for (alive, expected) in [(LOOKED_AT, false), (LOOKED_AT / 4, true)] {
        let mut siege = Siege::new(settings, &[0]);
        siege.strangers(0, 0..500);
        siege.strangers(1000, 0..alive);
        let noticed = siege.look(1700).is_some();
        assert_eq!(noticed, expected, "{alive} of those at the head are alive");
    }
}
