//! One end of a TCP connection, as RFC 9293 3.10 has it with what RFC 5961 adds: the judge of
//! whether it still talks. It sends when it is told to, and what it must when it receives.

use dispatcher_common::flow::Direction;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{SegmentView, before, within};

use crate::wire::APART;

/// Bytes that an end is ready to receive.
pub const WINDOW: u32 = 60_000;

const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(ACK);
const RST: TcpFlags = TcpFlags::RST;

/// Where an end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It knows of no connection. A back-end listens.
    Closed,
    /// It has asked, and has no answer.
    Asking,
    /// It was asked, and its answer is not acknowledged.
    Answering,
    /// From the handshake on; whatever was closed since.
    Open,
}

/// An end.
#[derive(Clone, Debug)]
pub struct End {
    /// The direction of what it sends: a client's is forward.
    pub sends: Direction,
    /// Where it stands.
    pub state: State,
    /// Its own first number.
    pub isn: u32,
    /// The other's first number, once known.
    pub peer_isn: u32,
    acked: u32,
    next: u32,
    fin: Option<u32>,
    received: u32,
    fin_received: bool,
    /// The other closed first: this end forgets the connection with the acknowledgement of its FIN.
    passive: bool,
    /// Received out of order: from, to, and whether a FIN stands at the end.
    early: Vec<(u32, u32, bool)>,
}

impl End {
    /// One that knows of no connection.
    #[must_use]
    pub const fn new(sends: Direction) -> Self {
        Self {
            sends,
            state: State::Closed,
            isn: 0,
            peer_isn: 0,
            acked: 0,
            next: 0,
            fin: None,
            received: 0,
            fin_received: false,
            passive: false,
            early: Vec::new(),
        }
    }

