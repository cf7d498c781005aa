//! Health on real interfaces: who is down is given nothing, who comes back is given more and more,
//! and checks are in nobody's way.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dispatcher_common::header::TcpFlags;
use dispatcher_tests::config::{BACKEND_PORT, Backend, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::raw::RawClient;
use dispatcher_tests::scenario::{assert_settles, fetch_at_once, on_all};
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, each_at_once, eventually};

/// Port at which health is asked where it is not asked at the service's own.
const HEALTH_PORT: u16 = 8081;

/// Shorter than the default, so that the tests need not wait long. What answers on a loaded machine
/// answers in time.
const OFTEN: &str = "interval = \"200ms\"\ntimeout = \"200ms\"";

/// Checks as these keys say.
fn config(lab: &Lab, family: Family, health: &'static str, keys: &str) -> Config {
    let mut config = Config::new(lab, family, 8);
    let web = config.web();
    web.health = health;
    web.health_keys = format!("{OFTEN}\n{keys}");
    config
}

#[track_caller]
fn becomes(daemon: &Daemon, backend: usize, state: &str) {
    let what = format!("back-end {backend} is {state}");
    eventually(PATIENCE, &what, || daemon.status().state(backend) == state);
}

/// Checks of a back-end with this result.
fn checks(daemon: &Daemon, backend: usize, result: &str) -> u64 {
    let pointer = format!("/services/0/backends/{backend}/health/checks/{result}");
    let status = daemon.status().0;
    let count = status.pointer(&pointer);
    count.map_or(0, |count| count.as_u64().unwrap())
}

#[track_caller]
fn is_checked_again(daemon: &Daemon, backend: usize, result: &str) {
    let before = checks(daemon, backend, result);
    let what = format!("back-end {backend} is checked again: {result}");
    eventually(PATIENCE, &what, || {
        checks(daemon, backend, result) >= before + 3
    });
}

fn why(daemon: &Daemon, backend: usize) -> String {
    let pointer = format!("/services/0/backends/{backend}/health/why");
    let status = daemon.status().0;
    let why = status.pointer(&pointer).and_then(serde_json::Value::as_str);
    why.unwrap_or_default().to_owned()
}

/// Connections that a server has had from clients, not from the dispatcher.
fn given(server: &Server, lab: &Lab, family: Family) -> usize {
    let client = lab.client(0).ip(family);
    let peers = server.count().peers();
    peers.iter().filter(|peer| peer.ip() == client).count()
}

