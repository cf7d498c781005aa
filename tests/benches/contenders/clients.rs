//! The clients of one namespace: a thread, an epoll, and as few system calls for a request as it
//! goes. An own one, because what is on hand opens no connection a request and keeps no rate, and
//! because on two processors a costly one would be most of what is measured. Every answer is
//! compared with what its back-end sends; what is anything else is a failure.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::exchange::{BACKENDS, Page};

/// How long after the end the last answers may come.
const PATIENCE: Duration = Duration::from_secs(3);
/// Clients at once in an open loop; who finds no place has failed.
const OPEN_AT_ONCE_MAX: usize = 4096;
/// The timer among the events; clients are numbered from 0.
const TIMER: u64 = u64::MAX;
const EVENTS: usize = 128;
const BUFFER_BYTES: usize = 256 << 10;

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// So many clients, each asks over a new connection when it has its answer.
    Connections(usize),
    /// So many clients, each asks again over its connection.
    KeepAlive(usize),
    /// So many requests a second, each over a new connection, whatever becomes of those before.
    Rate(u32),
    /// So many clients, each takes what an endless answer brings.
    Bulk(usize),
}

/// From when to when something is done or measured.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its beginning.
    pub from: Instant,
    /// Its end.
    pub to: Instant,
}

impl Span {
    fn has(&self, at: Instant) -> bool {
        self.from <= at && at < self.to
    }

    /// How long it lasts.
    pub fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Whole answers, by back-end.
    pub answers: [u64; BACKENDS],
    /// Those of them that were whole in the time measured.
    pub measured: u64,
    /// Payload that came in the time measured, bytes.
    pub bytes: u64,
    /// In an open loop: from when a request was due to its whole answer, of those measured.
    pub latencies: Vec<Duration>,
    /// Requests without a whole answer, by what was wrong.
    pub failures: BTreeMap<String, u64>,
}

impl Tally {
    /// Takes in another one's.
    pub fn add(&mut self, other: Self) {
        for (mine, more) in std::iter::zip(&mut self.answers, other.answers) {
            *mine += more;
        }
        self.measured += other.measured;
        self.bytes += other.bytes;
        self.latencies.extend(other.latencies);
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
    }
}

/// Does it, on the calling thread. Clients take `targets` in turn. They begin at once, begin
/// nothing new after `span`, and are gone when this returns.
pub fn run(load: Load, targets: &[SocketAddr], span: Span) -> Result<Tally> {
    let mut clients = Clients::new(load, targets, span)?;
    match load {
        Load::Rate(rate) => clients.open(rate)?,
        Load::Connections(count) | Load::KeepAlive(count) | Load::Bulk(count) => {
            for _ in 0..count {
                clients.begin(Instant::now());
            }
        }
    }
    clients.serve()?;
    Ok(clients.tally)
}

struct Clients<'a> {
    load: Load,
    page: Page,
    /// The whole answer of each back-end.
    expected: [Vec<u8>; BACKENDS],
    targets: &'a [SocketAddr],
    turn: usize,
    span: Span,
    epoll: Epoll,
    timer: Option<Timer>,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    tally: Tally,
}

struct Timer {
    file: TimerFd,
    interval: Duration,
    next: Instant,
}

struct Client {
    stream: TcpStream,
    asked: bool,
    due: Instant,
    /// What has come of the answer; of an endless one no more than its head.
    answer: Vec<u8>,
}

/// How an event left a client.
enum State {
    Waits,
    /// Its answer is whole, from this back-end.
    Answered(usize),
    Failed(String),
}

impl<'a> Clients<'a> {
    fn new(load: Load, targets: &'a [SocketAddr], span: Span) -> Result<Self> {
        let page = match load {
            Load::Connections(_) | Load::Rate(_) => Page::Last,
            Load::KeepAlive(_) => Page::Next,
            Load::Bulk(_) => Page::Endless,
        };
        Ok(Self {
            load,
            page,
            expected: page.answers(),
            targets,
            turn: 0,
            span,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            timer: None,
            clients: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            tally: Tally::default(),
        })
    }

