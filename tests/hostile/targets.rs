//! The fuzz targets: functions of bytes that panic where something does not hold. libFuzzer calls
//! them, and so does the test that replays the corpus.

use crate::{admin, admission, agent, config, icmp, packet};

/// A target.
pub struct Target {
    /// As `cargo xtask fuzz` calls it, and the directory of its corpus.
    pub name: &'static str,
    /// What takes the bytes.
    pub body: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "parse",
        body: packet::parse,
    },
    Target {
        name: "rewrite",
        body: packet::rewrite,
    },
    Target {
        name: "icmp",
        body: icmp::answer_or_translate,
    },
    Target {
        name: "admission",
        body: admission::histories,
    },
    Target {
        name: "config",
        body: config::parse,
    },
    Target {
        name: "admin",
        body: admin::serve,
    },
    Target {
        name: "agent",
        body: agent::ask,
    },
];

/// The body of the target of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn body(name: &str) -> fn(&[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("no target {name:?}")).body
}
