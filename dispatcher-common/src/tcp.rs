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

/// The farthest that a FIN may be ahead of what its receiver has acknowledged, bytes: above any
/// receive window in use (Linux lets it grow to 32 MiB), far below the 2^31 at which comparison
/// wraps.
pub const FIN_AHEAD_MAX: u32 = 64 << 20;

/// The farthest that one segment moves what is known of its direction, bytes: more than a network
/// loses in a row. A segment that is farther ahead is forged, and believing it would make the true
/// FIN and RST look old.
pub const JUMP_MAX: u32 = 16 << 20;

/// How far the acknowledgement that finishes a handshake may lie behind what the back-end has
/// sent, bytes: data that it sent before the acknowledgement came (RFC 7413).
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
    !before(x, low) && !before(high, x)
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

    /// Follows a segment of this direction that is part of the connection.
    #[inline(always)]
    pub fn follow(&mut self, segment: &SegmentView) {
        let seq_end = segment.seq_end();
        if seq_end.wrapping_sub(self.seq_end) <= JUMP_MAX {
            self.seq_end = seq_end;
        }
        let acked = segment.ack.wrapping_sub(self.ack);
        if segment.flags.any(TcpFlags::ACK) && acked <= JUMP_MAX {
            self.ack = segment.ack;
        }
    }
}

/// Which bits a segment adds to `phase`, and what it makes of the track of its own direction.
///
/// `own` is the direction of the segment, `peer` the other. A segment that neither side's receiver
/// would accept adds nothing: RST and FIN count by their sequence number (RFC 9293 3.10.7.4).
#[inline(always)]
#[must_use]
pub fn advance(
    phase: Phase,
    direction: Direction,
    segment: &SegmentView,
    own: Track,
    peer: Track,
) -> (Phase, Track) {
    let flags = segment.flags;
    let mut bits = Phase::default();
    let mut track = own;

    if flags.any(TcpFlags::RST) {
        if reset_is_acceptable(phase, direction, segment, own, peer) {
            bits = Phase::RESET;
        }
        return (bits, track);
    }

    if flags.is_connection_request()
        && matches!(direction, Direction::Forward)
        && !phase.has(Phase::ANSWERED)
    {
        // The client gave up and asks anew from the same port before it was answered.
        return (bits, Track::of_syn(segment.seq));
    }
    if flags.any(TcpFlags::SYN) {
        let answers = matches!(direction, Direction::Reply)
            && flags.any(TcpFlags::ACK)
            && segment.ack == peer.seq_end;
        if answers && !phase.has(Phase::ANSWERED) {
            track = Track {
                seq_end: segment.seq_end(),
                ack: segment.ack,
                fin_end: 0,
            };
            bits = Phase::ANSWERED;
        }
        return (bits, track);
    }

    // What acknowledges nothing is dropped by its receiver (RFC 9293 3.10.7.4).
    if !phase.has(Phase::ANSWERED) || !flags.any(TcpFlags::ACK) {
        return (bits, track);
    }
    if matches!(direction, Direction::Forward) && !phase.is_established() {
        // Nor does the back-end take anything before its answer is acknowledged. A forger who has
        // not seen that answer cannot do so, and must not hold a slot beyond the handshake's time.
        let finishes_handshake = within(
            segment.ack,
            peer.seq_end.wrapping_sub(HANDSHAKE_SLACK_MAX),
            peer.seq_end,
        );
        if !finishes_handshake {
            return (bits, track);
        }
        // Until now nothing was acknowledged, so there is no older value to compare with.
        track.ack = segment.ack;
        bits = Phase::ESTABLISHED;
    }
    track.follow(segment);

    let acknowledged = acknowledged(phase, direction, own, peer);
    if flags.any(TcpFlags::FIN)
        && within(
            segment.seq_end(),
            acknowledged,
            acknowledged.wrapping_add(FIN_AHEAD_MAX),
        )
    {
        track.fin_end = segment.seq_end();
        if before(track.seq_end, track.fin_end) {
            track.seq_end = track.fin_end;
        }
        bits = bits.with(Phase::fin_of(direction));
    }
    let peer_direction = direction.reversed();
    if phase.has(Phase::fin_of(peer_direction)) && within(segment.ack, peer.fin_end, peer.seq_end) {
        bits = bits.with(Phase::fin_acked_of(peer_direction));
    }
    (Phase(bits.0 & !phase.0), track)
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
