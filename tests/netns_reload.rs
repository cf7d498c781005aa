//! Configurations that change while connections live: all of a right one takes effect, nothing of a
//! wrong one, and no connection is lost.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use dispatcher_tests::config::{BACKEND_PORT, Backend, Config, SERVICE_PORT, Service};
use dispatcher_tests::daemon::{Daemon, Files};
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, churn, client, eventually};
use dispatcher_user::admin::{Client, ClientError};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn lab(backends: u8) -> Lab {
    let topology = Topology {
        backends,
        ..Topology::default()
    };
    topology.up().unwrap()
}

fn connect_to(lab: &Lab, service: SocketAddr) -> TcpStream {
    lab.client(0).enter(|| client::connect(service)).unwrap()
}

fn connect(lab: &Lab) -> TcpStream {
    connect_to(lab, lab.service(Family::V4, SERVICE_PORT))
}

#[track_caller]
fn assert_talks(connection: &mut TcpStream) {
    assert_eq!(client::exchange(connection, b"hello").unwrap(), b"hello");
}

/// A value of the status.
#[track_caller]
fn told(daemon: &Daemon, pointer: &str) -> Value {
    let status = daemon.status().0;
    let found = status.pointer(pointer).cloned();
    found.unwrap_or_else(|| panic!("nothing at {pointer} in {status:#}"))
}

/// Names and states of the back-ends of the first service.
fn states(daemon: &Daemon) -> Vec<(String, String)> {
    let backends = told(daemon, "/services/0/backends");
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let backends = backends.as_array().unwrap().iter();
    backends
        .map(|one| (text(one, "name"), text(one, "state")))
        .collect()
}

