//! What can be typed. Nothing is done here; what a value means is said in `config`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::SOCKET_DEFAULT;
use crate::telemetry::LogFormat;

/// The command line.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(
    name = "dispatcher",
    version,
    about = "Gives each back-end no more connections than it can serve; the rest wait in order",
    after_help = NOTES,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const NOTES: &str = "Exit codes: 0 done, 1 it failed, 2 wrong usage\n\n\
    A terminal that is too narrow for a table is shown fewer columns; --json tells all. Colour is \
    for terminals, unless NO_COLOR is set.";

/// What to do.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run the daemon in the foreground; SIGTERM and SIGINT stop it, SIGHUP reloads
    #[command(after_help = "Example:\n  dispatcher run --config /etc/dispatcher/dispatcher.toml")]
    Run(RunArgs),
    /// Validate a configuration and see whether this machine is fit for it; changes nothing
    #[command(after_help = "Examples:\n  \
        dispatcher check --config /etc/dispatcher/dispatcher.toml\n  \
        dispatcher check --config examples/two-armed.toml --file-only\n  \
        dispatcher check --config dispatcher.toml --json | jq -r '.findings[].mend // empty'")]
    Check(CheckArgs),
    /// Show services, back-ends, ceilings and queues
    #[command(after_help = "Examples:\n  dispatcher status\n  \
        dispatcher status --json | jq '.services[].queue.depth'")]
    Status(StatusArgs),
    /// Show the same, live, with the last minutes; keys pin ceilings
    #[command(after_help = "Examples:\n  dispatcher top\n  dispatcher top --interval 5s")]
    Top(TopArgs),
    /// List connections
    #[command(
        after_help = "Examples:\n  dispatcher flows --service web --backend web-1\n  \
        dispatcher flows --client 198.51.100.7 --json"
    )]
    Flows(FlowsArgs),
    /// List the requests that wait, oldest first
    #[command(after_help = "Example:\n  dispatcher queue --service web")]
    Queue(QueueArgs),
    /// Pin a back-end's ceiling by hand, or give it back to its policy
    #[command(after_help = "Examples:\n  dispatcher ceiling web/web-1 24\n  \
        dispatcher ceiling web/web-1 auto")]
    Ceiling(CeilingArgs),
    /// Tell what ceiling the measurements so far point to, and why
    #[command(after_help = "Examples:\n  dispatcher suggest web/web-1\n  \
        dispatcher suggest web/web-1 --json | jq .suggested.ceiling")]
    Suggest(SuggestArgs),
    /// Admit no more connections to a back-end; those that it has go on
    #[command(after_help = "Examples:\n  dispatcher drain web/web-1\n  \
        dispatcher drain web/web-1 --wait --timeout 5m")]
    Drain(DrainArgs),
    /// Admit connections to a back-end again
    #[command(after_help = "Example:\n  dispatcher resume web/web-1")]
    Resume(BackendArgs),
    /// Admit no more connections to a back-end, and reset those that it has
    #[command(after_help = "Example:\n  dispatcher disable web/web-1")]
    Disable(BackendArgs),
    /// Read the configuration again; a wrong one changes nothing
    #[command(after_help = "Example:\n  dispatcher check --config FILE && dispatcher reload")]
    Reload(ReloadArgs),
    /// Detach the program and remove its pins; for when no daemon runs
    #[command(after_help = "Example:\n  dispatcher unload --config dispatcher.toml")]
    Unload(UnloadArgs),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  dispatcher completions bash > \
        /usr/share/bash-completion/completions/dispatcher")]
    Completions(CompletionsArgs),
    /// Print the manual page
    #[command(after_help = "Example:\n  dispatcher man | man -l -")]
    Man,
}

/// `run`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "DISPATCHER_CONFIG")]
    pub config: PathBuf,
    /// The form of the log on stderr; RUST_LOG says what is logged
    #[arg(
        long,
        value_name = "FORMAT",
        env = "DISPATCHER_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// `check`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct CheckArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", env = "DISPATCHER_CONFIG")]
    pub config: PathBuf,
    /// Look at the file only, as for a configuration of another machine
    #[arg(long, env = "DISPATCHER_FILE_ONLY")]
    pub file_only: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub output: Output,
}

