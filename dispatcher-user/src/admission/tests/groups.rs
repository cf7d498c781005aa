//! Stories of back-ends that share a ceiling.

use super::*;

const NOTHING: [&str; 0] = [];

fn group(bench: &Bench, group: u32) -> (u32, u32, u32) {
    let view = bench.admission.group(GroupId(group)).unwrap();
    (view.held, view.held_max, view.ceiling)
}

/// Adds a service with one back-end, and asks it from now on.
fn turn_to_another_service(bench: &mut Bench, ceiling: u32, group: Option<u32>) {
    bench.service = bench.admission.add_service(SETTINGS).unwrap();
    let settings = BackendSettings {
        group: group.map(GroupId),
        ..backend_settings(ceiling)
    };
    bench
        .admission
        .add_backend(Time::ZERO, bench.service, settings)
        .unwrap();
}

#[test]
fn back_ends_of_a_group_hold_no_more_than_its_ceiling() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(2, Some(0)), (2, Some(0))], &[3]);
    assert_eq!(bench.syn(0, 'a'), ["admit a1 to 0"]);
    assert_eq!(bench.syn(1, 'b'), ["admit b1 to 1"]);
    assert_eq!(bench.syn(2, 'c'), ["admit c1 to 0"]);
    assert_eq!(
        bench.syn(3, 'd'),
        NOTHING,
        "back-end 1 has room, its group has none"
    );
    assert_eq!(group(&bench, 0), (3, 3, 3));
    assert_eq!(bench.backend(1).group, Some(GroupId(0)));
    assert_eq!(bench.phase(4, 'a', RESET), ["admit d1 to 1 after 1 ms"]);
    assert_eq!(group(&bench, 0), (3, 3, 3));
}

#[test]
fn a_full_group_is_no_matter_to_the_others() {
    let mut bench = Bench::grouped(
        64,
        SETTINGS,
        &[(9, Some(0)), (9, None), (9, Some(1))],
        &[1, 1],
    );
    assert_eq!(bench.syn(0, 'a'), ["admit a1 to 0"]);
    assert_eq!(bench.syn(1, 'b'), ["admit b1 to 1"]);
    assert_eq!(bench.syn(2, 'c'), ["admit c1 to 2"]);
    assert_eq!(bench.syn(3, 'd'), ["admit d1 to 1"]);
    assert_eq!(bench.phase(4, 'c', RESET), NOTHING);
    assert_eq!(bench.syn(5, 'e'), ["admit e1 to 2"], "its turn was next");
}

#[test]
fn a_slot_of_a_group_goes_to_the_service_that_has_waited_longest() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(1, Some(0))], &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    let first = bench.service;
    turn_to_another_service(&mut bench, 5, Some(0));
    assert_eq!(bench.syn(2, 'c'), NOTHING);
    assert_eq!(bench.syn(3, 'd'), NOTHING);
    // The slot was one of the first service, but that had no use for it until now.
    assert_eq!(bench.phase(4, 'a', RESET), ["admit c1 to 1 after 2 ms"]);
    assert_eq!(bench.phase(5, 'c', RESET), ["admit b1 to 0 after 4 ms"]);
    assert_eq!(bench.phase(6, 'b', RESET), ["admit d1 to 1 after 3 ms"]);
    bench.service = first;
    assert_eq!(bench.waiting(), "");
}

#[test]
fn a_raised_group_ceiling_releases_at_once_and_a_lowered_one_cuts_nothing() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(9, Some(0)), (9, Some(0))], &[1]);
    for (at, client) in (0..).zip("abcd".chars()) {
        bench.syn(at, client);
    }
    assert_eq!(
        bench.set_group_ceiling(10, 0, 3),
        ["admit b1 to 1 after 9 ms", "admit c1 to 0 after 8 ms"]
    );
    assert_eq!(bench.set_group_ceiling(11, 0, 1), NOTHING);
    assert_eq!(bench.phase(12, 'a', ENDED), NOTHING);
    assert_eq!(bench.phase(13, 'b', ENDED), NOTHING);
    assert_eq!(group(&bench, 0), (1, 3, 1));
    assert_eq!(bench.phase(14, 'c', ENDED), ["admit d1 to 1 after 11 ms"]);
}

#[test]
fn a_back_end_takes_its_slots_into_another_group() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(2, Some(0)), (2, Some(0))], &[2, 1]);
    for (at, client) in (0..).zip("abc".chars()) {
        bench.syn(at, client);
    }
    let ceiling = bench.backend(0).settings.ceiling;
    let moved = |bench: &mut Bench, at, group: Option<u32>| {
        let group = group.map(GroupId);
        bench
            .admission
            .update_backend(ms(at), BackendId(0), ceiling, 1000, 1, group)
            .unwrap();
        bench.commands()
    };
    assert_eq!(moved(&mut bench, 5, Some(1)), ["admit c1 to 1 after 3 ms"]);
    assert_eq!(group(&bench, 0), (2, 2, 2));
    assert_eq!(group(&bench, 1), (1, 1, 1));
    assert_eq!(bench.syn(6, 'd'), NOTHING);
    assert_eq!(moved(&mut bench, 7, None), ["admit d1 to 0 after 1 ms"]);
    assert_eq!(group(&bench, 1), (0, 1, 1));
    assert_eq!(moved(&mut bench, 8, Some(1)), NOTHING);
    assert_eq!(
        group(&bench, 1),
        (2, 2, 1),
        "above its ceiling, and nothing is cut"
    );
}

