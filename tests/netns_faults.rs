//! The daemon is killed between two steps that belong together, at each place where that is
//! possible, while clients are served: the next start puts right what it left.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dispatcher_common::flow::{Direction, FlowKey};
use dispatcher_tests::churn::Stop;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, Files, Manner};
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{POLL, client, each_at_once, eventually};
use dispatcher_user::fault::{Point, VARIABLE};

/// Of each of the two back-ends.
const CEILING: u32 = 2;
/// Clients that connect, talk and close without end; with those that are held, more than the
/// ceilings allow.
const CLIENTS: usize = 4;
/// Connections that each of them makes after the next start.
const AFTERWARDS: u64 = 3;
/// Labs at once: each waits most of the time.
const AT_ONCE: usize = 8;
/// A SYN that was lost comes again after a second, and after more.
const PATIENCE: Duration = Duration::from_secs(40);

/// What brings the daemon to a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Its first start.
    Start,
    /// Clients.
    Traffic,
    /// A start that finds flows, and half of one.
    Adoption,
    /// Other configurations.
    Reload,
    /// An operator disables a back-end.
    Disable,
    /// It stops, and detaches.
    Stop,
}

/// How each point is reached, and at which pass. Those of a change are passed at the start, too.
const fn plan(point: Point) -> (Way, u32) {
    match point {
        Point::MapsPinned | Point::ControlTold | Point::LinkPinned => (Way::Start, 1),
        // Both interfaces.
        Point::LinkAttached => (Way::Start, 2),
        Point::LinkUpdated | Point::HalfRemoved => (Way::Adoption, 1),
        Point::AdoptingFlow => (Way::Adoption, 2),
        Point::SlotTaken
        | Point::FirstEntryInstalled
        | Point::FlowInstalled
        | Point::SynQueued
        | Point::EventsTaken => (Way::Traffic, 7),
        Point::EntriesRemoved => (Way::Traffic, 3),
        Point::ChangePlanned | Point::OldRemoved | Point::ServicesGone => (Way::Reload, 2),
        Point::CountsForgotten => (Way::Reload, 1),
        Point::FlowCut | Point::ResetQueued | Point::ResetsSent => (Way::Disable, 1),
        Point::LinkUnpinned => (Way::Stop, 1),
        // Some are left.
        Point::MapUnpinned => (Way::Stop, 4),
    }
}

fn dying_at(point: Point, pass: u32) -> Manner {
    let fault = (VARIABLE.to_owned(), format!("{}:{pass}", point.label()));
    Manner {
        environment: vec![fault],
        ..Manner::default()
    }
}

#[test]
fn whatever_step_the_daemon_dies_at_the_next_start_puts_right() {
    for points in Point::ALL.chunks(AT_ONCE) {
        each_at_once(points.iter().copied(), dies_and_starts_again);
    }
}

