//! What the demonstration prints, for eighty columns: in place on a terminal, a line now and then
//! anywhere else.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use dispatcher_tests::status::Status;

use crate::demo::Outcome;
use crate::load::{PATIENCE, Tally};
use crate::workload::MODELS;

/// Columns of a back-end's bar.
const BAR: usize = 46;
/// Connections that a column of it stands for.
const PER_COLUMN: usize = 2;

/// What is known at one moment of a half.
pub struct Moment<'a> {
    /// Since the half began.
    pub elapsed: Duration,
    /// How long it lasts.
    pub half: Duration,
    /// Clients that have joined.
    pub clients: usize,
    /// What became of the requests so far.
    pub tally: &'a Tally,
    /// Connections at each back-end now, by its own count.
    pub active: [usize; MODELS.len()],
    /// What the daemon says; `None` without one.
    pub status: Option<&'a Status>,
}

/// The place where moments are shown.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    /// Lines to go up before the next picture.
    drawn: usize,
    /// Answered by the last picture, and when that was.
    last: (usize, Duration),
    /// Seconds of the last plain line.
    line_at: u64,
}

impl Screen {
    /// On standard output.
    pub fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            last: (0, Duration::ZERO),
            line_at: 0,
        }
    }

    /// Says what is going to happen.
    pub fn introduce(&mut self, clients: u16, queue: u32) {
        println!(
            "{clients} clients ask, each over a new TCP connection as soon as it has its answer.\n\
             Three back-ends, which slow down when given too much at once:"
        );
        for model in MODELS {
            println!(
                "  {:8} {:3} ms a request alone, {:3} ms with {} at once, {:5} ms with 100",
                model.name,
                model.time(1).as_millis(),
                model.time(model.ceiling as usize).as_millis(),
                model.ceiling,
                model.time(100).as_millis(),
            );
        }
        println!(
            "The dispatcher (the real daemon, on interfaces of this machine's network namespaces)\n\
             keeps each at its ceiling, lets up to {queue} requests wait, and refuses the rest."
        );
    }

    /// A new half.
    pub fn begin(&mut self, title: &str, dispatcher: bool) {
        self.drawn = 0;
        self.last = (0, Duration::ZERO);
        self.line_at = 0;
        println!("\n{}", self.bold(title));
        if !self.terminal {
            let queue = if dispatcher { "  queue" } else { "" };
            let names = MODELS.map(|model| format!("{:>8}", model.name)).concat();
            println!("seconds{names}{queue}  answered/s  refused  gave up");
        }
    }

    /// Draws a moment.
    pub fn show(&mut self, moment: &Moment) {
        let answered = moment.tally.answered();
        let since = moment.elapsed.saturating_sub(self.last.1).as_secs_f64();
        let rate = (answered - self.last.0) as f64 / since.max(0.001);
        if self.terminal {
            self.last = (answered, moment.elapsed);
            let lines = self.picture(moment, rate);
            let mut out = io::stdout().lock();
            // Up to where the last one began, and clear from there.
            if self.drawn > 0 {
                let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            }
            for line in &lines {
                let _ = writeln!(out, "{line}");
            }
            let _ = out.flush();
            self.drawn = lines.len();
        } else if moment.elapsed.as_secs() > self.line_at {
            self.last = (answered, moment.elapsed);
            self.line_at = moment.elapsed.as_secs();
            println!("{}", plain(moment, rate));
        }
    }

    fn picture(&self, moment: &Moment, rate: f64) -> Vec<String> {
        let (elapsed, half) = (moment.elapsed.as_secs_f64(), moment.half.as_secs_f64());
        let legend = format!("█ {PER_COLUMN} connections, │ the ceiling");
        let mut lines = vec![format!(
            "  {:8} {:>7} {:>6}  {legend:35}{elapsed:3.0} of {half:.0} s",
            "back-end", "ceiling", "now"
        )];
        for (model, active) in std::iter::zip(MODELS, moment.active) {
            let ceiling = model.ceiling as usize;
            lines.push(format!(
                "  {:8} {ceiling:7} {active:6}  {}",
                model.name,
                self.bar(active, ceiling)
            ));
        }
        if let Some(status) = moment.status {
            let (depth, capacity) = (status.queued(), status.queue_capacity());
            let filled = depth as usize * BAR / (capacity as usize).max(1);
            lines.push(format!(
                "  {:8} {capacity:7} {depth:6}  {}{}",
                "waiting",
                "▒".repeat(filled.min(BAR)),
                "·".repeat(BAR.saturating_sub(filled))
            ));
        }
        lines.push(format!(
            "  clients {:4}   answered {:6} ({rate:4.0}/s)   refused {:5}   gave up {:5}",
            moment.clients,
            moment.tally.answered(),
            moment.tally.refused(),
            moment.tally.gave_up()
        ));
        lines
    }

    /// Connections as a bar with a mark at the ceiling; what is beyond it stands out.
    fn bar(&self, active: usize, ceiling: usize) -> String {
        let columns = active.div_ceil(PER_COLUMN).min(BAR);
        let mark = ceiling / PER_COLUMN;
        let below = columns.min(mark);
        let beyond = columns.saturating_sub(mark);
        let mut bar = "█".repeat(below) + &" ".repeat(mark - below) + "│";
        if beyond > 0 {
            let excess = "█".repeat(beyond);
            bar += &if self.terminal {
                format!("\x1b[31m{excess}\x1b[0m")
            } else {
                excess
            };
        }
        bar
    }

    fn bold(&self, text: &str) -> String {
        if self.terminal {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn plain(moment: &Moment, rate: f64) -> String {
    let cells = std::iter::zip(MODELS, moment.active);
    let cells: String = cells
        .map(|(model, active)| format!("{:>8}", format!("{active}/{}", model.ceiling)))
        .collect();
    let queue = moment.status.map(|status| format!("{:7}", status.queued()));
    format!(
        "{:7.0}{cells}{}{rate:12.0}{:9}{:9}",
        moment.elapsed.as_secs_f64(),
        queue.unwrap_or_default(),
        moment.tally.refused(),
        moment.tally.gave_up()
    )
}

/// The sum of both halves, side by side.
pub fn table(with: &Outcome, without: &Outcome) {
    let row = |what: &str, with: &str, without: &str| {
        println!("  {what:42}{with:>16}{without:>16}");
    };
    let each = |what: &str, figure: &dyn Fn(&Outcome) -> String| {
        row(what, &figure(with), &figure(without));
    };
    println!();
    row("", "with dispatcher", "without");
    println!("  {}", "─".repeat(74));
    each("requests", &|half| {
        let tally = &half.tally;
        (tally.answered() + tally.refused() + tally.gave_up()).to_string()
    });
    each("  answered", &|half| half.tally.answered().to_string());
    each("  refused (RST, the queue was full)", &|half| {
        half.tally.refused().to_string()
    });
    let gave_up = format!("  gave up after {} s", PATIENCE.as_secs());
    each(&gave_up, &|half| half.tally.gave_up().to_string());
    each("answered per second", &|half| {
        format!(
            "{:.1}",
            half.tally.answered() as f64 / half.lasted.as_secs_f64()
        )
    });
    for (name, share) in [("median", 0.5), ("99th percentile", 0.99), ("longest", 1.0)] {
        let what = format!("time to the whole answer, {name}");
        each(&what, &|half| millis(half.tally.quantile(share)));
    }
    for (name, key) in [
        ("median", "p50"),
        ("99th percentile", "p99"),
        ("longest", "max"),
    ] {
        let what = format!("wait in the queue, {name}");
        each(&what, &|half| {
            let wait = half.status.as_ref().and_then(|status| status.wait_ms(key));
            millis(wait.map(Duration::from_millis))
        });
    }
    for (i, model) in MODELS.iter().enumerate() {
        let what = format!(
            "most connections at {} (ceiling {})",
            model.name, model.ceiling
        );
        each(&what, &|half| half.most[i].to_string());
    }
    println!();
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "–".to_owned(), |time| format!("{} ms", time.as_millis()))
}
