//! What the daemon refuses: one clear line, exit code 1, and nothing attached or left behind.

use std::process::{Output, Stdio};

use dispatcher_tests::config::Config;
use dispatcher_tests::daemon::{self, Daemon, Files, ensure_detached, has_program};
use dispatcher_tests::topology::{Family, Lab, Topology};

fn lab() -> Lab {
    Topology::default().up().unwrap()
}

/// Exit code 1, `words` all in the last line, no panic, no program attached.
#[track_caller]
fn assert_clear(lab: &Lab, output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let line = text.lines().last().unwrap_or_default();
    for word in words {
        assert!(
            line.contains(word),
            "no {word:?} in the last line of:\n{text}"
        );
    }
    ensure_detached(lab.dispatcher()).unwrap();
}

#[track_caller]
fn refused(change: impl FnOnce(&Lab, &mut Config), words: &[&str]) {
    let lab = lab();
    let mut config = Config::new(&lab, Family::V4, 4);
    change(&lab, &mut config);
    let output = Daemon::refused(&lab, &config).unwrap();
    assert_clear(&lab, &output, words);
}

#[test]
fn an_unknown_key_is_shown_with_file_line_and_column() {
    let lab = lab();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.extra = "\n[bogus]\nkey = 1\n".to_owned();
    let files = Files::new(&config).unwrap();
    let text = std::fs::read_to_string(&files.config).unwrap();
    let line = text.lines().position(|line| line == "[bogus]").unwrap() + 1;
    let output = Daemon::run_to_end(lab.dispatcher(), &files.config).unwrap();
    assert_clear(
        &lab,
        &output,
        &["dispatcher.toml", &format!(":{line}:"), "bogus"],
    );
}

#[test]
fn a_wrong_unit_is_shown_with_what_is_allowed() {
    refused(
        |_, config| config.web().queue_timeout = "5 parsecs",
        &["dispatcher.toml", "parsecs"],
    );
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let lab = lab();
    let missing = std::path::Path::new("/nonexistent/dispatcher.toml");
    let output = Daemon::run_to_end(lab.dispatcher(), missing).unwrap();
    assert_clear(&lab, &output, &["/nonexistent/dispatcher.toml"]);
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    refused(
        |_, config| config.interfaces = vec!["front".to_owned(), "nowhere0".to_owned()],
        &["nowhere0"],
    );
}

#[test]
fn zero_copy_where_the_driver_cannot_is_refused() {
    refused(
        |_, config| config.xsk_mode = "zero-copy",
        &["zero-copy", "front"],
    );
}

#[test]
fn native_mode_where_the_driver_cannot_is_refused() {
    refused(
        |lab, config| {
            let make = ["ip", "link", "add", "plain0", "type", "bridge"];
            lab.dispatcher().run(&make).unwrap();
            lab.dispatcher()
                .run(&["ip", "link", "set", "plain0", "up"])
                .unwrap();
            config.interfaces = vec!["front".to_owned(), "plain0".to_owned()];
        },
        &["native", "plain0"],
    );
}

#[test]
fn a_second_daemon_on_the_same_interfaces_is_refused_and_the_first_goes_on() {
    let lab = lab();
    let config = Config::new(&lab, Family::V4, 4);
    let mut first = Daemon::start(&lab, &config).unwrap();
    let mut second = config;
    second.metrics = None;
    let output = Daemon::refused(&lab, &second).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().last().unwrap_or_default();
    assert!(line.contains("front"), "{text}");
    assert!(first.is_alive());
    assert!(
        has_program(lab.dispatcher()).unwrap(),
        "the first one's program is gone"
    );
    first.try_status().unwrap();
    first.finish().unwrap();
}

#[test]
fn without_privilege_the_line_says_what_is_missing() {
    let lab = lab();
    let files = Files::new(&Config::new(&lab, Family::V4, 4)).unwrap();
    let mut command = lab.dispatcher().command("setpriv");
    let bounding = ["--bounding-set=-all", "--inh-caps=-all", "--"];
    command.args(bounding).arg(daemon::binary().unwrap());
    command.args(["run", "--config"]).arg(&files.config);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_clear(&lab, &output, &["CAP_"]);
}

#[test]
fn without_a_daemon_a_command_is_one_line_and_exit_code_1() {
    let mut command = std::process::Command::new(daemon::binary().unwrap());
    let output = command
        .args(["status", "--socket", "/nonexistent/admin.sock"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("/nonexistent/admin.sock"), "{text}");
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let mut command = std::process::Command::new(daemon::binary().unwrap());
    let output = command.arg("no-such-command").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn more_receive_queues_than_there_may_be_sockets_are_refused() {
    refused(
        |lab, config| {
            let make = [
                "ip",
                "link",
                "add",
                "many0",
                "numrxqueues",
                "257",
                "numtxqueues",
                "1",
                "type",
                "veth",
                "peer",
                "name",
                "many1",
            ];
            lab.dispatcher().run(&make).unwrap();
            config.interfaces = vec!["many0".to_owned(), "front".to_owned()];
        },
        &[
            "more than 256 receive queues",
            "257 of them on many0",
            "ethtool -L many0",
        ],
    );
}
