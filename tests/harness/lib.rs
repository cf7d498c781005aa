//! What the tests stand on: namespaces and wires, the real daemon, servers, clients and what was
//! seen on the wire. Everything is removed when its handle is dropped.

pub mod netns;
pub mod xdp_pass;
pub mod topology;
pub mod scratch;
pub mod config;
pub mod status;
pub mod daemon;
pub mod wire;
pub mod capture;
pub mod raw;
pub mod server;
pub mod client;
pub mod nginx;
pub mod sampler;
pub mod scenario;
pub mod packet;
pub mod program;
pub mod floor;
