//! A back-end that refuses a request, as the program sees it: while a daemon runs, user space is
//! told once and the client hears nothing; without one, the client is told, since nobody would.

use dispatcher_common::event::FlowEvent;
use dispatcher_common::flow::FlowPair;
use dispatcher_common::measure::Kind;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, CLIENT_ONE, FAMILIES, Family, Packet, RST, RST_ACK, SYN, SYN_ACK, TcpFlags,
    VIP_ONE, verify,
};
use dispatcher_tests::program::{
    Action, BACKEND, CLIENT_ISN, FLOW, FLOW_GENERATION, INGRESS, Outcome, Program, PuntSocket,
    Verdict, spec,
};

const BACKEND_ISN: u32 = 77_000;
const SENT: Verdict = Verdict::Sent(Action::Redirect);
const KEPT: Verdict = Verdict::Dropped(DropReason::RefusedByBackend);

/// A flow whose SYN was forwarded, and a daemon's socket where packets come in.
struct Request {
    program: Program,
    socket: Option<PuntSocket>,
    family: Family,
    pair: FlowPair,
}

impl Request {
    fn attended() -> Self {
        let mut program = Program::load();
        let socket = PuntSocket::open();
        program.attend(0, &socket);
        program.link(INGRESS, 0, 1);
        for kind in Kind::ALL {
            program.measure(BACKEND, kind);
        }
        let pair = program.install(&spec(Family::V4));
        Self {
            program,
            socket: Some(socket),
            family: Family::V4,
            pair,
        }
    }

    fn begin(&mut self, family: Family) {
        self.family = family;
        self.pair = self.program.install(&spec(family));
    }

    fn client(&mut self, flags: TcpFlags, seq: u32) -> Outcome {
        let packet = Packet::tcp(CLIENT_ONE, VIP_ONE).over(self.family);
        let ack = BACKEND_ISN + 1;
        self.program
            .run(&packet.flags(flags).seq(seq).ack(ack).build())
    }

    fn backend(&mut self, flags: TcpFlags, seq: u32, ack: u32) -> Outcome {
        let packet = Packet::tcp(BACKEND_ONE, CLIENT_ONE).over(self.family);
        self.program
            .run(&packet.flags(flags).seq(seq).ack(ack).build())
    }

    /// The RST that answers the SYN.
    fn refuse(&mut self) -> Outcome {
        self.backend(RST_ACK, 0, CLIENT_ISN + 1)
    }

    fn phase(&self) -> Phase {
        Phase(self.program.entry(&self.pair.forward_key).phase)
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
fn a_refusal_is_reported_once_and_kept_from_the_client() {
    let mut request = Request::attended();
    for family in FAMILIES {
        request.begin(family);
        let outcome = request.refuse();
        assert_eq!(outcome.verdict(), KEPT);
        assert_eq!(
            request.program.events(),
            [event(Phase::REFUSED, Phase::REFUSED)]
        );
        for again in [RST_ACK, SYN_ACK, ACK] {
            let outcome = request.backend(again, BACKEND_ISN, CLIENT_ISN + 1);
            assert_eq!(outcome.verdict(), KEPT, "{again:?} after it");
        }
        assert_eq!(request.program.events(), []);
        assert_eq!(request.phase(), Phase::REFUSED);
        let reply = request.program.entry(&request.pair.reply_key);
        assert_eq!(Phase(reply.phase), Phase::REFUSED, "the copy follows");
    }
}

#[test]
fn a_refusal_is_no_fast_answer() {
    let mut request = Request::attended();
    request.begin(Family::V4);
    request.refuse();
    for kind in Kind::ALL {
        let times = request.program.times(BACKEND, kind);
        assert!(
            times
                .iter()
                .all(|times| times.buckets.iter().all(|&n| n == 0)),
            "{kind:?}"
        );
    }
}

#[test]
fn the_clients_retransmission_is_user_spaces_until_that_has_acted() {
    let mut request = Request::attended();
    for family in FAMILIES {
        request.begin(family);
        assert_eq!(request.client(SYN, CLIENT_ISN).verdict(), SENT);
        request.refuse();
        for isn in [CLIENT_ISN, CLIENT_ISN + 5000] {
            assert_eq!(request.client(SYN, isn).verdict(), Verdict::Punted);
        }
    }
}

#[test]
fn a_client_that_takes_its_refused_request_back_has_ended_it() {
    let mut request = Request::attended();
    request.begin(Family::V4);
    request.refuse();
    assert_eq!(request.client(RST, CLIENT_ISN + 1).verdict(), SENT);
    let ended = Phase::REFUSED.with(Phase::RESET);
    assert_eq!(
        request.program.events(),
        [
            event(Phase::REFUSED, Phase::REFUSED),
            event(ended, Phase::RESET)
        ]
    );
    assert!(request.phase().is_ended() && !request.phase().is_refused());
}

#[test]
fn what_does_not_refuse_the_request_is_sent_on_and_reported_as_ever() {
    let mut request = Request::attended();
    for family in FAMILIES {
        // Another number, or none.
        for (flags, ack) in [
            (RST_ACK, CLIENT_ISN),
            (RST_ACK, CLIENT_ISN + 2),
            (RST, CLIENT_ISN + 1),
        ] {
            request.begin(family);
            assert_eq!(request.backend(flags, 0, ack).verdict(), SENT);
            assert_eq!(request.program.events(), []);
            assert_eq!(request.phase(), Phase::default());
        }
        // An answer that is taken back reaches who has seen it.
        request.begin(family);
        request.backend(SYN_ACK, BACKEND_ISN, CLIENT_ISN + 1);
        let outcome = request.backend(RST_ACK, BACKEND_ISN + 1, CLIENT_ISN + 1);
        assert_eq!(outcome.verdict(), SENT);
        let reset = Phase::ANSWERED.with(Phase::RESET);
        assert_eq!(request.program.events(), [event(reset, Phase::RESET)]);
    }
}

#[test]
fn a_client_that_asked_anew_is_refused_by_the_answer_to_that() {
    let mut request = Request::attended();
    request.begin(Family::V4);
    request.client(SYN, 9000);
    assert_eq!(request.refuse().verdict(), SENT, "to what it has given up");
    assert_eq!(request.program.events(), []);
    assert_eq!(request.backend(RST_ACK, 0, 9001).verdict(), KEPT);
    assert_eq!(
        request.program.events(),
        [event(Phase::REFUSED, Phase::REFUSED)]
    );
}

#[test]
fn while_no_daemon_runs_the_refusal_is_the_clients() {
    let mut request = Request::attended();
    request.socket = None;
    for family in FAMILIES {
        request.begin(family);
        let outcome = request.refuse();
        assert_eq!(outcome.verdict(), SENT);
        verify(&outcome.frame).unwrap();
        assert_eq!(
            request.program.events(),
            [event(Phase::RESET, Phase::RESET)]
        );
    }
}

#[test]
fn a_refusal_that_the_daemon_has_not_acted_upon_waits_for_the_next_one() {
    let mut request = Request::attended();
    request.begin(Family::V4);
    request.refuse();
    request.socket = None;
    let outcome = request.client(SYN, CLIENT_ISN);
    let unattended = Verdict::Dropped(DropReason::Unattended);
    assert_eq!(outcome.verdict(), unattended);
    // Should the back-end say it once more, the client is told.
    assert_eq!(request.refuse().verdict(), SENT);
    assert!(request.phase().is_ended());
}
