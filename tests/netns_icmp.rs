//! ICMP end to end: the path MTU is found whatever is narrow, forged errors change nothing, and
//! pings are answered.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use dispatcher_common::header::TcpFlags;
use dispatcher_common::notice::Problem;
use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::icmp::{message, quote, told, verify};
use dispatcher_tests::narrows::Narrows;
use dispatcher_tests::netns::Namespace;
use dispatcher_tests::packet::{Family as PacketFamily, Host, Packet};
use dispatcher_tests::raw::Crowd;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{ENDPOINT_DEVICE, Family};
use dispatcher_tests::wire::{PacketSocket, Segment};
use dispatcher_tests::{PATIENCE, each_at_once, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const MEGABYTE: u64 = 1 << 20;
/// Above the least that IPv6 allows.
const NARROW: u16 = 1300;

/// Takes a megabyte, answers with its digest, and sends a megabyte.
fn both_ways(stream: &mut TcpStream, _: &Count) -> std::io::Result<()> {
    let digest = server::digest_of(stream)?;
    stream.write_all(&digest.to_be_bytes())?;
    server::send_pattern(stream, MEGABYTE).map(drop)
}

/// A megabyte goes up and one comes down, unharmed.
fn exchange(service: SocketAddr) {
    let mut stream = client::connect(service).unwrap();
    let sent = server::send_pattern(&mut stream, MEGABYTE).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(u64::from_be_bytes(answer), sent);
    let received = server::digest_of(&mut stream).unwrap();
    assert_eq!(received, sent, "the pattern is the same");
}

/// The path MTU that a machine has learned towards an address.
fn learned(machine: &Namespace, towards: IpAddr) -> Option<u16> {
    let line = ["ip", "route", "get", &towards.to_string()];
    let route = machine.run(&line).unwrap();
    let mut words = route.split_whitespace();
    words.find(|word| *word == "mtu")?;
    words.next()?.parse().ok()
}

/// What is narrow on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    /// A link between routers, between clients and dispatcher.
    BeforeClient,
    /// The same between dispatcher and back-ends.
    BeforeBackend,
    /// The dispatcher's own route to its back-ends.
    OwnWayToBackends,
    /// The dispatcher's own route to clients.
    OwnWayToClients,
}

fn handled(daemon: &Daemon<'_>, outcome: &str) -> f64 {
    let metric = daemon.metric("dispatcher_handled_packets_total", outcome);
    metric.unwrap()
}

fn dropped(daemon: &Daemon<'_>, reason: &str) -> f64 {
    let metric = daemon.metric("dispatcher_dropped_packets_total", reason);
    metric.unwrap()
}