#[track_caller]
fn fetch(lab: &Lab, service: SocketAddr) {
    let answer = lab.client(0).enter(|| client::fetch(service)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_server_that_dies_is_given_nothing_and_comes_back_slowly() {
    each_at_once([Family::V4, Family::V6], |family| {
        let lab = Topology::default().up().unwrap();
        let talk = || server::http(Duration::ZERO);
        let mut servers = on_all(&lab, talk);
        let mut config = config(&lab, family, "tcp", "passive = 0");
        config.web().ceiling = "interval = \"100ms\"\nslow_start = \"2s\"".to_owned();
        let daemon = Daemon::start(&lab, &config).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        // What comes back to this host goes through the program, and to the host's stack.
        for backend in 0..2 {
            is_checked_again(&daemon, backend, "passed");
        }
        for server in &servers {
            let peers = server.count().peers();
            let own = peers.first().expect("it was checked").ip();
            let addresses = lab.dispatcher().run(&["ip", "-brief", "address"]).unwrap();
            assert!(addresses.contains(&own.to_string()), "{own}: {addresses}");
        }

        drop(servers.remove(0));
        becomes(&daemon, 0, "down");
        assert!(why(&daemon, 0).contains("refused"), "{}", why(&daemon, 0));
        let up = |backend: &str| daemon.metric("dispatcher_backend_up", backend).unwrap();
        assert_eq!((up("web-1"), up("web-2")), (0.0, 1.0));
        let before = given(&servers[0], &lab, family);
        for _ in 0..6 {
            fetch(&lab, service);
        }
        assert_eq!(given(&servers[0], &lab, family), before + 6);
        assert!(is_told_in_tables(&daemon), "{:?}", daemon.ask(&["status"]));

        let back = Server::start(lab.backend(0), BACKEND_PORT, talk()).unwrap();
        becomes(&daemon, 0, "up");
        let ceiling = daemon.status().backend(0, "ceiling");
        assert!(ceiling < 8, "it starts with {ceiling}");
        eventually(PATIENCE, "it has all of its ceiling", || {
            daemon.status().backend(0, "ceiling") == 8
        });
        eventually(PATIENCE, "it is given connections", || {
            fetch(&lab, service);
            given(&back, &lab, family) > 0
        });
        let log = daemon.log();
        let told = |what: &str| log.matches(what).count();
        assert_eq!(told("down by its health"), 1, "{log}");
        assert_eq!(told("up by its health"), 1, "{log}");
        assert_settles(&daemon);
        daemon.finish().unwrap();
    });
}

fn is_told_in_tables(daemon: &Daemon) -> bool {
    let table = daemon.ask(&["status"]).unwrap();
    table.contains("web-1: health down for ")
}

/// Answers requests with what it is told to answer.
fn speaker(lab: &Lab, port: u16) -> (Server, Arc<Mutex<&'static str>>) {
    let word = Arc::new(Mutex::new("200 OK"));
    let says = Arc::clone(&word);
    let talk = move |stream: &mut TcpStream, _: &Count| -> io::Result<()> {
        server::read_head(stream)?;
        let status = *says.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes())
    };
    (Server::start(lab.backend(0), port, talk).unwrap(), word)
}

/// A server says that it is not well while its connections go on; what becomes of them is for
/// `on_down` to say, which a reload changes.
#[test]
fn a_server_that_says_503_is_down_and_its_connections_are_kept_or_reset() {
    let lab = Topology::default().up().unwrap();
    let _servers = on_all(&lab, || server::echo);
    let (_first, word) = speaker(&lab, HEALTH_PORT);
    let talk = server::http(Duration::ZERO);
    let _second = Server::start(lab.backend(1), HEALTH_PORT, talk).unwrap();
    let say = |status| *word.lock().unwrap() = status;
    let keys = "port = 8081\npath = \"/up\"\nstatus = \"200-299\"\nhost = \"web.example\"";
    let mut config = config(&lab, Family::V4, "http", keys);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let connect = || lab.client(0).enter(|| client::connect(service)).unwrap();
    // In turn: one at each.
    let mut held = [connect(), connect()];
    for (stream, word) in held.iter_mut().zip([b"one", b"two"]) {
        assert_eq!(client::exchange(stream, word).unwrap(), word);
    }

    say("503 Service Unavailable");
    becomes(&daemon, 0, "down");
    let told = why(&daemon, 0);
    assert!(
        told.contains("HTTP status 503; it must be 200 to 299"),
        "{told}"
    );
    for stream in &mut held {
        assert_eq!(client::exchange(stream, b"kept").unwrap(), b"kept");
    }
    assert_eq!(daemon.status().backend(0, "active"), 1);

    say("204 No Content");
    becomes(&daemon, 0, "up");
    config.web().health_keys.push_str("\non_down = \"reset\"");
    let told = daemon.reload(&config).unwrap();
    assert!(told.contains("health: checked in another way"), "{told}");
    say("500 Internal Server Error");
    becomes(&daemon, 0, "down");
    eventually(PATIENCE, "its connection is reset", || {
        daemon.status().backend(0, "active") == 0
    });
    let gone = held.each_mut().map(|stream| {
        let answer = client::exchange(stream, b"still there");
        answer.map_err(|error| error.kind())
    });
    let reset = |answer: &&Result<Vec<u8>, ErrorKind>| {
        matches!(
            answer,
            Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
        )
    };
    assert_eq!(gone.iter().filter(reset).count(), 1, "{gone:?}");
    let kept = gone.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(kept, 1, "{gone:?}");

    // Turned off, it is up again at once, and asked no more.
    config.web().health = "off";
    daemon.reload(&config).unwrap();
    assert_eq!(daemon.status().state(0), "up");
    assert!(daemon.status().0["services"][0]["backends"][0]["health"].is_null());
    drop(held);
    assert_settles(&daemon);
}

/// Fails and passes in turn: nothing changes, nothing is logged.
#[test]
fn a_server_that_flaps_does_not_flap_its_state() {
    let lab = Topology::default().up().unwrap();
    let asked = AtomicUsize::new(0);
    let talk = move |stream: &mut TcpStream, _: &Count| -> io::Result<()> {
        server::read_head(stream)?;
        let turn = asked.fetch_add(1, Ordering::SeqCst);
        let status = ["200 OK", "500 No"][turn % 2];
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes())
    };
    let _server = Server::start(lab.backend(0), HEALTH_PORT, talk).unwrap();
    let mut config = config(&lab, Family::V4, "http", "port = 8081\nfall = 4");
    config.web().backends.truncate(1);
    let daemon = Daemon::start(&lab, &config).unwrap();
    eventually(PATIENCE, "it was checked often", || {
        checks(&daemon, 0, "passed") >= 6 && checks(&daemon, 0, "status") >= 6
    });
    assert_eq!(daemon.status().state(0), "up");
    assert!(!daemon.log().contains("by its health"), "{}", daemon.log());
}

