//! Connection requests as nobody's stack sends them: repeated, forged, and plain rubbish.

use std::time::Duration;

use dispatcher_common::header::TcpFlags;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::Family;
use dispatcher_tests::{PATIENCE, client, eventually};

const ISN: u32 = 0xffff_fff0;
const BRIEFLY: Duration = Duration::from_millis(200);

#[test]
fn a_request_repeated_while_it_waits_keeps_its_place_and_is_admitted_once() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 1)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let holder = lab.client(0).enter(|| client::connect(service)).unwrap();
    let [first, second] =
        [30_001, 30_002].map(|port| RawClient::new(&lab, 200, port, service).unwrap());

    first.request(ISN).unwrap();
    eventually(PATIENCE, "the first waits", || {
        daemon.status().queued() == 1
    });
    second.request(ISN).unwrap();
    eventually(PATIENCE, "the second waits", || {
        daemon.status().queued() == 2
    });
    first.request(ISN).unwrap();
    eventually(PATIENCE, "the repetition was seen", || {
        daemon.status().requests("retransmitted") == 1
    });
    assert_eq!(daemon.status().queued(), 2);

    drop(holder);
    let answer = first.expect(TcpFlags::SYN, PATIENCE).unwrap();
    assert_eq!(answer.ack, ISN.wrapping_add(1));
    assert_eq!(daemon.status().queued(), 1, "the second still waits");

    first
        .send(&first.segment(TcpFlags::RST, ISN.wrapping_add(1), 0))
        .unwrap();
    second.expect(TcpFlags::SYN, PATIENCE).unwrap();
    second
        .send(&second.segment(TcpFlags::RST, ISN.wrapping_add(1), 0))
        .unwrap();
    assert_settles(&daemon);
    assert_eq!(server.count().most(), 1);
}

#[test]
fn a_request_repeated_after_admission_goes_to_the_same_connection() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    raw.request(ISN).unwrap();
    let answer = raw.expect(TcpFlags::SYN, PATIENCE).unwrap();
    raw.request(ISN).unwrap();
    let again = raw.expect(TcpFlags::SYN, PATIENCE).unwrap();
    assert_eq!((answer.seq, answer.ack), (again.seq, again.ack));
    let status = daemon.status();
    assert_eq!((status.flows(), status.requests("admitted")), (1, 1));

    let (seq, ack) = (ISN.wrapping_add(1), answer.seq.wrapping_add(1));
    raw.send(&raw.segment(TcpFlags::ACK, seq, ack)).unwrap();
    eventually(PATIENCE, "the server has it", || {
        server.count().active() == 1
    });
    raw.send(&raw.segment(TcpFlags::RST, seq, 0)).unwrap();
    assert_settles(&daemon);
}

#[test]
fn a_forged_reset_or_fin_frees_no_slot() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 1)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    let answer = raw.handshake(ISN, PATIENCE).unwrap();
    let (seq, ack) = (ISN.wrapping_add(1), answer.seq.wrapping_add(1));
    let far = seq.wrapping_add(1 << 30);
    raw.send(&raw.segment(TcpFlags::RST, far, 0)).unwrap();
    raw.send(&raw.segment(TcpFlags::FIN.with(TcpFlags::ACK), far, ack))
        .unwrap();
    // The back-end's stack answers what it does not accept; by then the program has seen it.
    raw.expect(TcpFlags::ACK, PATIENCE).unwrap();
    assert_eq!(daemon.status().active(), 1);
    assert_eq!(server.count().active(), 1);
    raw.send(&raw.segment(TcpFlags::RST, seq, 0)).unwrap();
    assert_settles(&daemon);
}

#[test]
fn a_handshake_that_is_never_finished_gives_its_slot_back() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let mut config = Config::new(&lab, Family::V4, 1);
    config.web().handshake_timeout = "500ms";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    raw.request(ISN).unwrap();
    raw.expect(TcpFlags::SYN, PATIENCE).unwrap();
    assert_eq!(daemon.status().flows(), 1);
    assert_settles(&daemon);
    lab.client(0).enter(|| client::connect(service)).unwrap();
}

