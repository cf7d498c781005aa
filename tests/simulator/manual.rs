//! What the manual shows, and how a run is told.

use anyhow::{Result, bail};
use dispatcher_user::ceiling::Policy;

use crate::judge::{self, Sweep, Verdict};
use crate::picture::{self, Picture};
use crate::run::Outcome;
use crate::scenario::Scenario;

/// Where the manual is.
pub const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

/// Its part on policies.
pub const NAME: &str = "policies.md";

/// Its pictures: scenario and policy.
pub const PICTURES: [(&str, &str); 2] = [("overload", "queue-depth"), ("crowded", "gradient")];

/// The file of a picture.
#[must_use]
pub fn picture(scenario: &str, policy: &str) -> String {
    format!("{scenario}-{policy}.svg")
}

/// A run, and what is told of it.
#[derive(Debug)]
pub struct Drawing {
    /// Where it happened.
    pub scenario: Scenario,
    /// What happened.
    pub outcome: Outcome,
    /// What came of it, a line for each stretch.
    pub told: Vec<String>,
    best: Vec<u32>,
    title: String,
}

impl Drawing {
    /// Runs a policy in a scenario, and fixed ceilings to compare.
    ///
    /// # Errors
    ///
    /// When there is no such scenario, or no such policy.
    pub fn of(scenario: &str, policy: &str, seed: u64) -> Result<Self> {
        let Some(scenario) = Scenario::named(scenario) else {
            let scenarios = Scenario::all();
            let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario `{scenario}`; there are {}", names.join(", "));
        };
        let mut policies = judge::policies(&scenario);
        policies.push(Policy::Fixed);
        let labels: Vec<_> = policies.iter().map(Policy::label).collect();
        let Some(index) = labels.iter().position(|label| *label == policy) else {
            bail!("no policy `{policy}`; there are {}", labels.join(", "));
        };
        let outcome = judge::run_policy(&scenario, policies.swap_remove(index), seed);
        let sweep = Sweep::of(&scenario, seed);
        let stretches = scenario.stretches.iter();
        let best: Vec<_> = stretches
            .clone()
            .map(|stretch| sweep.best(stretch).0)
            .collect();
        let told = stretches.zip(&best).map(|(stretch, best)| {
            let verdict = Verdict::of(&outcome, &sweep, stretch);
            let settled = verdict.settled.map_or_else(
                || "never settled".to_owned(),
                |windows| format!("settled after {windows} windows"),
            );
            let text = format!(
                "{} {:.0} requests/s at {}, {:.0} % of the best fixed ceiling ({best}); {settled}",
                stretch.name,
                verdict.served,
                verdict.ceiling,
                verdict.share * 100.0,
            );
            text.trim_start().to_owned()
        });
        Ok(Self {
            told: told.collect(),
            best,
            title: format!("{policy}: {}", scenario.about),
            scenario,
            outcome,
        })
    }

    /// Its picture.
    ///
    /// # Errors
    ///
    /// When it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        picture::svg(&Picture {
            scenario: &self.scenario,
            outcome: &self.outcome,
            best: &self.best,
            title: &self.title,
            subtitles: &self.told,
        })
    }
}
