//! Draws the model. Colours are the terminal's own and only for areas and warnings, so that they
//! can be read on any background; without them nothing is lost.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::model::{BackendPast, Link, Mode, Model, Past, Row, Sort, held, is_up};
use crate::human::span;
use crate::status::{BackendStatus, InterfaceState, ServiceStatus, Status, Totals};

/// Lines of what is told of the selected back-end.
const DETAIL_LINES: u16 = 8;
/// Lines of its picture.
const PICTURE_LINES: u16 = 3;
/// Fewer lines than these leave no room for it.
const DETAIL_FROM: u16 = 16;
/// Columns from which requests per second are shown too.
const REQUESTS_FROM: u16 = 100;
/// Columns of a name, at least and at most.
const NAME: (usize, usize) = (14, 32);
/// Columns of a bar, at least and at most.
const BAR: (usize, usize) = (10, 30);
/// Parts of a line, from empty to full.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Parts of a column, the same way.
const PARTS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// What a colour says.
#[derive(Clone, Copy)]
enum Tone {
    Held,
    Queue,
    Good,
    Bad,
    Soft,
    Strong,
}

fn style(colour: bool, tone: Tone) -> Style {
    let (of, modifier) = match tone {
        Tone::Held => (Color::Cyan, Modifier::empty()),
        Tone::Queue => (Color::Magenta, Modifier::empty()),
        Tone::Good => (Color::Green, Modifier::empty()),
        Tone::Bad => (Color::Red, Modifier::BOLD),
        Tone::Soft => (Color::Reset, Modifier::DIM),
        Tone::Strong => (Color::Reset, Modifier::BOLD),
    };
    let style = Style::new().add_modifier(modifier);
    if colour { style.fg(of) } else { style }
}

/// Draws all of it; `now` is the time since the start.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, now: Duration) {
    let area = frame.area();
    let detail = if area.height >= DETAIL_FROM {
        DETAIL_LINES
    } else {
        0
    };
    let [title, head, list, about, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(detail),
        Constraint::Length(1),
    ])
    .areas(area);
    let columns = Columns::of(area.width, model);
    frame.render_widget(title_line(model, now, title.width), title);
    frame.render_widget(columns.head(model), head);
    draw_list(frame, list, model, &columns);
    if detail > 0 {
        draw_detail(frame, about, model);
    }
    frame.render_widget(foot_line(model, now), foot);
    if model.mode == Mode::Help {
        draw_help(frame, area, model);
    }
}

fn title_line(model: &Model, now: Duration, width: u16) -> Line<'static> {
    let told = |tone| style(model.colour, tone);
    let (state, state_style) = match &model.link {
        Link::Waiting => ("connecting".to_owned(), told(Tone::Soft)),
        Link::Gone(since, _) => {
            let ago = span(now.saturating_sub(*since).as_secs_f64());
            let state = format!("NO DAEMON for {ago}");
            (state, told(Tone::Bad).add_modifier(Modifier::REVERSED))
        }
        Link::Live if model.paused => {
            let paused = Style::new().add_modifier(Modifier::REVERSED);
            ("PAUSED".to_owned(), paused)
        }
        Link::Live => ("live".to_owned(), told(Tone::Good)),
    };
    let about = model.status.as_ref().map(|status| {
        let Status { version, flows, .. } = status;
        let mut about = format!(
            " {version} · up {} · {} · {} of {} flows",
            span(status.uptime_seconds),
            status.attach_mode.label(),
            flows.used,
            flows.capacity
        );
        let interfaces = status.interfaces.iter();
        for one in interfaces.filter(|one| one.state != InterfaceState::Up) {
            about.push_str(&format!(" · {} is {}", one.name, one.state.label()));
        }
        about
    });
    let about = about.unwrap_or_default();
    let used = "dispatcher".len() + state.chars().count() + 1;
    let about = fitted(&about, usize::from(width).saturating_sub(used));
    Line::from(vec![
        Span::styled("dispatcher", told(Tone::Strong)),
        Span::raw(about),
        Span::raw(" "),
        Span::styled(state, state_style),
    ])
}

/// Widths of the columns, which follow from that of the terminal.
struct Columns {
    name: usize,
    bar: usize,
    requests: bool,
    spark: usize,
}

/// State, connections against ceiling, three numbers, the mark of a pin and all gaps.
const FIXED: usize = 8 + 9 + 2 + 7 + 8 + 8 + 6;
/// Requests per second, with the gap.
const REQUESTS: usize = 8;

