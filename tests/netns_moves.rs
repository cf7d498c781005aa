//! The network moves under a running daemon while connections of both families go on: a sequence
//! that a back-end sends without end, and an echo. Neither may break, lose or double a byte; and
//! after each move new connections are admitted.
//!
//! How soon flows follow is printed. A loaded machine and TCP's own pauses before it repeats a
//! segment have their part in that, so what is asserted is that they follow.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dispatcher_common::verdict::DropReason;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT, Service};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::netns::Namespace;
use dispatcher_tests::scenario::assert_settles;
use dispatcher_tests::server::{Count, Server};
use dispatcher_tests::topology::{Card, ENDPOINT_DEVICE, Family, Lab, Node, Shape, Topology};
use dispatcher_tests::{PATIENCE, POLL, client, each_at_once, eventually};
use dispatcher_user::xsk::{XskConfig, XskSocket};
use nix::sys::signal::Signal;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// What a connection says first: which of the two it is.
const SEQUENCE: u8 = b's';
const ECHO: u8 = b'e';
/// Bytes that a flow must move on by to have followed: more than was on its way.
const MOVED_ON: u64 = 1 << 20;
/// Numbers of the sequence that a client reads at once, and its pause after each such read.
const AT_ONCE: usize = 4096;
const PACE: Duration = Duration::from_millis(2);
/// Changes of routes and neighbours: several times what the socket for reports has room for.
const CHANGES: usize = 20_000;
/// How long the kernel may take to find something out, and flows to follow.
const FOLLOWS: Duration = Duration::from_secs(20);

fn talk(stream: &mut TcpStream, _: &Count) -> io::Result<()> {
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first == [ECHO] {
        let mut from = stream.try_clone()?;
        return io::copy(&mut from, stream).map(drop);
    }
    let mut next = 0_u64;
    loop {
        let numbers = next..next + AT_ONCE as u64;
        let bytes: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        stream.write_all(&bytes)?;
        next += AT_ONCE as u64;
    }
}

/// A connection that goes on until it is dropped.
struct Flow {
    name: String,
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flow {
    fn start(node: &Node, service: SocketAddr, kind: u8) -> Self {
        let (bytes, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let stream = node.enter(|| client::connect(service)).unwrap();
        let thread = {
            let (bytes, over) = (Arc::clone(&bytes), Arc::clone(&over));
            std::thread::spawn(move || follow(stream, kind, &bytes, &over))
        };
        Self {
            name: format!("{} from {service}", char::from(kind)),
            bytes,
            over,
            thread: Some(thread),
        }
    }

    #[track_caller]
    fn assert_alive(&mut self) {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        if let Some(thread) = self.thread.take_if(|_| ended) {
            panic!("{}: {:?}", self.name, thread.join().unwrap());
        }
    }

    fn moved(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().unwrap();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "{}: {ended:?}",
                self.name
            );
        }
    }
}

