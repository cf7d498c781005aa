//! The sections of a configuration file: which keys each has, their bounds and defaults, and what
//! must hold between them.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dispatcher_common::maps;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, Problem};
use super::reader::{Located, Table};
use super::scalar::{
    address, choice, describe, duration, duration_to, integer, interface, name, pin_path,
    socket_address, socket_path,
};
use super::{
    Admin, AttachMode, BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, Backend, Balance, CAPACITY_MAX,
    CAPACITY_MIN, Ceiling, CeilingBounds, CeilingPolicy, Config, ConfigError, Dataplane,
    FLOW_CAPACITY_MAX, HEALTH_COUNT_MAX, Health, HealthKind, INTERFACES_MAX, Metrics, OnExit,
    Overflow, PIN_PATH_DEFAULT, QUEUE_CAPACITY_MAX, Queue, SERVICES_MAX, SOCKET_DEFAULT, Service,
    Timeouts, Unattended, XskMode,
};

const QUEUE_CAPACITY_DEFAULT: u32 = 1024;
const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const CEILING_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const HEALTH_INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const HEALTH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const HEALTH_RISE_DEFAULT: u32 = 2;
const HEALTH_FALL_DEFAULT: u32 = 3;
const HANDSHAKE_DEFAULT: Duration = Duration::from_secs(5);
const IDLE_DEFAULT: Duration = Duration::from_secs(5 * 60);
const CLOSING_DEFAULT: Duration = Duration::from_secs(30);
const METRICS_LISTEN_DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

const ADDRESS_WHAT: &str = r#"an address and port, such as "192.0.2.10:80""#;

/// Reads a whole file.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Config, ConfigError> {
    let wrong = |problems| ConfigError::Wrong {
        file: file.to_path_buf(),
        problems,
    };
    let text = str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) = Diagnostics::new(&good).position(error.valid_up_to());
        let message = "not UTF-8 text".to_owned();
        wrong(vec![Problem {
            line,
            column,
            message,
        }])
    })?;
    let diagnostics = Diagnostics::new(text);
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // Some of the library's messages have several lines; ours have one.
            diagnostics.note(at, error.message().replace('\n', "; "));
            return Err(wrong(diagnostics.into_problems()));
        }
    };
    let config = root(Table::root(document.get_ref(), &diagnostics));
    match (config, diagnostics.into_problems()) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(wrong(problems)),
    }
}

/// Nothing only if a problem was noted.
fn root(mut table: Table<'_>) -> Option<Config> {
    let admin = admin(table.section("admin"));
    let metrics = table
        .has("metrics")
        .then(|| metrics(table.section("metrics")));
    let dataplane = dataplane(table.section("dataplane"));
    let services = services(&mut table);
    table.finish();
    Some(Config {
        admin,
        metrics,
        dataplane: dataplane?,
        services: services?,
    })
}

fn admin(mut table: Table<'_>) -> Admin {
    let socket = table.value("socket", PathBuf::from(SOCKET_DEFAULT), socket_path);
    table.finish();
    Admin { socket }
}

fn metrics(mut table: Table<'_>) -> Metrics {
    let listen = table.value("listen", METRICS_LISTEN_DEFAULT, socket_address);
    table.finish();
    Metrics { listen }
}

fn dataplane(mut table: Table<'_>) -> Option<Dataplane> {
    let interfaces = interfaces(&mut table);
    let attach_modes = [
        ("auto", Some(AttachMode::Auto)),
        ("native", Some(AttachMode::Native)),
        ("generic", Some(AttachMode::Generic)),
    ];
    let xsk_modes = [
        ("auto", Some(XskMode::Auto)),
        ("copy", Some(XskMode::Copy)),
        ("zero-copy", Some(XskMode::ZeroCopy)),
    ];
    let on_exits = [
        ("keep", Some(OnExit::Keep)),
        ("detach", Some(OnExit::Detach)),
    ];
    let unattendeds = [
        ("drop", Some(Unattended::Drop)),
        ("pass", Some(Unattended::Pass)),
    ];

    let attach_mode = table.value("attach_mode", AttachMode::Auto, choice(&attach_modes));
    let xsk_mode = table.value("xsk_mode", XskMode::Auto, choice(&xsk_modes));
    let flow_capacity = table.value(
        "flow_capacity",
        maps::FLOW_CAPACITY_DEFAULT,
        integer(1..=FLOW_CAPACITY_MAX, ""),
    );
    let pin_path = table.value("pin_path", PathBuf::from(PIN_PATH_DEFAULT), pin_path);
    let on_exit = table.value("on_exit", OnExit::Keep, choice(&on_exits));
    let unattended = table.value("unattended", Unattended::Drop, choice(&unattendeds));
    table.finish();
    Some(Dataplane {
        interfaces: interfaces?,
        attach_mode,
        xsk_mode,
        flow_capacity,
        pin_path,
        on_exit,
        unattended,
    })
}