impl Columns {
    fn of(width: u16, model: &Model) -> Self {
        let services = model.status.iter().flat_map(|status| &status.services);
        let names = services.flat_map(|service| &service.backends);
        let longest = names.map(|one| one.name.chars().count() + 2).max();
        let requests = width >= REQUESTS_FROM;
        let room = usize::from(width).saturating_sub(FIXED + if requests { REQUESTS } else { 0 });
        let name = longest
            .unwrap_or(0)
            .clamp(NAME.0, NAME.1)
            .min((room / 2).max(NAME.0));
        let rest = room.saturating_sub(name);
        let bar = (rest / 2).clamp(BAR.0, BAR.1);
        Self {
            name,
            bar,
            requests,
            spark: rest.saturating_sub(bar),
        }
    }

    /// The column that the list is sorted by has an arrow.
    fn head(&self, model: &Model) -> Line<'static> {
        let Self { name, bar, .. } = self;
        let arrow = if model.reversed { "▲" } else { "▼" };
        let title = |title: &str, sort: Sort| match model.sort == sort {
            true => format!("{title}{arrow}"),
            false => title.to_owned(),
        };
        let mut head = format!(
            "{:<name$} {:<8} {:<bar$} {:>9}  {:>7}",
            title("back-end", Sort::Name),
            "state",
            title("of ceiling", Sort::Fullness),
            title("held/ceil", Sort::Connections),
            title("conn/s", Sort::Rate),
        );
        if self.requests {
            head.push_str(&format!(" {:>7}", "req/s"));
        }
        let p99 = title("p99 ms", Sort::Response);
        head.push_str(&format!(" {:>7} {p99:>7} ", "p50 ms"));
        head.push_str(&format!(
            "{:>width$}",
            fitted("held", self.spark),
            width = self.spark
        ));
        Line::styled(head, Style::new().add_modifier(Modifier::UNDERLINED))
    }
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, model: &mut Model, columns: &Columns) {
    let page = usize::from(area.height);
    let selected = model.selected_row();
    let count = model.rows().len();
    model.page = page;
    if let Some(at) = selected {
        // The line above it too, which is its service when it is the first.
        let first = at.saturating_sub(1).min(model.scroll);
        model.scroll = first.max((at + 1).saturating_sub(page));
    }
    model.scroll = model.scroll.min(count.saturating_sub(page));
    let rows = model.rows();
    if rows.is_empty() {
        let told = match (&model.link, &model.status) {
            (Link::Gone(_, reason), _) => reason.clone(),
            (_, None) => "asking the daemon".to_owned(),
            _ => format!("nothing matches {:?}; Esc shows all", model.filter),
        };
        let told = Paragraph::new(told).wrap(ratatui::widgets::Wrap { trim: true });
        frame.render_widget(told, area);
        return;
    }
    let stale = matches!(model.link, Link::Gone(..));
    let shown = rows.iter().enumerate().skip(model.scroll).take(page);
    let lines = shown.map(|(at, row)| {
        let line = match row {
            Row::Service(service) => service_line(model, service, columns),
            Row::Backend(service, backend) => backend_line(model, service, backend, columns),
        };
        match (Some(at) == selected, stale) {
            (true, _) => line.style(Style::new().add_modifier(Modifier::REVERSED)),
            (false, true) => line.style(Style::new().add_modifier(Modifier::DIM)),
            (false, false) => line,
        }
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn service_line(model: &Model, service: &ServiceStatus, columns: &Columns) -> Line<'static> {
    let told = |tone| style(model.colour, tone);
    let queue = &service.queue;
    let past = model.past.get(&service.name);
    let wait = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    let requests = &service.requests;
    let away = requests.refused + requests.expired;
    let depth = format!("{}/{}", queue.depth, queue.capacity);
    let waits = format!(
        " waiting ≤{} ms, p50 {} p99 {}",
        queue.oldest_wait_ms,
        wait(queue.wait_ms.p50),
        wait(queue.wait_ms.p99)
    );
    let full = queue.depth >= queue.capacity;
    let mut line = vec![
        Span::styled(padded(&service.name, columns.name), told(Tone::Strong)),
        Span::raw(" "),
        Span::styled(
            spark(past.map_or(&[], |past| &past.queue), &[], 8),
            told(Tone::Queue),
        ),
        Span::raw(" "),
        Span::styled(depth, told(if full { Tone::Bad } else { Tone::Strong })),
    ];
    // What else there is may not fit any more; this has to.
    if let Some(seconds) = service.flood.since_seconds {
        let flood = format!(
            " FLOOD for {}, {} shed,",
            span(seconds),
            service.flood.unproven
        );
        line.push(Span::styled(flood, told(Tone::Bad)));
    }
    line.push(Span::raw(waits));
    if away > 0 {
        line.push(Span::raw(format!(", {away} turned away")));
    }
    line.push(Span::styled(
        format!("  {}", service.address),
        told(Tone::Soft),
    ));
    Line::from(line)
}

fn backend_line(
    model: &Model,
    service: &ServiceStatus,
    backend: &BackendStatus,
    columns: &Columns,
) -> Line<'static> {
    let told = |tone| style(model.colour, tone);
    let state = if is_up(backend) {
        Tone::Good
    } else {
        Tone::Bad
    };
    let against = format!("{}/{}", held(backend), backend.ceiling);
    let mark = if backend.pinned { "p" } else { " " };
    let mut numbers = format!(
        "{against:>9}{mark} {:>7}",
        decimal(backend.rate.connections)
    );
    if columns.requests {
        numbers.push_str(&format!(" {:>7}", decimal(backend.rate.requests)));
    }
    let times = &backend.response_ms;
    numbers.push_str(&format!(
        " {:>7} {:>7} ",
        decimal(times.p50),
        decimal(times.p99)
    ));
    let past = model.past.get(&service.name);
    let past = past.and_then(|past| past.backends.get(&backend.name));
    let (held_past, ceiling_past): (&[u32], &[u32]) =
        past.map_or((&[], &[]), |past| (&past.held, &past.ceiling));
    let mut line = vec![
        Span::raw("  "),
        Span::raw(padded(&backend.name, columns.name.saturating_sub(2))),
        Span::raw(" "),
        Span::styled(padded(backend.state.label(), 8), told(state)),
        Span::raw(" "),
    ];
    line.extend(bar(
        model.colour,
        held(backend),
        backend.ceiling,
        columns.bar,
    ));
    line.push(Span::raw(" "));
    line.push(Span::raw(numbers));
    let spark = spark(held_past, ceiling_past, columns.spark);
    line.push(Span::styled(spark, told(Tone::Held)));
    Line::from(line)
}

/// Connections as a bar, the ceiling as a stroke at its end; what is above the ceiling, while it is
/// lowered by attrition, beyond the stroke.
fn bar(colour: bool, held: u64, ceiling: u64, width: usize) -> [Span<'static>; 3] {
    let room = width.saturating_sub(1) as u64;
    let scale = held.max(ceiling).max(1);
    let eighths = |count: u64| usize::try_from(count * room * 8 / scale).unwrap_or(0);
    let stroke = eighths(ceiling) / 8;
    let below = eighths(held).min(stroke * 8);
    let mut inside = "█".repeat(below / 8);
    if below % 8 > 0 {
        inside.push(PARTS[below % 8]);
    }
    let above = eighths(held) / 8;
    let beyond = "█".repeat(above.saturating_sub(stroke));
    let beyond = format!("{beyond:<width$}", width = width.saturating_sub(stroke + 1));
    [
        Span::styled(format!("{inside:<stroke$}"), style(colour, Tone::Held)),
        Span::styled("│", style(colour, Tone::Strong)),
        Span::styled(beyond, style(colour, Tone::Bad)),
    ]
}

/// The newest values, a column each, against the greatest of them and of `against`.
fn spark(values: &[u32], against: &[u32], width: usize) -> String {
    let newest = |values: &'_ [u32]| values.len().saturating_sub(width);
    let shown = &values[newest(values)..];
    let top = shown.iter().chain(&against[newest(against)..]).max();
    let top = u64::from(top.copied().unwrap_or(0).max(1));
    let bars = shown.iter().map(|value| EIGHTHS[level(*value, top, 8)]);
    format!("{:>width$}", bars.collect::<String>())
}

/// Of `steps` for `top`; never none for something.
fn level(value: u32, top: u64, steps: u64) -> usize {
    let level = (u64::from(value) * steps / top).max(u64::from(value > 0));
    usize::try_from(level).unwrap_or(0)
}

fn draw_detail(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let Some((service, backend)) = model.selected() else {
        return;
    };
    let told = |tone| style(model.colour, tone);
    let name = format!(" {}/{} {} ", service.name, backend.name, backend.address);
    let block = Block::new()
        .borders(ratatui::widgets::Borders::TOP)
        .title(Span::styled(name, told(Tone::Strong)));
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [picture, facts, health, why, suggested] = Layout::vertical([
        Constraint::Length(PICTURE_LINES),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(inside);
    let past: Option<&BackendPast> = model
        .past
        .get(&service.name)
        .and_then(|past: &Past| past.backends.get(&backend.name));
    if let Some(past) = past {
        frame.render_widget(
            Paragraph::new(pictured(model.colour, past, picture)),
            picture,
        );
    }
    frame.render_widget(Line::from(bounds(model, backend)), facts);
    frame.render_widget(Line::from(health_of(model, backend)), health);
    frame.render_widget(Line::from(last_move(model, backend)), why);
    let words = match &backend.suggested {
        Some(suggested) => format!("{}: {}", suggested.ceiling, suggested.why),
        None => "too little was measured yet".to_owned(),
    };
    let words = vec![
        Span::styled("suggested ", told(Tone::Soft)),
        Span::raw(words),
    ];
    frame.render_widget(Line::from(words), suggested);
}

/// What its checks say, and how many of its connections it did not take.
fn health_of(model: &Model, backend: &BackendStatus) -> Vec<Span<'static>> {
    let told = |tone| style(model.colour, tone);
    let mut words = vec![Span::styled("health    ", told(Tone::Soft))];
    match &backend.health {
        Some(health) => {
            let is_up = health.verdict == "up";
            let tone = if is_up { Tone::Good } else { Tone::Bad };
            words.push(Span::styled(health.verdict.clone(), told(tone)));
            let since = format!(" for {}", span(health.since_seconds));
            words.push(Span::styled(since, told(Tone::Soft)));
        }
        None => words.push(Span::raw("not watched")),
    }
    let Totals {
        refused, silent, ..
    } = backend.total;
    if refused + silent > 0 {
        let failed = format!(", SYNs refused {refused}, unanswered {silent}");
        words.push(Span::raw(failed));
    }
    let why = backend
        .health
        .as_ref()
        .and_then(|health| health.why.as_ref());
    words.extend(why.map(|why| Span::raw(format!(": {why}"))));
    words
}

fn last_move(model: &Model, backend: &BackendStatus) -> Vec<Span<'static>> {
    let told = |tone| style(model.colour, tone);
    let mut words = vec![Span::styled("ceiling   ", told(Tone::Soft))];
    match &backend.moved {
        Some(moved) => {
            let ago = span(moved.seconds_ago);
            words.push(Span::raw(format!("{} to {} ", moved.from, moved.to)));
            words.push(Span::styled(format!("{ago} ago: "), told(Tone::Soft)));
            words.push(Span::raw(moved.why.clone()));
        }
        None => words.push(Span::raw("not moved yet")),
    }
    words
}

fn bounds(model: &Model, backend: &BackendStatus) -> Vec<Span<'static>> {
    let pinned = if backend.pinned { "pinned; " } else { "" };
    let mut text = format!(
        "{pinned}{}, {} to {} of {}; most held {}; {} req/s",
        backend.policy,
        backend.ceiling_min,
        backend.ceiling_max,
        backend.capacity,
        backend.active_max,
        decimal(backend.rate.requests)
    );
    let groups = model.status.iter().flat_map(|status| &status.groups);
    for group in groups.filter(|group| Some(&group.name) == backend.group.as_ref()) {
        text.push_str(&format!(
            "; group {} {}/{}",
            group.name, group.active, group.ceiling
        ));
    }
    let label = Span::styled("bounds    ", style(model.colour, Tone::Soft));
    vec![label, Span::raw(text)]
}

