//! The life of a TCP connection, seen from the middle. Pure: a segment and what is known go in,
//! phase bits come out. Sequence numbers compare modulo 2^32 (RFC 9293 3.4).

use crate::flow::Direction;
use crate::header::TcpFlags;

/// What happened on a flow so far, as bits that are only ever set. The bits of one word are set by
/// atomic OR, so exactly one processor sees a phase being entered.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phase(pub u32);

impl Phase {
    /// The back-end has answered the SYN.
    pub const ANSWERED: Self = Self(0x01);
    /// The client has acknowledged that answer: the handshake is finished.
    pub const ESTABLISHED: Self = Self(0x02);
    /// The client has sent its FIN.
    pub const CLIENT_FIN: Self = Self(0x04);
    /// The back-end has sent its FIN.
    pub const BACKEND_FIN: Self = Self(0x08);
    /// The back-end has acknowledged the client's FIN.
    pub const CLIENT_FIN_ACKED: Self = Self(0x10);
    /// The client has acknowledged the back-end's FIN.
    pub const BACKEND_FIN_ACKED: Self = Self(0x20);
    /// One side has reset the connection.
    pub const RESET: Self = Self(0x40);
    /// The back-end has refused the SYN, and the client was not told: user space has the request
    /// put back, for another back-end. Nothing else counts on such a flow but its client's RST.
    pub const REFUSED: Self = Self(0x80);
    /// User space ends the connection, and tells both ends by RST. Set before they are told, and
    /// only by user space: a start tells them again, since nobody knows whether an earlier daemon
    /// came so far.
    pub const CUT: Self = Self(Self::RESET.0 | 0x100);

    const STEADY: Self = Self(Self::ANSWERED.0 | Self::ESTABLISHED.0);
    const CLOSED: Self = Self(
        Self::CLIENT_FIN.0
            | Self::BACKEND_FIN.0
            | Self::CLIENT_FIN_ACKED.0
            | Self::BACKEND_FIN_ACKED.0,
    );

    /// Whether all bits of `other` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What of these is not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Established and nothing since: a segment without SYN, FIN and RST changes nothing.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(self) -> bool {
        self.0 == Self::STEADY.0
    }

    /// The handshake is finished.
    #[inline(always)]
    #[must_use]
    pub const fn is_established(self) -> bool {
        self.has(Self::ESTABLISHED)
    }

    /// One side has closed, the connection has not ended.
    #[inline(always)]
    #[must_use]
    pub const fn is_closing(self) -> bool {
        self.0 & (Self::CLIENT_FIN.0 | Self::BACKEND_FIN.0) != 0 && !self.is_ended()
    }

    /// Nothing more is to come: reset, or both sides closed and both FINs acknowledged.
    #[inline(always)]
    #[must_use]
    pub const fn is_ended(self) -> bool {
        self.has(Self::RESET) || self.has(Self::CLOSED)
    }

    /// The back-end has refused the SYN, and user space has not acted yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_refused(self) -> bool {
        self.has(Self::REFUSED) && !self.is_ended()
    }

    /// Whether user space acts on something that came since `before`: the handshake finished, the
    /// first side closed, the connection ended, or the back-end refused.
    #[inline(always)]
    #[must_use]
    pub const fn is_news_after(self, before: Self) -> bool {
        (self.is_established() && !before.is_established())
            || (self.is_closing() && !before.is_closing())
            || (self.is_ended() && !before.is_ended())
            || (self.is_refused() && !before.is_refused())
    }

    const fn fin_of(direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self::CLIENT_FIN,
            Direction::Reply => Self::BACKEND_FIN,
        }
    }

    const fn fin_acked_of(direction: Direction) -> Self {
        match direction {
            Direction::Forward => Self::CLIENT_FIN_ACKED,
            Direction::Reply => Self::BACKEND_FIN_ACKED,
        }
    }
}

