//! What the commands print for people: aligned columns of the facts that JSON has in full.

use crate::human::{Tone, View, painted, size, time};
use crate::status::{
    BackendState, BackendStatus, CeilingMove, FlowRow, InterfaceState, QueueRow, ServiceStatus,
    Status,
};

/// Spaces between columns.
const GAP: usize = 2;
/// Characters to which names are cut before columns are left out.
const NAME_FAIR: usize = 20;
/// Characters to which names and addresses are cut at most.
const NAME_SHORTEST: usize = 8;

/// A column of a table.
struct Column {
    title: &'static str,
    kind: Kind,
    /// Where it is too narrow, the column with the highest number goes first; those with 0 stay.
    goes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may be cut.
    Name,
    /// It may be cut as a last resort.
    Address,
    /// One of a few words.
    Word,
    /// Never cut.
    Number,
}

use Kind::{Address, Name, Number, Word};

const fn column(title: &'static str, kind: Kind, goes: u8) -> Column {
    Column { title, kind, goes }
}

/// What stands in a row and a column.
struct Cell(String, Tone);

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self(text, Tone::Plain)
    }
}

/// Aligns rows under a head, within the width of the view if that can be; the last column is not
/// padded.
fn aligned<const N: usize>(
    columns: &[Column; N],
    rows: &[[Cell; N]],
    indent: &str,
    view: View,
) -> String {
    let mut widths: Vec<_> = columns
        .iter()
        .map(|one| one.title.chars().count())
        .collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.0.chars().count());
        }
    }
    let shown = fit(columns, &mut widths, indent.len(), view);
    let titles = columns
        .each_ref()
        .map(|one| Cell::from(one.title.to_owned()));
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        text.push_str(indent);
        for (place, &at) in shown.iter().enumerate() {
            let Cell(words, tone) = &row[at];
            let words = shortened(words, widths[at]);
            let blank = " ".repeat(widths[at] - words.chars().count());
            let is_last = place + 1 == shown.len();
            let words = painted(&words, *tone, view.colour);
            match columns[at].kind {
                Number => text.push_str(&format!("{blank}{words}")),
                Name | Address | Word if is_last => text.push_str(&words),
                Name | Address | Word => text.push_str(&format!("{words}{blank}")),
            }
            if !is_last {
                text.push_str(&" ".repeat(GAP));
            }
        }
        text.push('\n');
    }
    text
}

/// Which columns are shown: long names are cut, then columns are left out, then names are cut more.
fn fit(columns: &[Column], widths: &mut [usize], indent: usize, view: View) -> Vec<usize> {
    let mut shown: Vec<_> = (0..columns.len()).collect();
    let Some(width) = view.width else {
        return shown;
    };
    let over = |shown: &[usize], widths: &[usize]| {
        let used: usize = shown.iter().map(|&at| widths[at] + GAP).sum();
        (indent + used).saturating_sub(GAP + width)
    };
    let cut = |shown: &[usize], widths: &mut [usize], kinds: &[Kind], least: usize| {
        while over(shown, widths) > 0 {
            let names = shown.iter().copied();
            let longest = names
                .filter(|&at| kinds.contains(&columns[at].kind))
                .max_by_key(|&at| widths[at]);
            match longest.filter(|&at| widths[at] > least.max(columns[at].title.len())) {
                Some(longest) => widths[longest] -= 1,
                None => break,
            }
        }
    };
    cut(&shown, widths, &[Name], NAME_FAIR);
    while over(&shown, widths) > 0 {
        let first = shown.iter().copied().max_by_key(|&at| columns[at].goes);
        match first.filter(|&at| columns[at].goes > 0) {
            Some(first) => shown.retain(|&at| at != first),
            None => break,
        }
    }
    cut(&shown, widths, &[Name, Address], NAME_SHORTEST);
    shown
}

/// At most so many characters; what is cut shows.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

fn time_of_ms(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| time(ms / 1000.0))
}

/// Of whole milliseconds no parts are told.
fn wait_of(ms: Option<u64>) -> String {
    match ms {
        Some(ms @ 0..1000) => format!("{ms} ms"),
        ms => time_of_ms(ms.map(|ms| ms as f64)),
    }
}

/// The output of `status`.
#[must_use]
pub fn status_tables(status: &Status, view: View) -> String {
    let mut text = format!(
        "dispatcher {}, up {}, attached {}, flows {} of {}\n",
        status.version,
        time(status.uptime_seconds),
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
        let line = format!("dropped: {}", dropped.join(", "));
        text.push_str(&painted(&line, Tone::Notable, view.colour));
        text.push('\n');
    }
    for interface in &status.interfaces {
        if interface.state != InterfaceState::Up {
            let why = interface.why.iter().map(|why| format!(": {why}"));
            let line = format!(
                "interface {} is {}",
                interface.name,
                interface.state.label()
            );
            let line = why.fold(line, |line, why| line + &why);
            text.push_str(&painted(&line, Tone::Bad, view.colour));
            text.push('\n');
        }
    }
    for group in &status.groups {
        text.push_str(&format!(
            "group {}: {} of {} connections, most {}\n",
            group.name, group.active, group.ceiling, group.active_max
        ));
    }
    for service in &status.services {
        text.push('\n');
        service_table(&mut text, service, view);
    }
    text
}

