//! What the workshop shares with build scripts and tests: building the BPF object, running
//! commands, and the costs that were agreed. The subcommands themselves are in the binary.

pub mod bpf;
pub mod command;
pub mod costs;