/// `status`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "clap would show a doc comment as help")]
pub struct StatusArgs {
    #[command(flatten)]
    pub daemon: Daemon,
    #[command(flatten)]
    pub output: Output,
}

/// `top`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct TopArgs {
    /// How often to ask the daemon, 200ms to 1m
    #[arg(
        long,
        value_name = "TIME",
        env = "DISPATCHER_INTERVAL",
        default_value = "1s",
        value_parser = top_interval
    )]
    pub interval: Duration,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub daemon: Daemon,
}

/// An interval as it is typed.
fn top_interval(typed: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(typed).ok();
    interval
        .filter(|interval| {
            (Duration::from_millis(200)..=Duration::from_secs(60)).contains(interval)
        })
        .ok_or_else(|| "write a time from 200ms to 1m, such as 1s".to_owned())
}

/// `flows`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "clap would show a doc comment as help")]
pub struct FlowsArgs {
    /// Only of this service
    #[arg(long, value_name = "SERVICE", env = "DISPATCHER_SERVICE")]
    pub service: Option<String>,
    /// Only at back-ends of this name
    #[arg(long, value_name = "BACKEND", env = "DISPATCHER_BACKEND")]
    pub backend: Option<String>,
    /// Only of this client
    #[arg(long, value_name = "IP", env = "DISPATCHER_CLIENT")]
    pub client: Option<IpAddr>,
    #[command(flatten)]
    pub limit: Limit,
    #[command(flatten)]
    pub daemon: Daemon,
    #[command(flatten)]
    pub output: Output,
}

/// `queue`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "clap would show a doc comment as help")]
pub struct QueueArgs {
    /// Only of this service
    #[arg(long, value_name = "SERVICE", env = "DISPATCHER_SERVICE")]
    pub service: Option<String>,
    #[command(flatten)]
    pub limit: Limit,
    #[command(flatten)]
    pub daemon: Daemon,
    #[command(flatten)]
    pub output: Output,
}

/// `ceiling`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct CeilingArgs {
    /// The back-end, with its service
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendPath,
    /// Connections, or auto for what the policy says
    #[arg(value_name = "N|auto")]
    pub ceiling: Pin,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub daemon: Daemon,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub output: Output,
}

/// `suggest`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct SuggestArgs {
    /// The back-end, with its service
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendPath,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub daemon: Daemon,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub output: Output,
}

/// `drain`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct DrainArgs {
    /// The back-end, with its service
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendPath,
    /// Return when its last connection has ended
    #[arg(long, env = "DISPATCHER_WAIT")]
    pub wait: bool,
    /// Give up waiting after this time, such as 5m [default: wait on]
    #[arg(long, value_name = "TIME", env = "DISPATCHER_TIMEOUT", requires = "wait",
        value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub daemon: Daemon,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub output: Output,
}

/// `resume` and `disable`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct BackendArgs {
    /// The back-end, with its service
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendPath,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub daemon: Daemon,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show a doc comment as help")]
    pub output: Output,
}

/// `reload`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "clap would show a doc comment as help")]
pub struct ReloadArgs {
    #[command(flatten)]
    pub daemon: Daemon,
    #[command(flatten)]
    pub output: Output,
}

/// A back-end as it is typed: `web/web-1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendPath {
    /// Name of its service.
    pub service: String,
    /// Its name.
    pub backend: String,
}

impl FromStr for BackendPath {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => Ok(Self {
                service: service.to_owned(),
                backend: backend.to_owned(),
            }),
            _ => Err("write SERVICE/BACKEND, such as web/web-1".to_owned()),
        }
    }
}

/// A ceiling as it is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// So many connections.
    At(u32),
    /// What the policy says.
    Auto,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        if typed == "auto" {
            return Ok(Self::Auto);
        }
        typed
            .parse()
            .map(Self::At)
            .map_err(|_| "write a number of connections, or auto".to_owned())
    }
}

