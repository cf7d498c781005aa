//! What the tests stand on: namespaces and wires, the real daemon, servers, clients and what was
//! seen on the wire. Everything is removed when its handle is dropped.

pub mod netns;
pub mod instruction;
pub mod bpf;
pub mod port_program;
pub mod topology;
pub mod narrows;
pub mod scratch;
pub mod config;
pub mod status;
pub mod daemon;
pub mod stopped;
pub mod terminal;
pub mod privilege;
pub mod debian;
pub mod package;
pub mod wire;
pub mod capture;
pub mod raw;
pub mod flood;
pub mod server;
pub mod client;
pub mod nginx;
pub mod apache;
pub mod cgroup;
pub mod zram;
pub mod interrupt;
pub mod browser;
pub mod sampler;
pub mod kernel;
pub mod machine;
pub mod drawing;
pub mod scenario;
pub mod churn;
pub mod outages;
pub mod restarts;
pub mod adoption;
pub mod packet;
pub mod icmp;
pub mod program;
pub mod test_run;
pub mod floor;
pub mod floor_in_lab;

use std::time::{Duration, Instant};

/// How long a condition that must come true may take, on a loaded or an emulated machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `condition` holds; panics with `what` when it does not within `deadline`.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Runs `body` for each of `cases`, all at once: in labs of their own they are in nobody's way.
pub fn each_at_once<T: Send>(cases: impl IntoIterator<Item = T>, body: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| body(case));
        }
    });
}

/// Time between two looks at a condition.
pub const POLL: Duration = Duration::from_millis(10);
