//! Rules for the documents: they name what there is.

use super::Violation;

/// Drop reasons of `verdict.rs` that have no row in a table of the README.
pub fn drop_reasons(verdict: &str, readme: &str) -> Vec<Violation> {
    let has_row = |label: &str| {
        let cell = format!("`{label}`");
        readme
            .lines()
            .any(|line| line.trim_start().starts_with('|') && line.contains(&cell))
    };
    labels(verdict)
        .filter(|(_, label)| !has_row(label))
        .map(|(line, label)| Violation {
            file: "dispatcher-common/src/verdict.rs".to_owned(),
            line,
            rule: format!("drop reason `{label}` has no row in README.md"),
        })
        .collect()
}

/// Line numbers and labels of `DropReason`'s rows: `NoFlow = 0, "no_flow";`.
fn labels(verdict: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = verdict
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()));
    numbered
        .skip_while(|(_, line)| !line.starts_with("DropReason {"))
        .take_while(|(_, line)| *line != "}")
        .filter(|(_, line)| !line.starts_with("//"))
        .filter_map(|(number, line)| Some((number, line.split('"').nth(1)?)))
}

/// Files that ARCHITECTURE.md's code map names and that are not there.
///
/// The map is the section whose heading says "code map". In it, a word in backquotes that ends in
/// `/` or `.rs` is a path: from the root, or from the directory that the last heading or the last
/// bold word in backquotes named.
pub fn code_map(architecture: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violation = |line: usize, rule: String| {
        violations.push(Violation {
            file: "ARCHITECTURE.md".to_owned(),
            line,
            rule,
        });
    };
    let mut depth = None;
    let mut directory = String::new();
    let mut seen = false;
    for (index, line) in architecture.lines().enumerate() {
        let heading = line.chars().take_while(|c| *c == '#').count();
        if heading > 0 {
            if depth.is_none_or(|depth| heading <= depth) {
                depth = line.to_lowercase().contains("code map").then_some(heading);
            }
            directory.clear();
        }
        if depth.is_none() {
            continue;
        }
        seen = true;
        for path in paths(line) {
            let below = format!("{directory}{path}");
            if !exists(path) && !exists(&below) {
                violation(
                    index + 1,
                    format!("the code map names `{path}`, which is not there"),
                );
            } else if path.ends_with('/') && (heading > 0 || line.contains(&format!("**`{path}`")))
            {
                directory = if exists(path) { path.to_owned() } else { below };
            }
        }
    }
    if !seen {
        violation(1, "there is no section \"Code map\"".to_owned());
    }
    violations
}

/// Words in backquotes that are paths.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        let path = word.ends_with('/') || word.ends_with(".rs");
        path && !word.contains([' ', '*', '{', '<', ':'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERDICT: &str = r#"
counters! {
    /// Why a frame was dropped.
    DropReason {
        /// Of no "known" flow.
        NoFlow = 0, "no_flow";
        /// A fragment.
        Fragment = 1, "fragment";
    }
}
counters! {
    Handled {
        Passed = 0, "passed";
    }
}
"#;

    #[test]
    fn every_drop_reason_has_a_row() {
        let readme = "| reason |\n| `no_flow` | ... |\nProse about `fragment`.\n";
        let violations = drop_reasons(VERDICT, readme);
        assert_eq!(violations.len(), 1);
        assert_eq!(
            violations[0].to_string(),
            "dispatcher-common/src/verdict.rs:8: drop reason `fragment` has no row in README.md"
        );
    }

    #[test]
    fn the_code_map_names_what_there_is() {
        let text = "# Architecture\nSee `gone.rs`.\n## Code map\n### `a/src/`\n- `b.rs`, \
                    `c.rs`\n- `a/src/b.rs` and `x::y`\n## After\n`gone.rs`\n";
        let there = |path: &str| ["a/src/", "a/src/b.rs"].contains(&path);
        let violations = code_map(text, there);
        let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            ["ARCHITECTURE.md:5: the code map names `c.rs`, which is not there"]
        );
    }

    #[test]
    fn a_missing_code_map_is_told() {
        assert_eq!(code_map("# Architecture\n", |_| true).len(), 1);
    }
}
