//! Stories of requests and flows: what was asked, what was commanded, and no more.

use super::*;

const NOTHING: [&str; 0] = [];

#[test]
fn requests_go_to_the_back_ends_in_turn() {
    let mut bench = Bench::new(SETTINGS, &[2, 2, 2]);
    assert_eq!(bench.syn(0, 'a'), ["admit a1 to 0"]);
    assert_eq!(bench.syn(1, 'b'), ["admit b1 to 1"]);
    assert_eq!(bench.syn(2, 'c'), ["admit c1 to 2"]);
    assert_eq!(bench.syn(3, 'd'), ["admit d1 to 0"]);
}

#[test]
fn a_back_end_at_its_ceiling_is_passed_over() {
    let mut bench = Bench::new(SETTINGS, &[1, 3]);
    assert_eq!(bench.syn(0, 'a'), ["admit a1 to 0"]);
    assert_eq!(bench.syn(1, 'b'), ["admit b1 to 1"]);
    assert_eq!(bench.syn(2, 'c'), ["admit c1 to 1"]);
    assert_eq!(
        (bench.backend(0).half_open, bench.backend(1).half_open),
        (1, 2)
    );
}

#[test]
fn requests_wait_and_are_released_in_order_as_connections_end() {
    let mut bench = Bench::new(SETTINGS, &[1, 1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    assert_eq!(bench.syn(2, 'c'), NOTHING);
    assert_eq!(bench.syn(3, 'd'), NOTHING);
    assert_eq!(bench.waiting(), "cd");

    assert_eq!(
        bench.phase(10, 'a', ESTABLISHED),
        NOTHING,
        "a handshake frees nothing"
    );
    assert_eq!(bench.phase(20, 'b', RESET), ["admit c1 to 1 after 18 ms"]);
    assert_eq!(
        bench.phase(30, 'a', CLOSING),
        NOTHING,
        "half a close frees nothing"
    );
    assert_eq!(bench.phase(40, 'a', ENDED), ["admit d1 to 0 after 37 ms"]);
    assert_eq!(
        bench.phase(41, 'a', ENDED),
        NOTHING,
        "the same end frees nothing twice"
    );
    assert_eq!(bench.waiting(), "");
}

#[test]
fn a_slot_is_half_open_then_active_then_free() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    let slots = |bench: &Bench| {
        let backend = bench.backend(0);
        (backend.half_open, backend.active, backend.active_max)
    };
    bench.syn(0, 'a');
    assert_eq!(slots(&bench), (1, 0, 1));
    bench.phase(1, 'a', ESTABLISHED);
    assert_eq!(slots(&bench), (0, 1, 1));
    bench.phase(2, 'a', CLOSING);
    assert_eq!(slots(&bench), (0, 1, 1));
    bench.phase(3, 'a', ENDED);
    assert_eq!(slots(&bench), (0, 0, 1));
}

#[test]
fn a_full_queue_refuses_by_rst_or_by_silence() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    for (at, client) in (0..).zip("abc".chars()) {
        assert_eq!(bench.syn(at, client), NOTHING);
    }
    assert_eq!(bench.syn(3, 'd'), ["refuse d1: QueueFull"]);

    let silent = ServiceSettings {
        overflow: Overflow::Drop,
        queue_capacity: 0,
        ..SETTINGS
    };
    let mut bench = Bench::new(silent, &[0]);
    assert_eq!(bench.syn(0, 'a'), ["discard a1: Refused(QueueFull)"]);
    assert_eq!(bench.counters().refused, 1);
}

#[test]
fn one_source_may_hold_only_so_much_of_the_queue() {
    let bounded = ServiceSettings {
        per_source: 1,
        ..SETTINGS
    };
    let mut bench = Bench::new(bounded, &[0]);
    assert_eq!(bench.syn(0, 'a'), NOTHING);
    assert_eq!(bench.syn(1, 'A'), ["refuse A1: PerSource"]);
    assert_eq!(bench.syn(2, 'b'), NOTHING);

    assert_eq!(bench.set_ceiling(3, 0, 1), ["admit a1 to 0 after 3 ms"]);
    assert_eq!(bench.syn(4, 'A'), NOTHING, "it has none waiting any more");
    let sources = &bench.admission.services[0].sources;
    assert_eq!(
        sources.len(),
        2,
        "a source of which none waits is forgotten"
    );
}

