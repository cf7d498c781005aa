//! Pictures of benches: an SVG that grows by panels, with nothing but lines, bars and text.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 150.0;
/// Between panels: a heading above, numbers below.
const GAP: f64 = 62.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// A bar with the space to the next.
const BAR: f64 = 20.0;
/// Where bars begin: their names are before.
const BARS: f64 = 190.0;
/// Where they end at the latest: their labels are after that, in a column.
const LABELS: f64 = 720.0;

/// A line of a panel, or dots where a quantity is not always there.
#[derive(Clone, Debug)]
pub struct Line {
    /// In the legend.
    pub name: &'static str,
    /// As SVG has it.
    pub colour: &'static str,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// One with all of it.
    #[must_use]
    pub fn new(name: &'static str, colour: &'static str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name,
            colour,
            points,
        }
    }
}

/// A bar of a panel.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Before it.
    pub name: &'static str,
    /// As SVG has it.
    pub colour: &'static str,
    /// Its length; `None` where there is no number.
    pub value: Option<f64>,
    /// After it.
    pub label: String,
}

/// The picture.
#[derive(Debug)]
pub struct Drawing {
    svg: String,
    top: f64,
}

impl Default for Drawing {
    fn default() -> Self {
        Self {
            svg: String::new(),
            top: 30.0,
        }
    }
}

impl Drawing {
    /// A panel of lines from 0 to `x_most`, with marks where something changes.
    pub fn lines(&mut self, title: &str, x_most: f64, lines: &[Line], marks: &[(f64, String)]) {
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
        self.title(title);
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

    /// A panel of bars, one below the other, with a line where the value is `mark`.
    pub fn bars(&mut self, title: &str, bars: &[Bar], mark: Option<f64>) {
        self.title(title);
        let values = bars.iter().filter_map(|bar| bar.value);
        let most = values.chain(mark).fold(f64::MIN_POSITIVE, f64::max);
        let length = |value: f64| value.max(0.0) / most * (LABELS - BARS);
        let top = self.top;
        for (i, bar) in bars.iter().enumerate() {
            let at = top + BAR * i as f64;
            let length = length(bar.value.unwrap_or(0.0));
            self.text(BARS - 8.0, at + 13.0, "end", "#000000", bar.name);
            self.add(&format!(
                "<rect x=\"{BARS}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" \
                 fill=\"{}\"/>",
                at + 2.0,
                BAR - 5.0,
                bar.colour
            ));
            self.text(LABELS + 8.0, at + 13.0, "start", "#333333", &bar.label);
        }
        let bottom = top + BAR * bars.len() as f64;
        if let Some(mark) = mark {
            let at = BARS + length(mark);
            self.add(&format!(
                "<path d=\"M{at:.1} {top}V{bottom}\" stroke=\"#222222\" stroke-dasharray=\"3 3\"/>"
            ));
        }
        self.top = bottom + GAP / 2.0 + 8.0;
    }

    fn title(&mut self, title: &str) {
        let bold = format!("<tspan font-weight=\"bold\">{title}</tspan>");
        self.text(LEFT, self.top - 8.0, "start", "#000000", &bold);
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

    /// The document.
    #[must_use]
    pub fn finish(self) -> String {
        let height = self.top - 20.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let _ = writeln!(svg, "{}</svg>", self.svg);
        svg
    }
}

/// The next of 1, 2, 4, 5, 8 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let step = steps.iter().find(|step| **step * power >= value);
    step.unwrap_or(&10.0) * power
}
