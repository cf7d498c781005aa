//! A back-end that refuses a request, or does not answer it: the client is served by another one
//! and does not notice; it is told only when there is no other.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_common::header::TcpFlags;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::capture::Capture;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::outages;
use dispatcher_tests::raw::{Crowd, RawClient};
use dispatcher_tests::scenario::{assert_settles, fetch_at_once};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Node, Topology};
use dispatcher_tests::wire::Segment;
use dispatcher_tests::{PATIENCE, client, each_at_once, eventually};
use nix::sys::signal::Signal;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

/// Makes a back-end silent to a client (`add`), or lets it answer again (`del`): it has no way to.
fn silence(verb: &str, backend: &Node, client: IpAddr) {
    let version = if client.is_ipv4() { "-4" } else { "-6" };
    let line = [
        "ip",
        version,
        "route",
        verb,
        "blackhole",
        &client.to_string(),
    ];
    backend.run(&line).unwrap();
}

/// A metric of a back-end by a reason.
fn failures(daemon: &Daemon, backend: &str, reason: &str) -> f64 {
    let page = daemon.metrics().unwrap();
    let series = format!(
        "dispatcher_backend_connect_failures_total{{service=\"web\",backend=\"{backend}\",\
         reason=\"{reason}\"}} "
    );
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value
        .unwrap_or_else(|| panic!("no {series}"))
        .parse()
        .unwrap()
}

#[test]
fn no_client_sees_the_refusal_of_a_back_end_that_is_down() {
    const CLIENTS: usize = 40;
    each_at_once(FAMILIES, |family| {
        let lab = Topology::default().up().unwrap();
        let server = Server::start(
            lab.backend(1),
            BACKEND_PORT,
            server::http(Duration::from_millis(5)),
        )
        .unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let wire = Capture::start(lab.client(0)).unwrap();
        fetch_at_once(&lab, service, CLIENTS);
        assert_settles(&daemon);

        let wire = wire.stop().unwrap();
        wire.verify_checksums().unwrap();
        let refused = |segment: &Segment| segment.source == service && segment.has(TcpFlags::RST);
        assert_eq!(wire.segments().filter(refused).count(), 0, "{family:?}");
        assert_eq!(
            wire.requests(service).count(),
            CLIENTS,
            "no SYN had to be sent again"
        );
        assert!(server.count().most() <= 4);
        let status = daemon.status();
        assert_eq!(status.requests("received"), CLIENTS as u64);
        assert_eq!(status.requests("admitted"), CLIENTS as u64);
        let retried = status.requests("retried");
        assert!(retried > 0);
        assert_eq!(status.backend(0, "total/refused"), retried);
        assert_eq!(status.backend(1, "total/refused"), 0);
        assert_eq!(status.dropped(DropReason::RefusedByBackend), retried);
        assert_eq!(failures(&daemon, "web-1", "refused"), retried as f64);
        let admitted = daemon
            .metric("dispatcher_connection_requests_total", "admitted")
            .unwrap();
        assert_eq!(admitted, CLIENTS as f64);
        daemon.finish().unwrap();
    });
}

#[test]
fn when_all_back_ends_are_down_the_client_is_refused_at_once() {
    const TRIES: u64 = 5;
    each_at_once(FAMILIES, |family| {
        for backends in [1, 2] {
            let topology = Topology {
                backends,
                ..Topology::default()
            };
            let lab = topology.up().unwrap();
            let mut config = Config::new(&lab, family, 4);
            // What the queue does is another matter.
            config.web().overflow = "drop";
            let daemon = Daemon::start(&lab, &config).unwrap();
            let service = lab.service(family, SERVICE_PORT);
            for _ in 0..TRIES {
                let refused = lab.client(0).enter(|| client::connect(service));
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            }
            assert_settles(&daemon);
            let status = daemon.status();
            let counts = ["received", "refused", "admitted", "retried"].map(|c| status.requests(c));
            let retried = u64::from(backends - 1) * TRIES;
            assert_eq!(counts, [TRIES, TRIES, 0, retried]);
            for backend in 0..usize::from(backends) {
                assert_eq!(status.backend(backend, "total/refused"), TRIES);
            }
            daemon.finish().unwrap();
        }
    });
}

