//! Back-ends taken out of service and put back by hand: nobody notices a drain, everybody notices a
//! disable, and nobody else undoes what an operator ordered.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, on_all, one_backend};
use dispatcher_tests::server;
use dispatcher_tests::terminal::Terminal;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, eventually};

fn connect(lab: &Lab, family: Family) -> TcpStream {
    let service = lab.service(family, SERVICE_PORT);
    lab.client(0).enter(|| client::connect(service)).unwrap()
}

#[track_caller]
fn assert_talks(connection: &mut TcpStream) {
    assert_eq!(client::exchange(connection, b"hello").unwrap(), b"hello");
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_drain_under_load_is_noticed_by_no_client() {
    const CLIENTS: usize = 20;
    let lab = Topology::default().up().unwrap();
    let servers = on_all(&lab, || server::http(Duration::from_millis(5)));
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 8)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let (over, fetched) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                lab.client(0).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let answer = client::fetch(service).expect("every request is served");
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        fetched.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let all_fetch = |so_many| {
            let before = fetched.load(Ordering::Relaxed);
            eventually(PATIENCE, "clients are served", || {
                fetched.load(Ordering::Relaxed) >= before + so_many
            });
        };
        all_fetch(100);
        daemon
            .ask(&["drain", "web/web-1", "--wait", "--timeout", "10s"])
            .unwrap();
        assert_eq!(daemon.status().state(0), "draining");
        let given = servers[0].count().peers().len();
        all_fetch(100);
        assert_eq!(servers[0].count().peers().len(), given, "no more came");
        daemon.ask(&["resume", "web/web-1"]).unwrap();
        eventually(PATIENCE, "it is given connections again", || {
            servers[0].count().peers().len() > given
        });
        over.store(true, Ordering::Relaxed);
    });
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn the_command_waits_for_the_last_connection_and_tells_how_many_are_left() {
    let lab = one_backend();
    let _servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 8)).unwrap();
    let mut held = [connect(&lab, Family::V4), connect(&lab, Family::V4)];
    let line = ["drain", "web/web-1", "--wait", "--timeout", "500ms"];
    let late = daemon.run(&line).unwrap();
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    let told = stderr(&late);
    assert!(told.contains("web/web-1: 2 connections left\n"), "{told}");
    assert!(told.contains("still has 2 connections"), "{told}");
    held.iter_mut().for_each(assert_talks);

    let done = thread::scope(|scope| {
        let waiting = scope.spawn(|| daemon.run(&["drain", "web/web-1", "--wait"]).unwrap());
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        drop(held);
        waiting.join().unwrap()
    });
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(stderr(&done).contains("web/web-1: 0 connections left\n"));
    assert_settles(&daemon);
}

#[test]
fn a_disabled_back_end_loses_its_connections_at_both_ends_within_a_second() {
    const HELD: usize = 300;
    for family in [Family::V4, Family::V6] {
        let lab = one_backend();
        let servers = on_all(&lab, || server::hold);
        let mut config = Config::new(&lab, family, 512);
        // More places than are looked at in a turn.
        config.flow_capacity = 3 * 4096;
        let daemon = Daemon::start(&lab, &config).unwrap();
        let mut held: Vec<_> = (0..HELD).map(|_| connect(&lab, family)).collect();
        eventually(PATIENCE, "the server has all", || {
            servers[0].count().active() == HELD
        });
        let told = daemon.ask(&["disable", "web/web-1"]).unwrap();
        assert_eq!(told, "web/web-1: disabled, 300 connections reset\n");
        let begin = Instant::now();
        for stream in &mut held {
            let error = stream.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        eventually(PATIENCE, "the server has none", || {
            servers[0].count().active() == 0
        });
        assert!(begin.elapsed() < Duration::from_secs(1));
        let status = daemon.status();
        assert_eq!((status.active(), status.state(0)), (0, "disabled".into()));
        assert_settles(&daemon);
        daemon.finish().unwrap();
    }
}

/// The numbers move while they are read: an end that does not take its RST asks, and is told by
/// the other.
#[test]
fn downloads_in_full_flight_are_reset_too() {
    const DOWNLOADS: usize = 8;
    let lab = one_backend();
    let servers = on_all(&lab, || server::source(u64::MAX));
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 16)).unwrap();
    let flowing = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..DOWNLOADS {
            scope.spawn(|| {
                let mut stream = connect(&lab, Family::V4);
                let mut chunk = vec![0; 64 << 10];
                stream.read_exact(&mut chunk).unwrap();
                flowing.fetch_add(1, Ordering::Relaxed);
                loop {
                    match stream.read(&mut chunk) {
                        Ok(length) => assert!(length > 0, "not closed in order"),
                        Err(error) => break assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                    }
                }
            });
        }
        eventually(PATIENCE, "all downloads run", || {
            flowing.load(Ordering::Relaxed) == DOWNLOADS
        });
        daemon.ask(&["disable", "web/web-1"]).unwrap();
    });
    eventually(PATIENCE, "the server has none", || {
        servers[0].count().active() == 0
    });
    assert_settles(&daemon);
}

