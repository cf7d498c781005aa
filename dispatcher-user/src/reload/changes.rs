//! What differs between two configurations, for people; and what cannot change while the daemon
//! runs. Pure.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use humantime::format_duration;

use crate::ceiling::Policy;
use crate::config::{Backend, Config, Service};

/// What a new configuration changes, a line each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Changes {
    /// What is other than before.
    pub(super) changes: Vec<String>,
    /// What is other in the file and makes no difference to what runs.
    pub(super) notes: Vec<String>,
}

/// Compares two configurations that are right. What cannot change while the daemon runs is an
/// error, a line for each key.
pub(super) fn changes(before: &Config, after: &Config) -> Result<Changes, Vec<String>> {
    let fixed = needs_restart(before, after);
    if !fixed.is_empty() {
        return Err(fixed);
    }
    let mut told = Changes::default();
    let (was, is) = (&before.dataplane, &after.dataplane);
    told.compare("dataplane.on_exit", &word(&was.on_exit), &word(&is.on_exit));
    let (from, to) = (word(&was.unattended), word(&is.unattended));
    told.compare("dataplane.unattended", &from, &to);
    told.groups(before, after);
    told.services(before, after);
    Ok(told)
}

fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let (was, is) = (&before.dataplane, &after.dataplane);
    let listen = |config: &Config| {
        let metrics = config.metrics.as_ref();
        metrics.map_or_else(
            || "nothing".to_owned(),
            |metrics| metrics.listen.to_string(),
        )
    };
    let of = |config: &Config| config.admin.socket.display().to_string();
    let capacity = |capacity: u32| capacity.to_string();
    let keys = [
        (
            "dataplane.interfaces",
            was.interfaces.join(", "),
            is.interfaces.join(", "),
        ),
        (
            "dataplane.attach_mode",
            word(&was.attach_mode),
            word(&is.attach_mode),
        ),
        (
            "dataplane.xsk_mode",
            word(&was.xsk_mode),
            word(&is.xsk_mode),
        ),
        (
            "dataplane.flow_capacity",
            capacity(was.flow_capacity),
            capacity(is.flow_capacity),
        ),
        (
            "dataplane.pin_path",
            was.pin_path.display().to_string(),
            is.pin_path.display().to_string(),
        ),
        (
            "dataplane.busy_poll",
            was.busy_poll.to_string(),
            is.busy_poll.to_string(),
        ),
        ("admin.socket", of(before), of(after)),
        ("metrics.listen", listen(before), listen(after)),
    ];
    let differ = keys.into_iter().filter(|(_, from, to)| from != to);
    differ
        .map(|(key, from, to)| format!("{key}: from {from} to {to} needs a restart"))
        .collect()
}

