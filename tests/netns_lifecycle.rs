//! Starts and stops of the daemon: what is taken over, what is refused, what is left.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::{self, Daemon, Files, assert_refused, ensure_detached, has_program};
use dispatcher_tests::port_program::{PinnedProgram, PortProgram};
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, eventually};

fn lab() -> Lab {
    Topology::default().up().unwrap()
}

fn keeping(lab: &Lab) -> Config {
    let mut config = Config::new(lab, Family::V4, 4);
    config.on_exit = "keep";
    config
}

fn connect(lab: &Lab) -> TcpStream {
    let service = lab.service(Family::V4, SERVICE_PORT);
    lab.client(0).enter(|| client::connect(service)).unwrap()
}

#[track_caller]
fn assert_talks(connection: &mut TcpStream) {
    assert_eq!(client::exchange(connection, b"hello").unwrap(), b"hello");
}

/// Packets to the i-th back-end since the daemon started.
fn packets_in(daemon: &Daemon, i: usize) -> u64 {
    let pointer = format!("/services/0/backends/{i}/total/packets_in");
    let status = daemon.status().0;
    status
        .pointer(&pointer)
        .and_then(serde_json::Value::as_u64)
        .unwrap()
}

#[test]
fn adopted_flows_count_at_their_backend_though_the_configuration_changed_its_order() {
    let lab = lab();
    let servers = on_all(&lab, || server::echo);
    let mut config = keeping(&lab);
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    // Round-robin: one each; the second is the one to watch.
    let mut held = [connect(&lab), connect(&lab)];
    let own = held[1].local_addr().unwrap();
    // A connection is there before its server has accepted it; an answer says that it has.
    assert_talks(&mut held[1]);
    assert_eq!(servers[1].count().peers(), [own]);
    daemon.stop().unwrap();

    config.web().backends.reverse();
    daemon.files().rewrite(&config).unwrap();
    daemon.restart().unwrap();
    assert!((0..2).all(|i| daemon.status().backend(i, "active") == 1));
    for _ in 0..20 {
        assert_talks(&mut held[1]);
    }
    assert!(packets_in(&daemon, 0) >= 20, "it is the first one now");
    assert_eq!(packets_in(&daemon, 1), 0, "the other one was silent");
    assert_talks(&mut held[0]);
    assert!(packets_in(&daemon, 1) > 0);
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn a_daemon_with_a_thousand_backends_starts_and_tells_of_all() {
    let lab = lab();
    let mut config = Config::new(&lab, Family::V4, 4);
    let first = config.web().backends[0].clone();
    config.web().backends = (0..1024_u16)
        .map(|i| {
            let [high, low] = i.to_be_bytes();
            let mut backend = first.clone();
            backend.name = format!("web-{i}");
            backend.address.set_ip([10, 0, 100 + high, low].into());
            backend
        })
        .collect();
    let daemon = Daemon::start(&lab, &config).unwrap();
    let status = daemon.status().0;
    let backends = status["services"][0]["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 1024);
    daemon.finish().unwrap();
}

#[test]
fn stopped_under_load_and_started_again_it_counts_what_the_backends_have() {
    let lab = lab();
    let servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held: Vec<_> = (0..4).map(|_| connect(&lab)).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                lab.client(0).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let second = Duration::from_secs(1);
                        if let Ok(mut one) = client::connect_within(service, second) {
                            let _ = client::exchange(&mut one, b"load");
                        }
                    }
                });
            });
        }
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            assert!(daemon.stop().unwrap().success());
            daemon.restart().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    eventually(PATIENCE, "only those that are held are left", || {
        daemon.status().active() == 4
    });
    for one in &mut held {
        assert_talks(one);
    }
    for (i, server) in servers.iter().enumerate() {
        let counted = daemon.status().backend(i, "active");
        assert_eq!(counted, server.count().active() as u64, "back-end {i}");
    }
    drop(held);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn another_flow_capacity_is_refused_while_flows_go_on() {
    let lab = lab();
    let _servers = on_all(&lab, || server::echo);
    let mut config = keeping(&lab);
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let mut held = connect(&lab);
    daemon.stop().unwrap();
    config.flow_capacity = 5000;
    daemon.files().rewrite(&config).unwrap();
    let output = Daemon::run_to_end(lab.dispatcher(), &daemon.files().config).unwrap();
    assert_refused(&output, &["flow_capacity", "4096", "5000", "unload"]);
    assert_talks(&mut held);
    config.flow_capacity = 4096;
    daemon.files().rewrite(&config).unwrap();
    daemon.restart().unwrap();
    assert_eq!(daemon.status().active(), 1);
}

