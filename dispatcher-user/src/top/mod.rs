//! `dispatcher top`: the status, live, in the terminal. What is shown follows from the model, and
//! the model from events; terminal and daemon are touched here only.

mod draw;
mod model;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, stdin, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admin::{BackendAction, BackendOrder, CeilingOrder, Client, ClientError};
use crate::engine::clock;
use model::{Answer, Change, Effect, Event, Model, Order};

/// How long the daemon may take to answer; then it is as good as gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that wait to be drawn; what types faster waits.
const EVENTS_MAX: usize = 64;

/// Shows the daemon at `socket` until the user quits; asks it each `period`.
///
/// # Errors
/// There is no terminal, or it cannot be used. A daemon that does not answer is told on the screen.
pub async fn run(socket: &Path, period: Duration) -> Result<()> {
    ensure!(
        stdin().is_terminal() && stdout().is_terminal(),
        "top needs a terminal; `dispatcher status` prints the same once"
    );
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let model = Model::new(colour);
    // Also a panic leaves the terminal as it was: the library sees to that.
    let terminal = ratatui::try_init().context("cannot use the terminal")?;
    let _restored = Restored;
    follow(terminal, model, Client::new(socket), period).await
}

/// The terminal is as it was when this is dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A panic has restored it already, and twice would write over what it said.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

async fn follow(
    mut terminal: DefaultTerminal,
    mut model: Model,
    client: Client,
    period: Duration,
) -> Result<()> {
    let began = clock::now();
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let typed = sender.clone();
    // It waits for a key until the process ends.
    std::thread::spawn(move || read_keys(&typed, event::read));
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => event.unwrap_or(Event::Quit),
            _ = ticks.tick() => Event::Tick,
            _ = terminate.recv() => Event::Quit,
            _ = hangup.recv() => Event::Quit,
        };
        for effect in model.update(event, clock::now().since(began)) {
            match effect {
                Effect::Quit => return Ok(()),
                Effect::Ask { since } => {
                    tokio::spawn(ask(client.clone(), since, sender.clone()));
                }
                Effect::Order(order) => {
                    tokio::spawn(give(client.clone(), order, sender.clone()));
                }
            }
        }
        let now = clock::now().since(began);
        terminal
            .draw(|frame| draw::draw(frame, &mut model, now))
            .context("cannot draw")?;
    }
}

/// Until the terminal is gone, or nobody listens.
fn read_keys(events: &mpsc::Sender<Event>, read: impl Fn() -> io::Result<event::Event>) {
    while let Ok(read) = read() {
        let event = match read {
            event::Event::Key(key) => Event::Key(key),
            event::Event::Resize(..) => Event::Resize,
            _ => continue,
        };
        if events.blocking_send(event).is_err() {
            return;
        }
    }
    let _ = events.blocking_send(Event::Quit);
}

async fn ask(client: Client, since: u64, events: mpsc::Sender<Event>) {
    let both = async {
        let status = client.status().await?.value;
        let history = client.history(since).await?.value;
        Ok(Box::new(Answer {
            since,
            status,
            history,
        }))
    };
    let answered = match timeout(PATIENCE, both).await {
        Ok(answered) => answered.map_err(|error: ClientError| error.to_string()),
        Err(_) => Err(format!("the daemon has not answered for {PATIENCE:?}")),
    };
    // Nobody listens once the user has quit.
    let _ = events.send(Event::Answered(answered)).await;
}

async fn give(client: Client, order: Order, events: mpsc::Sender<Event>) {
    let Order {
        service,
        backend,
        change,
    } = order;
    let done = match change {
        Change::Ceiling(ceiling) => {
            let order = CeilingOrder {
                service,
                backend,
                ceiling,
            };
            let answer = client.set_ceiling(&order).await;
            answer.map(|answer| {
                let done = answer.value;
                let how = if done.pinned {
                    "pinned at"
                } else {
                    "moved by its policy again from"
                };
                format!(
                    "{}/{} is {how} {}",
                    done.service, done.backend, done.ceiling
                )
            })
        }
        Change::State(action) => {
            let done = match action {
                BackendAction::Drain => "draining",
                BackendAction::Resume => "given connections again",
                BackendAction::Disable => "disabled",
            };
            let told = format!("{service}/{backend} is {done}");
            let order = BackendOrder {
                service,
                backend,
                action,
            };
            client.set_backend(&order).await.map(|_| told)
        }
    };
    let done = done.map_err(|error| error.to_string());
    let _ = events.send(Event::Done(done)).await;
}
