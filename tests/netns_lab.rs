//! The lab itself: wires carry traffic in every shape, and nothing is left behind.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use dispatcher_common::header::TcpFlags;
use dispatcher_tests::capture::Capture;
use dispatcher_tests::nginx::{self, Nginx};
use dispatcher_tests::port_program::{PinnedProgram, PortProgram};
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::everybody_answers;
use dispatcher_tests::scratch::unique;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Shape, Topology};
use dispatcher_tests::wire::{self, Segment};
use dispatcher_tests::{PATIENCE, client, eventually, netns};

fn every_shape() -> Vec<Topology> {
    let mut all = Vec::new();
    for shape in [Shape::TwoArmed, Shape::OneArmed] {
        for queues in [1, 4] {
            all.push(Topology {
                clients: 2,
                shape,
                queues,
                ..Topology::default()
            });
        }
    }
    all
}

#[test]
fn clients_reach_backends_and_the_service_address_in_every_shape() {
    for topology in every_shape() {
        let started = std::time::Instant::now();
        let lab = topology.up().unwrap();
        println!("{topology:?}: up in {:?}", started.elapsed());
        everybody_answers(&lab);
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_was_dropped_even_in_a_panic() {
    let (tell, told) = mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Topology::default().up().unwrap();
        tell.send(lab.prefix().to_owned()).unwrap();
        panic!("on purpose");
    });
    let prefix = told.recv().expect("the lab comes up");
    assert!(panicked.join().is_err());
    let left = netns::names().unwrap();
    assert!(
        !left.iter().any(|name| name.starts_with(&prefix)),
        "{left:?}"
    );
}

#[test]
fn what_clients_send_arrives_at_servers_through_plain_forwarding() {
    let lab = Topology::default().up().unwrap();
    let (client, backend) = (lab.client(0), lab.backend(0));
    let _echo = Server::start(backend, 1, server::echo).unwrap();
    let _banner = Server::start(backend, 2, server::banner).unwrap();
    let _sink = Server::start(backend, 3, server::sink).unwrap();
    let _source = Server::start(backend, 4, server::source(1_000_000)).unwrap();
    let _reset = Server::start(backend, 5, server::reset).unwrap();
    let http = Server::start(backend, 6, server::http(Duration::from_millis(1))).unwrap();
    for family in [Family::V4, Family::V6] {
        let at = |port| backend.at(family, port);
        client.enter(|| {
            let mut echo = client::connect(at(1)).unwrap();
            assert_eq!(client::exchange(&mut echo, b"hello").unwrap(), b"hello");

            let mut banner = client::connect(at(2)).unwrap();
            let mut greeting = [0; server::BANNER.len()];
            banner.read_exact(&mut greeting).unwrap();
            assert_eq!(greeting, server::BANNER);

            let mut sink = client::connect(at(3)).unwrap();
            let digest = server::send_pattern(&mut sink, 1_000_000).unwrap();
            sink.shutdown(Shutdown::Write).unwrap();
            let mut answer = [0; 8];
            sink.read_exact(&mut answer).unwrap();
            assert_eq!(u64::from_be_bytes(answer), digest);

            let mut source = client::connect(at(4)).unwrap();
            assert_eq!(server::digest_of(&mut source).unwrap(), digest);

            let mut reset = client::connect(at(5)).unwrap();
            reset.write_all(b"x").unwrap();
            let ended = reset.read(&mut [0]).unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::ConnectionReset);

            assert!(client::fetch(at(6)).unwrap().ends_with("ok\n"));
        });
    }
    assert_eq!(http.count().most(), 1);
    let peers = http.count().peers();
    assert_eq!(peers[0].ip(), client.ip(Family::V4));
    assert_eq!(peers[1].ip(), client.ip(Family::V6));
}

#[test]
fn a_sampler_and_a_capture_count_the_same_connections() {
    let lab = Topology::default().up().unwrap();
    let backend = lab.backend(0);
    let server = Server::start(backend, 8080, server::hold).unwrap();
    let sampler = Sampler::start(backend, 8080);
    let capture = Capture::start(backend).unwrap();
    let at = backend.at(Family::V4, 8080);
    let connections = lab
        .client(0)
        .enter(|| [1, 2, 3].map(|_| client::connect(at).unwrap()));
    eventually(PATIENCE, "three connections", || sampler.now() == 3);
    drop(connections);
    eventually(PATIENCE, "no connection", || server.count().active() == 0);
    let recording = capture.stop().unwrap();
    assert_eq!(server.count().most(), 3);
    assert_eq!(sampler.most(), 3);
    assert_eq!(recording.most_connections(at), 3);
    recording.verify_checksums().unwrap();
}

