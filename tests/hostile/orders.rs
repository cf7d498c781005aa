//! All orders of a connection's packets: the slot is freed exactly once, and never while both ends
//! talk. Short histories exhaustively, long ones at random.

use dispatcher_common::flow::Direction::{Forward, Reply};
use dispatcher_hostile::random::Random;
use dispatcher_hostile::wire::{Act, HOPS, Wire, history};

/// What can happen next at all.
fn possible(wire: &Wire) -> Vec<Act> {
    let mut acts = Vec::new();
    for from in [Forward, Reply] {
        let end = &wire.ends[from as usize];
        if end.may_send() {
            acts.extend([Act::Send(from, 100), Act::Close(from)]);
        }
        if end.state != dispatcher_hostile::end::State::Closed {
            acts.push(Act::Abort(from));
        }
        if end.is_owed() {
            acts.push(Act::Again(from));
        }
    }
    for hop in HOPS {
        let count = wire.under_way(hop);
        if count > 0 {
            acts.extend([Act::Deliver(hop, 0), Act::Lose(hop, 0), Act::Repeat(hop, 0)]);
        }
        if count > 1 {
            acts.push(Act::Deliver(hop, 1));
        }
    }
    acts
}

/// Everything of `depth` more steps, each followed to its end; tells how many there are.
fn explore(wire: &Wire, depth: u32) -> u64 {
    if depth == 0 {
        wire.clone().settle();
        return 1;
    }
    let next = |act| {
        let mut wire = wire.clone();
        wire.act(act);
        explore(&wire, depth - 1)
    };
    possible(wire).into_iter().map(next).sum()
}

#[test]
fn every_short_history_of_a_handshake_keeps_its_slot_as_long_as_both_talk() {
    let mut wire = Wire::new();
    wire.act(Act::Ask(u32::MAX));
    wire.act(Act::Deliver(HOPS[0], 0));
    let histories = explore(&wire, 5);
    assert!(histories > 5_000, "only {histories}");
}

#[test]
fn every_short_history_of_an_end_frees_the_slot_once() {
    let mut histories = 0;
    for first in [Act::Close(Forward), Act::Close(Reply), Act::Abort(Forward)] {
        let mut wire = Wire::established(7);
        wire.act(first);
        histories += explore(&wire, 4);
        // The FIN has passed; its acknowledgement is on its way.
        wire.act(Act::Deliver(
            HOPS[2 * usize::from(first == Act::Close(Reply))],
            0,
        ));
        histories += explore(&wire, 4);
    }
    let mut wire = Wire::established(0x7fff_fff0);
    wire.act(Act::Close(Forward));
    wire.act(Act::Close(Reply));
    histories += explore(&wire, 4);
    assert!(histories > 10_000, "only {histories}");
}

#[test]
fn long_histories_free_each_slot_once_and_never_while_both_talk() {
    const HISTORIES: u64 = 2_000;
    let (mut answered_twice, mut admitted, mut talked) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut random = Random::new(seed);
        let mut wire = Wire::new();
        let mut done = Vec::new();
        let length = 20 + random.below(200) as usize;
        history(&mut random, length, |act| {
            done.push(act);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wire.act(act)));
            assert!(caught.is_ok(), "seed {seed}: {done:?}");
            talked += u64::from(wire.both_talk());
        });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wire.settle()));
        assert!(caught.is_ok(), "seed {seed}: {done:?}, then nothing more");
        answered_twice += u64::from(wire.is_answered_twice);
        admitted += wire.admitted();
    }
    assert!(admitted > HISTORIES, "only {admitted} admitted");
    assert!(answered_twice < HISTORIES / 20, "{answered_twice} of them");
    assert!(talked > 10 * HISTORIES, "they talked {talked} times only");
}
