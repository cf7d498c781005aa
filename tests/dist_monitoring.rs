//! Prometheus' own judgement: of a real scrape, of the alert rules, and of their tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::debian::succeed;
use dispatcher_tests::scratch::Scratch;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Topology};
use dispatcher_tests::{client, package};

/// promtool, and what keeps it there. Of Debian's package only this file is taken, which is not
/// installed: that would start a Prometheus.
fn promtool() -> (PathBuf, Option<Scratch>) {
    let found = Command::new("promtool")
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    if found.is_ok() {
        return ("promtool".into(), None);
    }
    let scratch = Scratch::new("promtool").unwrap();
    let directory = scratch.path("");
    let mut download = Command::new("apt-get");
    succeed(
        download
            .args(["download", "prometheus"])
            .current_dir(&directory),
    )
    .unwrap();
    let package = package::find(&directory, ".deb").unwrap();
    let mut extract = Command::new("dpkg-deb");
    succeed(extract.arg("--extract").arg(package).arg(&directory)).unwrap();
    (scratch.path("usr/bin/promtool"), Some(scratch))
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (promtool, _scratch) = promtool();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    let ask = |words: [&str; 3]| {
        succeed(Command::new(&promtool).args(words).current_dir(&rules)).unwrap()
    };
    ask(["check", "rules", "alerts.yml"]);
    ask(["test", "rules", "alerts.test.yml"]);

    let topology = Topology {
        backends: 2,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.extra = "[[group]]\nname = \"db\"\nceiling = 4\n".to_owned();
    config.web().backends[0].group = Some("db");
    config.web().backends[0].initial = Some(2);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    daemon.ask(&["ceiling", "web/web-1", "3"]).unwrap();

    let scratch = Scratch::new("scrape").unwrap();
    let page = scratch.write("scrape", &daemon.metrics().unwrap()).unwrap();
    let scrape = std::fs::File::open(page).unwrap();
    let mut check = Command::new(&promtool);
    let output = check
        .args(["check", "metrics"])
        .stdin(scrape)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
}