fn service_table(text: &mut String, service: &ServiceStatus, view: View) {
    let ServiceStatus {
        name,
        address,
        queue,
        requests,
        flood,
        ..
    } = service;
    let wait = &queue.wait_ms;
    let lines = [
        format!("{name}  {address}"),
        format!(
            "  queue     {} of {}, oldest {}; waited p50 {}, p99 {}, max {}",
            queue.depth,
            queue.capacity,
            wait_of(Some(queue.oldest_wait_ms)),
            wait_of(wait.p50),
            wait_of(wait.p99),
            wait_of(wait.max),
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
    if let Some(seconds) = flood.since_seconds {
        text.push_str(&format!(
            "  flood     on for {}: {} requests dropped that had not proved alive\n",
            time(seconds),
            flood.unproven,
        ));
    }
    let columns = [
        column("back-end", Name, 0),
        column("address", Address, 4),
        column("state", Word, 0),
        column("active", Number, 0),
        column("half-open", Number, 5),
        column("most", Number, 6),
        column("ceiling", Number, 0),
        column("capacity", Number, 7),
        column("conn/s", Number, 1),
        column("p50", Number, 3),
        column("p99", Number, 2),
    ];
    let rows: Vec<_> = service.backends.iter().map(backend_row).collect();
    text.push_str(&aligned(&columns, &rows, "  ", view));
    for backend in &service.backends {
        explain(text, backend);
    }
}

/// Why its health and its ceiling are what they are, where there is something to tell.
fn explain(text: &mut String, backend: &BackendStatus) {
    let mut told = Vec::new();
    if let Some(health) = backend
        .health
        .as_ref()
        .filter(|health| health.verdict != "up")
    {
        let (verdict, since) = (&health.verdict, time(health.since_seconds));
        let why = health.why.as_deref().unwrap_or_default();
        told.push(format!("health {verdict} for {since}: {why}"));
    }
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
        let ago = time(*seconds_ago);
        told.push(format!("ceiling {from} to {to} {ago} ago: {why}"));
    }
    if let Some(suggested) = &backend.suggested {
        told.push(format!("suggested {}", suggested.ceiling));
    }
    if !told.is_empty() {
        text.push_str(&format!("  {}: {}\n", backend.name, told.join("; ")));
    }
}

fn backend_row(backend: &BackendStatus) -> [Cell; 11] {
    let state = match backend.state {
        BackendState::Up => Tone::Good,
        BackendState::Down => Tone::Bad,
        BackendState::Draining | BackendState::Disabled => Tone::Notable,
    };
    let is_full = backend.active + backend.half_open >= backend.ceiling;
    let held = if is_full { Tone::Notable } else { Tone::Plain };
    let rate = backend.rate.connections;
    [
        backend.name.clone().into(),
        backend.address.to_string().into(),
        Cell(backend.state.label().to_owned(), state),
        Cell(backend.active.to_string(), held),
        backend.half_open.to_string().into(),
        backend.active_max.to_string().into(),
        Cell(backend.ceiling.to_string(), held),
        backend.capacity.to_string().into(),
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
            .into(),
        time_of_ms(backend.response_ms.p50).into(),
        time_of_ms(backend.response_ms.p99).into(),
    ]
}

/// The output of `flows`.
#[must_use]
pub fn flow_table(flows: &[FlowRow], view: View) -> String {
    let columns = [
        column("service", Name, 1),
        column("back-end", Name, 0),
        column("client", Address, 0),
        column("state", Word, 0),
        column("pkts in", Number, 6),
        column("pkts out", Number, 5),
        column("bytes in", Number, 4),
        column("bytes out", Number, 3),
        column("age", Number, 0),
        column("idle", Number, 2),
    ];
    let row = |flow: &FlowRow| {
        [
            flow.service.clone(),
            flow.backend.clone(),
            flow.client.to_string(),
            flow.state.label().to_owned(),
            flow.packets_in.to_string(),
            flow.packets_out.to_string(),
            size(flow.bytes_in),
            size(flow.bytes_out),
            time(flow.age_seconds),
            time(flow.idle_seconds),
        ]
        .map(Cell::from)
    };
    aligned(
        &columns,
        &flows.iter().map(row).collect::<Vec<_>>(),
        "",
        view,
    )
}

/// The output of `queue`.
#[must_use]
pub fn queue_table(queue: &[QueueRow], view: View) -> String {
    let columns = [
        column("service", Name, 1),
        column("position", Number, 2),
        column("client", Address, 0),
        column("waited", Number, 0),
        column("retransmissions", Number, 3),
    ];
    let row = |request: &QueueRow| {
        [
            request.service.clone(),
            request.position.to_string(),
            request.client.to_string(),
            wait_of(Some(request.waited_ms)),
            request.retransmissions.to_string(),
        ]
        .map(Cell::from)
    };
    aligned(
        &columns,
        &queue.iter().map(row).collect::<Vec<_>>(),
        "",
        view,
    )
}
