//! Stories of requests that a back-end refuses or does not answer.

use ConnectFailure::{Refused, Silent};

use super::*;

const NOTHING: [&str; 0] = [];

/// A second in which a back-end answers, four until the handshake's time is over.
const TIMES: ServiceSettings = ServiceSettings {
    connect: Duration::from_secs(1),
    queue_timeout: Duration::from_secs(10),
    ..SETTINGS
};

fn accounted(bench: &Bench) -> u64 {
    let counters = bench.counters();
    let waiting = bench.waiting().len() as u64;
    counters.admitted + counters.refused + counters.expired + counters.abandoned + waiting
}

#[test]
fn a_refused_request_goes_to_another_back_end_at_once() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    assert_eq!(bench.syn(0, 'a'), ["admit a1 to 0"]);
    assert_eq!(
        bench.failed(3, 'a', Refused),
        ["remove a from 0: Refused", "admit a1 to 1"]
    );
    let counters = bench.counters();
    assert_eq!(
        (counters.received, counters.admitted, counters.retried),
        (1, 1, 1)
    );
    let (failed, other) = (bench.backend(0), bench.backend(1));
    assert_eq!((failed.half_open, failed.failed, failed.refused), (0, 1, 1));
    assert_eq!((other.half_open, other.failed, other.refused), (1, 0, 0));
    assert_eq!(bench.phase(5, 'a', ESTABLISHED), NOTHING);
    assert_eq!(bench.backend(1).active, 1);
}

#[test]
fn when_every_back_end_that_is_up_has_refused_the_client_is_refused_once() {
    let silent_overflow = ServiceSettings {
        overflow: Overflow::Drop,
        ..TIMES
    };
    for settings in [TIMES, silent_overflow] {
        let mut bench = Bench::new(settings, &[2, 2, 2]);
        bench
            .admission
            .set_state(ms(0), BackendId(2), BackendState::Down);
        bench.syn(0, 'a');
        bench.failed(1, 'a', Refused);
        assert_eq!(
            bench.failed(2, 'a', Refused),
            ["refuse a1: BackendsRefused", "remove a from 1: Refused"],
            "whatever overflow says"
        );
        let counters = bench.counters();
        assert_eq!(
            (counters.received, counters.admitted, counters.refused),
            (1, 0, 1)
        );
        assert_eq!(counters.admitted_max, 1);
        assert_eq!(accounted(&bench), 1);
    }
}

#[test]
fn the_only_back_ends_refusal_is_the_clients() {
    let mut bench = Bench::new(TIMES, &[2]);
    bench.syn(0, 'a');
    assert_eq!(
        bench.failed(1, 'a', Refused),
        ["refuse a1: BackendsRefused", "remove a from 0: Refused"]
    );
    assert_eq!(bench.counters().retried, 0);
}

#[test]
fn one_that_is_put_back_is_before_those_that_came_later_and_behind_those_that_came_before() {
    let mut bench = Bench::new(TIMES, &[1, 1, 1]);
    for (at, client) in (0..).zip("abcd".chars()) {
        bench.syn(at, client);
    }
    bench.set_ceiling(5, 0, 0);
    bench.set_ceiling(5, 1, 0);
    assert_eq!(
        bench.failed(10, 'b', Refused),
        ["remove b from 1: Refused"],
        "the others have no room"
    );
    assert_eq!(bench.failed(11, 'a', Refused), ["remove a from 0: Refused"]);
    assert_eq!(bench.waiting(), "abd");
    assert_eq!(
        bench.phase(20, 'c', RESET),
        ["admit a1 to 2 after 20 ms"],
        "as old as it is"
    );
    assert_eq!(bench.phase(30, 'a', RESET), ["admit b1 to 2 after 29 ms"]);
    assert_eq!(bench.phase(40, 'b', RESET), ["admit d1 to 2 after 37 ms"]);
    let counters = bench.counters();
    assert_eq!((counters.admitted, counters.retried), (4, 2));
}