#[test]
fn a_retransmission_keeps_its_place_and_a_new_request_takes_it_over() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    assert_eq!(bench.syn(1000, 'a'), ["discard a1: Retransmission"]);
    assert_eq!(bench.waiting(), "ab");
    assert_eq!(bench.syn_with(1500, 'a', 2), ["discard a1: Replaced"]);
    assert_eq!(
        bench.set_ceiling(1600, 0, 1),
        ["admit a2 to 0 after 100 ms"]
    );
    assert_eq!(
        bench.counters(),
        ServiceCounters {
            received: 3,
            admitted: 1,
            queued: 3,
            abandoned: 1,
            retransmitted: 1,
            admitted_max: 1,
            ..ServiceCounters::default()
        }
    );
}

#[test]
fn a_client_that_does_not_retransmit_is_abandoned() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    assert_eq!(bench.pass(3499), NOTHING);
    assert_eq!(bench.pass(3500), ["discard a1: Abandoned"]);
    assert_eq!(bench.counters().abandoned, 1);
    assert_eq!(bench.waiting(), "");
}

#[test]
fn a_client_that_retransmits_is_given_twice_its_last_gap() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    for again in [1000, 3000, 7000] {
        assert_eq!(bench.pass(again), NOTHING);
        assert_eq!(bench.syn(again, 'a'), ["discard a1: Retransmission"]);
    }
    assert_eq!(bench.pass(15_499), NOTHING);
    assert_eq!(bench.pass(15_500), ["discard a1: Abandoned"]);
}

#[test]
fn a_doubled_segment_does_not_shorten_the_first_wait() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    bench.syn(2, 'a');
    assert_eq!(bench.pass(3499), NOTHING);
    assert_eq!(bench.pass(3500), ["discard a1: Abandoned"]);
}

#[test]
fn a_request_waits_no_longer_than_its_timeout() {
    let short = ServiceSettings {
        queue_timeout: Duration::from_secs(2),
        ..SETTINGS
    };
    let mut bench = Bench::new(short, &[0]);
    bench.syn(0, 'a');
    bench.syn(1000, 'a');
    assert_eq!(bench.pass(1999), NOTHING);
    assert_eq!(bench.pass(2000), ["refuse a1: Expired"]);
    assert_eq!((bench.counters().expired, bench.counters().refused), (1, 0));
}

#[test]
fn a_request_whose_time_is_over_is_not_released_though_its_timer_is_late() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    bench.syn(2000, 'c');
    let late = bench.phase(4000, 'a', RESET);
    assert_eq!(
        late,
        ["discard b1: Abandoned", "admit c1 to 0 after 2000 ms"]
    );
}

#[test]
fn an_unfinished_handshake_gives_its_slot_to_the_next() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    assert_eq!(bench.phase(1, 'a', Phase::ANSWERED), NOTHING);
    bench.syn(4000, 'b');
    assert_eq!(bench.pass(4999), NOTHING);
    let commands = bench.pass(5000);
    assert_eq!(
        commands,
        [
            "remove a from 0: HandshakeTimeout",
            "admit b1 to 0 after 1000 ms"
        ]
    );
}

#[test]
fn a_silent_flow_is_probed_before_it_is_removed() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.phase(0, 'a', ESTABLISHED);
    assert_eq!(bench.pass(300_000), ["probe a"]);
    assert_eq!(bench.activity(300_000, 'a', 200_000), NOTHING);
    assert_eq!(bench.pass(499_999), NOTHING);
    assert_eq!(bench.pass(500_000), ["probe a"]);
    assert_eq!(
        bench.pass(501_000),
        ["probe a"],
        "a probe without answer is repeated"
    );
    assert_eq!(
        bench.activity(501_001, 'a', 200_000),
        ["remove a from 0: IdleTimeout"]
    );
    assert_eq!(bench.backend(0).active, 0);
}

#[test]
fn a_half_closed_transfer_lives_while_it_moves() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.phase(0, 'a', ESTABLISHED);
    bench.phase(1000, 'a', CLOSING);
    assert_eq!(bench.pass(31_000), ["probe a"]);
    assert_eq!(bench.activity(31_000, 'a', 30_900), NOTHING);
    assert_eq!(bench.pass(60_900), ["probe a"]);
    assert_eq!(
        bench.activity(60_900, 'a', 30_900),
        ["remove a from 0: ClosingTimeout"]
    );
}

#[test]
fn a_flow_that_ended_lingers_without_a_slot() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.phase(10, 'a', ENDED);
    assert_eq!(bench.admission.flow_count(), 1);
    assert_eq!(bench.syn(11, 'b'), ["admit b1 to 0"]);
    assert_eq!(bench.pass(1009), NOTHING);
    assert_eq!(bench.pass(1010), ["remove a from 0: Ended"]);
    assert_eq!(bench.admission.flow_count(), 1);
}

