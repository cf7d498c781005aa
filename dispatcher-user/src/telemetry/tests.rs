//! A scrape: the table of metrics is what is told, and nothing else is.

use std::collections::BTreeSet;

use dispatcher_common::maps::{BACKENDS_MAX, SERVICES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{METRICS, MetricKind, MetricsServer, QUEUE_WAIT_BUCKETS, TIMES_BUCKETS, render};
use crate::admin::fake::{self, Fake};

fn scraped() -> String {
    render(&fake::status())
}

#[test]
fn a_scrape_tells_the_status() {
    let text = scraped();
    for line in [
        r#"dispatcher_build_info{version="0.1.0"} 1"#,
        "dispatcher_uptime_seconds 12.5",
        r#"dispatcher_attached{mode="native"} 1"#,
        "dispatcher_flows 12",
        r#"dispatcher_handled_packets_total{outcome="punted"} 100"#,
        "dispatcher_lost_events_total 2",
        r#"dispatcher_socket_frames{state="home"} 4090"#,
        r#"dispatcher_socket_frames{state="in_flight"} 6"#,
        r#"dispatcher_queue_oldest_wait_seconds{service="web"} 0.12"#,
        r#"dispatcher_backend_ceiling_min{service="web",backend="web-1"} 1"#,
        r#"dispatcher_backend_ceiling_max{service="web",backend="web-1"} 255"#,
        r#"dispatcher_backend_capacity{service="web",backend="web-1"} 256"#,
        r#"dispatcher_backend_connections_highest{service="web",backend="web-1"} 32"#,
        r#"dispatcher_backend_state{service="web",backend="web-1",state="up"} 1"#,
        r#"dispatcher_backend_state{service="web",backend="web-1",state="down"} 0"#,
        "dispatcher_flow_capacity 262144",
        r#"dispatcher_dropped_packets_total{reason="no_flow"} 7"#,
        r#"dispatcher_dropped_packets_total{reason="fragment"} 0"#,
        r#"dispatcher_connection_requests_total{service="web",outcome="admitted"} 61"#,
        r#"dispatcher_connection_requests_total{service="web",outcome="refused"} 20"#,
        r#"dispatcher_connection_requests_total{service="web",outcome="expired"} 10"#,
        r#"dispatcher_connection_requests_total{service="web",outcome="abandoned"} 7"#,
        r#"dispatcher_connection_request_retransmissions_total{service="web"} 11"#,
        r#"dispatcher_connection_request_retries_total{service="web"} 5"#,
        "dispatcher_backend_connect_failures_total\
         {service=\"web\",backend=\"web-1\",reason=\"refused\"} 4",
        "dispatcher_backend_connect_failures_total\
         {service=\"web\",backend=\"web-1\",reason=\"silent\"} 1",
        r#"dispatcher_queue_depth{service="web"} 3"#,
        r#"dispatcher_queue_capacity{service="web"} 1024"#,
        r#"dispatcher_backend_connections{service="web",backend="web-1",state="active"} 30"#,
        r#"dispatcher_backend_connections{service="web",backend="web-1",state="half_open"} 2"#,
        r#"dispatcher_backend_ceiling{service="web",backend="web-1"} 32"#,
        r#"dispatcher_backend_up{service="web",backend="web-1"} 1"#,
        r#"dispatcher_backend_packets_total{service="web",backend="web-1",direction="in"} 5400"#,
        r#"dispatcher_backend_packets_total{service="web",backend="web-1",direction="out"} 5401"#,
        r#"dispatcher_backend_bytes_total{service="web",backend="web-1",direction="in"} 100000"#,
        r#"dispatcher_backend_bytes_total{service="web",backend="web-1",direction="out"} 900000"#,
        r#"dispatcher_backend_ceiling_pinned{service="web",backend="web-1"} 0"#,
        r#"dispatcher_backend_ceiling_suggested{service="web",backend="web-1"} 28"#,
        "dispatcher_backend_ceiling_moves_total\
         {service=\"web\",backend=\"web-1\",reason=\"raised_queue\"} 11",
        r#"dispatcher_group_connections{group="db"} 32"#,
        r#"dispatcher_group_ceiling{group="db"} 100"#,
        r#"dispatcher_backend_requests_total{service="web",backend="web-1"} 58"#,
        r#"dispatcher_backend_unanswered_total{service="web",backend="web-1"} 1"#,
        "dispatcher_backend_response_seconds_bucket\
         {service=\"web\",backend=\"web-1\",le=\"0.0005\"} 2",
        r#"dispatcher_backend_response_seconds_bucket{service="web",backend="web-1",le="30"} 16"#,
        "dispatcher_backend_response_seconds_bucket\
         {service=\"web\",backend=\"web-1\",le=\"+Inf\"} 58",
        r#"dispatcher_backend_response_seconds_sum{service="web",backend="web-1"} 0.25"#,
        r#"dispatcher_backend_response_seconds_count{service="web",backend="web-1"} 58"#,
        r#"dispatcher_backend_connect_seconds_count{service="web",backend="web-1"} 0"#,
        r#"dispatcher_queue_wait_seconds_bucket{service="web",le="0.001"} 1"#,
        r#"dispatcher_queue_wait_seconds_bucket{service="web",le="0.0025"} 2"#,
        r#"dispatcher_queue_wait_seconds_bucket{service="web",le="1"} 10"#,
        r#"dispatcher_queue_wait_seconds_bucket{service="web",le="30"} 14"#,
        r#"dispatcher_queue_wait_seconds_bucket{service="web",le="+Inf"} 60"#,
        r#"dispatcher_queue_wait_seconds_sum{service="web"} 61.5"#,
        r#"dispatcher_queue_wait_seconds_count{service="web"} 60"#,
        r#"dispatcher_backend_checks_total{service="web",backend="web-1",result="passed"} 20"#,
        r#"dispatcher_backend_checks_total{service="web",backend="web-1",result="status"} 3"#,
        r#"dispatcher_backend_check_seconds{service="web",backend="web-1"} 0.0015"#,
        "dispatcher_checks 3",
        "dispatcher_checks_waited_total 9",
    ] {
        assert!(text.lines().any(|l| l == line), "lacks {line}:\n{text}");
    }
}

#[test]
fn the_table_and_the_scrape_name_the_same_metrics() {
    let text = scraped();
    let mut described = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
        let expected = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        assert_eq!(kind, expected, "{name}");
        assert!(
            text.contains(&format!("# HELP {name} {}\n", metric.help)),
            "{name}"
        );
        assert!(described.insert(name), "{name} is told twice");
    }
    assert_eq!(
        described,
        METRICS.iter().map(|metric| metric.name).collect()
    );
}

