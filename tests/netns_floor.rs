//! The floor of the bench `contenders` carries connections, and what it sends is right.

use std::io::ErrorKind;

use dispatcher_tests::capture::Capture;
use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, SERVICE_PORT};
use dispatcher_tests::floor_in_lab::FloorInLab;
use dispatcher_tests::scenario::on_all;
use dispatcher_tests::server;
use dispatcher_tests::topology::{Family, Topology};

/// Ports of clients that the floor knows: two for each back-end.
const PORTS: std::ops::RangeInclusive<u16> = 40_000..=40_003;

#[test]
fn the_floor_translates_the_connections_that_it_knows_and_no_others() {
    let lab = Topology::default().up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let floor = FloorInLab::between(&lab, SERVICE_PORT, BACKEND_PORT, PORTS).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let ends = [lab.client(0), lab.backend(0), lab.backend(1)];
    let captures = ends.map(|node| Capture::start(node).unwrap());
    let large = vec![7; 300_000];
    lab.client(0).enter(|| {
        for port in PORTS {
            let mut stream = client::connect_from(port, service).unwrap();
            assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
            let mut copy = stream.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| std::io::Write::write_all(&mut copy, &large).unwrap());
                let mut back = vec![0; large.len()];
                std::io::Read::read_exact(&mut stream, &mut back).unwrap();
                assert!(back == large, "other bytes came back");
            });
        }
        let stranger = client::connect_from(PORTS.end() + 1, service);
        assert_eq!(stranger.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
    for capture in captures {
        capture.stop().unwrap().verify_checksums().unwrap();
    }
    let own = |port| lab.client(0).at(Family::V4, port);
    assert_eq!(servers[0].count().peers(), [own(40_000), own(40_001)]);
    assert_eq!(servers[1].count().peers(), [own(40_002), own(40_003)]);
    drop(floor);
    dispatcher_tests::daemon::ensure_detached(lab.dispatcher()).unwrap();
}
