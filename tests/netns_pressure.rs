//! The daemon under more than it can take: floods, events that are lost, ways that vanish. It stays
//! alive, its books stay balanced, and it is as before when it is over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dispatcher_common::flow::FlowKey;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::raw::{Crowd, RawClient};
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::wire::Segment;
use dispatcher_tests::{PATIENCE, client, eventually};
use dispatcher_user::datapath::FlowTable;
use nix::sys::signal::Signal;

fn lab(backends: u8) -> Lab {
    let topology = Topology {
        backends,
        ..Topology::default()
    };
    topology.up().unwrap()
}

/// Share of one processor that the daemon uses over `span`.
fn load(daemon: &Daemon, span: Duration) -> f64 {
    let before = daemon.processor_time().unwrap();
    sleep(span);
    let used = daemon.processor_time().unwrap() - before;
    used.as_secs_f64() / span.as_secs_f64()
}

/// The i-th of many clients that nobody has heard of, in the network for benchmarks (RFC 2544).
fn stranger(i: u32) -> SocketAddr {
    let [_, a, b, c] = (i % 50_021).to_be_bytes();
    let port = 1024 + (i / 50_021) as u16 * 7;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18 + a, b, c)), port)
}

#[test]
fn an_idle_daemon_sleeps() {
    let lab = lab(2);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let load = load(&daemon, Duration::from_secs(2));
    eprintln!("idle: {:.2} % of a processor", load * 100.0);
    assert!(load < 0.02, "{:.1} % of a processor", load * 100.0);
}

#[test]
fn a_daemon_whose_interface_was_deleted_sleeps_and_answers() {
    let lab = lab(1);
    let mut daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let delete = ["ip", "link", "delete", "front"];
    lab.dispatcher().run(&delete).unwrap();
    let load = load(&daemon, Duration::from_secs(2));
    eprintln!("without interface: {:.2} % of a processor", load * 100.0);
    assert!(daemon.is_alive());
    assert!(load < 0.02, "{:.1} % of a processor", load * 100.0);
    daemon.status().assert_balanced();
    assert!(daemon.log().contains("gone"), "{}", daemon.log());
    assert!(daemon.stop().unwrap().success());
}

#[test]
fn an_interface_that_went_down_and_up_again_goes_on() {
    let lab = lab(1);
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    for interface in ["front", "back"] {
        for state in ["down", "up"] {
            let set = ["ip", "link", "set", interface, state];
            lab.dispatcher().run(&set).unwrap();
        }
    }
    assert!(load(&daemon, Duration::from_millis(500)) < 0.2);
    assert_eq!(client::exchange(&mut held, b"still").unwrap(), b"still");
    let mut new = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut new, b"new").unwrap(), b"new");
}

