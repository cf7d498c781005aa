//! Rules for one Rust file.

use super::Violation;

/// Columns of a line.
const COLUMNS_MAX: usize = 100;

/// A module that decides: it may name nothing but these.
const PURE: [&str; 2] = [
    "dispatcher-user/src/admission/",
    "dispatcher-user/src/ceiling/",
];
const PURE_MAY_USE: [&str; 9] = [
    "core::",
    "alloc::",
    "std::collections::",
    "std::time::Duration",
    "dispatcher_common::",
    "crate::admission",
    "crate::ceiling",
    "super::",
    "self::",
];

/// A word that only some files may say.
struct Reserved {
    word: &'static str,
    /// Prefixes of paths where it may not be said.
    within: &'static [&'static str],
    /// Prefixes of paths where it may, nevertheless.
    but: &'static [&'static str],
    rule: &'static str,
}

const OURS: &[&str] = &[
    "dispatcher-common/",
    "dispatcher-ebpf/",
    "dispatcher-user/src/",
];

const RESERVED: [Reserved; 6] = [
    Reserved {
        word: "Instant::now",
        within: OURS,
        // The watcher and the checks schedule their own work; they decide nothing by the time.
        but: &[
            "dispatcher-user/src/engine/clock.rs",
            "dispatcher-user/src/health/mod.rs",
            "dispatcher-user/src/network/watcher.rs",
        ],
        rule: "only engine/clock.rs asks the time; take `now` as an argument",
    },
    Reserved {
        word: "SystemTime::now",
        within: OURS,
        but: &["dispatcher-user/src/engine/clock.rs"],
        rule: "only engine/clock.rs asks the time; take `now` as an argument",
    },
    Reserved {
        word: "clock_gettime",
        within: OURS,
        but: &["dispatcher-user/src/engine/clock.rs"],
        rule: "only engine/clock.rs asks the time; take `now` as an argument",
    },
    Reserved {
        word: "xsk_rs::",
        within: &[""],
        // What the daemon's sockets are compared with is made without them.
        but: &["dispatcher-user/src/xsk/", "tests/benches/syns/echo.rs"],
        rule: "only dispatcher-user/src/xsk names xsk_rs",
    },
    Reserved {
        word: "aya::",
        within: &[""],
        but: &[
            "dispatcher-user/src/datapath/",
            "dispatcher-common/src/pod.rs",
            "tests/",
        ],
        rule: "only dispatcher-user/src/datapath, dispatcher-common/src/pod.rs and tests name aya",
    },
    Reserved {
        word: "allow(",
        within: &[""],
        but: &[],
        rule: "no allow; say #[expect(lint, reason = \"...\")]",
    },
];

/// What a file breaks; `file` is its path from the root of the workspace.
pub fn check(file: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut found = |index: usize, rule: String| {
        violations.push(Violation {
            file: file.to_owned(),
            line: index + 1,
            rule,
        });
    };
    if !text.starts_with("//!") {
        found(
            0,
            "a file begins with a `//!` line that says what it does".to_owned(),
        );
    }
    let pure = PURE.iter().any(|prefix| file.starts_with(prefix)) && !is_test(file);
    let mut in_tests = is_test(file);
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            found(index, format!("{columns} columns; at most {COLUMNS_MAX}"));
        }
        in_tests |= line.trim_start().starts_with("#[cfg(test)]");
        let code = code_of(line);
        for reserved in &RESERVED {
            // A test may ask the time that it took.
            let excused = in_tests && reserved.word.ends_with("::now");
            if !excused && reserved.applies(file) && says(&code, reserved.word) {
                found(index, reserved.rule.to_owned());
            }
        }
        if pure && !in_tests {
            for path in foreign_paths(&code) {
                found(index, format!("a decision may not name {path}"));
            }
        }
    }
    violations
}

impl Reserved {
    fn applies(&self, file: &str) -> bool {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
        starts(self.within) && !starts(self.but)
    }
}

fn is_test(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/")
}