/// Whoever forges a client's address sees no answer: he cannot acknowledge it, so nothing that he
/// sends holds the slot for longer than a handshake may take.
#[test]
fn a_blind_fin_does_not_pass_for_a_handshake() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.web().handshake_timeout = "500ms";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let fins = [TcpFlags::FIN, TcpFlags::FIN.with(TcpFlags::ACK)];
    for (port, flags) in std::iter::zip(30_001.., fins) {
        let raw = RawClient::new(&lab, 200, port, service).unwrap();
        raw.request(ISN).unwrap();
        raw.expect(TcpFlags::SYN, PATIENCE).unwrap();
        raw.send(&raw.segment(flags, ISN.wrapping_add(1), 0))
            .unwrap();
    }
    // Well before the 30 s that a connection may take to close, and the 5 min that it may idle.
    assert_settles(&daemon);
    assert_eq!(server.count().peers(), []);
}

/// xorshift64: the same rubbish in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next() as u8)
            .take(length)
            .collect()
    }
}

/// Frames of every kind that a parser may stumble over.
fn hostile_frames(raw: &RawClient) -> Vec<Vec<u8>> {
    let mut random = Random(0x5eed);
    let mut frames = Vec::new();
    for ethertype in [0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806, 0xffff] {
        for length in 0..80 {
            frames.push([raw.ethernet(ethertype), random.bytes(length)].concat());
        }
    }
    let mut request = raw.segment(TcpFlags::SYN, 1, 0);
    request.options = vec![2, 4, 5, 0xb4];
    let whole = request.to_frame([2; 6], [2; 6])[14..].to_vec();
    for length in 0..whole.len() {
        frames.push([raw.ethernet(0x0800), whole[..length].to_vec()].concat());
    }
    for _ in 0..2000 {
        let mut broken = whole.clone();
        for _ in 0..=random.next() % 3 {
            let at = random.next() as usize % broken.len();
            broken[at] = random.next() as u8;
        }
        frames.push([raw.ethernet(0x0800), broken].concat());
    }
    frames
}

#[test]
fn rubbish_is_dropped_and_counted_and_hurts_nobody() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    // What a broken frame begins must not outlast the test; it can do no more than that.
    let web = config.web();
    web.queue_timeout = "1s";
    web.handshake_timeout = "1s";
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    let before = drops(&daemon);
    for frame in hostile_frames(&raw) {
        raw.send_frame(&frame).unwrap();
    }
    raw.send(&raw.segment(TcpFlags::ACK, 1, 1)).unwrap();
    raw.send(&raw.segment(TcpFlags::SYN.with(TcpFlags::FIN), 1, 0))
        .unwrap();
    raw.send(&raw.segment(TcpFlags(0xff), 1, 0)).unwrap();
    raw.send(&raw.segment(TcpFlags(0), 1, 0)).unwrap();
    eventually(PATIENCE, "drops are counted", || {
        drops(&daemon) > before + 100
    });
    assert!(daemon.is_alive(), "{}", daemon.log());
    assert!(counter(&daemon, DropReason::NoFlow) > 0);
    lab.client(0).enter(|| {
        let mut stream = client::connect(service).unwrap();
        assert_eq!(client::exchange(&mut stream, b"hello").unwrap(), b"hello");
    });
    assert_settles(&daemon);
}

fn counter(daemon: &Daemon, reason: DropReason) -> u64 {
    daemon.status().dropped(reason)
}

fn drops(daemon: &Daemon) -> u64 {
    daemon.status().drops()
}

#[test]
fn segments_of_no_flow_get_no_answer() {
    let lab = one_backend();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    let before = counter(&daemon, DropReason::NoFlow);
    raw.send(&raw.segment(TcpFlags::ACK, 1, 1)).unwrap();
    eventually(PATIENCE, "it is counted", || {
        counter(&daemon, DropReason::NoFlow) == before + 1
    });
    let any = TcpFlags(0xff);
    assert_eq!(raw.next(any, BRIEFLY).unwrap(), None);
}