/// A flood of requests from sources that do not exist, then a true client.
fn flood(overflow: &'static str, capacity: u32, queues: u8) {
    const REQUESTS: u32 = 200_000;
    let topology = Topology {
        backends: 1,
        queues,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    config.web().overflow = overflow;
    config.web().queue_capacity = capacity;
    config.web().handshake_timeout = "1s";
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let memory = daemon.memory_peak().unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let crowd = Crowd::of_clients(&lab).unwrap();
    let request = |i| crowd.frame(&Segment::new(stranger(i), service, TcpFlags::SYN, i, 0));
    let frames: Vec<_> = (0..REQUESTS).map(request).collect();

    let started = Instant::now();
    let before = daemon.processor_time().unwrap();
    crowd.send_frames(&frames).unwrap();
    let sent = started.elapsed();
    let used = daemon.processor_time().unwrap() - before;
    let asked = Instant::now();
    let status = daemon.status();
    let answered = asked.elapsed();
    assert!(daemon.is_alive());
    status.assert_balanced();
    let received = status.requests("received");
    let grown = daemon.memory_peak().unwrap().saturating_sub(memory);
    eprintln!(
        "flood, {overflow}, queue {capacity}, {queues} receive queues: {REQUESTS} in {sent:?}, \
         received {received} ({:.0}/s, {used:?} of processor), \
         waiting {}, too many for the socket {}, not sent {}, status after \
         {answered:?}, {} KiB of memory, \
         {} more",
        received as f64 / sent.as_secs_f64(),
        status.queued(),
        status.dropped(DropReason::ReceiveFull),
        status.dropped(DropReason::TransmitFull),
        (memory + grown) >> 10,
        grown >> 10,
    );
    let seen = received
        + status.requests("retransmitted")
        + status.dropped(DropReason::ReceiveFull)
        + status.dropped(DropReason::BadChecksum);
    assert!(received > 0 && seen <= u64::from(REQUESTS), "{status:?}");
    assert_eq!(status.dropped(DropReason::TransmitFull), 0, "{status:?}");
    assert!(grown < 64 << 20, "{grown} bytes more");

    let end = Instant::now() + Duration::from_secs(30);
    let mut connected = loop {
        match lab.client(0).enter(|| client::connect(service)) {
            Ok(connected) => break connected,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    assert_eq!(client::exchange(&mut connected, b"me").unwrap(), b"me");
    drop(connected);
    eventually(3 * PATIENCE, "nobody waits", || daemon.status().is_idle());
    daemon.status().assert_balanced();
    assert_eq!(daemon.status().dropped(DropReason::TransmitFull), 0);
}

#[test]
fn a_flood_is_refused_and_a_client_gets_in_after_it() {
    flood("refuse", 1024, 1);
}

#[test]
fn a_flood_fills_a_large_queue_and_a_client_gets_in_after_it() {
    flood("drop", 65_536, 4);
}

#[test]
fn a_crowd_that_expires_at_once_is_refused_one_and_all() {
    const CROWD: u32 = 8000;
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 1);
    config.web().queue_capacity = CROWD;
    config.web().queue_timeout = "1s";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let _holder = lab.client(0).enter(|| client::connect(service)).unwrap();
    let crowd = Crowd::of_clients(&lab).unwrap();
    let requests: Vec<_> = (0..CROWD)
        .map(|i| Segment::new(stranger(i), service, TcpFlags::SYN, i, 0))
        .collect();
    crowd.send(&requests).unwrap();
    eventually(PATIENCE, "all are expired", || {
        let status = daemon.status();
        status.requests("expired") > 0 && status.queued() == 0
    });
    let status = daemon.status();
    status.assert_balanced();
    assert_eq!(status.dropped(DropReason::TransmitFull), 0, "{status:?}");
}

/// Connections between two crowds, by hand, past every stack.
struct Connections<'lab> {
    clients: Crowd,
    backends: Crowd,
    service: SocketAddr,
    backend: SocketAddr,
    daemon: Daemon<'lab>,
    table: FlowTable,
}

const BACKEND_ISN: u32 = 7000;

impl<'lab> Connections<'lab> {
    fn start(lab: &'lab Lab, change: impl FnOnce(&mut Config)) -> Self {
        let clients = Crowd::of_clients(lab).unwrap();
        let backends = Crowd::of_backends(lab).unwrap();
        // Nobody's address, on the wire of the back-end.
        let backend: SocketAddr = "10.0.0.250:8080".parse().unwrap();
        let mac = backends.mac().map(|byte| format!("{byte:02x}")).join(":");
        let (ip, side) = (backend.ip().to_string(), lab.topology().backend_side());
        let replace = [
            "ip",
            "neighbour",
            "replace",
            &ip,
            "lladdr",
            &mac,
            "dev",
            &side,
        ];
        lab.dispatcher().run(&replace).unwrap();
        let mut config = Config::new(lab, Family::V4, 60_000);
        config.flow_capacity = 65_536;
        config.web().handshake_timeout = "1m";
        config.web().flood = "mode = \"off\"";
        config.web().backends[0].address = backend;
        change(&mut config);
        let daemon = Daemon::start(lab, &config).unwrap();
        let table = daemon.flow_table().unwrap();
        Self {
            clients,
            backends,
            service: lab.service(Family::V4, SERVICE_PORT),
            backend,
            daemon,
            table,
        }
    }

    fn of_client(&self, i: u32, flags: TcpFlags, seq: u32, ack: u32) -> Segment {
        Segment::new(stranger(i), self.service, flags, seq, ack)
    }

    fn of_backend(&self, i: u32, flags: TcpFlags, seq: u32, ack: u32) -> Segment {
        Segment::new(self.backend, stranger(i), flags, seq, ack)
    }

    fn phase(&self, i: u32) -> Option<Phase> {
        let port = |number| dispatcher_common::addr::Port::new(number);
        let (client, service) = (stranger(i), self.service);
        let key = FlowKey::new(
            client.ip().into(),
            port(client.port()),
            service.ip().into(),
            port(service.port()),
        );
        self.table.get(&key).map(|pair| Phase(pair.forward.phase))
    }

    /// Handshake, the client's FIN, the back-end's RST.
    fn live_and_die(&self, flows: std::ops::Range<u32>, isn: u32) {
        let ack = TcpFlags::ACK;
        let (seq, acked) = (isn + 1, BACKEND_ISN + 1);
        let answer = |i| self.of_backend(i, TcpFlags::SYN.with(ack), BACKEND_ISN, seq);
        self.until(flows.clone(), &self.backends, answer, |phase| {
            phase.is_some_and(|phase| phase.has(Phase::ANSWERED))
        });
        let finish = |i| self.of_client(i, ack, seq, acked);
        self.until(flows.clone(), &self.clients, finish, |phase| {
            phase.is_some_and(Phase::is_established)
        });
        let close = |i| self.of_client(i, ack.with(TcpFlags::FIN), seq, acked);
        self.until(flows.clone(), &self.clients, close, |phase| {
            phase.is_some_and(|phase| phase.has(Phase::CLIENT_FIN))
        });
        let reset = |i| self.of_backend(i, ack.with(TcpFlags::RST), acked, seq + 1);
        self.until(flows, &self.backends, reset, |phase| {
            phase.is_some_and(Phase::is_ended)
        });
    }

    /// Sends what `segment` makes for each of `all` until `done` of all of them: wires lose some.
    fn until(
        &self,
        all: std::ops::Range<u32>,
        from: &Crowd,
        segment: impl Fn(u32) -> Segment,
        done: impl Fn(Option<Phase>) -> bool,
    ) {
        eventually(2 * PATIENCE, "every flow came that far", || {
            let missing = all.clone().filter(|&i| !done(self.phase(i)));
            let segments: Vec<_> = missing.map(&segment).collect();
            from.send(&segments).unwrap();
            segments.is_empty()
        });
    }
}

#[test]
fn events_that_were_lost_are_made_up_for_and_successors_keep_their_slots() {
    const FLOWS: u32 = 16_000;
    const AGAIN: u32 = 200;
    const REFUSED: u32 = 50;
    const ALL: u32 = FLOWS + REFUSED;
    // The table is compared from its end, so with the last ones at once.
    const FIRST: u32 = FLOWS - AGAIN;
    const ISN: u32 = 100;
    let lab = lab(1);
    let all = Connections::start(&lab, |_| {});
    let daemon = &all.daemon;
    let syn = |i| all.of_client(i, TcpFlags::SYN, ISN, 0);
    all.until(0..ALL, &all.clients, syn, |phase| phase.is_some());
    eventually(PATIENCE, "all are half open", || {
        daemon.status().backend(0, "half_open") == u64::from(ALL)
    });

    // While the daemon stands still, every flow is established, half closed and reset: those first
    // whose clients then use their ports again at once. By now the ring is full, and some more are
    // refused by their back-end.
    daemon.signal(Signal::SIGSTOP).unwrap();
    for flows in [FIRST..FLOWS, 0..FIRST] {
        all.live_and_die(flows, ISN);
    }
    let again: Vec<_> = (FIRST..FLOWS)
        .map(|i| all.of_client(i, TcpFlags::SYN, 2 * ISN, 0))
        .collect();
    all.clients.send(&again).unwrap();
    let refusal = TcpFlags::RST.with(TcpFlags::ACK);
    let refuse = |i| all.of_backend(i, refusal, 0, ISN + 1);
    all.until(FLOWS..ALL, &all.backends, refuse, |phase| {
        phase.is_some_and(Phase::is_refused)
    });
    daemon.signal(Signal::SIGCONT).unwrap();

    eventually(PATIENCE, "lost events are made up for", || {
        let status = daemon.status();
        daemon.log().contains("event ring was full")
            && status.active() == 0
            && status.flows() <= u64::from(AGAIN)
    });
    let status = daemon.status();
    status.assert_balanced();
    let admitted = status.requests("admitted") - u64::from(FLOWS);
    assert!(admitted > 0, "{status:?}");
    assert_eq!(
        status.backend(0, "half_open"),
        admitted,
        "each successor has its slot: {status:?}"
    );
    assert_eq!(
        status.requests("refused"),
        u64::from(REFUSED),
        "a refusal that was not told is found, too: {status:?}"
    );
    let installed = (FIRST..FLOWS).filter(|&i| all.phase(i).is_some()).count();
    assert_eq!(installed as u64, admitted, "and its entries");
}

#[test]
fn a_port_that_collides_at_a_backend_goes_to_another_or_is_refused() {
    for backends in [1, 2] {
        let lab = lab(backends);
        let _servers = on_all(&lab, || server::echo);
        let mut config = Config::new(&lab, Family::V4, 4);
        let mut second = config.services[0].clone();
        second.name = "web-too".to_owned();
        second.address = lab.service(Family::V4, SERVICE_PORT + 1);
        config.services.push(second);
        let daemon = Daemon::start(&lab, &config).unwrap();
        let (any, one) = (
            TcpFlags::SYN.with(TcpFlags::RST),
            config.services[0].address,
        );
        let first = RawClient::new(&lab, 200, 30_000, one).unwrap();
        let answer = first.handshake(1000, PATIENCE).unwrap();
        assert!(answer.has(TcpFlags::SYN));
        let two = config.services[1].address;
        let second = RawClient::new(&lab, 200, 30_000, two).unwrap();
        second.request(5000).unwrap();
        let answer = second.expect(any, PATIENCE).unwrap();
        let status = daemon.status().0;
        let refused = status["services"][1]["requests"]["refused"].as_u64();
        if backends == 1 {
            assert!(answer.has(TcpFlags::RST), "{answer:?}");
            assert_eq!(refused, Some(1));
        } else {
            assert!(answer.has(TcpFlags::SYN), "{answer:?}");
            assert_eq!(answer.ack, 5001);
            assert_eq!(refused, Some(0));
        }
        assert_eq!(daemon.status().active(), 1, "the first goes on");
    }
}

#[test]
fn ports_that_collide_at_a_backend_are_told_apart_when_many_ask_at_once() {
    const PORTS: std::ops::Range<u16> = 30_000..30_032;
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 64);
    config.web().handshake_timeout = "1m";
    let mut second = config.services[0].clone();
    second.name = "web-too".to_owned();
    second.address = lab.service(Family::V4, SERVICE_PORT + 1);
    config.services.push(second);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let clients = Crowd::of_clients(&lab).unwrap();
    let ask_together = |service: SocketAddr| {
        let ask = |port| {
            let from = SocketAddr::new(lab.client_address(200, Family::V4), port);
            Segment::new(from, service, TcpFlags::SYN, u32::from(port), 0)
        };
        let requests: Vec<_> = PORTS.map(ask).collect();
        daemon.signal(Signal::SIGSTOP).unwrap();
        clients.send(&requests).unwrap();
        daemon.signal(Signal::SIGCONT).unwrap();
    };
    let counted = |service: usize, outcome: &str| {
        daemon.status().0["services"][service]["requests"][outcome].as_u64()
    };
    let all = Some(PORTS.len() as u64);

    ask_together(config.services[0].address);
    eventually(PATIENCE, "they are admitted", || {
        counted(0, "admitted") == all
    });
    ask_together(config.services[1].address);
    eventually(PATIENCE, "they are refused", || {
        counted(1, "refused") == all
    });
    assert_eq!(counted(0, "admitted"), all, "nobody has lost an entry");
    assert_eq!(counted(1, "admitted"), Some(0));
    daemon.status().assert_balanced();
}

