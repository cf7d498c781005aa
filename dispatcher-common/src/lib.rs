//! What the kernel half and the user half of Dispatcher agree on: headers, the one parser, the one
//! rewrite, the TCP phase of a flow, and every type that crosses the kernel boundary.
//!
//! **Byte order.** Fields that come from or go to the wire are byte arrays in network order behind
//! accessors that speak host order; they have alignment 1, so no padding can leak into a map key.
//! Fields that only this machine reads (counters, phases, indexes) are native integers.
//!
//! **Who may depend.** Everyone; this crate depends on nothing of the system. No function here
//! reads a clock, allocates or panics.
#![no_std]

pub mod addr;
pub mod checksum;
pub mod control;
pub mod event;
pub mod flow;
pub mod header;
pub mod icmp;
pub mod link;
pub mod maps;
pub mod measure;
pub mod notice;
pub mod packet;
pub mod parse;
pub mod proof;
pub mod rewrite;
pub mod service;
pub mod tcp;
pub mod verdict;

#[cfg(feature = "user")]
mod pod;
