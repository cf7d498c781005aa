//! `[[service.backend]]`: keys, bounds and defaults, and what must hold between the back-ends of a
//! service.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::identity::Identities;
use super::reader::{Located, Table};
use super::scalar::integer;
use super::service::Whole;
use super::{
    BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, Backend, CAPACITY_MAX, CAPACITY_MIN, CeilingBounds,
    INITIAL_MOVING, WEIGHT_MAX,
};
use crate::ceiling::Policy;

/// The back-ends of a service; nothing only if a problem was noted.
pub(super) fn backends(
    service: &mut Table<'_>,
    service_address: Option<SocketAddr>,
    policy: &Policy,
    whole: &mut Whole<'_>,
) -> Option<Vec<Backend>> {
    let tables = service.sections("backend", "[[service.backend]]")?;
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
    let mut identities = Identities::new("back-end");
    let mut backends = Vec::with_capacity(count);
    let mut service_groups = BTreeSet::new();
    for (index, mut table) in tables.into_iter().enumerate() {
        let (name, address) = identities.read(&mut table, index);
        if let Some(address) = address {
            refuse_other_family(&table, address, service_address);
            let whose = (address.at, table.scope().to_owned());
            whole
                .backend_addresses
                .entry(address.value)
                .or_insert(whose);
        }
        let group = whole.groups.of_backend(&mut table, &mut service_groups);
        backends.push(backend(table, name, address, policy, group));
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
    name: Option<String>,
    address: Option<Located<SocketAddr>>,
    policy: &Policy,
    group: Option<usize>,
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
    let ceiling = ceiling_bounds(table.section("ceiling"), capacity, policy);
    let weight = table.value("weight", 1, integer(1..=WEIGHT_MAX, ""));
    table.finish();
    Some(Backend {
        name: name?,
        address: address?.value,
        capacity: capacity?,
        ceiling,
        weight,
        group,
    })
}

/// Each bound is judged by the ones that stand, so one slip is one message.
fn ceiling_bounds(mut table: Table<'_>, capacity: Option<u32>, policy: &Policy) -> CeilingBounds {
    let most = capacity.unwrap_or(CAPACITY_MAX) - 1;
    let why = format!(", below the capacity of {}", most + 1);
    let max = table.value("max", most, integer(1..=most, &why));
    let why = format!(", as max is {max}");
    let min = table.value("min", 1, integer(1..=max, &why));
    let why = format!(", as min is {min} and max is {max}");
    let default = match policy {
        Policy::Fixed => max,
        _ => INITIAL_MOVING.clamp(min, max),
    };
    let initial = table.value("initial", default, integer(min..=max, &why));
    table.finish();
    CeilingBounds { initial, min, max }
}
