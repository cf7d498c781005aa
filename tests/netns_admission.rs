//! Admission end to end: ceilings hold, the queue is first in first out, and each of its bounds
//! has the outcome that the configuration says.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use dispatcher_common::header::TcpFlags;
use dispatcher_tests::capture::Capture;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::nginx::{self, Nginx};
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::{assert_settles, fetch_at_once, on_all};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab, Shape, Topology, Vlans};
use dispatcher_tests::{PATIENCE, client, eventually};

const ONE_BACKEND: Topology = Topology {
    clients: 1,
    backends: 1,
    shape: Shape::TwoArmed,
    vlans: Vlans::None,
    queues: 1,
};

#[test]
fn two_hundred_clients_at_once_never_exceed_ceilings_of_four_at_nginx() {
    let lab = Topology::default().up().unwrap();
    let _nginx: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Nginx::start(node, BACKEND_PORT).unwrap())
        .collect();
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    let wires: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Capture::start(node).unwrap())
        .collect();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();

    fetch_at_once(&lab, lab.service(Family::V4, SERVICE_PORT), 200);
    assert_settles(&daemon);

    let status = daemon.status();
    assert_eq!(status.requests("admitted"), 200);
    for (i, wire) in wires.into_iter().enumerate() {
        let wire = wire.stop().unwrap();
        let most = wire.most_connections(lab.backend(i).at(Family::V4, BACKEND_PORT));
        assert!(
            (1..=4).contains(&most),
            "back-end {i} had {most} connections"
        );
        assert!(
            samplers[i].most() <= 4,
            "back-end {i} had {}",
            samplers[i].most()
        );
        assert!(status.backend(i, "active_max") <= 4);
    }
    daemon.finish().unwrap();
}

#[test]
fn a_page_of_nginx_arrives_whole() {
    let lab = ONE_BACKEND.up().unwrap();
    let _nginx = Nginx::start(lab.backend(0), BACKEND_PORT).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let page = client::curl(lab.client(0), &["http://192.0.2.10/"]).unwrap();
    assert_eq!(page, nginx::PAGE);
    assert_settles(&daemon);
}

/// A lab with one back-end at ceiling 1 and `config` changed by the caller, whose only slot is
/// taken by the connection returned.
fn full_backend<'lab>(
    lab: &'lab Lab,
    change: impl FnOnce(&mut Config),
) -> (Server, Daemon<'lab>, TcpStream) {
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(lab, Family::V4, 1);
    change(&mut config);
    let daemon = Daemon::start(lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let holder = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(daemon.status().active(), 1);
    (server, daemon, holder)
}

#[test]
fn the_queue_releases_in_the_order_of_arrival() {
    const FIRST_PORT: u16 = 20_000;
    const WAITING: u16 = 12;
    let lab = ONE_BACKEND.up().unwrap();
    let (server, daemon, holder) = full_backend(&lab, |_| {});
    let service = lab.service(Family::V4, SERVICE_PORT);
    thread::scope(|scope| {
        for i in 0..WAITING {
            let client = lab.client(0);
            scope.spawn(move || {
                client
                    .enter(|| client::connect_from(FIRST_PORT + i, service).map(drop))
                    .unwrap();
            });
            eventually(PATIENCE, "the next one waits", || {
                daemon.status().queued() == u64::from(i) + 1
            });
        }
        drop(holder);
    });
    let ports: Vec<_> = server.count().peers()[1..]
        .iter()
        .map(SocketAddr::port)
        .collect();
    let expected: Vec<_> = (FIRST_PORT..FIRST_PORT + WAITING).collect();
    assert_eq!(ports, expected);
    assert_eq!(server.count().most(), 1);
    assert_settles(&daemon);
}

#[test]
fn the_queue_command_lists_who_waits_oldest_first() {
    let lab = ONE_BACKEND.up().unwrap();
    let (_server, daemon, _holder) = full_backend(&lab, |_| {});
    let service = lab.service(Family::V4, SERVICE_PORT);
    for (port, waiting) in [(30_001, 1), (30_002, 2)] {
        RawClient::new(&lab, 200, port, service)
            .unwrap()
            .request(1)
            .unwrap();
        eventually(PATIENCE, "it waits", || daemon.status().queued() == waiting);
    }
    let text = daemon.queue().unwrap().to_string();
    let (first, second) = (text.find("30001"), text.find("30002"));
    assert!(first.is_some() && first < second, "{text}");
}

#[test]
fn a_full_queue_refuses_with_a_reset() {
    let lab = ONE_BACKEND.up().unwrap();
    let (_server, daemon, _holder) = full_backend(&lab, |config| config.web().queue_capacity = 2);
    let service = lab.service(Family::V4, SERVICE_PORT);
    for port in [30_001, 30_002] {
        RawClient::new(&lab, 200, port, service)
            .unwrap()
            .request(1)
            .unwrap();
    }
    eventually(PATIENCE, "two wait", || daemon.status().queued() == 2);
    let refused = lab
        .client(0)
        .enter(|| client::connect(service))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let status = daemon.status();
    assert_eq!((status.requests("refused"), status.queued()), (1, 2));
    status.assert_balanced();
}

#[test]
fn a_full_queue_that_drops_is_silent() {
    let lab = ONE_BACKEND.up().unwrap();
    let (_server, daemon, _holder) = full_backend(&lab, |config| {
        config.web().queue_capacity = 1;
        config.web().overflow = "drop";
    });
    let service = lab.service(Family::V4, SERVICE_PORT);
    RawClient::new(&lab, 200, 30_001, service)
        .unwrap()
        .request(1)
        .unwrap();
    eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);
    let second = RawClient::new(&lab, 200, 30_002, service).unwrap();
    second.request(1).unwrap();
    eventually(PATIENCE, "the second was seen", || {
        daemon.status().requests("received") == 3
    });
    let any = TcpFlags::SYN.with(TcpFlags::RST).with(TcpFlags::ACK);
    assert_eq!(second.next(any, Duration::from_millis(200)).unwrap(), None);
    daemon.status().assert_balanced();
}

