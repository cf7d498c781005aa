//! `[service.ceiling]`: what moves the ceilings of a service, the keys of each policy, and how
//! agents are asked.

use std::time::Duration;

use super::health::interval_and_timeout;
use super::reader::Table;
use super::scalar::{agent_send, choice, duration_in, http_path, integer, percent, port};
use super::{
    Agent, AgentKind, CAPACITY_MAX, DURATION_MAX, INTERVAL_MIN, PERCENT_MAX, RATE_MAX,
    RESPONSE_TIME_MAX, RESPONSE_TIME_MIN, TOLERANCE_MAX,
};
use crate::ceiling::{
    self, Gradient, Metric, Policy, QueueDepth, ResponseTime, Settings, Throughput,
};

/// The keys that one policy alone takes.
const KEYS: [(&str, &[&str]); 5] = [
    ("queue-depth", &["raise_above", "lower_below"]),
    ("response-time", &["metric", "low", "high"]),
    ("throughput", &["minimum"]),
    (
        "gradient",
        &["tolerance", "probe_ceiling", "probe_interval"],
    ),
    ("agent", &["agent"]),
];

/// The settings, and how agents are asked if the policy is theirs.
pub(super) fn ceiling(mut table: Table<'_>, queue_capacity: u32) -> (Settings, Option<Agent>) {
    let default = Settings::default();
    let policies = [
        Policy::Fixed,
        Policy::QueueDepth(QueueDepth::default()),
        Policy::ResponseTime(ResponseTime {
            metric: Metric::default(),
            low: Duration::ZERO,
            high: Duration::ZERO,
        }),
        Policy::Throughput(Throughput::default()),
        Policy::Gradient(Gradient::default()),
        Policy::Agent(ceiling::Agent::default()),
    ];
    let policies = policies.map(|policy| (policy.label(), policy));
    let given = table.optional("policy", choice(&policies));
    if given.is_none() && table.has("policy") {
        // Which keys belong to it nobody can tell.
        return (default, None);
    }
    let mut policy = given.map_or(default.policy, |located| located.value);
    let interval = table.value(
        "interval",
        default.interval,
        duration_in(INTERVAL_MIN..=DURATION_MAX, ""),
    );
    let slow_start = table.value(
        "slow_start",
        default.slow_start,
        duration_in(Duration::ZERO..=DURATION_MAX, ""),
    );
    let response_goal = table.optional("response_goal", response_time);

    let mut agent = None;
    match &mut policy {
        Policy::Fixed => {}
        Policy::QueueDepth(parameters) => queue_depth(&mut table, parameters, queue_capacity),
        Policy::ResponseTime(parameters) => response_band(&mut table, parameters),
        Policy::Throughput(Throughput { minimum }) => {
            *minimum = table.value("minimum", *minimum, integer(0..=RATE_MAX, ""));
        }
        Policy::Gradient(parameters) => gradient(&mut table, parameters, interval),
        Policy::Agent(parameters) => {
            agent = read_agent(table.section("agent"), parameters);
        }
    }
    let chosen = policy.label();
    for (owner, keys) in KEYS.iter().filter(|(owner, _)| *owner != chosen) {
        for key in *keys {
            let why = format!("is for the policy {owner:?}; the policy here is {chosen:?}");
            table.elsewhere(key, why);
        }
    }
    table.finish();
    let settings = Settings {
        policy,
        interval,
        slow_start,
        response_goal: response_goal.map(|located| located.value),
    };
    (settings, agent)
}

fn response_time(value: &toml::de::DeValue<'_>) -> Result<Duration, String> {
    duration_in(RESPONSE_TIME_MIN..=RESPONSE_TIME_MAX, "")(value)
}