/// Connections as columns and the ceiling as a line over them, a sample a column, the newest at the
/// right; the greatest number stands at the left.
fn pictured(colour: bool, past: &BackendPast, area: Rect) -> Vec<Line<'static>> {
    const SCALE: usize = 7;
    let width = usize::from(area.width).saturating_sub(SCALE);
    let newest = past.held.len().saturating_sub(width);
    let samples = || past.held.iter().zip(&past.ceiling).skip(newest);
    let top = samples()
        .map(|(held, ceiling)| *held.max(ceiling))
        .max()
        .unwrap_or(0);
    let steps = u64::from(area.height) * 8;
    let blank = width.saturating_sub(samples().count());
    let line = |row: u16| {
        let floor = usize::from(area.height - 1 - row) * 8;
        let scale = match row {
            0 => format!("{top:>6} "),
            _ if row + 1 == area.height => format!("{:>6} ", 0),
            _ => " ".repeat(SCALE),
        };
        let mut spans = vec![
            Span::styled(scale, style(colour, Tone::Soft)),
            Span::raw(" ".repeat(blank)),
        ];
        for (held, ceiling) in samples() {
            let filled = level(*held, u64::from(top.max(1)), steps);
            let ceiling = level(*ceiling, u64::from(top.max(1)), steps).max(1) - 1;
            let here = filled.saturating_sub(floor).min(8);
            // Where both share a cell, the connections reach as high as the line would.
            let shares = here > 0 && here < 8 || filled > ceiling;
            let (cell, tone) = if !shares && here == 0 && ceiling / 8 * 8 == floor {
                let strokes = ['▁', '▁', '▁', '─', '─', '─', '▔', '▔'];
                (strokes[ceiling % 8], Tone::Strong)
            } else {
                (EIGHTHS[here], Tone::Held)
            };
            spans.push(Span::styled(cell.to_string(), style(colour, tone)));
        }
        Line::from(spans)
    };
    (0..area.height).map(line).collect()
}

