//! What a daemon finds of an earlier one: flows, pins, a socket's file, or the daemon itself.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use dispatcher_common::addr::Port;
use dispatcher_common::control::{Control, LAYOUT};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use dispatcher_tests::churn::Stop;
use dispatcher_tests::config::{BACKEND_PORT, Backend, Config, METRICS, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, Files, assert_refused};
use dispatcher_tests::kernel::tcp_counter;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server;
use dispatcher_tests::topology::{Family, Lab, Node, Topology};
use dispatcher_tests::{PATIENCE, client, eventually, restarts};

/// Another service beside the first.
const OTHER_PORT: u16 = 81;

fn lab(backends: u8) -> Lab {
    let topology = Topology {
        backends,
        ..Topology::default()
    };
    topology.up().unwrap()
}

fn keeping(lab: &Lab) -> Config {
    let mut config = Config::new(lab, Family::V4, 4);
    config.on_exit = "keep";
    config
}

fn connect(lab: &Lab, port: u16) -> TcpStream {
    let service = lab.service(Family::V4, port);
    lab.client(0).enter(|| client::connect(service)).unwrap()
}

#[track_caller]
fn assert_talks(connection: &mut TcpStream) {
    assert_eq!(client::exchange(connection, b"hello").unwrap(), b"hello");
}

#[test]
fn seconds_of_kills_are_noticed_by_no_client() {
    restarts::restart_under_load(Duration::from_secs(6));
}

/// TCP counters of a machine's kernel that say how it fared.
#[derive(Clone, Copy, Debug)]
struct Counted {
    sent: u64,
    sent_again: u64,
    /// Segments that came though they had come before.
    came_again: u64,
}

impl Counted {
    fn of(node: &Node) -> Self {
        let count = |name| tcp_counter(node, name);
        Self {
            sent: count("OutSegs"),
            sent_again: count("RetransSegs"),
            came_again: count("TCPDSACKOldSent") + count("TCPDSACKOfoSent"),
        }
    }
}

#[test]
fn no_packet_of_an_established_connection_is_lost_while_daemons_come_and_go() {
    const CONNECTIONS: usize = 4;
    const KILLS: usize = 2;
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    let mut held: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect(&lab, SERVICE_PORT))
        .collect();
    for one in &mut held {
        one.set_nodelay(true).unwrap();
        assert_talks(one);
    }
    let nodes = [lab.client(0), lab.backend(0), lab.backend(1)];
    let before = nodes.map(Counted::of);
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        for one in &mut held {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_talks(one);
                }
            });
        }
        let _stop = Stop(over);
        for _ in 0..KILLS {
            daemon.crash().unwrap();
            daemon.restart().unwrap();
            assert!(daemon.stop().unwrap().success());
            daemon.restart().unwrap();
        }
    });
    let after = nodes.map(Counted::of);
    let grown = |of: fn(&Counted) -> u64| -> u64 {
        let one = |(after, before)| of(after) - of(before);
        after.iter().zip(&before).map(one).sum()
    };
    let (sent, again) = (grown(|one| one.sent), grown(|one| one.sent_again));
    let came = grown(|one| one.came_again);
    println!("{sent} packets, {again} sent again, {came} of these had come before");
    assert!(sent > 2000, "{sent} packets are no flood");
    // On a busy machine a kernel may think a packet lost that is only late.
    assert_eq!(again.saturating_sub(came), 0, "packets were lost");
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

fn backend(lab: &Lab, i: usize, name: &str) -> Backend {
    let mut all = Config::new(lab, Family::V4, 4);
    Backend {
        name: name.to_owned(),
        ..all.web().backends.remove(i)
    }
}

/// What the status says of a service's back-ends: names, states and connections.
fn backends(daemon: &Daemon<'_>, service: usize) -> Vec<(String, String, u64)> {
    let status = daemon.status().0;
    let of = status["services"][service]["backends"].as_array().unwrap();
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    of.iter()
        .map(|one| {
            let active = one["active"].as_u64().unwrap();
            (text(one, "name"), text(one, "state"), active)
        })
        .collect()
}

fn row(name: &str, state: &str, active: u64) -> (String, String, u64) {
    (name.to_owned(), state.to_owned(), active)
}

