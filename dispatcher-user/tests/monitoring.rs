//! Dashboard and alert rules ask for metrics that there are, by labels that they have.

use std::collections::BTreeSet;

use dispatcher_user::telemetry::{METRICS, Metric, MetricKind};
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../packaging/grafana/dispatcher.json");
const ALERTS: &str = include_str!("../../packaging/prometheus/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../packaging/prometheus/alerts.test.yml");

/// What Prometheus itself puts to every sample.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Each metric that an expression names, with what follows the name.
fn named(expression: &str) -> Vec<(&str, &str)> {
    let starts = expression.match_indices("dispatcher_").map(|(at, _)| at);
    // A name, not the end of another one.
    let starts = starts.filter(|at| !expression[..*at].ends_with(is_name));
    let split = |at: usize| {
        let rest = &expression[at..];
        rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()))
    };
    starts.map(split).collect()
}

/// The row of the table; a histogram is asked for by its parts.
fn metric(name: &str) -> (&'static Metric, bool) {
    if let Some(metric) = METRICS.iter().find(|metric| metric.name == name) {
        let histogram = metric.kind == MetricKind::Histogram;
        assert!(!histogram, "{name} has no samples, only its parts have");
        return (metric, false);
    }
    let parts = ["_bucket", "_sum", "_count"];
    let base = parts.iter().find_map(|part| name.strip_suffix(part));
    let metric = METRICS
        .iter()
        .find(|metric| Some(metric.name) == base && metric.kind == MetricKind::Histogram);
    let metric = metric.unwrap_or_else(|| panic!("there is no metric {name}"));
    (metric, name.ends_with("_bucket"))
}

fn labels_of(metric: &Metric, bucket: bool) -> BTreeSet<&'static str> {
    let own = metric.labels.iter().copied().chain(TARGET_LABELS);
    own.chain(bucket.then_some("le")).collect()
}

/// Checks one expression, and returns the labels that its samples may have.
fn check(expression: &str) -> BTreeSet<&'static str> {
    let mut known = BTreeSet::new();
    for (name, rest) in named(expression) {
        let (metric, bucket) = metric(name);
        let labels = labels_of(metric, bucket);
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        for matcher in selector.map_or("", |(inside, _)| inside).split(',') {
            let label = matcher.trim().split(['=', '!', '~']).next().unwrap();
            let has = label.is_empty() || labels.contains(label);
            assert!(has, "{name} has no label {label}: {expression}");
        }
        known.extend(labels);
    }
    for word in ["by (", "on ("] {
        for (at, _) in expression.match_indices(word) {
            let list = expression[at + word.len()..].split(')').next().unwrap();
            for label in list.split(',').map(str::trim) {
                assert!(known.contains(label), "no label {label}: {expression}");
            }
        }
    }
    known
}

/// Labels in `{{service}}` and `{{ $labels.service }}`.
fn placeholders(text: &str) -> Vec<&str> {
    let inside = text
        .split("{{")
        .skip(1)
        .filter_map(|rest| rest.split("}}").next());
    let inside = inside
        .map(str::trim)
        .filter(|word| !word.starts_with("$value"));
    inside
        .map(|word| word.trim_start_matches("$labels."))
        .collect()
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut targets = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let known = check(expression);
            assert!(!known.is_empty(), "no metric of ours: {expression}");
            for label in placeholders(target["legendFormat"].as_str().unwrap()) {
                assert!(known.contains(label), "legend {label}: {expression}");
            }
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{expression}");
            targets += 1;
        }
    }
    assert!(targets > 20, "only {targets} questions");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["definition"].as_str() {
            let known = check(query);
            let label = query
                .trim_end_matches(')')
                .rsplit(',')
                .next()
                .unwrap()
                .trim();
            assert!(known.contains(label), "{query}");
        }
    }
}

#[test]
fn panels_have_numbers_and_places_of_their_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut numbers = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            numbers.insert(panel["id"].as_u64().unwrap()),
            "{}",
            panel["title"]
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{}: beyond the right edge", panel["title"]);
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{}: over another one", panel["title"]);
            }
        }
    }
}

#[test]
fn rules_ask_for_what_there_is_and_each_is_tested() {
    let rules: Vec<&str> = ALERTS.split("      - alert: ").skip(1).collect();
    assert!(rules.len() >= 10, "only {} rules", rules.len());
    for rule in rules {
        let (name, rest) = rule.split_once('\n').unwrap();
        let (_, rest) = rest.split_once("expr: ").unwrap();
        let (expression, rest) = rest.split_once("        for: ").unwrap();
        let mut known = check(expression);
        // Of Prometheus itself.
        if expression.contains("up{job=") {
            known.extend(TARGET_LABELS);
        }
        assert!(!known.is_empty(), "{name} asks for no metric");
        for label in placeholders(rest) {
            assert!(known.contains(label), "{name} tells of label {label}");
        }
        assert!(ALERT_TESTS.contains(name), "{name} is never seen to fire");
    }
}

#[test]
#[should_panic(expected = "there is no metric dispatcher_queue_length")]
fn a_metric_that_is_not_there_is_found() {
    check("sum(dispatcher_queue_length)");
}

#[test]
#[should_panic(expected = "dispatcher_queue_depth has no label backend")]
fn a_label_that_is_not_there_is_found() {
    check(r#"dispatcher_queue_depth{service="web",backend=~"a|b"}"#);
}
