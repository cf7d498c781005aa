//! What happens to flows wakes the admission thread when a request waits for it, and only then.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_common::control::TICK_MS;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Card, Family};
use dispatcher_tests::{PATIENCE, client, eventually};

/// Connections, one after the other.
const CONNECTIONS: u32 = 200;
/// Apart enough for the phases of a connection to be noticed one by one.
const SERVICE_TIME: Duration = Duration::from_millis(2);

#[test]
fn a_connection_that_finds_a_slot_wakes_the_daemon_once() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::http(SERVICE_TIME)).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);

    let (began, before) = (Instant::now(), sleeps(&daemon));
    lab.client(0).enter(|| {
        for _ in 0..CONNECTIONS {
            client::fetch(service).unwrap();
            thread::sleep(SERVICE_TIME);
        }
    });
    let slept = sleeps(&daemon) - before;
    let ticks = began.elapsed().as_millis() as u64 / TICK_MS;

    assert_settles(&daemon);
    assert_eq!(daemon.status().requests("admitted"), u64::from(CONNECTIONS));
    // Its phases would wake it thrice more. Half a time for each is left to the machine.
    let allowed = u64::from(CONNECTIONS) * 3 / 2 + 2 * ticks;
    println!("slept {slept} times in {ticks} ticks");
    assert!(slept <= allowed, "slept {slept} times, not {allowed}");
    daemon.finish().unwrap();
}

#[test]
fn a_daemon_that_is_to_poll_busily_does_not_sleep() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::http(SERVICE_TIME)).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.busy_poll = true;
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);

    let before = sleeps(&daemon);
    lab.client(0).enter(|| {
        for _ in 0..CONNECTIONS {
            client::fetch(service).unwrap();
        }
    });
    // Also of the last one's end, and messages get through to it.
    assert_settles(&daemon);
    assert_eq!(daemon.status().requests("admitted"), u64::from(CONNECTIONS));
    let slept = sleeps(&daemon) - before;
    println!("slept {slept} times");
    // A lock or a page may be waited for.
    assert!(slept <= u64::from(CONNECTIONS) / 10, "slept {slept} times");
    daemon.finish().unwrap();
}

#[test]
fn a_request_that_waits_has_the_slot_long_before_the_next_tick() {
    let lab = one_backend();
    let _server =
        Server::start(lab.backend(0), BACKEND_PORT, server::http(Duration::ZERO)).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 1)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);

    let waits: Vec<_> = lab.client(0).enter(|| {
        (0..CONNECTIONS / 4)
            .map(|_| {
                let holder = client::connect(service).unwrap();
                let waiting = thread::scope(|scope| {
                    let waiting = scope.spawn(|| {
                        let begin = lab.client(0).enter(|| client::connect(service));
                        (begin.unwrap(), Instant::now())
                    });
                    eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);
                    let released = Instant::now();
                    drop(holder);
                    let (stream, served) = waiting.join().unwrap();
                    drop(stream);
                    served.saturating_duration_since(released)
                });
                eventually(PATIENCE, "the slot is free", || {
                    daemon.status().active() == 0
                });
                waiting
            })
            .collect()
    });
    assert_sooner_than_by_ticks(waits);
    daemon.finish().unwrap();
}

#[test]
fn a_request_by_an_interface_that_was_made_anew_wakes_the_daemon() {
    let lab = one_backend();
    let _server =
        Server::start(lab.backend(0), BACKEND_PORT, server::http(Duration::ZERO)).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let becomes = |field: &str, value: &str| {
        eventually(PATIENCE, value, || {
            daemon.status().0["interfaces"][0][field] == value
        });
    };
    let mac = lab.dispatcher().mac("front").unwrap();
    lab.unplug("front").unwrap();
    becomes("state", "missing");
    lab.plug_in("front", Card::new(mac)).unwrap();
    becomes("attach_mode", "native");
    lab.connect("front").unwrap();
    becomes("state", "up");

    let times: Vec<_> = lab.client(0).enter(|| {
        // Neighbours are found again with the first.
        client::fetch(service).unwrap();
        (0..CONNECTIONS / 8)
            .map(|_| {
                let began = Instant::now();
                client::fetch(service).unwrap();
                began.elapsed()
            })
            .collect()
    });
    assert_sooner_than_by_ticks(times);
    daemon.finish().unwrap();
}

/// Found by ticks alone, what these times are of would take half of one.
#[track_caller]
fn assert_sooner_than_by_ticks(mut times: Vec<Duration>) {
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("{median:?}, at most {:?}", times[times.len() - 1]);
    assert!(median < Duration::from_millis(TICK_MS / 4), "{median:?}");
}

/// How often the admission thread has gone to sleep.
fn sleeps(daemon: &Daemon) -> u64 {
    fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .find(|status| status.starts_with("Name:\tadmission\n"))
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line?.trim().parse().ok()
        })
        .expect("the admission thread")
}
