//! The search for the ceiling of best throughput, which all policies share: it tries a ceiling
//! beside the one that it has, keeps the better one, and rests once both sides are worse.
//!
//! It starts with wide steps, narrows them with each failure to [`STEP_MIN`], and widens them again
//! only when the server shows itself changed. A policy says by its [`Gate`] which way may be tried.

use super::curve::{Average, Curve, Point, within};
use super::guard::View;
use super::reason::Reason;
use super::settings::Bounds;

/// Widest and narrowest factor between two ceilings that are compared.
pub(super) const STEP_MAX: f64 = 2.0;
const STEP_MIN: f64 = 1.25;

/// What a raise must gain, as a part of what it would if throughput grew as the ceiling does. So
/// throughput within 10 % of where it levels off is enough, and of two ceilings that are as good
/// the lower one is taken.
const WORTH: f64 = 0.1;

/// A difference counts at once if it is so many standard errors.
const SURE: f64 = 2.0;

/// Requests and windows after which a trial ends, sure or not. The sign of the difference counts
/// then; for a narrow step down, it must be a standard error at least, or chance would lead the
/// ceiling about.
const ENOUGH: f64 = 800.0;
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

/// Smaller changes add up (a two-sided CUSUM, in standard errors): beyond, the search goes on.
const DRIFT_SLACK: f64 = 0.5;
const DRIFT_MAX: f64 = 5.0;

/// Most that the scatter of throughput widens what counts as sure, in standard errors.
const SCATTER_MAX: f64 = 3.0;

/// Which way a policy lets the search go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Gate {
    /// A higher ceiling may be tried.
    pub(super) raise: bool,
    /// A lower one may.
    pub(super) lower: bool,
    /// A lower one may be lower by so much.
    pub(super) drop_max: u32,
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

/// What a search remembers; what ceilings gave, the [`Curve`] does.
#[derive(Clone, Debug)]
pub(super) struct Climb {
    /// The best ceiling so far; 0 before the first window.
    base: u32,
    /// Windows in which it was measured since it is the base, or since the last trial.
    windows: u32,
    trial: Option<Trial>,
    /// Factor of the next trial.
    step: f64,
    /// Where the next trial goes if it may.
    side: Side,
    /// Where the base before this one lies, if it was left for this one.
    came_from: Option<Side>,
    /// Windows until each side may be tried again.
    rest: [u32; 2],
    /// Windows one after the other in which the base gave other than it did.
    odd: u32,
    /// How far below and above what it did the base has given, added up.
    drift: [f64; 2],
    /// How far windows at the base are from what it gave, in standard errors, squared.
    scatter: Average,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    ceiling: u32,
    side: Side,
    served: f64,
    windows: u32,
}

/// A ceiling, and why.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Move {
    pub(super) ceiling: u32,
    pub(super) why: Reason,
}

impl Climb {
    pub(super) fn new() -> Self {
        Self {
            base: 0,
            windows: 0,
            trial: None,
            step: STEP_MAX,
            side: Side::Up,
            came_from: None,
            rest: [0; 2],
            odd: 0,
            drift: [0.0; 2],
            scatter: Average::new(40, 10),
        }
    }

    /// The best ceiling so far, if one was found.
    pub(super) fn best(&self) -> Option<u32> {
        (self.base > 0).then_some(self.base)
    }

    /// Back from whatever is tried to the best so far. `ceiling` is the one in force.
    pub(super) fn give_up_trial(&mut self, ceiling: u32) -> u32 {
        match self.trial.take() {
            Some(trial) if trial.ceiling == ceiling => self.base,
            _ => ceiling,
        }
    }

    /// Whether the ceiling in force is one that is tried.
    pub(super) fn is_trying(&self, ceiling: u32) -> bool {
        self.trial.is_some_and(|trial| trial.ceiling == ceiling)
    }

    /// What is tried is too high, whatever it serves: back to the best, if it was a higher one.
    pub(super) fn refuse_trial(&mut self, ceiling: u32) -> Option<u32> {
        let trial = self.trial.filter(|trial| trial.ceiling == ceiling)?;
        (trial.side == Side::Up).then(|| self.fail(trial.side))
    }

    /// What is tried does not take effect: back to the best. `ceiling` is the one in force.
    pub(super) fn abandon_trial(&mut self, ceiling: u32) -> u32 {
        match self.trial.filter(|trial| trial.ceiling == ceiling) {
            Some(trial) => {
                let base = self.fail(trial.side);
                self.rest[trial.side.index()] = REST;
                base
            }
            None => ceiling,
        }
    }

    /// The policy itself moves the ceiling: the search goes on from there.
    pub(super) fn move_to(&mut self, ceiling: u32) {
        if ceiling != self.base {
            self.base = ceiling;
            self.windows = 0;
            self.odd = 0;
            self.drift = [0.0; 2];
        }
        self.trial = None;
    }

    /// A window is over in which the ceiling in force was held all the time. It is not yet part of
    /// the curve.
    pub(super) fn step(&mut self, curve: &mut Curve, view: &View<'_>, gate: Gate) -> Move {
        let ceiling = view.ceiling;
        for rest in &mut self.rest {
            *rest = rest.saturating_sub(1);
        }
        let hold = |why| Move { ceiling, why };
        let Some(point) = Point::of(view.window) else {
            return hold(Reason::Few { served: 0 });
        };
        if let Some(trial) = self.trial.filter(|trial| trial.ceiling == ceiling) {
            return self.judge(curve, trial, point, view.bounds, gate);
        }
        self.move_to(ceiling);
        self.windows = self.windows.saturating_add(1);
        let known = curve.at(ceiling);
        if let Some(known) = known
            && let Some(changed) = self.compare(curve, known, point)
        {
            return hold(changed);
        }
        let known = known.map_or(point, |known| known.and(point));
        self.try_next(curve, known, view.bounds, gate)
            .unwrap_or_else(|| {
                hold(Reason::Best {
                    ceiling,
                    rate: known.rate,
                })
            })
    }

