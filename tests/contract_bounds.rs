//! The table of bounds in ARCHITECTURE.md stays true: each bound is told by something that there
//! is, or by nothing for a reason, and is reached by tests that there are.

use std::fs;
use std::path::{Path, PathBuf};

use dispatcher_common::maps::EVENTS_BYTES;
use dispatcher_common::notice::Problem;
use dispatcher_common::proof;
use dispatcher_common::verdict::{DropReason, Handled};
use dispatcher_user::config::{
    BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, GROUPS_MAX, GROUPS_PER_SERVICE_MAX, INTERFACES_MAX,
    QUEUE_CAPACITY_MAX, SERVICES_MAX,
};
use dispatcher_user::history::SAMPLES_MAX;
use dispatcher_user::telemetry::METRICS;

const DOCUMENT: &str = "ARCHITECTURE.md";
const HEADER: &str = "| what | bound | there | told by | reached by |";
/// How a cell begins that says why nothing tells of a bound.
const NOTHING: &str = "nothing: ";

/// One bound.
struct Row {
    what: String,
    bound: String,
    there: String,
    told_by: String,
    reached_by: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join(DOCUMENT)).unwrap();
    let table = text.lines().skip_while(|line| *line != HEADER).skip(2);
    let table = table.take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = table
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            let cells: Vec<_> = cells.map(|cell| cell.trim().to_owned()).collect();
            let [what, bound, there, told_by, reached_by] =
                <[String; 5]>::try_from(cells).unwrap_or_else(|_| panic!("five cells: {line}"));
            Row {
                what,
                bound,
                there,
                told_by,
                reached_by,
            }
        })
        .collect();
    assert!(rows.len() > 40, "{} rows under {HEADER:?}", rows.len());
    rows
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Rust files of the workspace: path from its root, and text.
fn sources() -> Vec<(String, String)> {
    let mut directories: Vec<_> = [
        "dispatcher-common",
        "dispatcher-ebpf",
        "dispatcher-user",
        "tests",
        "xtask",
    ]
    .map(|name| root().join(name))
    .into();
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy();
                found.push((name.into_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// Whether a text has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let defines = |line: &&str| {
        let line = line.trim_start_matches("async ");
        line.strip_prefix("fn ").is_some_and(|rest| {
            rest.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('('))
        })
    };
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at].iter().rev();
        let mut attributes = attributes.take_while(|line| line.starts_with("#["));
        defines(line)
            && attributes
                .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// What is wrong with the name of a test, `file::function`; enough of the file's path to know it.
fn fault(sources: &[(String, String)], test: &str) -> Option<String> {
    let Some((file, function)) = test.split_once("::") else {
        return Some(format!("{test} is no file and function"));
    };
    let of_file = |path: &str| path == file || path.ends_with(&format!("/{file}"));
    let files: Vec<_> = sources.iter().filter(|(path, _)| of_file(path)).collect();
    match files[..] {
        [] => Some(format!("there is no {file}")),
        [(_, text)] if has_test(text, function) => None,
        [(path, _)] => Some(format!("{path} has no test {function}")),
        _ => Some(format!("{file} may be any of {} files", files.len())),
    }
}

#[test]
fn each_bound_is_reached_by_tests_that_there_are() {
    let sources = sources();
    let mut faults = Vec::new();
    for row in rows() {
        let tests = quoted(&row.reached_by);
        if tests.is_empty() {
            faults.push(format!("{}: no test", row.what));
        }
        let wrong = tests.iter().filter_map(|test| fault(&sources, test));
        faults.extend(wrong.map(|wrong| format!("{}: {wrong}", row.what)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_bound_says_what_happens_there_and_is_told_or_need_not_be() {
    let metrics = METRICS.iter().map(|metric| metric.name);
    let reasons = DropReason::ALL.iter().map(|reason| reason.label());
    let handled = Handled::ALL.iter().map(|handled| handled.label());
    let known: Vec<_> = metrics.chain(reasons).chain(handled).collect();
    let mut faults = Vec::new();
    for row in rows() {
        let told = quoted(&row.told_by);
        let is_reasoned = row
            .told_by
            .strip_prefix(NOTHING)
            .is_some_and(|why| why.len() > 10);
        if is_reasoned != told.is_empty() {
            faults.push(format!("{}: told by {:?}", row.what, row.told_by));
        }
        let unknown = told.iter().filter(|name| !known.contains(name));
        faults.extend(unknown.map(|name| format!("{}: nothing is called {name}", row.what)));
        if row.there.is_empty() {
            faults.push(format!("{}: what happens?", row.what));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A number as the table writes it.
fn spaced(number: usize) -> String {
    let digits = number.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(|three| str::from_utf8(three).unwrap()).collect();
    groups.join(" ")
}

#[test]
fn the_bounds_that_code_shares_are_those_of_the_code() {
    let rows = rows();
    // A ring's record has a header of 8 bytes.
    let events = EVENTS_BYTES as usize / (16 + 8);
    for (what, numbers) in [
        (
            "waiting requests of a service",
            vec![QUEUE_CAPACITY_MAX as usize],
        ),
        ("events", vec![events]),
        (
            "requests remembered by the program",
            vec![proof::BUCKETS as usize, proof::MARKS],
        ),
        (
            "services, back-ends",
            vec![SERVICES_MAX, BACKENDS_PER_SERVICE_MAX, BACKENDS_MAX],
        ),
        (
            "groups; groups among the back-ends of a service",
            vec![GROUPS_MAX, GROUPS_PER_SERVICE_MAX],
        ),
        ("interfaces", vec![INTERFACES_MAX]),
        ("samples of the history", vec![SAMPLES_MAX]),
        (
            "ICMP errors that tell of segments",
            [Problem::TtlExpired, Problem::TooBig]
                .map(|problem| problem.a_second_max() as usize)
                .into(),
        ),
    ] {
        let row = rows.iter().find(|row| row.what == what);
        let row = row.unwrap_or_else(|| panic!("no row {what:?}"));
        for number in numbers {
            let number = spaced(number);
            assert!(
                row.bound.contains(&number),
                "{what}: {number} in {:?}",
                row.bound
            );
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    let text = "#[test]\nfn one_is_here() {}\n\nfn helper() {}\n";
    let sources =
        ["a/stories.rs", "b/more.rs", "c/more.rs"].map(|path| (path.to_owned(), text.to_owned()));
    assert_eq!(fault(&sources, "stories.rs::one_is_here"), None);
    assert_eq!(fault(&sources, "b/more.rs::one_is_here"), None);
    for wrong in [
        "stories.rs::helper",
        "stories.rs::one_is",
        "ories.rs::one_is_here",
        "more.rs::one_is_here",
        "one_is_here",
    ] {
        assert!(fault(&sources, wrong).is_some(), "{wrong}");
    }
}
