//! The licences of what is linked into the command: most ask that their text goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::command;

use crate::cargo;

/// What files with a licence are called, in the beginning.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Every package that those named link, directly or not, with its licence; then each text once.
pub fn of_dependencies<const N: usize>(roots: [&str; N]) -> Result<String> {
    let host = command::ask(std::process::Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not tell its host")?;
    let mut metadata = cargo::command("metadata");
    metadata.args(["--format-version", "1", "--filter-platform", host]);
    let metadata: Value = serde_json::from_str(&command::ask(&mut metadata)?)?;

    let mut list = String::from("Linked into the command, each under its own licence:\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in linked(&metadata, &roots) {
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        list += &format!("{name}: {}\n", text(&package["license"]));
        let manifest = Path::new(text(&package["manifest_path"]));
        for licence in manifest
            .parent()
            .map(texts_in)
            .transpose()?
            .into_iter()
            .flatten()
        {
            texts.entry(licence).or_default().push(name.clone());
        }
    }
    let mut texts: Vec<_> = texts.into_iter().map(|(text, of)| (of, text)).collect();
    texts.sort();
    for (of, text) in texts {
        list += &format!("\n---- {}\n\n{}\n", of.join(", "), text.trim_end());
    }
    Ok(list)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Packages from elsewhere that are reached from the roots by what is linked, in order of names.
fn linked<'a>(metadata: &'a Value, roots: &[&str]) -> Vec<&'a Value> {
    let list = |value: &'a Value| value.as_array().into_iter().flatten();
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
        .map(|package| (text(&package["id"]), package))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
        .map(|node| (text(&node["id"]), node))
        .collect();
    let is_root = |package: &&&Value| roots.contains(&text(&package["name"]));
    let mut left: Vec<&str> = packages
        .values()
        .filter(is_root)
        .map(|package| text(&package["id"]))
        .collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in nodes
            .get(id)
            .into_iter()
            .flat_map(|node| list(&node["deps"]))
        {
            // Of a kind are those for building and for tests.
            if list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()) {
                left.push(text(&dependency["pkg"]));
            }
        }
    }
    // Ours come by path, without a source.
    let theirs = seen.iter().filter_map(|id| packages.get(id).copied());
    let mut theirs: Vec<_> = theirs
        .filter(|package| !package["source"].is_null())
        .collect();
    theirs.sort_by_key(|package| (text(&package["name"]), text(&package["version"])));
    theirs
}

fn texts_in(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_uppercase();
        if path.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            found.push(String::from_utf8_lossy(&fs::read(&path)?).into_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_builds_or_tests_is_not() {
        let list = of_dependencies(["dispatcher-user", "dispatcher-ebpf"]).unwrap();
        let has = |name: &str| {
            list.lines()
                .any(|line| line.starts_with(&format!("{name} ")))
        };
        for name in ["aya", "aya-ebpf", "tokio", "libxdp-sys", "xsk-rs"] {
            assert!(has(name), "{name} is not listed");
        }
        for name in ["bindgen", "proptest", "dispatcher-common", "plotters"] {
            assert!(!has(name), "{name} is listed");
        }
        assert!(list.contains("Permission is hereby granted"));
    }
}
