//! What a run was worth: against the best fixed ceiling of the same scenario, found by trying.

use dispatcher_user::ceiling::{Policy, Settings};

use crate::run::{Outcome, run};
use crate::scenario::{SETTLING_MAX, Scenario, Stretch};

/// Fixed ceilings that are tried: half an octave apart or less.
pub const TRIED: [u32; 14] = [1, 2, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 255];

/// Throughput of each fixed ceiling, window by window.
#[must_use]
pub fn sweep(scenario: &Scenario, seed: u64) -> Vec<(u32, Outcome)> {
    let settings = Settings {
        policy: Policy::Fixed,
        ..Settings::default()
    };
    std::thread::scope(|scope| {
        let handles = TRIED.map(|ceiling| {
            let settings = &settings;
            scope.spawn(move || (ceiling, run(scenario, settings, ceiling, seed)))
        });
        handles
            .into_iter()
            .map(|handle| handle.join().expect("a run does not panic"))
            .collect()
    })
}

/// Requests a second in the part of a stretch in which a policy must have settled.
#[must_use]
pub fn throughput(outcome: &Outcome, stretch: &Stretch) -> f64 {
    let windows = &outcome.samples[stretch.begins + SETTLING_MAX..stretch.ends];
    windows.iter().map(|sample| sample.served).sum::<f64>() / windows.len() as f64
}
