//! The user half of Dispatcher, module by module in the order in which a connection request
//! meets them; the last ones are what people touch.
//!
//! `admission` decides and does nothing else; `xsk`, `datapath`, `network` and `agent` act and
//! decide nothing; `engine` is the one place where they meet.

pub mod xsk;
pub mod admission;
pub mod ceiling;
pub mod datapath;
pub mod network;
pub mod agent;
pub mod engine;

pub mod config;
pub mod status;
pub mod telemetry;
pub mod admin;
pub mod cli;
