//! `[[service]]` and its sections: keys, bounds and defaults, and what must hold between services.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::backend::backends;
use super::ceiling::ceiling;
use super::diagnostics::Diagnostics;
use super::flood::flood;
use super::group::Groups;
use super::health::health;
use super::identity::Identities;
use super::reader::Table;
use super::scalar::{choice, duration, duration_in, integer};
use super::{
    Balance, DURATION_MIN, Overflow, QUEUE_CAPACITY_MAX, Queue, SERVICES_MAX, Service, Timeouts,
};

const QUEUE_CAPACITY_DEFAULT: u32 = 1024;
const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A client's first retransmission, after a second, has had another to be answered.
const CONNECT_DEFAULT: Duration = Duration::from_secs(2);
const HANDSHAKE_DEFAULT: Duration = Duration::from_secs(5);
const IDLE_DEFAULT: Duration = Duration::from_secs(5 * 60);
const CLOSING_DEFAULT: Duration = Duration::from_secs(30);

/// All services; nothing only if a problem was noted.
pub(super) fn services(root: &mut Table<'_>, groups: &mut Groups) -> Option<Vec<Service>> {
    let tables = root.sections("service", "[[service]]")?;
    let count = tables.len();
    if !(1..=SERVICES_MAX).contains(&count) {
        let at = tables.get(SERVICES_MAX).map_or(0, Table::at);
        let message = format!("{count} services; there must be 1 to {SERVICES_MAX}");
        root.diagnostics().note(at, message);
        return None;
    }
    let diagnostics = root.diagnostics();
    let mut whole = Whole {
        identities: Identities::new("service"),
        backend_addresses: HashMap::new(),
        backends_len: 0,
        groups,
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
pub(super) struct Whole<'g> {
    identities: Identities,
    /// Back-end addresses of all services: where, and whose for messages.
    pub(super) backend_addresses: HashMap<SocketAddr, (usize, String)>,
    pub(super) backends_len: usize,
    pub(super) groups: &'g mut Groups,
}

impl Whole<'_> {
    /// A request sent on to a service's address would come back to be dispatched again.
    fn refuse_loops(&self, diagnostics: &Diagnostics<'_>) {
        for (address, service_at) in self.identities.addresses() {
            if let Some((at, scope)) = self.backend_addresses.get(address) {
                let line = diagnostics.line(*service_at);
                let message = format!(
                    "{scope}address is {address}, which is a service's address (line {line}); \
                     a back-end needs one of its own"
                );
                diagnostics.note(*at, message);
            }
        }
    }
}

fn service(index: usize, mut table: Table<'_>, whole: &mut Whole<'_>) -> Option<Service> {
    let (name, address) = whole.identities.read(&mut table, index);
    let balances = [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("least-response-time", Balance::LeastResponseTime),
        ("source-hash", Balance::SourceHash),
    ];
    let balance = table.value("balance", Balance::RoundRobin, choice(&balances));
    let queue = queue(table.section("queue"));
    let (ceiling, agent) = ceiling(table.section("ceiling"), queue.capacity);
    let flood = flood(table.section("flood"), queue.capacity);
    let address = address.map(|located| located.value);
    let health = health(table.section("health"), address);
    let timeouts = timeouts(table.section("timeouts"));
    let backends = backends(&mut table, address, &ceiling.policy, whole);
    table.finish();
    Some(Service {
        name: name?,
        address: address?,
        balance,
        queue,
        ceiling,
        agent,
        health,
        timeouts,
        flood,
        backends: backends?,
    })
}

fn queue(mut table: Table<'_>) -> Queue {
    let overflows = [("refuse", Overflow::Refuse), ("drop", Overflow::Drop)];
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

fn timeouts(mut table: Table<'_>) -> Timeouts {
    let handshake = table.value("handshake", HANDSHAKE_DEFAULT, duration);
    let connect = table.value(
        "connect",
        CONNECT_DEFAULT.min(handshake),
        duration_in(DURATION_MIN..=handshake, ", the handshake timeout"),
    );
    let idle = table.value("idle", IDLE_DEFAULT, duration);
    let closing = table.value("closing", CLOSING_DEFAULT, duration);
    table.finish();
    Timeouts {
        connect,
        handshake,
        idle,
        closing,
    }
}
