//! The pre-flight: what of this machine would keep a configuration from working, and the command
//! that mends it. Changes nothing.
//!
//! [`Facts`] are read in one place; the checks are functions of a configuration and facts, a file
//! for each subject.

mod facts;
mod read;
mod machine;
mod places;
mod interface;
mod driver;
mod forwarding;
mod service;
mod backend;
mod health;
mod report;
#[cfg(test)]
mod made_up;

use serde::{Serialize, Serializer};

use crate::config::Config;

pub use facts::{Device, Facts, Machine, Places, Privileges, sysctl_of};
pub use read::read;
pub use report::{report, summary};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It will not work.
    Error,
    /// It may not work, or not well.
    Warning,
    /// Worth knowing.
    Note,
}

/// What mends it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mend {
    /// A command for the shell of this machine.
    Command(String),
    /// Words: something to do elsewhere, or to decide.
    Advice(String),
}

impl Serialize for Mend {
    /// A command as it is; words as a comment of the shell, so that running it does nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Command(command) => serializer.serialize_str(command),
            Self::Advice(words) => serializer.collect_str(&format_args!("# {words}")),
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which check found it: a name that stays.
    pub check: &'static str,
    /// What it is about, such as `interface eth0` or `back-end web/web-1`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What mends it; nothing where nothing needs to be done.
    pub mend: Option<Mend>,
}

/// Everything worth telling, in the order of the subjects: the machine, what the daemon needs on
/// it, interfaces, services, back-ends.
#[must_use]
pub fn check(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings::default();
    machine::check(config, facts, &mut findings);
    forwarding::check_machine(config, facts, &mut findings);
    places::check(config, facts, &mut findings);
    for name in &config.dataplane.interfaces {
        interface::check(config, facts, name, &mut findings);
    }
    for service in &config.services {
        service::check(config, facts, service, &mut findings);
        health::check(facts, service, &mut findings);
        for backend in &service.backends {
            backend::check(config, facts, service, backend, &mut findings);
        }
    }
    findings.0
}

/// Whether nothing was found that will not work.
#[must_use]
pub fn is_fit(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.severity != Severity::Error)
}

/// The findings so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// The findings of one check about one subject are noted by this.
    fn about(&mut self, check: &'static str, subject: impl Into<String>) -> About<'_> {
        About {
            findings: &mut self.0,
            check,
            subject: subject.into(),
        }
    }
}

/// Where the findings of one check about one subject go.
struct About<'f> {
    findings: &'f mut Vec<Finding>,
    check: &'static str,
    subject: String,
}

impl About<'_> {
    fn error(self, found: impl Into<String>, mend: impl Into<Option<Mend>>) {
        self.note_as(Severity::Error, found.into(), mend.into());
    }

    fn warning(self, found: impl Into<String>, mend: impl Into<Option<Mend>>) {
        self.note_as(Severity::Warning, found.into(), mend.into());
    }

    fn note(self, found: impl Into<String>, mend: impl Into<Option<Mend>>) {
        self.note_as(Severity::Note, found.into(), mend.into());
    }

    fn note_as(self, severity: Severity, found: String, mend: Option<Mend>) {
        self.findings.push(Finding {
            severity,
            check: self.check,
            subject: self.subject,
            found,
            mend,
        });
    }
}

/// A command that mends.
fn run(command: impl Into<String>) -> Mend {
    Mend::Command(command.into())
}

/// Words that say how to mend.
fn advise(words: impl Into<String>) -> Mend {
    Mend::Advice(words.into())
}
