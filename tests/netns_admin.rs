//! The doors of the daemon under abuse: a thousand clients who are silent, slow, greedy or mad
//! delay no connection, keep no operator out, and leave nothing behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use dispatcher_tests::config::{BACKEND_PORT, Config, METRICS, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab};
use dispatcher_tests::{PATIENCE, client, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Clients of the admin socket that do as they should not.
const ABUSERS: usize = 1000;
/// The same at the metrics page.
const SCRAPERS: usize = 200;
/// Connections whose times are compared, before and during.
const CONNECTIONS: usize = 300;
/// How many times as long a connection may take during.
const SLOWER_MAX: u32 = 4;
/// What it may take besides, for want of a processor: half a turn of the scheduler.
const SLACK: Duration = Duration::from_millis(2);
/// How soon an operator is answered, though a thousand are before him.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Memory that may stay: buffers that the allocator keeps.
const KEPT_MAX: u64 = 16 << 20;

/// What a client does that should not.
#[derive(Clone, Copy, Debug)]
enum Abuse {
    /// Connects and says nothing.
    Silent,
    /// A byte of a request now and then, or a request whose answer is not read.
    Slow,
    /// A head or a body without end.
    Oversized,
    /// No HTTP.
    Malformed,
}

impl Abuse {
    const ALL: [Self; 4] = [Self::Silent, Self::Slow, Self::Oversized, Self::Malformed];

    /// Talks until the daemon has enough, or `is_over`.
    fn talk(self, stream: &mut (impl Read + Write), i: usize, is_over: &AtomicBool) {
        let over = || is_over.load(Ordering::Relaxed);
        let say = |stream: &mut dyn Write, bytes: &[u8]| stream.write_all(bytes);
        let result = match self {
            Self::Silent => Ok(()),
            Self::Slow if i.is_multiple_of(2) => {
                let request = b"GET /v1/status HTTP/1.1\r\nhost: d\r\nx: ";
                let mut bytes = request.iter().copied().chain(std::iter::repeat(b'y'));
                loop {
                    let byte = bytes.next().unwrap_or(b'z');
                    if over() || say(stream, &[byte]).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            }
            Self::Slow => {
                let request = b"POST /v1/ceiling HTTP/1.1\r\nhost: d\r\n\
                    content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
                say(stream, request)
            }
            Self::Oversized if i.is_multiple_of(2) => {
                let head = format!("GET /v1/status HTTP/1.1\r\nx: {}", "y".repeat(1 << 20));
                say(stream, head.as_bytes())
            }
            Self::Oversized => {
                let head = "POST /v1/ceiling HTTP/1.1\r\nhost: d\r\n\
                    content-type: application/json\r\ncontent-length: 1000000000\r\n\r\n";
                say(stream, head.as_bytes()).and_then(|()| say(stream, &vec![b'{'; 1 << 20]))
            }
            Self::Malformed => say(stream, b"\x16\x03\x01\x02\x00\r\n\0\r\n\r\n"),
        };
        // What was refused while it was being said is answered all the same, or is cut.
        let _ = result;
        let mut answer = [0; 1024];
        while !over() {
            match stream.read(&mut answer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// How long an abuser is stuck before it looks whether it is over.
const STUCK: Duration = Duration::from_millis(200);

/// Connects as anybody may, and waits for a place in the backlog no longer than [`STUCK`].
fn connect_unix(path: &Path) -> nix::Result<UnixStream> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let stuck = TimeVal::milliseconds(STUCK.as_millis() as i64);
    setsockopt(&fd, sockopt::SendTimeout, &stuck)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &stuck)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn connect_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, STUCK)?;
    stream.set_read_timeout(Some(STUCK))?;
    stream.set_write_timeout(Some(STUCK))?;
    Ok(stream)
}

/// Runs `body` while all of them do what they do; returns what it returned, and how often each kind
/// was connected.
fn abused<T: Send>(
    daemon: &Daemon,
    lab: &Lab,
    body: impl FnOnce() -> T + Send,
) -> (T, [AtomicUsize; 4]) {
    let is_over = AtomicBool::new(false);
    let connected = [const { AtomicUsize::new(0) }; 4];
    let path = &daemon.files().socket;
    let result = thread::scope(|scope| {
        let (is_over, connected) = (&is_over, &connected);
        let start = |i: usize, at_socket: bool| {
            let small = thread::Builder::new().stack_size(128 << 10);
            let spawned = small.spawn_scoped(scope, move || {
                let abuse = Abuse::ALL[i % 4];
                while !is_over.load(Ordering::Relaxed) {
                    if at_socket {
                        let Ok(mut stream) = connect_unix(path) else {
                            continue;
                        };
                        connected[i % 4].fetch_add(1, Ordering::Relaxed);
                        abuse.talk(&mut stream, i / 4, is_over);
                    } else if let Ok(mut stream) = connect_tcp(METRICS) {
                        abuse.talk(&mut stream, i / 4, is_over);
                    }
                }
            });
            spawned.unwrap();
        };
        (0..ABUSERS).for_each(|i| start(i, true));
        // A thread is in the namespace of the one that started it.
        lab.dispatcher()
            .enter(|| (0..SCRAPERS).for_each(|i| start(i, false)));
        let all = || {
            let counts = connected.iter().map(|count| count.load(Ordering::Relaxed));
            counts.min() >= Some(ABUSERS / Abuse::ALL.len())
        };
        eventually(PATIENCE, "all abusers are connected", all);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        is_over.store(true, Ordering::Relaxed);
        result
    });
    let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    (result, connected)
}

/// How long connections take, one after the other, each served to its end: the median.
fn median(lab: &Lab, service: SocketAddr) -> Duration {
    let mut times: Vec<_> = lab.client(0).enter(|| {
        let connection = |_| {
            let asked = Instant::now();
            let mut stream = client::connect(service).expect("a connection is made");
            let took = asked.elapsed();
            let answer = client::exchange(&mut stream, b"served").expect("it is served");
            assert_eq!(answer, b"served");
            took
        };
        (0..CONNECTIONS).map(connection).collect()
    });
    times.sort_unstable();
    times[CONNECTIONS / 2]
}

#[test]
fn a_thousand_abusers_delay_no_connection_and_keep_no_operator_out() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 64)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let before = median(&lab, service);
    daemon.metrics().unwrap();
    assert_settles(&daemon);
    let (descriptors, memory) = (daemon.descriptors().unwrap(), daemon.memory().unwrap());

    let ((during, answered, scraped), connected) = abused(&daemon, &lab, || {
        let during = median(&lab, service);
        let asked = Instant::now();
        daemon.status().assert_balanced();
        let answered = asked.elapsed();
        daemon.metrics().unwrap();
        (during, answered, asked.elapsed() - answered)
    });
    println!(
        "a connection takes {before:?}, {during:?} under abuse; status after {answered:?}, metrics \
         after {scraped:?}; abusers were let in {connected:?} times"
    );
    assert!(
        during <= SLOWER_MAX * before + SLACK,
        "{during:?}, {before:?} without abuse"
    );
    assert!(answered <= ANSWER_MAX, "status took {answered:?}");
    assert!(scraped <= ANSWER_MAX, "metrics took {scraped:?}");

    assert!(daemon.is_alive());
    eventually(PATIENCE, "every descriptor is closed", || {
        daemon.descriptors().unwrap() <= descriptors
    });
    let asked = Instant::now();
    assert_settles(&daemon);
    assert!(asked.elapsed() < Duration::from_secs(2), "status is slow");
    let kept = daemon.memory().unwrap().saturating_sub(memory);
    println!("{} KiB of {} KiB more", kept >> 10, memory >> 10);
    assert!(kept <= KEPT_MAX, "{kept} bytes are kept");
    let status = daemon.status();
    assert_eq!(status.requests("admitted"), 2 * CONNECTIONS as u64);
    assert_eq!(server.count().peers().len(), 2 * CONNECTIONS);
    daemon.finish().unwrap();
}

/// Says `request` and returns the first line of the answer.
fn first_line(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(&daemon.files().socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // What is too long may be refused before all of it was said.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn heads_and_bodies_beyond_16_kib_are_refused() {
    let lab = one_backend();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let head = |length: usize| {
        let start = "GET /v1/status HTTP/1.1\r\nhost: d\r\nx: ";
        let rest = length - start.len() - 4;
        format!("{start}{}\r\n\r\n", "y".repeat(rest))
    };
    let body = |length: usize| {
        let spaces = " ".repeat(length - 2);
        format!(
            "POST /v1/ceiling HTTP/1.1\r\nhost: d\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{{{spaces}}}"
        )
    };
    let chunked = format!(
        "POST /v1/backend HTTP/1.1\r\nhost: d\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        17 << 10,
        " ".repeat(17 << 10)
    );
    for (request, code) in [
        (head(15 << 10), "200"),
        (head(17 << 10), "431"),
        (head(1 << 20), "431"),
        // Read in full, and no order.
        (body(16 << 10), "422"),
        (body((16 << 10) + 1), "413"),
        (body(1 << 20), "413"),
        (chunked, "413"),
    ] {
        let line = first_line(&daemon, request.as_bytes());
        let start: String = request.chars().take(30).collect();
        assert_eq!(
            line.split(' ').nth(1),
            Some(code),
            "{} bytes, {start}: {line}",
            request.len()
        );
    }
    daemon.finish().unwrap();
}

/// `nobody` and `nogroup`, as Debian numbers them.
const NOBODY: u32 = 65534;

/// Asks for the status as another user and group, who has no further groups; returns curl's code.
fn status_as(daemon: &Daemon, user: u32, group: u32) -> Option<i32> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "http://d/v1/status", "--unix-socket"]);
    curl.arg(&daemon.files().socket).stdout(Stdio::null());
    curl.uid(user).gid(group).status().unwrap().code()
}

/// What curl says when it cannot connect.
const CANNOT_CONNECT: Option<i32> = Some(7);

#[test]
fn mode_and_ownership_keep_others_out() {
    let lab = one_backend();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let socket = &daemon.files().socket;
    let file = fs::symlink_metadata(socket).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o660);
    assert_eq!((file.uid(), file.gid()), (0, 0));
    // Everybody may come as far as the socket, so that nothing but its own mode is judged.
    let directory = socket.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();

    assert_eq!(status_as(&daemon, 0, 0), Some(0));
    assert_eq!(status_as(&daemon, NOBODY, NOBODY), CANNOT_CONNECT);
    // Given to a group, it is for its members, and for nobody else.
    std::os::unix::fs::chown(socket, None, Some(NOBODY)).unwrap();
    assert_eq!(status_as(&daemon, NOBODY, NOBODY), Some(0));
    assert_eq!(status_as(&daemon, NOBODY, NOBODY - 1), CANNOT_CONNECT);
    daemon.finish().unwrap();
}