/// Sequence numbers of one direction, host order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Track {
    /// One past the last byte sent, SYN and FIN counted.
    pub seq_end: u32,
    /// The last acknowledgement sent.
    pub ack: u32,
    /// One past the FIN, once it was sent.
    pub fin_end: u32,
}

/// What the state machine reads of a segment, host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentView {
    /// Flag bits.
    pub flags: TcpFlags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Bytes of data.
    pub payload: u32,
}

/// The farthest that an honest end is ahead of what its peer has acknowledged, bytes: above any
/// receive window in use (Linux lets it grow to 32 MiB), far below the 2^31 at which comparison
/// wraps.
pub const WINDOW_MAX: u32 = 64 << 20;

/// How far a segment may be from the last one of its direction, either way and in both numbers, and
/// need no other proof that it belongs to the connection, bytes: twice what one acknowledgement
/// covers after receive offload. A power of two. Who guesses both numbers has one chance in 2^28.
pub const NEAR: u32 = 1 << 17;

/// How far the acknowledgement that finishes a handshake may lie behind what the back-end has
/// sent, bytes: data that it sent before the acknowledgement came (RFC 7413). And how far it may
/// lie behind the client's first data, if the acknowledgement before it was lost.
pub const HANDSHAKE_SLACK_MAX: u32 = 1 << 16;

/// `a` comes before `b`.
#[inline(always)]
#[must_use]
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// `low <= x <= high`, modulo 2^32; never when `high` comes before `low`.
#[inline(always)]
#[must_use]
pub const fn within(x: u32, low: u32, high: u32) -> bool {
    // One branch for both comparisons: the verifier walks every combination of branches.
    (x.wrapping_sub(low) | high.wrapping_sub(x)) >> 31 == 0
}

impl SegmentView {
    /// One past the last sequence number that the segment occupies.
    #[inline(always)]
    #[must_use]
    pub const fn seq_end(&self) -> u32 {
        self.seq
            .wrapping_add(self.payload)
            .wrapping_add(self.flags.any(TcpFlags::SYN) as u32)
            .wrapping_add(self.flags.any(TcpFlags::FIN) as u32)
    }
}

impl Track {
    /// After the client's SYN.
    #[must_use]
    pub const fn of_syn(isn: u32) -> Self {
        Self {
            seq_end: isn.wrapping_add(1),
            ack: 0,
            fin_end: 0,
        }
    }

    /// Follows a segment of this direction that belongs to the connection. What is old moves
    /// nothing.
    #[inline(always)]
    pub fn follow(&mut self, segment: &SegmentView) {
        let seq_end = segment.seq_end();
        if !before(seq_end, self.seq_end) {
            self.seq_end = seq_end;
        }
        if !before(segment.ack, self.ack) {
            self.ack = segment.ack;
        }
    }

    /// Whether a segment belongs to the connection, as far as this direction can tell: it has an
    /// acknowledgement, and both of its numbers are [`NEAR`].
    #[inline(always)]
    #[must_use]
    pub const fn is_near(&self, segment: &SegmentView) -> bool {
        let seq = segment.seq_end().wrapping_sub(self.seq_end);
        let ack = segment.ack.wrapping_sub(self.ack);
        // One branch for both, as in `within`.
        (seq.wrapping_add(NEAR) | ack.wrapping_add(NEAR)) < 2 * NEAR
            && segment.flags.any(TcpFlags::ACK)
    }
}