#[test]
fn a_request_that_waited_too_long_leaves_the_queue_and_holds_no_slot() {
    let lab = ONE_BACKEND.up().unwrap();
    let (server, daemon, holder) =
        full_backend(&lab, |config| config.web().queue_timeout = "500ms");
    let service = lab.service(Family::V4, SERVICE_PORT);
    RawClient::new(&lab, 200, 30_001, service)
        .unwrap()
        .request(1)
        .unwrap();
    eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
    eventually(PATIENCE, "it is expired", || {
        let status = daemon.status();
        status.requests("expired") == 1 && status.queued() == 0
    });
    drop(holder);
    assert_settles(&daemon);
    assert_eq!(
        server.count().peers().len(),
        1,
        "only the first ever reached the back-end"
    );
}

#[test]
fn a_request_that_nobody_repeats_is_abandoned_and_never_reaches_a_backend() {
    let lab = ONE_BACKEND.up().unwrap();
    let (server, daemon, holder) = full_backend(&lab, |_| {});
    let service = lab.service(Family::V4, SERVICE_PORT);
    RawClient::new(&lab, 200, 30_001, service)
        .unwrap()
        .request(1)
        .unwrap();
    eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
    eventually(2 * PATIENCE, "it is abandoned", || {
        let status = daemon.status();
        status.requests("abandoned") == 1 && status.queued() == 0
    });
    drop(holder);
    assert_settles(&daemon);
    assert_eq!(server.count().peers().len(), 1);
}

#[test]
fn a_full_flow_table_admits_no_more_and_recovers() {
    const CAPACITY: usize = 8;
    let lab = ONE_BACKEND.up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 2 * CAPACITY as u32);
    config.flow_capacity = CAPACITY as u32;
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    lab.client(0).enter(|| {
        let held: Vec<_> = (0..CAPACITY)
            .map(|_| client::connect(service).unwrap())
            .collect();
        assert_eq!(daemon.status().flows(), CAPACITY as u64);
        let excess = client::connect_within(service, Duration::from_secs(1));
        assert!(excess.is_err(), "a ninth connection in a table for eight");
        assert_eq!(servers[0].count().most(), CAPACITY);
        drop(held);
        assert_settles(&daemon);
        let mut again = client::connect(service).unwrap();
        assert_eq!(client::exchange(&mut again, b"hello").unwrap(), b"hello");
    });
    assert_settles(&daemon);
}
