//! The life of a connection as the program sees and reports it: one event for each phase that user
//! space acts on, and none for what no receiver would accept.

use Sender::{Backend, Client};
use dispatcher_common::event::FlowEvent;
use dispatcher_common::flow::FlowPair;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, CLIENT_ONE, FAMILIES, FIN_ACK, Family, Packet, RST, RST_ACK, SYN, SYN_ACK,
    TcpFlags, VIP_ONE, verify,
};
use dispatcher_tests::program::{
    Action, CLIENT_ISN, FLOW, FLOW_GENERATION, Outcome, Program, Verdict, spec,
};

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sender {
    Client,
    Backend,
}

/// Initial sequence number of the back-end, near the end of the number space on purpose.
const BACKEND_ISN: u32 = 0xffff_fffe;
/// Next number of the client after the handshake, relative to its initial one.
const C: u32 = 1;
/// Next number of the back-end after the handshake, relative to its initial one.
const B: u32 = 1;

/// One segment: sender, flags, sequence number, acknowledgement number, bytes of data. Numbers are
/// relative to the initial ones, as in a capture.
type Step = (Sender, TcpFlags, u32, u32, usize);

const HANDSHAKE: [Step; 3] = [
    (Client, SYN, 0, 0, 0),
    (Backend, SYN_ACK, 0, C, 0),
    (Client, ACK, C, B, 0),
];

const ESTABLISHED: Phase = Phase::ANSWERED.with(Phase::ESTABLISHED);
const FINS: Phase = Phase::CLIENT_FIN.with(Phase::BACKEND_FIN);
const FINS_ACKED: Phase = Phase::CLIENT_FIN_ACKED.with(Phase::BACKEND_FIN_ACKED);
const CLOSED: Phase = ESTABLISHED.with(FINS).with(FINS_ACKED);
const SENT: Verdict = Verdict::Sent(Action::Redirect);

struct Conversation {
    program: Program,
    family: Family,
    pair: FlowPair,
}

impl Conversation {
    fn load() -> Self {
        let mut program = Program::load();
        let pair = program.install(&spec(Family::V4));
        Self {
            program,
            family: Family::V4,
            pair,
        }
    }

    /// A new flow in place of the one before; its SYN has not been forwarded.
    fn begin(&mut self, family: Family) {
        self.family = family;
        self.pair = self.program.install(&spec(family));
    }

    fn establish(&mut self, family: Family) {
        self.begin(family);
        assert_eq!(
            self.play(&HANDSHAKE),
            [event(ESTABLISHED, Phase::ESTABLISHED)]
        );
    }

    fn send(&mut self, (from, flags, seq, ack, data): Step) -> Outcome {
        let (packet, own_isn, peer_isn) = match from {
            Client => (Packet::tcp(CLIENT_ONE, VIP_ONE), CLIENT_ISN, BACKEND_ISN),
            Backend => (
                Packet::tcp(BACKEND_ONE, CLIENT_ONE),
                BACKEND_ISN,
                CLIENT_ISN,
            ),
        };
        let (seq, ack) = (own_isn.wrapping_add(seq), peer_isn.wrapping_add(ack));
        let packet = packet.over(self.family).flags(flags).seq(seq).ack(ack);
        self.program.run(&packet.payload(&vec![b'.'; data]).build())
    }

    /// Sends all, each of which must be sent on, and gives the events.
    fn play(&mut self, steps: &[Step]) -> Vec<FlowEvent> {
        for step in steps {
            let outcome = self.send(*step);
            assert_eq!(outcome.verdict(), SENT, "{step:?}");
            verify(&outcome.frame).unwrap();
        }
        self.program.events()
    }

    fn phase(&self) -> Phase {
        let forward = Phase(self.program.entry(&self.pair.forward_key).phase);
        let reply = Phase(self.program.entry(&self.pair.reply_key).phase);
        assert_eq!(forward, reply, "the copy follows at once on one processor");
        forward
    }
}

fn event(after: Phase, added: Phase) -> FlowEvent {
    FlowEvent {
        flow: FLOW,
        generation: FLOW_GENERATION,
        phase: after.0,
        added: added.0,
    }
}

