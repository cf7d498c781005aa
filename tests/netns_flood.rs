//! Floods of connection requests while clients connect: the clients get in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dispatcher_common::verdict::DropReason;
use dispatcher_tests::capture::Capture;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::flood::{Flood, Manner, ask};
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, eventually, server};

const CEILING: u32 = 16;
const BACKENDS: u8 = 2;
const CLIENTS: usize = 24;
/// Resident memory that a flood may cost, bytes: what is allocated once on the way.
const GROWTH_MAX: u64 = 4 << 20;

fn lab() -> Lab {
    let topology = Topology {
        backends: BACKENDS,
        ..Topology::default()
    };
    topology.up().unwrap()
}

fn most_half_open(wire: Capture, backend: SocketAddr) -> usize {
    let wire = wire.stop().expect("nothing is lost");
    wire.most_half_open(backend)
}

fn is_on(daemon: &Daemon) -> bool {
    daemon.status().0["services"][0]["flood"]["on"] == true
}

/// A flood at full rate for a while; what clients met with, and how it was told.
fn siege(family: Family) {
    let lab = lab();
    let _servers = on_all(&lab, || server::http(Duration::ZERO));
    let mut config = Config::new(&lab, family, CEILING);
    config.web().queue_timeout = "5s";
    config.web().flood = "hold = \"1s\"";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(family, SERVICE_PORT);
    let half_open: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start_half_open(node, BACKEND_PORT))
        .collect();

    let before = ask(&lab, service, CLIENTS, Duration::from_millis(300));
    assert_eq!(before.served(), 1.0, "{:?}", before.errors);
    assert!(!is_on(&daemon));
    let memory = daemon.memory().unwrap();

    let wires: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Capture::start(node).unwrap())
        .collect();
    let flood = Flood::start(&lab, service, 1, Manner::default());
    let began = Instant::now();
    let met = ask(&lab, service, CLIENTS, Duration::from_secs(6));
    assert!(is_on(&daemon), "{}", daemon.log());
    let (sent, took) = (flood.sent(), began.elapsed());
    let grown = daemon.memory().unwrap().saturating_sub(memory);
    drop(flood);
    let most = std::iter::zip(lab.backends(), wires)
        .map(|(node, wire)| most_half_open(wire, node.at(family, BACKEND_PORT)))
        .max()
        .unwrap();
    let status = daemon.status();
    eprintln!(
        "{family:?}: {:.0} requests a second; {} of {} clients served, connected within {:?} \
         (median), {:?} (99 %); at most {most} half-open at a back-end; {} KiB more; dropped: {} \
         unproven, {} by full sockets; {:?}",
        sent as f64 / took.as_secs_f64(),
        met.connect.len(),
        met.asked(),
        met.percentile(50),
        met.percentile(99),
        grown >> 10,
        status.dropped(DropReason::Unproven),
        status.dropped(DropReason::ReceiveFull),
        met.errors,
    );
    assert!(
        met.asked() > CLIENTS && met.served() >= 0.99,
        "{:?}",
        met.errors
    );
    assert!(
        met.percentile(50) < Duration::from_millis(1500),
        "{:?}",
        met.percentile(50)
    );
    assert!(most <= CEILING as usize, "{most} half-open connections");
    assert!(grown <= GROWTH_MAX, "{grown} bytes more");
    assert!(status.dropped(DropReason::Unproven) > 0);
    assert_eq!(status.dropped(DropReason::BadChecksum), 0);
    status.assert_balanced();
    let label = "service=\"web\"";
    assert_eq!(
        daemon.metric("dispatcher_floods_total", label).unwrap(),
        1.0
    );

    eventually(2 * PATIENCE, "the flood is over", || !is_on(&daemon));
    assert_eq!(daemon.metric("dispatcher_flood", label).unwrap(), 0.0);
    let log = daemon.log();
    assert_eq!(log.matches("flood of requests is on").count(), 1, "{log}");
    assert_eq!(log.matches("the flood is over").count(), 1, "{log}");
    let after = ask(&lab, service, CLIENTS, Duration::from_millis(300));
    assert_eq!(after.served(), 1.0, "{:?}", after.errors);
    assert!(
        after.percentile(50) < Duration::from_millis(500),
        "nobody is asked to wait any more"
    );
    assert_settles(&daemon);
    // By itself its kernel would go on for a minute.
    const RESET_WITHIN: Duration = Duration::from_secs(10);
    eventually(
        RESET_WITHIN,
        "no back-end waits for who is not there",
        || half_open.iter().all(|sampler| sampler.now() == 0),
    );
    daemon.finish().unwrap();
}

#[test]
fn clients_get_in_through_a_flood_from_random_sources() {
    siege(Family::V4);
}

#[test]
fn clients_get_in_through_a_flood_over_ipv6() {
    siege(Family::V6);
}
