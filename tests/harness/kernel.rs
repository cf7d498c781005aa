//! What a machine's kernel counts of TCP.

use std::fs;

use crate::netns::Namespace;

/// A counter of `/proc/net/snmp` or `/proc/net/netstat` by its name, as `RetransSegs`; panics when
/// there is none of that name.
#[must_use]
pub fn tcp_counter(namespace: &Namespace, name: &str) -> u64 {
    // `/proc/net` is the main thread's.
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        namespace.enter(|| fs::read_to_string(path).expect("a kernel with counters"))
    };
    let text = read("snmp") + &read("netstat");
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("Tcp"))
        .collect();
    // A line of names, a line of values.
    let found = lines.chunks(2).find_map(|pair| {
        let at = pair[0].split(' ').position(|one| one == name)?;
        pair.get(1)?.split(' ').nth(at)?.parse().ok()
    });
    found.unwrap_or_else(|| panic!("the kernel has no counter {name}"))
}
