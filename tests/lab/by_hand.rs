//! The lab kept between commands, for trying things by hand.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dispatcher_tests::config::Config;
use dispatcher_tests::daemon;
use dispatcher_tests::interrupt;
use dispatcher_tests::netns::{self, Namespace};
use dispatcher_tests::port_program::{BPF_FS, mount_bpf_fs};
use dispatcher_tests::server::Server;
use dispatcher_tests::topology::{Family, Lab, Shape, Topology, Vlans};

use crate::workload::MODELS;

/// What the names of the namespaces begin with.
const PREFIX: &str = "dsplab";
/// Where the example configuration and the daemon's socket are.
const DIRECTORY: &str = "/run/dispatcher-lab";
/// Name of the daemon's directory of pins.
const PINS: &str = "dispatcher-lab";
/// Connections that the example configuration lets each back-end have.
const CEILING: u32 = 4;

/// Makes the namespaces, writes an example configuration and says what to try.
pub fn up(clients: u8, backends: u8, one_armed: bool, queues: u8) -> Result<()> {
    ensure!(
        !exists()?,
        "the lab is up already; `dispatcher-lab down` removes it"
    );
    mount_bpf_fs()?;
    let topology = Topology {
        clients,
        backends,
        shape: if one_armed {
            Shape::OneArmed
        } else {
            Shape::TwoArmed
        },
        vlans: Vlans::None,
        queues,
    };
    let mut lab = topology.up_as(PREFIX)?;
    fs::create_dir_all(DIRECTORY).context("cannot make /run/dispatcher-lab")?;
    let socket = Path::new(DIRECTORY).join("admin.sock");
    let pins = Path::new(BPF_FS).join(PINS);
    let config = Config::new(&lab, Family::V4, CEILING).to_toml(&socket, &pins);
    let path = Path::new(DIRECTORY).join("dispatcher.toml");
    fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
    lab.keep();
    explain(&lab, &path, &socket);
    Ok(())
}

fn explain(nodes: &Lab, config: &Path, socket: &Path) {
    let (config, socket) = (config.display(), socket.display());
    for (role, group) in [("client", nodes.clients()), ("backend", nodes.backends())] {
        for (node, i) in group.iter().zip(1..) {
            println!(
                "{role}-{i:<4} {:16} {}",
                node.ip(Family::V4),
                node.ip(Family::V6)
            );
        }
    }
    let (v4, v6) = (nodes.vip(Family::V4), nodes.vip(Family::V6));
    println!("service    {v4:16} {v6}\n");
    let lab = own_command();
    let numbers: Vec<_> = (1..=nodes.backends().len())
        .map(|i| i.to_string())
        .collect();
    let numbers = numbers.join(" ");
    println!(
        "Each of these in a terminal of its own, as root:\n\
         \n  for i in {numbers}; do {lab} exec backend-$i -- dispatcher-lab serve & done; wait\
         \n  {lab} exec dispatcher -- dispatcher run --config {config}\
         \n  {lab} exec client -- curl http://{v4}/\
         \n  {lab} exec dispatcher -- dispatcher status --socket {socket}\
         \n  {lab} exec backend-1 -- tcpdump -ni eth0 tcp\
         \n  bpftool map dump pinned {BPF_FS}/{PINS}/FLOWS\n\n\
         `{lab} down` removes it all."
    );
}

/// What was typed to come here: the variable is for those who start this program for others.
fn own_command() -> String {
    std::env::var("DISPATCHER_LAB_COMMAND").unwrap_or_else(|_| {
        let own = std::env::current_exe();
        own.map_or_else(
            |_| "dispatcher-lab".to_owned(),
            |own| own.display().to_string(),
        )
    })
}

fn exists() -> Result<bool> {
    Ok(ours()?.next().is_some())
}

fn ours() -> Result<impl Iterator<Item = String>> {
    let names = netns::names()?.into_iter();
    Ok(names.filter(|name| {
        name.strip_prefix(PREFIX)
            .is_some_and(|rest| rest.starts_with('-'))
    }))
}

/// Removes the namespaces, the pins and the files.
pub fn down() -> Result<()> {
    for name in ours()? {
        let pids = Command::new("ip").args(["netns", "pids", &name]).output()?;
        let pids = String::from_utf8_lossy(&pids.stdout);
        let pids: Vec<_> = pids.split_whitespace().collect();
        if !pids.is_empty() {
            eprintln!(
                "still running in {name}, to be ended by you: {}",
                pids.join(" ")
            );
        }
    }
    Lab::remove(PREFIX)?;
    for path in [Path::new(BPF_FS).join(PINS), DIRECTORY.into()] {
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Becomes the command, inside the namespace.
pub fn exec(place: &str, command: &[OsString]) -> Result<()> {
    let role = if place == "client" { "client-1" } else { place };
    let namespace = Namespace::open(&format!("{PREFIX}-{role}"))
        .with_context(|| format!("no place {place:?} in the lab; is it up?"))?;
    let [program, arguments @ ..] = command else {
        anyhow::bail!("no command given");
    };
    let mut command = namespace.command(program);
    command.args(arguments).env("PATH", search_path()?);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Where programs are looked for: `dispatcher` and `dispatcher-lab` are found without installing.
fn search_path() -> Result<OsString> {
    let binaries = [std::env::current_exe().ok(), daemon::binary().ok()];
    let ours = binaries.into_iter().flatten();
    let ours = ours.filter_map(|path| path.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(
        ours.chain(std::env::split_paths(&path)),
    )?)
}

/// Answers HTTP, where it was started, until a signal comes.
pub fn serve(port: u16) -> Result<()> {
    interrupt::catch()?;
    let model = MODELS[0];
    let server = Server::here(port, model.serve())?;
    println!(
        "answering at port {port} as the demonstration's {} back-end does",
        model.name
    );
    while interrupt::sleep_until(Instant::now() + Duration::from_secs(60)) {}
    println!(
        "{} connections, at most {} at once",
        server.count().peers().len(),
        server.count().most()
    );
    Ok(())
}
