//! A back-end: one thread in its namespace, an epoll, and as few system calls for a request as it
//! goes. All contenders have the same; the less it costs, the more of what is measured is theirs.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use dispatcher_tests::config::BACKEND_PORT;
use dispatcher_tests::topology::Node;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::exchange::{Page, REQUEST_END};

/// Connections that may wait to be accepted; the kernel's own limit is as high.
const BACKLOG: i32 = 4096;
/// Between two looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes written at once of an answer without end.
static CHUNK: [u8; 128 << 10] = [b'.'; 128 << 10];
/// The listener among the events; connections are numbered from 0.
const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 128;

/// A running back-end; it ends when this is dropped.
#[derive(Debug)]
pub struct Backend {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Serves at the lab's port for back-ends, as the one of this number.
    pub fn start(node: &Node, number: usize) -> Result<Self> {
        let listener = node.enter(|| -> Result<_> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BACKEND_PORT))?;
            listener.set_nonblocking(true)?;
            // Again, to wait for longer than the standard library would have them.
            let backlog = nix::sys::socket::Backlog::new(BACKLOG)?;
            nix::sys::socket::listen(&listener, backlog)?;
            Ok(listener)
        })?;
        let (stop, answers) = (Arc::default(), Arc::default());
        let mut serving = Serving::new(listener, number, Arc::clone(&answers))?;
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serving.serve(&stopped));
        Ok(Self {
            stop,
            answers,
            thread: Some(thread),
        })
    }

    /// Requests that it has answered.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Serving {
    listener: TcpListener,
    epoll: Epoll,
    given: Arc<AtomicU64>,
    answers: [(Page, Vec<u8>); 3],
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    stream: TcpStream,
    /// What has come of a request that is not whole.
    request: Vec<u8>,
    endless: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

impl Serving {
    fn new(listener: TcpListener, number: usize, given: Arc<AtomicU64>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let answer = |page: Page| (page, page.answer(number));
        Ok(Self {
            listener,
            epoll,
            given,
            answers: [Page::Last, Page::Next, Page::Endless].map(answer),
            connections: Vec::new(),
            free: Vec::new(),
        })
    }

    fn serve(&mut self, stop: &AtomicBool) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let look = EpollTimeout::try_from(LOOK).unwrap_or(EpollTimeout::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let count = match self.epoll.wait(&mut events, look) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("a back-end cannot wait: {error}"),
            };
            for event in &events[..count] {
                if event.data() == LISTENER {
                    self.accept();
                } else {
                    self.go_on(event.data() as usize);
                }
            }
        }
    }

    fn accept(&mut self) {
        // Anything but a connection is no more than that there is none now.
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let mut connection = Connection {
                stream,
                request: Vec::new(),
                endless: false,
            };
            // The request has come with the handshake's end, mostly.
            if self.talk(&mut connection) == Next::Keep {
                self.keep(connection);
            }
        }
    }

    fn keep(&mut self, connection: Connection) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let interest = interest(&connection);
        let added = self
            .epoll
            .add(&connection.stream, EpollEvent::new(interest, slot as u64));
        if added.is_ok() {
            self.connections[slot] = Some(connection);
        } else {
            self.free.push(slot);
        }
    }

    fn go_on(&mut self, slot: usize) {
        let Some(mut connection) = self.connections[slot].take() else {
            return;
        };
        let before = interest(&connection);
        let mut next = self.talk(&mut connection);
        let after = interest(&connection);
        if next == Next::Keep && before != after {
            let mut event = EpollEvent::new(after, slot as u64);
            if self.epoll.modify(&connection.stream, &mut event).is_err() {
                next = Next::Close;
            }
        }
        match next {
            Next::Keep => self.connections[slot] = Some(connection),
            Next::Close => self.free.push(slot),
        }
    }

    fn talk(&self, connection: &mut Connection) -> Next {
        if connection.endless {
            return or_close(connection.stream.write(&CHUNK));
        }
        let mut bytes = [0; 512];
        let read = match connection.stream.read(&mut bytes) {
            Ok(0) => return Next::Close,
            Ok(read) => &bytes[..read],
            Err(error) => return or_close(Err(error)),
        };
        let page = if connection.request.is_empty() && read.ends_with(REQUEST_END) {
            Page::of(read)
        } else {
            connection.request.extend_from_slice(read);
            if !connection.request.ends_with(REQUEST_END) {
                return Next::Keep;
            }
            Page::of(&std::mem::take(&mut connection.request))
        };
        let answer = self.answers.iter().find(|(known, _)| Some(*known) == page);
        let Some((page, answer)) = answer else {
            return Next::Close;
        };
        // Before the client can have it.
        self.given.fetch_add(1, Ordering::Relaxed);
        if connection.stream.write_all(answer).is_err() {
            return Next::Close;
        }
        connection.endless = *page == Page::Endless;
        match page {
            Page::Last => Next::Close,
            Page::Next | Page::Endless => Next::Keep,
        }
    }
}

fn interest(connection: &Connection) -> EpollFlags {
    if connection.endless {
        EpollFlags::EPOLLOUT
    } else {
        EpollFlags::EPOLLIN
    }
}

fn or_close(result: io::Result<usize>) -> Next {
    match result {
        Ok(_) => Next::Keep,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Keep,
        Err(_) => Next::Close,
    }
}