fn interfaces(table: &mut Table<'_>) -> Option<Vec<String>> {
    let what = r#"a list of interface names, such as ["eth0", "eth1"]"#;
    let list = table.required("interfaces", what, |value| match value.as_array() {
        Some(items) => Ok(items),
        None => Err(format!("is {}; it must be {what}", describe(value))),
    })?;
    let count = list.value.len();
    if !(1..=INTERFACES_MAX).contains(&count) {
        let predicate = format!("has {count} names; it must have 1 to {INTERFACES_MAX}");
        table.note(list.at, "interfaces", &predicate);
        return None;
    }
    let mut names = Vec::with_capacity(count);
    for item in list.value {
        let checked = match item.get_ref() {
            DeValue::String(name) if names.iter().any(|known| known == name) => {
                Err(format!("has {name:?} twice"))
            }
            DeValue::String(name) => interface(name).map(|()| names.push(name.to_string())),
            other => Err(format!("has {}; it must be {what}", describe(other))),
        };
        if let Err(predicate) = checked {
            table.note(item.span().start, "interfaces", &predicate);
        }
    }
    Some(names)
}

/// Where each of something was first seen.
struct Seen<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Seen<T> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Where it was seen before.
    fn before(&mut self, located: Located<T>) -> Option<usize> {
        let Located { value, at } = located;
        let first = *self.0.entry(value).or_insert(at);
        (first != at).then_some(first)
    }
}

fn services(root: &mut Table<'_>) -> Option<Vec<Service>> {
    let tables = root.sections("service", "[[service]]");
    let count = tables.len();
    if !(1..=SERVICES_MAX).contains(&count) {
        let at = tables.get(SERVICES_MAX).map_or(0, Table::at);
        let message = format!("{count} services; there must be 1 to {SERVICES_MAX}");
        root.diagnostics().note(at, message);
        return None;
    }
    let diagnostics = root.diagnostics();
    let mut whole = Whole {
        names: Seen::new(),
        addresses: Seen::new(),
        backend_addresses: HashMap::new(),
        backends_len: 0,
    };
    let services: Vec<_> = tables
        .into_iter()
        .enumerate()
        .map(|(index, table)| service(index, table, &mut whole))
        .collect();
    whole.refuse_loops(diagnostics);
    services.into_iter().collect()
}

/// What must hold between services.
struct Whole {
    names: Seen<String>,
    addresses: Seen<SocketAddr>,
    /// Back-end addresses of all services: where, and whose for messages.
    backend_addresses: HashMap<SocketAddr, (usize, String)>,
    backends_len: usize,
}

impl Whole {
    /// A request sent on to a service's address would come back to be dispatched again.
    fn refuse_loops(&self, diagnostics: &Diagnostics<'_>) {
        for (address, service_at) in &self.addresses.0 {
            if let Some((at, scope)) = self.backend_addresses.get(address) {
                let (line, _) = diagnostics.position(*service_at);
                let message = format!(
                    "{scope}address is {address}, which is a service's address (line {line}); \
                     a back-end needs one of its own"
                );
                diagnostics.note(*at, message);
            }
        }
    }
}

/// Notes `key` if another has the same value.
fn refuse_twice<T: Eq + Hash + ToString>(
    table: &Table<'_>,
    seen: &mut Seen<T>,
    key: &str,
    located: Located<T>,
    whose: &str,
) {
    let (at, shown) = (located.at, located.value.to_string());
    if let Some(first) = seen.before(located) {
        let (line, _) = table.diagnostics().position(first);
        let predicate = format!("is {shown}, as that of another {whose} (line {line})");
        table.note(at, key, &predicate);
    }
}

