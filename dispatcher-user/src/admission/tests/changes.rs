//! Stories of services and back-ends that come, change and go while connections live.

use super::*;

const NOTHING: [&str; 0] = [];

#[test]
fn a_raised_ceiling_releases_at_once_and_a_lowered_one_cuts_nothing() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    for (at, client) in (0..).zip("abcd".chars()) {
        bench.syn(at, client);
    }
    let released = bench.set_ceiling(10, 0, 3);
    assert_eq!(
        released,
        ["admit b1 to 0 after 9 ms", "admit c1 to 0 after 8 ms"]
    );
    assert_eq!(bench.set_ceiling(11, 0, 1), NOTHING);
    assert_eq!(
        bench.phase(12, 'a', ENDED),
        NOTHING,
        "two are left, one is allowed"
    );
    assert_eq!(bench.phase(13, 'b', ENDED), NOTHING, "one is left");
    assert_eq!(bench.phase(14, 'c', ENDED), ["admit d1 to 0 after 11 ms"]);
    assert_eq!(bench.backend(0).active_max, 3);
}

#[test]
fn a_ceiling_stays_between_its_bounds_and_below_the_capacity() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.set_ceiling(0, 0, 500);
    assert_eq!(bench.backend(0).ceiling, 100);

    let ceiling = Ceiling {
        initial: 10,
        min: 5,
        max: 40,
    };
    bench
        .admission
        .update_backend(ms(1), BackendId(0), ceiling, 20, 1, None)
        .unwrap();
    let backend = bench.backend(0);
    assert_eq!(
        (backend.ceiling_min, backend.ceiling, backend.ceiling_max),
        (5, 19, 19)
    );
    bench.set_ceiling(2, 0, 0);
    assert_eq!(bench.backend(0).ceiling, 5);
}

#[test]
fn only_a_back_end_that_is_up_takes_requests() {
    for state in [
        BackendState::Down,
        BackendState::Draining,
        BackendState::Disabled,
    ] {
        let mut bench = Bench::new(SETTINGS, &[2]);
        bench.syn(0, 'a');
        bench.admission.set_state(ms(1), BackendId(0), state);
        assert_eq!(bench.syn(2, 'b'), NOTHING);
        assert_eq!(bench.backend(0).half_open, 1, "what it has is left alone");
        bench
            .admission
            .set_state(ms(3), BackendId(0), BackendState::Up);
        assert_eq!(bench.commands(), ["admit b1 to 0 after 1 ms"]);
    }
}

#[test]
fn a_new_back_end_takes_what_waits() {
    let mut bench = Bench::new(SETTINGS, &[]);
    assert_eq!(bench.syn(0, 'a'), NOTHING);
    bench
        .admission
        .add_backend(ms(5), bench.service, backend_settings(1))
        .unwrap();
    assert_eq!(bench.commands(), ["admit a1 to 0 after 5 ms"]);
}

#[test]
fn a_removed_back_end_is_gone_with_its_last_flow() {
    let mut bench = Bench::new(SETTINGS, &[1, 1]);
    bench.syn(0, 'a');
    bench.admission.remove_backend(ms(1), BackendId(0));
    assert!(bench.backend(0).leaving);
    bench
        .admission
        .set_state(ms(1), BackendId(0), BackendState::Up);
    assert_eq!(bench.syn(2, 'b'), ["admit b1 to 1"]);
    assert_eq!(bench.syn(3, 'c'), NOTHING);
    assert_eq!(
        bench.phase(4, 'a', ENDED),
        NOTHING,
        "its slot is no use any more"
    );
    assert_eq!(bench.pass(1004), ["remove a from 0: Ended"]);
    assert_eq!(bench.admission.backend(BackendId(0)), None);

    let next = bench
        .admission
        .add_backend(ms(1005), bench.service, backend_settings(1));
    assert_eq!(next, Ok(BackendId(0)), "its number is used again");
    assert_eq!(bench.commands(), ["admit c1 to 0 after 1002 ms"]);
}