    /// It has sent its FIN and has received the other's: it has nothing left to say or to hear.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.fin.is_some() && self.fin_received
    }

    /// Whether it can send data or a FIN.
    #[must_use]
    pub const fn may_send(&self) -> bool {
        matches!(self.state, State::Open) && self.fin.is_none()
    }

    /// Whether anything that it sent is not acknowledged.
    #[must_use]
    pub const fn is_owed(&self) -> bool {
        !matches!(self.state, State::Closed) && self.acked != self.next
    }

    const fn segment(&self, flags: TcpFlags, seq: u32, payload: u32) -> SegmentView {
        SegmentView {
            flags,
            seq,
            ack: if flags.any(ACK) { self.received } else { 0 },
            payload,
        }
    }

    /// A client asks.
    pub fn ask(&mut self, isn: u32) -> SegmentView {
        *self = Self {
            state: State::Asking,
            isn,
            acked: isn,
            next: isn.wrapping_add(1),
            ..Self::new(self.sends)
        };
        self.segment(TcpFlags::SYN, isn, 0)
    }

    /// Sends data, if the other's window has room.
    pub fn send(&mut self, payload: u32) -> Option<SegmentView> {
        let end = self.next.wrapping_add(payload);
        if !self.may_send() || end.wrapping_sub(self.acked) > WINDOW {
            return None;
        }
        let sent = self.segment(ACK, self.next, payload);
        self.next = end;
        Some(sent)
    }

    /// Sends its FIN.
    pub fn close(&mut self) -> Option<SegmentView> {
        self.may_send().then(|| {
            let sent = self.segment(TcpFlags::FIN.with(ACK), self.next, 0);
            self.next = self.next.wrapping_add(1);
            self.fin = Some(self.next);
            self.passive = self.fin_received;
            sent
        })
    }

    /// Forgets the connection, and says so to whoever knows of it.
    pub fn abort(&mut self) -> Option<SegmentView> {
        let sent = match self.state {
            State::Closed => return None,
            State::Asking => None,
            State::Answering | State::Open => Some(self.segment(RST.with(ACK), self.next, 0)),
        };
        self.state = State::Closed;
        sent
    }

    /// Sends again the first of what is not acknowledged; or, if there is nothing, asks whether the
    /// other is there (RFC 9293 3.8.4).
    pub fn send_again(&mut self) -> Option<SegmentView> {
        match self.state {
            State::Closed => None,
            State::Asking => Some(self.segment(TcpFlags::SYN, self.isn, 0)),
            State::Answering => Some(self.segment(SYN_ACK, self.isn, 0)),
            State::Open if !self.is_owed() => Some(self.segment(ACK, self.next.wrapping_sub(1), 0)),
            State::Open => {
                let rest = self.next.wrapping_sub(self.acked) - u32::from(self.fin.is_some());
                let payload = rest.min(1000);
                let last = payload == rest && self.fin.is_some();
                let flags = if last { TcpFlags::FIN.with(ACK) } else { ACK };
                Some(self.segment(flags, self.acked, payload))
            }
        }
    }

    /// What it answers to a segment, if anything.
    pub fn receive(&mut self, segment: &SegmentView) -> Option<SegmentView> {
        match self.state {
            State::Closed => self.receive_unknown(segment),
            State::Asking => self.receive_answer(segment),
            State::Answering | State::Open => self.receive_known(segment),
        }
    }

    /// 3.10.7.1 and 3.10.7.2.
    fn receive_unknown(&mut self, segment: &SegmentView) -> Option<SegmentView> {
        let flags = segment.flags;
        if flags.any(RST) {
            None
        } else if flags.any(ACK) {
            Some(self.segment(RST, segment.ack, 0))
        } else if matches!(self.sends, Direction::Reply) && flags.any(TcpFlags::SYN) {
            self.answer(segment)
        } else {
            self.received = segment.seq_end();
            Some(self.segment(RST.with(ACK), 0, 0))
        }
    }

    fn answer(&mut self, segment: &SegmentView) -> Option<SegmentView> {
        let isn = self.isn.wrapping_sub(APART);
        *self = Self {
            state: State::Answering,
            isn,
            peer_isn: segment.seq,
            acked: isn,
            next: isn.wrapping_add(1),
            received: segment.seq.wrapping_add(1),
            ..Self::new(self.sends)
        };
        Some(self.segment(SYN_ACK, isn, 0))
    }

    /// 3.10.7.3.
    fn receive_answer(&mut self, segment: &SegmentView) -> Option<SegmentView> {
        let flags = segment.flags;
        if flags.any(ACK) && segment.ack != self.next {
            let reset = SegmentView {
                flags: RST,
                seq: segment.ack,
                ack: 0,
                payload: 0,
            };
            return (!flags.any(RST)).then_some(reset);
        }
        if !flags.any(ACK) {
            return None;
        }
        if flags.any(RST) {
            self.state = State::Closed;
            return None;
        }
        if !flags.any(TcpFlags::SYN) {
            return None;
        }
        self.state = State::Open;
        self.peer_isn = segment.seq;
        self.acked = segment.ack;
        self.received = segment.seq_end();
        Some(self.segment(ACK, self.next, 0))
    }

    /// 3.10.7.4.
    fn receive_known(&mut self, segment: &SegmentView) -> Option<SegmentView> {
        let flags = segment.flags;
        if flags.any(TcpFlags::SYN) && !flags.any(RST) {
            if matches!(self.state, State::Answering) && segment.seq == self.peer_isn {
                return self.send_again();
            }
            if self.is_done() && !self.is_owed() && before(self.received, segment.seq) {
                // TIME-WAIT (RFC 6191).
                return self.receive_unknown(segment);
            }
            return Some(self.segment(ACK, self.next, 0));
        }
        let right = self.received.wrapping_add(WINDOW);
        let last = segment.seq_end().wrapping_sub(1);
        let fits = within(segment.seq, self.received, right)
            || (segment.seq_end() != segment.seq && within(last, self.received, right));
        if !fits {
            return (!flags.any(RST)).then(|| self.segment(ACK, self.next, 0));
        }
        if flags.any(RST) {
            if segment.seq != self.received {
                return Some(self.segment(ACK, self.next, 0));
            }
            self.state = State::Closed;
            return None;
        }
        if !flags.any(ACK) {
            return None;
        }
        if matches!(self.state, State::Answering) {
            if segment.ack != self.next {
                return Some(self.segment(RST, segment.ack, 0));
            }
            self.state = State::Open;
        }
        if before(self.next, segment.ack) {
            return Some(self.segment(ACK, self.next, 0));
        }
        if before(self.acked, segment.ack) {
            self.acked = segment.ack;
        }
        let brought = segment.seq_end() != segment.seq;
        if brought {
            let fin = flags.any(TcpFlags::FIN);
            self.early.push((segment.seq, segment.seq_end(), fin));
            self.take_up();
        }
        let answer = brought.then(|| self.segment(ACK, self.next, 0));
        if self.passive && self.is_done() && !self.is_owed() {
            // LAST-ACK.
            self.state = State::Closed;
            return None;
        }
        answer
    }

    /// Moves on past all that has come without a gap.
    fn take_up(&mut self) {
        while let Some(place) = self
            .early
            .iter()
            .position(|(from, to, _)| !before(self.received, *from) && before(self.received, *to))
        {
            let (_, to, fin) = self.early.swap_remove(place);
            self.received = to;
            self.fin_received |= fin;
        }
        let received = self.received;
        self.early.retain(|(_, to, _)| before(received, *to));
    }
}