/// An address that nobody has: no answer comes, the check is over in time, nobody else is hindered.
/// Removed by a reload, it is asked no more; with another name, a back-end goes on as it was.
#[test]
fn a_silent_back_end_is_down_in_time_and_a_reload_changes_who_is_checked() {
    let lab = Topology::default().up().unwrap();
    let servers = on_all(&lab, || server::http(Duration::ZERO));
    let mut config = config(&lab, Family::V4, "tcp", "");
    let nobody = Backend {
        name: "nobody".to_owned(),
        address: "10.0.0.99:8080".parse().unwrap(),
        ..config.web().backends[0].clone()
    };
    config.web().backends.push(nobody);
    let daemon = Daemon::start(&lab, &config).unwrap();
    becomes(&daemon, 2, "down");
    assert!(
        checks(&daemon, 2, "timeout") >= 1,
        "{:#}",
        daemon.status().0
    );
    let pointer = "/services/0/backends/2/health/last/took_ms";
    let status = daemon.status().0;
    let took = status.pointer(pointer).and_then(serde_json::Value::as_f64);
    assert!(took.is_some_and(|took| took < 5000.0), "{took:?}");
    for backend in 0..2 {
        is_checked_again(&daemon, backend, "passed");
        assert_eq!(daemon.status().state(backend), "up");
    }

    let passed = checks(&daemon, 0, "passed");
    config.web().backends[0].name = "renamed".to_owned();
    let second = config.web().backends.remove(1);
    daemon.reload(&config).unwrap();
    assert_eq!(daemon.status().state(1), "down", "nobody is still nobody");
    assert!(checks(&daemon, 0, "passed") >= passed);
    is_checked_again(&daemon, 0, "passed");
    let asked = || servers[1].count().peers().len();
    eventually(
        PATIENCE,
        "the last check of the removed one is over",
        || {
            let before = asked();
            is_checked_again(&daemon, 0, "passed");
            asked() == before
        },
    );

    config.web().backends.push(second);
    daemon.reload(&config).unwrap();
    is_checked_again(&daemon, 2, "passed");
    assert_settles(&daemon);
}

/// A check takes no slot, and the ceiling is none of its business.
#[test]
fn checks_count_against_no_ceiling() {
    let lab = Topology::default().up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let mut config = config(&lab, Family::V4, "tcp", "");
    config.web().backends.truncate(1);
    let only = &mut config.web().backends[0];
    (only.ceiling, only.capacity) = (1, 2);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"full").unwrap(), b"full");
    let waiting = lab
        .client(0)
        .spawn(move || client::connect(service).map(drop));
    eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);
    is_checked_again(&daemon, 0, "passed");
    let status = daemon.status();
    assert_eq!((status.flows(), status.backend(0, "active")), (1, 1));
    assert_eq!(status.backend(0, "active_max"), 1);
    assert_eq!(given(&servers[0], &lab, Family::V4), 1);
    assert_eq!(client::exchange(&mut held, b"well").unwrap(), b"well");
    drop(held);
    waiting.join().unwrap().unwrap();
    assert_settles(&daemon);
    assert_eq!(daemon.status().backend(0, "active_max"), 1);
}

