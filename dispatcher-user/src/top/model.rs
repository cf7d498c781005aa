//! What is shown and how it changes: a model and events, nothing else. Time is an argument.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::admin::BackendAction;
use crate::history::{HistoryList, SAMPLES_MAX};
use crate::status::{BackendState, BackendStatus, ServiceStatus, Status};

/// How long a message stays.
const MESSAGE_TIME: Duration = Duration::from_secs(8);
/// Most characters that are typed into a line.
const TYPED_MAX: usize = 63;

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    Resize,
    /// It is time to ask.
    Tick,
    /// The daemon answered, or why it did not.
    Answered(Result<Box<Answer>, String>),
    /// An order was carried out, or why it was not.
    Done(Result<String, String>),
    Quit,
}

/// An answer of the daemon: its status, and the samples after number `since`.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) since: u64,
    pub(super) status: Status,
    pub(super) history: HistoryList,
}

/// What is to be done about it.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Quit,
    Ask { since: u64 },
    Order(Order),
}

/// A change of a back-end, which needs a confirmation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) service: String,
    pub(super) backend: String,
    pub(super) change: Change,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Pinned there, or given back to its policy.
    Ceiling(Option<u32>),
    State(BackendAction),
}

impl Order {
    /// What is asked before it is given.
    pub(super) fn question(&self) -> String {
        let place = format!("{}/{}", self.service, self.backend);
        match self.change {
            Change::Ceiling(Some(ceiling)) => format!("Pin the ceiling of {place} at {ceiling}?"),
            Change::Ceiling(None) => format!("Give the ceiling of {place} back to its policy?"),
            Change::State(BackendAction::Drain) => {
                format!("Drain {place}: no more connections, those it has go on?")
            }
            Change::State(BackendAction::Resume) => format!("Give {place} connections again?"),
            Change::State(BackendAction::Disable) => {
                format!("Disable {place}: no more connections, those it has are reset?")
            }
        }
    }
}

/// The order of the back-ends of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Configuration,
    Name,
    Fullness,
    Connections,
    Rate,
    Response,
}

impl Sort {
    const ALL: [Self; 6] = [
        Self::Configuration,
        Self::Name,
        Self::Fullness,
        Self::Connections,
        Self::Rate,
        Self::Response,
    ];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self);
        Self::ALL[(at.unwrap_or(0) + 1) % Self::ALL.len()]
    }

    /// The greatest comes first; names in their order.
    fn compare(self, a: &BackendStatus, b: &BackendStatus) -> Ordering {
        let rate = |value: Option<f64>| value.unwrap_or(-1.0);
        match self {
            Self::Configuration => Ordering::Equal,
            Self::Name => a.name.cmp(&b.name),
            Self::Fullness => fullness(b).total_cmp(&fullness(a)),
            Self::Connections => held(b).cmp(&held(a)),
            Self::Rate => rate(b.rate.connections).total_cmp(&rate(a.rate.connections)),
            Self::Response => rate(b.response_ms.p99).total_cmp(&rate(a.response_ms.p99)),
        }
    }
}

fn fullness(backend: &BackendStatus) -> f64 {
    held(backend) as f64 / backend.ceiling.max(1) as f64
}

/// Connections that count against the ceiling.
pub(super) fn held(backend: &BackendStatus) -> u64 {
    backend.active + backend.half_open
}

/// What keys mean now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Look,
    Help,
    /// A filter is being typed.
    Filter,
    /// A ceiling is being typed.
    Ceiling(String),
    /// An order waits for a yes.
    Confirm(Order),
}

/// How the daemon is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// No answer yet.
    Waiting,
    Live,
    /// Since then, and why.
    Gone(Duration, String),
}

/// The samples of one service that are known.
#[derive(Clone, Default, Debug)]
pub(super) struct Past {
    pub(super) queue: Vec<u32>,
    pub(super) backends: HashMap<String, BackendPast>,
}

/// The samples of one back-end that are known.
#[derive(Clone, Default, Debug)]
pub(super) struct BackendPast {
    pub(super) ceiling: Vec<u32>,
    pub(super) held: Vec<u32>,
}

/// A line of the list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    Service(&'a ServiceStatus),
    Backend(&'a ServiceStatus, &'a BackendStatus),
}

