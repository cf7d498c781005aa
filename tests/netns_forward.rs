//! Established connections end to end: whatever a protocol does, both ends see each other as if
//! there were nobody between them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use dispatcher_tests::capture::Capture;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::nginx::{self, Nginx};
use dispatcher_tests::scenario::assert_settles;
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, each_at_once, eventually};

const MEGABYTE: u64 = 1 << 20;

/// A client talks to one server of this kind through the daemon, over both address families;
/// afterwards nothing is left in the daemon. Returns nothing: `talk` asserts.
fn through(
    serve: fn(&mut TcpStream, &Count) -> std::io::Result<()>,
    talk: impl Fn(SocketAddr, &Server) + Send + Sync,
) {
    each_at_once([Family::V4, Family::V6], |family| {
        let topology = Topology {
            backends: 1,
            ..Topology::default()
        };
        let lab = topology.up().unwrap();
        let server = Server::start(lab.backend(0), BACKEND_PORT, serve).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        lab.client(0).enter(|| talk(service, &server));
        assert_settles(&daemon);
        assert_eq!(server.count().active(), 0);
        daemon.finish().unwrap();
    });
}

#[test]
fn bytes_come_back_from_an_echo() {
    through(server::echo, |service, _| {
        let mut stream = client::connect(service).unwrap();
        for round in 0..100_u8 {
            let bytes = [round; 1000];
            assert_eq!(client::exchange(&mut stream, &bytes).unwrap(), bytes);
        }
    });
}

#[test]
fn a_server_may_speak_first() {
    through(server::banner, |service, _| {
        let mut stream = client::connect(service).unwrap();
        let mut greeting = [0; server::BANNER.len()];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, server::BANNER);
        assert_eq!(client::exchange(&mut stream, b"EHLO").unwrap(), b"EHLO");
    });
}

#[test]
fn a_hundred_megabytes_go_up_unharmed_and_the_answer_follows_the_clients_fin() {
    through(server::sink, |service, _| {
        let mut stream = client::connect(service).unwrap();
        let digest = server::send_pattern(&mut stream, 100 * MEGABYTE).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(u64::from_be_bytes(answer), digest);
    });
}

#[test]
fn a_hundred_megabytes_come_down_unharmed() {
    fn serve(stream: &mut TcpStream, _: &Count) -> std::io::Result<()> {
        server::send_pattern(stream, 100 * MEGABYTE).map(drop)
    }
    let expected = server::send_pattern(&mut std::io::sink(), 100 * MEGABYTE).unwrap();
    through(serve, |service, _| {
        let mut stream = client::connect(service).unwrap();
        assert_eq!(server::digest_of(&mut stream).unwrap(), expected);
    });
}

#[test]
fn a_client_goes_on_sending_after_the_servers_fin() {
    through(server::close_first, |service, server| {
        let mut stream = client::connect(service).unwrap();
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).unwrap();
        assert_eq!(greeting, server::BANNER);
        for _ in 0..10 {
            stream.write_all(&[7; 1000]).unwrap();
        }
        assert_eq!(server.count().active(), 1);
    });
}

