//! What the commands print for people: aligned columns of the facts that JSON has in full.

use std::time::Duration;

use humantime::format_duration;

use crate::status::{BackendStatus, CeilingMove, FlowRow, QueueRow, ServiceStatus, Status};

/// Spaces between columns.
const GAP: usize = 2;

/// How a column stands.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

use Align::{Left, Right};

/// Aligns rows under a head; the last column is not padded.
fn aligned<const N: usize>(head: [(&str, Align); N], rows: &[[String; N]], indent: &str) -> String {
    let mut widths = head.map(|(title, _)| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let titles = head.map(|(title, _)| title.to_owned());
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = indent.to_owned();
        for (index, cell) in row.iter().enumerate() {
            let width = widths[index];
            match head[index].1 {
                Left => line.push_str(&format!("{cell:<width$}")),
                Right => line.push_str(&format!("{cell:>width$}")),
            }
            line.push_str(&" ".repeat(GAP));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A duration without the decimals that nobody reads.
fn rounded(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    if duration < Duration::from_secs(10) {
        return format!("{:.1}s", duration.as_secs_f64());
    }
    let whole = format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.replace(' ', "")
}

fn milliseconds(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"))
}

/// The output of `status`.
#[must_use]
pub fn status_tables(status: &Status) -> String {
    let mut text = format!(
        "dispatcher {}, up {}, attached {}, flows {} of {}\n",
        status.version,
        rounded(status.uptime_seconds),
        status.attach_mode.label(),
        status.flows.used,
        status.flows.capacity,
    );
    let dropped: Vec<_> = status
        .dropped
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !dropped.is_empty() {
        text.push_str(&format!("dropped: {}\n", dropped.join(", ")));
    }
    for group in &status.groups {
        text.push_str(&format!(
            "group {}: {} of {} connections, most {}\n",
            group.name, group.active, group.ceiling, group.active_max
        ));
    }
    for service in &status.services {
        text.push('\n');
        service_table(&mut text, service);
    }
    text
}

fn service_table(text: &mut String, service: &ServiceStatus) {
    let ServiceStatus {
        name,
        address,
        queue,
        requests,
        ..
    } = service;
    let wait = &queue.wait_ms;
    let lines = [
        format!("{name}  {address}"),
        format!(
            "  queue     {} of {}, oldest {} ms; waited p50 {}, p99 {}, max {}",
            queue.depth,
            queue.capacity,
            queue.oldest_wait_ms,
            milliseconds(wait.p50),
            milliseconds(wait.p99),
            milliseconds(wait.max),
        ),
        format!(
            "  requests  {} received: {} admitted, {} refused, {} expired, {} abandoned, {} queued",
            requests.received,
            requests.admitted,
            requests.refused,
            requests.expired,
            requests.abandoned,
            requests.queued,
        ),
    ];
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    let head = [
        ("back-end", Left),
        ("address", Left),
        ("state", Left),
        ("active", Right),
        ("half-open", Right),
        ("most", Right),
        ("ceiling", Right),
        ("capacity", Right),
        ("conn/s", Right),
        ("p50 ms", Right),
        ("p99 ms", Right),
    ];
    let rows: Vec<_> = service.backends.iter().map(backend_row).collect();
    text.push_str(&aligned(head, &rows, "  "));
    for backend in &service.backends {
        ceiling_line(text, backend);
    }
}

/// Why the ceiling is what it is, where there is something to tell.
fn ceiling_line(text: &mut String, backend: &BackendStatus) {
    let mut told = Vec::new();
    if backend.pinned {
        told.push(format!("pinned at {}", backend.ceiling));
    }
    if let Some(CeilingMove {
        from,
        to,
        why,
        seconds_ago,
        ..
    }) = &backend.moved
    {
        let ago = rounded(*seconds_ago);
        told.push(format!("ceiling {from} to {to} {ago} ago: {why}"));
    }
    if let Some(suggested) = &backend.suggested {
        told.push(format!("suggested {}", suggested.ceiling));
    }
    if !told.is_empty() {
        text.push_str(&format!("  {}: {}\n", backend.name, told.join("; ")));
    }
}

fn backend_row(backend: &BackendStatus) -> [String; 11] {
    let one_decimal =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    [
        backend.name.clone(),
        backend.address.to_string(),
        backend.state.label().to_owned(),
        backend.active.to_string(),
        backend.half_open.to_string(),
        backend.active_max.to_string(),
        backend.ceiling.to_string(),
        backend.capacity.to_string(),
        one_decimal(backend.rate.connections),
        one_decimal(backend.response_ms.p50),
        one_decimal(backend.response_ms.p99),
    ]
}

/// The output of `flows`.
#[must_use]
pub fn flow_table(flows: &[FlowRow]) -> String {
    let head = [
        ("service", Left),
        ("back-end", Left),
        ("client", Left),
        ("state", Left),
        ("pkts in", Right),
        ("pkts out", Right),
        ("bytes in", Right),
        ("bytes out", Right),
        ("age", Right),
        ("idle", Right),
    ];
    let row = |flow: &FlowRow| {
        [
            flow.service.clone(),
            flow.backend.clone(),
            flow.client.to_string(),
            flow.state.label().to_owned(),
            flow.packets_in.to_string(),
            flow.packets_out.to_string(),
            flow.bytes_in.to_string(),
            flow.bytes_out.to_string(),
            rounded(flow.age_seconds),
            rounded(flow.idle_seconds),
        ]
    };
    aligned(head, &flows.iter().map(row).collect::<Vec<_>>(), "")
}

/// The output of `queue`.
#[must_use]
pub fn queue_table(queue: &[QueueRow]) -> String {
    let head = [
        ("service", Left),
        ("position", Right),
        ("client", Left),
        ("waited", Right),
        ("retransmissions", Right),
    ];
    let row = |request: &QueueRow| {
        [
            request.service.clone(),
            request.position.to_string(),
            request.client.to_string(),
            format!("{} ms", request.waited_ms),
            request.retransmissions.to_string(),
        ]
    };
    aligned(head, &queue.iter().map(row).collect::<Vec<_>>(), "")
}
