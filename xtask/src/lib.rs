//! What the workshop shares with build scripts: building the BPF object, and running commands.
//! The subcommands themselves are in the binary.

pub mod bpf;
pub mod command;
