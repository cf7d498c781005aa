//! The search for the ceiling of best throughput, which all policies share: it tries a ceiling
//! beside the one that it has, keeps the better one, and rests once both sides are worse.
//!
//! It starts with wide steps, narrows them with each failure to [`STEP_MIN`], and widens them again
//! only when the server shows itself changed. A policy says by its [`Gate`] which way may be tried.

use super::curve::Point;
use super::reason::Reason;
use super::settings::Bounds;
use super::window::Window;

/// Widest and narrowest factor between two ceilings that are compared.
pub(super) const STEP_MAX: f64 = 2.0;
const STEP_MIN: f64 = 1.25;

/// What a raise must gain, as a part of what it would if throughput grew as the ceiling does. So
/// throughput within 10 % of where it levels off is enough, and of two ceilings that are as good
/// the lower one is taken.
const WORTH: f64 = 0.1;

/// A difference counts at once if it is so many standard errors.
const SURE: f64 = 2.0;

/// Requests after which the sign of a difference counts, however small it is.
const ENOUGH: f64 = 600.0;

/// Windows that a trial may last; what is undecided then stays as it was.
const TRIAL_MAX: u32 = 8;

/// Requests and windows that the ceiling in force is measured before another is tried.
const BASE_ENOUGH: f64 = 400.0;
const BASE_MAX: u32 = 3;

/// Windows until a side that was worse is tried again.
const REST: u32 = 20;

/// The server has changed if its throughput is off by this factor, and by so many standard errors,
/// in so many windows one after the other.
const CHANGED: f64 = 1.25;
const CHANGED_ERRORS: f64 = 3.0;
const CHANGED_WINDOWS: u32 = 3;

/// Weight that the ceiling in force may gather, in requests.
const BASE_WEIGHT_MAX: f64 = 2000.0;

/// Which way a policy lets the search go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Gate {
    /// A higher ceiling may be tried.
    pub(super) raise: bool,
    /// A lower one may.
    pub(super) lower: bool,
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Up,
    Down,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What a search remembers.
#[derive(Clone, Debug)]
pub(super) struct Climb {
    /// The best ceiling so far; 0 before the first window.
    base: u32,
    /// What it gave.
    measured: Option<Point>,
    /// Windows in which it was measured since it is the base.
    windows: u32,
    trial: Option<Trial>,
    /// Factor of the next trial.
    step: f64,
    /// Where the next trial goes if it may.
    side: Side,
    /// Windows until each side may be tried again.
    rest: [u32; 2],
    /// Windows one after the other in which the base gave other than it did.
    odd: u32,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    ceiling: u32,
    side: Side,
    measured: Option<Point>,
    windows: u32,
}

/// A ceiling, and why.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Move {
    pub(super) ceiling: u32,
    pub(super) why: Reason,
}

impl Climb {
    pub(super) const fn new() -> Self {
        Self {
            base: 0,
            measured: None,
            windows: 0,
            trial: None,
            step: STEP_MAX,
            side: Side::Up,
            rest: [0; 2],
            odd: 0,
        }
    }

    /// The best ceiling so far, if one was measured.
    pub(super) const fn best(&self) -> Option<u32> {
        if self.measured.is_some() {
            Some(self.base)
        } else {
            None
        }
    }

    /// Back from whatever is tried to the best so far. `ceiling` is the one in force.
    pub(super) const fn give_up_trial(&mut self, ceiling: u32) -> u32 {
        match self.trial.take() {
            Some(_) => self.base,
            None => ceiling,
        }
    }

    /// What is tried is too high, whatever it serves: back to the best, if it was a higher one.
    pub(super) fn refuse_trial(&mut self, ceiling: u32) -> Option<u32> {
        let trial = self.trial.filter(|trial| trial.ceiling == ceiling)?;
        (trial.side == Side::Up).then(|| self.fail(trial.side))
    }

    /// The policy itself moves the ceiling: the search goes on from there.
    pub(super) fn move_to(&mut self, ceiling: u32) {
        if ceiling != self.base {
            self.side = if ceiling < self.base {
                Side::Down
            } else {
                Side::Up
            };
            self.base = ceiling;
            self.measured = None;
            self.windows = 0;
            self.odd = 0;
        }
        self.trial = None;
    }

    /// A window is over in which the ceiling in force was held all the time.
    pub(super) fn step(
        &mut self,
        window: &Window,
        ceiling: u32,
        bounds: Bounds,
        gate: Gate,
    ) -> Move {
        for rest in &mut self.rest {
            *rest = rest.saturating_sub(1);
        }
        let hold = |why| Move { ceiling, why };
        let Some(point) = Point::of(window) else {
            return hold(Reason::Few { served: 0 });
        };
        match self.trial.filter(|trial| trial.ceiling == ceiling) {
            Some(trial) => self.judge(trial, point, bounds, gate),
            None => {
                if self.base != ceiling {
                    self.move_to(ceiling);
                }
                self.trial = None;
                if let Some(changed) = self.measure(point) {
                    return hold(changed);
                }
                self.try_next(bounds, gate).unwrap_or_else(|| {
                    hold(Reason::Best {
                        ceiling,
                        rate: self.measured.map_or(point.rate, |known| known.rate),
                    })
                })
            }
        }
    }