#[test]
fn a_handshake_is_reported_once() {
    let mut conversation = Conversation::load();
    for family in FAMILIES {
        conversation.begin(family);
        let [syn, syn_ack, ack] = HANDSHAKE;
        assert_eq!(
            conversation.play(&[syn, syn]),
            [],
            "requests, also repeated"
        );
        assert_eq!(conversation.phase(), Phase::default());
        assert_eq!(conversation.play(&[syn_ack, syn_ack, syn]), []);
        assert_eq!(conversation.phase(), Phase::ANSWERED);
        let established = event(ESTABLISHED, Phase::ESTABLISHED);
        assert_eq!(conversation.play(&[ack]), [established]);
        let again = [
            ack,
            syn_ack,
            syn,
            (Client, ACK, C, B, 10),
            (Backend, ACK, B, C + 10, 10),
        ];
        assert_eq!(conversation.play(&again), []);
        assert_eq!(conversation.phase(), ESTABLISHED);
    }
}

#[test]
fn a_request_with_data_in_its_last_acknowledgement_is_established() {
    let mut conversation = Conversation::load();
    conversation.begin(Family::V4);
    conversation.play(&HANDSHAKE[..2]);
    let events = conversation.play(&[(Client, ACK.with(TcpFlags::PSH), C, B, 100)]);
    assert_eq!(events, [event(ESTABLISHED, Phase::ESTABLISHED)]);
}

#[test]
fn an_answer_to_another_request_is_none() {
    let mut conversation = Conversation::load();
    conversation.begin(Family::V4);
    let old = (Backend, SYN_ACK, BACKEND_ISN, C + 7, 0);
    assert_eq!(conversation.play(&[HANDSHAKE[0], old, HANDSHAKE[2]]), []);
    assert_eq!(conversation.phase(), Phase::default());
}

/// Every way in which both sides close, as steps after the handshake; `ended` comes with the last.
#[test]
fn a_connection_ends_with_the_acknowledgement_of_the_second_fin() {
    let mut conversation = Conversation::load();
    let stories: [(&str, Phase, Vec<Step>); 6] = [
        (
            "the client closes, the back-end follows",
            Phase::CLIENT_FIN,
            vec![
                (Client, FIN_ACK, C, B, 0),
                (Backend, ACK, B, C + 1, 0),
                (Backend, FIN_ACK, B, C + 1, 0),
                (Client, ACK, C + 1, B + 1, 0),
            ],
        ),
        (
            "the back-end closes, the client follows",
            Phase::BACKEND_FIN,
            vec![
                (Backend, FIN_ACK, B, C, 0),
                (Client, ACK, C, B + 1, 0),
                (Client, FIN_ACK, C, B + 1, 0),
                (Backend, ACK, B + 1, C + 1, 0),
            ],
        ),
        (
            "FIN and acknowledgement in one",
            Phase::CLIENT_FIN,
            vec![
                (Client, FIN_ACK, C, B, 0),
                (Backend, FIN_ACK, B, C + 1, 0),
                (Client, ACK, C + 1, B + 1, 0),
            ],
        ),
        (
            "both at once",
            Phase::CLIENT_FIN,
            vec![
                (Client, FIN_ACK, C, B, 0),
                (Backend, FIN_ACK, B, C, 0),
                (Client, ACK, C + 1, B + 1, 0),
                (Backend, ACK, B + 1, C + 1, 0),
            ],
        ),
        (
            "one side goes on for long after the other closed",
            Phase::CLIENT_FIN,
            vec![
                (Client, FIN_ACK, C, B, 100),
                (Backend, ACK, B, C + 101, 1000),
                (Client, ACK, C + 101, B + 1000, 0),
                (Backend, FIN_ACK, B + 1000, C + 101, 500),
                (Client, ACK, C + 101, B + 1501, 0),
            ],
        ),
        (
            "a FIN was lost behind the dispatcher and comes again",
            Phase::BACKEND_FIN,
            vec![
                (Backend, FIN_ACK, B, C, 10),
                (Backend, FIN_ACK, B, C, 10),
                (Client, FIN_ACK, C, B + 11, 0),
                (Client, FIN_ACK, C, B + 11, 0),
                (Backend, ACK, B + 11, C + 1, 0),
            ],
        ),
    ];
    for family in FAMILIES {
        for (story, first, steps) in &stories {
            conversation.establish(family);
            let (last, before) = steps.split_last().unwrap();
            let closing = event(ESTABLISHED.with(*first), *first);
            assert_eq!(conversation.play(before), [closing], "{story}");
            let events = conversation.play(&[*last]);
            let [ended] = events[..] else {
                panic!("{story}: {events:?}");
            };
            assert_eq!(ended.phase, CLOSED.0, "{story}");
            assert_eq!(
                conversation.play(&[*last, *last]),
                [],
                "{story}: and only once"
            );
        }
    }
}