fn state(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

#[test]
fn ten_reloads_a_second_are_noticed_by_no_client() {
    churn::reload_under_load(Duration::from_secs(6));
}

#[test]
fn a_removed_back_end_drains_in_sight_and_goes_with_its_last_connection() {
    let lab = lab(2);
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    // Round-robin: one each.
    let mut held = [connect(&lab), connect(&lab)];
    held.iter_mut().for_each(assert_talks);
    let on_first = servers[0].count().peers()[0];
    config.web().backends.remove(0);
    let printed = daemon.reload(&config).unwrap();
    assert_eq!(
        printed,
        "service web: back-end web-1: removed, its connections go on\n"
    );
    let drains = [state("web-2", "up"), state("web-1", "draining")];
    assert_eq!(states(&daemon), drains);
    let flows = daemon.flows().unwrap().to_string();
    assert!(flows.contains("\"web-1\""), "{flows}");
    held.iter_mut().for_each(assert_talks);
    for _ in 0..4 {
        assert_talks(&mut connect(&lab));
    }
    assert_eq!(servers[0].count().peers().len(), 1, "it is given no more");
    let label = "backend=\"web-1\"";
    assert!(daemon.metrics().unwrap().contains(label));

    for one in held {
        if one.local_addr().unwrap() == on_first {
            drop(one);
            break;
        }
    }
    eventually(PATIENCE, "it is gone", || {
        states(&daemon) == [state("web-2", "up")]
    });
    assert!(!daemon.metrics().unwrap().contains(label));
    let pin = daemon.files().pin_path.join("TIMES");
    let dump = [
        "bpftool",
        "-j",
        "map",
        "dump",
        "pinned",
        &pin.to_string_lossy(),
    ];
    let elements: Value = serde_json::from_str(&lab.dispatcher().run(&dump).unwrap()).unwrap();
    assert_eq!(elements.as_array().unwrap().len(), 2, "of the other one");
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn a_back_end_that_comes_back_has_its_old_connections_counted() {
    let lab = lab(1);
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 2);
    // Another one, which nobody can reach, so that the service is never without any.
    let mut other = config.web().backends[0].clone();
    other.name = "web-2".to_owned();
    other.address = "10.0.0.99:8080".parse().unwrap();
    config.web().backends.push(other);
    let mut without = config.clone();
    without.web().backends.remove(0);
    config.web().backends.pop();
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut held = connect(&lab);
    assert_talks(&mut held);
    daemon.reload(&without).unwrap();
    assert_eq!(states(&daemon)[1], state("web-1", "draining"));
    daemon.reload(&config).unwrap();
    assert_eq!(states(&daemon), [state("web-1", "up")]);
    assert_eq!(daemon.status().active(), 1);

    let mut second = connect(&lab);
    assert_talks(&mut second);
    thread::scope(|scope| {
        let third = scope.spawn(|| connect(&lab));
        eventually(PATIENCE, "the ceiling holds", || {
            daemon.status().queued() == 1
        });
        assert_talks(&mut held);
        drop(held);
        assert_talks(&mut third.join().unwrap());
    });
    assert_eq!(servers[0].count().most(), 2);
    drop(second);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn a_removed_service_turns_away_who_waits_keeps_who_talks_and_may_come_back() {
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut both = Config::new(&lab, Family::V4, 1);
    let second = Service {
        name: "other".to_owned(),
        address: lab.service(Family::V4, 81),
        ..both.web().clone()
    };
    both.services.push(second);
    let mut without = both.clone();
    without.services.remove(0);
    let daemon = Daemon::start(&lab, &both).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = connect(&lab);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.client(0).enter(|| client::connect(service)));
        eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
        daemon.reload(&without).unwrap();
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
    assert_talks(&mut held);
    assert_eq!(told(&daemon, "/services/1/name"), "web");
    assert_eq!(told(&daemon, "/services/1/backends/0/state"), "draining");
    assert_eq!(told(&daemon, "/services/1/requests/refused"), 1);
    let stranger = lab
        .client(0)
        .enter(|| client::connect_within(service, Duration::from_millis(500)));
    assert!(stranger.is_err(), "it is a service no more");
    assert_talks(&mut connect_to(&lab, lab.service(Family::V4, 81)));

    daemon.reload(&both).unwrap();
    assert_eq!(
        told(&daemon, "/services/0/requests/refused"),
        1,
        "as it was"
    );
    assert_eq!(daemon.status().active(), 1);
    assert_talks(&mut held);
    drop(held);
    assert_talks(&mut connect(&lab));
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn a_service_that_comes_is_served_and_one_without_connections_goes_at_once() {
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut second = config.web().clone();
    second.name = "other".to_owned();
    second.address = lab.service(Family::V4, 81);
    config.services.push(second);
    daemon.reload(&config).unwrap();
    assert_talks(&mut connect_to(&lab, lab.service(Family::V4, 81)));
    assert_settles(&daemon);
    config.services.remove(0);
    daemon.reload(&config).unwrap();
    let services = told(&daemon, "/services");
    assert_eq!(services.as_array().unwrap().len(), 1);
    assert_eq!(services[0]["name"], "other");
    assert_eq!(services[0]["requests"]["admitted"], 1, "counted on");
}

#[test]
fn names_may_change_and_counts_go_on_under_the_new_ones() {
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut held = connect(&lab);
    config.web().name = "www".to_owned();
    config.web().backends[0].name = "first".to_owned();
    let printed = daemon.reload(&config).unwrap();
    assert_eq!(
        printed,
        "service www: name: web -> www\nservice www: back-end first: name: web-1 -> first\n"
    );
    assert_talks(&mut held);
    let status = daemon.status();
    assert_eq!((status.active(), status.requests("admitted")), (1, 1));
    assert!(daemon.flows().unwrap().to_string().contains("\"first\""));
    let metrics = daemon.metrics().unwrap();
    assert!(metrics.contains("service=\"www\""), "{metrics}");
    assert!(!metrics.contains("service=\"web\""), "{metrics}");
    daemon.ask(&["ceiling", "www/first", "2"]).unwrap();
}

#[test]
fn a_server_that_takes_anothers_name_is_told_from_it_while_that_drains() {
    let lab = lab(2);
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let second = config.web().backends.pop().unwrap();
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut held = connect(&lab);
    config.web().backends[0].address = second.address;
    daemon.reload(&config).unwrap();
    let old = format!("web-1@{}", lab.backend(0).at(Family::V4, BACKEND_PORT));
    assert_eq!(
        states(&daemon),
        [state("web-1", "up"), state(&old, "draining")]
    );
    assert_talks(&mut held);
    assert_talks(&mut connect(&lab));
    assert_eq!(servers[1].count().peers().len(), 1);
    let place = format!("web/{old}");
    let resumed = daemon.run(&["resume", &place]).unwrap();
    assert_eq!(resumed.status.code(), Some(1), "{resumed:?}");
    let printed = daemon.ask(&["disable", &place]).unwrap();
    assert_eq!(printed, format!("{place}: draining, 1 connection reset\n"));
    let reset = client::exchange(&mut held, b"hello").unwrap_err();
    assert!(matches!(
        reset.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    ));
    eventually(PATIENCE, "it is gone", || states(&daemon).len() == 1);
}

#[test]
fn changes_of_every_kind_are_in_force_at_once() {
    let lab = lab(2);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 1);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut held = vec![connect(&lab), connect(&lab)];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| connect(&lab));
        eventually(PATIENCE, "it waits", || daemon.status().queued() == 1);
        let web = config.web();
        web.queue_capacity = 7;
        web.balance = "least-connections";
        daemon.reload(&config).unwrap();
        assert_eq!(told(&daemon, "/services/0/queue/capacity"), 7);
        assert_eq!(daemon.status().queued(), 1, "a reload loses nobody");
        let first = &mut config.web().backends[0];
        (first.ceiling, first.capacity, first.weight) = (3, 9, 5);
        first.group = Some("db");
        config.extra = "[[group]]\nname = \"db\"\nceiling = 2\n".to_owned();
        daemon.reload(&config).unwrap();
        held.push(waiting.join().unwrap());
    });
    held.iter_mut().for_each(assert_talks);
    let first = told(&daemon, "/services/0/backends/0");
    for (key, value) in [
        ("ceiling", json!(3)),
        ("ceiling_max", json!(3)),
        ("capacity", json!(9)),
        ("weight", json!(5)),
        ("group", json!("db")),
        ("policy", json!("fixed")),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(told(&daemon, "/groups/0/active"), 2, "two are at the first");

    config.web().policy = "queue-depth";
    config.web().backends[0].group = None;
    config.web().idle_timeout = "1s";
    config.extra.clear();
    let printed = daemon.reload(&config).unwrap();
    for line in [
        "service web: ceiling.policy: fixed -> queue-depth",
        "service web: timeouts.idle: 5m -> 1s",
        "group db: removed",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    assert_eq!(
        told(&daemon, "/services/0/backends/0/policy"),
        "queue-depth"
    );
    assert_eq!(told(&daemon, "/groups"), json!([]));
    assert_eq!(daemon.reload(&config).unwrap(), "nothing has changed\n");
    drop(held);
    assert_settles(&daemon);
}

/// As many as a service may have, and others in their place at once: old and new together would be
/// too many.
#[test]
fn all_groups_of_a_service_may_be_replaced_in_one_reload() {
    const OLD: [&str; 8] = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"];
    const NEW: [&str; 8] = ["b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"];
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let first = config.web().backends[0].clone();
    // Two in each group; nobody is at the addresses of all but the first.
    config.web().backends = (0..16)
        .map(|i| Backend {
            name: format!("web-{i}"),
            address: match i {
                0 => first.address,
                i => SocketAddr::new([10, 0, 0, 100 + i].into(), BACKEND_PORT),
            },
            ..first.clone()
        })
        .collect();
    config.web().balance = "source-hash";
    let assign = |config: &mut Config, names: [&'static str; 8]| {
        for (i, backend) in config.web().backends.iter_mut().enumerate() {
            backend.group = Some(names[i / 2]);
        }
        let group = |name: &str| format!("[[group]]\nname = {name:?}\nceiling = 4\n");
        config.extra = names.map(group).concat();
    };
    assign(&mut config, OLD);
    let daemon = Daemon::start(&lab, &config).unwrap();
    for names in [NEW, OLD, NEW] {
        assign(&mut config, names);
        daemon.reload(&config).unwrap();
        let groups = told(&daemon, "/groups");
        let groups: Vec<_> = groups.as_array().unwrap().iter().collect();
        assert_eq!(groups.len(), 8);
        for (i, backend) in told(&daemon, "/services/0/backends")
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            assert_eq!(backend["group"], names[i / 2]);
            assert_eq!(groups[i / 2]["name"], names[i / 2]);
        }
    }
    assert!(!daemon.log().contains("not in force"), "{}", daemon.log());
}

