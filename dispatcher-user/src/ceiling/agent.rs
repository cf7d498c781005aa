//! What a back-end's agent reports, and what that does to its ceiling.

use core::fmt;
use core::time::Duration;

use super::climb::Move;
use super::guard::{View, step};
use super::reason::Reason;
use super::settings::Agent;

/// Longest report that is read, in bytes.
pub const REPORT_LEN_MAX: usize = 1024;

/// What an agent said. What it left out, it did not change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AgentReport {
    /// The ceiling it wants: `maxconn:30`, or `"ceiling": 30`.
    pub ceiling: Option<u32>,
    /// The part of the greatest ceiling that it wants, in percent: `75%`, or `"share": 75`.
    pub share_percent: Option<u32>,
    /// How loaded it is, in percent of what it can carry: `"load": 0.75` is 75. Text has no word
    /// for it.
    pub load_percent: Option<u32>,
    /// Whether it takes connections.
    pub state: Option<AgentState>,
    /// What it has to say to people: what stands after `#`, or `"message"`.
    pub message: Option<String>,
}

/// Whether a back-end says that it takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AgentState {
    /// `up`, `ready`.
    Up,
    /// `drain`: no more than it has.
    Drain,
    /// `down`, `fail`, `failed`, `stopped`, `maint`.
    Down,
}

impl AgentState {
    /// From an agent's word, in upper or lower case.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        const WORDS: [(&str, AgentState); 8] = [
            ("up", AgentState::Up),
            ("ready", AgentState::Up),
            ("drain", AgentState::Drain),
            ("down", AgentState::Down),
            ("fail", AgentState::Down),
            ("failed", AgentState::Down),
            ("stopped", AgentState::Down),
            ("maint", AgentState::Down),
        ];
        WORDS
            .iter()
            .find(|(known, _)| word.eq_ignore_ascii_case(known))
            .map(|&(_, state)| state)
    }
}

/// Why a report was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentError {
    /// Nothing was said.
    Empty,
    /// More than [`REPORT_LEN_MAX`] bytes; how many.
    TooLong(usize),
    /// A word that is none of an agent's.
    Word(String),
    /// A number that is none, or is out of bounds, and the word it stands in.
    Number(String),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the agent said nothing"),
            Self::TooLong(len) => write!(f, "{len} bytes; at most {REPORT_LEN_MAX} are read"),
            Self::Word(word) => write!(
                f,
                "`{word}`; an agent may say up, ready, drain, maint, down, fail, failed, stopped, \
                 a percentage, or maxconn:N"
            ),
            Self::Number(word) => write!(
                f,
                "`{word}`; a percentage is 0% to 10000%, and maxconn:N takes 0 to {}",
                u32::MAX
            ),
        }
    }
}

impl core::error::Error for AgentError {}

/// Greatest percentage.
const PERCENT_MAX: u32 = 10_000;

impl AgentReport {
    /// Reads the text of HAProxy's agent check: the first line; words are separated by spaces,
    /// tabs or commas; what follows `#` is a message.
    ///
    /// # Errors
    ///
    /// When it is empty or too long, or a word is none of an agent's. Half a report is none.
    pub fn parse_text(text: &str) -> Result<Self, AgentError> {
        if text.len() > REPORT_LEN_MAX {
            return Err(AgentError::TooLong(text.len()));
        }
        let line = text.trim_start().lines().next().unwrap_or_default();
        let (words, message) = match line.split_once('#') {
            Some((words, message)) => (words, Some(message.trim().to_owned())),
            None => (line, None),
        };
        let mut report = Self {
            message,
            ..Self::default()
        };
        let mut empty = true;
        for word in words
            .split([' ', '\t', ','])
            .filter(|word| !word.is_empty())
        {
            report.read(word)?;
            empty = false;
        }
        if empty {
            Err(AgentError::Empty)
        } else {
            Ok(report)
        }
    }

    fn read(&mut self, word: &str) -> Result<(), AgentError> {
        if let Some(state) = AgentState::from_word(word) {
            self.state = Some(state);
        } else if let Some(number) = word.strip_suffix('%') {
            let percent = number
                .parse()
                .ok()
                .filter(|percent| *percent <= PERCENT_MAX);
            self.share_percent = Some(percent.ok_or_else(|| AgentError::Number(word.to_owned()))?);
        } else if let Some(number) = word.strip_prefix("maxconn:") {
            let ceiling = number.parse().ok();
            self.ceiling = Some(ceiling.ok_or_else(|| AgentError::Number(word.to_owned()))?);
        } else {
            return Err(AgentError::Word(word.to_owned()));
        }
        Ok(())
    }

    /// A load as agents report it by JSON, 1.0 for as much as it can carry, in percent; nothing if
    /// it is no number, or negative.
    #[must_use]
    pub fn percent_of_load(load: f64) -> Option<u32> {
        let percent = load * 100.0;
        (percent >= 0.0).then(|| percent.min(f64::from(PERCENT_MAX)).round() as u32)
    }
}

