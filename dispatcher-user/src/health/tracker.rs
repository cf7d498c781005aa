//! Whether a back-end is up, by what checks found and by what became of its requests. Pure: time
//! is an argument.

use core::fmt;
use core::time::Duration;

use crate::admission::Time;
use crate::config::{Health, HealthKind};

/// How long a back-end that its requests took down is left alone before it is tried, where nobody
/// checks it. Each trial that fails doubles it.
pub const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest that it is left alone.
pub const BACKOFF_MAX: Duration = Duration::from_secs(64);

/// What it takes to change the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Whether it is checked.
    pub checked: bool,
    /// Good checks in succession until it is up.
    pub rise: u32,
    /// Bad checks in succession until it is down.
    pub fall: u32,
    /// Requests in succession without an answer until it is down; 0 for any number.
    pub passive: u32,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Self {
        Self {
            checked: health.kind != HealthKind::Off,
            rise: health.rise,
            fall: health.fall,
            passive: health.passive,
        }
    }
}

/// What became of requests that were sent to the back-end, since that was last told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passive {
    /// It answered with a SYN-ACK.
    pub answered: u64,
    /// It answered with an RST.
    pub refused: u64,
    /// It did not answer.
    pub silent: u64,
}

/// Whether a back-end is to be given connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is.
    Up,
    /// One, to see what becomes of it.
    Trial,
    /// None.
    Down,
}

/// What changed a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// So many checks in succession.
    Checks(u32),
    /// So many requests in succession without an answer; of the last ones, how many it refused.
    Requests {
        /// All.
        count: u64,
        /// Those that met an RST.
        refused: u64,
    },
    /// It was left alone for so long, and is tried.
    Backoff(Duration),
    /// It answered a request when it was tried.
    Answered,
    /// Its health is watched otherwise, or no more.
    Rules,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checks(count) => write!(f, "checks in succession: {count}"),
            Self::Requests { count, refused } => {
                write!(f, "requests in succession without an answer: {count}")?;
                match refused {
                    0 => Ok(()),
                    _ => write!(f, ", refused: {refused}"),
                }
            }
            Self::Backoff(time) => write!(f, "tried after {} s", time.as_secs()),
            Self::Answered => f.write_str("it answered a request"),
            Self::Rules => f.write_str("its health is watched otherwise, or no more"),
        }
    }
}

/// What is known of the health of one back-end. It begins as up.
#[derive(Clone, Debug)]
pub struct Tracker {
    rules: Rules,
    verdict: Verdict,
    since: Time,
    /// Checks in succession that speak against the verdict.
    contrary: u32,
    /// Requests in succession without an answer.
    unanswered: u64,
    /// When it is tried, if it is down and nobody checks it.
    trial_at: Option<Time>,
    backoff: Duration,
}

impl Tracker {
    /// Nothing is known of it: it is up.
    #[must_use]
    pub const fn new(now: Time, rules: Rules) -> Self {
        Self {
            rules,
            verdict: Verdict::Up,
            since: now,
            contrary: 0,
            unanswered: 0,
            trial_at: None,
            backoff: BACKOFF_MIN,
        }
    }