/// Which bits a segment adds to `phase`, and what it makes of the track of its own direction.
/// Nothing if its receiver would take no notice of it: then it says nothing of its sender, not even
/// that it lives. Such are forged, or late.
///
/// `own` is the direction of the segment, `peer` the other.
#[inline(always)]
#[must_use]
pub fn advance(
    phase: Phase,
    direction: Direction,
    segment: &SegmentView,
    own: Track,
    peer: Track,
) -> Option<(Phase, Track)> {
    let flags = segment.flags;
    if flags.any(TcpFlags::RST) {
        let obeyed = reset_is_acceptable(phase, direction, segment, own, peer);
        return obeyed.then_some((Phase::RESET.without(phase), own));
    }
    if flags.any(TcpFlags::SYN) {
        return handshake(phase, direction, segment, peer);
    }

    let mut bits = Phase::default();
    let mut track = own;
    if matches!(direction, Direction::Forward) && !phase.is_established() {
        if (phase.is_refused() && !phase.has(Phase::ANSWERED)) || !takes_answer(segment, peer) {
            return None;
        }
        // Until now nothing was acknowledged, so there is no older value to compare with.
        track = Track {
            seq_end: peer.ack,
            ack: segment.ack,
            fin_end: 0,
        };
        bits = Phase::STEADY;
    } else if !phase.has(Phase::ANSWERED) || !belongs(phase, segment, own, peer) {
        return None;
    }
    track.follow(segment);

    // Nothing is sent beyond a FIN. What is, shows that the FIN was forged.
    if flags.any(TcpFlags::FIN) && segment.seq_end() == track.seq_end {
        track.fin_end = track.seq_end;
        bits = bits.with(Phase::fin_of(direction));
    }
    let peer_direction = direction.reversed();
    if phase.has(Phase::fin_of(peer_direction))
        && segment.ack == peer.fin_end
        && peer.fin_end == peer.seq_end
    {
        bits = bits.with(Phase::fin_acked_of(peer_direction));
    }
    Some((bits.without(phase), track))
}

/// A SYN, with ACK or without, before the back-end has answered; afterwards it means nothing.
#[inline(always)]
fn handshake(
    phase: Phase,
    direction: Direction,
    segment: &SegmentView,
    peer: Track,
) -> Option<(Phase, Track)> {
    if phase.has(Phase::ANSWERED) {
        return None;
    }
    match direction {
        // Should it have another number, the client gave up and asks anew from the same port.
        Direction::Forward if segment.flags.is_connection_request() => {
            Some((Phase::default(), Track::of_syn(segment.seq)))
        }
        Direction::Reply if segment.flags.any(TcpFlags::ACK) => {
            let track = Track {
                seq_end: segment.seq_end(),
                ack: segment.ack,
                fin_end: 0,
            };
            // What answers another request is only noted: that may be the one that lives, and what
            // was followed since a late repetition of one that was given up, or forged.
            let answers = segment.ack == peer.seq_end;
            let bits = if answers {
                Phase::ANSWERED
            } else {
                Phase::default()
            };
            Some((bits, track))
        }
        _ => None,
    }
}

/// What the back-end is sent in place of a client's SYN on a flow that it has answered: the ACK of
/// a keep-alive (RFC 9293 3.8.4), as old as the data that may come with the SYN. Nothing if the
/// SYN may go on: that to which the answer belongs, which may have been lost.
///
/// A back-end that is still in the connection answers with an ACK, and a client that asks anew
/// answers that with an RST (3.10.7.3). One that has lost it answers with an RST (3.10.7.1); given
/// the SYN, it would accept a connection that nothing counts. Either RST stands where one must, and
/// ends the flow, so the client's next SYN begins a new one.
#[inline(always)]
#[must_use]
pub const fn asks_instead(
    phase: Phase,
    segment: &SegmentView,
    backend: &Track,
) -> Option<SegmentView> {
    let lives = phase.has(Phase::ANSWERED) && !phase.is_ended();
    let again = !phase.is_established() && segment.seq.wrapping_add(1) == backend.ack;
    if !segment.flags.is_connection_request() || !lives || again {
        return None;
    }
    Some(SegmentView {
        flags: TcpFlags::ACK,
        seq: backend.ack.wrapping_sub(1).wrapping_sub(segment.payload),
        ack: backend.seq_end,
        payload: segment.payload,
    })
}