#[test]
fn a_backend_whose_neighbour_entry_is_gone_is_reached_all_the_same() {
    for family in [Family::V4, Family::V6] {
        let lab = lab(1);
        let _servers = on_all(&lab, || server::echo);
        let side = lab.topology().backend_side();
        let forget = ["ip", "neighbour", "flush", "dev", &side, "nud", "all"];
        lab.dispatcher().run(&forget).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
        for _ in 0..5 {
            lab.dispatcher().run(&forget).unwrap();
            assert_eq!(client::exchange(&mut held, b"held").unwrap(), b"held");
            lab.dispatcher().run(&forget).unwrap();
            let mut new = lab.client(0).enter(|| client::connect(service)).unwrap();
            assert_eq!(client::exchange(&mut new, b"new").unwrap(), b"new");
        }
        if family == Family::V4 {
            // The back-end does not answer for its address for a while.
            let ignore = |how| [("ipv4/conf/all/arp_ignore", how)];
            lab.backend(0).sysctl(&ignore("8")).unwrap();
            lab.dispatcher().run(&forget).unwrap();
            assert_eq!(client::exchange(&mut held, b"quiet").unwrap(), b"quiet");
            lab.backend(0).sysctl(&ignore("0")).unwrap();
        }
        drop(held);
        assert_settles(&daemon);
    }
}

#[test]
fn packets_beyond_the_backends_mtu_do_no_harm() {
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let narrow = ["ip", "link", "set", "back", "mtu", "1300"];
    lab.dispatcher().run(&narrow).unwrap();
    let mut large = lab.client(0).enter(|| client::connect(service)).unwrap();
    let _ = large.set_read_timeout(Some(Duration::from_secs(1)));
    let echoed = client::exchange(&mut large, &[7; 20_000]);
    eprintln!(
        "20000 bytes through a narrower link: {:?}",
        echoed.map(|b| b.len())
    );
    drop(large);
    let mut small = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut small, b"small").unwrap(), b"small");
    daemon.status().assert_balanced();
}
