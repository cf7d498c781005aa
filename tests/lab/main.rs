//! `dispatcher-lab`: a network of namespaces on this machine to see the dispatcher work in, as a
//! demonstration or by hand.

mod by_hand;
mod demo;
mod display;
mod load;
mod workload;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use nix::unistd::geteuid;

/// A laboratory for the dispatcher: clients, dispatcher and back-ends, each in a network
/// namespace of this machine. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Drive the real daemon past the capacity of three back-ends and show how their ceilings
    /// hold; then the same load without it. Leaves nothing behind.
    Demo(demo::Options),
    /// Make the namespaces and keep them, for trying things by hand.
    Up {
        /// Client namespaces.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
        clients: u8,
        /// Back-end namespaces.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
        backends: u8,
        /// One interface of the dispatcher for both sides.
        #[arg(long)]
        one_armed: bool,
        /// Receive queues of the dispatcher's interfaces.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
        queues: u8,
    },
    /// Remove what `up` made.
    Down,
    /// Run a command in a namespace of the lab.
    Exec {
        /// `client`, `client-2`, `dispatcher`, `backend-1` and so on.
        place: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Answer HTTP as the demonstration's back-ends do; for use with `exec`.
    Serve {
        /// Port to listen at.
        #[arg(long, default_value_t = dispatcher_tests::config::BACKEND_PORT)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dispatcher-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: LabCommand) -> Result<ExitCode> {
    ensure!(
        geteuid().is_root(),
        "network namespaces need root; run it with sudo"
    );
    match command {
        LabCommand::Demo(options) => return demo::run(&options),
        LabCommand::Up {
            clients,
            backends,
            one_armed,
            queues,
        } => by_hand::up(clients, backends, one_armed, queues)?,
        LabCommand::Down => by_hand::down()?,
        LabCommand::Exec { place, command } => by_hand::exec(&place, &command)?,
        LabCommand::Serve { port } => by_hand::serve(port)?,
    }
    Ok(ExitCode::SUCCESS)
}