#[test]
fn a_removed_back_end_holds_its_groups_slots_until_its_flows_end() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(1, Some(0)), (1, Some(0))], &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    bench.admission.remove_backend(ms(2), BackendId(0));
    assert_eq!(bench.commands(), NOTHING);
    assert_eq!(group(&bench, 0), (1, 1, 1));
    assert_eq!(bench.phase(3, 'a', ENDED), ["admit b1 to 1 after 2 ms"]);
}

#[test]
fn a_flow_that_was_adopted_holds_a_slot_of_its_group() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(2, Some(0))], &[1]);
    let id = FlowId {
        index: 0,
        generation: 1,
    };
    let (service, backend) = (bench.service, BackendId(0));
    bench
        .admission
        .adopt(ms(0), service, backend, key('a'), id, ESTABLISHED)
        .unwrap();
    assert_eq!(bench.syn(1, 'b'), NOTHING);
    bench.flows.insert('a', id);
    assert_eq!(bench.phase(2, 'a', ENDED), ["admit b1 to 0 after 1 ms"]);
}

#[test]
fn a_group_is_removed_once_nobody_is_in_it() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(1, Some(0))], &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    let remove = |bench: &mut Bench| bench.admission.remove_group(GroupId(0));
    assert_eq!(remove(&mut bench), Err(GroupInUse(1)));
    bench.admission.remove_backend(ms(2), BackendId(0));
    assert_eq!(remove(&mut bench), Err(GroupInUse(1)), "it has a flow left");
    bench.phase(3, 'a', ENDED);
    assert_eq!(bench.pass(1003), ["remove a from 0: Ended"]);
    assert_eq!(remove(&mut bench), Ok(()));
    assert_eq!(bench.admission.groups().count(), 0);

    let again = bench.admission.add_group(1).unwrap();
    assert_eq!(again, GroupId(0), "its number is used again");
    turn_to_another_service(&mut bench, 2, Some(0));
    assert_eq!(bench.syn(1004, 'c'), ["admit c1 to 0"]);
    assert_eq!(bench.syn(1005, 'd'), NOTHING);
    assert_eq!(bench.phase(1006, 'c', RESET), ["admit d1 to 0 after 1 ms"]);
}

#[test]
fn who_waits_for_the_flow_table_and_for_a_group_is_not_forgotten() {
    let mut bench = Bench::grouped(1, SETTINGS, &[(2, Some(0))], &[1]);
    bench.syn(0, 'a');
    assert_eq!(bench.syn(1, 'b'), NOTHING);
    turn_to_another_service(&mut bench, 1, Some(0));
    assert_eq!(bench.syn(2, 'c'), NOTHING);
    assert_eq!(
        bench.phase(3, 'a', ENDED),
        NOTHING,
        "the group has room, the table has none"
    );
    let told = bench.pass(1003);
    assert_eq!(
        told,
        ["remove a from 0: Ended", "admit b1 to 0 after 1002 ms"]
    );
    bench.phase(1004, 'b', ENDED);
    let told = bench.pass(2004);
    assert_eq!(
        told,
        ["remove b from 0: Ended", "admit c1 to 1 after 2002 ms"]
    );
}

#[test]
fn groups_have_bounds() {
    let mut bench = Bench::new(SETTINGS, &[]);
    let groups: Vec<_> = (0..GROUPS_MAX)
        .map(|_| bench.admission.add_group(1).unwrap())
        .collect();
    assert_eq!(bench.admission.add_group(1), Err(AddError::GroupsFull));
    let mut add = |group| {
        let settings = BackendSettings {
            group: Some(group),
            ..backend_settings(1)
        };
        bench.admission.add_backend(ms(0), bench.service, settings)
    };
    let (last, rest) = groups[..=GROUPS_PER_SERVICE_MAX as usize]
        .split_last()
        .unwrap();
    for group in rest {
        add(*group).unwrap();
    }
    assert_eq!(add(*last), Err(AddError::ServiceGroupsFull));
    assert_eq!(add(GroupId(GROUPS_MAX)), Err(AddError::NoGroup));
    assert_eq!(add(rest[0]), Ok(BackendId(GROUPS_PER_SERVICE_MAX)));

    let ceiling = bench.backend(0).settings.ceiling;
    let mut change = |backend, group| {
        let id = BackendId(backend);
        bench
            .admission
            .update_backend(ms(1), id, ceiling, 1000, 1, Some(group))
    };
    assert_eq!(change(0, *last), Err(AddError::ServiceGroupsFull));
    assert_eq!(change(0, GroupId(GROUPS_MAX)), Err(AddError::NoGroup));
    assert_eq!(change(1, *last), Ok(()), "it was the only one of its group");
    assert_eq!(bench.backend(0).group, Some(rest[0]));
    assert_eq!(bench.backend(1).group, Some(*last));
}
