//! Back-ends that come and go several times a second while clients are served: nobody is to notice.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_user::admin::Client;
use tokio::runtime;

use crate::client::{self, connect};
use crate::config::{Backend, Config, SERVICE_PORT};
use crate::daemon::Daemon;
use crate::scenario::{assert_settles, on_all};
use crate::server::{self, digest_of, send_pattern};
use crate::topology::{Family, Topology};

/// Clients that fetch over one new connection after the other.
const CLIENTS: usize = 200;
/// Downloads at any time.
const DOWNLOADS: usize = 50;
/// Bytes of a download.
const DOWNLOAD: u64 = 1 << 20;
/// Pieces that it comes in.
const PIECES: u32 = 64;
/// From one reload to the next.
const EVERY: Duration = Duration::from_millis(100);
/// Of each back-end: all downloads at one of them leave room for others.
const CEILING: u32 = 64;

/// Writes no more than a piece at once, and then waits.
struct Paced<'a> {
    stream: &'a mut TcpStream,
    pause: Duration,
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(self.pause);
        let piece = (DOWNLOAD / u64::from(PIECES)) as usize;
        self.stream.write(&bytes[..bytes.len().min(piece)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Answers `G` with a page, a digit with a download that takes so many tenths of `whole`, and `E`
/// with what comes after it.
pub(crate) fn serve(
    whole: Duration,
) -> impl Fn(&mut TcpStream, &server::Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, count| {
        let mut asked = [0];
        stream.read_exact(&mut asked)?;
        if asked == *b"G" {
            server::read_head(stream)?;
            return server::respond(stream);
        }
        if asked == *b"E" {
            return server::echo(stream, count);
        }
        let tenths = u32::from(asked[0].saturating_sub(b'0'));
        let pause = whole / 10 * tenths / PIECES;
        send_pattern(&mut Paced { stream, pause }, DOWNLOAD).map(drop)
    }
}

/// Digest of what came of a download.
pub(crate) fn download(service: SocketAddr, tenths: u8) -> io::Result<u64> {
    let mut stream = connect(service)?;
    stream.write_all(&[b'0' + tenths])?;
    digest_of(&mut stream)
}

/// Digest of a whole download.
pub(crate) fn whole_download() -> u64 {
    send_pattern(&mut io::sink(), DOWNLOAD).expect("a sink takes all")
}

/// Reloads for `time`, each time with other back-ends, in another order and of other weights;
/// panics when a client sees an error, a download is not what it should be, or the counts are not
/// true in the end.
pub fn reload_under_load(time: Duration) {
    let topology = Topology {
        clients: 4,
        backends: 4,
        ..Topology::default()
    };
    let lab = topology.up().expect("a lab");
    let servers = on_all(&lab, || serve(time));
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.web().queue_timeout = "60s";
    let daemon = Daemon::start(&lab, &config).expect("a daemon");
    let service = lab.service(Family::V4, SERVICE_PORT);
    let digest = whole_download();

    let over = AtomicBool::new(false);
    let (fetched, downloaded) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut reloads = 0;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (lab, over, fetched) = (&lab, &over, &fetched);
            scope.spawn(move || {
                lab.client(client % 4).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let answer = client::fetch(service).expect("no client sees an error");
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        fetched.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        for i in 0..DOWNLOADS {
            let (lab, over, downloaded) = (&lab, &over, &downloaded);
            scope.spawn(move || {
                lab.client(i % 4).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        // Some outlast many reloads, some only a few.
                        let tenths = 1 + (i % 9) as u8;
                        let got = download(service, tenths).expect("no download is cut");
                        assert_eq!(got, digest, "a download is not what was sent");
                        downloaded.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        // Stopped also when this panics, or the clients would never end.
        let _stop = Stop(&over);
        reloads = keep_reloading(&daemon, &mut config, time);
    });
    let all = Config::new(&lab, Family::V4, CEILING);
    daemon.reload(&all).expect("all come back");
    assert_settles(&daemon);

    let status = daemon.status();
    let (fetched, downloaded) = (fetched.into_inner(), downloaded.into_inner());
    println!("{reloads} reloads, {fetched} pages, {downloaded} downloads");
    let least = time.as_millis() / EVERY.as_millis() / 2;
    assert!(u128::from(reloads) >= least, "only {reloads} reloads");
    for lost in ["refused", "expired", "abandoned"] {
        assert_eq!(status.requests(lost), 0, "{lost}: {status:?}");
    }
    assert_eq!(status.requests("admitted"), fetched + downloaded);
    let mut given = 0;
    for (i, server) in servers.iter().enumerate() {
        assert!(
            server.count().most() <= CEILING as usize,
            "back-end {i} had {} at once",
            server.count().most()
        );
        // Each connection has one request; those before a back-end was gone are not counted.
        let begun = status.backend(i, "total/requests");
        let label = format!("backend=\"web-{}\"", i + 1);
        let answered = daemon.metric("dispatcher_backend_response_seconds_count", &label);
        let answered = answered.expect("metrics");
        let peers = server.count().peers().len() as u64;
        assert!(begun <= peers, "{begun} requests on {peers} connections");
        assert!(answered <= peers as f64, "{answered} answers of {peers}");
        given += server.count().peers().len() as u64;
        assert_eq!(status.state(i), "up");
    }
    assert_eq!(given, fetched + downloaded);
    daemon.finish().expect("nothing is left");
}

/// Says that it is over when it is dropped.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns how often.
fn keep_reloading(daemon: &Daemon<'_>, config: &mut Config, time: Duration) -> u32 {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = Client::new(&daemon.files().socket);
    let all: Vec<Backend> = config.web().backends.clone();
    let end = Instant::now() + time;
    let mut reloads = 0;
    while Instant::now() < end {
        let next = Instant::now() + EVERY;
        reloads += 1;
        config.web().backends = some_of(&all, reloads);
        daemon.files().rewrite(config).expect("the file is written");
        let done = runtime.block_on(client.reload()).expect("it is right");
        assert!(!done.value.changes.is_empty(), "something has changed");
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    reloads
}

/// At least one of them, never the same twice in a row.
fn some_of(all: &[Backend], round: u32) -> Vec<Backend> {
    // Every set but the empty one once in 15 rounds: 7 and 15 have no divisor in common.
    let set = 1 + round * 7 % 15;
    let mut some: Vec<_> = (0..)
        .zip(all)
        .filter(|(bit, _)| set >> bit & 1 != 0)
        .map(|(bit, backend)| Backend {
            weight: 1 + (round + bit) % 3,
            ..backend.clone()
        })
        .collect();
    if round.is_multiple_of(2) {
        some.reverse();
    }
    some
}
