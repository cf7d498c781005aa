//! The `dispatcher` command: does what was typed, and tells what failed in one line and a code.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{CommandFactory, Parser};
use dispatcher_user::admin::{
    BackendAction, BackendDone, BackendOrder, CeilingOrder, Client, ClientError, FlowQuery,
    QueueQuery, flow_table, queue_table, status_tables,
};
use dispatcher_user::cli::{
    BackendPath, CeilingArgs, CheckArgs, Cli, Command, CompletionsArgs, DrainArgs, FlowsArgs, Pin,
    QueueArgs, ReloadArgs, RunArgs, StatusArgs, SuggestArgs, TopArgs, UnloadArgs,
};
use dispatcher_user::config::{Config, ConfigError, PIN_PATH_DEFAULT};
use dispatcher_user::human::View;
use dispatcher_user::{daemon, datapath, preflight, privileges, telemetry, top};
use ratatui::crossterm::terminal;
use serde_json::json;
use tokio::runtime;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Check(args) => check(&args),
        Command::Status(args) => status(&args),
        Command::Top(args) => top(&args),
        Command::Flows(args) => flows(&args),
        Command::Queue(args) => queue(&args),
        Command::Ceiling(args) => ceiling(&args),
        Command::Suggest(args) => suggest(&args),
        Command::Drain(args) => drain(&args),
        Command::Resume(args) => order(
            &args.backend,
            BackendAction::Resume,
            &args.daemon.socket,
            args.output.json,
        ),
        Command::Disable(args) => order(
            &args.backend,
            BackendAction::Disable,
            &args.daemon.socket,
            args.output.json,
        ),
        Command::Reload(args) => reload(&args),
        Command::Unload(args) => unload(&args),
        Command::Completions(args) => completions(&args),
        Command::Man => man(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// One line; of a wrong configuration one for each problem, as a compiler prints them.
fn complain(error: &anyhow::Error) {
    match error.downcast_ref::<ConfigError>() {
        Some(wrong @ ConfigError::Wrong { .. }) => eprintln!("{wrong}"),
        _ => eprintln!("dispatcher: error: {error:#}"),
    }
}

/// Prints to stdout; a reader that has seen enough is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    telemetry::init_log(args.log_format)?;
    let config = Config::load(&args.config)?;
    privileges::begin()?;
    if let Err(error) = File::open(&args.config) {
        let file = args.config.display();
        tracing::warn!(%file, %error, "reading it takes more than is kept: a reload will fail");
    }
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(privileges::settle_or_abort)
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(daemon::run(args.config.clone(), config))?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Err(ConfigError::Wrong { problems, .. }) if args.output.json => {
            print(&format!(
                "{}\n",
                json!({ "ok": false, "problems": problems })
            ))?;
            return Ok(ExitCode::FAILURE);
        }
        loaded => loaded?,
    };
    let findings = if args.file_only {
        None
    } else {
        let facts = ask(preflight::read(&config))?.context("cannot look at this machine")?;
        Some(preflight::check(&config, &facts))
    };
    let fit = findings.as_deref().is_none_or(preflight::is_fit);
    let (services, backends) = (config.services.len(), config.backends_len());
    if args.output.json {
        let mut told = json!({ "ok": fit, "services": services, "backends": backends });
        if let Some(findings) = findings {
            told["findings"] = serde_json::to_value(findings)?;
        }
        print(&format!("{told}\n"))?;
    } else {
        let mut text = format!(
            "{}: ok: {}, {}\n",
            args.config.display(),
            counted(services as u64, "service"),
            counted(backends as u64, "back-end")
        );
        if let Some(findings) = findings {
            let colour = is_coloured();
            text.push_str(&preflight::report(&findings, colour));
            text.push_str(&preflight::summary(&findings, colour));
        }
        print(&text)?;
    }
    Ok(if fit {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// On a terminal that can, unless NO_COLOR (<https://no-color.org>) says otherwise.
fn is_coloured() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let dumb = set("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb
}

/// How stdout is seen.
fn view() -> View {
    let size = std::io::stdout().is_terminal().then(terminal::size);
    View {
        width: size
            .and_then(|size| Some(usize::from(size.ok()?.0)))
            .filter(|width| *width > 0),
        colour: is_coloured(),
    }
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Commands ask one question and need one thread.
fn ask<T>(question: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(question))
}

fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let answer = ask(Client::new(&args.daemon.socket).status())??;
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    print(&status_tables(&answer.value, view()))
}

fn top(args: &TopArgs) -> anyhow::Result<ExitCode> {
    ask(top::run(&args.daemon.socket, args.interval))??;
    Ok(ExitCode::SUCCESS)
}

fn flows(args: &FlowsArgs) -> anyhow::Result<ExitCode> {
    let query = FlowQuery {
        service: args.service.clone(),
        backend: args.backend.clone(),
        client: args.client,
        limit: args.limit.limit,
    };
    let answer = ask(Client::new(&args.daemon.socket).flows(&query))??;
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    let list = answer.value;
    tell_truncated(list.truncated, list.flows.len());
    print(&flow_table(&list.flows, view()))
}

fn queue(args: &QueueArgs) -> anyhow::Result<ExitCode> {
    let query = QueueQuery {
        service: args.service.clone(),
        limit: args.limit.limit,
    };
    let answer = ask(Client::new(&args.daemon.socket).queue(&query))??;
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    let list = answer.value;
    tell_truncated(list.truncated, list.queue.len());
    print(&queue_table(&list.queue, view()))
}

fn ceiling(args: &CeilingArgs) -> anyhow::Result<ExitCode> {
    let order = CeilingOrder {
        service: args.backend.service.clone(),
        backend: args.backend.backend.clone(),
        ceiling: match args.ceiling {
            Pin::At(ceiling) => Some(ceiling),
            Pin::Auto => None,
        },
    };
    let answer = ask(Client::new(&args.daemon.socket).set_ceiling(&order))??;
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    let done = answer.value;
    let how = if done.pinned {
        "pinned".to_owned()
    } else {
        format!("moved by policy {} again", done.policy)
    };
    let (service, backend, ceiling) = (done.service, done.backend, done.ceiling);
    print(&format!("{service}/{backend}: ceiling {ceiling}, {how}\n"))
}

fn suggest(args: &SuggestArgs) -> anyhow::Result<ExitCode> {
    let path = &args.backend;
    let client = Client::new(&args.daemon.socket);
    let answer = ask(client.suggestion(&path.service, &path.backend))??;
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    let place = format!("{}/{}", path.service, path.backend);
    print(&match answer.value.suggested {
        Some(suggested) => format!("{place}: {}: {}\n", suggested.ceiling, suggested.why),
        None => format!(
            "{place}: too little was measured yet; it takes windows with traffic at two \
             ceilings or more\n"
        ),
    })
}

/// Gives the order, and prints what it came to.
fn order(
    path: &BackendPath,
    action: BackendAction,
    socket: &Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let order = BackendOrder {
        service: path.service.clone(),
        backend: path.backend.clone(),
        action,
    };
    let answer = ask(Client::new(socket).set_backend(&order))??;
    if json {
        return print(&format!("{}\n", answer.json));
    }
    let BackendDone {
        service,
        backend,
        state,
        connections,
    } = answer.value;
    let had = match (action, connections) {
        (BackendAction::Resume, _) | (_, 0) => String::new(),
        (BackendAction::Drain, left) => format!(", {} left", counted(left, "connection")),
        (BackendAction::Disable, had) => format!(", {} reset", counted(had, "connection")),
    };
    print(&format!("{service}/{backend}: {}{had}\n", state.label()))
}

fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let socket = &args.daemon.socket;
    let code = order(
        &args.backend,
        BackendAction::Drain,
        socket,
        args.output.json,
    )?;
    if !args.wait {
        return Ok(code);
    }
    let path = &args.backend;
    let place = format!("{}/{}", path.service, path.backend);
    let client = Client::new(socket);
    let left = ask(wait_until_drained(&client, path, args.timeout))??;
    anyhow::ensure!(
        left == 0,
        "{place} still has {}; `dispatcher disable {place}` resets them",
        counted(left, "connection")
    );
    Ok(code)
}

