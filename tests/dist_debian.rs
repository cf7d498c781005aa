//! The package in a fresh Debian: first in a bare root, then as a service under systemd, within the
//! limits of its unit. From its installation to its purge, after which nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{ensure_detached, has_program, wait_until};
use dispatcher_tests::debian::{Machine, Root};
use dispatcher_tests::scenario::one_backend;
use dispatcher_tests::scratch::Scratch;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::stopped::StoppedThread;
use dispatcher_tests::topology::{Family, Lab};
use dispatcher_tests::{PATIENCE, client, eventually, package};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const UNIT: &str = "dispatcher.service";
const CONFIG: &str = "/etc/dispatcher/dispatcher.toml";
const SOCKET: &str = "/run/dispatcher/admin.sock";
const PINS: &str = "/sys/fs/bpf/dispatcher";
const EXAMPLES: &str = "/usr/share/doc/dispatcher/examples";
/// What `systemd-analyze security` may say, from 0 to 10 in tenths; 26 of them are what XDP takes.
const EXPOSURE_MAX: u32 = 27;
/// The unit's WatchdogSec, and some time to stop and start.
const WATCHDOG: Duration = Duration::from_secs(40);

fn configured(root: &Root, lab: &Lab, queue_capacity: u32) {
    let mut config = Config::new(lab, Family::V4, 4);
    config.on_exit = "keep";
    config.web().queue_capacity = queue_capacity;
    let toml = config.to_toml(Path::new(SOCKET), Path::new(PINS));
    fs::write(root.path().join(&CONFIG[1..]), toml).unwrap();
}

#[test]
fn the_same_source_and_binary_give_the_same_bytes() {
    let scratch = Scratch::new("package").unwrap();
    let [once, again] = ["once", "again"].map(|name| scratch.path(name));
    for directory in [&once, &again] {
        package::make(directory).unwrap();
    }
    for end in [".tar.gz", ".deb"] {
        let [first, second] = [&once, &again].map(|at| package::find(at, end).unwrap());
        assert!(
            fs::read(&first).unwrap() == fs::read(second).unwrap(),
            "{first:?} differs"
        );
    }
}

#[test]
fn it_installs_serves_and_leaves_without_a_trace() {
    let scratch = Scratch::new("package").unwrap();
    package::make(&scratch.path("made")).unwrap();
    let package = package::find(&scratch.path("made"), ".deb").unwrap();
    let root = Root::fresh().unwrap();
    fs::copy(&package, root.path().join("tmp/dispatcher.deb")).unwrap();
    let before = root.files().unwrap();
    let lab = one_backend();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();

    let apt = ["apt-get", "--yes", "--no-install-recommends", "install"];
    let installed = root
        .run(&[&apt[..], &["/tmp/dispatcher.deb"]].concat())
        .unwrap();
    assert!(installed.contains("to begin, copy"), "{installed}");
    by_hand(&root, &lab);
    root.run(&["dpkg", "--remove", "dispatcher"]).unwrap();
    ensure_detached(lab.dispatcher()).unwrap();
    assert!(!root.path().join(&PINS[1..]).exists(), "pins are left");
    assert!(
        root.path().join(&CONFIG[1..]).exists(),
        "the configuration is gone"
    );
    assert!(root.path().join("etc/default/dispatcher").exists());
    assert!(!root.path().join("usr/bin/dispatcher").exists());
    root.run(&["dpkg", "--purge", "dispatcher"]).unwrap();
    assert_nothing_left(&root, &before);

    // What it needs comes from the network, which the machine does not have.
    let download = [&apt[..], &["--download-only", "/tmp/dispatcher.deb"]].concat();
    root.run(&download).unwrap();
    let machine = root.boot(lab.dispatcher()).unwrap();
    fs::copy(&package, root.path().join("var/cache/dispatcher.deb")).unwrap();
    let install = [&apt[..], &["/var/cache/dispatcher.deb"]].concat();
    machine.run(&install).unwrap();
    as_a_service(&root, &machine, &lab);
    machine.run(&["dpkg", "--remove", "dispatcher"]).unwrap();
    ensure_detached(lab.dispatcher()).unwrap();
    assert!(machine.run(&["test", "-e", PINS]).is_err(), "pins are left");
    machine.run(&["dpkg", "--purge", "dispatcher"]).unwrap();
    machine.run(&["rm", "/var/cache/dispatcher.deb"]).unwrap();
    drop(machine);
    assert_nothing_left(&root, &before);
    assert!(server.count().peers().len() >= 3);
}