/// What the policy remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    wanted: Option<Wanted>,
    /// Since the last report.
    age: Duration,
}

/// What the last report that said anything of the ceiling asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Ceiling(u32),
    SharePercent(u32),
    LoadPercent(u32),
}

impl Memory {
    /// A window is over.
    pub(super) const fn pass(&mut self, length: Duration) {
        self.age = self.age.saturating_add(length);
    }

    /// A ceiling goes before a share, and a share before a load.
    pub(super) fn report(&mut self, report: &AgentReport) {
        self.age = Duration::ZERO;
        let ceiling = report.ceiling.map(Wanted::Ceiling);
        let share = report.share_percent.map(Wanted::SharePercent);
        let load = report.load_percent.map(Wanted::LoadPercent);
        self.wanted = ceiling.or(share).or(load).or(self.wanted);
    }
}

/// `agent`: the ceiling that the back-end asks for; or a share of the greatest one; or a step up or
/// down, by its load. A load is obeyed once; a ceiling stands until the next report.
pub(super) fn decide(settings: &Agent, memory: &mut Memory, initial: u32, view: &View<'_>) -> Move {
    let ceiling = view.ceiling;
    let hold = |why| Move { ceiling, why };
    let Some(wanted) = memory.wanted else {
        return hold(Reason::AgentSilent);
    };
    if memory.age > settings.stale_after {
        return Move {
            ceiling: initial,
            why: Reason::AgentStale { age: memory.age },
        };
    }
    let asked = |ceiling| Move {
        ceiling,
        why: Reason::Agent { ceiling },
    };
    match wanted {
        Wanted::Ceiling(ceiling) => asked(ceiling),
        Wanted::SharePercent(percent) => {
            let part = (u64::from(view.bounds.max) * u64::from(percent)).div_ceil(100);
            asked(u32::try_from(part).unwrap_or(u32::MAX))
        }
        Wanted::LoadPercent(load) => {
            memory.wanted = Some(Wanted::LoadPercent(settings.load_low_percent));
            let (low, high) = (settings.load_low_percent, settings.load_high_percent);
            let step = step(ceiling);
            if load > high {
                Move {
                    ceiling: ceiling.saturating_sub(step),
                    why: Reason::AgentLoad { load, edge: high },
                }
            } else if load < low && view.window.reached && view.forbidden.is_none() {
                Move {
                    ceiling: ceiling.saturating_add(step),
                    why: Reason::AgentLoad { load, edge: low },
                }
            } else {
                hold(Reason::AgentHeld)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_haproxy() {
        use AgentState::{Down, Drain, Up};
        let read = |text| {
            let report = AgentReport::parse_text(text).unwrap();
            (report.ceiling, report.share_percent, report.state)
        };
        for (text, expected) in [
            ("maxconn:30\n", (Some(30), None, None)),
            ("75%\n", (None, Some(75), None)),
            ("up 100%\r\n", (None, Some(100), Some(Up))),
            ("ready", (None, None, Some(Up))),
            ("drain", (None, None, Some(Drain))),
            ("DOWN", (None, None, Some(Down))),
            ("maint", (None, None, Some(Down))),
            ("stopped", (None, None, Some(Down))),
            ("fail", (None, None, Some(Down))),
            ("failed", (None, None, Some(Down))),
            ("ready,up\t50%, maxconn:8", (Some(8), Some(50), Some(Up))),
            ("up\n75%\n", (None, None, Some(Up))),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
        let report = AgentReport::parse_text("down # out of memory \n").unwrap();
        assert_eq!(report.message.as_deref(), Some("out of memory"));
    }

    #[test]
    fn what_is_not_understood_is_told() {
        let error = |text: &str| AgentReport::parse_text(text).unwrap_err();
        assert_eq!(error(""), AgentError::Empty);
        assert_eq!(error(" , \t\n"), AgentError::Empty);
        assert_eq!(error("# nothing but a message"), AgentError::Empty);
        assert_eq!(
            error("up sideways"),
            AgentError::Word("sideways".to_owned())
        );
        for number in [
            "x%",
            "-1%",
            "10001%",
            "maxconn:",
            "maxconn:4294967296",
            "maxconn:-1",
        ] {
            assert_eq!(error(number), AgentError::Number(number.to_owned()));
        }
        assert_eq!(error(&"up ".repeat(500)), AgentError::TooLong(1500));
    }

    #[test]
    fn a_load_is_a_percentage() {
        let percent = AgentReport::percent_of_load;
        assert_eq!(
            [percent(0.75), percent(0.0), percent(1.5)],
            [Some(75), Some(0), Some(150)]
        );
        assert_eq!([percent(-0.1), percent(f64::NAN)], [None, None]);
        assert_eq!(percent(f64::INFINITY), Some(10_000));
    }
}