#[test]
fn who_waits_is_kept_from_the_back_end_that_refused_it_for_a_second_and_nobody_overtakes() {
    let mut bench = Bench::new(TIMES, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    assert_eq!(bench.phase(1, 'b', ESTABLISHED), NOTHING);
    bench.syn(2, 'c');
    assert_eq!(
        bench.failed(10, 'a', Refused),
        ["remove a from 0: Refused"],
        "one has refused it, the other is full"
    );
    assert_eq!(bench.syn(11, 'd'), NOTHING, "it stands behind");
    assert_eq!(bench.waiting(), "acd");
    assert_eq!(bench.pass(1009), NOTHING);
    assert_eq!(
        bench.pass(1010),
        ["admit a1 to 0 after 1010 ms"],
        "it may be back by now"
    );
    assert_eq!(
        bench.failed(1011, 'a', Refused),
        ["remove a from 0: Refused"]
    );
    assert_eq!(
        bench.phase(1500, 'b', RESET),
        ["admit a1 to 1 after 1500 ms", "admit c1 to 0 after 1498 ms"],
        "then the next ones have their turn there"
    );
}

#[test]
fn a_request_that_is_put_back_has_no_more_time_than_before() {
    let unasked = ServiceSettings {
        connect: TIMES.handshake,
        ..TIMES
    };
    let mut bench = Bench::new(unasked, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    bench.phase(1, 'b', ESTABLISHED);
    bench.failed(4_000, 'a', Refused);
    assert_eq!(bench.pass(4_000), NOTHING);
    // It is asked again each second for as long as its time lasts.
    for second in 5..10 {
        assert_eq!(
            bench.pass(second * 1000),
            [format!("admit a1 to 0 after {second}000 ms")]
        );
        assert_eq!(
            bench.failed(second * 1000, 'a', Refused),
            ["remove a from 0: Refused"]
        );
    }
    assert_eq!(bench.pass(10_000), ["refuse a1: Expired"]);
    assert_eq!(bench.counters().expired, 1);
    assert_eq!(accounted(&bench), bench.counters().received);

    bench.syn(20_000, 'c');
    assert_eq!(
        bench.failed(30_000, 'c', Refused),
        ["remove c from 0: Refused", "refuse c1: Expired"]
    );
    assert_eq!(accounted(&bench), bench.counters().received);
}

#[test]
fn a_client_that_was_with_a_back_end_is_not_thought_gone_too_early() {
    let patient = ServiceSettings {
        queue_timeout: Duration::from_secs(60),
        ..TIMES
    };
    let mut bench = Bench::new(patient, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    bench.set_ceiling(0, 0, 0);
    bench.phase(1, 'b', ESTABLISHED);
    // It was seen again after 1 s and after 3 s, by the program; it comes again after 7 s.
    assert_eq!(
        bench.failed(3_500, 'a', Silent),
        ["remove a from 0: Silent"]
    );
    assert_eq!(bench.pass(7_000), NOTHING);
    assert_eq!(bench.syn(7_000, 'a'), ["discard a1: Retransmission"]);
    assert_eq!(bench.pass(14_000), NOTHING);
    assert_eq!(bench.pass(14_500), ["discard a1: Abandoned"]);
}

#[test]
fn who_came_last_makes_way_for_one_that_is_put_back() {
    let small = ServiceSettings {
        queue_capacity: 2,
        ..TIMES
    };
    let mut bench = Bench::new(small, &[1, 1]);
    for (at, client) in (0..).zip("abcd".chars()) {
        bench.syn(at, client);
    }
    assert_eq!(
        bench.failed(10, 'a', Refused),
        ["remove a from 0: Refused", "refuse d1: QueueFull"]
    );
    assert_eq!(bench.waiting(), "ac");
    assert_eq!(accounted(&bench), 4);

    let none = ServiceSettings {
        queue_capacity: 0,
        ..TIMES
    };
    let mut bench = Bench::new(none, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    assert_eq!(
        bench.failed(1, 'a', Refused),
        ["remove a from 0: Refused", "refuse a1: QueueFull"],
        "nobody may wait"
    );
}

#[test]
fn one_sources_bound_holds_for_those_that_are_put_back() {
    let bounded = ServiceSettings {
        per_source: 1,
        ..TIMES
    };
    let mut bench = Bench::new(bounded, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    bench.syn(2, 'A');
    assert_eq!(
        bench.failed(3, 'a', Refused),
        [
            "remove a from 0: Refused",
            "refuse a1: PerSource",
            "admit A1 to 0 after 1 ms"
        ]
    );
    assert_eq!(accounted(&bench), 3);
}

#[test]
fn silence_is_asked_about_once_and_ends_with_another_back_end() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    assert_eq!(bench.pass(999), NOTHING);
    assert_eq!(
        bench.pass(1000),
        ["no answer to a from 0", "no answer to b from 1"]
    );
    assert_eq!(bench.phase(1000, 'a', Phase::ANSWERED), NOTHING);
    assert_eq!(
        bench.failed(1000, 'a', Silent),
        NOTHING,
        "the back-end has answered, and the client has not acknowledged that"
    );
    assert_eq!(
        bench.failed(1001, 'b', Silent),
        ["remove b from 1: Silent", "admit b1 to 0"]
    );
    assert_eq!(bench.backend(1).silent, 1);
    assert_eq!(
        bench.pass(5000),
        ["no answer to b from 0", "remove a from 0: HandshakeTimeout"]
    );
}

#[test]
fn a_silent_back_end_is_waited_for_when_there_is_no_other() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    bench
        .admission
        .set_state(ms(0), BackendId(1), BackendState::Down);
    bench.syn(0, 'a');
    assert_eq!(bench.pass(1000), ["no answer to a from 0"]);
    assert_eq!(bench.failed(1000, 'a', Silent), NOTHING);
    assert_eq!(bench.backend(0).silent, 1);
    assert_eq!(bench.backend(0).half_open, 1);
    assert_eq!(bench.pass(4999), NOTHING, "and is not asked about again");
    assert_eq!(bench.pass(5000), ["remove a from 0: HandshakeTimeout"]);
}

#[test]
fn an_answer_that_may_take_as_long_as_the_handshake_is_asked_about_at_its_end() {
    let mut bench = Bench::new(SETTINGS, &[1, 1, 1]);
    for client in "abc".chars() {
        bench.syn(0, client);
    }
    assert_eq!(bench.pass(4999), NOTHING);
    let asked = [
        "no answer to a from 0",
        "no answer to b from 1",
        "no answer to c from 2",
    ];
    assert_eq!(bench.pass(5000), asked);
    // The first back-end was silent, the second has answered.
    bench.phase(5000, 'b', Phase::ANSWERED);
    bench.set_ceiling(5000, 1, 2);
    assert_eq!(bench.pass(5000), ["remove b from 1: HandshakeTimeout"]);
    assert_eq!(
        bench.failed(5001, 'a', Silent),
        ["remove a from 0: Silent", "admit a1 to 1"],
        "another has room"
    );
    assert_eq!(
        bench.pass(6000),
        ["no answer to c from 2"],
        "until it is said"
    );
    let silent = [0, 1, 2].map(|backend| bench.backend(backend).silent);
    assert_eq!(silent, [1, 0, 0]);
}

#[test]
fn silence_counts_once_and_ends_the_handshake_in_time() {
    for settings in [TIMES, SETTINGS] {
        let mut bench = Bench::new(settings, &[2]);
        bench.syn(0, 'a');
        // The network says so, and who is asked says it again.
        assert_eq!(bench.failed(10, 'a', Silent), NOTHING);
        bench.pass(4999);
        assert_eq!(bench.failed(4999, 'a', Silent), NOTHING);
        assert_eq!(bench.backend(0).half_open, 1);
        assert_eq!(bench.pass(5000), ["remove a from 0: HandshakeTimeout"]);
        assert_eq!(bench.backend(0).silent, 1);

        bench.syn(10_000, 'b');
        bench.pass(15_000);
        assert_eq!(
            bench.failed(15_000, 'b', Silent),
            ["remove b from 0: HandshakeTimeout"]
        );
        assert_eq!(bench.backend(0).silent, 2);
    }
}

#[test]
fn without_its_request_a_failed_flow_is_removed_and_the_client_asks_anew() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    bench.syn(0, 'a');
    assert_eq!(
        bench.failed_with(1, 'a', Refused, None),
        ["remove a from 0: Refused"]
    );
    assert_eq!(bench.counters().admitted, 1, "it was sent on");
    assert_eq!(bench.syn(1000, 'a'), ["admit a1 to 1"]);
    assert_eq!(bench.counters().received, 2);
    assert_eq!(accounted(&bench), 2);
}

#[test]
fn an_adopted_flow_has_no_request_to_put_back() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    let id = FlowId {
        index: 3,
        generation: 9,
    };
    let (service, backend) = (bench.service, BackendId(0));
    let adopted = bench
        .admission
        .adopt(ms(0), service, backend, key('a'), id, Phase::default());
    adopted.unwrap();
    bench
        .admission
        .handle_connect_failed(ms(1), id, Refused, Some(('a', 1)));
    assert_eq!(bench.commands(), ["remove a from 0: Refused"]);
    assert_eq!(bench.counters(), ServiceCounters::default());
}

#[test]
fn what_is_established_or_over_or_unknown_does_not_fail() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    bench.phase(1, 'a', ESTABLISHED);
    bench.phase(1, 'b', RESET);
    for client in "ab".chars() {
        for failure in [Refused, Silent] {
            assert_eq!(bench.failed(2, client, failure), NOTHING);
        }
    }
    bench.syn(3, 'c');
    bench.failed(4, 'c', Refused);
    bench.phase(5, 'c', RESET);
    bench.pass(3000);
    assert_eq!(bench.failed(3000, 'c', Refused), NOTHING, "it is gone");
    assert_eq!(bench.backend(0).refused, 1);
}

