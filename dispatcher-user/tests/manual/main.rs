//! What the manual says of keys, commands and metrics is what the code says. `cargo xtask docs`
//! writes it; this test fails where a committed document says something else.

mod alerts;
mod commands;
mod configuration;
mod limits;
mod metrics;

use std::fs;
use std::path::Path;

use dispatcher_user::config::Config;

/// Where the manual is.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
/// Set by `cargo xtask docs`: the documents are rewritten.
const WRITE: &str = "DISPATCHER_DOCS_WRITE";
const END: &str = "<!-- end -->";

/// A document with the block of this name replaced.
fn with_block(document: &str, name: &str, block: &str) -> Option<String> {
    let begin = format!("<!-- begin: cargo xtask docs {name} -->\n");
    let from = document.find(&begin)? + begin.len();
    let to = from + document[from..].find(END)?;
    let (before, after) = (&document[..from], &document[to..]);
    Some(format!("{before}{block}{after}"))
}

#[test]
fn the_manual_says_what_the_code_says() {
    let write = std::env::var_os(WRITE).is_some();
    for (file, name, block) in [
        ("configuration.md", "keys", configuration::reference()),
        ("commands.md", "commands", commands::reference()),
        ("observing.md", "metrics", metrics::reference()),
        ("observing.md", "alerts", alerts::reference()),
        ("limits.md", "limits", limits::reference()),
    ] {
        let path = Path::new(DIRECTORY).join(file);
        let document = fs::read_to_string(&path).unwrap_or_else(|e| panic!("docs/{file}: {e}"));
        let right = with_block(&document, name, &block)
            .unwrap_or_else(|| panic!("docs/{file} has no block {name:?}"));
        if write {
            fs::write(&path, right).unwrap();
        } else {
            assert!(
                document == right,
                "docs/{file} does not say what the code says; run: cargo xtask docs"
            );
        }
    }
}

/// A configuration is whole if it has interfaces and a service; elsewhere only parts are shown.
#[test]
fn whole_configurations_of_the_manual_are_accepted() {
    let mut count = 0;
    for entry in fs::read_dir(DIRECTORY).unwrap() {
        let path = entry.unwrap().path();
        count += accepted_in(&path);
    }
    count += accepted_in(&Path::new(DIRECTORY).join("../README.md"));
    assert!(count >= 2, "{count} configurations");
}

/// Judges those of a document; how many there are.
fn accepted_in(document: &Path) -> usize {
    let Ok(text) = fs::read_to_string(document) else {
        return 0; // A picture.
    };
    let blocks = text.split("```toml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
    let whole = blocks.filter(|toml| toml.contains("[dataplane]") && toml.contains("[[service]]"));
    let judged = whole.map(|toml| Config::parse(document, toml.as_bytes()).unwrap());
    judged.count()
}

#[test]
fn a_block_is_found_by_its_name_and_nothing_else_changes() {
    let document = "a\n<!-- begin: cargo xtask docs x -->\nold\n<!-- end -->\nb\n";
    let new = with_block(document, "x", "new\n").unwrap();
    assert_eq!(new, document.replace("old", "new"));
    assert_eq!(with_block(document, "y", "new\n"), None);
}
