//! Clients in a VLAN, on any kernel: their frames are tagged on the dispatcher's interface, and
//! what it sends them must be, or they never see it. See `Vlans::AtPorts`; what takes a kernel with
//! VLAN devices is in `vlan_devices.rs`.

use std::io::ErrorKind;

use dispatcher_common::header::{ETHERTYPE_VLAN, TcpFlags};
use dispatcher_common::link::VLAN_ID_MASK;
use dispatcher_tests::capture::{Capture, Recording};
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::scenario::{assert_settles, ceilings_hold};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab, Shape, Topology, Vlans};
use dispatcher_tests::wire::{Frame, Segment, verify_checksums};
use dispatcher_tests::{PATIENCE, client, each_at_once, eventually};

const VLAN: u16 = 100;
const CEILING: u32 = 4;
const CLIENTS: usize = 60;

/// What leaves the switch for the dispatcher and for each client.
struct Wires {
    to_dispatcher: Capture,
    to_clients: Vec<Capture>,
}

impl Wires {
    fn watch(lab: &Lab) -> Self {
        let port = |name: &str| Capture::start_at(lab.switch(), name).unwrap();
        let front = lab.topology().interfaces()[0];
        Self {
            to_dispatcher: port(&format!("{front}-port")),
            to_clients: (1..=lab.clients().len())
                .map(|i| port(&format!("client-{i}")))
                .collect(),
        }
    }

    /// Asserts that everything between clients and the dispatcher was tagged, and right; returns
    /// what the clients were sent.
    fn all_tagged(self, lab: &Lab, family: Family) -> Vec<Segment> {
        let service = lab.service(family, SERVICE_PORT);
        let requests = leaving(&self.to_dispatcher.stop().unwrap(), |segment| {
            segment.destination == service
        });
        assert!(!requests.is_empty());
        for (frame, segment) in &requests {
            let tag = frame.tag().unwrap_or_else(|| panic!("no tag: {segment:?}"));
            assert_eq!(tag & VLAN_ID_MASK, VLAN);
            assert_ne!(tag, VLAN, "the lab gives them a priority as well");
        }
        let mut answers = Vec::new();
        for wire in self.to_clients {
            for (frame, segment) in leaving(&wire.stop().unwrap(), |_| true) {
                assert_eq!(frame.tag(), Some(VLAN), "{segment:?}");
                verify_checksums(&frame.bytes).unwrap();
                answers.push(segment);
            }
        }
        assert!(!answers.is_empty());
        answers
    }
}

/// TCP frames that went out at the captured device.
fn leaving(wire: &Recording, which: impl Fn(&Segment) -> bool) -> Vec<(Frame, Segment)> {
    let out = wire.frames.iter().filter(|frame| frame.outgoing);
    out.filter_map(|frame| Some((frame.clone(), Segment::parse(&frame.bytes)?)))
        .filter(|(_, segment)| which(segment))
        .collect()
}

fn topology(shape: Shape, queues: u8) -> Topology {
    Topology {
        clients: 2,
        backends: 2,
        shape,
        vlans: Vlans::AtPorts(VLAN),
        queues,
    }
}

/// The scenario of all shapes; on top of it the tags are looked at.
fn holds(shape: Shape, attach_mode: &'static str, family: Family) {
    each_at_once([1, 4], |queues| {
        let lab = topology(shape, queues).up().unwrap();
        let mut config = Config::new(&lab, family, CEILING);
        config.attach_mode = attach_mode;
        let daemon = Daemon::start(&lab, &config).unwrap();
        println!("{:?}, {attach_mode}, {family:?}", lab.topology());
        let wires = Wires::watch(&lab);
        let backend_wire = Capture::start(lab.backend(0)).unwrap();
        ceilings_hold(&lab, &daemon, family, CLIENTS, CEILING as usize);
        wires.all_tagged(&lab, family);
        let untagged = backend_wire.stop().unwrap();
        let mut segments = untagged.frames.iter().filter(|frame| {
            Segment::parse(&frame.bytes).is_some_and(|segment| {
                let own = lab.backend(0).at(family, BACKEND_PORT);
                segment.destination == own || segment.source == own
            })
        });
        assert!(segments.all(|frame| frame.tag().is_none()));
        let waited = daemon.status().wait_ms("max");
        assert!(waited.is_some_and(|ms| ms > 0), "nobody had to wait");
        daemon.finish().unwrap();
    });
}

