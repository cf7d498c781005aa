//! What is told to machines: the table of metrics and its exporter, and the log. Nothing is
//! measured here: a scrape shows the [`Status`] of its moment.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dispatcher_common::verdict::Handled;
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{LabelSet, PrometheusBuilder, PrometheusRecorder, formatting};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::admin::{Control, serve};
use crate::page;
use crate::status::{
    BackendState, BackendStatus, InterfaceState, ServiceStatus, Status, TimesBySize,
};

/// Upper bounds of the buckets of `dispatcher_queue_wait_seconds`: from what a busy host needs to
/// release a request to beyond the usual queue timeout.
pub const QUEUE_WAIT_BUCKETS: [f64; 14] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Upper bounds of the buckets of the histograms of back-ends: from a server on the same wire to
/// one that its clients have given up.
pub const TIMES_BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// It only grows, until the daemon starts anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts values by size.
    Histogram,
}

/// One row of the table of metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, unit included.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What it counts in.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells, for people.
    pub help: &'static str,
}

macro_rules! metric_table {
    ($($id:ident: $kind:ident $unit:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(const $id: Metric = Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            labels: &$labels,
            help: $help,
        };)*

        /// Every metric that there is.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metric_table! {
    BUILD_INFO: Gauge Count "dispatcher_build_info" ["version"],
        "Always 1; the label tells the version";
    UPTIME: Gauge Seconds "dispatcher_uptime_seconds" [],
        "Since the daemon started; the flows and the program may be older";
    ATTACHED: Gauge Count "dispatcher_attached" ["mode"],
        "Always 1; the label tells how the program is attached: native or generic";
    FLOWS: Gauge Count "dispatcher_flows" [],
        "Connections in the flow table";
    FLOW_CAPACITY: Gauge Count "dispatcher_flow_capacity" [],
        "Most connections that the flow table holds";
    DROPPED: Counter Count "dispatcher_dropped_packets_total" ["reason"],
        "Frames dropped";
    HANDLED: Counter Count "dispatcher_handled_packets_total" ["outcome"],
        "Packets that the program gave on but as a connection's: passed or handed_to_host to the \
         host's stack, punted to the daemon; icmp_translated (errors) and ping_answered";
    EVENTS_LOST: Counter Count "dispatcher_lost_events_total" [],
        "Reports of flows that found the ring full; the daemon made up for them";
    FRAMES: Gauge Count "dispatcher_socket_frames" ["state"],
        "Frames of the AF_XDP sockets: home (free to receive or send) or in_flight";
    REQUESTS: Counter Count "dispatcher_connection_requests_total" ["service", "outcome"],
        "Connection requests by what became of them: admitted, refused, expired or abandoned";
    RETRANSMISSIONS: Counter Count "dispatcher_connection_request_retransmissions_total"
        ["service"], "Repetitions of connection requests that were counted before";
    FLOOD: Gauge Count "dispatcher_flood" ["service"],
        "1 while a flood of connection requests is on, else 0";
    FLOODS: Counter Count "dispatcher_floods_total" ["service"],
        "Floods of connection requests that began";
    UNPROVEN: Counter Count "dispatcher_unproven_requests_total" ["service"],
        "Packets with connection requests that were dropped because they had not proved alive";
    QUEUE_DEPTH: Gauge Count "dispatcher_queue_depth" ["service"],
        "Connection requests that wait";
    QUEUE_CAPACITY: Gauge Count "dispatcher_queue_capacity" ["service"],
        "Most connection requests that may wait";
    QUEUE_OLDEST: Gauge Seconds "dispatcher_queue_oldest_wait_seconds" ["service"],
        "How long the oldest request has waited; 0 while none waits";
    QUEUE_WAIT: Histogram Seconds "dispatcher_queue_wait_seconds" ["service"],
        "How long connection requests waited that were admitted from the queue";
    CONNECTIONS: Gauge Count "dispatcher_backend_connections" ["service", "backend", "state"],
        "Connections by state: active or half_open; both count against the ceiling";
    CEILING: Gauge Count "dispatcher_backend_ceiling" ["service", "backend"],
        "Most connections that the back-end is given now";
    CEILING_MIN: Gauge Count "dispatcher_backend_ceiling_min" ["service", "backend"],
        "Least that the ceiling may become";
    CEILING_MAX: Gauge Count "dispatcher_backend_ceiling_max" ["service", "backend"],
        "Most that the ceiling may become";
    CAPACITY: Gauge Count "dispatcher_backend_capacity" ["service", "backend"],
        "Connections that the server is capable of, as configured";
    HIGHEST: Gauge Count "dispatcher_backend_connections_highest" ["service", "backend"],
        "Most connections ever held at once since the daemon started, half-open ones included";
    ADMITTED: Counter Count "dispatcher_backend_admissions_total" ["service", "backend"],
        "Connections admitted to the back-end";
    PINNED: Gauge Count "dispatcher_backend_ceiling_pinned" ["service", "backend"],
        "1 while an operator has pinned the ceiling, else 0";
    SUGGESTED: Gauge Count "dispatcher_backend_ceiling_suggested" ["service", "backend"],
        "The ceiling that the measurements point to";
    MOVES: Counter Count "dispatcher_backend_ceiling_moves_total"
        ["service", "backend", "reason"], "Moves of the ceiling";
    GROUP_CONNECTIONS: Gauge Count "dispatcher_group_connections" ["group"],
        "Connections at all back-ends of the group, half-open ones included";
    GROUP_CEILING: Gauge Count "dispatcher_group_ceiling" ["group"],
        "Most connections that the back-ends of the group are given together";
    REQUESTS_BEGUN: Counter Count "dispatcher_backend_requests_total" ["service", "backend"],
        "Requests begun on connections of the back-end";
    UNANSWERED: Counter Count "dispatcher_backend_unanswered_total" ["service", "backend"],
        "Connections that ended while a request had no answer";
    RESPONSE: Histogram Seconds "dispatcher_backend_response_seconds" ["service", "backend"],
        "From a request's first byte to the first byte of its response";
    CONNECT: Histogram Seconds "dispatcher_backend_connect_seconds" ["service", "backend"],
        "From SYN to SYN-ACK";
    UP: Gauge Count "dispatcher_backend_up" ["service", "backend"],
        "1 while the back-end is given new connections, else 0";
    STATE: Gauge Count "dispatcher_backend_state" ["service", "backend", "state"],
        "1 for the state that the back-end is in, else 0: up, down, draining or disabled";
    PACKETS: Counter Count "dispatcher_backend_packets_total" ["service", "backend", "direction"],
        "Packets to (in) and from (out) the back-end";
    BYTES: Counter Bytes "dispatcher_backend_bytes_total" ["service", "backend", "direction"],
        "Bytes to (in) and from (out) the back-end, from the IP header on";
    RETRIES: Counter Count "dispatcher_connection_request_retries_total" ["service"],
        "How often a connection request was put back, for another back-end";
    CONNECT_FAILURES: Counter Count "dispatcher_backend_connect_failures_total"
        ["service", "backend", "reason"],
        "Connections that the back-end refused or, silent, did not answer in time";
    INTERFACE_UP: Gauge Count "dispatcher_interface_up" ["interface"],
        "1 while the interface is there, up and used, else 0";
    CHECKS: Counter Count "dispatcher_backend_checks_total" ["service", "backend", "result"],
        "Health checks by what came of them: passed, timeout, refused, connection, status, \
         unreadable, or not_made for want of something on this machine";
    CHECK_TIME: Gauge Seconds "dispatcher_backend_check_seconds" ["service", "backend"],
        "How long the last health check took";
    CHECKS_RUNNING: Gauge Count "dispatcher_checks" [],
        "Health checks that are being made";
    CHECKS_WAITED: Counter Count "dispatcher_checks_waited_total" [],
        "Health checks that had to wait for others to be over";
}

/// What the program counts of events, not of packets.
const EVENT_LOST: &str = Handled::EventLost.label();

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

impl Metric {
    /// With a value for each label, in the order of the table.
    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let labels = self.labels.iter().zip(values);
        let labels: Vec<_> = labels
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect();
        Key::from_parts(self.name, labels)
    }

    fn describe(&self, recorder: &PrometheusRecorder) {
        let name = KeyName::from_const_str(self.name);
        let help = SharedString::const_str(self.help);
        match self.kind {
            MetricKind::Counter => recorder.describe_counter(name, Some(self.unit), help),
            MetricKind::Gauge => recorder.describe_gauge(name, Some(self.unit), help),
            // `Histograms` writes its own.
            MetricKind::Histogram => {}
        }
    }
}

