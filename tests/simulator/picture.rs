//! A run as a picture: offered load, throughput, ceiling, connections, queue and response time.

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::run::{Outcome, Sample};
use crate::scenario::Scenario;

const WIDTH: u32 = 960;
/// Heights of a panel, of the title, and of a line below that.
const PANEL: u32 = 200;
const TITLE: u32 = 42;
const SUBTITLE: u32 = 18;
const MARGIN: u32 = 14;
/// Width of what stands to the left of a panel.
const LABELS: u32 = 64;

const INK: RGBColor = RGBColor(0x20, 0x24, 0x2b);
const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe9, 0xeb, 0xef);
const GREY: RGBColor = RGBColor(0xb6, 0xbc, 0xc6);
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xd6);
const RED: RGBColor = RGBColor(0xc9, 0x2a, 0x2a);
const GREEN: RGBColor = RGBColor(0x2b, 0x8a, 0x3e);
const ORANGE: RGBColor = RGBColor(0xd9, 0x7a, 0x06);
const VIOLET: RGBColor = RGBColor(0x7b, 0x45, 0xc4);

/// Colours of the ceilings of several back-ends.
const BACKENDS: [RGBColor; 3] = [RED, VIOLET, GREEN];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A line of a panel.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    look: Look,
    values: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Thin,
    Thick,
    /// It keeps a value for the whole window.
    Steps,
    Filled,
}

/// What a picture is of.
#[derive(Debug)]
pub struct Picture<'a> {
    /// Where it happened.
    pub scenario: &'a Scenario,
    /// What happened.
    pub outcome: &'a Outcome,
    /// The best fixed ceiling of each stretch.
    pub best: &'a [u32],
    /// Its title.
    pub title: &'a str,
    /// What came of it, line by line.
    pub subtitles: &'a [String],
}

/// Draws a run into an SVG.
///
/// # Errors
///
/// When the picture cannot be drawn.
pub fn svg(picture: &Picture<'_>) -> Result<String> {
    let mut text = String::new();
    draw(&mut text, picture)
        .map_err(|error| anyhow!("{error}"))
        .context("cannot draw the picture")?;
    Ok(text)
}

fn draw(text: &mut String, picture: &Picture<'_>) -> Result<(), Box<dyn core::error::Error>> {
    let Picture {
        scenario, outcome, ..
    } = picture;
    let title = TITLE + SUBTITLE * picture.subtitles.len() as u32;
    let root = SVGBackend::with_string(text, (WIDTH, title + 4 * PANEL)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(title);
    let left = (MARGIN + 6) as i32;
    head.draw_text(picture.title, &font(20, &INK), (left, 12))?;
    for (index, line) in picture.subtitles.iter().enumerate() {
        let top = (TITLE + SUBTITLE * index as u32 - 2) as i32;
        head.draw_text(line, &font(13, &FAINT), (left, top))?;
    }

    let column =
        |value: fn(&Sample) -> f64| -> Vec<f64> { outcome.samples.iter().map(value).collect() };
    let line = |name, color, look, values| Line {
        name,
        color,
        look,
        values,
    };
    let throughput = [
        line(
            "offered",
            GREY,
            Look::Filled,
            column(|sample| sample.offered),
        ),
        line(
            "served well",
            BLUE,
            Look::Thick,
            column(|sample| sample.served),
        ),
    ];
    let held: Vec<_> = (0..scenario.servers.len())
        .flat_map(|index| {
            let of = |value: fn(&crate::run::BackendSample) -> f64| {
                let samples = outcome.samples.iter();
                samples
                    .map(|sample| value(&sample.backends[index]))
                    .collect()
            };
            let color = BACKENDS[index % BACKENDS.len()];
            let first = index == 0;
            [
                line(
                    if first { "connections" } else { "" },
                    GREY,
                    Look::Filled,
                    of(|b| b.held),
                ),
                line(
                    if first { "ceiling" } else { "" },
                    color,
                    Look::Steps,
                    of(|b| f64::from(b.ceiling)),
                ),
            ]
        })
        .collect();
    let queue = [line(
        "queue",
        ORANGE,
        Look::Filled,
        column(|sample| sample.queue),
    )];
    let response = [
        line(
            "p99",
            GREY,
            Look::Thin,
            column(|sample| sample.p99 * 1000.0),
        ),
        line(
            "mean",
            GREEN,
            Look::Thick,
            column(|sample| sample.response * 1000.0),
        ),
    ];
    let panels: [(&str, &[Line<'_>]); 4] = [
        ("requests/s", &throughput),
        ("at a back-end", &held),
        ("waiting", &queue),
        ("response, ms", &response),
    ];
    let areas = body.split_evenly((panels.len(), 1));
    for (index, (unit, lines)) in panels.into_iter().enumerate() {
        let is_last = index + 1 == areas.len();
        let panel = Panel {
            scenario,
            unit,
            lines,
            best: if index == 1 { picture.best } else { &[] },
            is_last,
        };
        panel.draw(&areas[index], outcome.samples.len())?;
    }
    root.present()?;
    Ok(())
}

fn font(size: u32, color: &RGBColor) -> TextStyle<'static> {
    ("Helvetica, Arial, sans-serif", size)
        .into_font()
        .color(color)
}

/// One of the diagrams, over the same time.
struct Panel<'a> {
    scenario: &'a Scenario,
    unit: &'a str,
    lines: &'a [Line<'a>],
    best: &'a [u32],
    is_last: bool,
}

