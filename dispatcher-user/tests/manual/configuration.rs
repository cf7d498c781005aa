//! The keys of the configuration. What a key is for stands in the table below; what it may be, the
//! reader is asked: it is given something wrong, and says so. Defaults are tried out: a file with
//! a key's default means what the file without it means.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use dispatcher_user::config::{Config, ConfigError};

/// A section with its keys.
struct Section {
    /// In Markdown.
    header: &'static str,
    about: &'static str,
    place: Place,
    keys: &'static [Key],
}

struct Key {
    name: &'static str,
    without: Without,
    meaning: &'static str,
}

/// What holds where the file does not have a key.
enum Without {
    /// As the file has it.
    Is(&'static str),
    /// It must be there: this is what the examples have.
    Required(&'static str),
    /// There is one, and it depends on others: in words.
    Derived(&'static str),
    /// Without it something is not done: in words.
    Nothing(&'static str),
}

use Without::{Derived, Is, Nothing, Required};

/// Where a line is put into the smallest file; and the policy or kind that takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Admin,
    Metrics,
    Dataplane,
    Service,
    Queue,
    Ceiling(&'static str),
    Agent(&'static str),
    Health(&'static str),
    Timeouts,
    Flood,
    Backend,
    Bounds,
    Group,
}

const fn key(name: &'static str, without: Without, meaning: &'static str) -> Key {
    Key {
        name,
        without,
        meaning,
    }
}

const SECTIONS: &[Section] = &[
    Section {
        header: "`[admin]`",
        about: "",
        place: Place::Admin,
        keys: &[key(
            "socket",
            Is("\"/run/dispatcher/admin.sock\""),
            "the Unix socket by which commands find the daemon; mode 0660",
        )],
    },
    Section {
        header: "`[metrics]`",
        about: "Without this section there is no listener.",
        place: Place::Metrics,
        keys: &[key(
            "listen",
            Is("\"127.0.0.1:9464\""),
            "where `GET /metrics` and the status page are served; it has no password",
        )],
    },
    Section {
        header: "`[dataplane]`",
        about: "What is here takes effect at a start only.",
        place: Place::Dataplane,
        keys: &[
            key(
                "interfaces",
                Required("[\"eth0\", \"eth1\"]"),
                "client side and back-end side; one interface may be both",
            ),
            key(
                "attach_mode",
                Is("\"auto\""),
                "`auto`: in the driver, or generic with a warning; `native`: in the driver or not \
                 at all; `generic`: in the kernel's generic path, for tests",
            ),
            key(
                "xsk_mode",
                Is("\"auto\""),
                "how the sockets get their frames. `auto`: zero-copy where the driver is known to \
                 gain by it, which none is yet, else copy",
            ),
            key(
                "flow_capacity",
                Is("262144"),
                "connections that the flow table holds; 416 bytes of kernel memory each",
            ),
            key(
                "pin_path",
                Is("\"/sys/fs/bpf/dispatcher\""),
                "directory of the pinned maps and links",
            ),
            key(
                "on_exit",
                Is("\"keep\""),
                "`keep`: established connections go on without the daemon; `detach`: the program \
                 is detached and the pins are removed",
            ),
            key(
                "unattended",
                Is("\"drop\""),
                "what a new connection request gets while no daemon runs. `drop`: nothing, the \
                 client tries again; `pass`: the host's stack answers it",
            ),
            key(
                "busy_poll",
                Is("false"),
                "the thread that admits never sleeps: no request waits for it to be woken, and a \
                 processor does nothing else. For machines, virtual ones above all, that wake \
                 slowly and have one to spare",
            ),
        ],
    },
    Section {
        header: "`[[service]]`",
        about: "At least one.",
        place: Place::Service,
        keys: &[
            key(
                "name",
                Derived("the address, with `-` for every `:`"),
                "what commands, metrics and the log call it; unlike that of any other service",
            ),
            key(
                "address",
                Required("\"192.0.2.10:80\""),
                "where clients connect to; unlike that of any other service and any back-end",
            ),
            key(
                "balance",
                Is("\"round-robin\""),
                "which of several back-ends with room is given a request: each in turn by weight, \
                 the one with the fewest connections for its weight, the one that answers \
                 soonest, or the one that the client's address points to",
            ),
        ],
    },
    Section {
        header: "`[service.queue]`",
        about: "",
        place: Place::Queue,
        keys: &[
            key("capacity", Is("1024"), "most requests that wait"),
            key("timeout", Is("\"5s\""), "the longest that one waits"),
            key(
                "overflow",
                Is("\"refuse\""),
                "what a request gets that finds the queue full. `refuse`: an RST; `drop`: nothing, \
                 the client tries again",
            ),
            key(
                "per_source",
                Is("0"),
                "most that wait from one client address; 0 for no bound, as many clients may share \
                 an address",
            ),
        ],
    },
    Section {
        header: "`[service.ceiling]`",
        about: "With every policy; [policies.md](policies.md) says what each does.",
        place: Place::Ceiling("queue-depth"),
        keys: &[
            key("policy", Is("\"queue-depth\""), "what moves the ceilings"),
            key(
                "interval",
                Is("\"1s\""),
                "the window in which is measured, and at whose end is decided",
            ),
            key(
                "slow_start",
                Is("\"0s\""),
                "how long a back-end that came up, or came back, takes to be given its whole \
                 ceiling",
            ),
            key(
                "response_goal",
                Nothing("no goal"),
                "the response time (p99) that is still good",
            ),
            key(
                "raise_above",
                Is("4"),
                "policy `queue-depth`: raised while more wait",
            ),
            key(
                "lower_below",
                Is("1"),
                "policy `queue-depth`: lowered while fewer wait",
            ),
        ],
    },
    Section {
        header: "`[service.ceiling]` with `response-time`",
        about: "",
        place: Place::Ceiling("response-time"),
        keys: &[
            key("metric", Is("\"mean\""), "which response time of a window"),
            key(
                "low",
                Required("\"20ms\""),
                "a higher ceiling is tried below",
            ),
            key("high", Required("\"80ms\""), "the ceiling is lowered above"),
        ],
    },
    Section {
        header: "`[service.ceiling]` with `throughput`",
        about: "",
        place: Place::Ceiling("throughput"),
        keys: &[key(
            "minimum",
            Is("0"),
            "requests a second of each back-end that are enough; 0 for as many as there can be",
        )],
    },
    Section {
        header: "`[service.ceiling]` with `gradient`",
        about: "",
        place: Place::Ceiling("gradient"),
        keys: &[
            key(
                "tolerance",
                Is("\"250%\""),
                "the response time that is still good",
            ),
            key(
                "probe_ceiling",
                Is("3"),
                "the least ceiling at which the response time at rest is measured",
            ),
            key(
                "probe_interval",
                Is("\"60s\""),
                "how long that measurement is good for",
            ),
        ],
    },
    Section {
        header: "`[service.ceiling.agent]`",
        about: "With the policy `agent`, and only with it.",
        place: Place::Agent("tcp"),
        keys: &[
            key(
                "kind",
                Required("\"tcp\""),
                "`tcp`: it is connected to and answers with a line; `http`: `GET`, answered with \
                 JSON or a line",
            ),
            key(
                "port",
                Required("9000"),
                "where it listens, at the back-end's address; over HTTP the default is the \
                 back-end's own",
            ),
            key("send", Is("\"\""), "`tcp`: what it is sent first"),
            key("interval", Is("\"2s\""), "from one question to the next"),
            key("timeout", Is("\"1s\""), "to the end of the answer"),
            key("load_low", Is("\"80%\""), "raised while its load is below"),
            key(
                "load_high",
                Is("\"95%\""),
                "lowered while its load is above",
            ),
            key(
                "stale_after",
                Is("\"30s\""),
                "how long a report is good for; by default three intervals at least",
            ),
        ],
    },
    Section {
        header: "`[service.ceiling.agent]` over HTTP",
        about: "",
        place: Place::Agent("http"),
        keys: &[key("path", Is("\"/\""), "path and query of the request")],
    },
    Section {
        header: "`[service.health]`",
        about: "[health.md](health.md) says what comes of it.",
        place: Place::Health("tcp"),
        keys: &[
            key(
                "kind",
                Is("\"tcp\""),
                "`tcp`: it accepts a connection; `http`: it answers `GET` with a good status; \
                 `off`: it is not checked",
            ),
            key(
                "port",
                Derived("the back-end's own"),
                "where it is checked, at the back-end's address",
            ),
            key(
                "source",
                Derived("by the routing table"),
                "the address of this machine that checks come from, of the service's family",
            ),
            key("interval", Is("\"2s\""), "from one check to the next"),
            key(
                "timeout",
                Is("\"1s\""),
                "how long one waits for its whole answer",
            ),
            key("rise", Is("2"), "good checks in succession until it is up"),
            key("fall", Is("3"), "bad checks in succession until it is down"),
            key(
                "passive",
                Is("5"),
                "requests in succession without an answer until it is down; 0 for any number, \
                 which is the default where `kind` is `off`",
            ),
            key(
                "on_down",
                Is("\"keep\""),
                "what becomes of the connections of one that goes down. `keep`: they go on, if \
                 they can; `reset`: they are reset, at both ends",
            ),
        ],
    },
    Section {
        header: "`[service.health]` over HTTP",
        about: "",
        place: Place::Health("http"),
        keys: &[
            key("path", Is("\"/\""), "path and query of the request"),
            key(
                "host",
                Derived("address and port of what is asked"),
                "the `Host` of the request",
            ),
            key("status", Is("\"200-399\""), "the statuses that are good"),
        ],
    },
    Section {
        header: "`[service.timeouts]`",
        about: "",
        place: Place::Timeouts,
        keys: &[
            key(
                "connect",
                Is("\"2s\""),
                "a request was sent on and not answered: another back-end is asked",
            ),
            key(
                "handshake",
                Is("\"5s\""),
                "a request was sent on, and the handshake is not finished",
            ),
            key("idle", Is("\"5m\""), "no packet either way"),
            key("closing", Is("\"30s\""), "one side has closed"),
        ],
    },
    Section {
        header: "`[service.flood]`",
        about: "Floods of connection requests, and what holds while one is on: \
                [floods.md](floods.md).",
        place: Place::Flood,
        keys: &[
            key(
                "mode",
                Is("\"auto\""),
                "`auto`: floods are looked for; `on`: requests are let in at any time only when \
                 they come again; `off`: never",
            ),
            key(
                "rate",
                Derived("`queue.capacity` and 1000"),
                "requests a second that find no connection free and do not prove alive: more are \
                 a flood",
            ),
            key(
                "hold",
                Is("\"10s\""),
                "how long a flood must be away before it is over; doubled, up to 16 times, for \
                 one that comes back within a minute",
            ),
            key(
                "half_open",
                Is("\"50%\""),
                "what unfinished handshakes may hold of a back-end's ceiling in a flood; at least \
                 one connection",
            ),
            key(
                "handshake",
                Is("\"2s\""),
                "what `timeouts.handshake` becomes in a flood, if it is longer",
            ),
        ],
    },
    Section {
        header: "`[[service.backend]]`",
        about: "At least one a service.",
        place: Place::Backend,
        keys: &[
            key(
                "name",
                Derived("the address, with `-` for every `:`"),
                "unlike that of any other back-end of the service",
            ),
            key(
                "address",
                Required("\"10.0.0.11:8080\""),
                "where the server listens; of the service's address family",
            ),
            key(
                "capacity",
                Required("256"),
                "connections that the server is capable of; its ceiling stays below",
            ),
            key("weight", Is("1"), "its share in balancing"),
            key(
                "group",
                Nothing("no group"),
                "the name of the group whose ceiling it shares; back-ends of one service may have \
                 8 different ones",
            ),
        ],
    },
    Section {
        header: "`ceiling` of a back-end",
        about: "Written `ceiling = { initial = 32, min = 1, max = 255 }`.",
        place: Place::Bounds,
        keys: &[
            key(
                "initial",
                Derived("10, or the nearest bound; with the policy `fixed`, `max`"),
                "what it starts with",
            ),
            key("min", Is("1"), "never below"),
            key("max", Derived("one less than `capacity`"), "never above"),
        ],
    },
    Section {
        header: "`[[group]]`",
        about: "A ceiling that back-ends share besides their own, of whatever service. Each must \
                be some back-end's.",
        place: Place::Group,
        keys: &[
            key(
                "name",
                Required("\"db\""),
                "what back-ends give as their `group`",
            ),
            key(
                "ceiling",
                Required("100"),
                "most connections of all its back-ends together",
            ),
        ],
    },
];

/// The sections of the root, which are the file's outline.
const ROOT: [&str; 5] = ["admin", "metrics", "dataplane", "service", "group"];
/// Sections within others.
const WITHIN: [(Place, &[&str]); 2] = [
    (
        Place::Service,
        &["backend", "ceiling", "flood", "health", "queue", "timeouts"],
    ),
    (Place::Backend, &["ceiling"]),
];

/// The smallest file that has all sections, with a line of one of them left out, or put in.
fn file(place: Place, without: &str, with: &str) -> String {
    let mut text = String::new();
    let mut section = |header: &str, lines: &[String], here: bool| {
        writeln!(text, "{header}").unwrap();
        for line in lines {
            if !here || line.split(' ').next() != Some(without) {
                writeln!(text, "{line}").unwrap();
            }
        }
        if here {
            writeln!(text, "{with}").unwrap();
        }
    };
    let required = |wanted: Place| -> Vec<String> {
        let all = SECTIONS.iter().filter(|section| section.place == wanted);
        let keys = all.flat_map(|section| section.keys);
        let lines = keys.filter_map(|key| match key.without {
            Required(value) => Some(format!("{} = {value}", key.name)),
            _ => None,
        });
        lines.collect()
    };
    section("", &[], place == Place::Root);
    for (header, own) in [
        ("[admin]", Place::Admin),
        ("[metrics]", Place::Metrics),
        ("[dataplane]", Place::Dataplane),
        ("[[service]]", Place::Service),
        ("[service.queue]", Place::Queue),
    ] {
        section(header, &required(own), place == own);
    }
    match place {
        Place::Ceiling(policy) => {
            let mut lines = vec![format!("policy = \"{policy}\"")];
            lines.extend(required(place));
            section("[service.ceiling]", &lines, true);
        }
        Place::Agent(kind) => {
            section(
                "[service.ceiling]",
                &["policy = \"agent\"".to_owned()],
                false,
            );
            let mut lines = required(place);
            if kind != "tcp" {
                lines.push(format!("kind = \"{kind}\""));
            }
            section("[service.ceiling.agent]", &lines, true);
        }
        _ => {}
    }
    let mut lines = Vec::new();
    if let Place::Health(kind) = place {
        lines.push(format!("kind = \"{kind}\""));
    }
    section(
        "[service.health]",
        &lines,
        matches!(place, Place::Health(_)),
    );
    section("[service.timeouts]", &[], place == Place::Timeouts);
    section("[service.flood]", &[], place == Place::Flood);
    let mut backend = required(Place::Backend);
    if without != "group" {
        backend.push("group = \"db\"".to_owned());
    }
    section("[[service.backend]]", &backend, place == Place::Backend);
    section("[service.backend.ceiling]", &[], place == Place::Bounds);
    section("[[group]]", &required(Place::Group), place == Place::Group);
    text
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    match Config::parse(Path::new("manual.toml"), text.as_bytes()) {
        Ok(config) => Ok(config),
        Err(ConfigError::Wrong { problems, .. }) => Err(problems
            .into_iter()
            .map(|problem| problem.message)
            .collect()),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn right(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems:?} in:\n{text}"))
}

/// What the reader says of a line; only what is about its key.
#[track_caller]
fn wrong(place: Place, key: &str, value: &str) -> String {
    let text = file(place, key, &format!("{key} = {value}"));
    let problems = parse(&text).expect_err(&text);
    let subjects = [format!("{key} is "), format!("{key} has ")];
    let about = problems
        .iter()
        .find(|problem| subjects.iter().any(|subject| problem.contains(subject)));
    about
        .unwrap_or_else(|| panic!("{key}: {problems:?}"))
        .clone()
}

/// What a value may be, in the reader's words.
fn allowed(place: Place, key: &Key) -> String {
    if key.name == "group" {
        return "the name of a `[[group]]`".to_owned();
    }
    let told = |value: &str| {
        let problem = wrong(place, key.name, value);
        let (_, may) = problem.split_once("it must be ").expect(&problem);
        may.to_owned()
    };
    // No key is a date.
    let may = told("1970-01-01");
    // A wrong type is told before the bounds are.
    if may.starts_with("a duration") {
        return told("\"10000d\"");
    }
    if key.name == "send" {
        let problem = wrong(place, key.name, &format!("\"{}\"", "x".repeat(1000)));
        let (_, bound) = problem.split_once("; ").expect(&problem);
        return format!("{may}; {bound} bytes");
    }
    if may == "a string" {
        return told("\"?\"");
    }
    may
}

/// Markdown.
pub fn reference() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        let Section {
            header,
            about,
            place,
            keys,
        } = section;
        writeln!(text, "## {header}\n").unwrap();
        if !about.is_empty() {
            writeln!(text, "{about}\n").unwrap();
        }
        text.push_str("| key | default | it must be | meaning |\n| --- | --- | --- | --- |\n");
        for key in *keys {
            let default = match key.without {
                Is(value) => format!("`{value}`"),
                Required(_) => "required".to_owned(),
                Derived(words) | Nothing(words) => words.to_owned(),
            };
            let (name, meaning) = (key.name, key.meaning);
            let allowed = allowed(*place, key);
            writeln!(text, "| `{name}` | {default} | {allowed} | {meaning} |").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_file_with_a_default_means_what_it_means_without() {
    for section in SECTIONS {
        for key in section.keys {
            let without = file(section.place, key.name, "");
            match key.without {
                Is(value) => {
                    let line = format!("{} = {value}", key.name);
                    let with = file(section.place, key.name, &line);
                    assert_eq!(right(&with), right(&without), "{} of {}", key.name, with);
                }
                Required(_) => {
                    let problems = parse(&without).expect_err(&without);
                    let missing = format!("{} is missing", key.name);
                    let told = problems.iter().any(|problem| problem.contains(&missing));
                    assert!(told, "{}: {problems:?}", key.name);
                }
                Nothing(_) if key.name == "group" => {
                    // A group must be some back-end's: the reader says that this one is nobody's.
                    let problems = parse(&without).expect_err(&without);
                    assert!(problems[0].contains("bounds nothing"), "{problems:?}");
                }
                Derived(_) | Nothing(_) => drop(right(&without)),
            }
        }
    }
}

#[test]
fn the_table_has_the_keys_that_the_reader_knows_and_no_others() {
    const NOT_A_KEY: &str = "\"@\"";
    let mut places: Vec<_> = SECTIONS.iter().map(|section| section.place).collect();
    places.push(Place::Root);
    places.dedup();
    for place in places {
        let text = file(place, "", &format!("{NOT_A_KEY} = 1"));
        let problems = parse(&text).expect_err(&text);
        let (_, known) = problems[0]
            .split_once("the keys here are ")
            .expect(&problems[0]);
        let known: BTreeSet<_> = known.split(", ").collect();
        let mut ours: BTreeSet<&str> = match place {
            Place::Root => ROOT.into(),
            _ => BTreeSet::new(),
        };
        let shared = |other: Place| match (place, other) {
            (Place::Agent(_), Place::Agent(_))
            | (Place::Ceiling(_), Place::Ceiling(_))
            | (Place::Health(_), Place::Health(_)) => true,
            _ => place == other,
        };
        let within = WITHIN.iter().filter(|(other, _)| *other == place);
        ours.extend(within.flat_map(|(_, sections)| *sections));
        let listed = SECTIONS.iter().filter(|section| shared(section.place));
        ours.extend(listed.flat_map(|section| section.keys).map(|key| key.name));
        if let Place::Ceiling(_) | Place::Agent(_) | Place::Health(_) = place {
            // Those that others take are not known here, and must not be missing there.
            let strange: Vec<_> = known.difference(&ours).collect();
            assert!(strange.is_empty(), "no row for {strange:?}");
            let own = SECTIONS.iter().filter(|section| section.place == place);
            for key in own.flat_map(|section| section.keys) {
                assert!(known.contains(key.name), "{} is no key", key.name);
            }
        } else {
            assert_eq!(known, ours);
        }
    }
}