fn queue_depth(table: &mut Table<'_>, parameters: &mut QueueDepth, queue_capacity: u32) {
    let QueueDepth {
        raise_above,
        lower_below,
    } = parameters;
    // More than the queue holds never wait.
    let most = queue_capacity - 1;
    let why = format!(", below the queue's capacity of {queue_capacity}");
    *raise_above = table.value(
        "raise_above",
        (*raise_above).min(most),
        integer(0..=most, &why),
    );
    let why = format!(", as raise_above is {raise_above}");
    *lower_below = table.value(
        "lower_below",
        (*lower_below).min(*raise_above),
        integer(0..=*raise_above, &why),
    );
}

fn response_band(table: &mut Table<'_>, parameters: &mut ResponseTime) {
    let metrics = [Metric::Mean, Metric::P50, Metric::P99, Metric::Max];
    let metrics = metrics.map(|metric| (metric.label(), metric));
    parameters.metric = table.value("metric", parameters.metric, choice(&metrics));
    let what = "a response time below which more is given, such as \"20ms\"";
    let low = table.required("low", what, response_time);
    let low = low.map_or(RESPONSE_TIME_MIN, |located| located.value);
    let what = "a response time above which less is given, such as \"80ms\"";
    let least = low + RESPONSE_TIME_MIN;
    let high = table.required(
        "high",
        what,
        duration_in(least..=DURATION_MAX, ", above low"),
    );
    parameters.low = low;
    parameters.high = high.map_or(least, |located| located.value);
}

fn gradient(table: &mut Table<'_>, parameters: &mut Gradient, interval: Duration) {
    let Gradient {
        tolerance_percent,
        probe_ceiling,
        probe_interval,
    } = parameters;
    let why = " of the response time at rest";
    *tolerance_percent = table.value(
        "tolerance",
        *tolerance_percent,
        percent(101..=TOLERANCE_MAX, why),
    );
    *probe_ceiling = table.value(
        "probe_ceiling",
        *probe_ceiling,
        integer(1..=CAPACITY_MAX, ""),
    );
    *probe_interval = table.value(
        "probe_interval",
        (*probe_interval).max(interval),
        duration_in(interval..=DURATION_MAX, ", at least the interval"),
    );
}

/// Nothing only if a problem was noted.
fn read_agent(mut table: Table<'_>, parameters: &mut ceiling::Agent) -> Option<Agent> {
    let kinds = [("tcp", true), ("http", false)];
    let is_tcp = table.required("kind", r#""tcp" or "http""#, choice(&kinds));
    let is_tcp = is_tcp.map(|located| located.value);
    let port = if is_tcp == Some(true) {
        let what = "1 to 65535, as what listens at the back-end's own port is the service";
        table.required("port", what, port)
    } else {
        table.optional("port", port)
    };
    let kind = if is_tcp? {
        table.elsewhere(
            "path",
            "is for agents over http; this one is \"tcp\"".to_owned(),
        );
        let send = table.value("send", String::new(), agent_send);
        AgentKind::Tcp { send }
    } else {
        table.elsewhere(
            "send",
            "is for agents over tcp; this one is \"http\"".to_owned(),
        );
        let path = table.value("path", "/".to_owned(), http_path);
        AgentKind::Http { path }
    };
    let (interval, timeout) = interval_and_timeout(&mut table, ", the interval between questions");
    let ceiling::Agent {
        load_low_percent,
        load_high_percent,
        stale_after,
    } = parameters;
    *load_low_percent = table.value(
        "load_low",
        *load_low_percent,
        percent(1..=PERCENT_MAX - 1, ""),
    );
    let least = *load_low_percent + 1;
    *load_high_percent = table.value(
        "load_high",
        (*load_high_percent).max(least),
        percent(least..=PERCENT_MAX, ", above load_low"),
    );
    // A report that is late now and then is no reason to forget the last one.
    let default = (*stale_after).max(3 * interval).min(DURATION_MAX);
    *stale_after = table.value(
        "stale_after",
        default,
        duration_in(interval..=DURATION_MAX, ", at least the interval"),
    );
    table.finish();
    Some(Agent {
        kind,
        port: port.map(|located| located.value),
        interval,
        timeout,
    })
}