#[test]
fn unloading_under_a_running_daemon_detaches_also_one_that_had_adopted() {
    let lab = lab();
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    daemon.stop().unwrap();
    assert!(has_program(lab.dispatcher()).unwrap());
    daemon.restart().unwrap();
    let refused = daemon.run_unload(&[]).unwrap();
    assert_refused(&refused, &["a dispatcher runs", "--force"]);
    assert!(has_program(lab.dispatcher()).unwrap());

    assert!(daemon.run_unload(&["--force"]).unwrap().status.success());
    ensure_detached(lab.dispatcher()).unwrap();
    assert!(!daemon.files().pin_path.exists());
    daemon.unload().unwrap();
    assert!(daemon.is_alive());
    eventually(PATIENCE, "the daemon says so", || {
        let status = daemon.status().0;
        let failed = |one: &serde_json::Value| one["state"] == "failed";
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().all(failed)
    });
    assert!(daemon.log().contains("somebody unloaded the program"));
    assert!(daemon.stop().unwrap().success());
    daemon.restart().unwrap();
    assert!(has_program(lab.dispatcher()).unwrap());
    daemon.finish().unwrap();
}

fn link_pins(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.to_string_lossy().contains(':'))
        .collect()
}

#[test]
fn pins_of_maps_without_links_are_left_overs_and_no_obstacle() {
    let lab = lab();
    let _servers = on_all(&lab, || server::echo);
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    let held = connect(&lab);
    daemon.stop().unwrap();
    for pin in link_pins(&daemon.files().pin_path) {
        fs::remove_file(pin).unwrap();
    }
    ensure_detached(lab.dispatcher()).unwrap();
    drop(held);
    daemon.restart().unwrap();
    assert_eq!(daemon.status().flows(), 0, "nothing was adopted");
    assert_talks(&mut connect(&lab));
    daemon.finish().unwrap();
}

#[test]
fn an_interface_that_was_made_anew_is_attached_anew() {
    let lab = lab();
    let mut daemon = Daemon::start(&lab, &keeping(&lab)).unwrap();
    daemon.stop().unwrap();
    let old = lab.dispatcher().mac("front").unwrap();
    for line in [
        "ip link delete front",
        "ip link add front type veth peer name other",
        "ip link set front up",
    ] {
        lab.dispatcher()
            .run(&line.split(' ').collect::<Vec<_>>())
            .unwrap();
    }
    assert_ne!(lab.dispatcher().mac("front").unwrap(), old);
    daemon.restart().unwrap();
    let links = lab
        .dispatcher()
        .run(&["ip", "-details", "link", "show", "front"]);
    assert!(links.unwrap().contains("prog/xdp"));
    daemon.finish().unwrap();
}

#[test]
fn a_second_interface_that_is_taken_leaves_the_first_as_it_was() {
    let lab = lab();
    let name = format!("{}-other", lab.prefix());
    let other = PinnedProgram::load(PortProgram::Pass, &name).unwrap();
    other.attach(lab.dispatcher(), "back").unwrap();
    let output = Daemon::refused(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    assert_refused(&output, &["back", "bpftool net"]);
    let show = ["ip", "-details", "link", "show", "front"];
    eventually(PATIENCE, "nothing is attached to the first", || {
        !lab.dispatcher().run(&show).unwrap().contains("prog/xdp")
    });
}

#[test]
fn a_program_that_is_refused_leaves_no_pins() {
    let lab = lab();
    let files = Files::new(&Config::new(&lab, Family::V4, 4)).unwrap();
    // Enough for sockets and maps, too little for an XDP program.
    let mut command = lab.dispatcher().command("setpriv");
    command
        .args([
            "--bounding-set=-net_admin,-sys_admin",
            "--inh-caps=-all",
            "--",
        ])
        .arg(daemon::binary().unwrap())
        .args(["run", "--config"])
        .arg(&files.config);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_refused(&output, &["CAP_NET_ADMIN"]);
    assert!(!files.pin_path.exists(), "pins are left");
}

#[test]
fn fewer_queues_than_native_mode_needs_are_told_and_generic_mode_takes_over() {
    let topology = Topology {
        queues: 2,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    // The peer still sends on two.
    let fewer = ["ethtool", "-L", "front", "rx", "1"];
    lab.dispatcher().run(&fewer).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    let output = Daemon::refused(&lab, &config).unwrap();
    assert_refused(&output, &["front", "queues", "generic"]);
    ensure_detached(lab.dispatcher()).unwrap();

    config.attach_mode = "auto";
    let daemon = Daemon::start(&lab, &config).unwrap();
    assert_eq!(daemon.status().0["attach_mode"], "generic");
    daemon.finish().unwrap();
}
