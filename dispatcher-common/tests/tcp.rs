//! The life of generated connections, seen from the middle: two honest ends, a network that loses,
//! repeats and reorders, and forgers. Invariants hold after every segment.

use dispatcher_common::flow::Direction::{self, Forward, Reply};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{Phase, SegmentView, Track, advance, before, within};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const ACK: TcpFlags = TcpFlags::ACK;
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

/// What the program keeps of a flow.
#[derive(Clone, Copy)]
struct Watcher {
    phase: Phase,
    tracks: [Track; 2],
}

impl Watcher {
    fn of_syn(isn: u32) -> Self {
        Self {
            phase: Phase::default(),
            tracks: [Track::of_syn(isn), Track::default()],
        }
    }

    fn see(&mut self, direction: Direction, segment: SegmentView) {
        let (own, peer) = (direction as usize, direction.reversed() as usize);
        let (tracks, before) = (self.tracks, self.phase);
        let step = advance(before, direction, &segment, tracks[own], tracks[peer]);
        let Some((bits, track)) = step else {
            return;
        };
        assert_eq!(bits.0 & before.0, 0, "a bit is added once");
        self.tracks[own] = track;
        self.phase = before.with(bits);
        assert!(self.phase.has(before), "phases are only ever entered");
    }
}

/// One end of a connection. It sends one byte or its FIN at a time.
#[derive(Clone, Copy)]
struct End {
    next: u32,
    fin_sent: bool,
    /// What it has received in order; one past the FIN once that came.
    received: u32,
}

/// Two ends and the segments under way from each to the dispatcher.
struct Connection {
    ends: [End; 2],
    history: [Vec<SegmentView>; 2],
    watcher: Watcher,
}

fn segment(flags: TcpFlags, seq: u32, ack: u32, payload: u32) -> SegmentView {
    SegmentView {
        flags,
        seq,
        ack,
        payload,
    }
}

impl Connection {
    /// After the handshake.
    fn established(client_isn: u32, backend_isn: u32) -> Self {
        let (client, backend) = (client_isn.wrapping_add(1), backend_isn.wrapping_add(1));
        let mut watcher = Watcher::of_syn(client_isn);
        watcher.see(Forward, segment(TcpFlags::SYN, client_isn, 0, 0));
        watcher.see(Reply, segment(SYN_ACK, backend_isn, client, 0));
        watcher.see(Forward, segment(ACK, client, backend, 0));
        assert!(watcher.phase.is_steady(), "{:?}", watcher.phase);
        let end = |next, received| End {
            next,
            fin_sent: false,
            received,
        };
        Self {
            ends: [end(client, backend), end(backend, client)],
            history: [Vec::new(), Vec::new()],
            watcher,
        }
    }

    /// An end sends; the dispatcher sees it, and the other end gets it unless it is lost.
    fn send(&mut self, from: Direction, fin: bool, payload: u32, lost: bool) {
        let (own, peer) = (from as usize, from.reversed() as usize);
        let end = &mut self.ends[own];
        let (fin, payload) = if end.fin_sent {
            (false, 0)
        } else {
            (fin, payload)
        };
        let flags = if fin { FIN_ACK } else { ACK };
        let sent = segment(flags, end.next, end.received, payload);
        end.next = sent.seq_end();
        end.fin_sent |= fin;
        self.history[own].push(sent);
        self.watcher.see(from, sent);
        if !lost {
            self.deliver(peer, sent);
        }
    }

    fn deliver(&mut self, to: usize, sent: SegmentView) {
        if sent.seq == self.ends[to].received {
            self.ends[to].received = sent.seq_end();
        }
    }

    /// A segment from before comes again, late or retransmitted.
    fn again(&mut self, from: Direction, which: usize) {
        let own = from as usize;
        if self.history[own].is_empty() {
            return;
        }
        let sent = self.history[own][which % self.history[own].len()];
        self.watcher.see(from, sent);
        self.deliver(from.reversed() as usize, sent);
    }

    /// Whether `end` has its FIN acknowledged in what its peer knows.
    fn fin_received(&self, end: Direction) -> bool {
        let (own, peer) = (
            &self.ends[end as usize],
            &self.ends[end.reversed() as usize],
        );
        own.fin_sent && peer.received == own.next
    }

    /// Everything lost comes again in order, then both acknowledge.
    fn settle(&mut self) {
        for from in [Forward, Reply] {
            for which in 0..self.history[from as usize].len() {
                self.again(from, which);
            }
        }
        for from in [Forward, Reply, Forward] {
            self.send(from, false, 0, false);
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Send {
        from: Direction,
        fin: bool,
        payload: u32,
        lost: bool,
    },
    Again {
        from: Direction,
        which: usize,
    },
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Forward), Just(Reply)]
}