/// A value of an enumeration as the configuration has it.
fn word(value: &impl Debug) -> String {
    let mut word = String::new();
    for c in format!("{value:?}").chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

fn time(duration: Duration) -> String {
    format_duration(duration).to_string()
}

/// What is known by its address, and where it stands.
fn by_address<T>(all: &[T], address: impl Fn(&T) -> SocketAddr) -> HashMap<SocketAddr, &T> {
    all.iter().map(|one| (address(one), one)).collect()
}

impl Changes {
    fn compare(&mut self, what: &str, from: &str, to: &str) {
        if from != to {
            self.changes.push(format!("{what}: {from} -> {to}"));
        }
    }

    fn groups(&mut self, before: &Config, after: &Config) {
        let ceilings = |config: &Config| -> HashMap<String, u32> {
            let groups = config.groups.iter();
            groups
                .map(|group| (group.name.clone(), group.ceiling))
                .collect()
        };
        let (was, is) = (ceilings(before), ceilings(after));
        for group in &after.groups {
            let (place, ceiling) = (format!("group {}", group.name), group.ceiling.to_string());
            match was.get(&group.name) {
                None => self
                    .changes
                    .push(format!("{place}: added, ceiling {ceiling}")),
                Some(from) => {
                    self.compare(&format!("{place}: ceiling"), &from.to_string(), &ceiling);
                }
            }
        }
        for group in before
            .groups
            .iter()
            .filter(|one| !is.contains_key(&one.name))
        {
            self.changes.push(format!("group {}: removed", group.name));
        }
    }

    fn services(&mut self, before: &Config, after: &Config) {
        let was = by_address(&before.services, |one| one.address);
        let is = by_address(&after.services, |one| one.address);
        for service in &after.services {
            let place = format!("service {}", service.name);
            match was.get(&service.address) {
                None => {
                    let (address, count) = (service.address, service.backends.len());
                    let added = format!("{place}: added at {address}, {count} back-ends");
                    self.changes.push(added);
                }
                Some(known) => {
                    self.service(&place, known, service);
                    self.backends(&place, (before, known), (after, service));
                }
            }
        }
        for service in before
            .services
            .iter()
            .filter(|one| !is.contains_key(&one.address))
        {
            self.changes
                .push(format!("service {}: removed", service.name));
        }
    }

    fn service(&mut self, place: &str, was: &Service, is: &Service) {
        let (old, new) = ((&was.queue, &was.timeouts), (&is.queue, &is.timeouts));
        let policy = |service: &Service| service.ceiling.policy.label().to_owned();
        for (key, from, to) in [
            ("name", was.name.clone(), is.name.clone()),
            ("balance", word(&was.balance), word(&is.balance)),
            (
                "queue.capacity",
                old.0.capacity.to_string(),
                new.0.capacity.to_string(),
            ),
            ("queue.timeout", time(old.0.timeout), time(new.0.timeout)),
            (
                "queue.overflow",
                word(&old.0.overflow),
                word(&new.0.overflow),
            ),
            (
                "queue.per_source",
                old.0.per_source.to_string(),
                new.0.per_source.to_string(),
            ),
            ("ceiling.policy", policy(was), policy(is)),
            (
                "ceiling.interval",
                time(was.ceiling.interval),
                time(is.ceiling.interval),
            ),
            (
                "ceiling.slow_start",
                time(was.ceiling.slow_start),
                time(is.ceiling.slow_start),
            ),
            ("timeouts.connect", time(old.1.connect), time(new.1.connect)),
            (
                "timeouts.handshake",
                time(old.1.handshake),
                time(new.1.handshake),
            ),
            ("timeouts.idle", time(old.1.idle), time(new.1.idle)),
            ("timeouts.closing", time(old.1.closing), time(new.1.closing)),
            ("flood.mode", word(&was.flood.mode), word(&is.flood.mode)),
            (
                "flood.rate",
                was.flood.rate.to_string(),
                is.flood.rate.to_string(),
            ),
            ("flood.hold", time(was.flood.hold), time(is.flood.hold)),
            (
                "flood.half_open",
                format!("{}%", was.flood.half_open),
                format!("{}%", is.flood.half_open),
            ),
            (
                "flood.handshake",
                time(was.flood.handshake),
                time(is.flood.handshake),
            ),
        ] {
            self.compare(&format!("{place}: {key}"), &from, &to);
        }
        let same_policy = policy(was) == policy(is);
        let settings = |service: &Service| {
            (
                service.ceiling.policy.clone(),
                service.ceiling.response_goal,
            )
        };
        if same_policy && settings(was) != settings(is) {
            let label = is.ceiling.policy.label();
            self.changes
                .push(format!("{place}: ceiling: other settings of {label}"));
        }
        if same_policy && was.agent != is.agent {
            self.changes
                .push(format!("{place}: ceiling.agent: asked in another way"));
        }
        if was.health != is.health {
            self.changes
                .push(format!("{place}: health: checked in another way"));
        }
    }

    fn backends(
        &mut self,
        place: &str,
        (before, known): (&Config, &Service),
        (after, service): (&Config, &Service),
    ) {
        let was = by_address(&known.backends, |one| one.address);
        let is = by_address(&service.backends, |one| one.address);
        for backend in &service.backends {
            let place = format!("{place}: back-end {}", backend.name);
            let Some(known) = was.get(&backend.address) else {
                self.changes
                    .push(format!("{place}: added at {}", backend.address));
                continue;
            };
            self.backend(&place, (before, known), (after, backend));
            if service.ceiling.policy == Policy::Fixed {
                let (from, to) = (known.ceiling.initial, backend.ceiling.initial);
                let what = format!("{place}: ceiling.initial");
                self.compare(&what, &from.to_string(), &to.to_string());
            } else if known.ceiling.initial != backend.ceiling.initial {
                let note = "ceiling.initial is where a ceiling starts; this one goes on from where \
                            it is";
                self.notes.push(format!("{place}: {note}"));
            }
        }
        for backend in known
            .backends
            .iter()
            .filter(|one| !is.contains_key(&one.address))
        {
            let name = &backend.name;
            self.changes.push(format!(
                "{place}: back-end {name}: removed, its connections go on"
            ));
        }
    }

    fn backend(&mut self, place: &str, before: (&Config, &Backend), after: (&Config, &Backend)) {
        let group = |(config, backend): (&Config, &Backend)| {
            let group = backend.group.and_then(|at| config.groups.get(at));
            group.map_or_else(|| "none".to_owned(), |group| group.name.clone())
        };
        let (was, is) = (before.1, after.1);
        let number = |number: u32| number.to_string();
        for (key, from, to) in [
            ("name", was.name.clone(), is.name.clone()),
            ("capacity", number(was.capacity), number(is.capacity)),
            (
                "ceiling.min",
                number(was.ceiling.min),
                number(is.ceiling.min),
            ),
            (
                "ceiling.max",
                number(was.ceiling.max),
                number(is.ceiling.max),
            ),
            ("weight", number(was.weight), number(is.weight)),
            ("group", group(before), group(after)),
        ] {
            self.compare(&format!("{place}: {key}"), &from, &to);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEFORE: &str = r#"
[admin]
socket = "/run/d.sock"
[metrics]
listen = "127.0.0.1:9464"
[dataplane]
interfaces = ["front", "back"]
attach_mode = "native"
xsk_mode = "copy"
flow_capacity = 4096
pin_path = "/sys/fs/bpf/d"
on_exit = "keep"
unattended = "drop"
busy_poll = false
[[group]]
name = "db"
ceiling = 10
[[service]]
name = "web"
address = "192.0.2.10:80"
balance = "round-robin"
[service.queue]
capacity = 10
timeout = "5s"
overflow = "refuse"
per_source = 0
[service.ceiling]
policy = "queue-depth"
interval = "1s"
[service.timeouts]
connect = "2s"
handshake = "5s"
idle = "5m"
closing = "30s"
[service.flood]
mode = "auto"
rate = 2000
hold = "10s"
half_open = "50%"
[[service.backend]]
name = "web-1"
address = "10.0.0.11:8080"
capacity = 64
weight = 1
group = "db"
ceiling = { initial = 8, min = 2, max = 32 }
[[service.backend]]
name = "web-2"
address = "10.0.0.12:8080"
capacity = 64
"#;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap()
    }

    fn told(from: &str, to: &str) -> Result<Changes, Vec<String>> {
        assert!(BEFORE.contains(from), "{from}");
        let after = BEFORE.replacen(from, to, 1);
        changes(&config(BEFORE), &config(&after))
    }

    #[test]
    fn nothing_changes_by_the_same_or_by_another_order() {
        assert_eq!(told("", ""), Ok(Changes::default()));
        let (first, second) = BEFORE.split_once("[[service.backend]]").unwrap();
        let (one, two) = second.split_once("[[service.backend]]").unwrap();
        let turned = format!("{first}[[service.backend]]{two}[[service.backend]]{one}");
        let told = changes(&config(BEFORE), &config(&turned));
        assert_eq!(told, Ok(Changes::default()));
    }

    #[test]
    fn each_change_is_told_with_what_it_was() {
        for (from, to, line) in [
            (
                "\"keep\"",
                "\"detach\"",
                "dataplane.on_exit: keep -> detach",
            ),
            (
                "unattended = \"drop\"",
                "unattended = \"pass\"",
                "dataplane.unattended: drop -> pass",
            ),
            (
                "ceiling = 10",
                "ceiling = 11",
                "group db: ceiling: 10 -> 11",
            ),
            (
                "name = \"web\"",
                "name = \"www\"",
                "service www: name: web -> www",
            ),
            (
                "\"round-robin\"",
                "\"source-hash\"",
                "service web: balance: round-robin -> source-hash",
            ),
            ("\"auto\"", "\"on\"", "service web: flood.mode: auto -> on"),
            (
                "rate = 2000",
                "rate = 3000",
                "service web: flood.rate: 2000 -> 3000",
            ),
            (
                "hold = \"10s\"",
                "hold = \"1m\"",
                "service web: flood.hold: 10s -> 1m",
            ),
            (
                "\"50%\"",
                "\"40%\"",
                "service web: flood.half_open: 50% -> 40%",
            ),
            (
                "capacity = 10",
                "capacity = 20",
                "service web: queue.capacity: 10 -> 20",
            ),
            (
                "timeout = \"5s\"",
                "timeout = \"70s\"",
                "service web: queue.timeout: 5s -> 1m 10s",
            ),
            (
                "\"refuse\"",
                "\"drop\"",
                "service web: queue.overflow: refuse -> drop",
            ),
            (
                "per_source = 0",
                "per_source = 3",
                "service web: queue.per_source: 0 -> 3",
            ),
            (
                "\"queue-depth\"",
                "\"gradient\"",
                "service web: ceiling.policy: queue-depth -> gradient",
            ),
            (
                "interval = \"1s\"",
                "interval = \"1s\"\nraise_above = 9",
                "service web: ceiling: other settings of queue-depth",
            ),
            (
                "interval = \"1s\"",
                "interval = \"2s\"",
                "service web: ceiling.interval: 1s -> 2s",
            ),
            (
                "interval = \"1s\"",
                "interval = \"1s\"\nslow_start = \"9s\"",
                "service web: ceiling.slow_start: 0s -> 9s",
            ),
            (
                "connect = \"2s\"",
                "connect = \"3s\"",
                "service web: timeouts.connect: 2s -> 3s",
            ),
            (
                "handshake = \"5s\"",
                "handshake = \"6s\"",
                "service web: timeouts.handshake: 5s -> 6s",
            ),
            (
                "idle = \"5m\"",
                "idle = \"6m\"",
                "service web: timeouts.idle: 5m -> 6m",
            ),
            (
                "closing = \"30s\"",
                "closing = \"9s\"",
                "service web: timeouts.closing: 30s -> 9s",
            ),
            (
                "[service.timeouts]",
                "[service.health]\nfall = 9\n[service.timeouts]",
                "service web: health: checked in another way",
            ),
            (
                "\"web-1\"",
                "\"a\"",
                "service web: back-end a: name: web-1 -> a",
            ),
            (
                "capacity = 64",
                "capacity = 65",
                "service web: back-end web-1: capacity: 64 -> 65",
            ),
            (
                "weight = 1",
                "weight = 2",
                "service web: back-end web-1: weight: 1 -> 2",
            ),
            (
                "min = 2",
                "min = 3",
                "service web: back-end web-1: ceiling.min: 2 -> 3",
            ),
            (
                "max = 32",
                "max = 33",
                "service web: back-end web-1: ceiling.max: 32 -> 33",
            ),
        ] {
            let told = told(from, to).unwrap();
            assert_eq!((told.changes, told.notes.len()), (vec![line.to_owned()], 0));
        }
    }

    #[test]
    fn who_comes_and_goes_is_told() {
        let told = told("10.0.0.12:8080", "10.0.0.13:8080").unwrap();
        assert_eq!(
            told.changes,
            [
                "service web: back-end web-2: added at 10.0.0.13:8080",
                "service web: back-end web-2: removed, its connections go on",
            ]
        );
        let told = self::told("192.0.2.10:80", "192.0.2.11:80").unwrap();
        assert_eq!(
            told.changes,
            [
                "service web: added at 192.0.2.11:80, 2 back-ends",
                "service web: removed",
            ]
        );
        let other = BEFORE.replace("\"db\"", "\"disk\"");
        let told = changes(&config(BEFORE), &config(&other)).unwrap();
        assert_eq!(
            told.changes,
            [
                "group disk: added, ceiling 10",
                "group db: removed",
                "service web: back-end web-1: group: db -> disk",
            ]
        );
    }

    #[test]
    fn where_a_ceiling_starts_is_no_matter_of_one_that_runs_unless_it_is_fixed() {
        let told = told("initial = 8", "initial = 9").unwrap();
        assert_eq!((told.changes.len(), told.notes.len()), (0, 1), "{told:?}");
        let fixed = BEFORE.replace("queue-depth", "fixed");
        let other = fixed.replace("initial = 8", "initial = 9");
        let told = changes(&config(&fixed), &config(&other)).unwrap();
        let line = "service web: back-end web-1: ceiling.initial: 8 -> 9";
        assert_eq!((told.changes, told.notes.len()), (vec![line.to_owned()], 0));
    }

    #[test]
    fn what_needs_a_restart_is_refused_with_what_it_was() {
        for (from, to, line) in [
            (
                "[\"front\", \"back\"]",
                "[\"one\"]",
                "dataplane.interfaces: from front, back to one",
            ),
            (
                "\"native\"",
                "\"auto\"",
                "dataplane.attach_mode: from native to auto",
            ),
            (
                "\"copy\"",
                "\"zero-copy\"",
                "dataplane.xsk_mode: from copy to zero-copy",
            ),
            ("4096", "4097", "dataplane.flow_capacity: from 4096 to 4097"),
            (
                "busy_poll = false",
                "busy_poll = true",
                "dataplane.busy_poll: from false to true",
            ),
            (
                "bpf/d\"",
                "bpf/e\"",
                "dataplane.pin_path: from /sys/fs/bpf/d to /sys/fs/bpf/e",
            ),
            (
                "/run/d.sock",
                "/run/e.sock",
                "admin.socket: from /run/d.sock to /run/e.sock",
            ),
            (
                "9464",
                "9465",
                "metrics.listen: from 127.0.0.1:9464 to 127.0.0.1:9465",
            ),
            (
                "[metrics]\nlisten = \"127.0.0.1:9464\"\n",
                "",
                "metrics.listen: from 127.0.0.1:9464 to nothing",
            ),
        ] {
            assert_eq!(told(from, to), Err(vec![format!("{line} needs a restart")]));
        }
    }
}