#[test]
fn what_an_operator_ordered_survives_reloads() {
    let lab = lab(3);
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 8);
    let daemon = Daemon::start(&lab, &config).unwrap();
    daemon.ask(&["drain", "web/web-1"]).unwrap();
    daemon.ask(&["disable", "web/web-2"]).unwrap();
    daemon.ask(&["ceiling", "web/web-3", "6"]).unwrap();
    for (max, ceiling) in [(7, 6), (4, 4), (8, 6)] {
        config.web().backends[2].ceiling = max;
        daemon.reload(&config).unwrap();
        assert_eq!(
            states(&daemon),
            [
                state("web-1", "draining"),
                state("web-2", "disabled"),
                state("web-3", "up"),
            ]
        );
        eventually(PATIENCE, "the pin holds within the bounds", || {
            daemon.status().backend(2, "ceiling") == ceiling
        });
        assert_eq!(told(&daemon, "/services/0/backends/2/pinned"), true);
    }
    for _ in 0..4 {
        assert_talks(&mut connect(&lab));
    }
    assert_eq!(servers[2].count().peers().len(), 4);
    daemon.ask(&["resume", "web/web-1"]).unwrap();
    daemon.reload(&config).unwrap();
    assert_eq!(states(&daemon)[0], state("web-1", "up"));
}