/// While all are down, requests wait: until one is up again, or as long as they may.
#[test]
fn while_all_are_down_requests_wait() {
    let lab = Topology::default().up().unwrap();
    let mut config = config(&lab, Family::V4, "tcp", "");
    config.web().queue_timeout = "1s";
    let daemon = Daemon::start(&lab, &config).unwrap();
    for backend in 0..2 {
        becomes(&daemon, backend, "down");
    }
    let service = lab.service(Family::V4, SERVICE_PORT);
    let late = lab.client(0).enter(|| client::connect(service));
    let refused = late.map_err(|error| error.kind());
    assert!(matches!(refused, Err(ErrorKind::ConnectionRefused)));
    assert_eq!(daemon.status().requests("expired"), 1);
    assert_eq!(daemon.status().requests("admitted"), 0);

    config.web().queue_timeout = "30s";
    daemon.reload(&config).unwrap();
    let waiting = lab.client(0).spawn(move || client::fetch(service));
    eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);
    let _servers = on_all(&lab, || server::http(Duration::ZERO));
    let answer = waiting.join().unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_settles(&daemon);
}

/// Nobody checks: refused requests take a back-end down, others go to the one that lives, and one
/// request finds out that it is back.
#[test]
fn requests_without_an_answer_take_a_back_end_down_and_one_brings_it_back() {
    let lab = Topology::default().up().unwrap();
    let talk = || server::http(Duration::ZERO);
    let second = Server::start(lab.backend(1), BACKEND_PORT, talk()).unwrap();
    let mut config = config(&lab, Family::V4, "off", "passive = 3");
    config.web().ceiling = "interval = \"100ms\"".to_owned();
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let ask = || lab.client(0).enter(|| client::fetch(service));
    eventually(PATIENCE, "enough were refused", || {
        let _ = ask();
        daemon.log().contains("down by its health")
    });
    let told = daemon.log();
    assert!(
        told.contains("requests in succession without an answer"),
        "{told}"
    );
    // Trials that fail come between.
    let before = given(&second, &lab, Family::V4);
    let _server = Server::start(lab.backend(0), BACKEND_PORT, talk()).unwrap();
    eventually(2 * PATIENCE, "a trial brings it back", || {
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            && daemon.log().contains("up by its health")
    });
    assert!(daemon.log().contains("tried with one connection"));
    assert_eq!(daemon.status().state(0), "up");
    assert_eq!(daemon.status().backend(0, "ceiling"), 8);
    assert!(given(&second, &lab, Family::V4) > before);
    assert_settles(&daemon);
}

/// Nobody checks, and nobody answers: silence takes a back-end down too, whichever time shows it.
/// A client that does not finish its handshake takes nobody down.
#[test]
fn silence_takes_a_back_end_down() {
    const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
    let times = [
        ("1s", "5s", ""),
        ("1s", "1s", ""),
        ("2s", "5s", "mode = \"on\"\nhandshake = \"1s\""),
    ];
    each_at_once(times, |(connect, handshake, flood)| {
        let lab = Topology::default().up().unwrap();
        let _servers = on_all(&lab, || server::http(Duration::ZERO));
        let mut config = config(&lab, Family::V4, "off", "passive = 3");
        let web = config.web();
        web.ceiling = "interval = \"100ms\"".to_owned();
        (web.connect_timeout, web.handshake_timeout, web.flood) = (Some(connect), handshake, flood);
        // Nobody has this address.
        web.backends[1].address = "10.0.0.99:8080".parse().unwrap();
        let daemon = Daemon::start(&lab, &config).unwrap();
        let service = lab.service(Family::V4, SERVICE_PORT);
        // Who was sent there is served by the other.
        fetch_at_once(&lab, service, 8);
        becomes(&daemon, 1, "down");
        let told = why(&daemon, 1);
        assert!(told.contains("without an answer"), "{told}");
        let silent = daemon.status().backend(1, "total/silent");
        assert!((3..=8).contains(&silent), "once each: {silent}");

        let raw = RawClient::new(&lab, 200, 30_001, service).unwrap();
        let a_second = Duration::from_millis(1200);
        eventually(PATIENCE, "it is answered", || {
            raw.request(7).unwrap();
            raw.next(SYN_ACK, a_second).unwrap().is_some()
        });
        eventually(PATIENCE, "its handshake is given up", || {
            daemon.status().flows() == 0
        });
        assert_eq!(daemon.status().backend(0, "total/silent"), 0);
        assert_eq!(daemon.status().state(0), "up");
        daemon.status().assert_balanced();
    });
}