fn follow(mut stream: TcpStream, kind: u8, moved: &AtomicU64, over: &AtomicBool) -> io::Result<()> {
    let wrong = |what: String| Err(io::Error::other(what));
    stream.write_all(&[kind])?;
    let mut next = 0_u64;
    let mut bytes = vec![0; 8 * AT_ONCE];
    while !over.load(Ordering::Relaxed) {
        let numbers = next..next + AT_ONCE as u64;
        let expected: Vec<u8> = numbers.flat_map(u64::to_be_bytes).collect();
        if kind == ECHO {
            bytes = client::exchange(&mut stream, &expected)?;
        } else {
            stream.read_exact(&mut bytes)?;
        }
        if bytes != expected {
            return wrong(format!("other bytes than sent after {next} numbers"));
        }
        next += AT_ONCE as u64;
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// A lab with a daemon that serves both families, and two flows of each.
struct Scene<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    flows: Vec<Flow>,
    _servers: Vec<Server>,
}

impl<'lab> Scene<'lab> {
    fn begin(lab: &'lab Lab) -> Self {
        Self::begin_with(lab, |_| {})
    }

    fn begin_with(lab: &'lab Lab, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(lab, Family::V4, 50);
        let mut six = Service::new(lab, Family::V6, 50);
        six.name = "web6".to_owned();
        config.services.push(six);
        change(&mut config);
        let daemon = Daemon::start(lab, &config).unwrap();
        let server = |node: &Node| Server::start(node, BACKEND_PORT, talk).unwrap();
        let servers = lab.backends().iter().map(server).collect();
        let mut scene = Self {
            lab,
            daemon,
            flows: Vec::new(),
            _servers: servers,
        };
        for family in FAMILIES {
            for kind in [SEQUENCE, ECHO] {
                let service = lab.service(family, SERVICE_PORT);
                scene.flows.push(Flow::start(lab.client(0), service, kind));
            }
        }
        scene.flows_move_on("the start", Instant::now());
        scene
    }

    /// Every flow goes on, and new connections are admitted.
    #[track_caller]
    fn follows(&mut self, what: &str, since: Instant) {
        self.flows_move_on(what, since);
        for family in FAMILIES {
            let service = self.lab.service(family, SERVICE_PORT);
            let client = self.lab.client(0);
            let connected = client.enter(|| client::connect_within(service, FOLLOWS));
            let mut stream = connected.unwrap_or_else(|error| {
                panic!("a new connection after {what}: {error}\n{}", self.told())
            });
            stream.write_all(&[ECHO]).unwrap();
            assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
        }
    }

    /// Every flow goes on; tells how long after the kernel knew.
    #[track_caller]
    fn flows_move_on(&mut self, what: &str, since: Instant) {
        let was: Vec<_> = self.flows.iter().map(Flow::moved).collect();
        let mut first = vec![None; was.len()];
        let end = Instant::now() + FOLLOWS;
        loop {
            let mut all = true;
            for ((flow, was), first) in self.flows.iter_mut().zip(&was).zip(&mut first) {
                flow.assert_alive();
                let moved = flow.moved() - was;
                if moved > 0 && first.is_none() {
                    *first = Some(since.elapsed().as_millis());
                }
                all &= moved >= MOVED_ON;
            }
            if all {
                break;
            }
            assert!(
                Instant::now() < end,
                "not after {what}: {first:?} ms\n{}",
                self.told()
            );
            std::thread::sleep(POLL);
        }
        println!("after {what} flows move on, milliseconds: {first:?}");
    }

    fn told(&self) -> String {
        let status = self.daemon.ask(&["status"]).unwrap_or_default();
        format!("{status}\n{}", self.daemon.log())
    }

    /// How the daemon says that an interface is.
    fn interface(&self, name: &str, field: &str) -> serde_json::Value {
        let status = self.daemon.status().0;
        let interfaces = status["interfaces"].as_array().unwrap();
        let found = interfaces.iter().find(|one| one["name"] == name).unwrap();
        found[field].clone()
    }

    #[track_caller]
    fn interface_becomes(&self, name: &str, field: &str, value: impl Into<serde_json::Value>) {
        let value = value.into();
        let what = format!("{name} has {field} {value}");
        eventually(PATIENCE, &what, || self.interface(name, field) == value);
    }

    fn ip(&self, node: &Node, line: &str) {
        let words: Vec<_> = ["ip"].into_iter().chain(line.split(' ')).collect();
        node.run(&words).unwrap();
    }

    /// Waits until the dispatcher's kernel says `what` of a neighbour.
    #[track_caller]
    fn kernel_says(&self, neighbour: &str, what: &str) -> Instant {
        let line = ["ip", "neigh", "show", neighbour];
        let said = format!("the kernel says {what:?} of {neighbour}");
        eventually(FOLLOWS, &said, || {
            self.lab.dispatcher().run(&line).unwrap().contains(what)
        });
        Instant::now()
    }

    fn end(mut self) {
        self.flows.clear();
        assert_settles(&self.daemon);
        self.daemon.finish().unwrap();
    }
}

fn text_of(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn lab(shape: Shape) -> Lab {
    let topology = Topology {
        backends: 1,
        shape,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    // Who has a new address says so, and is believed; addresses outlive that a link is down.
    for node in [lab.dispatcher(), lab.backend(0), lab.client(0)] {
        node.sysctl(&[
            ("ipv4/conf/all/arp_notify", "1"),
            ("ipv6/conf/all/ndisc_notify", "1"),
            ("ipv6/conf/all/keep_addr_on_down", "1"),
            ("ipv4/conf/all/promote_secondaries", "1"),
        ])
        .unwrap();
    }
    lab
}

#[test]
fn a_backend_with_another_ethernet_address_is_followed() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin(&lab);
    let mac = [2, 0, 0, 0, 0xbe, 9];
    let change = format!("link set {ENDPOINT_DEVICE} address {}", text_of(mac));
    scene.ip(lab.backend(0), &change);
    for family in FAMILIES {
        scene.kernel_says(&lab.backend(0).ip(family).to_string(), &text_of(mac));
    }
    scene.follows("a back-end's new Ethernet address", Instant::now());
    scene.end();
}

#[test]
fn a_neighbour_that_fails_and_comes_back_as_another_is_followed() {
    let lab = lab(Shape::TwoArmed);
    let mut fast = Vec::new();
    for family in ["ipv4", "ipv6"] {
        for (setting, value) in [
            ("retrans_time_ms", "50"),
            ("ucast_solicit", "1"),
            ("mcast_solicit", "1"),
        ] {
            fast.push((format!("{family}/neigh/back/{setting}"), value));
        }
    }
    let fast: Vec<_> = fast.iter().map(|(path, value)| (&**path, *value)).collect();
    lab.dispatcher().sysctl(&fast).unwrap();
    let mut scene = Scene::begin(&lab);
    let (dispatcher, backend) = (lab.dispatcher(), lab.backend(0));
    let old = text_of(backend.mac(ENDPOINT_DEVICE).unwrap());
    let back = text_of(dispatcher.mac("back").unwrap());
    // Its addresses are not the wire's any more: it answers no question about them.
    backend
        .sysctl(&[("ipv4/conf/all/arp_ignore", "1")])
        .unwrap();
    for (family, gateway, bits) in [
        (Family::V4, "10.0.0.1", "24"),
        (Family::V6, "fd00:b::1", "64"),
    ] {
        let address = backend.ip(family);
        let (one, many) = (if family == Family::V4 { "32" } else { "128" }, bits);
        for line in [
            format!("neigh replace {gateway} dev eth0 lladdr {back} nud permanent"),
            format!("address add {address}/{one} dev lo"),
            format!("address del {address}/{many} dev eth0"),
            format!("route replace {gateway}/{one} dev eth0"),
            format!("route replace default via {gateway} dev eth0"),
        ] {
            scene.ip(backend, &line);
        }
        let probe = format!("neigh change {address} dev back lladdr {old} nud probe");
        scene.ip(dispatcher, &probe);
    }
    for family in FAMILIES {
        scene.kernel_says(&backend.ip(family).to_string(), "FAILED");
    }
    // Where it was is the best that is known.
    scene.flows_move_on("a neighbour failed", Instant::now());

    let mac = [2, 0, 0, 0, 0xbe, 10];
    for (family, bits) in FAMILIES.into_iter().zip(["24", "64"]) {
        let address = backend.ip(family);
        scene.ip(backend, &format!("address add {address}/{bits} dev eth0"));
    }
    scene.ip(backend, &format!("link set eth0 address {}", text_of(mac)));
    for family in FAMILIES {
        scene.kernel_says(&backend.ip(family).to_string(), &text_of(mac));
    }
    scene.follows("a failed neighbour came back as another", Instant::now());
    scene.end();
}

#[test]
fn a_route_that_moves_to_another_interface_is_followed() {
    let lab = lab(Shape::TwoArmed);
    let (dispatcher, switch) = (lab.dispatcher(), lab.switch());
    let line = format!(
        "ip link add spare type veth peer name spare-port netns {}",
        switch.name()
    );
    dispatcher
        .run(&line.split(' ').collect::<Vec<_>>())
        .unwrap();
    for (node, device) in [(&**dispatcher, "spare"), (switch, "spare-port")] {
        for line in [
            format!("ethtool -K {device} tx off tso off gso off gro off"),
            format!("ip link set {device} up"),
        ] {
            node.run(&line.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
    let bridged = "ip link set spare-port master back-bridge";
    switch.run(&bridged.split(' ').collect::<Vec<_>>()).unwrap();
    let mut scene = Scene::begin_with(&lab, |config| config.interfaces.push("spare".to_owned()));
    lab.connect("spare").unwrap();
    scene.ip(dispatcher, "address add 10.0.0.2/32 dev spare");
    scene.ip(dispatcher, "address add fd00:b::2/128 dev spare nodad");
    scene.interface_becomes("spare", "state", "up");

    for family in FAMILIES {
        let address = lab.backend(0).ip(family);
        scene.ip(dispatcher, &format!("route replace {address} dev spare"));
    }
    let moved = Instant::now();
    let sent = || packets_of(dispatcher, "spare");
    let before = sent();
    scene.follows("a route moved to another interface", moved);
    assert!(sent() > before + 1000, "they go by the other interface now");

    // And back, because the other one goes down.
    scene.ip(dispatcher, "link set spare down");
    scene.follows("the interface of a route went down", Instant::now());
    scene.end();
}

/// Packets that left by a device, whoever sent them.
fn packets_of(node: &Node, device: &str) -> u64 {
    let text = node
        .run(&["ip", "-json", "-s", "link", "show", "dev", device])
        .unwrap();
    let link: serde_json::Value = serde_json::from_str(&text).unwrap();
    link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

#[test]
fn an_interface_that_goes_down_and_up_is_used_again() {
    for (shape, interfaces) in [
        (Shape::TwoArmed, &["front", "back"][..]),
        (Shape::OneArmed, &["one"][..]),
    ] {
        let lab = lab(shape);
        let mut scene = Scene::begin(&lab);
        for interface in interfaces {
            scene.ip(lab.dispatcher(), &format!("link set {interface} down"));
            scene.interface_becomes(interface, "state", "down");
            let up = scene.daemon.metric("dispatcher_interface_up", interface);
            assert_eq!(up.unwrap(), 0.0);
            assert!(
                scene
                    .daemon
                    .ask(&["status"])
                    .unwrap()
                    .contains(&format!("{interface} is down"))
            );
            scene.ip(lab.dispatcher(), &format!("link set {interface} up"));
            scene.follows(&format!("{interface} went down and up"), Instant::now());
            assert_eq!(scene.interface(interface, "state"), "up");
        }
        scene.end();
    }
}

/// As a driver that is loaded anew does it, with the same Ethernet address, and as a virtual
/// interface does, with another.
#[test]
fn an_interface_that_is_removed_and_comes_back_is_used_again() {
    for (shape, interfaces) in [
        (Shape::TwoArmed, &["front", "back"][..]),
        (Shape::OneArmed, &["one"][..]),
    ] {
        let lab = lab(shape);
        let mut scene = Scene::begin(&lab);
        let descriptors = scene.daemon.descriptors().unwrap();
        for &interface in interfaces {
            let old = lab.dispatcher().mac(interface).unwrap();
            for mac in [old, [2, 0, 0, 0, 0xd1, 5]] {
                lab.unplug(interface).unwrap();
                scene.interface_becomes(interface, "state", "missing");
                assert_eq!(scene.interface(interface, "queues"), 0);
                let up = scene.daemon.metric("dispatcher_interface_up", interface);
                assert_eq!(up.unwrap(), 0.0);

                lab.plug_in(interface, Card::new(mac)).unwrap();
                scene.interface_becomes(interface, "attach_mode", "native");
                assert_eq!(scene.interface(interface, "state"), "down");
                lab.connect(interface).unwrap();
                let what = format!("{interface} was made anew as {}", text_of(mac));
                scene.follows(&what, Instant::now());
                assert_eq!(scene.interface(interface, "state"), "up");
                assert_eq!(scene.interface(interface, "queues"), 1);
            }
        }
        assert_eq!(scene.daemon.descriptors().unwrap(), descriptors);
        let log = scene.daemon.log();
        let gone = log.lines().filter(|line| line.contains("is gone")).count();
        assert_eq!(gone, 2 * interfaces.len(), "a line each:\n{log}");
        scene.end();
    }
}

/// A packet that comes before the program is there may cost a connection: the host's stack answers
/// it. New ones are admitted.
#[test]
fn an_interface_that_is_made_anew_all_at_once_serves_new_connections() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin(&lab);
    scene.flows.clear();
    for interface in ["front", "back"] {
        let mac = lab.dispatcher().mac(interface).unwrap();
        for _ in 0..3 {
            lab.unplug(interface).unwrap();
            lab.plug_in(interface, Card::new(mac)).unwrap();
            lab.connect(interface).unwrap();
        }
        scene.follows(
            &format!("{interface} was made anew at once"),
            Instant::now(),
        );
        scene.interface_becomes(interface, "state", "up");
    }
    scene.end();
}

/// What waits while the interface of its client is made anew is admitted over the new one.
#[test]
fn a_request_that_waits_outlives_the_interface_that_it_came_by() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin_with(&lab, |config| {
        for service in &mut config.services {
            service.backends[0].ceiling = 2;
            service.backends[0].capacity = 4;
        }
    });
    let waiting: Vec<_> = FAMILIES
        .map(|family| {
            let service = lab.service(family, SERVICE_PORT);
            lab.client(0).spawn(move || client::connect(service))
        })
        .into();
    eventually(PATIENCE, "one of each family waits", || {
        let status = scene.daemon.status().0;
        let services = status["services"].as_array().unwrap();
        services.iter().all(|one| one["queue"]["depth"] == 1)
    });
    let mac = lab.dispatcher().mac("front").unwrap();
    lab.unplug("front").unwrap();
    scene.interface_becomes("front", "state", "missing");
    lab.plug_in("front", Card::new(mac)).unwrap();
    scene.interface_becomes("front", "attach_mode", "native");
    lab.connect("front").unwrap();
    scene.flows_move_on("front was made anew while requests wait", Instant::now());
    scene.flows.clear();
    for one in waiting {
        let mut stream = one.join().unwrap().unwrap();
        stream.write_all(&[ECHO]).unwrap();
        assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
    }
    scene.end();
}

#[test]
fn an_interface_with_other_queues_is_listened_to_on_all_of_them() {
    let topology = Topology {
        backends: 1,
        queues: 4,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let (dispatcher, switch) = (lab.dispatcher(), lab.switch());
    let queues = |namespace: &Namespace, device: &str, of: &str, count: &str| {
        namespace.run(&["ethtool", "-L", device, of, count])
    };
    for interface in ["front", "back"] {
        let port = format!("{interface}-port");
        queues(switch, &port, "tx", "1").unwrap();
        queues(dispatcher, interface, "rx", "1").unwrap();
    }
    let mut scene = Scene::begin(&lab);
    assert_eq!(scene.interface("front", "queues"), 1);
    let frames = scene.daemon.status().0["frames"]["total"].as_u64().unwrap();
    let total = |scene: &Scene<'_>| scene.daemon.status().0["frames"]["total"].as_u64().unwrap();

    // A veth must have as many queues to receive as its peer has to send, and new ones are not
    // given the program before the daemon does so. One of them is taken before it looks.
    scene.daemon.signal(Signal::SIGSTOP).unwrap();
    queues(dispatcher, "front", "rx", "4").unwrap();
    let config = XskConfig::default();
    let taken = dispatcher.enter(|| XskSocket::open("front", 3, &config));
    scene.daemon.signal(Signal::SIGCONT).unwrap();
    scene.interface_becomes("front", "state", "failed");
    assert_eq!(scene.interface("front", "queues"), 3);
    let why = scene.interface("front", "why").to_string();
    assert!(why.contains("already has an AF_XDP socket"), "{why}");
    assert!(
        scene
            .daemon
            .ask(&["status"])
            .unwrap()
            .contains("front is failed: queue 3")
    );
    drop(taken);
    scene.interface_becomes("front", "state", "up");
    assert_eq!(scene.interface("front", "queues"), 4);
    assert_eq!(total(&scene), frames / 2 * 5);
    queues(switch, "front-port", "tx", "4").unwrap();
    for _ in 0..3 {
        // The port spreads them over the queues by their client's port.
        scene.follows("front has more queues", Instant::now());
    }
    assert_eq!(scene.daemon.status().dropped(DropReason::Unattended), 0);

    // The kernel does not let an interface have fewer queues than have a socket.
    queues(switch, "front-port", "tx", "1").unwrap();
    let refused = queues(dispatcher, "front", "rx", "1").unwrap_err();
    assert!(format!("{refused:#}").contains("AF_XDP"), "{refused:#}");
    scene.follows("front may not have fewer queues", Instant::now());
    assert_eq!(scene.interface("front", "queues"), 4);
    // One that comes back may.
    let card = Card {
        queues: 2,
        ..Card::new(dispatcher.mac("front").unwrap())
    };
    lab.unplug("front").unwrap();
    scene.interface_becomes("front", "state", "missing");
    lab.plug_in("front", card).unwrap();
    scene.interface_becomes("front", "queues", 2);
    assert_eq!(total(&scene), frames / 2 * 3);
    lab.connect("front").unwrap();
    scene.follows("front came back with fewer queues", Instant::now());
    scene.end();
}

/// The MTU is too large for native XDP on a veth.
#[test]
fn an_interface_that_comes_back_without_native_xdp_is_attached_as_configured() {
    each_at_once(["auto", "native"], |attach_mode| {
        let lab = lab(Shape::TwoArmed);
        let mut scene = Scene::begin_with(&lab, |config| config.attach_mode = attach_mode);
        assert_eq!(scene.daemon.status().0["attach_mode"], "native");
        let card = Card {
            mtu: 9000,
            ..Card::new(lab.dispatcher().mac("front").unwrap())
        };
        lab.unplug("front").unwrap();
        scene.interface_becomes("front", "state", "missing");
        lab.plug_in("front", card).unwrap();
        let is_generic = attach_mode == "auto";
        if is_generic {
            scene.interface_becomes("front", "attach_mode", "generic");
            assert_eq!(scene.daemon.status().0["attach_mode"], "generic");
        } else {
            scene.interface_becomes("front", "state", "failed");
            let why = scene.interface("front", "why").to_string();
            assert!(why.contains("no native XDP, or not at this MTU"), "{why}");
            assert_eq!(scene.interface("front", "queues"), 0);
        }
        for (node, device) in [(lab.switch(), "front-port"), (&**lab.dispatcher(), "front")] {
            node.run(&["ip", "link", "set", device, "mtu", "1500"])
                .unwrap();
        }
        let mode = if is_generic { "generic" } else { "native" };
        scene.interface_becomes("front", "attach_mode", mode);
        lab.connect("front").unwrap();
        scene.follows(&format!("front came back, {attach_mode}"), Instant::now());
        assert_eq!(scene.interface("front", "state"), "up");
        scene.end();
    });
}

#[test]
fn another_mtu_is_followed() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin(&lab);
    for mtu in [1400, 1300, 1500] {
        // Who sends must know, or its packets are too long.
        for (node, device) in [
            (lab.backend(0), ENDPOINT_DEVICE),
            (lab.client(0), ENDPOINT_DEVICE),
        ] {
            scene.ip(node, &format!("link set {device} mtu {mtu}"));
        }
        for interface in ["front", "back"] {
            scene.ip(lab.dispatcher(), &format!("link set {interface} mtu {mtu}"));
        }
        scene.follows(&format!("the MTU is {mtu}"), Instant::now());
    }
    scene.end();
}

#[test]
fn the_dispatchers_own_addresses_may_change() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin(&lab);
    let dispatcher = lab.dispatcher();
    for (interface, mac) in [
        ("front", [2, 0, 0, 0, 0xd1, 1]),
        ("back", [2, 0, 0, 0, 0xd1, 2]),
    ] {
        scene.ip(
            dispatcher,
            &format!("link set {interface} address {}", text_of(mac)),
        );
        scene.follows(
            &format!("{interface} has another Ethernet address"),
            Instant::now(),
        );
    }
    let networks = [
        ("front", lab.client(0), "198.51.100", "24", ""),
        ("front", lab.client(0), "2001:db8:c:", "64", " nodad"),
        ("back", lab.backend(0), "10.0.0", "24", ""),
        ("back", lab.backend(0), "fd00:b:", "64", " nodad"),
    ];
    for (interface, neighbour, network, bits, flags) in networks {
        let dot = if network.contains(':') { ':' } else { '.' };
        let [old, new] = [1, 2].map(|host| format!("{network}{dot}{host}"));
        scene.ip(
            dispatcher,
            &format!("address add {new}/{bits} dev {interface}{flags}"),
        );
        scene.ip(neighbour, &format!("route replace default via {new}"));
        scene.ip(
            dispatcher,
            &format!("address del {old}/{bits} dev {interface}"),
        );
        scene.follows(
            &format!("{interface} is {new} and not {old}"),
            Instant::now(),
        );
    }
    scene.end();
}

/// `client -- two routers -- dispatcher`. The second one has long known the dispatcher's Ethernet
/// address when replies are routed by it: it never asks, so the dispatcher must.
#[test]
fn a_router_between_clients_and_the_dispatcher_is_replaced() {
    let topology = Topology {
        clients: 3,
        backends: 1,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let (client, dispatcher) = (lab.client(0), lab.dispatcher());
    let gateway = text_of(dispatcher.mac("front").unwrap());
    client
        .run(&["ip", "link", "set", ENDPOINT_DEVICE, "down"])
        .unwrap();
    let mut own =
        String::from("address add 203.0.113.10/32 dev lo\naddress add 2001:db8:f::10/128 dev lo\n");
    for at in [1, 2] {
        let router = lab.client(at);
        let pair = format!(
            "ip link add up{at} type veth peer name inside netns {}",
            router.name()
        );
        client.run(&pair.split(' ').collect::<Vec<_>>()).unwrap();
        own += &format!(
            "link set up{at} up\naddress add 10.9.{at}.2/24 dev up{at}\n\
             address add fd00:9:{at}::2/64 dev up{at} nodad\n"
        );
        router
            .sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
            .unwrap();
        for scope in ["all", "eth0", "inside"] {
            router
                .sysctl(&[(&format!("ipv4/conf/{scope}/rp_filter"), "0")])
                .unwrap();
        }
        let (v4, v6) = (dispatcher.ip(Family::V4), dispatcher.ip(Family::V6));
        router
            .batch(
                "ip",
                &format!(
                    "link set inside up\naddress add 10.9.{at}.1/24 dev inside\n\
                     address add fd00:9:{at}::1/64 dev inside nodad\n\
                     route add 203.0.113.10 via 10.9.{at}.2\n\
                     route add 2001:db8:f::10 via fd00:9:{at}::2\n\
                     neighbour replace {v4} lladdr {gateway} dev eth0 nud permanent\n\
                     neighbour replace {v6} lladdr {gateway} dev eth0 nud permanent\n"
                ),
            )
            .unwrap();
    }
    for scope in ["all", "up1", "up2"] {
        client.batch("ip", &own).unwrap_or(());
        client
            .sysctl(&[(&format!("ipv4/conf/{scope}/rp_filter"), "0")])
            .unwrap();
    }
    let vias = |at: u8| {
        [
            (
                format!("10.9.{at}.1"),
                "203.0.113.10",
                lab.client(at.into()).ip(Family::V4),
            ),
            (
                format!("fd00:9:{at}::1"),
                "2001:db8:f::10",
                lab.client(at.into()).ip(Family::V6),
            ),
        ]
    };
    for (next, address, router) in vias(1) {
        let route = format!("route replace default via {next} src {address}");
        client.batch("ip", &route).unwrap();
        let route = format!("route replace {address} via {router}");
        dispatcher.batch("ip", &route).unwrap();
    }
    let mut scene = Scene::begin(&lab);
    // Nothing of the second router is known; it forwards nothing from the client yet.
    dispatcher
        .run(&["ip", "neigh", "flush", "dev", "front"])
        .unwrap();
    for (_, address, router) in vias(2) {
        scene.ip(dispatcher, &format!("route replace {address} via {router}"));
    }
    for (_, _, router) in vias(2) {
        scene.kernel_says(&router.to_string(), "lladdr");
    }
    let before = packets_of(lab.client(1), "inside");
    scene.follows("replies are routed by another router", Instant::now());
    let by_the_first = packets_of(lab.client(1), "inside") - before;
    println!("the first router delivered {by_the_first} packets after that");
    // And what the client sends; then the first one is switched off.
    for (next, address, _) in vias(2) {
        scene.ip(
            client,
            &format!("route replace default via {next} src {address}"),
        );
    }
    lab.client(1)
        .run(&["ip", "link", "set", ENDPOINT_DEVICE, "down"])
        .unwrap();
    scene.follows("the first router is off", Instant::now());
    scene.end();
}

/// More is reported at once than there is room for; what mattered was among it.
#[test]
fn more_changes_than_can_be_heard_are_made_up_for() {
    let lab = lab(Shape::TwoArmed);
    let mut scene = Scene::begin(&lab);
    scene.daemon.signal(Signal::SIGSTOP).unwrap();
    let dispatcher = lab.dispatcher();
    let mut random = 0x5eed_u64;
    let mut script = String::new();
    for _ in 0..CHANGES {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let [a, b, what, ..] = random.to_le_bytes();
        script += &match what % 4 {
            0 => format!("route replace 10.{a}.{b}.0/24 via 10.0.0.200\n"),
            1 => format!("route replace blackhole 10.{a}.{b}.0/24 metric 7\n"),
            2 => format!(
                "neigh replace 10.0.0.{} lladdr 2:0:0:0:{a:x}:{b:x} dev back\n",
                100 + a % 90
            ),
            _ => format!("route replace fd77:{a:x}{b:02x}::/32 dev back\n"),
        };
    }
    dispatcher.batch("ip", &script).unwrap();
    let mac = [2, 0, 0, 0, 0xbe, 11];
    scene.ip(
        lab.backend(0),
        &format!("link set eth0 address {}", text_of(mac)),
    );
    for family in FAMILIES {
        scene.kernel_says(&lab.backend(0).ip(family).to_string(), &text_of(mac));
    }
    scene.daemon.signal(Signal::SIGCONT).unwrap();
    scene.follows("more changes than could be heard", Instant::now());
    let log = scene.daemon.log();
    assert!(
        log.contains("more network changes than were heard"),
        "{log}"
    );
    // Heard one after the other, they are followed too.
    dispatcher.batch("ip", &script).unwrap();
    scene.follows("as many changes again", Instant::now());
    scene.end();
}
