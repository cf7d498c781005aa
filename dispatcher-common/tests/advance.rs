//! Tables of the state machine: which bits one segment adds to a phase.

use dispatcher_common::flow::Direction::{self, Forward, Reply};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{
    HANDSHAKE_SLACK_MAX, NEAR, Phase, SegmentView, Track, WINDOW_MAX, advance, asks_instead,
    refuses,
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

/// What one segment adds; and [`NOTHING`] also if nothing comes of it.
fn bits(step: Option<(Phase, Track)>) -> Phase {
    step.map_or(NOTHING, |(bits, _)| bits)
}

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
        let step = advance(phase, direction, &segment, own, peer);
        assert_eq!(bits(step), added, "{row:?}");
    }
}

#[test]
fn the_handshake_takes_the_right_answer_and_its_acknowledgement() {
    let answered = Phase::ANSWERED;
    assert_adds(
        &[
            (NOTHING, Forward, SYN, 1099, 0, NOTHING),
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
fn a_fin_counts_at_the_end_of_all_that_was_sent() {
    let (answered, steady, fin) = (Phase::ANSWERED, STEADY, Phase::CLIENT_FIN);
    assert_adds(
        &[
            (steady, Forward, FIN_ACK, 1100, 5200, fin),
            (steady, Forward, FIN_ACK, 1099, 5200, fin),
            (steady, Forward, FIN_ACK, 1098, 5200, NOTHING),
            (steady, Forward, FIN_ACK, 1099 + NEAR, 5200, fin),
            (steady, Forward, FIN_ACK, 999 + WINDOW_MAX, 5200, fin),
            (steady, Forward, FIN_ACK, 1000 + WINDOW_MAX, 5200, NOTHING),
            (steady, Forward, FIN_ACK, 1098 + NEAR, 5200 + 1, fin),
            (steady, Forward, FIN_ACK, 1099 + NEAR, 5200 + 1, NOTHING),
            (steady, Forward, FIN_ACK, 1100, 5001 + NEAR, NOTHING),
            (steady, Reply, FIN_ACK, 5200, 1100, Phase::BACKEND_FIN),
            (steady, Reply, FIN_ACK, 5198, 1100, NOTHING),
            (steady, Reply, TcpFlags::FIN, 5200, 0, NOTHING),
            (answered, Forward, TcpFlags::FIN, 1100, 0, NOTHING),
            (answered, Forward, FIN_ACK, 1100, 5201, NOTHING),
            (
                answered,
                Forward,
                FIN_ACK,
                1100,
                5200,
                Phase::ESTABLISHED.with(fin),
            ),
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

/// Rows: how far from the last segment the sequence number is, and the acknowledgement number; and
/// whether the segment belongs. 1 MiB is on its way to the back-end, and 1 MiB to the client.
#[test]
fn a_segment_belongs_near_the_one_before_it_or_in_the_window_with_an_honest_acknowledgement() {
    const MIB: i32 = 1 << 20;
    const NEAR_BY: i32 = NEAR as i32;
    const WINDOW: i32 = WINDOW_MAX as i32;
    let track = |seq_end, ack| Track {
        seq_end,
        ack,
        fin_end: 0,
    };
    let own = track(5, u32::MAX - 5);
    let peer = track(
        own.ack.wrapping_add_signed(MIB),
        own.seq_end.wrapping_add_signed(-MIB),
    );
    let rows = [
        (0, 0, true),
        (NEAR_BY - 1, NEAR_BY - 1, true),
        (-NEAR_BY, -NEAR_BY, true),
        (NEAR_BY - 1, -1, true),
        (NEAR_BY, -1, false),
        (NEAR_BY, 0, true),
        (0, MIB, true),
        (0, MIB + 1, false),
        (0, -NEAR_BY - 1, false),
        (WINDOW - MIB, 0, true),
        (WINDOW - MIB + 1, 0, false),
        (-WINDOW - MIB, 0, true),
        (-WINDOW - MIB - 1, 0, false),
        (i32::MIN, 0, false),
        (0, i32::MIN, false),
    ];
    for (ahead, acked, belongs) in rows {
        let segment = SegmentView {
            flags: ACK,
            seq: own.seq_end.wrapping_add_signed(ahead),
            ack: own.ack.wrapping_add_signed(acked),
            payload: 0,
        };
        let followed = track(
            own.seq_end.wrapping_add_signed(ahead.max(0)),
            own.ack.wrapping_add_signed(acked.max(0)),
        );
        let advance = |flags| {
            let segment = SegmentView { flags, ..segment };
            advance(STEADY, Forward, &segment, own, peer)
        };
        let expected = belongs.then_some((NOTHING, followed));
        assert_eq!(advance(ACK), expected, "{ahead} {acked}");
        for flags in [TcpFlags::PSH, TcpFlags::FIN, SYN, SYN_ACK] {
            assert_eq!(advance(flags), None, "{flags:?}: {ahead} {acked}");
        }
    }
}

#[test]
fn what_is_sent_beyond_a_fin_shows_that_it_was_forged() {
    let track = |seq_end, ack, fin_end| Track {
        seq_end,
        ack,
        fin_end,
    };
    let phase = STEADY.with(Phase::CLIENT_FIN);
    let segment = |seq, ack, payload| SegmentView {
        flags: ACK,
        seq,
        ack,
        payload,
    };
    let client = track(1101, 5000, 1101);
    let backend = track(5000, 1000, 0);
    let acked = Phase::CLIENT_FIN_ACKED;
    let acknowledgement = segment(5000, 1101, 0);
    assert_eq!(
        bits(advance(phase, Reply, &acknowledgement, backend, client)),
        acked
    );
    let (_, client) = advance(phase, Forward, &segment(1100, 5000, 2), client, backend).unwrap();
    assert_eq!(client, track(1102, 5000, 1101));
    for ack in [1101, 1102] {
        let step = advance(phase, Reply, &segment(5000, ack, 0), backend, client);
        assert_eq!(bits(step), NOTHING);
    }
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
    let step = advance(NOTHING, Forward, &syn(7000), first, Track::default());
    let second = Track::of_syn(7000);
    assert_eq!(step, Some((NOTHING, second)));
    let step = advance(NOTHING, Reply, &answer(1000), Track::default(), second);
    assert_eq!(bits(step), NOTHING, "to the request that was given up");
    let step = advance(NOTHING, Reply, &answer(7000), Track::default(), second);
    assert_eq!(bits(step), Phase::ANSWERED);
}

#[test]
fn what_the_client_takes_for_an_answer_is_one_whatever_was_followed_before() {
    let segment = |flags, seq, ack| SegmentView {
        flags,
        seq,
        ack,
        payload: 0,
    };
    let late = Track::of_syn(1000);
    let answer = segment(SYN_ACK, 5000, 7001);
    let (added, backend) = advance(NOTHING, Reply, &answer, Track::default(), late).unwrap();
    assert_eq!((added, backend.ack), (NOTHING, 7001));
    let take = |seq, ack, peer| advance(NOTHING, Forward, &segment(ACK, seq, ack), late, peer);
    assert_eq!(take(7001, 5001, Track::default()), None);
    assert_eq!(take(7001, 5002, backend), None);
    assert_eq!(take(7000, 5001, backend), None);
    assert_eq!(take(7002 + HANDSHAKE_SLACK_MAX, 5001, backend), None);
    let (added, client) = take(7001, 5001, backend).unwrap();
    assert_eq!(added, STEADY);
    assert_eq!((client.seq_end, client.ack), (7001, 5001));
}

#[test]
fn a_request_on_a_flow_that_lives_becomes_a_question_that_either_answer_ends() {
    let request = |seq, payload| SegmentView {
        flags: TcpFlags::SYN,
        seq,
        ack: 0,
        payload,
    };
    let (client, backend) = (
        Track {
            seq_end: 1101,
            ack: 5001,
            fin_end: 0,
        },
        Track {
            seq_end: 5501,
            ack: 1051,
            fin_end: 0,
        },
    );
    let question = asks_instead(STEADY, &request(9000, 20), &backend).unwrap();
    assert_eq!(question.flags, ACK);
    assert_eq!(question.seq_end(), 1050, "the back-end has had all of it");
    // RFC 9293 3.10.7.1: of a back-end that has lost the connection.
    let reset = SegmentView {
        flags: TcpFlags::RST,
        seq: question.ack,
        ack: 0,
        payload: 0,
    };
    let step = advance(STEADY, Reply, &reset, backend, client);
    assert_eq!(bits(step), Phase::RESET);
    // 3.10.7.3: of the client, to what a back-end answers that has not.
    let reset = SegmentView {
        seq: backend.ack,
        ..reset
    };
    let step = advance(STEADY, Forward, &reset, client, backend);
    assert_eq!(bits(step), Phase::RESET);
}

#[test]
fn a_request_goes_on_where_it_is_the_first_or_the_one_that_was_answered() {
    let request = |seq| SegmentView {
        flags: TcpFlags::SYN,
        seq,
        ack: 0,
        payload: 0,
    };
    let backend = Track {
        seq_end: 5001,
        ack: 1001,
        fin_end: 0,
    };
    let asks = |phase, seq| asks_instead(phase, &request(seq), &backend).is_some();
    assert!(!asks(NOTHING, 1000));
    assert!(!asks(Phase::ANSWERED, 1000), "its answer was lost");
    assert!(asks(Phase::ANSWERED, 7000));
    assert!(asks(STEADY, 1000), "late: the handshake is over");
    assert!(!asks(STEADY.with(Phase::RESET), 7000));
    let other = SegmentView {
        flags: SYN_ACK,
        ..request(7000)
    };
    assert_eq!(asks_instead(STEADY, &other, &backend), None);
}
