//! What a policy is worth in a scenario: against the best fixed ceiling, found by trying.

use core::time::Duration;
use std::thread::ScopedJoinHandle;

use dispatcher_user::ceiling::{
    Gradient, Metric, Policy, QueueDepth, Reason, ResponseTime, Settings, Throughput,
};

use crate::run::{BackendSample, Outcome, Sample, run};
use crate::scenario::{SETTLING_MAX, Scenario, Stretch};

/// Fixed ceilings that are tried: half an octave apart or less.
pub const TRIED: [u32; 14] = [1, 2, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 255];

/// Part of the best throughput that a policy must hold.
pub const SHARE_MIN: f64 = 0.9;

/// A step of the search once it has settled: a quarter, or one.
const STEP: f64 = 1.25;

/// How many steps a settled ceiling may go to and fro: one to each side of the best that it tries,
/// and one that the best itself moves.
const STEPS_MAX: u32 = 3;

/// Windows that must be good, one after the other, for a policy to have settled.
const SETTLED: usize = 10;

/// The band of `response-time`, as multiples of the response time of the unloaded server.
pub const BAND: (f64, f64) = (2.0, 6.0);

/// The policies that move ceilings, as they are judged: with their defaults, and `response-time`
/// with a [`BAND`].
#[must_use]
pub fn policies(scenario: &Scenario) -> Vec<Policy> {
    let unloaded = scenario.servers[0].unloaded();
    vec![
        Policy::QueueDepth(QueueDepth::default()),
        Policy::ResponseTime(ResponseTime {
            metric: Metric::default(),
            low: Duration::from_secs_f64(BAND.0 * unloaded),
            high: Duration::from_secs_f64(BAND.1 * unloaded),
        }),
        Policy::Throughput(Throughput::default()),
        Policy::Gradient(Gradient::default()),
    ]
}

/// Runs a scenario under a policy, from the scenario's initial ceiling.
#[must_use]
pub fn run_policy(scenario: &Scenario, policy: Policy, seed: u64) -> Outcome {
    let settings = Settings {
        policy,
        interval: scenario.window,
        ..Settings::default()
    };
    run(scenario, &settings, scenario.initial, seed)
}

/// What fixed ceilings give in a scenario.
#[derive(Debug)]
pub struct Sweep(Vec<(u32, Outcome)>);

impl Sweep {
    /// Tries all of [`TRIED`].
    #[must_use]
    pub fn of(scenario: &Scenario, seed: u64) -> Self {
        let settings = Settings {
            policy: Policy::Fixed,
            ..Settings::default()
        };
        let tried = TRIED.map(|ceiling| (ceiling, run(scenario, &settings, ceiling, seed)));
        Self(tried.into())
    }

    /// The ceiling that serves most in a stretch, once it has settled, and its run.
    ///
    /// # Panics
    ///
    /// Never: some ceiling was tried.
    #[must_use]
    pub fn best(&self, stretch: &Stretch) -> &(u32, Outcome) {
        let served = |tried: &&(u32, Outcome)| settled_throughput(&tried.1, stretch);
        let best = self.0.iter().max_by(|a, b| served(a).total_cmp(&served(b)));
        best.expect("some ceiling was tried")
    }

    /// What the greatest ceiling serves, as good as none.
    #[must_use]
    pub fn unlimited(&self, stretch: &Stretch) -> f64 {
        let last = self.0.last();
        last.map_or(0.0, |(_, outcome)| settled_throughput(outcome, stretch))
    }
}

/// Requests served a second in some windows.
fn throughput(outcome: &Outcome, from: usize, to: usize) -> f64 {
    let windows = &outcome.samples[from..to];
    windows.iter().map(|sample| sample.served).sum::<f64>() / windows.len() as f64
}

fn settled_throughput(outcome: &Outcome, stretch: &Stretch) -> f64 {
    throughput(outcome, stretch.begins + SETTLING_MAX, stretch.ends)
}

/// What a policy did in a stretch.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Verdict {
    /// Requests a second, once it must have settled.
    pub served: f64,
    /// That, as a part of what the best fixed ceiling serves.
    pub share: f64,
    /// Windows from the beginning of the stretch until it served [`SHARE_MIN`] of what the best
    /// serves, and from there on did so on average; nothing if it never did.
    pub settled: Option<usize>,
    /// The ceiling that the first back-end had half of the time, once it must have settled.
    pub ceiling: u32,
    /// How far the ceiling went to and fro, once it must have settled: nine windows of ten it was
    /// at the first or above, and nine of ten at the second or below. Windows in which a baseline
    /// is measured do not count.
    pub swing: (u32, u32),
}