#[test]
fn a_wrong_checksum_is_found() {
    let from = "198.51.100.10:1000".parse().unwrap();
    let to = "192.0.2.10:80".parse().unwrap();
    let frame = Segment::new(from, to, TcpFlags::SYN, 1, 0).to_frame([2; 6], [4; 6]);
    wire::verify_checksums(&frame).unwrap();
    for (byte, what) in [(8 + 14, "IPv4 header"), (13 + 34, "TCP")] {
        let mut broken = frame.clone();
        broken[byte] ^= 0x10;
        let error = wire::verify_checksums(&broken).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn both_zeros_are_a_right_checksum() {
    const CHECKSUM: std::ops::Range<usize> = 50..52;
    let from = "198.51.100.10:1000".parse().unwrap();
    let to = "192.0.2.10:80".parse().unwrap();
    let frame = |seq| Segment::new(from, to, TcpFlags::SYN, seq, 0).to_frame([2; 6], [4; 6]);
    let is_zero = |frame: &Vec<u8>| frame[CHECKSUM] == [0, 0];
    let mut frame = (0..=u16::MAX)
        .map(|seq| frame(seq.into()))
        .find(is_zero)
        .unwrap();
    wire::verify_checksums(&frame).unwrap();
    frame[CHECKSUM].fill(0xff);
    wire::verify_checksums(&frame).unwrap();
    frame[CHECKSUM].fill(0x7f);
    wire::verify_checksums(&frame).unwrap_err();
}

#[test]
fn a_raw_client_opens_and_resets_a_connection() {
    for shape in [Shape::TwoArmed, Shape::OneArmed] {
        let topology = Topology {
            shape,
            ..Topology::default()
        };
        let lab = topology.up().unwrap();
        let server = Server::start(lab.backend(0), 8080, server::hold).unwrap();
        for (family, port) in [(Family::V4, 4000), (Family::V6, 6000)] {
            let to = lab.backend(0).at(family, 8080);
            let raw = RawClient::new(&lab, 200, port, to).unwrap();
            let answer = raw.handshake(77, PATIENCE).unwrap();
            assert_eq!(answer.ack, 78);
            eventually(PATIENCE, "the server has it", || {
                server.count().active() == 1
            });
            assert_eq!(server.count().peers().last(), Some(&raw.address()));
            raw.send(&raw.segment(TcpFlags::RST, 78, 0)).unwrap();
            eventually(PATIENCE, "the server lost it", || {
                server.count().active() == 0
            });
        }
    }
}

#[test]
fn nginx_serves_its_page_and_its_file() {
    let lab = Topology::default().up().unwrap();
    let _nginx = Nginx::start(lab.backend(0), 8080).unwrap();
    for family in [Family::V4, Family::V6] {
        let at = lab.backend(0).at(family, 8080);
        let page = client::curl(lab.client(0), &[&format!("http://{at}/")]).unwrap();
        assert_eq!(page, nginx::PAGE);
    }
    let at = lab.backend(0).at(Family::V4, 8080);
    let discard = ["-o", "/dev/null", "-w", "%{size_download}"];
    let large = format!("http://{at}/large");
    let length = client::curl(lab.client(0), &[&discard[..], &[&large]].concat()).unwrap();
    assert_eq!(length, nginx::LARGE_BYTES.to_string());
}

#[test]
fn four_queues_of_the_dispatcher_all_get_frames() {
    let topology = Topology {
        queues: 4,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    // Queues are counted one by one only with a program or GRO; a program is what will be there.
    let pass = PinnedProgram::load(PortProgram::Pass, &unique("queues")).unwrap();
    pass.attach(lab.dispatcher(), "front").unwrap();
    let _server = Server::start(lab.backend(0), 8080, server::echo).unwrap();
    let at = lab.backend(0).at(Family::V4, 8080);
    lab.client(0).enter(|| {
        for _ in 0..64 {
            client::exchange(&mut client::connect(at).unwrap(), b"hello").unwrap();
        }
    });
    let statistics = lab.dispatcher().run(&["ethtool", "-S", "front"]).unwrap();
    for queue in 0..4 {
        let name = format!("rx_queue_{queue}_xdp_packets: ");
        let count = statistics
            .lines()
            .find_map(|line| line.trim().strip_prefix(&name));
        assert!(
            count.is_some_and(|count| count != "0"),
            "queue {queue}: {statistics}"
        );
    }
}