fn narrow(place: Where) {
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let (client, backend) = (lab.client(0), lab.backend(0));
        let _narrows = match place {
            Where::BeforeClient => Some(Narrows::before(&lab, client, NARROW).unwrap()),
            Where::BeforeBackend => Some(Narrows::before(&lab, backend, NARROW).unwrap()),
            Where::OwnWayToBackends | Where::OwnWayToClients => None,
        };
        let own = match place {
            Where::OwnWayToBackends => Some((backend, "back")),
            Where::OwnWayToClients => Some((client, "front")),
            Where::BeforeClient | Where::BeforeBackend => None,
        };
        if let Some((node, device)) = own {
            let (to, mtu) = (node.ip(family).to_string(), NARROW.to_string());
            let route = [
                "ip", "route", "add", &to, "dev", device, "mtu", "lock", &mtu,
            ];
            lab.dispatcher().run(&route).unwrap();
        }
        let _server = Server::start(backend, BACKEND_PORT, both_ways).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        client.enter(|| exchange(service));

        let of_client = learned(client, service.ip());
        let of_backend = learned(backend, client.ip(family));
        let [told, translated] = [
            dropped(&daemon, "too_big") > 0.0,
            handled(&daemon, "icmp_translated") > 0.0,
        ];
        let narrow = Some(NARROW);
        let sentence = format!("{place:?}, {family:?}");
        match place {
            Where::BeforeClient | Where::BeforeBackend => {
                assert_eq!((of_client, of_backend), (narrow, narrow), "{sentence}");
                assert!(translated && !told, "{sentence}");
            }
            Where::OwnWayToBackends => {
                assert_eq!((of_client, of_backend), (narrow, None), "{sentence}");
                assert!(told && !translated, "{sentence}");
            }
            Where::OwnWayToClients => {
                assert_eq!((of_client, of_backend), (None, narrow), "{sentence}");
                assert!(told && !translated, "{sentence}");
            }
        }
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

#[test]
fn a_narrow_link_towards_the_client_is_found() {
    narrow(Where::BeforeClient);
}

#[test]
fn a_narrow_link_towards_the_backend_is_found() {
    narrow(Where::BeforeBackend);
}

#[test]
fn the_dispatchers_own_narrow_way_to_backends_is_found() {
    narrow(Where::OwnWayToBackends);
}

#[test]
fn the_dispatchers_own_narrow_way_to_clients_is_found() {
    narrow(Where::OwnWayToClients);
}

#[test]
fn an_interface_that_gets_narrower_stops_no_upload() {
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let _server = Server::start(lab.backend(0), BACKEND_PORT, server::sink).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        lab.client(0).enter(|| {
            let mut stream = client::connect(service).unwrap();
            server::send_pattern(&mut stream, MEGABYTE).unwrap();
            let narrow = ["ip", "link", "set", "back", "mtu", &NARROW.to_string()];
            lab.dispatcher().run(&narrow).unwrap();
            server::send_pattern(&mut stream, 4 * MEGABYTE).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).unwrap();
        });
        assert_eq!(learned(lab.client(0), service.ip()), Some(NARROW));
        assert!(dropped(&daemon, "too_big") > 0.0);
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

/// A host of the packet builder at a lab's address.
fn host(address: SocketAddr) -> Host {
    let mut host = dispatcher_tests::packet::STRANGER.at(address.port());
    match address.ip() {
        IpAddr::V4(v4) => host.v4 = v4,
        IpAddr::V6(v6) => host.v6 = v6,
    }
    host
}

#[test]
fn forged_errors_change_nothing() {
    const FORGED: u32 = 64;
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let mut stream = lab.client(0).enter(|| client::connect(service)).unwrap();
        client::exchange(&mut stream, &[1; 1000]).unwrap();

        let of_packet = match family {
            Family::V4 => PacketFamily::V4,
            Family::V6 => PacketFamily::V6,
        };
        let (vip, client) = (host(service), host(stream.local_addr().unwrap()));
        let forger = Crowd::of_clients(&lab).unwrap();
        let gateway = lab.dispatcher().mac("front").unwrap();
        let link = (
            dispatcher_common::addr::Mac(gateway),
            dispatcher_common::addr::Mac(forger.mac()),
        );
        // A guess in 64 of all sequence numbers: far from what is under way but for one at most,
        // and the back-end itself would not believe that one.
        let frames: Vec<_> = (0..FORGED)
            .map(|guess| {
                let seq = guess.wrapping_mul(u32::MAX / FORGED);
                let quoted = Packet::tcp(vip, client).over(of_packet).seq(seq);
                let quoted = quoted.payload(&[0; 1400]).build();
                let rest = [0, 0, 0x02, 0x28];
                let kind = told(of_packet).0;
                let body = quote(&quoted, 528);
                let forged = message(of_packet, client.at(0), vip, kind, rest, &body);
                forged.link(link.0, link.1).build()
            })
            .collect();
        forger.send_frames(&frames).unwrap();
        eventually(PATIENCE, "they are counted", || {
            dropped(&daemon, "icmp_out_of_window") >= f64::from(FORGED - 1)
        });
        let client_ip = lab.client(0).ip(family);
        assert_eq!(learned(lab.backend(0), client_ip), None);
        assert_eq!(
            client::exchange(&mut stream, &[2; 9000]).unwrap(),
            [2; 9000]
        );
        assert_eq!(server.count().active(), 1);
        drop(stream);
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

#[test]
fn a_ping_of_the_service_is_answered_whoever_has_the_address() {
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let vip = lab.vip(family).to_string();
        let ping = |size: &str| {
            let line = [
                "ping", "-n", "-c", "2", "-i", "0.2", "-W", "10", "-s", size, &vip,
            ];
            lab.client(0).run(&line).unwrap();
        };
        ping("56");
        ping("1400");
        // The host's stack is none the wiser without.
        let bits = if family == Family::V4 { 32 } else { 128 };
        let prefix = format!("{vip}/{bits}");
        let remove = ["ip", "address", "del", &prefix, "dev", "lo"];
        lab.dispatcher().run(&remove).unwrap();
        ping("0");
        assert!(handled(&daemon, "ping_answered") >= 6.0);
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

/// Whoever answers a connection request that may travel so far: a router, or the service.
fn answers(from: &Namespace, service: SocketAddr, hops: i32) -> Option<IpAddr> {
    from.enter(|| {
        let wire = PacketSocket::open(ENDPOINT_DEVICE).unwrap();
        let _asking = request_within(service, hops);
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let Some(frame) = wire.receive(left).unwrap().filter(|frame| !frame.outgoing) else {
                continue;
            };
            let (v4, v6) = (told(PacketFamily::V4).1, told(PacketFamily::V6).1);
            match (Segment::parse(&frame.bytes), verify(&frame.bytes)) {
                (Some(answer), _) if answer.source == service && answer.has(TcpFlags::SYN) => {
                    return Some(answer.source.ip());
                }
                (_, Ok(seen)) if seen.kind == v4 || seen.kind == v6 => return Some(seen.src),
                _ => {}
            }
        }
    })
}

/// A socket that connects and whose packets have so many hops.
fn request_within(service: SocketAddr, hops: i32) -> OwnedFd {
    let family = if service.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None).unwrap();
    if service.is_ipv4() {
        setsockopt(&fd, sockopt::Ipv4Ttl, &hops).unwrap();
    } else {
        setsockopt(&fd, sockopt::Ipv6Ttl, &hops).unwrap();
    }
    // It is only begun.
    let _ = connect(fd.as_raw_fd(), &SockaddrStorage::from(service));
    fd
}

#[test]
fn each_hop_of_the_way_to_the_service_answers_for_itself() {
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let client = lab.client(0);
        let _routers = Narrows::before(&lab, client, NARROW).unwrap();
        let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let vip = service.ip();
        // A tracer asks the same way: two routers, the dispatcher, and the server behind it.
        let way = [1, 2, 3, 4].map(|hops| answers(client, service, hops).expect("an answer"));
        assert!(way[0] != vip && way[1] != vip, "{way:?}");
        assert_eq!(way[2..], [vip, vip]);
        assert_eq!(dropped(&daemon, "ttl_expired"), 1.0, "the third alone");
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

#[test]
fn a_flood_of_what_has_travelled_too_long_is_answered_so_often_a_second() {
    const FLOOD: u16 = 20_000;
    each_at_once(FAMILIES, |family| {
        let lab = one_backend();
        let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let of_packet = match family {
            Family::V4 => PacketFamily::V4,
            Family::V6 => PacketFamily::V6,
        };
        let crowd = Crowd::of_clients(&lab).unwrap();
        let gateway = dispatcher_common::addr::Mac(lab.dispatcher().mac("front").unwrap());
        let own = dispatcher_common::addr::Mac(crowd.mac());
        let stranger = host(SocketAddr::new(lab.client_address(200, family), 0));
        let frames: Vec<_> = (1..=FLOOD)
            .map(|port| {
                let packet = Packet::tcp(stranger.at(port), host(service)).over(of_packet);
                packet
                    .flags(TcpFlags::SYN)
                    .ttl(1)
                    .link(gateway, own)
                    .build()
            })
            .collect();
        let begun = Instant::now();
        crowd.send_frames(&frames).unwrap();
        let all = f64::from(FLOOD);
        let counted = || {
            (
                dropped(&daemon, "ttl_expired"),
                dropped(&daemon, "icmp_limited"),
            )
        };
        eventually(PATIENCE, "all are counted", || {
            let (told, limited) = counted();
            told + limited >= all
        });
        let (told, limited) = counted();
        let seconds = begun.elapsed().as_secs() + 2;
        println!("{told} were told and {limited} were not, within {seconds} seconds of the clock");
        let most = u64::from(Problem::TtlExpired.a_second_max()) * seconds;
        assert!(told >= 1.0 && told <= most as f64, "{told} in {seconds} s");
        assert_eq!(told + limited, all);
        // Nobody else notices.
        let mut stream = lab.client(0).enter(|| client::connect(service)).unwrap();
        assert_eq!(client::exchange(&mut stream, b"me").unwrap(), b"me");
        drop(stream);
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}