    /// What is to be done with it.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Time {
        self.since
    }

    /// Other rules. What is known stays, as far as anybody goes on watching; what was counted
    /// towards a change begins anew.
    pub fn set_rules(&mut self, now: Time, rules: Rules) -> Option<Cause> {
        if rules == self.rules {
            return None;
        }
        self.rules = rules;
        (self.contrary, self.unanswered, self.trial_at) = (0, 0, None);
        if self.verdict == Verdict::Up || (rules.checked && self.verdict == Verdict::Down) {
            return None;
        }
        if !rules.checked && rules.passive > 0 {
            self.trial_at = (self.verdict == Verdict::Down).then(|| now + self.backoff);
            return None;
        }
        Some(self.turn(now, Verdict::Up, Cause::Rules))
    }

    /// It was checked. Returns what changed the verdict, if that changed.
    pub fn check(&mut self, now: Time, passed: bool) -> Option<Cause> {
        if !self.rules.checked {
            return None;
        }
        let (good, needed, next) = match self.verdict {
            Verdict::Up | Verdict::Trial => (passed, self.rules.fall, Verdict::Down),
            Verdict::Down => (!passed, self.rules.rise, Verdict::Up),
        };
        if good {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        (self.contrary >= needed).then(|| self.turn(now, next, Cause::Checks(needed)))
    }

    /// What became of requests. One answer among them speaks for the back-end, whatever became of
    /// the others. Returns what changed the verdict, if that changed.
    pub fn observe(&mut self, now: Time, of: Passive) -> Option<Cause> {
        let failed = of.refused.saturating_add(of.silent);
        // What is said of one that is down was asked before it was.
        if self.rules.passive == 0 || self.verdict == Verdict::Down {
            return None;
        }
        if of.answered > 0 {
            (self.unanswered, self.backoff) = (0, BACKOFF_MIN);
            let tried = self.verdict == Verdict::Trial;
            return tried.then(|| self.turn(now, Verdict::Up, Cause::Answered));
        }
        self.unanswered = self.unanswered.saturating_add(failed);
        let most = match self.verdict {
            Verdict::Trial => 1,
            _ => u64::from(self.rules.passive),
        };
        if self.unanswered < most {
            return None;
        }
        if self.verdict == Verdict::Trial {
            self.backoff = (2 * self.backoff).min(BACKOFF_MAX);
        }
        let cause = Cause::Requests {
            count: self.unanswered,
            refused: of.refused,
        };
        self.turn(now, Verdict::Down, cause);
        self.trial_at = (!self.rules.checked).then(|| now + self.backoff);
        Some(cause)
    }

    /// Time has passed. Returns what changed the verdict, if that changed.
    pub fn handle_timeout(&mut self, now: Time) -> Option<Cause> {
        self.trial_at.filter(|at| *at <= now)?;
        Some(self.turn(now, Verdict::Trial, Cause::Backoff(self.backoff)))
    }

    fn turn(&mut self, now: Time, verdict: Verdict, cause: Cause) -> Cause {
        (self.verdict, self.since) = (verdict, now);
        (self.contrary, self.unanswered, self.trial_at) = (0, 0, None);
        cause
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        checked: true,
        rise: 2,
        fall: 3,
        passive: 5,
    };

    const PASSIVE: Rules = Rules {
        checked: false,
        ..RULES
    };

    const fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    const fn answered(count: u64) -> Passive {
        Passive {
            answered: count,
            refused: 0,
            silent: 0,
        }
    }

    const fn failed(refused: u64, silent: u64) -> Passive {
        Passive {
            answered: 0,
            refused,
            silent,
        }
    }

    /// `+` is a good check, `-` a bad one; after each the verdict: `u`p or `d`own.
    #[track_caller]
    fn assert_checks(rules: Rules, checks: &str, verdicts: &str) {
        let mut tracker = Tracker::new(at(0), rules);
        let mut seen = String::new();
        for (check, second) in checks.chars().zip(1..) {
            let before = tracker.verdict();
            let cause = tracker.check(at(second), check == '+');
            assert_eq!(cause.is_some(), tracker.verdict() != before);
            seen.push(if tracker.verdict() == Verdict::Up {
                'u'
            } else {
                'd'
            });
        }
        assert_eq!(seen, verdicts, "{checks}");
    }

    #[test]
    fn so_many_checks_in_succession_change_the_verdict() {
        assert_checks(RULES, "--", "uu");
        assert_checks(RULES, "---", "uud");
        assert_checks(RULES, "---++", "uuddu");
        assert_checks(RULES, "---+-++", "uuddddu");
        let at_once = Rules {
            rise: 1,
            fall: 1,
            ..RULES
        };
        assert_checks(at_once, "-+-+", "dudu");
    }

    #[test]
    fn flapping_checks_do_not_flap_the_verdict() {
        assert_checks(RULES, "--+--+--+--+", "uuuuuuuuuuuu");
        assert_checks(RULES, "---+-+-+-+-+", "uudddddddddd");
    }

    #[test]
    fn checks_change_nothing_where_none_are_made() {
        assert_checks(PASSIVE, "----------", "uuuuuuuuuu");
    }

    #[test]
    fn requests_without_an_answer_take_it_down_and_an_answer_among_them_does_not() {
        let mut tracker = Tracker::new(at(0), RULES);
        for of in [failed(4, 0), answered(1), failed(2, 2), Passive::default()] {
            assert_eq!(tracker.observe(at(1), of), None);
        }
        let mixed = Passive {
            answered: 1,
            refused: 100,
            silent: 100,
        };
        assert_eq!(tracker.observe(at(2), mixed), None);
        assert_eq!(tracker.observe(at(3), failed(1, 3)), None);
        let cause = tracker.observe(at(4), failed(1, 0));
        let count = Cause::Requests {
            count: 5,
            refused: 1,
        };
        assert_eq!((cause, tracker.verdict()), (Some(count), Verdict::Down));
        assert_eq!(tracker.since(), at(4));
    }

    #[test]
    fn where_it_is_checked_checks_bring_it_back() {
        let mut tracker = Tracker::new(at(0), RULES);
        tracker.observe(at(1), failed(5, 0));
        // Asked before it went down.
        assert_eq!(tracker.observe(at(2), answered(3)), None);
        assert_eq!(tracker.handle_timeout(at(1000)), None);
        assert_eq!(tracker.check(at(1001), true), None);
        assert_eq!(tracker.check(at(1003), true), Some(Cause::Checks(2)));
        assert_eq!(tracker.verdict(), Verdict::Up);
    }

    #[test]
    fn where_it_is_not_checked_it_is_tried_ever_more_rarely() {
        let mut tracker = Tracker::new(at(0), PASSIVE);
        tracker.observe(at(0), failed(0, 5));
        let mut now = 0;
        for backoff in [2, 4, 8, 16, 32, 64, 64, 64] {
            assert_eq!(tracker.verdict(), Verdict::Down);
            assert_eq!(tracker.handle_timeout(at(now + backoff - 1)), None);
            now += backoff;
            let tried = tracker.handle_timeout(at(now));
            assert_eq!(tried, Some(Cause::Backoff(Duration::from_secs(backoff))));
            // Nobody asks for it.
            assert_eq!(tracker.observe(at(now), Passive::default()), None);
            assert_eq!(tracker.verdict(), Verdict::Trial);
            tracker.observe(at(now), failed(1, 0)).unwrap();
        }
        tracker.handle_timeout(at(now + 64)).unwrap();
        let cause = tracker.observe(at(now + 65), answered(1));
        assert_eq!(
            (cause, tracker.verdict()),
            (Some(Cause::Answered), Verdict::Up)
        );
        // It is forgotten how often it was tried.
        tracker.observe(at(now + 66), failed(5, 0)).unwrap();
        assert!(tracker.handle_timeout(at(now + 68)).is_some());
    }

    #[test]
    fn other_rules_keep_what_is_known() {
        let down = |rules| {
            let mut tracker = Tracker::new(at(0), rules);
            tracker.observe(at(1), failed(5, 0)).unwrap();
            tracker
        };
        let none = Rules {
            passive: 0,
            ..PASSIVE
        };
        let checks_alone = Rules {
            passive: 0,
            ..RULES
        };
        for (before, after, verdict, changed) in [
            (RULES, RULES, Verdict::Down, false),
            (RULES, Rules { rise: 9, ..RULES }, Verdict::Down, false),
            (RULES, checks_alone, Verdict::Down, false),
            (RULES, PASSIVE, Verdict::Down, false),
            (PASSIVE, RULES, Verdict::Down, false),
            (RULES, none, Verdict::Up, true),
            (PASSIVE, none, Verdict::Up, true),
        ] {
            let mut tracker = down(before);
            let cause = tracker.set_rules(at(9), after);
            assert_eq!(cause.is_some(), changed, "{before:?} {after:?}");
            assert_eq!(tracker.verdict(), verdict, "{before:?} {after:?}");
        }
        // Now that nobody checks it, it is tried.
        let mut tracker = down(RULES);
        tracker.set_rules(at(9), PASSIVE);
        assert_eq!(tracker.handle_timeout(at(10)), None);
        assert!(tracker.handle_timeout(at(11)).is_some());
        // Now that somebody checks it, a trial is no longer needed.
        assert_eq!(tracker.set_rules(at(12), RULES), Some(Cause::Rules));
        assert_eq!(tracker.verdict(), Verdict::Up);
    }

    #[derive(Clone, Copy, Debug)]
    enum Input {
        Check(bool),
        Observe(Passive),
        Wait(u64),
    }

    fn input() -> impl Strategy<Value = Input> {
        let passive = (0_u64..3, 0_u64..4, 0_u64..4);
        prop_oneof![
            any::<bool>().prop_map(Input::Check),
            passive.prop_map(|(answered, refused, silent)| Input::Observe(Passive {
                answered,
                refused,
                silent,
            })),
            (0_u64..100).prop_map(Input::Wait),
        ]
    }

    fn rules() -> impl Strategy<Value = Rules> {
        (any::<bool>(), 1_u32..5, 1_u32..5, 0_u32..5).prop_map(|(checked, rise, fall, passive)| {
            Rules {
                checked,
                rise,
                fall,
                passive,
            }
        })
    }

    proptest! {
        #[test]
        fn whatever_comes_a_verdict_changes_with_a_cause_and_never_sticks(
            rules in rules(),
            inputs in proptest::collection::vec(input(), 0..200),
        ) {
            let mut tracker = Tracker::new(at(0), rules);
            let mut now = 0;
            for input in inputs {
                let before = tracker.verdict();
                let cause = match input {
                    Input::Check(passed) => tracker.check(at(now), passed),
                    Input::Observe(of) => tracker.observe(at(now), of),
                    Input::Wait(seconds) => {
                        now += seconds;
                        tracker.handle_timeout(at(now))
                    }
                };
                prop_assert_eq!(cause.is_some(), tracker.verdict() != before);
                if cause.is_some() {
                    prop_assert_eq!(tracker.since(), at(now));
                }
                // Trials are for those whom nobody checks, and nobody is down whom nobody watches.
                prop_assert!(!rules.checked || tracker.verdict() != Verdict::Trial);
                let watched = rules.checked || rules.passive > 0;
                prop_assert!(watched || tracker.verdict() == Verdict::Up);
            }
            // Whatever came before, a server that is well is up in bounded time.
            tracker.handle_timeout(at(now + BACKOFF_MAX.as_secs()));
            tracker.observe(at(now + 65), answered(1));
            for second in 0..u64::from(rules.rise) {
                tracker.check(at(now + 66 + second), true);
            }
            prop_assert_eq!(tracker.verdict(), Verdict::Up);
        }

        #[test]
        fn it_is_down_exactly_when_the_last_checks_in_succession_were_bad(
            rise in 1_u32..5,
            fall in 1_u32..5,
            checks in proptest::collection::vec(any::<bool>(), 0..100),
        ) {
            let rules = Rules { rise, fall, checked: true, passive: 0 };
            let mut tracker = Tracker::new(at(0), rules);
            let mut up = true;
            for end in 1..=checks.len() {
                tracker.check(at(end as u64), checks[end - 1]);
                let ends_with = |count: u32, passed: bool| {
                    let count = count as usize;
                    count <= end && checks[end - count..end].iter().all(|one| *one == passed)
                };
                up = if up { !ends_with(fall, false) } else { ends_with(rise, true) };
                prop_assert_eq!(tracker.verdict() == Verdict::Up, up);
            }
        }
    }
}