impl Verdict {
    /// Judges a run.
    #[must_use]
    pub fn of(outcome: &Outcome, sweep: &Sweep, stretch: &Stretch) -> Self {
        let (_, best) = sweep.best(stretch);
        let served = settled_throughput(outcome, stretch);
        let is_good =
            |from, to| throughput(outcome, from, to) >= SHARE_MIN * throughput(best, from, to);
        let last = stretch.ends - SETTLED;
        let settled = (stretch.begins..last)
            .find(|&at| is_good(at, at + SETTLED) && is_good(at, stretch.ends));
        let mut ceilings = held_ceilings(&outcome.samples[..stretch.ends], stretch);
        ceilings.sort_unstable();
        let at = |part: usize| ceilings[(ceilings.len() - 1) * part / 10];
        Self {
            served,
            share: served / settled_throughput(best, stretch),
            settled: settled.map(|at| at - stretch.begins),
            ceiling: at(5),
            swing: (at(1), at(9)),
        }
    }
}

impl Verdict {
    /// What the policy failed at, if anything.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let (low, high) = self.swing;
        let reach = (0..STEPS_MAX).fold(low, |ceiling, _| {
            ((f64::from(ceiling) * STEP).round() as u32).max(ceiling + 1)
        });
        if self.share < SHARE_MIN {
            return Some(format!("it holds {:.1} % of the best", self.share * 100.0));
        }
        if self.settled.is_none_or(|windows| windows > SETTLING_MAX) {
            return Some(format!("it settled after {:?} windows", self.settled));
        }
        (high > reach).then(|| format!("it goes to and fro between {low} and {high}"))
    }
}

/// Ceilings of the first back-end once the policy must have settled, without those that measure a
/// baseline.
fn held_ceilings(samples: &[Sample], stretch: &Stretch) -> Vec<u32> {
    let mut probing = false;
    let mut ceilings = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let BackendSample { ceiling, why, .. } = &sample.backends[0];
        if index >= stretch.begins + SETTLING_MAX && !probing {
            ceilings.push(*ceiling);
        }
        match why {
            Reason::Probe => probing = true,
            Reason::Probed { .. } => probing = false,
            _ => {}
        }
    }
    ceilings
}

/// All policies in all stretches of a scenario.
#[derive(Debug)]
pub struct Report {
    /// The scenario.
    pub scenario: Scenario,
    /// Of each of its stretches: the best fixed ceiling, what it serves, what the greatest serves,
    /// and the verdicts in the order of [`policies`].
    pub rows: Vec<Row>,
}

/// One stretch in a report.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub stretch: Stretch,
    /// The best fixed ceiling.
    pub best: u32,
    /// Requests a second that it serves.
    pub best_served: f64,
    /// Requests a second under the greatest ceiling.
    pub unlimited: f64,
    /// Of each policy.
    pub verdicts: Vec<Verdict>,
}

/// Judges all policies in all scenarios; those are shared among the processors.
#[must_use]
pub fn judge_all(seed: u64) -> Vec<Report> {
    let scenarios = Scenario::all();
    let next = core::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            let Some(scenario) = scenarios.get(index) else {
                return reports;
            };
            reports.push((index, judge(scenario, seed)));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut reports: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(ScopedJoinHandle::join);
        joined
            .flat_map(|reports| reports.expect("a run does not panic"))
            .collect()
    });
    reports.sort_unstable_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn judge(scenario: &Scenario, seed: u64) -> Report {
    let sweep = Sweep::of(scenario, seed);
    let policies = policies(scenario);
    let outcomes: Vec<_> = policies
        .into_iter()
        .map(|policy| run_policy(scenario, policy, seed))
        .collect();
    let row = |stretch: &Stretch| {
        let (best, outcome) = sweep.best(stretch);
        Row {
            stretch: *stretch,
            best: *best,
            best_served: settled_throughput(outcome, stretch),
            unlimited: sweep.unlimited(stretch),
            verdicts: outcomes
                .iter()
                .map(|outcome| Verdict::of(outcome, &sweep, stretch))
                .collect(),
        }
    };
    Report {
        scenario: scenario.clone(),
        rows: scenario.stretches.iter().map(row).collect(),
    }
}
