//! What clients do, on whatever thread calls: to be called inside a client's namespace.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use crate::netns::Namespace;
use crate::{PATIENCE, POLL};

/// How long a client waits for anything: longer than any queue in the tests.
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// Connects, and makes reads and writes fail rather than hang.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    connect_within(to, CLIENT_PATIENCE)
}

/// As [`connect`], for one that will not wait so long.
pub fn connect_within(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// Connects from a port of its own choice, also when that was used a moment ago.
///
/// The client's own kernel may still have the connection before, and refuse: until its last
/// acknowledgement has come, or while a process that another thread is starting holds a copy of the
/// descriptor. That is waited for; no packet is sent before.
pub fn connect_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match try_connect_from(port, to) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < end =>
            {
                std::thread::sleep(POLL);
            }
            result => return result,
        }
    }
}

fn try_connect_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let (family, any) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, SocketAddr::from(([0; 4], port))),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SocketAddr::from(([0; 16], port))),
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind(raw, &SockaddrStorage::from(any))?;
    nix::sys::socket::connect(raw, &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    Ok(stream)
}

/// Fetches `/` over a connection of its own and returns the whole answer.
pub fn fetch(to: SocketAddr) -> io::Result<String> {
    fetch_within(to, CLIENT_PATIENCE)
}

/// As [`fetch`], for one that will not wait so long; an answer cut short is an error.
pub fn fetch_within(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = connect_within(to, patience)?;
    get(&mut stream, "/", false)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// Sends a request for `path`.
pub fn get(stream: &mut TcpStream, path: &str, keep_alive: bool) -> io::Result<()> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes())
}

/// Sends `bytes` and reads as many back.
pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// Runs curl in a namespace and returns the body; what curl says is the error.
pub fn curl(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let patience = CLIENT_PATIENCE.as_secs().to_string();
    let line = ["curl", "-sS", "--fail", "--max-time", &patience].into_iter();
    let line: Vec<_> = line.chain(arguments.iter().copied()).collect();
    namespace.run(&line).context("curl")
}