    /// How many standard errors count as one, as throughput scatters.
    fn scatter(&self) -> f64 {
        within(1.0, SCATTER_MAX, self.scatter.get().sqrt())
    }

    /// Tells when a ceiling does not give what it did; in the end, all that was known is forgotten.
    fn compare(&mut self, curve: &mut Curve, known: Point, point: Point) -> Option<Reason> {
        let off = (point.rate / known.rate).ln();
        let error = known.error().hypot(point.error());
        let changed = Reason::Changed {
            rate: point.rate,
            before: known.rate,
        };
        if off.abs() <= CHANGED.ln().max(CHANGED_ERRORS * error * self.scatter()) {
            self.odd = 0;
            self.scatter.add((off / error).powi(2));
            if self.trial.is_none() {
                self.note_drift(curve, off / error / self.scatter());
            }
            return None;
        }
        self.odd += 1;
        if self.odd >= CHANGED_WINDOWS {
            curve.forget();
            *self = Self {
                base: self.base,
                side: if off < 0.0 { Side::Down } else { Side::Up },
                ..Self::new()
            };
        }
        Some(changed)
    }

    /// Takes into account how far the base is from what it gave. If that goes on to one side, the
    /// search goes on too: down if it gives less, up if it gives more.
    fn note_drift(&mut self, curve: &mut Curve, off: f64) {
        let [below, above] = self.drift;
        self.drift = [
            (below - off - DRIFT_SLACK).max(0.0),
            (above + off - DRIFT_SLACK).max(0.0),
        ];
        let is_below = self.drift[0] > DRIFT_MAX;
        if is_below || self.drift[1] > DRIFT_MAX {
            self.drift = [0.0; 2];
            self.rest = [0; 2];
            self.side = if is_below { Side::Down } else { Side::Up };
            curve.doubt(self.base);
        }
    }

    /// Starts the next trial, if it is time and a side may be tried. `known`: what the base gives.
    fn try_next(
        &mut self,
        curve: &mut Curve,
        known: Point,
        bounds: Bounds,
        gate: Gate,
    ) -> Option<Move> {
        if known.weight < BASE_ENOUGH && self.windows < BASE_MAX {
            return None;
        }
        let side = [self.side, self.side.other()].into_iter().find(|&side| {
            let open = match side {
                Side::Up => gate.raise,
                Side::Down => gate.lower,
            };
            open && self.rest[side.index()] == 0 && self.beside(side, bounds, gate) != self.base
        })?;
        if side != self.side && self.came_from == Some(side) {
            // A whole step would lead back to where it came from.
            self.narrow();
        }
        self.side = side;
        let ceiling = self.beside(side, bounds, gate);
        curve.doubt(ceiling);
        self.trial = Some(Trial {
            ceiling,
            side,
            served: 0.0,
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

    fn narrow(&mut self) {
        self.step = self.step.sqrt().max(STEP_MIN);
    }

    /// The ceiling a step away from the base.
    fn beside(&self, side: Side, bounds: Bounds, gate: Gate) -> u32 {
        let base = f64::from(self.base);
        let ceiling = match side {
            Side::Up => ((base * self.step).round() as u32).max(self.base.saturating_add(1)),
            Side::Down => ((base / self.step).round() as u32)
                .min(self.base.saturating_sub(1))
                .max(self.base.saturating_sub(gate.drop_max)),
        };
        bounds.clamp(ceiling)
    }

    /// Takes a window of a trial into account; ends the trial when there is enough to tell.
    fn judge(
        &mut self,
        curve: &mut Curve,
        mut trial: Trial,
        point: Point,
        bounds: Bounds,
        gate: Gate,
    ) -> Move {
        let known = curve.at(trial.ceiling);
        if let Some(known) = known
            && let Some(why) = self.compare(curve, known, point)
        {
            let ceiling = match self.trial {
                Some(_) => trial.ceiling,
                None => self.base,
            };
            return Move { ceiling, why };
        }
        trial.windows += 1;
        trial.served += point.weight;
        self.trial = Some(trial);
        let tried = known.map_or(point, |known| known.and(point));
        let base = curve.at(self.base).unwrap_or(tried);
        let grown = (f64::from(trial.ceiling) / f64::from(self.base.max(1))).ln();
        let gained = (tried.rate / base.rate).ln() - WORTH * grown;
        let error = tried.error().hypot(base.error()) * self.scatter();
        let sure = gained.abs() > SURE * error;
        if !sure && trial.served < ENOUGH && trial.windows < TRIAL_MAX {
            return Move {
                ceiling: trial.ceiling,
                why: Reason::Measuring { rate: tried.rate },
            };
        }
        let is_wide = self.step > STEP_MIN;
        let is_up = trial.side == Side::Up;
        let least = if is_wide || is_up { 0.0 } else { error };
        if gained > least {
            let before = self.base;
            self.trial = None;
            self.base = trial.ceiling;
            self.windows = BASE_MAX;
            self.odd = 0;
            self.drift = [0.0; 2];
            self.side = trial.side;
            self.came_from = Some(trial.side.other());
            self.rest = [0; 2];
            if !is_wide {
                // Where it came from is known to be worse.
                self.rest[trial.side.other().index()] = REST;
            }
            return self.try_next(curve, tried, bounds, gate).unwrap_or(Move {
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
                up: is_up,
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
        self.came_from = None;
        self.windows = 0;
        if self.step > STEP_MIN {
            self.narrow();
            self.rest = [0; 2];
        } else {
            self.rest[side.index()] = REST;
        }
        self.base
    }
}
