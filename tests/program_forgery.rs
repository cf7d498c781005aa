//! What a forger sends who does not see the connection: it goes on to its receiver, which knows
//! better, and in the program nothing comes of it. No phase, no event, no time, no clock.

use dispatcher_common::flow::{Direction, FlowEntry, FlowPair};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{NEAR, Phase, WINDOW_MAX};
use dispatcher_common::verdict::DropReason;
use dispatcher_hostile::random::Random;
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, CLIENT_ONE, CLIENT_TWO, FAMILIES, FIN_ACK, Family, Packet, RST, RST_ACK, SYN,
    SYN_ACK, VIP_ONE,
};
use dispatcher_tests::program::{Action, BACKEND, CLIENT_ISN, Program, TICKS, Verdict, spec};

const SENT: Verdict = Verdict::Sent(Action::Redirect);
/// Next numbers of the client and of the back-end after the handshake.
const NEXT: [u32; 2] = [CLIENT_ISN + 1, 0xffff_ffff];

struct Victim {
    program: Program,
    family: Family,
    pair: FlowPair,
}

impl Victim {
    /// An established connection on which nothing has been said, seen last at [`TICKS`].
    fn established(mut program: Program, family: Family) -> Self {
        program.control(|_| {});
        let pair = program.install(&spec(family));
        let mut victim = Self {
            program,
            family,
            pair,
        };
        let [client, backend] = NEXT;
        victim.send(Direction::Forward, SYN, client.wrapping_sub(1), 0, 0);
        victim.send(
            Direction::Reply,
            SYN_ACK,
            backend.wrapping_sub(1),
            client,
            0,
        );
        victim.send(Direction::Forward, ACK, client, backend, 0);
        assert_eq!(victim.program.events().len(), 1);
        victim
            .program
            .control(|control| control.ticks = TICKS + 100);
        victim
    }

    fn send(&mut self, from: Direction, flags: TcpFlags, seq: u32, ack: u32, payload: usize) {
        let packet = match from {
            Direction::Forward => Packet::tcp(CLIENT_ONE, VIP_ONE),
            Direction::Reply => Packet::tcp(BACKEND_ONE, CLIENT_ONE),
        };
        let packet = packet.over(self.family).flags(flags).seq(seq).ack(ack);
        let outcome = self
            .program
            .run(&packet.payload(&vec![b'.'; payload]).build());
        assert_eq!(outcome.verdict(), SENT);
    }

    /// Both entries, without what only counts packets.
    fn entries(&self) -> [FlowEntry; 2] {
        [self.pair.forward_key, self.pair.reply_key].map(|key| FlowEntry {
            packets: 0,
            bytes: 0,
            ..self.program.entry(&key)
        })
    }
}

/// Flags that a forger may try: everything but those of a connection request on an ended flow.
const TRIED: [TcpFlags; 7] = [ACK, FIN_ACK, RST, RST_ACK, SYN, SYN_ACK, TcpFlags(0xff)];

#[test]
fn numbers_outside_the_window_free_no_slot_move_no_time_and_change_no_phase() {
    let mut program = Program::load();
    let mut random = Random::new(5);
    for family in FAMILIES {
        let mut victim = Victim::established(program, family);
        let before = victim.entries();
        let requests = victim.program.backend(BACKEND).requests;
        assert_eq!(before.map(|entry| entry.last_seen), [TICKS; 2]);
        for (n, from) in [Direction::Forward, Direction::Reply]
            .into_iter()
            .cycle()
            .take(700)
            .enumerate()
        {
            let [own, peer] = [NEXT[from as usize], NEXT[from.reversed() as usize]];
            let flags = TRIED[n / 6 % TRIED.len()];
            let mut off = |by: u32| by + 1 + random.below(u32::MAX - 2 * by - 4096);
            let (seq, ack) = match n / 2 % 3 {
                // What acknowledges all that was sent may be as far ahead as a window is wide.
                0 => (own.wrapping_add(off(WINDOW_MAX)), peer),
                // An RST stands for itself: its acknowledgement proves nothing (RFC 9293 3.10.7.4).
                1 if flags.any(RST) => (own.wrapping_add(off(0)), peer.wrapping_add(off(NEAR))),
                1 => (own, peer.wrapping_add(off(NEAR))),
                _ => (own.wrapping_add(off(NEAR)), peer.wrapping_add(off(NEAR))),
            };
            victim.send(from, flags, seq, ack, n % 3 * 10);
            assert_eq!(victim.entries(), before, "{from:?} {flags:?} {seq} {ack}");
        }
        assert_eq!(victim.program.events(), []);
        assert_eq!(victim.program.backend(BACKEND).requests, requests);

        // The true ones count.
        let [client, backend] = NEXT;
        victim.send(Direction::Forward, ACK, client, backend, 10);
        victim.send(Direction::Reply, ACK, backend, client + 10, 10);
        let [forward, reply] = victim.entries();
        assert_eq!([forward.last_seen, reply.last_seen], [TICKS + 100; 2]);
        victim.send(Direction::Reply, RST, backend.wrapping_add(10), 0, 0);
        assert!(Phase(victim.entries()[0].phase).is_ended());
        assert_eq!(victim.program.events().len(), 1);
        program = victim.program;
    }
}

#[test]
fn a_keep_alive_moves_the_time_though_it_stands_before_the_window() {
    let mut program = Program::load();
    for family in FAMILIES {
        let mut victim = Victim::established(program, family);
        let [client, backend] = NEXT;
        victim.send(Direction::Forward, ACK, client.wrapping_sub(1), backend, 0);
        assert_eq!(victim.entries()[0].last_seen, TICKS + 100);
        victim.send(Direction::Reply, ACK, backend.wrapping_sub(1), client, 1);
        assert_eq!(victim.entries()[1].last_seen, TICKS + 100);
        program = victim.program;
    }
}

#[test]
fn a_flood_of_what_has_no_flow_touches_nothing_but_its_counter() {
    let mut program = Program::load();
    let mut victim = Victim::established(program, Family::V4);
    let untouched = victim.entries();
    let backend = victim.program.backend(BACKEND);
    program = victim.program;
    for family in FAMILIES {
        for n in 0..500u16 {
            let flags = [ACK, RST, RST_ACK, FIN_ACK, SYN_ACK][usize::from(n) % 5];
            let flood = Packet::tcp(CLIENT_TWO.at(1024 + n), VIP_ONE).over(family);
            let frame = flood.flags(flags).seq(u32::from(n) << 16).build();
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), Verdict::Dropped(DropReason::NoFlow));
            assert_eq!(outcome.frame, frame, "nor is it written to");
        }
    }
    assert_eq!(program.flows.iter().count(), 2);
    assert_eq!(program.events(), []);
    victim = Victim {
        program,
        family: Family::V4,
        pair: victim.pair,
    };
    assert_eq!(victim.entries(), untouched);
    assert_eq!(victim.program.backend(BACKEND), backend);
}