#[test]
fn two_armed_native_ipv4() {
    holds(Shape::TwoArmed, "native", Family::V4);
}

#[test]
fn two_armed_native_ipv6() {
    holds(Shape::TwoArmed, "native", Family::V6);
}

#[test]
fn two_armed_generic() {
    holds(Shape::TwoArmed, "generic", Family::V4);
}

#[test]
fn one_armed_native_ipv4() {
    holds(Shape::OneArmed, "native", Family::V4);
}

#[test]
fn one_armed_native_ipv6() {
    holds(Shape::OneArmed, "native", Family::V6);
}

#[test]
fn one_armed_generic() {
    holds(Shape::OneArmed, "generic", Family::V6);
}

#[test]
fn a_refusal_goes_back_under_the_clients_tag() {
    each_at_once([Family::V4, Family::V6], |family| {
        let lab = topology(Shape::TwoArmed, 1).up().unwrap();
        let _server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
        let mut config = Config::new(&lab, family, 1);
        config.web().backends.truncate(1);
        config.web().queue_capacity = 1;
        let daemon = Daemon::start(&lab, &config).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let holder = lab.client(0).enter(|| client::connect(service)).unwrap();
        let waiting = RawClient::new(&lab, 200, 30_001, service).unwrap();
        waiting.request(1).unwrap();
        eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);

        let wires = Wires::watch(&lab);
        let refused = lab.client(1).enter(|| client::connect(service));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        drop(holder);
        // The one that waited has its turn, and gives it back.
        waiting.expect(TcpFlags::SYN, PATIENCE).unwrap();
        waiting.send(&waiting.segment(TcpFlags::RST, 2, 0)).unwrap();
        assert_settles(&daemon);
        let answers = wires.all_tagged(&lab, family);
        let client = lab.client(1).ip(family);
        let refusals = answers
            .iter()
            .filter(|segment| segment.destination.ip() == client && segment.has(TcpFlags::RST));
        assert_eq!(refusals.count(), 1);
        assert_eq!(daemon.status().requests("refused"), 1);
        daemon.finish().unwrap();
    });
}

/// The lab's own word: a client does not see what is untagged, or in another VLAN.
#[test]
fn a_client_sees_its_own_vlan_only() {
    let lab = topology(Shape::TwoArmed, 1).up().unwrap();
    let (client, dispatcher) = (lab.client(0), lab.dispatcher());
    let service = lab.service(Family::V4, SERVICE_PORT);
    let to = client.at(Family::V4, 1);
    let segment = Segment::new(service, to, TcpFlags::RST, 1, 0);
    let plain = segment.to_frame(
        dispatcher.mac("front").unwrap(),
        client
            .mac(dispatcher_tests::topology::ENDPOINT_DEVICE)
            .unwrap(),
    );
    let tagged = |tci: u16| {
        let tag = [ETHERTYPE_VLAN.to_be_bytes(), tci.to_be_bytes()].concat();
        [&plain[..12], &tag, &plain[12..]].concat()
    };
    let capture = Capture::start(client).unwrap();
    dispatcher.enter(|| {
        let socket = dispatcher_tests::wire::PacketSocket::open("front").unwrap();
        for frame in [plain.clone(), tagged(VLAN + 1), tagged(0), tagged(VLAN)] {
            socket.send(&frame).unwrap();
        }
    });
    let seen = capture.stop().unwrap();
    let seen: Vec<_> = seen.segments().filter(|seen| *seen == segment).collect();
    assert_eq!(seen.len(), 1);
}