/// Without systemd: nothing was started, and what is there works from a shell.
fn by_hand(root: &Root, lab: &Lab) {
    for example in ["one-armed", "two-armed", "policies"] {
        let file = format!("{EXAMPLES}/{example}.toml");
        let mut check = root.command(Some(lab.dispatcher()));
        let output = check
            .args(["dispatcher", "check", "--json", "--config", &file])
            .output();
        let output = output.unwrap();
        // Its interfaces are not those of this machine, so it need not be fit; but it is right.
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(!told.contains("\"problems\":[{"), "{example}: {told}");
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{example}: {output:?}"
        );
    }
    configured(root, lab, 1024);
    root.run(&["dispatcher", "status"]).unwrap_err();
    let mut command = root.command(Some(lab.dispatcher()));
    command.args(["dispatcher", "run", "--config", CONFIG]);
    let mut daemon = command.stderr(Stdio::null()).spawn().unwrap();
    eventually(PATIENCE, "the daemon answers", || {
        root.run(&["dispatcher", "status"]).is_ok()
    });
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
    let ended = wait_until(&mut daemon, PATIENCE).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert!(has_program(lab.dispatcher()).unwrap(), "on_exit = keep");
}

/// Under systemd, within the limits of the unit.
fn as_a_service(root: &Root, machine: &Machine, lab: &Lab) {
    let state = || machine.property(UNIT, "ActiveState").unwrap();
    machine
        .run(&["systemd-analyze", "verify", "--man=no", UNIT])
        .unwrap();
    let path = "/usr/lib/systemd/system/dispatcher.service";
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let judged = machine.run(&[
        "systemd-analyze",
        "security",
        "--offline=true",
        &threshold,
        path,
    ]);
    let judged = judged.unwrap();
    println!("{}", judged.lines().last().unwrap_or_default());

    assert_eq!(
        machine.run(&["systemctl", "is-enabled", UNIT]).unwrap(),
        "enabled\n"
    );
    machine.run(&["systemctl", "start", UNIT]).unwrap();
    assert_eq!(state(), "inactive", "started without a configuration");

    configured(root, lab, 1024);
    machine.run(&["systemctl", "start", UNIT]).unwrap();
    assert_eq!(state(), "active");
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"start").unwrap(), b"start");

    // A restart takes the flow over.
    machine.run(&["systemctl", "restart", UNIT]).unwrap();
    assert_eq!(client::exchange(&mut held, b"restart").unwrap(), b"restart");
    let log = machine
        .run(&["journalctl", "--no-pager", "--unit", UNIT])
        .unwrap();
    assert!(log.contains("took over from an earlier daemon"), "{log}");

    // A reload takes what is right, and fails on what is wrong.
    let queue = || {
        let status = machine.run(&["dispatcher", "status", "--json"]).unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        status["services"][0]["queue"]["capacity"].clone()
    };
    let daemon = machine.main_process(UNIT).unwrap();
    configured(root, lab, 77);
    machine.run(&["systemctl", "reload", UNIT]).unwrap();
    assert_eq!(queue(), 77);
    configured(root, lab, 0);
    machine.run(&["systemctl", "reload", UNIT]).unwrap_err();
    assert_eq!((state().as_str(), queue()), ("active", 77.into()));
    assert_eq!(machine.main_process(UNIT).unwrap(), daemon);
    assert_eq!(client::exchange(&mut held, b"reload").unwrap(), b"reload");
    configured(root, lab, 1024);

    // A daemon whose admission thread is stuck is killed and started anew.
    let stuck = machine.main_process(UNIT).unwrap();
    let stopped = StoppedThread::stop(stuck, "admission").unwrap();
    eventually(WATCHDOG, "the watchdog has it started anew", || {
        stopped.let_go();
        machine.property(UNIT, "NRestarts").unwrap() == "1" && state() == "active"
    });
    drop(stopped);
    assert_ne!(machine.main_process(UNIT).unwrap(), stuck);
    assert_eq!(
        client::exchange(&mut held, b"watchdog").unwrap(),
        b"watchdog"
    );
    held.shutdown(Shutdown::Write).unwrap();
    held.read_to_end(&mut Vec::new()).unwrap();
    drop(lab.client(0).enter(|| client::connect(service)).unwrap());

    // What is wrong does not start, and says so.
    machine.run(&["systemctl", "stop", UNIT]).unwrap();
    assert_eq!(state(), "inactive");
    assert!(has_program(lab.dispatcher()).unwrap(), "on_exit = keep");
}

#[track_caller]
fn assert_nothing_left(root: &Root, before: &BTreeSet<PathBuf>) {
    root.run(&["apt-get", "--yes", "--purge", "autoremove"])
        .unwrap();
    let packages = root.run(&["dpkg", "--get-selections"]).unwrap();
    assert!(!packages.contains("dispatcher"), "{packages}");
    let after = root.files().unwrap();
    // What systemd noted of its own timers when the machine was up is not the package's.
    let of_systemd = |path: &Path| {
        let name = path.to_string_lossy();
        name.starts_with("var/lib/systemd/") && !name.contains("dispatcher")
    };
    let left = after.difference(before).filter(|path| !of_systemd(path));
    let left: Vec<_> = left.collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