/// Name and address, as services and back-ends have them: the name has the address as its default.
fn identity(
    table: &mut Table<'_>,
    kind: &str,
    index: usize,
) -> (Option<Located<String>>, Option<Located<SocketAddr>>) {
    let outer = table.scope().to_owned();
    table.set_scope(format!("{outer}{kind} {}: ", index + 1));
    let given = table.optional("name", name);
    if let Some(name) = given {
        table.set_scope(format!("{outer}{kind} {:?}: ", name.value));
    }
    let address = table.required("address", ADDRESS_WHAT, address);
    let name = match (given, address) {
        (Some(Located { value, at }), _) => Some(Located {
            value: value.to_owned(),
            at,
        }),
        (None, Some(Located { value, at })) => Some(Located {
            value: default_name(value),
            at,
        }),
        (None, None) => None,
    };
    (name, address)
}

/// The address with `-` for every `:`, and no brackets: `192.0.2.10-80`.
fn default_name(address: SocketAddr) -> String {
    format!("{}-{}", address.ip(), address.port()).replace(':', "-")
}

fn service(index: usize, mut table: Table<'_>, whole: &mut Whole) -> Option<Service> {
    let (name, address) = identity(&mut table, "service", index);
    if let Some(name) = name.clone() {
        refuse_twice(&table, &mut whole.names, "name", name, "service");
    }
    if let Some(address) = address {
        refuse_twice(&table, &mut whole.addresses, "address", address, "service");
    }
    let balances = [
        ("round-robin", Some(Balance::RoundRobin)),
        ("least-connections", None),
        ("least-response-time", None),
        ("source-hash", None),
    ];
    let balance = table.value("balance", Balance::RoundRobin, choice(&balances));
    let queue = queue(table.section("queue"));
    let ceiling = ceiling(table.section("ceiling"));
    let health = health(table.section("health"));
    let timeouts = timeouts(table.section("timeouts"));
    let backends = backends(&mut table, address.map(|located| located.value), whole);
    table.finish();
    Some(Service {
        name: name?.value,
        address: address?.value,
        balance,
        queue,
        ceiling,
        health,
        timeouts,
        backends: backends?,
    })
}

fn queue(mut table: Table<'_>) -> Queue {
    let overflows = [
        ("refuse", Some(Overflow::Refuse)),
        ("drop", Some(Overflow::Drop)),
    ];
    let capacity = table.value(
        "capacity",
        QUEUE_CAPACITY_DEFAULT,
        integer(1..=QUEUE_CAPACITY_MAX, ""),
    );
    let timeout = table.value("timeout", QUEUE_TIMEOUT_DEFAULT, duration);
    let overflow = table.value("overflow", Overflow::Refuse, choice(&overflows));
    let why = ", the queue's capacity";
    let per_source = table.value("per_source", 0, integer(0..=capacity, why));
    table.finish();
    Queue {
        capacity,
        timeout,
        overflow,
        per_source,
    }
}

fn ceiling(mut table: Table<'_>) -> Ceiling {
    let policies = [
        ("fixed", Some(CeilingPolicy::Fixed)),
        ("queue-depth", None),
        ("response-time", None),
        ("throughput", None),
        ("gradient", None),
    ];
    let policy = table.value("policy", CeilingPolicy::Fixed, choice(&policies));
    let interval = table.value("interval", CEILING_INTERVAL_DEFAULT, duration);
    table.finish();
    Ceiling { policy, interval }
}

fn health(mut table: Table<'_>) -> Health {
    let kinds = [
        ("off", Some(HealthKind::Off)),
        ("tcp", None),
        ("http", None),
    ];
    let kind = table.value("kind", HealthKind::Off, choice(&kinds));
    let interval = table.value("interval", HEALTH_INTERVAL_DEFAULT, duration);
    let timeout = table.value(
        "timeout",
        HEALTH_TIMEOUT_DEFAULT.min(interval),
        duration_to(interval, ", the interval between checks"),
    );
    let rise = table.value(
        "rise",
        HEALTH_RISE_DEFAULT,
        integer(1..=HEALTH_COUNT_MAX, ""),
    );
    let fall = table.value(
        "fall",
        HEALTH_FALL_DEFAULT,
        integer(1..=HEALTH_COUNT_MAX, ""),
    );
    table.finish();
    Health {
        kind,
        interval,
        timeout,
        rise,
        fall,
    }
}