/// Whether a segment of the client finishes the handshake. Before that the back-end takes nothing
/// of it. A forger who has not seen the answer cannot do so, and must not hold a slot beyond the
/// handshake's time.
#[inline(always)]
fn takes_answer(segment: &SegmentView, answer: Track) -> bool {
    segment.flags.any(TcpFlags::ACK)
        && answer != Track::default()
        && within(
            segment.seq_end(),
            answer.ack,
            answer.ack.wrapping_add(HANDSHAKE_SLACK_MAX),
        )
        && within(
            segment.ack,
            answer.seq_end.wrapping_sub(HANDSHAKE_SLACK_MAX),
            answer.seq_end,
        )
}

/// Whether a segment of an answered flow that has neither SYN nor RST belongs to the connection:
/// it is near the last one of its direction; or its data may lie in its receiver's window, and it
/// acknowledges no less than its sender has acknowledged, and no more than was sent to it
/// (RFC 5961 5.2). What acknowledges nothing is dropped by its receiver (RFC 9293 3.10.7.4).
#[inline(always)]
fn belongs(phase: Phase, segment: &SegmentView, own: Track, peer: Track) -> bool {
    own.is_near(segment)
        || (phase.is_established()
            && segment.flags.any(TcpFlags::ACK)
            && within(
                segment.seq_end(),
                peer.ack.wrapping_sub(WINDOW_MAX),
                peer.ack.wrapping_add(WINDOW_MAX),
            )
            && within(segment.ack, own.ack, peer.seq_end))
}

/// Whether a segment of the back-end refuses the SYN, or comes after it has: it is not for the
/// client then, and the phase is [`Phase::REFUSED`]. Where nobody would put the request back it is
/// left to [`advance`], to which it is an RST like others.
#[inline(always)]
#[must_use]
pub const fn refuses(phase: Phase, segment: &SegmentView, client: &Track) -> bool {
    if phase.has(Phase::ANSWERED) || phase.is_ended() {
        return false;
    }
    phase.has(Phase::REFUSED) || answers_by_reset(segment, client)
}

/// Whether this is the RST that answers the client's SYN (RFC 9293 3.10.7.3).
#[inline(always)]
const fn answers_by_reset(segment: &SegmentView, client: &Track) -> bool {
    segment.flags.any(TcpFlags::RST)
        && segment.flags.any(TcpFlags::ACK)
        && segment.ack == client.seq_end
}

/// A receiver obeys an RST that stands exactly where it expects the next byte (RFC 5961 3.2): from
/// here that place is known to lie between what it acknowledged and what was sent to it. An RST
/// that answers a SYN is judged by its acknowledgement (RFC 9293 3.10.7.3).
#[inline(always)]
fn reset_is_acceptable(
    phase: Phase,
    direction: Direction,
    segment: &SegmentView,
    own: Track,
    peer: Track,
) -> bool {
    match direction {
        Direction::Reply if !phase.has(Phase::ANSWERED) => answers_by_reset(segment, &peer),
        _ => is_under_way(phase, direction, segment.seq, own, peer),
    }
}

/// Whether a segment of `direction` that begins at `seq` was sent and may not have arrived: it lies
/// between what its receiver acknowledged and what was sent. Of another segment no ICMP error is
/// believed (RFC 5927 4.1).
#[inline(always)]
#[must_use]
pub fn is_under_way(phase: Phase, direction: Direction, seq: u32, own: Track, peer: Track) -> bool {
    if phase.has(Phase::ANSWERED) {
        let acknowledged = acknowledged(phase, direction, own, peer);
        return within(seq, acknowledged, own.seq_end);
    }
    match direction {
        Direction::Reply => false,
        Direction::Forward => within(seq, own.seq_end.wrapping_sub(1), own.seq_end),
    }
}

/// How far the receiver of an answered flow's segments has acknowledged them. The client has
/// acknowledged nothing before the handshake is finished; then it is near what was sent.
#[inline(always)]
const fn acknowledged(phase: Phase, direction: Direction, own: Track, peer: Track) -> u32 {
    match direction {
        Direction::Reply if !phase.is_established() => {
            own.seq_end.wrapping_sub(HANDSHAKE_SLACK_MAX)
        }
        _ => peer.ack,
    }
}