#[test]
fn a_client_of_a_silent_back_end_is_served_by_another_when_its_time_is_over() {
    const CONNECT: Duration = Duration::from_millis(300);
    each_at_once(FAMILIES, |family| {
        let lab = Topology::default().up().unwrap();
        let servers =
            [0, 1].map(|i| Server::start(lab.backend(i), BACKEND_PORT, server::echo).unwrap());
        silence("add", lab.backend(0), lab.client(0).ip(family));
        let mut config = Config::new(&lab, family, 4);
        config.web().connect_timeout = Some("300ms");
        let daemon = Daemon::start(&lab, &config).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let crowd = Crowd::of_backends(&lab).unwrap();
        let (client_wire, silent_wire) = (
            Capture::start(lab.client(0)).unwrap(),
            Capture::start(lab.backend(0)).unwrap(),
        );
        let begun = Instant::now();
        let mut stream = lab.client(0).enter(|| client::connect(service)).unwrap();
        assert!(begun.elapsed() >= CONNECT, "the first one was silent");
        assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
        let status = daemon.status();
        assert_eq!(status.backend(0, "total/silent"), 1);
        assert_eq!(status.backend(0, "half_open"), 0, "its slot is free");
        assert_eq!(status.backend(1, "active"), 1);
        assert_eq!(
            (status.requests("retried"), status.requests("admitted")),
            (1, 1)
        );
        assert_eq!(failures(&daemon, "web-1", "silent"), 1.0);
        status.assert_balanced();

        // It answers after all, too late: the client's connection knows nothing of that.
        let own = stream.local_addr().unwrap();
        let late = lab.backend(0).at(family, BACKEND_PORT);
        crowd
            .send(&[Segment::new(late, own, SYN_ACK, 5, 6)])
            .unwrap();
        assert_eq!(client::exchange(&mut stream, b"again").unwrap(), b"again");
        drop(stream);
        assert_settles(&daemon);

        let client_wire = client_wire.stop().unwrap();
        let answers = client_wire
            .segments()
            .filter(|segment| segment.source == service && segment.has(TcpFlags::SYN));
        assert_eq!(answers.count(), 1, "{family:?}");
        // The silent one was told that nobody waits: exactly where it expects the next byte.
        let silent_wire = silent_wire.stop().unwrap();
        let seen: Vec<_> = silent_wire
            .segments()
            .filter(|segment| segment.destination == late && segment.source == own)
            .collect();
        let syn = &seen[0];
        assert!(syn.flags.is_connection_request(), "{seen:?}");
        let first_byte = syn.seq.wrapping_add(1);
        let told = |segment: &&Segment| (segment.flags, segment.seq) == (TcpFlags::RST, first_byte);
        assert_eq!(seen.iter().filter(told).count(), 1, "{seen:?}");
        assert_eq!(servers[0].count().peers(), []);
        daemon.finish().unwrap();
    });
}

#[test]
fn those_that_are_put_back_are_served_in_the_order_of_arrival() {
    const FIRST_PORT: u16 = 21_000;
    const WAITING: u16 = 8;
    let lab = Topology::default().up().unwrap();
    let server = Server::start(lab.backend(1), BACKEND_PORT, server::echo).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 1)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let connect = |port| {
        lab.client(0)
            .enter(|| client::connect_from(port, service).unwrap())
    };
    let holder = connect(FIRST_PORT - 1);
    thread::scope(|scope| {
        for i in 0..WAITING {
            scope.spawn(move || drop(connect(FIRST_PORT + i)));
            eventually(PATIENCE, "the next one waits", || {
                daemon.status().requests("received") == u64::from(i) + 2
            });
        }
        // The first of them has met the back-end that is down, more than once if that took long.
        let status = daemon.status();
        assert!(status.backend(0, "total/refused") >= 2);
        assert_eq!(status.requests("refused"), 0);
        drop(holder);
    });
    let ports: Vec<_> = server
        .count()
        .peers()
        .iter()
        .map(SocketAddr::port)
        .collect();
    let expected: Vec<_> = (FIRST_PORT - 1..FIRST_PORT + WAITING).collect();
    assert_eq!(ports, expected);
    assert_eq!(server.count().most(), 1);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn while_no_daemon_runs_the_refusal_reaches_the_client() {
    each_at_once(FAMILIES, |family| {
        let topology = Topology {
            backends: 1,
            ..Topology::default()
        };
        let lab = topology.up().unwrap();
        let mut config = Config::new(&lab, family, 4);
        config.on_exit = "keep";
        config.web().handshake_timeout = "1m";
        config.web().connect_timeout = Some("1m");
        let mut daemon = Daemon::start(&lab, &config).unwrap();
        let raw = RawClient::new(&lab, 200, 30_001, lab.service(family, SERVICE_PORT)).unwrap();
        silence("add", lab.backend(0), raw.address().ip());
        raw.request(7).unwrap();
        eventually(PATIENCE, "it was sent on", || {
            daemon.status().backend(0, "half_open") == 1
        });
        daemon.stop().unwrap();
        // The back-end answers now, and nobody listens there.
        silence("del", lab.backend(0), raw.address().ip());
        raw.request(7).unwrap();
        let answer = raw.expect(TcpFlags::RST, PATIENCE).unwrap();
        assert_eq!(
            (answer.flags, answer.ack),
            (TcpFlags::RST.with(TcpFlags::ACK), 8)
        );
        daemon.restart().unwrap();
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

#[test]
fn a_refusal_that_no_daemon_has_acted_upon_is_left_to_the_clients_retransmission() {
    let topology = Topology {
        backends: 1,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.on_exit = "keep";
    config.web().handshake_timeout = "1m";
    config.web().connect_timeout = Some("1m");
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    silence("add", lab.backend(0), raw.address().ip());
    raw.request(7).unwrap();
    eventually(PATIENCE, "it was sent on", || {
        daemon.status().backend(0, "half_open") == 1
    });
    // It is there, but does nothing any more.
    daemon.signal(Signal::SIGSTOP).unwrap();
    silence("del", lab.backend(0), raw.address().ip());
    let wire = Capture::start(lab.backend(0)).unwrap();
    raw.request(7).unwrap();
    let any = SYN_ACK.with(TcpFlags::RST);
    assert_eq!(raw.next(any, Duration::from_millis(500)).unwrap(), None);
    let refusals = wire.stop().unwrap();
    let is_refusal = |segment: &Segment| segment.has(TcpFlags::RST) && segment.ack == 8;
    assert_eq!(refusals.segments().filter(is_refusal).count(), 1);
    daemon.crash().unwrap();

    let server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    daemon.restart().unwrap();
    assert_eq!(daemon.status().flows(), 0, "it holds no slot");
    raw.handshake(7, PATIENCE).unwrap();
    eventually(PATIENCE, "it is served", || server.count().active() == 1);
    daemon.status().assert_balanced();
}

#[test]
fn back_ends_that_fail_at_random_refuse_no_client_while_one_lives() {
    outages::fail_under_load(Duration::from_secs(10), 1);
}