#[test]
fn a_signal_reloads_as_the_command_does_and_the_log_tells() {
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    config.web().queue_capacity = 7;
    daemon.files().rewrite(&config).unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    eventually(PATIENCE, "the queue is other", || {
        daemon.status().queue_capacity() == 7
    });
    let log = daemon.log();
    assert!(log.contains("queue.capacity: 1024 -> 7"), "{log}");
    fs::write(&daemon.files().config, "[dataplane]\n").unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    eventually(PATIENCE, "the log tells", || {
        daemon.log().contains("not reloaded, nothing has changed")
    });
    assert!(daemon.log().contains("dataplane.interfaces is missing"));
    assert_eq!(daemon.status().queue_capacity(), 7);
    assert_talks(&mut connect(&lab));
}

#[test]
fn systemd_is_told_when_a_reload_begins_and_when_it_is_over_also_of_a_wrong_one() {
    let lab = lab(1);
    let mut config = Config::new(&lab, Family::V4, 4);
    let files = Files::new(&config).unwrap();
    let systemd = UnixDatagram::bind(&files.notify).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let daemon = Daemon::start_with(&lab, files).unwrap();
    assert_eq!(told().trim_end(), "READY=1");
    config.web().queue_capacity = 7;
    daemon.reload(&config).unwrap();
    let is_reloading = |message: &str| {
        let mut lines = message.lines();
        assert_eq!(lines.next(), Some("RELOADING=1"));
        let since = lines
            .next()
            .and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(since.unwrap().parse::<u64>().unwrap() > 0);
    };
    is_reloading(&told());
    assert_eq!(told().trim_end(), "READY=1");
    config.flow_capacity = 9;
    assert!(daemon.reload(&config).is_err());
    is_reloading(&told());
    assert_eq!(told().trim_end(), "READY=1");
}

/// What a status says, without what passes by itself.
fn lasting(daemon: &Daemon) -> Value {
    let mut status = daemon.status().0;
    status["uptime_seconds"] = Value::Null;
    status["frames"] = Value::Null;
    // The machines of the lab talk of their own accord (neighbours, multicast).
    status["handled"]["passed"] = Value::Null;
    for service in status["services"].as_array_mut().unwrap() {
        for backend in service["backends"].as_array_mut().unwrap() {
            backend["rate"] = Value::Null;
        }
    }
    status
}