#[test]
fn a_removed_service_turns_away_its_queue_and_leaves_its_flows() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    bench.admission.remove_service(ms(2), bench.service);
    assert_eq!(bench.commands(), ["refuse b1: ServiceRemoved"]);
    assert_eq!(bench.syn(3, 'c'), ["discard c1: NoService"]);
    assert_eq!(bench.phase(4, 'a', ESTABLISHED), NOTHING);
    assert_eq!(bench.backend(0).active, 1);
    let refused = bench
        .admission
        .add_backend(ms(4), bench.service, backend_settings(1));
    assert_eq!(refused, Err(AddError::NoService));

    bench.phase(5, 'a', ENDED);
    assert_eq!(bench.pass(1005), ["remove a from 0: Ended"]);
    assert_eq!(bench.admission.services().count(), 0);
    assert_eq!(bench.admission.backends().count(), 0);
    assert_eq!(bench.admission.add_service(SETTINGS), Ok(ServiceId(0)));
}

#[test]
fn new_settings_hold_for_those_who_wait() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    bench.syn(500, 'A');
    let stricter = ServiceSettings {
        queue_timeout: Duration::from_secs(1),
        per_source: 2,
        overflow: Overflow::Drop,
        queue_capacity: 9,
        ..SETTINGS
    };
    bench
        .admission
        .update_service(ms(600), bench.service, stricter);
    assert_eq!(bench.syn_with(700, 'A', 2), ["discard A1: Replaced"]);
    assert_eq!(bench.pass(1000), ["discard a1: Refused(Expired)"]);
    assert_eq!(bench.pass(1700), ["discard A2: Refused(Expired)"]);
    assert!(bench.admission.services[0].sources.is_empty());
}

#[test]
fn a_client_that_quickens_its_pace_is_missed_sooner() {
    let mut bench = Bench::new(SETTINGS, &[0]);
    bench.syn(0, 'a');
    for again in [1000, 3000, 7000, 7600] {
        assert_eq!(bench.pass(again), NOTHING);
        bench.syn(again, 'a');
    }
    assert_eq!(bench.pass(9299), NOTHING);
    assert_eq!(bench.pass(9300), ["discard a1: Abandoned"]);
}

#[test]
fn flows_are_adopted_with_their_identity_even_above_the_ceiling() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    let service = bench.service;
    let adopt = |bench: &mut Bench, client, index, generation, phase| {
        let id = FlowId { index, generation };
        bench.flows.insert(client, id);
        bench
            .admission
            .adopt(ms(0), service, BackendId(0), key(client), id, phase)
    };
    assert_eq!(adopt(&mut bench, 'a', 5, 7, ESTABLISHED), Ok(()));
    assert_eq!(adopt(&mut bench, 'b', 2, 9, CLOSING), Ok(()));
    assert_eq!(adopt(&mut bench, 'c', 3, 9, ENDED), Ok(()));
    let backend = bench.backend(0);
    assert_eq!((backend.active, backend.ceiling), (2, 1));

    assert_eq!(
        adopt(&mut bench, 'd', 5, 8, ESTABLISHED),
        Err(AdoptError::IndexInUse)
    );
    assert_eq!(
        adopt(&mut bench, 'b', 4, 8, ESTABLISHED),
        Err(AdoptError::KeyInUse)
    );
    assert_eq!(
        adopt(&mut bench, 'd', 64, 8, ESTABLISHED),
        Err(AdoptError::OutOfBounds(64))
    );
    assert_eq!(
        adopt(&mut bench, 'd', 4, 0, ESTABLISHED),
        Err(AdoptError::OutOfBounds(64))
    );
    let nowhere = FlowId {
        index: 4,
        generation: 1,
    };
    assert_eq!(
        bench
            .admission
            .adopt(ms(0), service, BackendId(1), key('d'), nowhere, RESET),
        Err(AdoptError::NoBackend)
    );

    bench.flows.insert(
        'b',
        FlowId {
            index: 2,
            generation: 9,
        },
    );
    assert_eq!(bench.syn(1, 'd'), NOTHING);
    bench.flows.insert(
        'a',
        FlowId {
            index: 5,
            generation: 7,
        },
    );
    assert_eq!(bench.phase(2, 'a', ENDED), NOTHING);
    assert_eq!(bench.phase(3, 'b', ENDED), ["admit d1 to 0 after 2 ms"]);
    let fresh = bench.flows[&'d'];
    assert!(
        ![2, 3, 5].contains(&fresh.index),
        "an index in use is not given again"
    );
    assert_eq!(
        fresh.generation, 10,
        "no generation that was adopted is given again"
    );
}

#[test]
fn an_operator_ends_a_flow() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    let flow = bench.flows[&'a'];
    bench.admission.remove_flow(ms(2), flow);
    assert_eq!(
        bench.commands(),
        ["remove a from 0: Requested", "admit b1 to 0 after 1 ms"]
    );
    bench.admission.remove_flow(ms(3), flow);
    assert_eq!(bench.commands(), NOTHING);
}