#[test]
fn a_disabled_back_end_that_is_resumed_serves_again() {
    let lab = one_backend();
    let _servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 8)).unwrap();
    let _lost = connect(&lab, Family::V4);
    daemon.ask(&["disable", "web/web-1"]).unwrap();
    daemon.ask(&["resume", "web/web-1"]).unwrap();
    assert_talks(&mut connect(&lab, Family::V4));
    assert_eq!(daemon.status().state(0), "up");
}

/// With the only back-end drained, requests wait as long as requests wait; with another one up,
/// they go there.
#[test]
fn requests_outlive_a_drain_while_another_back_end_is_up_and_wait_while_none_is() {
    let lab = Topology::default().up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 1)).unwrap();
    // One at each.
    let mut held = vec![connect(&lab, Family::V4), connect(&lab, Family::V4)];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| connect(&lab, Family::V4));
        eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
        daemon.ask(&["drain", "web/web-1"]).unwrap();
        let of_second = held
            .iter()
            .position(|one| servers[1].count().peers()[0] == one.local_addr().unwrap());
        held.remove(of_second.unwrap());
        let mut released = waiting.join().unwrap();
        assert_talks(&mut released);
        assert_eq!(servers[1].count().peers().len(), 2);

        daemon.ask(&["drain", "web/web-2"]).unwrap();
        let waiting = scope.spawn(|| connect(&lab, Family::V4));
        eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
        held.clear();
        released.shutdown(std::net::Shutdown::Both).unwrap();
        eventually(PATIENCE, "nothing is left", || {
            daemon.status().active() == 0
        });
        assert_eq!(daemon.status().queued(), 1, "though there is room");
        daemon.ask(&["resume", "web/web-2"]).unwrap();
        assert_talks(&mut waiting.join().unwrap());
    });
    daemon.status().assert_balanced();
    assert_eq!(daemon.status().requests("refused"), 0);
}

#[test]
fn a_back_end_that_is_none_is_refused_with_those_that_are() {
    let lab = one_backend();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 8)).unwrap();
    for command in ["drain", "resume", "disable"] {
        let refused = daemon.run(&[command, "web/web-9"]).unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let told = stderr(&refused);
        assert!(
            told.contains("no back-end \"web-9\"; there are web-1"),
            "{told}"
        );
    }
}

#[test]
fn the_keys_of_top_change_what_the_daemon_does_after_a_yes() {
    let lab = one_backend();
    let _servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let mut held = connect(&lab, Family::V4);
    let socket = daemon.files().socket.to_string_lossy();
    let mut terminal = Terminal::start(lab.dispatcher(), &["top", "--socket", &socket]).unwrap();
    eventually(PATIENCE, "the back-end is shown", || {
        terminal.shows("web-1")
    });
    for (key, state) in [
        ('d', "draining"),
        ('u', "up"),
        ('x', "disabled"),
        ('u', "up"),
    ] {
        let before = daemon.status().state(0);
        terminal.type_in(&format!("{key}n")).unwrap();
        assert_eq!(daemon.status().state(0), before);
        terminal.type_in(&format!("{key}y")).unwrap();
        eventually(PATIENCE, state, || daemon.status().state(0) == state);
        if state == "draining" {
            assert_talks(&mut held);
        }
    }
    // A disabled back-end's connections were reset.
    assert!(client::exchange(&mut held, b"hello").is_err());
    assert_talks(&mut connect(&lab, Family::V4));
    terminal.type_in("q").unwrap();
    assert!(terminal.wait().unwrap().success());
}
