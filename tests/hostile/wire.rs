//! A client, a back-end, the dispatcher between them, and a network on either side that loses,
//! repeats and reorders. The dispatcher is what it is: the program's state machine, a ring of
//! events that can be full, and [`Admission`] with one slot. To the program nobody attends, so the
//! client hears of it when the back-end refuses.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::Direction::{self, Forward, Reply};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::{Phase, SegmentView, Track, advance, asks_instead};
use dispatcher_user::admission::{
    Admission, BackendId, BackendSettings, Balance, Ceiling, Command, ConnectFailure,
    FloodSettings, FlowId, FlowState, Overflow, ServiceId, ServiceSettings, Time,
};

use crate::end::{End, State};
use crate::random::Random;

/// Longer than any history.
const LONG: Duration = Duration::from_secs(3600);
/// Between the first numbers of an end's connections: more than is sent in one, also from one to
/// another of the next hundred (RFC 9293 3.4.1).
pub const APART: u32 = 0x1fff_0007;

/// One thing that happens. Directions say who acts, or whose packets a network carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// The client asks, from the same port as before, with this number, further on each time.
    Ask(u32),
    /// An end sends so many bytes.
    Send(Direction, u32),
    /// An end sends its FIN.
    Close(Direction),
    /// An end forgets the connection and sends an RST.
    Abort(Direction),
    /// An end sends again what is not acknowledged, or a keep-alive.
    Again(Direction),
    /// The packet at this place arrives, before the dispatcher or behind it.
    Deliver(Hop, usize),
    /// It is lost.
    Lose(Hop, usize),
    /// It arrives and will arrive again.
    Repeat(Hop, usize),
    /// The oldest event is read.
    ReadEvent,
    /// The ring was full: events are lost, and the flow is compared with the table.
    LoseEvents,
    /// So many milliseconds pass.
    Pass(u64),
}

/// Half of a way between the ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Whose packets.
    pub direction: Direction,
    /// From the dispatcher to the receiver; else from the sender to the dispatcher.
    pub behind: bool,
}

/// All four, in the order of a packet and its answer.
pub const HOPS: [Hop; 4] = [
    Hop {
        direction: Forward,
        behind: false,
    },
    Hop {
        direction: Forward,
        behind: true,
    },
    Hop {
        direction: Reply,
        behind: false,
    },
    Hop {
        direction: Reply,
        behind: true,
    },
];

impl Hop {
    const fn index(self) -> usize {
        2 * self.direction as usize + self.behind as usize
    }
}

/// What the program keeps of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its identity.
    pub id: FlowId,
    /// What happened.
    pub phase: Phase,
    /// Forward and reply.
    pub tracks: [Track; 2],
}

/// A packet that the program saw, and what it made of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Who sent it.
    pub direction: Direction,
    /// Its numbers.
    pub segment: SegmentView,
    /// Its numbers as it is sent on, if it is.
    pub sent: SegmentView,
    /// What became of it.
    pub fate: Fate,
}

/// What the program does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It belongs to a flow, which is so afterwards; and whether an event was reported.
    SentOn(Kept, bool),
    /// A connection request without a flow, or on one that has ended; admitted as this flow, which
    /// is as it was installed.
    Punted(Option<Kept>),
    /// It answers a request that passed before the flow ended.
    HeldBack,
    /// It has no flow.
    Unknown,
}

/// All of it.
#[derive(Clone)]
pub struct Wire {
    /// The client and the back-end.
    pub ends: [End; 2],
    /// Packets under way, by [`Hop`].
    under_way: [Vec<SegmentView>; 4],
    kept: Option<Kept>,
    events: VecDeque<(FlowId, Phase)>,
    admission: Admission<u32, BuildHasherDefault<DefaultHasher>>,
    service: ServiceId,
    backend: BackendId,
    now: Time,
    /// How often the client has asked.
    asked: u32,
    /// The back-end forgot a handshake, and answered the same request again before its RST was
    /// seen: which of two answers the client takes, only their order tells, and that is lost.
    pub is_answered_twice: bool,
    /// What the program saw, in order.
    pub seen: Vec<Seen>,
}

