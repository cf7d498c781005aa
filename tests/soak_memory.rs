//! A million short connections, as fast as they can be made: what the daemon holds
//! for each of them is given back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::topology::{Family, Topology};
use dispatcher_tests::{PATIENCE, client, eventually, server};

/// How long, seconds; another number by [`SECONDS_VARIABLE`].
const SECONDS_DEFAULT: u64 = 20 * 60;
/// Names another duration.
const SECONDS_VARIABLE: &str = "SOAK_SECONDS";
/// Connections for each second of the duration: a million in 20 minutes. It lasts until they were
/// made, too.
const CONNECTIONS_PER_SECOND: u64 = 834;
/// Clients at once, more than both back-ends are given: so requests wait, too.
const CLIENTS: usize = 24;
/// Connections that a back-end is given.
const CEILING: u32 = 6;
/// Until what is filled once is full: rings, frames, tables, the history of five minutes, the
/// allocator's reserves.
const WARM_UP: Duration = Duration::from_secs(300);
/// Resident memory that may come after the warm-up, bytes: for each of a million connections a
/// quarter of what the allocator gives at least.
const GROWTH_MAX: u64 = 4 << 20;
/// One connection of so many is reset by its client.
const RESET_ONE_OF: u64 = 4;
/// How often the daemon is asked for all that it tells, as monitoring does.
const LOOK: Duration = Duration::from_secs(2);

#[test]
fn memory_is_flat_over_a_million_short_connections() {
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("SOAK_SECONDS is a number of seconds")
    });
    let (time, connections) = (
        Duration::from_secs(seconds),
        seconds * CONNECTIONS_PER_SECOND,
    );
    let topology = Topology {
        backends: 2,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    // Every port that there is, because each one rests a second after its connection.
    let ports = [("ipv4/ip_local_port_range", "1024 65535")];
    lab.client(0).sysctl(&ports).unwrap();
    let _servers = on_all(&lab, || server::http(Duration::ZERO));
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, CEILING)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let (descriptors, at_start) = (daemon.descriptors().unwrap(), daemon.memory().unwrap());

    let made = AtomicU64::new(0);
    let started = Instant::now();
    let is_over = || started.elapsed() >= time && made.load(Ordering::Relaxed) >= connections;
    let (mut warm, mut most) = (None, 0);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            lab.client(0).enter(|| {
                thread::scope(|scope| {
                    for _ in 0..CLIENTS {
                        scope.spawn(|| {
                            while !is_over() {
                                once(service, made.fetch_add(1, Ordering::Relaxed));
                            }
                        });
                    }
                });
            });
        });
        while !clients.is_finished() {
            thread::sleep(LOOK);
            daemon.status().assert_balanced();
            daemon.flows().unwrap();
            daemon.queue().unwrap();
            daemon.metrics().unwrap();
            let memory = daemon.memory().unwrap();
            if started.elapsed() >= WARM_UP.min(time / 2) {
                warm.get_or_insert((memory, made.load(Ordering::Relaxed)));
                most = most.max(memory);
            }
        }
    });
    assert_settles(&daemon);
    let (warm, made_warm) = warm.expect("a look after the warm-up");
    let at_end = daemon.memory().unwrap();
    let made = made.load(Ordering::Relaxed);
    let status = daemon.status();
    println!(
        "{made} connections in {:?}, waits up to {} ms; resident: {} KiB at the start, {} KiB \
         after {made_warm} connections, at most {} KiB since, {} KiB at the end",
        started.elapsed(),
        status.wait_ms("max").unwrap_or(0),
        at_start >> 10,
        warm >> 10,
        most >> 10,
        at_end >> 10,
    );
    assert_eq!(status.requests("admitted"), made, "each was admitted once");
    // The last answer's connection may be open for a moment, then as now.
    eventually(PATIENCE, "every descriptor is closed", || {
        daemon.descriptors().unwrap() <= descriptors
    });
    assert!(
        most.max(at_end) <= warm + GROWTH_MAX,
        "{} KiB more than after the warm-up",
        (most.max(at_end) - warm) >> 10
    );
    daemon.finish().unwrap();
}

/// A connection, closed by the server or reset by the client.
fn once(service: SocketAddr, number: u64) {
    if !number.is_multiple_of(RESET_ONE_OF) {
        let answer = client::fetch(service).expect("every request is answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        return;
    }
    let stream = client::connect(service).expect("every connection is made");
    server::reset_on_close(&stream).unwrap();
}