#[test]
fn services_and_back_ends_have_bounds() {
    let mut admission = Admission::<Ask, _>::new(1, Hasher::default());
    let mut services = Vec::new();
    for _ in 0..dispatcher_common::maps::SERVICES_MAX {
        services.push(admission.add_service(SETTINGS).unwrap());
    }
    assert_eq!(admission.add_service(SETTINGS), Err(AddError::ServicesFull));
    for _ in 0..dispatcher_common::maps::BACKENDS_MAX {
        admission
            .add_backend(ms(0), services[0], backend_settings(1))
            .unwrap();
    }
    let one_more = admission.add_backend(ms(0), services[1], backend_settings(1));
    assert_eq!(one_more, Err(AddError::BackendsFull));
}

#[test]
fn an_overload_of_timers_is_dealt_with_in_portions() {
    let clients = TIMEOUT_STEPS_MAX + 1;
    let wide = ServiceSettings {
        queue_capacity: clients,
        ..SETTINGS
    };
    let mut admission = Admission::new(1, Hasher::default());
    let service = admission.add_service(wide).unwrap();
    for client in 0..clients {
        let mut key = key('a');
        key.src = Addr::from_v4_bytes(client.to_be_bytes());
        admission.handle_syn(ms(0), service, key, 1, ('a', 1));
    }
    admission.handle_timeout(ms(10_000));
    assert!(
        admission.poll_timeout().unwrap() <= ms(10_000),
        "it asks to be called again"
    );
    for _ in 0..8 {
        admission.handle_timeout(ms(10_000));
    }
    assert_eq!(admission.queued_count(), 0);
    assert_eq!(admission.poll_timeout(), None);
}

#[test]
fn a_removed_back_end_that_comes_back_has_its_flows_count_against_its_ceiling() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    bench.syn(0, 'a');
    bench.admission.remove_backend(ms(1), BackendId(0));
    assert_eq!(bench.syn(2, 'b'), NOTHING);
    assert_eq!(bench.syn(3, 'c'), NOTHING);
    let revived = bench
        .admission
        .revive_backend(ms(4), BackendId(0), backend_settings(2));
    assert_eq!(revived, Ok(true));
    assert_eq!(bench.commands(), ["admit b1 to 0 after 2 ms"]);
    let backend = bench.backend(0);
    assert_eq!((backend.half_open, backend.leaving), (2, false));
    assert_eq!(bench.phase(5, 'a', ENDED), ["admit c1 to 0 after 2 ms"]);
    assert_eq!(bench.pass(1005), ["remove a from 0: Ended"]);
    assert!(bench.admission.backend(BackendId(0)).is_some(), "it stays");
}

#[test]
fn what_is_not_there_or_was_not_removed_cannot_come_back() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    for id in [0, 7] {
        let revived = bench
            .admission
            .revive_backend(ms(0), BackendId(id), backend_settings(2));
        assert_eq!(revived, Ok(false));
    }
    bench.syn(0, 'a');
    bench.admission.remove_service(ms(1), bench.service);
    let revive = |bench: &mut Bench| {
        bench
            .admission
            .revive_backend(ms(2), BackendId(0), backend_settings(2))
    };
    assert_eq!(revive(&mut bench), Err(AddError::NoService));
    assert!(
        bench
            .admission
            .revive_service(ms(2), bench.service, SETTINGS)
    );
    assert_eq!(revive(&mut bench), Ok(true));
    assert_eq!(bench.syn(3, 'b'), ["admit b1 to 0"]);
    assert_eq!(bench.syn(4, 'c'), NOTHING, "the flow from before counts");
}

#[test]
fn changes_made_at_once_release_nobody_before_all_are_made() {
    let mut bench = Bench::new(SETTINGS, &[0, 0]);
    for (at, client) in (0..).zip("ab".chars()) {
        bench.syn(at, client);
    }
    bench.admission.hold();
    bench.admission.set_ceiling(ms(5), BackendId(0), 2);
    bench.admission.set_ceiling(ms(5), BackendId(1), 2);
    bench.admission.remove_backend(ms(5), BackendId(0));
    assert_eq!(bench.commands(), NOTHING);
    bench.admission.go_on(ms(5));
    assert_eq!(
        bench.commands(),
        ["admit a1 to 1 after 5 ms", "admit b1 to 1 after 4 ms"]
    );
}
