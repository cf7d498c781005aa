//! The daemon as a service manager runs it: with the capabilities of the unit and no others, and
//! under a watchdog that knows a stuck daemon from a quiet one.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{self, Daemon, Files, Manner};
use dispatcher_tests::privilege::{self, RUNNING};
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::scratch::Scratch;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::stopped::StoppedThread;
use dispatcher_tests::topology::Family;
use dispatcher_tests::{PATIENCE, client, eventually};
use serde_json::Value;

const UNIT: &str = include_str!("../packaging/dispatcher.service");

/// What the unit says for a key.
fn of_unit(key: &str) -> &'static str {
    let mut values = UNIT.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name == key).then_some(value)
    });
    values
        .next()
        .unwrap_or_else(|| panic!("the unit has no {key}"))
}

/// The unit's limits, as far as they can be had without systemd.
fn limited() -> Manner {
    let capabilities = of_unit("CapabilityBoundingSet").to_lowercase();
    let bounding: String = capabilities
        .split(' ')
        .map(|name| format!(",+{}", name.trim_start_matches("cap_")))
        .collect();
    assert_eq!(of_unit("NoNewPrivileges"), "yes");
    let through = [
        "setpriv",
        "--bounding-set",
        &format!("-all{bounding}"),
        "--inh-caps",
        "-all",
        "--no-new-privs",
    ];
    Manner {
        through: through.map(str::to_owned).to_vec(),
        environment: Vec::new(),
    }
}

/// All that was logged, each line an object.
fn log_lines(daemon: &Daemon) -> Vec<Value> {
    let text = daemon.log();
    let line = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: no JSON: {line}"))
    };
    text.lines().map(line).collect()
}

/// Fields of the lines with this message.
fn told<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    let fields = lines.iter().map(|line| &line["fields"]);
    fields
        .filter(|fields| fields["message"] == message)
        .collect()
}

/// A service manager's end of the notifications.
struct Notifications {
    socket: UnixDatagram,
    scratch: Scratch,
}

impl Notifications {
    fn new() -> Result<Self> {
        let scratch = Scratch::new("notify")?;
        let socket = UnixDatagram::bind(scratch.path("socket"))?;
        Ok(Self { socket, scratch })
    }

    /// Started by a manager that restarts it after so long a silence.
    fn manner(&self, watchdog: Duration) -> Manner {
        let socket = self.scratch.path("socket").display().to_string();
        let watchdog = watchdog.as_micros().to_string();
        let environment = [("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", watchdog)];
        Manner {
            through: Vec::new(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
        }
    }

    /// The next one, or none within `patience`.
    fn next(&self, patience: Duration) -> Result<Option<String>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut text = [0; 256];
        match self.socket.recv(&mut text) {
            Ok(length) => Ok(Some(String::from_utf8(text[..length].to_vec())?)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("no notification can be read"),
        }
    }
}

#[test]
fn with_the_capabilities_of_the_unit_it_starts_and_with_fewer_it_serves_restarts_and_adopts() {
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 2);
    config.on_exit = "keep";
    let files = Files::new(&config).unwrap();
    let mut daemon = Daemon::start_in(&lab, files, limited()).unwrap();
    // NET_ADMIN, NET_RAW, IPC_LOCK, PERFMON, BPF: without SETPCAP the unit's bounding set stays.
    let unit = [12, 13, 14, 38, 39]
        .iter()
        .fold(0_u64, |all, bit| all | 1 << bit);
    for (name, has) in privilege::of_threads(daemon.pid()).unwrap() {
        assert_eq!((has.effective, has.permitted), (RUNNING, RUNNING), "{name}");
        assert_eq!(has.bounding, unit, "{name}");
        assert!(has.no_new_privileges, "{name}");
    }

    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"before").unwrap(), b"before");
    assert!(daemon.stop().unwrap().success());
    assert_eq!(client::exchange(&mut held, b"between").unwrap(), b"between");
    daemon.restart().unwrap();
    assert_eq!(daemon.status().active(), 1, "the flow was adopted");
    assert_eq!(client::exchange(&mut held, b"after").unwrap(), b"after");
    drop(held);
    assert_settles(&daemon);
    lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_settles(&daemon);
    assert_eq!(server.count().peers().len(), 2);
    daemon.finish().unwrap();
}

