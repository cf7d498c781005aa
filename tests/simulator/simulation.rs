//! Every policy in every scenario: what must hold, and that none got worse than the manual says.

use std::fs;
use std::path::Path;

use dispatcher_simulator::judge::{self, Report};
use dispatcher_simulator::manual::{self, Drawing};
use dispatcher_simulator::scenario::Scenario;
use dispatcher_simulator::table;
use dispatcher_user::ceiling::{Policy, QueueDepth};

const SEED: u64 = 1;

/// Percent by which a policy may get worse than the manual says.
const WORSE_MAX: f64 = 2.0;

const MANUAL: &str = include_str!("../../docs/policies.md");

#[test]
fn policies_hold_what_the_manual_promises() {
    let reports = judge::judge_all(SEED);
    let failures = failures(&reports);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let table = table::markdown(&reports);
    let committed = table::committed(MANUAL).unwrap();
    let worse = worse(committed, &table);
    assert!(worse.is_empty(), "\n{}", worse.join("\n"));
    assert_eq!(
        committed,
        table.trim(),
        "the manual's table is another; run `cargo xtask simulate --docs`"
    );
}

fn failures(reports: &[Report]) -> Vec<String> {
    let mut failures = Vec::new();
    for Report { scenario, rows } in reports {
        let policies = judge::policies(scenario);
        for row in rows {
            for (policy, verdict) in policies.iter().zip(&row.verdicts) {
                if let Some(failure) = verdict.failure() {
                    let (name, stretch) = (scenario.name, row.stretch.name);
                    failures.push(format!("{name} {stretch}: {}: {failure}", policy.label()));
                }
            }
        }
    }
    failures
}

fn worse(committed: &str, table: &str) -> Vec<String> {
    let (before, now) = (table::shares(committed), table::shares(table));
    let mut worse = Vec::new();
    for ((name, before), (_, now)) in before.iter().zip(&now) {
        for (before, now) in before.iter().zip(now) {
            if now + WORSE_MAX < *before {
                worse.push(format!("{name}: {before} % before, {now} % now"));
            }
        }
    }
    worse
}

#[test]
fn a_run_is_the_same_with_the_same_seed_and_another_with_another() {
    let scenario = Scenario::named("bursts").unwrap();
    let served = |seed| -> Vec<f64> {
        let policy = Policy::QueueDepth(QueueDepth::default());
        let outcome = judge::run_policy(&scenario, policy, seed);
        outcome.samples.iter().map(|sample| sample.served).collect()
    };
    assert_eq!(served(7), served(7));
    assert_ne!(served(7), served(8));
}

/// In a constant time-out the ceiling does not climb, whatever the policy.
#[test]
fn a_constant_time_out_does_not_look_healthy() {
    let scenario = Scenario::named("timeout").unwrap();
    for policy in judge::policies(&scenario) {
        let label = policy.label();
        let outcome = judge::run_policy(&scenario, policy, SEED);
        let ceilings = |from: usize, to: usize| {
            let samples = &outcome.samples[from..to];
            samples
                .iter()
                .map(|sample| sample.backends[0].ceiling)
                .max()
                .unwrap()
        };
        let (before, during) = (ceilings(40, 60), ceilings(61, 100));
        assert!(
            during <= before,
            "{label}: {during} during, {before} before"
        );
    }
}

#[test]
fn the_manual_shows_what_happens() {
    for (scenario, policy) in manual::PICTURES {
        let drawn = Drawing::of(scenario, policy, SEED).unwrap().svg().unwrap();
        let path = Path::new(manual::DIRECTORY).join(manual::picture(scenario, policy));
        let committed = fs::read_to_string(&path).unwrap();
        assert!(
            drawn == committed,
            "{} is another; run `cargo xtask simulate --docs`",
            path.display()
        );
    }
}

#[test]
fn several_back_ends_can_be_drawn() {
    let drawing = Drawing::of("slow-one", "fixed", SEED).unwrap();
    let svg = drawing.svg().unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(Drawing::of("slow-one", "magic", SEED).is_err());
    assert!(Drawing::of("calm", "fixed", SEED).is_err());
}