#[test]
fn a_reset_that_its_receiver_obeys_ends_the_connection() {
    let mut conversation = Conversation::load();
    let rows: [(&str, &[Step], Step); 6] = [
        ("the client gives up", &HANDSHAKE, (Client, RST, C, 0, 0)),
        (
            "the back-end gives up",
            &HANDSHAKE,
            (Backend, RST_ACK, B, C, 0),
        ),
        (
            "the back-end refuses",
            &HANDSHAKE[..1],
            (Backend, RST_ACK, 0, C, 0),
        ),
        (
            "the client takes its request back",
            &HANDSHAKE[..1],
            (Client, RST, C, 0, 0),
        ),
        (
            "the client does not know of a request",
            &HANDSHAKE[..2],
            (Client, RST, C, 0, 0),
        ),
        (
            "the back-end takes its answer back",
            &HANDSHAKE[..2],
            (Backend, RST, B, 0, 0),
        ),
    ];
    for family in FAMILIES {
        for (story, before, reset) in rows {
            conversation.begin(family);
            conversation.play(before);
            let phase = conversation.phase();
            let events = conversation.play(&[reset, reset]);
            assert_eq!(
                events,
                [event(phase.with(Phase::RESET), Phase::RESET)],
                "{story}"
            );
            assert!(conversation.phase().is_ended(), "{story}");
        }
    }
}

#[test]
fn a_reset_among_data_in_flight_is_obeyed_within_what_was_sent() {
    let mut conversation = Conversation::load();
    let in_flight: [Step; 2] = [(Client, ACK, C, B, 1000), (Client, ACK, C + 1000, B, 1000)];
    for (seq, obeyed) in [
        (C - 1, false),
        (C, true),
        (C + 2000, true),
        (C + 2001, false),
    ] {
        conversation.establish(Family::V4);
        conversation.play(&in_flight);
        conversation.play(&[(Client, RST, seq, 0, 0)]);
        assert_eq!(conversation.phase().is_ended(), obeyed, "RST at {seq}");
    }
}

#[test]
fn what_no_receiver_would_accept_changes_nothing_and_is_sent_on() {
    let mut conversation = Conversation::load();
    const FAR: u32 = 1 << 30;
    let forged: [(&str, Step); 9] = [
        ("RST before the window", (Client, RST, C - 1, 0, 0)),
        ("RST behind the window", (Client, RST, C + 1, 0, 0)),
        ("RST far away", (Client, RST, C + FAR, 0, 0)),
        (
            "RST of a back-end before the window",
            (Backend, RST, B - 1, 0, 0),
        ),
        (
            "RST of a back-end far away",
            (Backend, RST_ACK, B + FAR, C, 0),
        ),
        (
            "FIN of old data",
            (Client, FIN_ACK, C.wrapping_sub(100), B, 0),
        ),
        ("FIN far away", (Client, FIN_ACK, C + FAR, B, 0)),
        (
            "FIN of a back-end far away",
            (Backend, FIN_ACK, B + FAR, C, 0),
        ),
        (
            "SYN and ACK of nothing",
            (Backend, SYN_ACK, B + FAR, C + FAR, 0),
        ),
    ];
    for family in FAMILIES {
        for (story, step) in forged {
            conversation.establish(family);
            assert_eq!(conversation.play(&[step]), [], "{story}");
            assert_eq!(conversation.phase(), ESTABLISHED, "{story}");
            let reset = [(Client, RST, C, 0, 0)];
            let ended = event(ESTABLISHED.with(Phase::RESET), Phase::RESET);
            assert_eq!(
                conversation.play(&reset),
                [ended],
                "{story}: the true one counts"
            );
        }
    }
}