fn foot_line(model: &Model, now: Duration) -> Line<'static> {
    let strong = |text: String| {
        let style = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
        Line::styled(text, style)
    };
    match &model.mode {
        Mode::Filter => {
            let typed = &model.filter;
            return strong(format!("Filter: {typed}▏ (Enter keeps it, Esc clears it) "));
        }
        Mode::Ceiling(typed) => {
            let bounds = model.selected().map(|(service, one)| {
                let (min, max) = (one.ceiling_min, one.ceiling_max);
                format!("{}/{}, {min} to {max}", service.name, one.name)
            });
            let bounds = bounds.unwrap_or_default();
            return strong(format!(
                "Pin the ceiling of {bounds} at: {typed}▏ (Esc: no) "
            ));
        }
        Mode::Confirm(order) => return strong(format!("{} y/n ", order.question())),
        Mode::Look | Mode::Help => {}
    }
    if let Link::Gone(_, reason) = &model.link {
        let told = format!("{reason}; trying again");
        return Line::styled(told, style(model.colour, Tone::Bad));
    }
    match model.message(now) {
        Some(Ok(done)) => Line::styled(done.clone(), style(model.colour, Tone::Good)),
        Some(Err(error)) => Line::styled(error.clone(), style(model.colour, Tone::Bad)),
        None => {
            let filter = match model.filter.as_str() {
                "" => String::new(),
                filter => format!("filter {filter:?} (Esc)  "),
            };
            let keys = "? help  s sort  / filter  p pause  c pin  a auto  q quit";
            Line::styled(format!("{filter}{keys}"), style(model.colour, Tone::Soft))
        }
    }
}