/// How often it is looked whether a back-end has connections left.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until a back-end has no connection left, or is not there any more, and shows on stderr how
/// many are left. Returns how many are when the time is over.
async fn wait_until_drained(
    client: &Client,
    path: &BackendPath,
    within: Option<Duration>,
) -> anyhow::Result<u64> {
    let mut progress = Progress::new(format!("{}/{}", path.service, path.backend));
    // Its names may become another's while it drains; its addresses do not.
    let mut place = None;
    let drained = async {
        loop {
            let status = client.status().await?.value;
            let at = *place.get_or_insert_with(|| status.place(&path.service, &path.backend));
            let found = at.and_then(|at| status.at(at));
            let left = found.map_or(0, |one| one.active + one.half_open);
            progress.show(left);
            if left == 0 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    // One that was never shown counts as one that has not ended.
    match within {
        None => drained.await?,
        Some(within) => tokio::time::timeout(within, drained)
            .await
            .unwrap_or(Ok(()))?,
    }
    progress.end();
    Ok(progress.shown.unwrap_or(1))
}

/// What is shown while a back-end drains: on a terminal one line that changes, else a line for each
/// change.
struct Progress {
    place: String,
    shown: Option<u64>,
    live: bool,
}

impl Progress {
    fn new(place: String) -> Self {
        Self {
            place,
            shown: None,
            live: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, left: u64) {
        if self.shown.replace(left) == Some(left) {
            return;
        }
        let line = format!("{}: {} left", self.place, counted(left, "connection"));
        if self.live {
            // To the line's start, and what is longer there is erased.
            eprint!("\r{line}\x1b[K");
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.live {
            eprintln!();
        }
    }
}

fn reload(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let answer = match ask(Client::new(&args.daemon.socket).reload())? {
        Err(ClientError::Refused { reason, .. }) => {
            // Lines as a compiler prints them, as `check` does.
            eprintln!("{reason}");
            return Ok(ExitCode::FAILURE);
        }
        answered => answered?,
    };
    if args.output.json {
        return print(&format!("{}\n", answer.json));
    }
    let done = answer.value;
    let notes = done.notes.iter().map(|note| format!("note: {note}\n"));
    let changes = done.changes.iter().map(|change| format!("{change}\n"));
    let told: String = changes.chain(notes).collect();
    print(if told.is_empty() {
        "nothing has changed\n"
    } else {
        &told
    })
}

fn tell_truncated(truncated: bool, shown: usize) {
    if truncated {
        eprintln!("dispatcher: only {shown} rows are shown; raise --limit or filter");
    }
}

fn unload(args: &UnloadArgs) -> anyhow::Result<ExitCode> {
    let pin_path = match &args.config {
        Some(file) => Config::load(file)?.dataplane.pin_path,
        None => PathBuf::from(PIN_PATH_DEFAULT),
    };
    if !args.force && datapath::is_in_use(&pin_path)? {
        bail!(
            "a dispatcher runs with the pins in {}: stop it first, or cut it off from its program \
             with --force",
            pin_path.display()
        );
    }
    print(&format!("{}\n", datapath::unload(&pin_path)?))
}

fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dispatcher", &mut script);
    print(&String::from_utf8(script)?)
}

/// One page: the sections of each command follow as subsections.
fn man() -> anyhow::Result<ExitCode> {
    let mut root = Cli::command();
    root.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(root.clone()).render(&mut page)?;
    // clap_mangen names a page for each command; they are sections of this one.
    let mut page = String::from_utf8(page)?.replace("dispatcher\\-", "dispatcher ");
    page = page.replace(".SH EXTRA\n", ".SH NOTES\n");
    for command in root.get_subcommands() {
        let name = command.get_name().to_uppercase();
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut section = Vec::new();
        let man = clap_mangen::Man::new(command.clone());
        man.render_synopsis_section(&mut section)?;
        man.render_options_section(&mut section)?;
        man.render_extra_section(&mut section)?;
        let section = String::from_utf8(section)?.replace("\n.SH ", "\n.SS ");
        let mut section = section.replacen(".SH SYNOPSIS", "", 1);
        // Examples are to be copied: their lines are not filled.
        for head in ["Example:", "Examples:"] {
            let told = format!(".SS EXTRA\n{head}\n");
            if section.contains(&told) {
                section = section.replace(&told, ".SS EXAMPLES\n.nf\n");
                section.push_str(".fi\n");
            }
        }
        page.push_str(&format!(
            ".SH {name}\n{about}\n.PP\n{}\n",
            section.trim_start()
        ));
    }
    print(&page)
}
