//! Flows that have ended leave the kernel's table some at a time: nobody who comes meanwhile is
//! kept out by what is left of them.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dispatcher_common::control::TICK_MS;
use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::Family;
use dispatcher_user::admission::LINGER;

/// Clients, each with a port of its own.
const CLIENTS: u16 = 16;
/// The first of these; no client that has no port of its own gets one of them.
const PORT: u16 = 20_000;
const ROUNDS: u16 = 3;
const CEILING: u32 = 64;

/// Every client connects `ROUNDS` times, each from `shift` ports further on. Their pauses lie
/// around the time at which a flow is forgotten, up to two ticks after it. With `others`, so many
/// come and go besides that the daemon hears of every end at once, and not with the next tick.
fn come_back(shift: u16, capacity: u32, others: bool) {
    let lab = one_backend();
    let _server =
        Server::start(lab.backend(0), BACKEND_PORT, server::http(Duration::ZERO)).unwrap();
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.flow_capacity = capacity;
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);

    let step = Duration::from_millis(2 * TICK_MS) / CLIENTS.into();
    let (over, also) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let connect = move || {
                    for round in 0..ROUNDS {
                        let port = PORT + number + round * shift;
                        let mut stream = client::connect_from(port, service).unwrap();
                        client::get(&mut stream, "/", false).unwrap();
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        drop(stream);
                        thread::sleep(LINGER + step * number.into());
                    }
                };
                let from = lab.client(0);
                scope.spawn(move || from.enter(connect))
            })
            .collect();
        if others {
            scope.spawn(|| {
                lab.client(0).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        client::fetch(service).unwrap();
                        also.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let talked: Vec<_> = clients
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        over.store(true, Ordering::Relaxed);
        talked.into_iter().for_each(|one| one.unwrap());
    });

    assert_settles(&daemon);
    let status = daemon.status();
    let all = u64::from(CLIENTS * ROUNDS) + also.into_inner();
    assert_eq!(status.requests("admitted"), all);
    assert_eq!(status.requests("refused"), 0);
    // Whoever is told that all flows are gone finds none.
    assert_eq!(daemon.flow_entries().unwrap(), 0);
    daemon.finish().unwrap();
}

#[test]
fn what_has_ended_is_in_nobodys_way() {
    let from_the_same_ports = || come_back(0, 65_536, true);
    let into_a_table_with_room_for_no_more = || come_back(CLIENTS, CLIENTS.into(), false);
    thread::scope(|scope| {
        scope.spawn(from_the_same_ports);
        scope.spawn(into_a_table_with_room_for_no_more);
    });
}
