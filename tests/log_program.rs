//! What the program tells in the log, by a daemon that was built with the feature `program-log`.

use dispatcher_common::header::TcpFlags;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, Files, Manner};
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::scenario::one_backend;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab};
use dispatcher_tests::{PATIENCE, client, eventually};

fn start<'lab>(lab: &'lab Lab, family: Family, level: &str) -> Daemon<'lab> {
    let manner = Manner {
        environment: vec![("RUST_LOG".to_owned(), level.to_owned())],
        ..Manner::default()
    };
    let files = Files::new(&Config::new(lab, family, 4)).unwrap();
    Daemon::start_in(lab, files, manner).unwrap()
}

#[test]
fn at_level_debug_the_program_tells_what_it_punts_and_what_it_drops_and_why() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let daemon = start(&lab, Family::V4, "info,dispatcher_ebpf=debug");
    let service = lab.service(Family::V4, SERVICE_PORT);
    let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
    raw.send(&raw.segment(TcpFlags::ACK, 1, 1)).unwrap();
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    let own = format!("port {}", held.local_addr().unwrap().port());
    let to = format!("to {} port {}", service.ip(), service.port());
    for line in [
        format!("no_flow: 198.51.100.200 port 30001 {to}\n"),
        format!("punted: 198.51.100.10 {own} {to}\n"),
    ] {
        eventually(PATIENCE, &line, || daemon.log().contains(&line));
    }
    // One line for the request, and none for all that followed it in the kernel.
    assert_eq!(daemon.log().matches(&own).count(), 1);
}

#[test]
fn at_level_debug_it_tells_of_ipv6_as_of_ipv4() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let daemon = start(&lab, Family::V6, "dispatcher_ebpf=debug");
    let service = lab.service(Family::V6, SERVICE_PORT);
    let held = lab.client(0).enter(|| client::connect(service)).unwrap();
    let own = held.local_addr().unwrap();
    let line = format!(
        "punted: {} port {} to {} port {}\n",
        own.ip(),
        own.port(),
        service.ip(),
        service.port()
    );
    eventually(PATIENCE, &line, || daemon.log().contains(&line));
}

#[test]
fn at_level_info_the_program_tells_nothing() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut daemon = start(&lab, Family::V4, "info");
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    assert!(daemon.stop().unwrap().success());
    assert!(!daemon.log().contains("punted"), "{}", daemon.log());
}