#[test]
fn a_start_with_another_configuration_keeps_every_flow_and_counts_it_where_it_is() {
    let lab = lab(4);
    let servers = on_all(&lab, || server::echo);
    let mut config = keeping(&lab);
    let mut other = config.services[0].clone();
    other.name = "other".into();
    other.address = lab.service(Family::V4, OTHER_PORT);
    other.backends = vec![backend(&lab, 3, "web-4")];
    config.web().backends.truncate(3);
    config.services.push(other);
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    // Round-robin: one at each of the three.
    let mut held: Vec<_> = (0..3).map(|_| connect(&lab, SERVICE_PORT)).collect();
    let mut at_other = [connect(&lab, OTHER_PORT), connect(&lab, OTHER_PORT)];
    held.iter_mut().chain(&mut at_other).for_each(assert_talks);
    daemon.crash().unwrap();

    // The first has another name, the second is gone, a new one comes first, the order is another,
    // and so is a whole service's absence; the new one has the name of the one that is gone.
    config.services.pop();
    config.web().backends = vec![
        backend(&lab, 3, "web-2"),
        backend(&lab, 2, "web-3"),
        backend(&lab, 0, "renamed"),
    ];
    daemon.files().rewrite(&config).unwrap();
    daemon.restart().unwrap();
    let gone = lab.backend(1).at(Family::V4, BACKEND_PORT);
    let named = gone.to_string().replace(':', "-");
    let expected = [
        row("web-2", "up", 0),
        row("web-3", "up", 1),
        row("renamed", "up", 1),
        row(&named, "draining", 1),
    ];
    assert_eq!(backends(&daemon, 0), expected);
    let service = lab.service(Family::V4, OTHER_PORT);
    let status = daemon.status().0;
    let other = &status["services"][1];
    assert_eq!(other["address"], service.to_string());
    assert_eq!(backends(&daemon, 1)[0].2, 2, "{other}");
    assert_eq!(daemon.status().flows(), 5);
    held.iter_mut().chain(&mut at_other).for_each(assert_talks);

    // Nobody new comes to what is gone.
    let mut new: Vec<_> = (0..9).map(|_| connect(&lab, SERVICE_PORT)).collect();
    new.iter_mut().for_each(assert_talks);
    assert_eq!(backends(&daemon, 0)[3].2, 1);
    assert_eq!(servers[1].count().active(), 1);
    drop(new);
    eventually(PATIENCE, "the new ones have ended", || {
        daemon.status().active() == 3
    });

    // It can be taken out for good, and what is kept lives through another crash.
    daemon.crash().unwrap();
    daemon.restart().unwrap();
    assert_eq!(backends(&daemon, 0), expected);
    daemon.ask(&["disable", &format!("web/{named}")]).unwrap();
    eventually(PATIENCE, "it is reset and gone", || {
        backends(&daemon, 0).len() == 3 && servers[1].count().active() == 0
    });
    assert!(client::exchange(&mut held[1], b"gone").is_err());
    drop(at_other);
    eventually(PATIENCE, "the service goes with its last flow", || {
        daemon.status().0["services"].as_array().unwrap().len() == 1
    });
    assert_talks(&mut held[0]);
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn maps_of_another_layout_are_refused_while_their_flows_go_on() {
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    let mut held = connect(&lab, SERVICE_PORT);
    assert_talks(&mut held);
    daemon.stop().unwrap();
    let pin = daemon.files().pin_path.join("CONTROL");
    let map = MapData::from_pin(pin).unwrap();
    let mut control: Array<_, Control> = Map::Array(map).try_into().unwrap();
    let ours = control.get(&0, 0).unwrap();
    let newer = Control {
        layout: LAYOUT + 1,
        ..ours
    };
    control.set(0, newer, 0).unwrap();
    let output = Daemon::run_to_end(lab.dispatcher(), &daemon.files().config).unwrap();
    let version = format!("version {}, not {LAYOUT}", LAYOUT + 1);
    assert_refused(&output, &["layout", &version, "dispatcher unload"]);
    assert_talks(&mut held);
    control.set(0, ours, 0).unwrap();
    daemon.restart().unwrap();
    assert_eq!(daemon.status().active(), 1);
    assert_talks(&mut held);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_one_serves_on() {
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let config = keeping(&lab);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let pins = &daemon.files().pin_path;
    let mut quiet = config.clone();
    quiet.metrics = None;
    let elsewhere = Files::new(&quiet).unwrap();
    let run = |text: &str| {
        fs::write(&elsewhere.config, text).unwrap();
        Daemon::run_to_end(lab.dispatcher(), &elsewhere.config).unwrap()
    };
    // With everything the same, with the same interfaces, and with the same pins.
    let same = run(&quiet.to_toml(&daemon.files().socket, pins));
    assert_refused(&same, &["another daemon answers", "admin.socket"]);
    let interfaces = run(&quiet.to_toml(&elsewhere.socket, &elsewhere.pin_path));
    assert_refused(&interfaces, &["front"]);
    let spare = [
        "ip", "link", "add", "spare", "type", "veth", "peer", "other",
    ];
    lab.dispatcher().run(&spare).unwrap();
    quiet.interfaces = vec!["spare".to_owned()];
    quiet.attach_mode = "generic";
    let pinned = run(&quiet.to_toml(&elsewhere.socket, pins));
    assert_refused(&pinned, &["another daemon", "dataplane.pin_path"]);
    assert!(!elsewhere.pin_path.exists() && !elsewhere.socket.exists());

    assert_talks(&mut connect(&lab, SERVICE_PORT));
    let page = format!("http://{METRICS}/metrics");
    assert!(client::curl(lab.dispatcher(), &[&page]).is_ok());
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn what_a_killed_daemon_leaves_lying_about_is_no_obstacle() {
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    for _ in 0..3 {
        daemon.crash().unwrap();
        assert!(daemon.files().socket.exists(), "a crash tidies nothing up");
        // Its AF_XDP sockets are gone with it, from the program's map too.
        daemon.restart().unwrap();
        assert_talks(&mut connect(&lab, SERVICE_PORT));
    }
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

/// While nobody reads the ring, connections end; then the numbers of those are given to others.
#[test]
fn what_the_ring_told_of_a_daemon_that_died_is_no_news_of_others() {
    const HELD: usize = 8;
    let lab = lab(1);
    let servers = on_all(&lab, || server::echo);
    let mut config = keeping(&lab);
    config.web().backends[0].ceiling = 32;
    config.web().backends[0].capacity = 64;
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let mut held: Vec<_> = (0..HELD).map(|_| connect(&lab, SERVICE_PORT)).collect();
    held.iter_mut().for_each(assert_talks);
    eventually(PATIENCE, "all are established", || {
        daemon.status().active() == HELD as u64
    });
    daemon.crash().unwrap();

    // Each end is an event that nobody reads.
    held.truncate(HELD / 2);
    eventually(PATIENCE, "half of them are over", || {
        servers[0].count().active() == HELD / 2
    });
    daemon.restart().unwrap();
    eventually(PATIENCE, "those that are over are gone", || {
        let status = daemon.status();
        status.active() == HELD as u64 / 2 && status.flows() == HELD as u64 / 2
    });
    let new = (0..HELD).map(|_| connect(&lab, SERVICE_PORT));
    held.extend(new);
    held.iter_mut().for_each(assert_talks);
    eventually(PATIENCE, "they count as established", || {
        daemon.status().active() == held.len() as u64
    });
    assert_eq!(servers[0].count().active(), held.len());
    daemon.status().assert_balanced();
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

/// Flows that had ended, and whose number was given to another while they were still in the table.
#[test]
fn what_has_ended_does_not_cost_a_connection_its_number() {
    const ENDED: u16 = 8;
    let lab = lab(1);
    let servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    let mut held = connect(&lab, SERVICE_PORT);
    assert_talks(&mut held);
    eventually(PATIENCE, "it is established", || {
        daemon.status().active() == 1
    });
    daemon.crash().unwrap();

    let mut table = daemon.flow_table().unwrap();
    let mut live = None;
    table.for_each_forward(|key, _| live = Some(*key)).unwrap();
    let live = table.get(&live.unwrap()).unwrap();
    for i in 0..ENDED {
        let mut ended = live;
        let FlowKey {
            src, dst, dst_port, ..
        } = live.forward_key;
        ended.forward_key = FlowKey::new(src, Port::new(20_000 + i), dst, dst_port);
        ended.reply_key = ended.forward_key.of_peer(&live.forward.translation);
        for entry in [&mut ended.forward, &mut ended.reply] {
            entry.generation += 1 + u32::from(i);
            entry.phase |= Phase::RESET.0;
        }
        table.install(&ended).unwrap();
    }

    daemon.restart().unwrap();
    assert_talks(&mut held);
    eventually(PATIENCE, "the others are gone", || {
        daemon.status().flows() == 1
    });
    assert_talks(&mut held);
    assert_eq!(
        (daemon.status().active(), servers[0].count().active()),
        (1, 1)
    );
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}
