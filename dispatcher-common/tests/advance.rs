//! Tables of the state machine: which bits one segment adds to a phase.

use dispatcher_common::flow::Direction::{self, Forward, Reply};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{
    FIN_AHEAD_MAX, HANDSHAKE_SLACK_MAX, JUMP_MAX, Phase, SegmentView, Track, advance, refuses,
};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const SYN_ACK: TcpFlags = SYN.with(ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(ACK);
const NOTHING: Phase = Phase(0);
const STEADY: Phase = Phase::ANSWERED.with(Phase::ESTABLISHED);
const BOTH_FINS: Phase = STEADY.with(Phase::CLIENT_FIN.with(Phase::BACKEND_FIN));

/// A row: phase before, direction, flags, sequence and acknowledgement number, bits added.
type Row = (Phase, Direction, TcpFlags, u32, u32, Phase);

/// The client has sent up to 1100 and acknowledged 5000; the back-end has sent up to 5200 and
/// acknowledged 1000. Neither sends data.
fn assert_adds(rows: &[Row], fins: [u32; 2]) {
    let track = |seq_end, ack, fin_end| Track {
        seq_end,
        ack,
        fin_end,
    };
    let client = track(1100, 5000, fins[0]);
    let backend = track(5200, 1000, fins[1]);
    for row in rows {
        let (phase, direction, flags, seq, ack, added) = *row;
        let segment = SegmentView {
            flags,
            seq,
            ack,
            payload: 0,
        };
        let (own, peer) = match direction {
            Forward => (client, backend),
            Reply => (backend, client),
        };
        let (bits, _) = advance(phase, direction, &segment, own, peer);
        assert_eq!(bits, added, "{row:?}");
    }
}

#[test]
fn the_handshake_takes_the_right_answer_and_its_acknowledgement() {
    let answered = Phase::ANSWERED;
    assert_adds(
        &[
            (NOTHING, Forward, SYN, 1099, 0, NOTHING),
            (NOTHING, Forward, ACK, 1100, 5200, NOTHING),
            (NOTHING, Reply, SYN_ACK, 5199, 1100, answered),
            (NOTHING, Reply, SYN_ACK, 5199, 1099, NOTHING),
            (NOTHING, Reply, SYN, 5199, 1100, NOTHING),
            (NOTHING, Reply, ACK, 5200, 1100, NOTHING),
            (NOTHING, Forward, SYN_ACK, 1099, 5200, NOTHING),
            (answered, Reply, SYN_ACK, 5199, 1100, NOTHING),
            (answered, Reply, ACK, 5200, 1100, NOTHING),
            (answered, Forward, ACK, 1100, 5200, Phase::ESTABLISHED),
            (answered, Forward, ACK, 1100, 5201, NOTHING),
            (
                answered,
                Forward,
                ACK,
                1100,
                5200u32.wrapping_sub(HANDSHAKE_SLACK_MAX),
                Phase::ESTABLISHED,
            ),
            (
                answered,
                Forward,
                ACK,
                1100,
                5199u32.wrapping_sub(HANDSHAKE_SLACK_MAX),
                NOTHING,
            ),
            (STEADY, Forward, ACK, 1100, 5200, NOTHING),
        ],
        [0, 0],
    );
}

#[test]
fn a_fin_counts_from_what_was_acknowledged_on() {
    let (answered, steady) = (Phase::ANSWERED, STEADY);
    assert_adds(
        &[
            (steady, Forward, FIN_ACK, 1100, 5200, Phase::CLIENT_FIN),
            (steady, Forward, FIN_ACK, 999, 5200, Phase::CLIENT_FIN),
            (steady, Forward, FIN_ACK, 998, 5200, NOTHING),
            (
                steady,
                Forward,
                FIN_ACK,
                999 + FIN_AHEAD_MAX,
                5200,
                Phase::CLIENT_FIN,
            ),
            (
                steady,
                Forward,
                FIN_ACK,
                1000 + FIN_AHEAD_MAX,
                5200,
                NOTHING,
            ),
            (steady, Reply, FIN_ACK, 5200, 1100, Phase::BACKEND_FIN),
            (steady, Reply, FIN_ACK, 4998, 1100, NOTHING),
            (steady, Reply, TcpFlags::FIN, 5200, 0, NOTHING),
            (answered, Forward, TcpFlags::FIN, 1100, 0, NOTHING),
            (answered, Forward, FIN_ACK, 1100, 5201, NOTHING),
            (
                answered,
                Forward,
                FIN_ACK,
                1100,
                5200,
                Phase::ESTABLISHED.with(Phase::CLIENT_FIN),
            ),
            (NOTHING, Forward, FIN_ACK, 1100, 5200, NOTHING),
        ],
        [0, 0],
    );
}

#[test]
fn a_fin_is_acknowledged_at_its_end_and_not_before() {
    assert_adds(
        &[
            (BOTH_FINS, Reply, ACK, 5200, 1100, Phase::CLIENT_FIN_ACKED),
            (BOTH_FINS, Reply, ACK, 5200, 1099, NOTHING),
            (BOTH_FINS, Reply, ACK, 5200, 1101, NOTHING),
            (
                BOTH_FINS,
                Forward,
                ACK,
                1100,
                5200,
                Phase::BACKEND_FIN_ACKED,
            ),
            (BOTH_FINS, Forward, ACK, 1100, 5199, NOTHING),
            (BOTH_FINS, Forward, TcpFlags::PSH, 1100, 5200, NOTHING),
            (STEADY, Reply, ACK, 5200, 1100, NOTHING),
        ],
        [1100, 5200],
    );
}

#[test]
fn a_reset_counts_where_its_receiver_may_expect_it() {
    let (answered, steady, reset) = (Phase::ANSWERED, STEADY, Phase::RESET);
    assert_adds(
        &[
            (steady, Forward, RST, 1000, 0, reset),
            (steady, Forward, RST, 1100, 0, reset),
            (steady, Forward, RST, 999, 0, NOTHING),
            (steady, Forward, RST, 1101, 0, NOTHING),
            (steady, Reply, RST, 5000, 0, reset),
            (steady, Reply, RST, 5200, 0, reset),
            (steady, Reply, RST, 4999, 0, NOTHING),
            (steady, Reply, RST, 5201, 0, NOTHING),
            (NOTHING, Reply, RST.with(ACK), 0, 1100, reset),
            (Phase::REFUSED, Forward, ACK, 1100, 5200, NOTHING),
            (Phase::REFUSED, Forward, RST, 1100, 0, reset),
            (NOTHING, Reply, RST.with(ACK), 0, 1099, NOTHING),
            (NOTHING, Reply, RST, 0, 1100, NOTHING),
            (NOTHING, Forward, RST, 1100, 0, reset),
            (NOTHING, Forward, RST, 1098, 0, NOTHING),
            (answered, Reply, RST, 5200, 0, reset),
            (answered, Reply, RST, 5201, 0, NOTHING),
            (
                answered,
                Reply,
                RST,
                5199u32.wrapping_sub(HANDSHAKE_SLACK_MAX),
                0,
                NOTHING,
            ),
        ],
        [0, 0],
    );
}

#[test]
fn a_syn_is_refused_by_the_reset_that_answers_it_and_by_what_comes_after() {
    let client = Track::of_syn(1099);
    let (refused, ended) = (Phase::REFUSED, Phase::REFUSED.with(Phase::RESET));
    for (phase, flags, ack, told) in [
        (NOTHING, RST.with(ACK), 1100, true),
        (NOTHING, RST.with(ACK), 1099, false),
        (NOTHING, RST, 1100, false),
        (NOTHING, SYN_ACK, 1100, false),
        (Phase::ANSWERED, RST.with(ACK), 1100, false),
        (STEADY, RST.with(ACK), 1100, false),
        (Phase::RESET, RST.with(ACK), 1100, false),
        (refused, RST.with(ACK), 1100, true),
        (refused, SYN_ACK, 1100, true),
        (refused, ACK, 1, true),
        (ended, SYN_ACK, 1100, false),
    ] {
        let segment = SegmentView {
            flags,
            seq: 0,
            ack,
            payload: 0,
        };
        let is = refuses(phase, &segment, &client);
        assert_eq!(is, told, "{phase:?} {flags:?} {ack}");
    }
}

#[test]
fn one_segment_moves_a_track_so_far_and_no_farther() {
    let start = Track {
        seq_end: u32::MAX - 9,
        ack: 7,
        fin_end: 0,
    };
    let after = |seq: u32, ack: u32, flags| {
        let mut track = start;
        track.follow(&SegmentView {
            flags,
            seq,
            ack,
            payload: 0,
        });
        (track.seq_end, track.ack)
    };
    let seq = start.seq_end;
    let far = seq.wrapping_add(JUMP_MAX);
    assert_eq!(after(far, 7 + JUMP_MAX, ACK), (far, 7 + JUMP_MAX));
    assert_eq!(after(far.wrapping_add(1), 8 + JUMP_MAX, ACK), (seq, 7));
    assert_eq!(
        after(seq - 1, 6, ACK),
        (seq, 7),
        "what is old moves nothing"
    );
    assert_eq!(
        after(seq, 9, TcpFlags::PSH),
        (seq, 7),
        "without ACK there is no number"
    );
}

#[test]
fn a_client_that_asks_anew_before_it_was_answered_is_followed() {
    let syn = |isn| SegmentView {
        flags: SYN,
        seq: isn,
        ack: 0,
        payload: 0,
    };
    let answer = |isn: u32| SegmentView {
        flags: SYN_ACK,
        seq: 5000,
        ack: isn + 1,
        payload: 0,
    };
    let first = Track::of_syn(1000);
    let (bits, second) = advance(NOTHING, Forward, &syn(7000), first, Track::default());
    assert_eq!((bits, second), (NOTHING, Track::of_syn(7000)));
    let (bits, _) = advance(NOTHING, Reply, &answer(1000), Track::default(), second);
    assert_eq!(bits, NOTHING, "an answer to the request that was given up");
    let (bits, _) = advance(NOTHING, Reply, &answer(7000), Track::default(), second);
    assert_eq!(bits, Phase::ANSWERED);
}