#[test]
fn a_servers_reset_reaches_the_client_and_frees_the_slot() {
    through(server::reset, |service, _| {
        let mut stream = client::connect(service).unwrap();
        stream.write_all(b"x").unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_clients_reset_reaches_the_server_and_frees_the_slot() {
    through(server::hold, |service, server| {
        let stream = client::connect(service).unwrap();
        eventually(PATIENCE, "the server has it", || {
            server.count().active() == 1
        });
        server::reset_on_close(&stream).unwrap();
        drop(stream);
        eventually(PATIENCE, "the server lost it", || {
            server.count().active() == 0
        });
    });
}

#[test]
fn a_client_port_may_be_used_again_at_once() {
    fn serve(stream: &mut TcpStream, _: &Count) -> std::io::Result<()> {
        stream.write_all(b"bye")
    }
    through(serve, |service, server| {
        for round in 1..=10 {
            // The server closes first, so no TIME_WAIT keeps the client from its port.
            let mut stream = client::connect_from(25_000, service).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "bye", "round {round}");
            assert_eq!(server.count().peers().len(), round);
        }
    });
}

#[test]
fn a_client_port_may_be_used_again_after_a_reset() {
    through(server::echo, |service, server| {
        for round in 1..=10 {
            let mut stream = client::connect_from(25_000, service).unwrap();
            assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
            server::reset_on_close(&stream).unwrap();
            drop(stream);
            assert_eq!(server.count().peers().len(), round);
        }
    });
}

#[test]
fn the_backend_sees_the_clients_own_address_and_port() {
    through(server::echo, |service, server| {
        let mut stream = client::connect(service).unwrap();
        client::exchange(&mut stream, b"x").unwrap();
        let own = stream.local_addr().unwrap();
        assert_eq!(server.count().peers(), [own]);
        assert_eq!(stream.peer_addr().unwrap(), service);
    });
}

#[test]
fn curl_keeps_a_connection_alive_over_many_requests() {
    let lab = Topology::default().up().unwrap();
    let _nginx: Vec<_> = nginx_on_all(&lab);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let url = "http://192.0.2.10/";
    let body = client::curl(lab.client(0), &[url, url, url, url, url]).unwrap();
    assert_eq!(body, nginx::PAGE.repeat(5));
    assert_eq!(daemon.status().requests("admitted"), 1);
    assert_settles(&daemon);
}

#[test]
fn a_long_download_from_nginx_is_complete() {
    let lab = Topology::default().up().unwrap();
    let _nginx: Vec<_> = nginx_on_all(&lab);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V6, 4)).unwrap();
    let discard = ["-o", "/dev/null", "-w", "%{size_download}"];
    let url = "http://[2001:db8::10]/large";
    let length = client::curl(lab.client(0), &[&discard[..], &[url]].concat()).unwrap();
    assert_eq!(length, nginx::LARGE_BYTES.to_string());
    assert_settles(&daemon);
}

fn nginx_on_all(lab: &Lab) -> Vec<Nginx> {
    lab.backends()
        .iter()
        .map(|node| Nginx::start(node, BACKEND_PORT).unwrap())
        .collect()
}

#[test]
fn a_backend_that_is_down_costs_no_slot() {
    let lab = Topology::default().up().unwrap();
    // Nobody listens at the second.
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 2);
    config.web().queue_timeout = "2s";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let answered = lab.client(0).enter(|| {
        let mut answered = 0;
        for _ in 0..8 {
            match client::connect(service) {
                Ok(mut stream) => {
                    client::exchange(&mut stream, b"hello").unwrap();
                    answered += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
            }
        }
        answered
    });
    assert!(
        answered >= 4,
        "the one that is up answers its share, not {answered} of 8"
    );
    assert_settles(&daemon);
}

#[test]
fn tcp_options_and_numbers_pass_untouched_and_every_checksum_is_right() {
    each_at_once([Family::V4, Family::V6], |family| {
        let topology = Topology {
            backends: 1,
            ..Topology::default()
        };
        let lab = topology.up().unwrap();
        let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 4)).unwrap();
        let wires = [lab.client(0), lab.backend(0)].map(|node| Capture::start(node).unwrap());
        let service = lab.service(family, SERVICE_PORT);
        lab.client(0).enter(|| {
            let mut stream = client::connect(service).unwrap();
            client::exchange(&mut stream, &[1; 9000]).unwrap();
        });
        assert_settles(&daemon);
        let [near, far] = wires.map(|wire| wire.stop().unwrap());
        near.verify_checksums().unwrap();
        far.verify_checksums().unwrap();

        let backend = lab.backend(0).at(family, BACKEND_PORT);
        let sent: Vec<_> = near.requests(service).collect();
        let arrived: Vec<_> = far.requests(backend).collect();
        assert_eq!((sent.len(), arrived.len()), (1, 1));
        assert!(!sent[0].options.is_empty());
        assert_eq!(arrived[0].options, sent[0].options);
        assert_eq!(
            (arrived[0].source, arrived[0].seq),
            (sent[0].source, sent[0].seq)
        );
        let answers = [(&near, service), (&far, backend)].map(|(wire, from)| {
            let answer = wire
                .segments()
                .find(|segment| segment.source == from)
                .unwrap();
            (answer.options, answer.seq, answer.ack, answer.destination)
        });
        assert_eq!(answers[0], answers[1]);
    });
}
