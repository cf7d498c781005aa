//! A daemon that is killed every other second while clients are served: nobody is to notice.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::churn::{Stop, download, serve, whole_download};
use crate::client;
use crate::config::{Config, SERVICE_PORT};
use crate::daemon::Daemon;
use crate::scenario::{assert_settles, on_all};
use crate::topology::{Family, Topology};

/// Clients that fetch over one new connection after the other.
const CLIENTS: usize = 200;
/// Downloads at any time.
const DOWNLOADS: usize = 50;
/// Of each of the four back-ends: less than all clients and downloads together.
const CEILING: u32 = 40;
/// From one kill to the next, or to the end of a start that takes longer.
const EVERY: Duration = Duration::from_secs(2);
/// A connection that talks all the time, so that a back-end has more than downloads when a daemon
/// starts.
const TALKS: usize = 8;

/// What clients saw, counted.
#[derive(Default)]
struct Seen {
    fetched: AtomicU64,
    downloaded: AtomicU64,
    exchanged: AtomicU64,
    /// The longest way to an answer, milliseconds.
    longest: AtomicU64,
}

/// Kills and starts the daemon for `time`; panics when a client sees an error, a download is not
/// what it should be, a back-end counts more than its ceiling, or the counts are not true in the
/// end.
pub fn restart_under_load(time: Duration) {
    let topology = Topology {
        clients: 4,
        backends: 4,
        ..Topology::default()
    };
    let lab = topology.up().expect("a lab");
    let servers = on_all(&lab, || serve(time));
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.on_exit = "keep";
    config.web().queue_timeout = "60s";
    let mut daemon = Daemon::start(&lab, &config).expect("a daemon");
    let service = lab.service(Family::V4, SERVICE_PORT);

    let (over, seen) = (&AtomicBool::new(false), &Seen::default());
    let mut kills = 0;
    let mut away = Vec::new();
    thread::scope(|scope| {
        let node = |i: usize| lab.client(i % 4);
        for i in 0..CLIENTS {
            let from = node(i);
            scope.spawn(move || from.enter(|| fetch_on(service, over, seen)));
        }
        for i in 0..DOWNLOADS {
            // Some outlast many daemons, some only a few.
            let (from, tenths) = (node(i), 1 + (i % 9) as u8);
            scope.spawn(move || from.enter(|| download_on(service, tenths, over, seen)));
        }
        for i in 0..TALKS {
            let from = node(i);
            scope.spawn(move || from.enter(|| talk_on(service, over, seen)));
        }
        // Stopped also when this panics, or the clients would never end.
        let _stop = Stop(over);
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + EVERY;
            thread::sleep(next.saturating_duration_since(Instant::now()) / 2);
            daemon.status().assert_balanced();
            let gone = Instant::now();
            daemon.crash().expect("it is killed");
            daemon.restart().expect("it starts again");
            away.push(gone.elapsed());
            kills += 1;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    assert_settles(&daemon);

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (fetched, downloaded) = (count(&seen.fetched), count(&seen.downloaded));
    away.sort_unstable();
    println!(
        "{kills} kills in {time:?}, {:?} without a daemon in the middle and {:?} at most; \
         {fetched} pages, {downloaded} downloads, {} exchanges on {TALKS} connections; the longest \
         way to an answer {} ms",
        away[away.len() / 2],
        away[away.len() - 1],
        count(&seen.exchanged),
        count(&seen.longest),
    );
    let least = time.as_secs() / EVERY.as_secs() / 3;
    assert!(u64::from(kills as u32) >= least, "only {kills} kills");
    let mut accepted = 0;
    for (i, server) in servers.iter().enumerate() {
        let most = server.count().most();
        assert!(most <= CEILING as usize, "back-end {i} had {most} at once");
        accepted += server.count().peers().len() as u64;
        assert_eq!(server.count().active(), 0, "back-end {i}");
    }
    // Each connection came to a back-end once.
    assert_eq!(accepted, fetched + downloaded + TALKS as u64);
    daemon.finish().expect("nothing is left");
}

fn fetch_on(service: SocketAddr, over: &AtomicBool, seen: &Seen) {
    while !over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = client::fetch(service).expect("no client sees an error");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let took = asked.elapsed().as_millis() as u64;
        seen.longest.fetch_max(took, Ordering::Relaxed);
        seen.fetched.fetch_add(1, Ordering::Relaxed);
    }
}

fn download_on(service: SocketAddr, tenths: u8, over: &AtomicBool, seen: &Seen) {
    let digest = whole_download();
    while !over.load(Ordering::Relaxed) {
        let got = download(service, tenths).expect("no download is cut");
        assert_eq!(got, digest, "a download is not what was sent");
        seen.downloaded.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection, from before the first kill until after the last.
fn talk_on(service: SocketAddr, over: &AtomicBool, seen: &Seen) {
    let talk = || -> io::Result<()> {
        let mut one: TcpStream = client::connect(service)?;
        one.write_all(b"E")?;
        while !over.load(Ordering::Relaxed) {
            assert_eq!(
                client::exchange(&mut one, b"still there?")?,
                b"still there?"
            );
            seen.exchanged.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    talk().expect("a connection goes on");
}
