//! The invariants of the architecture that can be read off the source, one line at a time. Does
//! not parse Rust: clippy and the compiler do.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xtask::bpf;

mod documents;
mod source;

/// A place that breaks a rule.
#[derive(PartialEq, Eq, Debug)]
struct Violation {
    /// Path from the root of the workspace.
    file: String,
    /// Counted from 1.
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// Directories that hold our source.
const ROOTS: [&str; 5] = [
    "dispatcher-common",
    "dispatcher-ebpf",
    "dispatcher-user",
    "tests",
    "xtask",
];

pub fn run() -> Result<()> {
    let violations = check(bpf::workspace())?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    ensure!(
        violations.is_empty(),
        "tidy: {} violations",
        violations.len()
    );
    println!("tidy: the source keeps the architecture's invariants");
    Ok(())
}

fn check(workspace: &Path) -> Result<Vec<Violation>> {
    let read = |name: &str| {
        fs::read_to_string(workspace.join(name)).with_context(|| format!("cannot read {name}"))
    };
    let mut violations = Vec::new();
    for file in source_files(workspace)? {
        violations.extend(source::check(&file, &read(&file)?));
    }
    let verdict = read("dispatcher-common/src/verdict.rs")?;
    // A document that is not there has none of the rows that it must have.
    violations.extend(documents::drop_reasons(
        &verdict,
        &read(documents::DROP_REASONS).unwrap_or_default(),
    ));
    violations.extend(documents(workspace, &read)?);
    let exists = |path: &str| workspace.join(path).exists();
    let architecture = read("ARCHITECTURE.md").unwrap_or_default();
    violations.extend(documents::code_map(&architecture, exists));
    Ok(violations)
}

/// Rules for all documents that people read.
fn documents(workspace: &Path, read: &impl Fn(&str) -> Result<String>) -> Result<Vec<Violation>> {
    let mut pages = Vec::new();
    for entry in workspace
        .join("docs")
        .read_dir()
        .context("cannot list docs")?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(name);
        }
    }
    pages.sort_unstable();
    let index = read("docs/README.md").unwrap_or_default();
    let mut violations = documents::index(&index, pages.iter().map(String::as_str));
    // A directory or a picture is there, and has no headings.
    let target = |path: &str| {
        let there = workspace.join(path).exists();
        there.then(|| read(path).unwrap_or_default())
    };
    let of_the_root = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ];
    let of_the_root = of_the_root.map(str::to_owned);
    let pages = pages.into_iter().map(|page| format!("docs/{page}"));
    for file in of_the_root.into_iter().chain(pages) {
        let text = read(&file).unwrap_or_default();
        violations.extend(documents::links(&file, &text, target));
    }
    Ok(violations)
}

/// Rust files by path from the root, sorted.
fn source_files(workspace: &Path) -> Result<Vec<String>> {
    let mut directories: Vec<PathBuf> = ROOTS.map(PathBuf::from).into();
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        let entries = workspace.join(&directory).read_dir();
        for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && entry.file_name() != "target" {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|end| end == "rs") {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_keeps_the_invariants() {
        let violations = check(bpf::workspace()).unwrap();
        let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }
}