#[test]
fn names_follow_the_conventions() {
    for metric in METRICS {
        let counter = metric.kind == MetricKind::Counter;
        assert!(metric.name.starts_with("dispatcher_"), "{}", metric.name);
        assert_eq!(counter, metric.name.ends_with("_total"), "{}", metric.name);
    }
    assert!(QUEUE_WAIT_BUCKETS.is_sorted_by(|a, b| a < b));
    assert!(TIMES_BUCKETS.is_sorted_by(|a, b| a < b));
}

/// Series of a back-end, those of `dispatcher_backend_ceiling_moves_total` and of
/// `dispatcher_backend_checks_total` not counted.
const BACKEND_SERIES: usize = 62;
/// Series of a service, without those of its back-ends.
const SERVICE_SERIES: usize = 29;
/// Series of all else, drop reasons, outcomes and groups not counted.
const OTHER_SERIES: usize = 10;

fn series(text: &str) -> usize {
    let samples = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples.count()
}

#[test]
fn a_scrape_has_a_bound_and_the_greatest_configuration_reaches_it() {
    let mut status = fake::status();
    let (service, backend) = (
        status.services[0].clone(),
        status.services[0].backends[0].clone(),
    );
    status.services.clear();
    for s in 0..SERVICES_MAX {
        let mut service = service.clone();
        service.name = format!("service-{s}");
        service.backends.clear();
        for b in 0..BACKENDS_MAX / SERVICES_MAX {
            let mut backend = backend.clone();
            backend.name = format!("back-end-{b}");
            service.backends.push(backend);
        }
        status.services.push(service);
    }
    let text = render(&status);
    let checks = backend.health.map_or(0, |health| health.checks.len());
    let moves = backend.moves.len();
    let others = status.dropped.len() + status.handled.len() - 1
        + 2 * status.groups.len()
        + status.interfaces.len();
    assert_eq!(
        series(&text),
        BACKENDS_MAX as usize * (BACKEND_SERIES + moves + checks)
            + SERVICES_MAX as usize * SERVICE_SERIES
            + OTHER_SERIES
            + others
    );
}

#[test]
fn who_is_gone_is_told_no_more() {
    let mut status = fake::status();
    assert!(render(&status).contains("web-1"));
    status.services[0].backends.clear();
    assert!(!render(&status).contains("web-1"));
    assert!(render(&status).contains("\"web\""));
    status.services.clear();
    assert!(!render(&status).contains("\"web\""));
}

#[tokio::test]
async fn metrics_are_served() {
    let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(server.serve(Fake::new()));
    let mut answers = Vec::new();
    for path in ["/metrics", "/nothing"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: d\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answers.push(answer);
    }
    serving.abort();
    assert!(
        answers[0].starts_with("HTTP/1.1 200 OK\r\n"),
        "{}",
        answers[0]
    );
    assert!(
        answers[0].contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answers[0]
    );
    assert!(
        answers[0].contains("\ndispatcher_flows 12\n"),
        "{}",
        answers[0]
    );
    assert!(answers[1].starts_with("HTTP/1.1 404"), "{}", answers[1]);
    assert!(
        answers[1].ends_with("metrics are at /metrics, the status page is at /\n"),
        "{}",
        answers[1]
    );
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_key() {
    let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = server.local_addr().unwrap();
    let error = MetricsServer::bind(address).await.unwrap_err();
    let told = format!("{error:#}");
    assert!(
        told.contains(&format!(
            "{address} (metrics.listen): Address already in use"
        )),
        "{told}"
    );
}
