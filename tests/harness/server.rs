//! Small TCP servers, as threads in a back-end's namespace. They keep count of their connections
//! themselves, so that nobody's word has to be taken for it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{Shutdown as SocketShutdown, setsockopt, shutdown, sockopt};

use crate::netns::Namespace;

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

/// A listening server; it stops, and drops its connections, when the handle is dropped.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    count: Arc<Count>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a server knows of its connections.
#[derive(Debug, Default)]
pub struct Count {
    active: AtomicUsize,
    most: AtomicUsize,
    peers: Mutex<Vec<SocketAddr>>,
    fullest: Mutex<Vec<SocketAddr>>,
    streams: Mutex<HashMap<usize, TcpStream>>,
}

impl Count {
    /// Connections that are accepted and not yet closed.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// The most of them at once, ever.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Who connected, in this order.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whose they were when there were the most of them.
    #[must_use]
    pub fn fullest(&self) -> Vec<SocketAddr> {
        self.fullest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the number under which [`Self::closed`] finds it.
    fn opened(&self, stream: &TcpStream, peer: SocketAddr) -> io::Result<usize> {
        let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
        let is_fullest = active > self.most.fetch_max(active, Ordering::SeqCst);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.push(peer);
        let number = peers.len();
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.insert(number, stream.try_clone()?);
        if is_fullest {
            let mut fullest = self.fullest.lock().unwrap_or_else(PoisonError::into_inner);
            *fullest = streams.keys().map(|number| peers[number - 1]).collect();
        }
        Ok(number)
    }

    /// Counted before the socket is closed, so that a successor is never counted beside it.
    fn closed(&self, number: usize, stream: TcpStream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.remove(&number);
        self.active.fetch_sub(1, Ordering::SeqCst);
        drop(stream);
    }
}

impl Server {
    /// Serves at a port of every address in there; `talk` has each connection, on a thread of its
    /// own, and its end closes the connection.
    pub fn start(
        namespace: &Namespace,
        port: u16,
        talk: impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        namespace.enter(|| Self::here(port, talk))
    }

    /// As [`Self::start`], in the network of the calling thread.
    pub fn here(
        port: u16,
        talk: impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener =
            TcpListener::bind(any).with_context(|| format!("cannot listen at port {port}"))?;
        let listener = Arc::new(listener);
        let count = Arc::new(Count::default());
        let acceptor = {
            let (listener, count) = (Arc::clone(&listener), Arc::clone(&count));
            std::thread::spawn(move || accept(&listener, &count, &Arc::new(talk)))
        };
        Ok(Self {
            listener,
            count,
            acceptor: Some(acceptor),
        })
    }

    /// Its connections.
    #[must_use]
    pub fn count(&self) -> &Arc<Count> {
        &self.count
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), SocketShutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let streams = self.count.streams.lock();
        for stream in streams.unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept<F>(listener: &TcpListener, count: &Arc<Count>, talk: &Arc<F>)
where
    F: Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static,
{
    // Shutting the listener down ends this.
    while let Ok((mut stream, peer)) = listener.accept() {
        let Ok(number) = count.opened(&stream, peer) else {
            break;
        };
        let (count, talk) = (Arc::clone(count), Arc::clone(talk));
        std::thread::spawn(move || {
            // Clients may vanish in the middle: that is theirs to report.
            let _ = talk(&mut stream, &count);
            count.closed(number, stream);
        });
    }
}

/// Sends back what comes, until the client has finished.
pub fn echo(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    let mut from = stream.try_clone()?;
    io::copy(&mut from, stream).map(drop)
}

/// Greets first, as SMTP and SSH do, and then echoes.
pub fn banner(stream: &mut TcpStream, count: &Count) -> io::Result<()> {
    stream.write_all(BANNER)?;
    echo(stream, count)
}

/// What [`banner`] says first.
pub const BANNER: &[u8] = b"220 ready\r\n";

/// Answers one HTTP request after `service_time` and closes.
pub fn http(
    service_time: Duration,
) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, _| {
        read_head(stream)?;
        std::thread::sleep(service_time);
        respond(stream)
    }
}

/// Reads up to the empty line that ends a request's head.
pub fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    const HEAD_BYTES_MAX: usize = 8 << 10;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut chunk)?;
        if length == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..length]);
    }
    Ok(head)
}

/// Writes a small answer that says that the connection ends.
pub fn respond(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
}

/// Takes all that comes and answers, when the client has finished, with its digest.
pub fn sink(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    let digest = digest_of(stream)?;
    stream.write_all(&digest.to_be_bytes())
}

/// Sends `length` bytes of a pattern and closes.
pub fn source(
    length: u64,
) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, _| send_pattern(stream, length).map(drop)
}

/// Closes its own direction at once and then takes what comes, answering nothing.
pub fn close_first(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    stream.write_all(BANNER)?;
    stream.shutdown(Shutdown::Write)?;
    digest_of(stream).map(drop)
}

/// Holds the connection until the client closes it.
pub fn hold(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    digest_of(stream).map(drop)
}

/// Resets the connection as soon as a byte has come.
pub fn reset(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    stream.read_exact(&mut [0])?;
    reset_on_close(stream)
}

/// Makes closing this socket send an RST.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(stream, sockopt::Linger, &linger)?)
}

/// Digest of all that comes until the other side has finished.
pub fn digest_of(from: &mut impl Read) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(hasher.finish()),
            length => hasher.write(&chunk[..length]),
        }
    }
}

/// Sends `length` bytes of a pattern, and returns their digest.
pub fn send_pattern(to: &mut impl Write, length: u64) -> io::Result<u64> {
    let pattern = pattern();
    let mut hasher = DefaultHasher::new();
    let mut left = length;
    while left > 0 {
        let now = left.min(pattern.len() as u64) as usize;
        hasher.write(&pattern[..now]);
        to.write_all(&pattern[..now])?;
        left -= now as u64;
    }
    Ok(hasher.finish())
}

/// Bytes that repeat after a length that no segment, buffer or window has a multiple of: what is
/// lost, doubled or misplaced changes the digest.
fn pattern() -> Vec<u8> {
    const LENGTH: usize = 1_000_003;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(LENGTH).collect()
}