/// The answer to a scrape, in the Prometheus text format.
///
/// It is made anew each time, so that nothing is kept or told of who is gone.
#[must_use]
pub fn render(status: &Status) -> String {
    let scrape = Scrape::new();
    scrape.set_all(status);
    let mut text = scrape.0.handle().render();
    let mut waits = Histograms::begin(&mut text, &QUEUE_WAIT, &QUEUE_WAIT_BUCKETS);
    for service in &status.services {
        waits.write(&[&service.name], &service.queue.wait_sizes);
    }
    write_times(&mut text, &RESPONSE, status, |backend| {
        &backend.response_sizes
    });
    write_times(&mut text, &CONNECT, status, |backend| {
        &backend.connect_sizes
    });
    text
}

fn write_times(
    text: &mut String,
    metric: &Metric,
    status: &Status,
    of: impl Fn(&BackendStatus) -> &TimesBySize,
) {
    let mut times = Histograms::begin(text, metric, &TIMES_BUCKETS);
    for service in &status.services {
        for backend in &service.backends {
            times.write(&[&service.name, &backend.name], of(backend));
        }
    }
}

/// Histograms of one metric; what they tell is counted elsewhere, which the recorder has no way to
/// take up.
struct Histograms<'a> {
    text: &'a mut String,
    metric: &'a Metric,
    bounds: &'a [f64],
}

