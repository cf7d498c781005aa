//! The picture: what the server can carry, and below it, over time, what became of the same load
//! straight and through the dispatcher.

use std::time::Duration;

use dispatcher_tests::drawing::{Drawing, Line};

use crate::figures::{Run, Sample};
use crate::generate::Outcome;
use crate::{Carries, FACTORS, Plan};

const STRAIGHT: &str = "#c0392b";
const DISPATCHED: &str = "#1f6fb2";
const CEILING: &str = "#222222";
const QUEUE: &str = "#8e8e8e";

/// Draws it.
pub fn draw(carries: &Carries, [straight, dispatched]: &[Run; 2], plan: &Plan) -> String {
    let curve = carries.curve.iter();
    let curve = curve.map(|(clients, window)| (f64::from(*clients), window.served_rate()));
    let end = plan.windows()[FACTORS.len() - 1].1;
    let seconds = end.as_secs() as usize;
    let both = |of: &dyn Fn(&Run) -> Vec<(f64, f64)>| {
        vec![
            Line::new("straight", STRAIGHT, of(straight)),
            Line::new("through the dispatcher", DISPATCHED, of(dispatched)),
        ]
    };
    let looks = |run: &Run, of: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, f64)> {
        let looks = run.samples.iter().filter(|look| look.at <= end);
        looks
            .filter_map(|look| Some((look.at.as_secs_f64(), of(look)?)))
            .collect()
    };
    let mut held = vec![
        Line::new(
            "straight: the server's processes",
            STRAIGHT,
            looks(straight, &|look| Some(look.workers as f64)),
        ),
        Line::new(
            "dispatcher: connections",
            DISPATCHED,
            looks(dispatched, &|look| Some(look.daemon?.held as f64)),
        ),
    ];
    held.push(Line::new(
        "ceiling",
        CEILING,
        looks(dispatched, &|look| Some(look.daemon?.ceiling as f64)),
    ));
    let queued = Line::new(
        "dispatcher: requests that wait",
        QUEUE,
        looks(dispatched, &|look| Some(look.daemon?.queued as f64)),
    );
    let swapped = |look: &Sample| Some((look.memory.swapped >> 20) as f64);
    let most = f64::from(carries.curve.last().map_or(1, |(clients, _)| *clients));
    let mut drawing = Drawing::default();
    let line = Line::new("closed loop", DISPATCHED, curve.collect());
    drawing.lines("served a second, by clients at once", most, &[line], &[]);
    let marks = marks(plan);
    let x_most = end.as_secs_f64();
    let panels = [
        ("served a second", both(&|run| served(run, seconds))),
        ("p99 of what is served, ms", both(&|run| p99(run, seconds))),
        ("at the server", held),
        ("in the queue", vec![queued]),
        ("swapped out, MiB", both(&|run| looks(run, &swapped))),
    ];
    for (title, lines) in panels {
        drawing.lines(title, x_most, &lines, &marks);
    }
    drawing.finish()
}

/// Where the load changes, in seconds, and to what.
fn marks(plan: &Plan) -> Vec<(f64, String)> {
    let mut at = plan.easy;
    let factors = std::iter::zip(FACTORS, plan.open);
    let mut marks = vec![(0.0, "easy".to_owned())];
    for (factor, (used, measured)) in factors {
        marks.push((at.as_secs_f64(), format!("{factor} times its best")));
        at += used + measured;
    }
    marks
}

/// By second of their answers.
fn by_second(run: &Run, seconds: usize) -> Vec<Vec<Duration>> {
    let mut times = vec![Vec::new(); seconds];
    for record in &run.records {
        if record.outcome == Outcome::Served
            && let Some(times) = times.get_mut(record.over.as_secs() as usize)
        {
            times.push(record.over - record.due);
        }
    }
    times
}

fn served(run: &Run, seconds: usize) -> Vec<(f64, f64)> {
    let counts = by_second(run, seconds).into_iter().enumerate();
    counts
        .map(|(second, times)| (second as f64 + 0.5, times.len() as f64))
        .collect()
}

fn p99(run: &Run, seconds: usize) -> Vec<(f64, f64)> {
    let times = by_second(run, seconds).into_iter().enumerate();
    times
        .filter_map(|(second, mut times)| {
            times.sort_unstable();
            let at = times.len().checked_sub(1)? * 99 / 100;
            Some((second as f64 + 0.5, times[at].as_secs_f64() * 1e3))
        })
        .collect()
}
