//! What must hold whatever the wires look like: told once, run in every shape.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::capture::{Capture, Recording};
use crate::config::{BACKEND_PORT, Config, SERVICE_PORT};
use crate::daemon::Daemon;
use crate::sampler::Sampler;
use crate::server::{self, Server};
use crate::topology::{Family, Lab, Node, Shape, Topology, Vlans};
use crate::{PATIENCE, client, each_at_once, eventually};

/// Long enough for requests to pile up, short enough to run often.
const SERVICE_TIME: Duration = Duration::from_millis(10);

/// A lab with one back-end, and else as it is by default.
pub fn one_backend() -> Lab {
    let topology = Topology {
        backends: 1,
        ..Topology::default()
    };
    topology.up().unwrap()
}

/// Many clients at once, each over a connection of its own, all are answered; no back-end ever has
/// more than `ceiling` connections, by its own count and by what passed its wire; every frame's
/// checksums are right; back-ends see the clients' own addresses; nothing is left when it is over.
pub fn ceilings_hold(lab: &Lab, daemon: &Daemon, family: Family, clients: usize, ceiling: usize) {
    let servers = on_all(lab, || server::http(SERVICE_TIME));
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    let wires: Vec<_> = lab
        .clients()
        .iter()
        .chain(lab.backends())
        .map(|node| Capture::start(node).expect("a capture starts"))
        .collect();

    let service = lab.service(family, SERVICE_PORT);
    fetch_at_once(lab, service, clients);
    assert_settles(daemon);

    let wires: Vec<Recording> = wires
        .into_iter()
        .map(|wire| wire.stop().expect("nothing is lost"))
        .collect();
    for wire in &wires {
        wire.verify_checksums().expect("every checksum is right");
    }
    let backend_wires = &wires[lab.clients().len()..];
    for (i, (node, wire)) in std::iter::zip(lab.backends(), backend_wires).enumerate() {
        let at = node.at(family, BACKEND_PORT);
        let seen = [
            ("by the server", servers[i].count().most()),
            ("by its kernel", samplers[i].most()),
            ("on its wire", wire.most_connections(at)),
        ];
        for (by, most) in seen {
            assert!(
                most <= ceiling,
                "backend {i}: {most} connections {by}, ceiling {ceiling}"
            );
        }
        assert!(
            servers[i].count().most() > 0,
            "backend {i} was given nothing"
        );
        for peer in servers[i].count().peers() {
            let known = lab
                .clients()
                .iter()
                .any(|client| client.ip(family) == peer.ip());
            assert!(
                known,
                "backend {i} saw {peer}, which is no client's address"
            );
        }
    }
    let status = daemon.status();
    status.assert_balanced();
    assert_eq!(status.requests("refused"), 0, "{status:?}");
    assert_eq!(status.requests("expired"), 0, "{status:?}");
}

/// [`ceilings_hold`] in one shape of network, with one and with four queues; afterwards nothing of
/// the daemon is left.
pub fn holds_in(shape: Shape, vlans: Vlans, attach_mode: &'static str, family: Family) {
    const CEILING: u32 = 4;
    const CLIENTS: usize = 60;
    each_at_once([1, 4], |queues| {
        let topology = Topology {
            clients: 2,
            backends: 2,
            shape,
            vlans,
            queues,
        };
        println!("{topology:?}, {attach_mode}, {family:?}");
        topology.ensure_supported().expect("a kernel that can");
        let lab = topology.up().expect("a lab");
        let mut config = Config::new(&lab, family, CEILING);
        config.attach_mode = attach_mode;
        let daemon = Daemon::start(&lab, &config).expect("a daemon");
        assert_eq!(daemon.status().0["attach_mode"], attach_mode);
        ceilings_hold(&lab, &daemon, family, CLIENTS, CEILING as usize);
        daemon.finish().expect("nothing is left");
    });
}

/// The same server at every back-end.
pub fn on_all<F>(lab: &Lab, talk: impl Fn() -> F) -> Vec<Server>
where
    F: Fn(&mut TcpStream, &server::Count) -> std::io::Result<()> + Send + Sync + 'static,
{
    let start = |node| Server::start(node, BACKEND_PORT, talk()).expect("the port is free");
    lab.backends().iter().map(|node| start(node)).collect()
}

/// `clients` threads, spread over the lab's clients, fetch once each, all at once; panics unless
/// each is answered.
pub fn fetch_at_once(lab: &Lab, service: SocketAddr, clients: usize) {
    let nodes = lab.clients();
    thread::scope(|scope| {
        for (i, node) in nodes.iter().enumerate() {
            let share = clients / nodes.len() + usize::from(i < clients % nodes.len());
            scope.spawn(move || {
                node.enter(|| {
                    thread::scope(|scope| {
                        for _ in 0..share {
                            scope.spawn(|| {
                                let answer = client::fetch(service);
                                let answer = answer.expect("every request is answered");
                                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                            });
                        }
                    });
                });
            });
        }
    });
}

/// No connection is active, no flow is left, nobody waits: now or soon, and the daemon's books
/// are balanced.
#[track_caller]
pub fn assert_settles(daemon: &Daemon) {
    eventually(PATIENCE, "no flow, no connection, nobody waiting", || {
        daemon.status().is_idle()
    });
    daemon.status().assert_balanced();
}

/// Every client reaches every back-end and the service's address, by plain forwarding; panics
/// unless it does.
pub fn everybody_answers(lab: &Lab) {
    for family in [Family::V4, Family::V6] {
        for client in lab.clients() {
            let backends = lab.backends().iter().map(|node| node.ip(family));
            for to in backends.chain([lab.vip(family)]) {
                assert!(answers(client, to), "{to} does not answer");
            }
        }
    }
}

/// Nobody listens there, so the answer is an RST: proof of the way there and back.
fn answers(client: &Node, to: IpAddr) -> bool {
    let patience = Duration::from_secs(3);
    let result = client.enter(|| TcpStream::connect_timeout(&(to, 9).into(), patience));
    matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}