impl<'a> Histograms<'a> {
    fn begin(text: &'a mut String, metric: &'a Metric, bounds: &'a [f64]) -> Self {
        formatting::write_help_line(text, metric.name, None, None, metric.help);
        formatting::write_type_line(text, metric.name, None, None, "histogram");
        Self {
            text,
            metric,
            bounds,
        }
    }

    fn write(&mut self, values: &[&str], times: &TimesBySize) {
        let key = self.metric.key(values);
        let labels = LabelSet::from_key_and_global(&key, &Default::default());
        let name = self.metric.name;
        let mut line = |suffix, bound: Option<&str>, value: f64| {
            let bound = bound.map(|bound| ("le", bound));
            formatting::write_metric_line(
                self.text,
                name,
                Some(suffix),
                &labels,
                bound,
                value,
                None,
            );
        };
        for (bound, count) in self.bounds.iter().zip(&times.at_most) {
            line("bucket", Some(&bound.to_string()), *count as f64);
        }
        line("bucket", Some("+Inf"), times.count as f64);
        line("sum", None, times.sum_seconds);
        line("count", None, times.count as f64);
    }
}

/// The counters and gauges of one scrape.
struct Scrape(PrometheusRecorder);

impl Scrape {
    fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in METRICS {
            metric.describe(&recorder);
        }
        Self(recorder)
    }

    fn counter(&self, metric: &Metric, labels: &[&str], value: u64) {
        let counter = self.0.register_counter(&metric.key(labels), &METADATA);
        counter.absolute(value);
    }

    /// Numbers of connections are far below 2^53, up to which a gauge is exact.
    fn gauge(&self, metric: &Metric, labels: &[&str], value: u64) {
        let gauge = self.0.register_gauge(&metric.key(labels), &METADATA);
        gauge.set(value as f64);
    }

    fn seconds(&self, metric: &Metric, labels: &[&str], value: f64) {
        let gauge = self.0.register_gauge(&metric.key(labels), &METADATA);
        gauge.set(value);
    }

    fn set_all(&self, status: &Status) {
        self.gauge(&BUILD_INFO, &[&status.version], 1);
        self.seconds(&UPTIME, &[], status.uptime_seconds);
        self.gauge(&ATTACHED, &[status.attach_mode.label()], 1);
        self.gauge(&FLOWS, &[], status.flows.used);
        self.gauge(&FLOW_CAPACITY, &[], status.flows.capacity);
        for (reason, count) in &status.dropped {
            self.counter(&DROPPED, &[reason], *count);
        }
        for (outcome, count) in &status.handled {
            match outcome.as_str() {
                EVENT_LOST => self.counter(&EVENTS_LOST, &[], *count),
                _ => self.counter(&HANDLED, &[outcome], *count),
            }
        }
        self.gauge(&FRAMES, &["home"], status.frames.home);
        self.gauge(&FRAMES, &["in_flight"], status.frames.in_flight);
        self.gauge(&CHECKS_RUNNING, &[], status.checks.running);
        self.counter(&CHECKS_WAITED, &[], status.checks.waited);
        for group in &status.groups {
            self.gauge(&GROUP_CONNECTIONS, &[&group.name], group.active);
            self.gauge(&GROUP_CEILING, &[&group.name], group.ceiling);
        }
        for service in &status.services {
            self.set_service(service);
        }
        for interface in &status.interfaces {
            let is_up = interface.state == InterfaceState::Up;
            self.gauge(&INTERFACE_UP, &[&interface.name], u64::from(is_up));
        }
    }

    fn set_service(&self, service: &ServiceStatus) {
        let name = service.name.as_str();
        let requests = &service.requests;
        let outcomes = [
            // One that is put back is counted again only once it is made up for.
            ("admitted", requests.admitted_max),
            ("refused", requests.refused),
            ("expired", requests.expired),
            ("abandoned", requests.abandoned),
        ];
        for (outcome, count) in outcomes {
            self.counter(&REQUESTS, &[name, outcome], count);
        }
        self.counter(&RETRANSMISSIONS, &[name], requests.retransmitted);
        self.counter(&RETRIES, &[name], requests.retried);
        self.gauge(&FLOOD, &[name], u64::from(service.flood.on));
        self.counter(&FLOODS, &[name], service.flood.count);
        self.counter(&UNPROVEN, &[name], service.flood.unproven);
        self.gauge(&QUEUE_DEPTH, &[name], service.queue.depth);
        self.gauge(&QUEUE_CAPACITY, &[name], service.queue.capacity);
        let oldest = Duration::from_millis(service.queue.oldest_wait_ms);
        self.seconds(&QUEUE_OLDEST, &[name], oldest.as_secs_f64());
        for backend in &service.backends {
            self.set_backend(name, backend);
        }
    }

    fn set_backend(&self, service: &str, backend: &BackendStatus) {
        let name = backend.name.as_str();
        let total = &backend.total;
        let up = backend.state == BackendState::Up;
        self.gauge(&CONNECTIONS, &[service, name, "active"], backend.active);
        self.gauge(
            &CONNECTIONS,
            &[service, name, "half_open"],
            backend.half_open,
        );
        self.gauge(&CEILING, &[service, name], backend.ceiling);
        self.gauge(&CEILING_MIN, &[service, name], backend.ceiling_min);
        self.gauge(&CEILING_MAX, &[service, name], backend.ceiling_max);
        self.gauge(&CAPACITY, &[service, name], backend.capacity);
        self.gauge(&HIGHEST, &[service, name], backend.active_max);
        self.counter(&ADMITTED, &[service, name], total.connections);
        self.gauge(&UP, &[service, name], u64::from(up));
        for state in BackendState::ALL {
            let is = u64::from(backend.state == state);
            self.gauge(&STATE, &[service, name, state.label()], is);
        }
        if let Some(health) = &backend.health {
            for (result, count) in &health.checks {
                self.counter(&CHECKS, &[service, name, result], *count);
            }
            if let Some(last) = &health.last {
                self.seconds(&CHECK_TIME, &[service, name], last.took_ms / 1000.0);
            }
        }
        self.gauge(&PINNED, &[service, name], u64::from(backend.pinned));
        if let Some(suggested) = &backend.suggested {
            self.gauge(&SUGGESTED, &[service, name], suggested.ceiling);
        }
        for (reason, count) in &backend.moves {
            self.counter(&MOVES, &[service, name, reason], *count);
        }
        self.counter(&REQUESTS_BEGUN, &[service, name], total.requests);
        self.counter(&UNANSWERED, &[service, name], total.unanswered);
        self.counter(
            &CONNECT_FAILURES,
            &[service, name, "refused"],
            total.refused,
        );
        self.counter(&CONNECT_FAILURES, &[service, name, "silent"], total.silent);
        self.counter(&PACKETS, &[service, name, "in"], total.packets_in);
        self.counter(&PACKETS, &[service, name, "out"], total.packets_out);
        self.counter(&BYTES, &[service, name, "in"], total.bytes_in);
        self.counter(&BYTES, &[service, name, "out"], total.bytes_out);
    }
}

