//! What must be survived, without a kernel: every order of a connection's packets on a network that
//! loses, repeats and reorders them, and whatever bytes reach a parser.

pub mod random;
pub mod end;
pub mod wire;

pub mod targets;
mod packet;
mod icmp;
mod admission;
mod config;
mod admin;
mod agent;