/// Whether `code` says `word`, not as the end of a longer one.
fn says(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Paths outside of a decision's own world: of `use` lines, and of the system anywhere.
fn foreign_paths(code: &str) -> Vec<String> {
    let line = code.trim_start();
    let statement = line.strip_prefix("pub ").unwrap_or(line);
    let used = statement.strip_prefix("use ").map(|path| (0, path));
    // `std::` is foreign wherever it stands; other crates come in by `use`.
    let systems = code
        .match_indices("std::")
        .filter(|(at, _)| used.is_none() && !code[..*at].ends_with(|c| is_word(c) || c == ':'))
        .map(|(at, _)| (at, &code[at..]));
    used.into_iter()
        .chain(systems)
        .map(|(_, path)| path)
        .filter(|path| !PURE_MAY_USE.iter().any(|allowed| path.starts_with(allowed)))
        // `use crate::admission;` and the like, of the module itself or of one of its own items.
        .filter(|path| !path.starts_with(|c: char| c.is_uppercase()))
        .map(|path| {
            path.split([';', ',', '(', '{', ' ', '>', '<'])
                .next()
                .unwrap_or(path)
        })
        .map(|path| path.trim_end_matches("::").to_owned())
        .collect()
}

/// A line without its comment and without what its string literals say.
fn code_of(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = characters.next() {
        match c {
            '\\' if in_string => drop(characters.next()),
            // A quotation mark as a character literal opens no string.
            '"' if !in_string && code.ends_with('\'') => code.push(c),
            '"' => {
                in_string = !in_string;
                code.push(c);
            }
            _ if in_string => {}
            '/' if characters.peek() == Some(&'/') => break,
            _ => code.push(c),
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(file: &str, lines: &[&str]) -> Vec<(usize, String)> {
        let text = format!("//! What it does.\n{}\n", lines.join("\n"));
        check(file, &text)
            .into_iter()
            .map(|each| (each.line, each.rule))
            .collect()
    }

    #[test]
    fn a_file_says_what_it_does_and_its_lines_are_short() {
        let violations = check("tests/a.rs", "fn main() {}\n");
        let place = violations[0].to_string();
        assert_eq!(
            place,
            "tests/a.rs:1: a file begins with a `//!` line that says what it does"
        );
        let long = "x".repeat(101);
        assert_eq!(
            rules("tests/a.rs", &[&long])[0],
            (2, "101 columns; at most 100".to_owned())
        );
        assert!(rules("tests/a.rs", &[&long[1..]]).is_empty());
    }

    #[test]
    fn a_decision_names_nothing_of_the_system() {
        let file = "dispatcher-user/src/admission/queue.rs";
        let fine = [
            "use core::time::Duration;",
            "use std::collections::VecDeque;",
            "use dispatcher_common::flow::FlowKey;",
            "pub use crate::admission::command::Command;",
            "use super::*;",
            "let map = std::collections::HashMap::new(); // unlike std::fs",
        ];
        assert_eq!(rules(file, &fine), []);
        for (line, path) in [
            ("use std::time::Instant;", "std::time::Instant"),
            ("pub use crate::engine::Clock;", "crate::engine::Clock"),
            ("    use tokio::sync;", "tokio::sync"),
            ("let text = std::fs::read(path);", "std::fs::read"),
        ] {
            assert_eq!(
                rules(file, &[line]),
                [(2, format!("a decision may not name {path}"))]
            );
        }
    }

    #[test]
    fn the_tests_of_a_decision_may_use_what_they_like() {
        let lines = [
            "#[cfg(test)]",
            "mod tests {",
            "    use proptest::prelude::*;",
        ];
        assert_eq!(rules("dispatcher-user/src/admission/queue.rs", &lines), []);
        assert_eq!(
            rules("dispatcher-user/src/admission/tests.rs", &lines[2..]),
            []
        );
    }

    #[test]
    fn one_file_asks_the_time() {
        let line = ["let now = Instant::now();"];
        assert_eq!(rules("dispatcher-user/src/engine/clock.rs", &line), []);
        assert_eq!(rules("tests/netns_a.rs", &line), []);
        assert_eq!(rules("dispatcher-user/src/engine/mod.rs", &line).len(), 1);
    }

    #[test]
    fn aya_and_xsk_rs_have_their_places() {
        let aya = ["use aya::maps::HashMap;"];
        assert_eq!(rules("dispatcher-user/src/datapath/flows.rs", &aya), []);
        assert_eq!(rules("dispatcher-user/src/engine/mod.rs", &aya).len(), 1);
        assert_eq!(
            rules(
                "dispatcher-ebpf/src/main.rs",
                &["use aya_ebpf::macros::xdp;"]
            ),
            []
        );
        let xsk = ["fn open(config: xsk_rs::config::UmemConfig) {}"];
        assert_eq!(rules("dispatcher-user/src/xsk/umem.rs", &xsk), []);
        assert_eq!(rules("tests/harness/lib.rs", &xsk).len(), 1);
    }

    #[test]
    fn lints_are_expected_not_allowed() {
        assert_eq!(rules("tests/a.rs", &["#[allow(dead_code)]"]).len(), 1);
        assert_eq!(rules("tests/a.rs", &["fn disallow(x: u8) {}"]), []);
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let line = "let a = \"aya::\\\"//\"; // aya::";
        assert_eq!(code_of(line), "let a = \"\"; ");
        assert_eq!(code_of("f('\"', x) // y"), "f('\"', x) ");
    }
}