#[test]
fn a_stuck_admission_thread_starves_the_watchdog_and_a_quiet_one_feeds_it() {
    const WATCHDOG: Duration = Duration::from_secs(2);
    let lab = one_backend();
    let manager = Notifications::new().unwrap();
    let files = Files::new(&Config::new(&lab, Family::V4, 2)).unwrap();
    let mut daemon = Daemon::start_in(&lab, files, manager.manner(WATCHDOG)).unwrap();
    let next = |patience| manager.next(patience).unwrap();
    let first = [next(WATCHDOG).unwrap(), next(WATCHDOG).unwrap()];
    assert!(
        first.iter().any(|text| text.contains("READY=1")),
        "{first:?}"
    );
    for _ in 0..3 {
        assert_eq!(next(WATCHDOG).as_deref(), Some("WATCHDOG=1\n"));
    }

    let stopped = StoppedThread::stop(daemon.pid(), "admission").unwrap();
    // One may have been under way.
    let _ = next(WATCHDOG);
    assert_eq!(next(WATCHDOG * 2), None, "fed though nobody admits");

    drop(stopped);
    assert_eq!(next(WATCHDOG).as_deref(), Some("WATCHDOG=1\n"));
    assert!(daemon.stop().unwrap().success());
    let rest: Vec<_> = std::iter::from_fn(|| next(Duration::from_millis(100))).collect();
    assert!(
        rest.iter().any(|text| text.contains("STOPPING=1")),
        "{rest:?}"
    );
}

#[test]
fn the_log_has_a_line_for_each_change_and_none_for_each_packet() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 2);
    config.web().backends[0].initial = Some(1);
    config.web().queue_capacity = 1;
    let files = Files::new(&config).unwrap();
    let json = ("DISPATCHER_LOG_FORMAT".to_owned(), "json".to_owned());
    let manner = Manner {
        environment: vec![json],
        ..Manner::default()
    };
    let mut daemon = Daemon::start_in(&lab, files, manner).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    // One waits; all others find the queue full, and are reset.
    let waiting = lab.client(0).spawn(move || client::connect(service));
    eventually(PATIENCE, "one waits", || daemon.status().queued() == 1);
    for _ in 0..100 {
        let refused = lab.client(0).enter(|| client::connect(service));
        assert!(refused.is_err(), "admitted beyond ceiling and queue");
    }
    eventually(PATIENCE, "the refusals are told", || {
        !told(&log_lines(&daemon), "refused").is_empty()
    });
    for _ in 0..200 {
        assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    }
    daemon.ask(&["ceiling", "web/web-1", "2"]).unwrap();
    waiting.join().unwrap().unwrap();
    assert!(daemon.stop().unwrap().success());

    let lines = log_lines(&daemon);
    for line in &lines {
        for key in ["timestamp", "level", "target", "fields"] {
            assert!(!line[key].is_null(), "{key} in {line}");
        }
    }
    let attached = told(&lines, "attached");
    let interfaces: Vec<_> = attached.iter().map(|fields| &fields["interface"]).collect();
    assert_eq!(interfaces, lab.topology().interfaces());
    for fields in attached {
        assert_eq!(fields["mode"], "native");
        assert_eq!(fields["taken_over"], false);
    }
    assert_eq!(told(&lines, "ready").len(), 1);
    // Unless the machine stood still for ten seconds: the first at once, the rest not yet.
    let refused = told(&lines, "refused");
    assert!((1..=2).contains(&refused.len()), "{refused:?}");
    assert_eq!(refused[0]["service"], "web");
    assert_eq!(refused[0]["why"], "the queue is full");
    let moved = told(&lines, "ceiling moved");
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(
        (&moved[0]["from"], &moved[0]["to"]),
        (&Value::from(1), &Value::from(2))
    );
    assert_eq!(moved[0]["why"], "pinned by an operator");
    assert!(lines.len() < 20, "{} lines", lines.len());
}

#[test]
fn without_any_one_of_the_capabilities_it_does_not_start() {
    let lab = one_backend();
    let files = Files::new(&Config::new(&lab, Family::V4, 1)).unwrap();
    let limits = limited().through;
    let at = limits
        .iter()
        .position(|word| word.starts_with("-all,"))
        .unwrap();
    for capability in limits[at].split(',').skip(1) {
        let mut fewer = limits.clone();
        fewer[at] = limits[at].replace(&format!(",{capability}"), "");
        // What each socket locks is little; of a limit lower still nobody takes it for granted.
        let mut command = lab.dispatcher().command("prlimit");
        command
            .arg("--memlock=65536")
            .args(fewer)
            .arg(daemon::binary().unwrap())
            .args(["run", "--config"])
            .arg(&files.config);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(1),
            "without {capability}: {told}"
        );
        assert!(
            told.contains("dispatcher: error: "),
            "without {capability}: {told}"
        );
    }
}