/// The client's 5-tuple.
fn key() -> FlowKey {
    let [client, service] = [[198, 51, 100, 1], [192, 0, 2, 10]].map(Addr::from_v4_bytes);
    FlowKey::new(client, Port::new(40_001), service, Port::new(80))
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

impl Wire {
    /// Nothing has happened.
    ///
    /// # Panics
    /// Never: there is room for one service and one back-end.
    #[must_use]
    pub fn new() -> Self {
        let mut admission = Admission::new(4, BuildHasherDefault::default());
        let service = admission.add_service(ServiceSettings {
            queue_capacity: 4,
            queue_timeout: LONG,
            overflow: Overflow::Drop,
            per_source: 0,
            connect: LONG,
            handshake: LONG,
            idle: LONG,
            closing: LONG,
            balance: Balance::RoundRobin,
            flood: FloodSettings::OFF,
        });
        let service = service.expect("the first");
        let ceiling = Ceiling {
            initial: 1,
            min: 1,
            max: 1,
        };
        let backend = BackendSettings {
            addr: Addr::from_v4_bytes([10, 0, 0, 11]),
            port: Port::new(8080),
            ceiling,
            capacity: 100,
            weight: 1,
            group: None,
        };
        let backend = admission.add_backend(Time::ZERO, service, backend);
        Self {
            ends: [End::new(Forward), End::new(Reply)],
            under_way: Default::default(),
            kept: None,
            events: VecDeque::new(),
            admission,
            service,
            backend: backend.expect("the first"),
            now: Time::ZERO,
            asked: 0,
            is_answered_twice: false,
            seen: Vec::new(),
        }
    }

    /// A connection that is established, with nothing under way.
    #[must_use]
    pub fn established(isn: u32) -> Self {
        let mut wire = Self::new();
        wire.act(Act::Ask(isn));
        wire.drain();
        wire
    }

    /// Packets on a hop.
    #[must_use]
    pub fn under_way(&self, hop: Hop) -> usize {
        self.under_way[hop.index()].len()
    }

    /// Whether each end is in a connection with the other, and one of them has something to say.
    #[must_use]
    pub fn both_talk(&self) -> bool {
        let [client, backend] = &self.ends;
        client.state == State::Open
            && matches!(backend.state, State::Open | State::Answering)
            && (client.isn, client.peer_isn) == (backend.peer_isn, backend.isn)
            && !(client.is_done() && backend.is_done())
    }

    /// Slots held.
    ///
    /// # Panics
    /// When slots are not accounted for, or more are held than there are.
    #[must_use]
    pub fn held(&self) -> u32 {
        let view = self.admission.backend(self.backend).expect("it stays");
        let held = view.half_open + view.active;
        assert_eq!(
            view.admitted,
            view.ended + view.failed + u64::from(held),
            "each slot is freed once"
        );
        assert!(held <= view.ceiling, "{held} slots of {}", view.ceiling);
        held
    }

    /// Requests that were given to the back-end.
    ///
    /// # Panics
    /// Never: the back-end stays.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.admission
            .backend(self.backend)
            .expect("it stays")
            .admitted
    }

    /// Lets one thing happen; nothing if it cannot.
    ///
    /// # Panics
    /// When what must hold does not.
    pub fn act(&mut self, act: Act) {
        match act {
            Act::Ask(isn) => {
                if self.ends[0].state == State::Closed {
                    let isn = isn.wrapping_add(self.asked.wrapping_mul(APART));
                    self.asked += 1;
                    let sent = self.ends[0].ask(isn);
                    self.put(Forward, Some(sent));
                }
            }
            Act::Send(from, payload) => self.by(from, |end| end.send(payload)),
            Act::Close(from) => self.by(from, End::close),
            Act::Abort(from) => self.by(from, End::abort),
            Act::Again(from) => self.by(from, End::send_again),
            Act::Deliver(hop, place) => {
                if let Some(segment) = self.take(hop, place) {
                    self.arrive(hop, segment);
                }
            }
            Act::Lose(hop, place) => drop(self.take(hop, place)),
            Act::Repeat(hop, place) => {
                if let Some(segment) = self.under_way[hop.index()].get(place).copied() {
                    self.arrive(hop, segment);
                }
            }
            Act::ReadEvent => {
                if let Some((id, phase)) = self.events.pop_front() {
                    self.admission.handle_phase(self.now, id, phase);
                }
            }
            Act::LoseEvents => {
                self.events.clear();
                self.compare();
            }
            Act::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds)),
        }
        self.carry_out();
        self.check();
    }

    fn by(&mut self, from: Direction, send: impl FnOnce(&mut End) -> Option<SegmentView>) {
        let sent = send(&mut self.ends[from as usize]);
        self.put(from, sent);
    }

    fn put(&mut self, from: Direction, sent: Option<SegmentView>) {
        self.under_way[2 * from as usize].extend(sent);
    }

    fn take(&mut self, hop: Hop, place: usize) -> Option<SegmentView> {
        let packets = &mut self.under_way[hop.index()];
        (place < packets.len()).then(|| packets.remove(place))
    }

    fn arrive(&mut self, hop: Hop, segment: SegmentView) {
        if hop.behind {
            let receiver = hop.direction.reversed();
            let answer = self.ends[receiver as usize].receive(&segment);
            self.put(receiver, answer);
            return;
        }
        let sent = self.instead(hop.direction, &segment).unwrap_or(segment);
        let fate = self.see(hop.direction, segment);
        self.seen.push(Seen {
            direction: hop.direction,
            segment,
            sent,
            fate,
        });
        if matches!(fate, Fate::SentOn(..) | Fate::Punted(Some(_))) {
            self.under_way[hop.index() + 1].push(sent);
        }
    }

    /// What the program makes of a client's SYN on a flow that lives.
    fn instead(&self, direction: Direction, segment: &SegmentView) -> Option<SegmentView> {
        let kept = self.kept.filter(|_| direction == Forward)?;
        asks_instead(kept.phase, segment, &kept.tracks[1])
    }

    /// The program.
    fn see(&mut self, direction: Direction, segment: SegmentView) -> Fate {
        let asks = segment.flags.is_connection_request();
        let (own, peer) = (direction as usize, direction.reversed() as usize);
        match &mut self.kept {
            Some(kept) if !(segment.flags.any(TcpFlags::SYN) && kept.phase.is_ended()) => {
                let before = kept.phase;
                self.is_answered_twice |= before == Phase::ANSWERED
                    && direction == Reply
                    && segment.flags.any(TcpFlags::SYN)
                    && segment.seq_end() != kept.tracks[1].seq_end;
                let [own, peer] = [own, peer].map(|of| &kept.tracks[of]);
                if let Some((bits, track)) = advance(before, direction, &segment, *own, *peer) {
                    assert_eq!(bits.0 & before.0, 0, "a bit is added once");
                    kept.tracks[direction as usize] = track;
                    kept.phase = before.with(bits);
                }
                let is_news = kept.phase.is_news_after(before);
                if is_news {
                    self.events.push_back((kept.id, kept.phase));
                }
                Fate::SentOn(*kept, is_news)
            }
            _ if direction == Forward && asks => {
                let before = self.kept;
                self.admission
                    .handle_syn(self.now, self.service, key(), segment.seq, segment.seq);
                self.carry_out();
                Fate::Punted(self.kept.filter(|_| self.kept != before))
            }
            Some(_) => Fate::HeldBack,
            None => Fate::Unknown,
        }
    }

    /// The engine.
    fn carry_out(&mut self) {
        while let Some(command) = self.admission.poll_command() {
            match command {
                Command::Admit { flow, isn, .. } => {
                    self.kept = Some(Kept {
                        id: flow,
                        phase: Phase::default(),
                        tracks: [Track::of_syn(isn), Track::default()],
                    });
                }
                Command::Remove { flow, .. } => {
                    if self.kept.is_some_and(|kept| kept.id == flow) {
                        self.kept = None;
                    }
                }
                Command::Probe { flow, .. } => {
                    self.compare();
                    self.admission.handle_activity(self.now, flow, Time::ZERO);
                }
                Command::Unanswered { flow, .. } => {
                    self.compare();
                    // Of one that was answered this is not believed.
                    self.admission.handle_connect_failed(
                        self.now,
                        flow,
                        ConnectFailure::Silent,
                        None,
                    );
                }
                Command::Refuse { .. } | Command::Discard { .. } => {}
            }
        }
    }

    /// Admission learns what the table has.
    fn compare(&mut self) {
        if let Some(kept) = self.kept {
            self.admission.handle_phase(self.now, kept.id, kept.phase);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.admission.poll_timeout()
            && due <= until
        {
            self.now = self.now.max(due);
            self.admission.handle_timeout(self.now);
            self.carry_out();
        }
        self.now = until;
    }

    /// What must hold after everything that happens.
    fn check(&self) {
        let held = self.held();
        if self.both_talk() && !self.is_answered_twice {
            let ended = self.kept.is_none_or(|kept| kept.phase.is_ended());
            let story = || {
                let lines = self.seen.iter().map(|seen| format!("{seen:?}\n"));
                lines.collect::<String>()
            };
            assert!(held == 1 && !ended, "both ends talk after\n{}", story());
        }
        let live = |kept: Kept| {
            let flow = self.admission.flow(kept.id);
            flow.is_some_and(|flow| flow.state != FlowState::Lingering)
        };
        assert_eq!(held == 1, self.kept.is_some_and(live), "{:?}", self.kept);
    }

    /// All that is under way arrives, in order, and all events are read. Two ends that disagree on
    /// their numbers would correct each other for ever: that is cut short, as RFC 5961 7 asks for.
    pub fn drain(&mut self) {
        for _ in 0..100 {
            let Some(hop) = HOPS.into_iter().find(|hop| self.under_way(*hop) != 0) else {
                break;
            };
            self.act(Act::Deliver(hop, 0));
        }
        self.under_way = Default::default();
        while !self.events.is_empty() {
            self.act(Act::ReadEvent);
        }
    }

    /// The network recovers and both ends go on as long as anything is to be said, without opening
    /// or closing anything. Then the slot is held exactly if both talk; or, if nobody was left to
    /// tell, until a timeout. At last all times are over, and nothing is left.
    ///
    /// # Panics
    /// When that is not so.
    pub fn settle(&mut self) {
        let anybody = self.ends.iter().any(|end| end.state != State::Closed);
        for _ in 0..4 {
            for from in [Forward, Reply] {
                self.act(Act::Again(from));
                self.drain();
            }
        }
        let established = self.kept.is_some_and(|kept| kept.phase.is_established());
        if !self.is_answered_twice && anybody && established && !self.both_talk() {
            assert_eq!(self.held(), 0, "{:?} {:?}", self.ends, self.kept);
        }
        self.ends = [End::new(Forward), End::new(Reply)];
        self.pass(3 * LONG);
        assert_eq!((self.held(), self.kept), (0, None), "all times are over");
    }
}

/// A history: most of it what a network and two programs do, some of it what they do seldom.
pub fn history(random: &mut Random, length: usize, mut act: impl FnMut(Act)) {
    for _ in 0..length {
        let direction = if random.below(2) == 0 { Forward } else { Reply };
        let hop = HOPS[random.below(4) as usize];
        let place = [0, 0, 0, 1, 2][random.below(5) as usize];
        act(match random.below(64) {
            0..3 => Act::Ask(isn(random)),
            3..9 => Act::Send(direction, 1 + random.below(1400)),
            9..12 => Act::Close(direction),
            12 => Act::Abort(direction),
            13..18 => Act::Again(direction),
            18..46 => Act::Deliver(hop, place),
            46..50 => Act::Lose(hop, place),
            50..54 => Act::Repeat(hop, place),
            54..60 => Act::ReadEvent,
            60 => Act::LoseEvents,
            _ => Act::Pass(u64::from(random.below(700))),
        });
    }
}

/// Numbers to begin with, often next to where they wrap.
fn isn(random: &mut Random) -> u32 {
    match random.below(3) {
        0 => u32::MAX - random.below(2000),
        1 => i32::MAX as u32 - random.below(2000),
        _ => random.next(),
    }
}