#[test]
fn forged_data_does_not_hide_the_true_end() {
    let mut conversation = Conversation::load();
    const FAR: u32 = 1 << 30;
    for family in FAMILIES {
        for forged in [
            (Client, ACK, C + FAR, B + FAR, 10),
            (Backend, ACK, B + FAR, C + FAR, 10),
        ] {
            conversation.establish(family);
            assert_eq!(conversation.play(&[forged]), []);
            for far_reset in [
                (Client, RST, C + 1000, 0, 0),
                (Backend, RST, B + 1000, 0, 0),
            ] {
                assert_eq!(conversation.play(&[far_reset]), [], "after {forged:?}");
            }
            conversation.play(&[
                (Client, FIN_ACK, C, B, 0),
                (Backend, FIN_ACK, B, C + 1, 0),
                (Client, ACK, C + 1, B + 1, 0),
            ]);
            assert!(conversation.phase().is_ended(), "after {forged:?}");
        }
    }
}

#[test]
fn a_request_on_a_flow_that_has_ended_is_a_new_connection() {
    let mut conversation = Conversation::load();
    for family in FAMILIES {
        conversation.establish(family);
        let request = (Client, SYN, 77_000, 0, 0);
        assert_eq!(
            conversation.send(request).verdict(),
            SENT,
            "it has not ended yet"
        );
        conversation.play(&[(Client, RST, C, 0, 0)]);
        let outcome = conversation.send(request);
        let punted = Verdict::Dropped(DropReason::Unattended);
        assert_eq!(
            outcome.verdict(),
            punted,
            "it meets the empty socket, so it was punted"
        );
        let late = (Backend, ACK, B, C, 0);
        assert_eq!(
            conversation.send(late).verdict(),
            SENT,
            "what is late is sent on"
        );
        let ecn = (Client, SYN.with(TcpFlags(0xc0)), 77_000, 0, 0);
        assert_eq!(conversation.send(ecn).verdict(), punted);
    }
}

#[test]
fn packets_go_on_while_the_other_entry_is_gone() {
    let mut conversation = Conversation::load();
    conversation.begin(Family::V4);
    let reply_key = conversation.pair.reply_key;
    conversation.program.flows.remove(&reply_key).unwrap();
    let steps = [
        HANDSHAKE[0],
        HANDSHAKE[2],
        (Client, FIN_ACK, C, B, 0),
        (Client, RST, C, 0, 0),
    ];
    assert_eq!(conversation.play(&steps), []);
    let lone = conversation.send((Backend, ACK, B, C, 0));
    assert_eq!(
        lone.verdict(),
        Verdict::Passed,
        "not to a service: the host's"
    );
}

#[test]
fn a_full_ring_loses_events_and_counts_them_and_nothing_else_changes() {
    let mut conversation = Conversation::load();
    let mut reset = |sentence: &str| {
        conversation.begin(Family::V4);
        let outcome = conversation.send((Client, RST, C, 0, 0));
        assert_eq!(outcome.verdict(), SENT, "{sentence}");
        verify(&outcome.frame).unwrap();
        assert!(conversation.phase().is_ended(), "{sentence}");
        outcome.lost_an_event()
    };
    // 4096 bytes hold 170 records of 16 bytes and a header of 8.
    let lost = (0..200).filter(|n| reset(&format!("reset {n}"))).count();
    assert!((30..=31).contains(&lost), "{lost} of 200 were lost");
    assert_eq!(conversation.program.events().len(), 200 - lost);
    conversation.begin(Family::V4);
    let events = conversation.play(&[(Client, RST, C, 0, 0)]);
    assert_eq!(
        events,
        [event(Phase::RESET, Phase::RESET)],
        "there is room again"
    );
}