/// `unload`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct UnloadArgs {
    /// The configuration, for the path of the pins; without it, the default path
    #[arg(long, value_name = "FILE", env = "DISPATCHER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Also under a daemon that runs, which admits nobody then until it is started anew
    #[arg(long)]
    pub force: bool,
}

/// `completions`
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Where a daemon is.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// The admin socket of the daemon
    #[arg(long, value_name = "PATH", env = "DISPATCHER_SOCKET", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
}

/// How much to list.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Most rows, 1 to 1000000 [default: 100000]
    #[arg(long, value_name = "ROWS", env = "DISPATCHER_LIMIT")]
    pub limit: Option<usize>,
}

/// How to print.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Print JSON
    #[arg(long, env = "DISPATCHER_JSON")]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable_and_every_command_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_after_help().is_some(), "{name} has no example");
            for flag in command.get_opts() {
                assert!(flag.get_env().is_some(), "{name} --{:?}", flag.get_long());
            }
        }
    }

    #[test]
    fn flows_takes_all_its_filters() {
        let typed = "dispatcher flows --service web --backend web-1 --client 2001:db8::7 \
            --limit 5 --socket /tmp/s --json";
        let Command::Flows(flows) = Cli::parse_from(typed.split_whitespace()).command else {
            panic!("not read as flows");
        };
        assert_eq!(flows.service.as_deref(), Some("web"));
        assert_eq!(flows.backend.as_deref(), Some("web-1"));
        assert_eq!(flows.client, Some("2001:db8::7".parse().unwrap()));
        assert_eq!(flows.limit.limit, Some(5));
        assert_eq!(flows.daemon.socket, PathBuf::from("/tmp/s"));
        assert!(flows.output.json);
    }

    #[test]
    fn a_ceiling_is_a_number_or_auto() {
        for (typed, pin) in [("24", Pin::At(24)), ("auto", Pin::Auto)] {
            let line = ["dispatcher", "ceiling", "web/web-1", typed];
            let Command::Ceiling(args) = Cli::parse_from(line).command else {
                panic!("not read as ceiling");
            };
            assert_eq!(args.ceiling, pin);
            assert_eq!(args.backend.service, "web");
            assert_eq!(args.backend.backend, "web-1");
        }
    }

    #[test]
    fn a_drain_may_be_waited_for_and_the_wait_has_a_unit() {
        let typed = "dispatcher drain web/web-1 --wait --timeout 5m";
        let Command::Drain(args) = Cli::parse_from(typed.split_whitespace()).command else {
            panic!("not read as drain");
        };
        assert!(args.wait);
        assert_eq!(args.timeout, Some(Duration::from_secs(300)));
    }

    #[test]
    fn wrong_usage_is_told_apart() {
        for (typed, kind) in [
            ("dispatcher run", ErrorKind::MissingRequiredArgument),
            ("dispatcher walk", ErrorKind::InvalidSubcommand),
            ("dispatcher status --jsn", ErrorKind::UnknownArgument),
            ("dispatcher flows --client me", ErrorKind::ValueValidation),
            ("dispatcher ceiling web 4", ErrorKind::ValueValidation),
            ("dispatcher ceiling web/a -1", ErrorKind::UnknownArgument),
            ("dispatcher ceiling web/a many", ErrorKind::ValueValidation),
            ("dispatcher suggest web/", ErrorKind::ValueValidation),
            ("dispatcher top --interval 1", ErrorKind::ValueValidation),
            ("dispatcher top --interval 10ms", ErrorKind::ValueValidation),
            ("dispatcher drain web", ErrorKind::ValueValidation),
            (
                "dispatcher drain web/a --timeout 5m",
                ErrorKind::MissingRequiredArgument,
            ),
            (
                "dispatcher drain web/a --wait --timeout soon",
                ErrorKind::ValueValidation,
            ),
            (
                "dispatcher run --config f --log-format xml",
                ErrorKind::InvalidValue,
            ),
        ] {
            let error = Cli::try_parse_from(typed.split_whitespace()).unwrap_err();
            assert_eq!(error.kind(), kind, "{typed}");
            assert_eq!(error.exit_code(), 2, "{typed}");
        }
    }
}
