//! Findings for people: a line each, under what they are about.

use super::{Finding, Mend, Severity};

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[1;36m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// All findings, grouped by subject, those of one subject by severity; with `colour`, in colour.
#[must_use]
pub fn report(findings: &[Finding], colour: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colour {
            format!("{code}{text}{RESET}")
        } else {
            text.to_owned()
        }
    };
    let mut subjects: Vec<&str> = Vec::new();
    for finding in findings {
        if !subjects.contains(&&*finding.subject) {
            subjects.push(&finding.subject);
        }
    }
    let mut text = String::new();
    for subject in subjects {
        text.push_str(&format!("{}\n", paint(BOLD, subject)));
        let of_subject = findings.iter().filter(|finding| finding.subject == subject);
        let mut of_subject: Vec<_> = of_subject.collect();
        of_subject.sort_by_key(|finding| finding.severity);
        for finding in of_subject {
            let (code, severity) = match finding.severity {
                Severity::Error => (RED, "error"),
                Severity::Warning => (YELLOW, "warning"),
                Severity::Note => (CYAN, "note"),
            };
            let mend = match &finding.mend {
                Some(Mend::Command(command)) => format!("; run: {}", paint(GREEN, command)),
                Some(Mend::Advice(words)) => format!("; {words}"),
                None => String::new(),
            };
            let severity = paint(code, severity);
            text.push_str(&format!("  {severity}: {}{mend}\n", finding.found));
        }
    }
    text
}

/// The last line: whether this machine is fit, and how many findings there are.
#[must_use]
pub fn summary(findings: &[Finding], colour: bool) -> String {
    let count = |severity, what: &str| {
        let of = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        match of.count() {
            0 => None,
            1 => Some(format!("1 {what}")),
            more => Some(format!("{more} {what}s")),
        }
    };
    let counts = [
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Note, "note"),
    ];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    let (code, verdict) = if super::is_fit(findings) {
        (GREEN, "this machine is fit")
    } else {
        (RED, "this machine is not fit")
    };
    let verdict = if colour {
        format!("{code}{verdict}{RESET}")
    } else {
        verdict.to_owned()
    };
    match counts.as_slice() {
        [] => format!("{verdict}\n"),
        counts => format!("{verdict}: {}\n", counts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{advise, run};
    use super::*;

    fn finding(severity: Severity, subject: &str, mend: Option<Mend>) -> Finding {
        Finding {
            severity,
            check: "check",
            subject: subject.into(),
            found: "is so".into(),
            mend,
        }
    }

    #[test]
    fn findings_stand_under_their_subjects_worst_first() {
        let findings = [
            finding(Severity::Note, "machine", None),
            finding(Severity::Warning, "interface eth0", Some(run("mend it"))),
            finding(Severity::Error, "machine", Some(advise("think"))),
        ];
        let expected = "machine\n  error: is so; think\n  note: is so\n\
                        interface eth0\n  warning: is so; run: mend it\n";
        assert_eq!(report(&findings, false), expected);
        let told = "this machine is not fit: 1 error, 1 warning, 1 note\n";
        assert_eq!(summary(&findings, false), told);
        assert_eq!(summary(&[], false), "this machine is fit\n");
        let notes = [findings[0].clone(), findings[0].clone()];
        assert_eq!(summary(&notes, false), "this machine is fit: 2 notes\n");
    }

    #[test]
    fn colour_is_there_only_when_it_is_asked_for() {
        let findings = [finding(Severity::Error, "machine", Some(run("mend it")))];
        assert!(!report(&findings, false).contains('\x1b'));
        let coloured = report(&findings, true);
        assert!(coloured.contains("\x1b[1;31merror\x1b[0m"), "{coloured:?}");
        assert!(summary(&findings, true).starts_with("\x1b[1;31mthis machine is not fit\x1b[0m"));
    }
}