    /// Takes a window at the base into account. Tells when the server is not what it was.
    fn measure(&mut self, point: Point) -> Option<Reason> {
        self.windows = self.windows.saturating_add(1);
        let Some(known) = self.measured else {
            self.measured = Some(point);
            return None;
        };
        let off = (point.rate / known.rate).ln();
        let error = known.error().hypot(point.error());
        if off.abs() > CHANGED.ln().max(CHANGED_ERRORS * error) {
            self.odd += 1;
            if self.odd < CHANGED_WINDOWS {
                return Some(Reason::Changed {
                    rate: point.rate,
                    before: known.rate,
                });
            }
            *self = Self {
                base: self.base,
                measured: Some(point),
                windows: 1,
                side: if off < 0.0 { Side::Down } else { Side::Up },
                ..Self::new()
            };
            return Some(Reason::Changed {
                rate: point.rate,
                before: known.rate,
            });
        }
        self.odd = 0;
        let mut known = known.and(point);
        known.weight = known.weight.min(BASE_WEIGHT_MAX);
        self.measured = Some(known);
        None
    }

    /// Starts the next trial, if it is time and a side may be tried.
    fn try_next(&mut self, bounds: Bounds, gate: Gate) -> Option<Move> {
        let known = self.measured?;
        if known.weight < BASE_ENOUGH && self.windows < BASE_MAX {
            return None;
        }
        let side = [self.side, self.side.other()].into_iter().find(|&side| {
            let open = match side {
                Side::Up => gate.raise,
                Side::Down => gate.lower,
            };
            open && self.rest[side.index()] == 0 && self.beside(side, bounds) != self.base
        })?;
        let ceiling = self.beside(side, bounds);
        self.trial = Some(Trial {
            ceiling,
            side,
            measured: None,
            windows: 0,
        });
        Some(Move {
            ceiling,
            why: Reason::Try {
                up: side == Side::Up,
                ceiling: self.base,
                rate: known.rate,
            },
        })
    }

    /// The ceiling a step away from the base.
    fn beside(&self, side: Side, bounds: Bounds) -> u32 {
        let base = f64::from(self.base);
        let ceiling = match side {
            Side::Up => ((base * self.step).round() as u32).max(self.base.saturating_add(1)),
            Side::Down => ((base / self.step).round() as u32).min(self.base.saturating_sub(1)),
        };
        ceiling.clamp(bounds.min, bounds.max)
    }

    /// Takes a window of a trial into account; ends the trial when there is enough to tell.
    fn judge(&mut self, mut trial: Trial, point: Point, bounds: Bounds, gate: Gate) -> Move {
        trial.windows += 1;
        let tried = trial.measured.map_or(point, |before| before.and(point));
        trial.measured = Some(tried);
        self.trial = Some(trial);
        let base = self.measured.unwrap_or(tried);
        let grown = (f64::from(trial.ceiling) / f64::from(self.base.max(1))).ln();
        let gained = (tried.rate / base.rate).ln() - WORTH * grown;
        let sure = gained.abs() > SURE * tried.error().hypot(base.error());
        let enough = tried.weight >= ENOUGH;
        if !sure && !enough && trial.windows < TRIAL_MAX {
            return Move {
                ceiling: trial.ceiling,
                why: Reason::Measuring { rate: tried.rate },
            };
        }
        self.trial = None;
        if gained > 0.0 && (sure || enough) {
            let before = self.base;
            self.base = trial.ceiling;
            self.measured = Some(tried);
            self.windows = BASE_MAX;
            self.odd = 0;
            self.side = trial.side;
            self.rest[trial.side.index()] = 0;
            // Where it came from is known to be worse.
            self.rest[trial.side.other().index()] = REST;
            return self.try_next(bounds, gate).unwrap_or(Move {
                ceiling: trial.ceiling,
                why: Reason::Better {
                    rate: tried.rate,
                    before,
                    before_rate: base.rate,
                },
            });
        }
        Move {
            ceiling: self.fail(trial.side),
            why: Reason::Back {
                up: trial.side == Side::Up,
                tried: trial.ceiling,
                rate: tried.rate,
                best: self.base,
                best_rate: base.rate,
            },
        }
    }
    /// A trial failed: narrower steps, or a rest for that side. Returns the best so far.
    fn fail(&mut self, side: Side) -> u32 {
        self.trial = None;
        self.side = side.other();
        self.windows = 0;
        if self.step > STEP_MIN {
            self.step = self.step.sqrt().max(STEP_MIN);
            self.rest = [0; 2];
        } else {
            self.rest[side.index()] = REST;
        }
        self.base
    }
}
