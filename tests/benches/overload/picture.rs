//! The picture: what the server can carry, and below it, over time, what became of the same load
//! straight and through the dispatcher. SVG, with nothing but lines and text.

use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::{Run, Sample};
use crate::generate::Outcome;
use crate::{Carries, FACTORS, Plan};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 150.0;
/// Between panels: a heading above, numbers below.
const GAP: f64 = 62.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const STRAIGHT: &str = "#c0392b";
const DISPATCHED: &str = "#1f6fb2";
const CEILING: &str = "#222222";
const QUEUE: &str = "#8e8e8e";

/// A line of a panel, or dots where a quantity is not always there.
struct Line {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn new(name: &'static str, colour: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name,
            colour,
            points,
        }
    }
}

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
    let mut drawing = Drawing::new(6);
    let line = Line::new("closed loop", DISPATCHED, curve.collect());
    drawing.panel("served a second, by clients at once", most, &[line], &[]);
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
        drawing.panel(title, x_most, &lines, &marks);
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

/// An SVG that grows by panels.
struct Drawing {
    svg: String,
    top: f64,
}

impl Drawing {
    fn new(panels: u32) -> Self {
        let height = f64::from(panels) * (PANEL + GAP) + 10.0;
        Self {
            svg: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
                 width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
                 font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
            ),
            top: 30.0,
        }
    }

    fn panel(&mut self, title: &str, x_most: f64, lines: &[Line], marks: &[(f64, String)]) {
        let points = lines.iter().flat_map(|line| &line.points);
        let y_most = rounded_up(points.map(|(_, y)| *y).fold(1.0, f64::max));
        let (top, bottom) = (self.top, self.top + PANEL);
        let x = |value: f64| LEFT + value / x_most * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| bottom - value / y_most * PANEL;
        let right = WIDTH - RIGHT;
        self.add(&format!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"none\" \
             stroke=\"#cccccc\"/>",
            right - LEFT
        ));
        self.text(
            LEFT,
            top - 8.0,
            "start",
            "#000000",
            &format!("<tspan font-weight=\"bold\">{title}</tspan>"),
        );
        for share in [0.0, 0.5, 1.0] {
            let value = share * y_most;
            self.text(
                LEFT - 6.0,
                y(value) + 4.0,
                "end",
                "#555555",
                &format!("{value}"),
            );
        }
        for tick in 0..=5 {
            let value = x_most * f64::from(tick) / 5.0;
            self.text(
                x(value),
                bottom + 16.0,
                "middle",
                "#555555",
                &format!("{value:.0}"),
            );
        }
        for (at, what) in marks {
            let at = x(*at);
            self.add(&format!(
                "<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#bbbbbb\" stroke-dasharray=\"3 3\"/>"
            ));
            self.text(at + 4.0, top + 14.0, "start", "#888888", what);
        }
        let mut legend = right;
        for line in lines.iter().rev() {
            self.text(legend, top - 8.0, "end", line.colour, line.name);
            legend -= 7.0 * line.name.len() as f64 + 14.0;
            let points: Vec<_> = line
                .points
                .iter()
                .map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value)))
                .collect();
            self.add(&format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"/>",
                points.join(" "),
                line.colour
            ));
        }
        self.top += PANEL + GAP;
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
             fill=\"{colour}\">{text}</text>"
        ));
    }

    fn add(&mut self, element: &str) {
        self.svg.push_str(element);
        self.svg.push('\n');
    }

    fn finish(mut self) -> String {
        let _ = writeln!(self.svg, "</svg>");
        self.svg
    }
}

/// The next of 1, 2, 4, 5, 8 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let step = steps.iter().find(|step| **step * power >= value);
    step.unwrap_or(&10.0) * power
}