impl Panel<'_> {
    fn draw(&self, area: &Area<'_>, windows: usize) -> Result<(), Box<dyn core::error::Error>> {
        let windows = windows as f64;
        let top = scale(self.lines);
        let mut chart = ChartBuilder::on(area)
            .margin_right(MARGIN + 6)
            .margin_left(MARGIN)
            .margin_top(30)
            .x_label_area_size(if self.is_last { 40 } else { 10 })
            .y_label_area_size(LABELS)
            .build_cartesian_2d(0.0..windows, 0.0..top)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .y_labels(4)
            .x_labels(11)
            .label_style(font(12, &FAINT))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_label_formatter(&|value| format!("{value:.0}"));
        if self.is_last {
            mesh.x_desc("seconds").axis_desc_style(font(12, &FAINT));
        } else {
            mesh.x_labels(0);
        }
        mesh.draw()?;
        for stretch in self
            .scenario
            .stretches
            .iter()
            .filter(|stretch| stretch.begins > 0)
        {
            let at = stretch.begins as f64;
            chart.draw_series(DashedLineSeries::new(
                [(at, 0.0), (at, top)],
                4,
                4,
                FAINT.into(),
            ))?;
        }
        for (stretch, best) in self.scenario.stretches.iter().zip(self.best) {
            let best = f64::from(*best);
            let line = [(stretch.begins as f64, best), (stretch.ends as f64, best)];
            chart.draw_series(DashedLineSeries::new(line, 8, 5, BLUE.stroke_width(1)))?;
        }
        for line in self.lines {
            draw_line(&mut chart, line)?;
        }
        self.legend(area)
    }

    /// The unit, and the names of the lines in their colours, above a panel.
    fn legend(&self, area: &Area<'_>) -> Result<(), Box<dyn core::error::Error>> {
        let mut x = (MARGIN + LABELS) as i32;
        area.draw_text(self.unit, &font(13, &INK), (x, 9))?;
        x += 110;
        let names = self.lines.iter().map(|line| (line.name, line.color));
        let best = (!self.best.is_empty()).then_some(("best fixed", BLUE));
        for (name, color) in names.filter(|(name, _)| !name.is_empty()).chain(best) {
            let line = [(x, 16), (x + 18, 16)];
            area.draw(&PathElement::new(line, color.stroke_width(3)))?;
            let text = font(13, &INK).pos(Pos::new(HPos::Left, VPos::Top));
            area.draw_text(name, &text, (x + 24, 9))?;
            x += 120;
        }
        Ok(())
    }
}

fn draw_line(
    chart: &mut Chart<'_, '_>,
    line: &Line<'_>,
) -> Result<(), Box<dyn core::error::Error>> {
    let middle = |(index, value): (usize, &f64)| (index as f64 + 0.5, *value);
    let points = line.values.iter().enumerate();
    match line.look {
        Look::Filled => {
            let series = AreaSeries::new(points.map(middle), 0.0, line.color.mix(0.25));
            chart.draw_series(series.border_style(line.color.stroke_width(1)))?;
        }
        Look::Thin => {
            chart.draw_series(LineSeries::new(
                points.map(middle),
                line.color.stroke_width(1),
            ))?;
        }
        Look::Thick => {
            chart.draw_series(LineSeries::new(
                points.map(middle),
                line.color.stroke_width(2),
            ))?;
        }
        Look::Steps => {
            let ends = points
                .flat_map(|(index, value)| [(index as f64, *value), (index as f64 + 1.0, *value)]);
            chart.draw_series(LineSeries::new(ends, line.color.stroke_width(2)))?;
        }
    }
    Ok(())
}

/// The greatest value; or, of values that a short time dwarfs, four times what is usual.
fn scale(lines: &[Line<'_>]) -> f64 {
    let mut values: Vec<_> = lines
        .iter()
        .flat_map(|line| line.values.iter().copied())
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    let most = values.last().copied().unwrap_or(0.0);
    let usual = values.get(values.len() * 9 / 10).copied().unwrap_or(0.0);
    (most.min(usual * 4.0) * 1.08).max(1.0)
}
