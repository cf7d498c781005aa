//! The daemon's life as an operator sees it: maps to look at, crashes survived, all gone after.

use std::io::Read;
use std::net::Shutdown;

use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, ensure_detached, has_program};
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::Family;

#[test]
fn bpftool_prints_flows_by_field_name() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let _held = lab.client(0).enter(|| client::connect(service)).unwrap();
    let pin = daemon.files().pin_path.join("FLOWS");
    let dump = ["bpftool", "map", "dump", "pinned", &pin.to_string_lossy()];
    let text = lab.dispatcher().run(&dump).unwrap();
    for field in ["src_port", "dst_port", "translation", "phase"] {
        let shown = text.matches(&format!("\"{field}\":")).count();
        assert_eq!(shown, 2, "{field} of both entries in:\n{text}");
    }
}

#[test]
fn the_flows_command_shows_the_client() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let held = lab.client(0).enter(|| client::connect(service)).unwrap();
    let own = held.local_addr().unwrap();
    let text = daemon.flows().unwrap().to_string();
    assert!(text.contains(&own.ip().to_string()), "{text}");
    assert!(text.contains(&own.port().to_string()), "{text}");
}

#[test]
fn an_established_connection_outlives_a_crash_and_is_counted_by_the_next_daemon() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 1);
    config.on_exit = "keep";
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"before").unwrap(), b"before");

    daemon.crash().unwrap();
    assert_eq!(client::exchange(&mut held, b"between").unwrap(), b"between");

    daemon.restart().unwrap();
    assert_eq!(daemon.status().active(), 1, "the flow was adopted");
    assert_eq!(client::exchange(&mut held, b"after").unwrap(), b"after");

    held.shutdown(Shutdown::Write).unwrap();
    held.read_to_end(&mut Vec::new()).unwrap();
    drop(held);
    assert_settles(&daemon);
    assert_eq!(server.count().peers().len(), 1);
    lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn detaching_on_exit_leaves_no_program() {
    let lab = one_backend();
    let mut daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    assert!(has_program(lab.dispatcher()).unwrap());
    assert!(daemon.stop().unwrap().success());
    ensure_detached(lab.dispatcher()).unwrap();
}
