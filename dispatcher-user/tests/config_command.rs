//! The command itself, as far as it needs no daemon: what it prints, where, and its exit code.

use std::process::{Command, Output};

use clap::CommandFactory;
use dispatcher_user::cli::Cli;

/// Runs `dispatcher` in the package's directory, without any of its environment variables.
fn dispatcher(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let inherited = std::env::vars().filter(|(name, _)| {
        !name.starts_with("DISPATCHER_") && name != "RUST_LOG" && name != "RUST_BACKTRACE"
    });
    Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(inherited)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Exit code, stdout, stderr.
fn outcome(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = dispatcher(arguments, environment);
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

const RIGHT: &str = "../examples/two-armed.toml";
const WRONG: &str = "tests/fixtures/many_problems.toml";

#[test]
fn check_tells_a_right_configuration() {
    let told = format!("{RIGHT}: ok: 1 service, 3 back-ends\n");
    let done = (Some(0), told, String::new());
    assert_eq!(
        outcome(&["check", "--file-only", "--config", RIGHT], &[]),
        done
    );
    assert_eq!(
        outcome(&["check", "--file-only"], &[("DISPATCHER_CONFIG", RIGHT)]),
        done
    );
    let (code, told, _) = outcome(&["check", "--file-only", "--config", RIGHT, "--json"], &[]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let expected = serde_json::json!({ "ok": true, "services": 1, "backends": 3 });
    assert_eq!((code, told), (Some(0), expected));
}

#[test]
fn check_tells_each_problem_in_a_line() {
    let (code, stdout, stderr) = outcome(&["check", "--config", WRONG], &[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 13);
    assert!(
        stderr
            .lines()
            .all(|line| line.starts_with(&format!("{WRONG}:"))),
        "{stderr}"
    );
    let (code, stdout, stderr) = outcome(&["check", "--config", WRONG, "--json"], &[]);
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert_eq!(told["ok"], false);
    assert_eq!(told["problems"].as_array().unwrap().len(), 13);
    assert_eq!(told["problems"][0]["line"], 2);
    assert_eq!(told["problems"][0]["column"], 23);
}

#[test]
fn run_and_unload_refuse_what_check_refuses() {
    let (_, _, checked) = outcome(&["check", "--config", WRONG], &[]);
    for command in ["run", "unload"] {
        let (code, stdout, stderr) = outcome(&[command, "--config", WRONG], &[]);
        assert_eq!(
            (code, stdout.as_str(), &stderr),
            (Some(1), "", &checked),
            "{command}"
        );
    }
}

#[test]
fn a_missing_file_is_one_line() {
    let (code, stdout, stderr) = outcome(&["run", "--config", "no.toml"], &[]);
    let told = "dispatcher: error: no.toml: No such file or directory (os error 2)\n";
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(1), "", told)
    );
}

#[test]
fn no_daemon_is_one_line() {
    let told = "dispatcher: error: no daemon answers at no/such.sock: no such socket; start one \
                with `dispatcher run`, or name its socket with --socket\n";
    for command in ["status", "flows", "queue"] {
        for (arguments, environment) in [
            (vec![command, "--socket", "no/such.sock"], vec![]),
            (
                vec![command, "--json"],
                vec![("DISPATCHER_SOCKET", "no/such.sock")],
            ),
        ] {
            let (code, stdout, stderr) = outcome(&arguments, &environment);
            assert_eq!(
                (code, stdout.as_str(), stderr.as_str()),
                (Some(1), "", told)
            );
        }
    }
}

#[test]
fn wrong_usage_has_its_own_code() {
    for arguments in [
        &["run"][..],
        &["check"],
        &["walk"],
        &["status", "--jsn"],
        &[],
    ] {
        let (code, stdout, stderr) = outcome(arguments, &[]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(
            stderr.contains("Usage: dispatcher"),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
fn a_log_filter_that_does_not_read_is_told() {
    let (code, _, stderr) = outcome(&["run", "--config", RIGHT], &[("RUST_LOG", "a=b=c")]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("dispatcher: error: RUST_LOG is \"a=b=c\""),
        "{stderr}"
    );
}

#[test]
fn the_manual_and_the_completions_know_every_command() {
    let (code, man, _) = outcome(&["man"], &[]);
    assert_eq!(code, Some(0));
    let (code, bash, _) = outcome(&["completions", "bash"], &[]);
    assert_eq!(code, Some(0));
    let commands = Cli::command();
    assert!(commands.get_subcommands().count() > 10);
    for command in commands.get_subcommands() {
        let command = command.get_name();
        let section = format!(".SH {}\n", command.to_uppercase());
        let (_, told) = man.split_once(&section).expect(command);
        let told = told.split(".SH ").next().unwrap_or_default();
        let examples = told.split_once(".SS EXAMPLES\n.nf\n").expect(command).1;
        let example = format!("dispatcher {command}");
        assert!(examples.contains(&example), "{command}: {examples}");
        assert!(
            bash.contains(&format!("dispatcher__subcmd__{command}")),
            "{command} in bash"
        );
    }
}