/// A back-end by its names.
type Place = (String, String);

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) colour: bool,
    pub(super) link: Link,
    pub(super) status: Option<Status>,
    pub(super) past: HashMap<String, Past>,
    last: u64,
    asking: bool,
    pub(super) paused: bool,
    pub(super) sort: Sort,
    pub(super) reversed: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    selected: Option<Place>,
    /// First line of the list that is on the screen.
    pub(super) scroll: usize,
    /// Lines of the list that were on the screen when it was last drawn.
    pub(super) page: usize,
    message: Option<(Result<String, String>, Duration)>,
}

impl Model {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            colour,
            link: Link::Waiting,
            status: None,
            past: HashMap::new(),
            last: 0,
            asking: false,
            paused: false,
            sort: Sort::Configuration,
            reversed: false,
            filter: String::new(),
            mode: Mode::Look,
            selected: None,
            scroll: 0,
            page: 1,
            message: None,
        }
    }

    /// What `event` changes and asks for; `now` is the time since the start.
    pub(super) fn update(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        match event {
            Event::Quit => return vec![Effect::Quit],
            Event::Resize => {}
            Event::Tick => return self.ask(),
            Event::Answered(answered) => {
                self.asking = false;
                self.answered(answered, now);
            }
            Event::Done(done) => {
                self.message = Some((done, now));
                return self.ask();
            }
            Event::Key(key) if key.kind == KeyEventKind::Release => {}
            Event::Key(key) => return self.key(key),
        }
        Vec::new()
    }

    /// One question at a time.
    fn ask(&mut self) -> Vec<Effect> {
        if std::mem::replace(&mut self.asking, true) {
            return Vec::new();
        }
        vec![Effect::Ask { since: self.last }]
    }

    fn answered(&mut self, answered: Result<Box<Answer>, String>, now: Duration) {
        match answered {
            Ok(answer) => {
                self.link = Link::Live;
                // The samples of the pause are asked for after it.
                if !self.paused {
                    self.take(*answer);
                }
            }
            Err(reason) => {
                let since = match self.link {
                    Link::Gone(since, _) => since,
                    _ => now,
                };
                self.link = Link::Gone(since, reason);
                // Whoever answers next may be another daemon.
                self.last = 0;
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        let Answer {
            since,
            status,
            history,
        } = answer;
        let whole = since == 0 || history.last < since;
        let mut before = std::mem::take(&mut self.past);
        if whole {
            before.clear();
        }
        for service in history.services {
            let mut past = before.remove(&service.name).unwrap_or_default();
            extend(&mut past.queue, service.queue);
            let mut backends = std::mem::take(&mut past.backends);
            for told in service.backends {
                let mut of = backends.remove(&told.name).unwrap_or_default();
                extend(&mut of.ceiling, told.ceiling);
                extend(&mut of.held, told.held);
                past.backends.insert(told.name, of);
            }
            self.past.insert(service.name, past);
        }
        self.last = history.last;
        self.status = Some(status);
        self.select_something();
    }

    /// The lines of the list: services in the order of the configuration, each with those of its
    /// back-ends that the filter lets through, sorted.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let filter = self.filter.to_lowercase();
        let says = |text: &str| text.to_lowercase().contains(&filter);
        let mut rows = Vec::new();
        for service in self.status.iter().flat_map(|status| &status.services) {
            let whole = says(&service.name);
            let mut backends: Vec<_> = service
                .backends
                .iter()
                .filter(|one| whole || says(&one.name) || says(&one.address.to_string()))
                .collect();
            if backends.is_empty() && !whole {
                continue;
            }
            backends.sort_by(|a, b| self.sort.compare(a, b));
            if self.reversed {
                backends.reverse();
            }
            rows.push(Row::Service(service));
            rows.extend(backends.into_iter().map(|one| Row::Backend(service, one)));
        }
        rows
    }

    /// The back-end that the keys are about.
    pub(super) fn selected(&self) -> Option<(&ServiceStatus, &BackendStatus)> {
        let (service, backend) = self.selected.as_ref()?;
        let services = self.status.as_ref()?.services.iter();
        let service = services.into_iter().find(|one| one.name == *service)?;
        let mut backends = service.backends.iter();
        let backend = backends.find(|one| one.name == *backend)?;
        Some((service, backend))
    }

    /// Line of the list where it is.
    pub(super) fn selected_row(&self) -> Option<usize> {
        let (service, backend) = self.selected.as_ref()?;
        self.rows().iter().position(|row| match row {
            Row::Service(_) => false,
            Row::Backend(of, one) => of.name == *service && one.name == *backend,
        })
    }

    /// What is told of the last order, for as long as it is new.
    pub(super) fn message(&self, now: Duration) -> Option<&Result<String, String>> {
        let (message, at) = self.message.as_ref()?;
        (now.saturating_sub(*at) < MESSAGE_TIME).then_some(message)
    }

    /// The first back-end, when the one selected is not shown.
    fn select_something(&mut self) {
        if self.selected_row().is_none() {
            self.step(0, |_| 0);
        }
    }

    /// Moves the selection among the back-ends that are shown, from `at` to where `to` says.
    fn step(&mut self, default: usize, to: impl Fn(usize) -> usize) {
        let backends: Vec<Place> = self
            .rows()
            .iter()
            .filter_map(|row| match row {
                Row::Service(_) => None,
                Row::Backend(service, one) => Some((service.name.clone(), one.name.clone())),
            })
            .collect();
        let at = backends
            .iter()
            .position(|place| Some(place) == self.selected.as_ref());
        let to = to(at.unwrap_or(default)).min(backends.len().saturating_sub(1));
        self.selected = backends.into_iter().nth(to);
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => vec![Effect::Quit],
                _ => Vec::new(),
            };
        }
        match self.mode.clone() {
            Mode::Look => return self.look_key(key.code),
            Mode::Help => {
                self.mode = Mode::Look;
                if key.code == KeyCode::Char('q') {
                    return vec![Effect::Quit];
                }
            }
            Mode::Filter => {
                match key.code {
                    KeyCode::Enter => self.mode = Mode::Look,
                    KeyCode::Esc => {
                        self.filter.clear();
                        self.mode = Mode::Look;
                    }
                    code => edit(&mut self.filter, code, |c| !c.is_control()),
                }
                self.select_something();
            }
            Mode::Ceiling(mut typed) => match key.code {
                KeyCode::Esc => self.mode = Mode::Look,
                KeyCode::Enter => self.confirm_ceiling(&typed),
                code => {
                    edit(&mut typed, code, |c| c.is_ascii_digit());
                    self.mode = Mode::Ceiling(typed);
                }
            },
            Mode::Confirm(order) => {
                self.mode = Mode::Look;
                if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                    return vec![Effect::Order(order)];
                }
            }
        }
        Vec::new()
    }

    fn look_key(&mut self, code: KeyCode) -> Vec<Effect> {
        self.message = None;
        let page = self.page.max(1);
        match code {
            KeyCode::Char('q') => return vec![Effect::Quit],
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Esc => {
                self.filter.clear();
                self.select_something();
            }
            KeyCode::Down | KeyCode::Char('j') => self.step(0, |at| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.step(0, |at| at.saturating_sub(1)),
            KeyCode::PageDown => self.step(0, |at| at + page),
            KeyCode::PageUp => self.step(0, |at| at.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.step(0, |_| 0),
            KeyCode::End | KeyCode::Char('G') => self.step(0, |_| usize::MAX),
            KeyCode::Char('c') if self.selected().is_some() => {
                self.mode = Mode::Ceiling(String::new());
            }
            KeyCode::Char('a') => self.confirm(Change::Ceiling(None)),
            KeyCode::Char('d') => self.confirm(Change::State(BackendAction::Drain)),
            KeyCode::Char('u') => self.confirm(Change::State(BackendAction::Resume)),
            KeyCode::Char('x') => self.confirm(Change::State(BackendAction::Disable)),
            _ => {}
        }
        Vec::new()
    }

    /// Asks whether the selected back-end is meant to be changed so.
    fn confirm(&mut self, change: Change) {
        if let Some((service, backend)) = self.selected() {
            self.mode = Mode::Confirm(Order {
                service: service.name.clone(),
                backend: backend.name.clone(),
                change,
            });
        }
    }

    /// The daemon refuses what is out of bounds; what is no number stays to be mended.
    fn confirm_ceiling(&mut self, typed: &str) {
        if let Ok(ceiling) = typed.parse() {
            self.mode = Mode::Look;
            self.confirm(Change::Ceiling(Some(ceiling)));
        }
    }
}

fn extend(known: &mut Vec<u32>, told: Vec<u32>) {
    known.extend(told);
    let surplus = known.len().saturating_sub(SAMPLES_MAX);
    known.drain(..surplus);
}

fn edit(typed: &mut String, code: KeyCode, may: impl Fn(char) -> bool) {
    match code {
        KeyCode::Backspace => drop(typed.pop()),
        KeyCode::Char(c) if may(c) && typed.chars().count() < TYPED_MAX => typed.push(c),
        _ => {}
    }
}

/// Whether a state is as it should be.
pub(super) fn is_up(backend: &BackendStatus) -> bool {
    backend.state == BackendState::Up
}