#[test]
fn a_removed_service_refuses_what_its_back_end_refuses_and_is_gone() {
    let mut bench = Bench::new(TIMES, &[2, 2]);
    bench.syn(0, 'a');
    bench.admission.remove_service(ms(1), bench.service);
    assert_eq!(
        bench.failed(2, 'a', Refused),
        ["refuse a1: BackendsRefused", "remove a from 0: Refused"]
    );
    assert!(bench.admission.service(bench.service).is_none());
}

#[test]
fn a_request_is_tried_at_every_back_end_once_however_it_is_balanced() {
    for balance in [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::LeastResponseTime,
        Balance::SourceHash,
    ] {
        let settings = ServiceSettings { balance, ..TIMES };
        let mut bench = Bench::new(settings, &[1; 40]);
        bench.syn(0, 'a');
        let mut tried = vec![bench.backend_of('a')];
        loop {
            let told = bench.failed(1, 'a', Refused);
            if told[0].starts_with("refuse") {
                break;
            }
            tried.push(bench.backend_of('a'));
        }
        tried.sort_unstable();
        assert_eq!(tried, (0..40).collect::<Vec<_>>(), "{balance:?}");
    }
}

#[test]
fn what_windows_tell_of_syns_adds_up() {
    let mut bench = Bench::new(TIMES, &[9, 9]);
    for (at, client) in (0..).zip("abcdef".chars()) {
        bench.syn(at, client);
    }
    bench.phase(10, 'a', ESTABLISHED);
    bench.phase(10, 'c', Phase::ANSWERED);
    bench.phase(11, 'c', RESET);
    bench.failed(12, 'e', Refused);
    bench.failed(12, 'b', Silent);
    let window = bench.window(20);
    let counts = |number: u32| {
        let of_it = |backend: &&BackendWindow| backend.id == BackendId(number);
        let told = window.backends.iter().find(of_it).unwrap();
        (told.refused, told.silent, told.failed)
    };
    assert_eq!(counts(0), (1, 0, 1));
    assert_eq!(counts(1), (0, 1, 1));
    let again = bench.window(30);
    assert!(
        again
            .backends
            .iter()
            .all(|told| told.refused == 0 && told.silent == 0)
    );
}

#[test]
fn of_more_back_ends_than_a_request_remembers_some_are_passed_over_and_none_is_tried_twice() {
    const REMEMBERED: u32 = 64;
    let mut bench = Bench::new(TIMES, &[1; 130]);
    bench.syn(0, 'a');
    let mut tried = vec![bench.backend_of('a')];
    let told = loop {
        let told = bench.failed(1, 'a', Refused);
        if told[0].starts_with("refuse") {
            break told;
        }
        tried.push(bench.backend_of('a'));
    };
    assert_eq!(told[0], "refuse a1: BackendsRefused");
    let mut notes: Vec<_> = tried.iter().map(|position| position % REMEMBERED).collect();
    notes.sort_unstable();
    assert_eq!(
        notes,
        (0..REMEMBERED).collect::<Vec<_>>(),
        "a note for each"
    );
}