fn act() -> impl Strategy<Value = Act> {
    let fin = prop::bool::weighted(0.15);
    let payload = prop_oneof![Just(0), Just(1), 1..3000u32];
    let lost = prop::bool::weighted(0.2);
    prop_oneof![
        4 => (direction(), fin, payload, lost)
            .prop_map(|(from, fin, payload, lost)| Act::Send { from, fin, payload, lost }),
        1 => (direction(), any::<usize>()).prop_map(|(from, which)| Act::Again { from, which }),
    ]
}

/// How far a forger is off: farther than any window, on either side.
const FAR: std::ops::Range<u32> = 1 << 27..7 << 29;

/// Initial numbers, often next to where they wrap.
fn isn() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0xffff_f000..=u32::MAX,
        Just(0x7fff_ffff),
        Just(0)
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(793),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_connection_ends_when_both_ends_know_and_never_before(
        isns in (isn(), isn()),
        acts in prop::collection::vec(act(), 0..40),
    ) {
        let mut connection = Connection::established(isns.0, isns.1);
        for act in acts {
            match act {
                Act::Send { from, fin, payload, lost } => connection.send(from, fin, payload, lost),
                Act::Again { from, which } => connection.again(from, which),
            }
            let both = connection.fin_received(Forward) && connection.fin_received(Reply);
            prop_assert!(both || !connection.watcher.phase.is_ended(), "an end still talks");
        }
        connection.settle();
        let both = connection.ends.iter().all(|end| end.fin_sent);
        prop_assert_eq!(connection.watcher.phase.is_ended(), both, "and all that is due was said");
        let any = connection.ends.iter().any(|end| end.fin_sent);
        prop_assert_eq!(connection.watcher.phase.is_closing(), any && !both);
    }

    #[test]
    fn a_reset_at_the_number_that_its_receiver_expects_ends_any_connection(
        isns in (isn(), isn()),
        acts in prop::collection::vec(act(), 0..20),
        from in direction(),
    ) {
        let mut connection = Connection::established(isns.0, isns.1);
        for act in acts {
            if let Act::Send { from, fin, payload, lost } = act {
                connection.send(from, fin, payload, lost);
            }
        }
        // The receiver has said how far it is, or the sender would not know.
        connection.send(from.reversed(), false, 0, false);
        let expected = connection.ends[from.reversed() as usize].received;
        connection.watcher.see(from, segment(TcpFlags::RST, expected, 0, 0));
        prop_assert!(connection.watcher.phase.has(Phase::RESET));
    }

    #[test]
    fn a_forger_who_misses_the_window_ends_nothing_and_hides_nothing(
        isns in (isn(), isn()),
        forged in prop::collection::vec((direction(), any::<u8>(), FAR, FAR), 1..30),
    ) {
        let mut connection = Connection::established(isns.0, isns.1);
        for (from, flags, seq, ack) in forged {
            let [own, peer] = [from, from.reversed()].map(|end| connection.ends[end as usize]);
            let (seq, ack) = (own.next.wrapping_add(seq), peer.next.wrapping_add(ack));
            let far = segment(TcpFlags(flags), seq, ack, 1);
            connection.watcher.see(from, far);
            prop_assert!(connection.watcher.phase.is_steady(), "{:?}", far);
        }
        connection.send(Forward, true, 10, false);
        connection.send(Reply, true, 10, false);
        connection.settle();
        prop_assert!(connection.watcher.phase.is_ended());
    }

    #[test]
    fn comparison_is_modular(a in any::<u32>(), ahead in 1..(1u32 << 31)) {
        let b = a.wrapping_add(ahead);
        prop_assert!(before(a, b) && !before(b, a) && !before(a, a));
        prop_assert!(within(b, a, b) && within(a, a, b));
        prop_assert!(ahead == i32::MAX as u32 || !within(b.wrapping_add(1), a, b));
        prop_assert!(!within(a, b, a));
    }
}

/// Orders of a close in which nothing is lost: all of them, by choosing at each step who sends.
#[test]
fn every_order_of_two_closes_ends_exactly_at_the_last_acknowledgement() {
    let mut ended = 0;
    for order in 0..1u32 << 10 {
        let mut connection = Connection::established(u32::MAX, 7);
        for step in 0..10 {
            let from = if order >> step & 1 == 0 {
                Forward
            } else {
                Reply
            };
            let first = !connection.ends[from as usize].fin_sent;
            connection.send(from, first && step > 1, 1, false);
            let told = |end: Direction| {
                let peer = end.reversed() as usize;
                let acked = connection.history[peer].last().map(|sent| sent.ack);
                connection.ends[end as usize].fin_sent
                    && acked == Some(connection.ends[end as usize].next)
            };
            let both = told(Forward) && told(Reply);
            assert_eq!(
                connection.watcher.phase.is_ended(),
                both,
                "{order:010b} at {step}"
            );
            ended += u32::from(both);
        }
    }
    assert!(ended > 1000, "{ended}");
}