/// The listener for scrapes, bound.
#[derive(Debug)]
pub struct MetricsServer(TcpListener);

impl MetricsServer {
    /// Binds to `listen`.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn bind(listen: SocketAddr) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(listen).await;
        bound
            .map(Self)
            .with_context(|| format!("cannot listen for scrapes on {listen} (metrics.listen)"))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves `GET /metrics` and the status page until it is dropped.
    pub async fn serve<C: Control>(self, control: C) {
        let router = Router::new()
            .route("/metrics", get(scrape::<C>))
            .merge(page::router(control.history().clone()))
            .fallback(|| async {
                let told = "metrics are at /metrics, the status page is at /\n";
                (StatusCode::NOT_FOUND, told)
            })
            .with_state(control);
        serve(self.0, router).await;
    }
}

async fn scrape<C: Control>(State(control): State<C>) -> Response {
    match control.status().await {
        Ok(status) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], render(&status)).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

/// The form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs to stderr from now on; `RUST_LOG` says what, by default from `info` on.
///
/// # Errors
/// `RUST_LOG` cannot be read, or there is a log already.
pub fn init_log(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(&filter)
            .with_context(|| format!("RUST_LOG is {filter:?}; try \"info\" or \"debug\""))?,
        // At the end it warns of reports that nobody listens to any more.
        _ => EnvFilter::new("info,netlink_proto=error"),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))
}