fn dies_and_starts_again(point: Point) {
    let (way, pass) = plan(point);
    println!("{}: {way:?}, pass {pass}", point.label());
    let topology = Topology {
        backends: 3,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    // The third one comes with a reload.
    let mut all = Config::new(&lab, Family::V4, CEILING);
    all.on_exit = if way == Way::Stop { "detach" } else { "keep" };
    let (mut config, mut other) = (all.clone(), all);
    config.web().backends.remove(2);
    other.web().backends.remove(1);
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut daemon = Daemon::unstarted(&lab, Files::new(&config).unwrap()).unwrap();

    let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut held = Vec::new();
    thread::scope(|scope| {
        let (from, over, rounds) = (lab.client(0), &over, &rounds);
        let traffic = || {
            for _ in 0..CLIENTS {
                let may_break = way == Way::Disable;
                scope.spawn(move || from.enter(|| talk(service, over, rounds, may_break)));
            }
        };
        // Stopped also when this panics, or the clients would never end.
        let _stop = Stop(over);
        if way == Way::Adoption {
            // Its flows, and half of one.
            daemon.set_manner(dying_at(Point::FirstEntryInstalled, 5));
            daemon.restart().unwrap();
            held = hold(&lab, service);
            traffic();
            assert_killed(&mut daemon, Point::FirstEntryInstalled);
            assert_eq!(halves(&daemon), 1);
        }
        daemon.set_manner(dying_at(point, pass));
        // It may die before it answers.
        let started = daemon.restart();
        match way {
            Way::Start | Way::Adoption => assert!(started.is_err(), "{point:?} was not passed"),
            _ => started.unwrap(),
        }
        match way {
            Way::Start | Way::Adoption => {}
            Way::Traffic => {
                held = hold(&lab, service);
                traffic();
            }
            Way::Reload => {
                held = hold(&lab, service);
                traffic();
                let _ = daemon.reload(&other);
            }
            Way::Disable => {
                held = hold(&lab, service);
                traffic();
                let _ = daemon.ask(&["disable", "web/web-2"]);
            }
            Way::Stop => {
                daemon.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
            }
        }
        assert_killed(&mut daemon, point);

        daemon.set_manner(Manner::default());
        daemon.files().rewrite(&config).unwrap();
        daemon.restart().unwrap();
        if matches!(way, Way::Start | Way::Stop) {
            traffic();
        }
        let wanted = rounds.load(Ordering::Relaxed) + CLIENTS as u64 * AFTERWARDS;
        eventually(PATIENCE, point.label(), || {
            rounds.load(Ordering::Relaxed) >= wanted
        });
    });
    // Nothing but what is held is left, here, there and at the back-ends.
    for (i, one) in held.iter_mut().enumerate() {
        let talks = client::exchange(one, b"still").is_ok_and(|back| back == b"still");
        assert!(
            talks || (way == Way::Disable && i == 1),
            "{point:?}: connection {i} is broken"
        );
    }
    eventually(PATIENCE, "counts are the back-ends' own", || {
        let status = daemon.status();
        let counted: u64 = (0..2).map(|i| status.backend(i, "active")).sum();
        let open: usize = servers.iter().map(|server| server.count().active()).sum();
        counted == open as u64 && status.flows() == counted && status.queued() == 0
    });
    assert_eq!(halves(&daemon), 0, "{point:?}");
    for (i, (server, sampler)) in servers.iter().zip(&samplers).enumerate() {
        // A server hears later than its kernel of a connection that somebody else resets.
        let most = match way {
            Way::Disable => sampler.most(),
            _ => server.count().most(),
        };
        assert!(most <= CEILING as usize, "{point:?}: back-end {i}: {most}");
    }
    drop(held);
    assert_settles(&daemon);
    assert_eq!(
        daemon.flow_entries().unwrap(),
        0,
        "{point:?}: entries are left"
    );
    daemon.finish().unwrap();
}

/// Connects, talks and closes until it is over; each time to the end unless back-ends are disabled.
fn talk(service: SocketAddr, over: &AtomicBool, rounds: &AtomicU64, may_break: bool) {
    while !over.load(Ordering::Relaxed) {
        let talked = client::connect(service)
            .and_then(|mut one| client::exchange(&mut one, b"hello"))
            .map(|back| assert_eq!(back, b"hello"));
        match talked {
            Ok(()) => {
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => assert!(may_break, "a client saw {error}"),
        }
        thread::sleep(POLL);
    }
}

/// One connection to each back-end.
fn hold(lab: &Lab, service: SocketAddr) -> Vec<TcpStream> {
    let connect = |_| lab.client(0).enter(|| client::connect(service)).unwrap();
    (0..2).map(connect).collect()
}

fn assert_killed(daemon: &mut Daemon<'_>, point: Point) {
    let status = daemon.await_end();
    let status = status.unwrap_or_else(|error| panic!("{point:?} was not passed: {error:#}"));
    assert_eq!(
        status.signal(),
        Some(libc::SIGKILL),
        "at {point:?}: {status}"
    );
}

/// Entries whose other half is missing, when nobody installs or removes any.
fn halves(daemon: &Daemon<'_>) -> usize {
    let (mut forward, mut reply) = (Vec::new(), Vec::new());
    let read =
        daemon
            .flow_table()
            .unwrap()
            .for_each(|key, entry| match entry.translation.direction() {
                Direction::Forward => forward.push(key.of_peer(&entry.translation)),
                Direction::Reply => reply.push(*key),
            });
    read.unwrap();
    let missing =
        |one: &[FlowKey], other: &[FlowKey]| one.iter().filter(|key| !other.contains(key)).count();
    missing(&forward, &reply) + missing(&reply, &forward)
}