#[test]
fn a_client_that_comes_back_from_the_same_port_replaces_its_flow() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    let first = bench.flows[&'a'];
    bench.phase(10, 'a', ENDED);
    assert_eq!(
        bench.syn_with(20, 'a', 2),
        ["remove a from 0: Replaced", "admit a2 to 0"]
    );
    let second = bench.flows[&'a'];
    assert_ne!(first, second);
    bench.admission.handle_phase(ms(30), first, ENDED);
    assert_eq!(
        bench.backend(0).half_open,
        1,
        "an event of the old flow is not the new one's"
    );
}

#[test]
fn a_syn_that_raced_its_own_flow_is_dropped() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    bench.syn(0, 'a');
    assert_eq!(bench.syn(1, 'a'), ["discard a1: Retransmission"]);
    assert_eq!(
        bench.syn_with(2, 'a', 2),
        ["discard a2: FlowLive", "probe a"]
    );
    assert_eq!(
        (bench.counters().received, bench.counters().retransmitted),
        (1, 1)
    );

    let lost = bench.flows[&'a'];
    bench.admission.handle_missing(ms(3), lost);
    assert_eq!(bench.commands(), ["remove a from 0: Missing"]);
    assert_eq!(bench.syn_with(4, 'a', 2), ["admit a2 to 0"]);
}

#[test]
fn a_collision_goes_to_another_back_end() {
    let mut bench = Bench::new(SETTINGS, &[1, 1, 1]);
    bench.syn(0, 'a');
    assert_eq!(
        bench.install_failed(1, 'a', InstallFailure::Collision),
        ["admit a1 to 1"]
    );
    assert_eq!(
        bench.install_failed(2, 'a', InstallFailure::Collision),
        ["admit a1 to 2"]
    );
    assert_eq!(
        bench.install_failed(3, 'a', InstallFailure::Collision),
        ["refuse a1: Collision"]
    );
    let counters = bench.counters();
    assert_eq!(
        (counters.received, counters.admitted, counters.refused),
        (1, 0, 1)
    );
    assert!((0..3).all(|backend| bench.backend(backend).half_open == 0));
    assert_eq!(bench.admission.flow_count(), 0);
}

#[test]
fn a_request_is_tried_at_few_back_ends() {
    let mut bench = Bench::new(SETTINGS, &[1; 6]);
    bench.syn(0, 'a');
    for backend in 1..4 {
        let next = bench.install_failed(1, 'a', InstallFailure::Collision);
        assert_eq!(next, [format!("admit a1 to {backend}")]);
    }
    assert_eq!(
        bench.install_failed(2, 'a', InstallFailure::Collision),
        ["refuse a1: Collision"]
    );
}

#[test]
fn a_slot_that_collided_goes_to_the_next_in_the_queue() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    let commands = bench.install_failed(2, 'a', InstallFailure::Collision);
    assert_eq!(
        commands,
        ["refuse a1: Collision", "admit b1 to 0 after 1 ms"]
    );
}

#[test]
fn a_full_map_refuses() {
    let mut bench = Bench::new(SETTINGS, &[1, 1]);
    bench.syn(0, 'a');
    assert_eq!(
        bench.install_failed(1, 'a', InstallFailure::TableFull),
        ["refuse a1: TableFull"]
    );
    assert_eq!(bench.counters().refused, 1);
    assert_eq!(bench.pass(60_000), NOTHING, "nothing of it is left");
}

#[test]
fn a_full_flow_table_takes_back_the_place_of_the_flow_that_ended_first() {
    let mut bench = Bench::with_flow_capacity(2, SETTINGS, &[9]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    assert_eq!(bench.syn(1, 'c'), ["refuse c1: TableFull"]);
    bench.phase(2, 'b', ENDED);
    bench.phase(3, 'a', ENDED);
    assert_eq!(
        bench.syn(11, 'c'),
        ["refuse c1: TableFull"],
        "its last packets are in flight"
    );
    assert_eq!(
        bench.syn(12, 'c'),
        ["remove b from 0: Reclaimed", "admit c1 to 0"]
    );
}

#[test]
fn a_request_that_waits_is_not_refused_because_the_flow_table_is_full() {
    let mut bench = Bench::with_flow_capacity(1, SETTINGS, &[1]);
    bench.syn(0, 'a');
    assert_eq!(bench.syn(1, 'b'), NOTHING);
    assert_eq!(bench.phase(2, 'a', ENDED), NOTHING);
    assert_eq!(bench.syn(3, 'c'), NOTHING, "it does not overtake");
    let commands = bench.pass(1002);
    assert_eq!(
        commands,
        ["remove a from 0: Ended", "admit b1 to 0 after 1001 ms"]
    );
}