const KEYS: [(&str, &str); 12] = [
    ("↑ ↓ PgUp PgDn", "choose a back-end; also k j g G"),
    ("s", "sort by name, fullness, connections, conn/s or p99"),
    ("r", "reverse the order"),
    ("/", "filter by service, back-end or address; Esc shows all"),
    ("p Space", "pause; the samples of the pause come afterwards"),
    ("c", "pin the ceiling"),
    ("a", "give the ceiling back to its policy"),
    ("d", "drain: no more connections, those it has go on"),
    ("u", "undo that: give it connections again"),
    ("x", "disable: no more connections, those it has are reset"),
    ("? h", "this help"),
    ("q Ctrl-C", "quit"),
];

const WORDS: [(&str, &str); 6] = [
    ("held", "connections, half-open ones included"),
    (
        "ceil │",
        "most that it is given; more were there before it fell",
    ),
    ("p", "the ceiling is pinned by hand"),
    (
        "p50 p99",
        "from a request to its answer, last one to two minutes",
    ),
    ("▁▅█", "the last samples: held, or the queue of a service"),
    ("▔▔██", "below: held, and the ceiling as a line"),
];

fn draw_help(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let line = |(key, what): &(&'static str, &'static str)| {
        let key = Span::styled(format!(" {key:<15}"), style(model.colour, Tone::Strong));
        Line::from(vec![key, Span::raw(*what)])
    };
    let keys = KEYS.iter().map(line).chain([Line::raw("")]);
    let lines: Vec<_> = keys.chain(WORDS.iter().map(line)).collect();
    let height = u16::try_from(lines.len())
        .unwrap_or(u16::MAX)
        .saturating_add(2);
    let width = 80;
    let area = Rect {
        x: area.x + area.width.saturating_sub(width) / 2,
        y: area.y + area.height.saturating_sub(height) / 2,
        width: width.min(area.width),
        height: height.min(area.height),
    };
    let block = Block::bordered().title(" Keys and words (any key closes this) ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn decimal(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 1000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// At most so many characters; what is cut shows.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 {
        kept
    } else {
        format!("{kept}…")
    }
}

/// Exactly so many.
fn padded(text: &str, width: usize) -> String {
    format!("{:<width$}", fitted(text, width))
}
