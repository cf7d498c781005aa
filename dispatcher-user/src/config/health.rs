//! `[service.health]`: how back-ends are checked, and what their requests tell of them.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Table;
use super::scalar::{
    choice, duration_in, http_host, http_path, http_status, integer, port, source,
};
use super::{
    DURATION_MAX, DURATION_MIN, HEALTH_COUNT_MAX, Health, HealthKind, INTERVAL_MIN, OnDown,
    PASSIVE_MAX,
};

const INTERVAL_DEFAULT: Duration = Duration::from_secs(2);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;
const PASSIVE_DEFAULT: u32 = 5;
const STATUS_DEFAULT: RangeInclusive<u16> = 200..=399;

/// The health of a service's back-ends. Where nothing is checked, what says how is read all the
/// same: checks are turned off and on by one word.
pub(super) fn health(mut table: Table<'_>, service: Option<SocketAddr>) -> Health {
    let kinds = ["tcp", "http", "off"].map(|kind| (kind, kind));
    let given = table.optional("kind", choice(&kinds));
    // Which keys belong to a kind that does not read nobody can tell.
    let default = if table.has("kind") { "off" } else { "tcp" };
    let kind = match given.map_or(default, |located| located.value) {
        "http" => http(&mut table),
        "off" => {
            http(&mut table);
            HealthKind::Off
        }
        _ => {
            for key in ["path", "host", "status"] {
                let why = "is for checks over http; these are \"tcp\"";
                table.elsewhere(key, why.to_owned());
            }
            HealthKind::Tcp
        }
    };
    let port = table.optional("port", port);
    let given = table.optional("source", source);
    if let (Some(source), Some(service)) = (given, service)
        && source.value.is_ipv4() != service.is_ipv4()
    {
        let predicate = format!(
            "is {}, but the service's {service} is of the other family",
            source.value
        );
        table.note(source.at, "source", &predicate);
    }
    let (interval, timeout) = interval_and_timeout(&mut table, ", the interval between checks");
    let count = || integer(1..=HEALTH_COUNT_MAX, "");
    let rise = table.value("rise", RISE_DEFAULT, count());
    let fall = table.value("fall", FALL_DEFAULT, count());
    let passive = match kind {
        HealthKind::Off => 0,
        HealthKind::Tcp | HealthKind::Http { .. } => PASSIVE_DEFAULT,
    };
    let passive = table.value("passive", passive, integer(0..=PASSIVE_MAX, ""));
    let on_downs = [("keep", OnDown::Keep), ("reset", OnDown::Reset)];
    let on_down = table.value("on_down", OnDown::Keep, choice(&on_downs));
    table.finish();
    Health {
        kind,
        port: port.map(|located| located.value),
        source: given.map(|located| located.value),
        interval,
        timeout,
        rise,
        fall,
        passive,
        on_down,
    }
}

/// How often a back-end is asked, and how long one waits for its answer: at most until it is asked
/// again, which `why` says.
pub(super) fn interval_and_timeout(table: &mut Table<'_>, why: &str) -> (Duration, Duration) {
    let interval = table.value(
        "interval",
        INTERVAL_DEFAULT,
        duration_in(INTERVAL_MIN..=DURATION_MAX, ""),
    );
    let timeout = table.value(
        "timeout",
        TIMEOUT_DEFAULT.min(interval),
        duration_in(DURATION_MIN..=interval, why),
    );
    (interval, timeout)
}

fn http(table: &mut Table<'_>) -> HealthKind {
    HealthKind::Http {
        path: table.value("path", "/".to_owned(), http_path),
        host: table
            .optional("host", http_host)
            .map(|located| located.value),
        status: table.value("status", STATUS_DEFAULT, http_status),
    }
}