    /// Has requests begin by a timer.
    fn open(&mut self, rate: u32) -> Result<()> {
        let interval = Duration::from_secs(1) / rate;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let file = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let every = Expiration::Interval(TimeSpec::from(interval));
        file.set(every, TimerSetTimeFlags::empty())?;
        self.epoll
            .add(&file, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        self.timer = Some(Timer {
            file,
            interval,
            next: Instant::now() + interval,
        });
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let now = Instant::now();
            let over = now >= self.span.to;
            if over && self.is_over() {
                return Ok(());
            }
            let deadline = if over {
                self.span.to + PATIENCE
            } else {
                self.span.to
            };
            let left = deadline.saturating_duration_since(now);
            if over && left.is_zero() {
                let count = self.clients.iter().flatten().count() as u64;
                *self.failed("no answer") += count;
                return Ok(());
            }
            // Whole milliseconds, and not too few.
            let left = EpollTimeout::try_from(left + Duration::from_millis(1))?;
            let count = match self.epoll.wait(&mut events, left) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("the clients cannot wait"),
            };
            for event in &events[..count] {
                if event.data() == TIMER {
                    self.tick()?;
                } else {
                    self.go_on(event.data() as usize, event.events());
                }
            }
        }
    }

    /// Whether nobody has to be waited for.
    fn is_over(&self) -> bool {
        matches!(self.load, Load::Bulk(_)) || self.free.len() == self.clients.len()
    }

    fn tick(&mut self) -> Result<()> {
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        let mut expired = [0; 8];
        match nix::unistd::read(&timer.file, &mut expired) {
            Ok(_) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let mut due = timer.next;
        let (expired, interval) = (u64::from_ne_bytes(expired), timer.interval);
        timer.next += interval * u32::try_from(expired)?;
        for _ in 0..expired {
            if due < self.span.to {
                self.begin(due);
            }
            due += interval;
        }
        Ok(())
    }

    /// A client that was to ask at `due`.
    fn begin(&mut self, due: Instant) {
        let target = self.targets[self.turn % self.targets.len()];
        self.turn += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            self.clients.len() - 1
        });
        if slot >= OPEN_AT_ONCE_MAX {
            self.give_up(slot, "no place for another client");
            return;
        }
        match self.dial(slot, target) {
            Ok(stream) => {
                self.clients[slot] = Some(Client {
                    stream,
                    asked: false,
                    due,
                    answer: Vec::new(),
                });
            }
            Err(error) => self.give_up(slot, &format!("cannot connect: {error}")),
        }
    }

    fn give_up(&mut self, slot: usize, why: &str) {
        self.free.push(slot);
        *self.failed(why) += 1;
    }

    fn failed(&mut self, why: &str) -> &mut u64 {
        self.tally.failures.entry(why.to_owned()).or_default()
    }

    fn dial(&self, slot: usize, target: SocketAddr) -> io::Result<TcpStream> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(target)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        self.epoll
            .add(&fd, EpollEvent::new(interest, slot as u64))?;
        Ok(TcpStream::from(fd))
    }

    fn go_on(&mut self, slot: usize, events: EpollFlags) {
        let Some(mut client) = self.clients[slot].take() else {
            return;
        };
        match self.look(&mut client, events) {
            State::Waits => self.clients[slot] = Some(client),
            State::Failed(why) => {
                drop(client);
                self.give_up(slot, &why);
                self.renew();
            }
            State::Answered(backend) => {
                let now = Instant::now();
                self.tally.answers[backend] += 1;
                let measured = match self.load {
                    Load::Rate(_) => self.span.has(client.due),
                    Load::Connections(_) | Load::KeepAlive(_) | Load::Bulk(_) => self.span.has(now),
                };
                self.tally.measured += u64::from(measured);
                if matches!(self.load, Load::Rate(_)) && measured {
                    self.tally.latencies.push(now - client.due);
                }
                match self.load {
                    Load::Bulk(_) => {
                        self.clients[slot] = Some(client);
                        // There may be more, of which no event will tell.
                        self.go_on(slot, EpollFlags::EPOLLIN);
                    }
                    Load::KeepAlive(_) if now < self.span.to => {
                        client.answer.clear();
                        match client.stream.write_all(self.page.request()) {
                            Ok(()) => self.clients[slot] = Some(client),
                            Err(error) => self.give_up(slot, &format!("cannot ask: {error}")),
                        }
                    }
                    Load::KeepAlive(_) | Load::Connections(_) | Load::Rate(_) => {
                        drop(client);
                        self.free.push(slot);
                        self.renew();
                    }
                }
            }
        }
    }

    /// In a closed loop, a client in the place of one that has ended.
    fn renew(&mut self) {
        let now = Instant::now();
        if matches!(self.load, Load::Connections(_)) && now < self.span.to {
            self.begin(now);
        }
    }

    fn look(&mut self, client: &mut Client, events: EpollFlags) -> State {
        if !client.asked {
            if let Err(error) = client.stream.write_all(self.page.request()) {
                return match error.kind() {
                    // Woken before the handshake was over.
                    ErrorKind::NotConnected | ErrorKind::WouldBlock => State::Waits,
                    _ => State::Failed(format!("no connection: {error}")),
                };
            }
            client.asked = true;
        }
        let closing = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if !events.intersects(EpollFlags::EPOLLIN | closing) {
            return State::Waits;
        }
        let closes = events.intersects(closing);
        loop {
            let read = match client.stream.read(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return State::Waits,
                Err(error) => return State::Failed(format!("broken: {error}")),
            };
            if self.page == Page::Endless {
                if read == 0 {
                    return State::Failed("an endless answer ended".to_owned());
                }
                if let Some(state) = self.take(client, read) {
                    return state;
                }
            } else {
                client.answer.extend_from_slice(&self.buffer[..read]);
                // A client that leaves before the back-end has would have to remember it for long.
                let complete = match self.page {
                    Page::Last => read == 0 || closes && read < self.buffer.len(),
                    Page::Next | Page::Endless => false,
                };
                match self.sender(&client.answer) {
                    Some(backend) if complete || self.page == Page::Next => {
                        return State::Answered(backend);
                    }
                    _ if read == 0 => {
                        let answer = String::from_utf8_lossy(&client.answer);
                        let begin = answer.lines().next().unwrap_or_default();
                        return State::Failed(format!("another answer: {begin:?}"));
                    }
                    _ => {}
                }
            }
            if read < self.buffer.len() && !closes {
                return State::Waits;
            }
        }
    }

    /// The back-end whose whole answer this is.
    fn sender(&self, answer: &[u8]) -> Option<usize> {
        self.expected.iter().position(|expected| expected == answer)
    }

    /// Takes what has come of an endless answer; the first part of it must be some back-end's head.
    fn take(&mut self, client: &mut Client, read: usize) -> Option<State> {
        if self.span.has(Instant::now()) {
            self.tally.bytes += read as u64;
        }
        let head = self.expected[0].len();
        let missing = head.saturating_sub(client.answer.len());
        if missing == 0 {
            return None;
        }
        client
            .answer
            .extend_from_slice(&self.buffer[..missing.min(read)]);
        if client.answer.len() < head {
            return None;
        }
        Some(match self.sender(&client.answer) {
            Some(backend) => State::Answered(backend),
            None => State::Failed("another answer than an endless one".to_owned()),
        })
    }
}