/// The table that the configuration's own tests go by.
const WRONG: &str = include_str!("../dispatcher-user/tests/fixtures/refused.txt");

#[test]
fn a_reload_with_any_wrong_configuration_says_where_and_changes_nothing() {
    const RIGHT: [&str; 9] = [
        "[dataplane]",
        r#"interfaces = ["eth0"]"#,
        "[[service]]",
        r#"name = "web""#,
        r#"address = "192.0.2.10:80""#,
        "[[service.backend]]",
        r#"name = "web-1""#,
        r#"address = "10.0.0.11:8080""#,
        "capacity = 256",
    ];
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let mut held = connect(&lab);
    assert_talks(&mut held);
    eventually(PATIENCE, "it is established", || {
        daemon.status().active() == 1
    });
    thread::sleep(Duration::from_secs(2));
    let before = lasting(&daemon);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = Client::new(&daemon.files().socket);
    let rows = WRONG
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let [line, text, at, says] = row.splitn(4, " | ").collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}");
        };
        let text = text.replace("\\n", "\n");
        let mut lines = RIGHT;
        lines[line.parse::<usize>().unwrap() - 1] = &text;
        fs::write(&daemon.files().config, lines.join("\n")).unwrap();
        let refused = runtime.block_on(client.reload()).unwrap_err();
        let ClientError::Refused { status, reason } = refused else {
            panic!("{row}: {refused}");
        };
        assert_eq!(status, 422, "{row}");
        let place = format!("{}:{at}: ", daemon.files().config.display());
        assert!(reason.starts_with(&place), "{row}: {reason}");
        assert!(reason.contains(says), "{row}: {reason}");
        count += 1;
    }
    assert!(count >= 60, "only {count} rows");
    assert_eq!(lasting(&daemon), before);
    assert_talks(&mut held);
    let printed = daemon.run(&["reload"]).unwrap();
    assert_eq!(printed.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&printed.stderr);
    let place = daemon.files().config.display().to_string();
    assert!(stderr.starts_with(&place), "{stderr}");
}

#[test]
fn what_needs_a_restart_is_refused_and_nothing_else_of_the_file_takes_effect() {
    let lab = lab(1);
    let _servers = on_all(&lab, || server::echo);
    let config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let before = lasting(&daemon);
    let mut other = config.clone();
    other.flow_capacity = 5000;
    other.interfaces.pop();
    other.web().queue_capacity = 7;
    daemon.files().rewrite(&other).unwrap();
    let refused = daemon.run(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    let file = daemon.files().config.display();
    assert_eq!(
        stderr,
        format!(
            "{file}: dataplane.interfaces: from front, back to front needs a restart\n\
             {file}: dataplane.flow_capacity: from 4096 to 5000 needs a restart\n"
        )
    );
    assert_eq!(lasting(&daemon), before);
    assert_talks(&mut connect(&lab));
}

#[test]
fn of_a_reload_with_many_changes_the_log_tells_so_many_and_how_many_there_were() {
    const BACKENDS: u8 = 60;
    const TOLD: usize = 100;
    let lab = lab(1);
    let mut config = Config::new(&lab, Family::V4, 4);
    let first = config.web().backends[0].clone();
    config.web().backends = (1..=BACKENDS)
        .map(|i| Backend {
            name: format!("web-{i}"),
            address: SocketAddr::from(([10, 0, 0, i], 8080)),
            ..first.clone()
        })
        .collect();
    let daemon = Daemon::start(&lab, &config).unwrap();
    for backend in &mut config.web().backends {
        backend.name.push_str("-new");
        backend.capacity += 1;
    }
    let printed = daemon.reload(&config).unwrap();
    let changes = printed.lines().count();
    assert!(changes > TOLD, "{changes} changes:\n{printed}");
    eventually(PATIENCE, "it is told", || {
        daemon
            .log()
            .contains(&format!("reloaded changes={changes}"))
    });
    let log = daemon.log();
    let told = log
        .lines()
        .filter(|line| line.contains("configuration change="));
    assert_eq!(told.count(), TOLD);
    daemon.finish().unwrap();
}