fn timeouts(mut table: Table<'_>) -> Timeouts {
    let handshake = table.value("handshake", HANDSHAKE_DEFAULT, duration);
    let idle = table.value("idle", IDLE_DEFAULT, duration);
    let closing = table.value("closing", CLOSING_DEFAULT, duration);
    table.finish();
    Timeouts {
        handshake,
        idle,
        closing,
    }
}

fn backends(
    service: &mut Table<'_>,
    service_address: Option<SocketAddr>,
    whole: &mut Whole,
) -> Option<Vec<Backend>> {
    let tables = service.sections("backend", "[[service.backend]]");
    let count = tables.len();
    let scope = service.scope();
    if !(1..=BACKENDS_PER_SERVICE_MAX).contains(&count) {
        let at = tables
            .get(BACKENDS_PER_SERVICE_MAX)
            .map_or(service.at(), Table::at);
        let message = format!(
            "{scope}{count} back-ends; a service must have 1 to {BACKENDS_PER_SERVICE_MAX}"
        );
        service.diagnostics().note(at, message);
        return None;
    }
    whole.backends_len += count;
    if whole.backends_len > BACKENDS_MAX {
        let all = whole.backends_len;
        let message = format!("{scope}back-end {all} of all services; there may be {BACKENDS_MAX}");
        service.diagnostics().note(service.at(), message);
        return None;
    }
    let mut names = Seen::new();
    let mut addresses = Seen::new();
    let mut backends = Vec::with_capacity(count);
    for (index, mut table) in tables.into_iter().enumerate() {
        let (name, address) = identity(&mut table, "back-end", index);
        if let Some(name) = name.clone() {
            refuse_twice(&table, &mut names, "name", name, "back-end");
        }
        if let Some(address) = address {
            refuse_twice(&table, &mut addresses, "address", address, "back-end");
            refuse_other_family(&table, address, service_address);
            let whose = (address.at, table.scope().to_owned());
            whole
                .backend_addresses
                .entry(address.value)
                .or_insert(whose);
        }
        backends.push(backend(table, name, address));
    }
    backends.into_iter().collect()
}

fn refuse_other_family(
    table: &Table<'_>,
    address: Located<SocketAddr>,
    service: Option<SocketAddr>,
) {
    let family = |address: SocketAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some(service) = service else { return };
    if address.value.is_ipv4() != service.is_ipv4() {
        let predicate = format!(
            "is {}, {}, but the service's {service} is {}; both must be of one family",
            address.value,
            family(address.value),
            family(service),
        );
        table.note(address.at, "address", &predicate);
    }
}

fn backend(
    mut table: Table<'_>,
    name: Option<Located<String>>,
    address: Option<Located<SocketAddr>>,
) -> Option<Backend> {
    let what = format!("{CAPACITY_MIN} to {CAPACITY_MAX} connections");
    let capacity = table.required(
        "capacity",
        &what,
        integer(
            CAPACITY_MIN..=CAPACITY_MAX,
            ", so that a ceiling can stay below it",
        ),
    );
    let capacity = capacity.map(|located| located.value);
    let ceiling = ceiling_bounds(table.section("ceiling"), capacity);
    let weight = table.value("weight", 1, |value| {
        match integer(1..=u32::MAX, "")(value)? {
            1 => Ok(1),
            weight => Err(format!(
                "is {weight}; it must be 1, as round-robin has no weights in this build"
            )),
        }
    });
    table.finish();
    Some(Backend {
        name: name?.value,
        address: address?.value,
        capacity: capacity?,
        ceiling,
        weight,
    })
}

/// Each bound is judged by the ones that stand, so one slip is one message.
fn ceiling_bounds(mut table: Table<'_>, capacity: Option<u32>) -> CeilingBounds {
    let most = capacity.unwrap_or(CAPACITY_MAX) - 1;
    let why = format!(", below the capacity of {}", most + 1);
    let max = table.value("max", most, integer(1..=most, &why));
    let why = format!(", as max is {max}");
    let min = table.value("min", 1, integer(1..=max, &why));
    let why = format!(", as min is {min} and max is {max}");
    let initial = table.value("initial", max, integer(min..=max, &why));
    table.finish();
    CeilingBounds { initial, min, max }
}
