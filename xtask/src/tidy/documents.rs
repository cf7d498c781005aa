//! Rules for the documents: they name what there is.

use super::Violation;

/// Where each drop reason has a row.
pub const DROP_REASONS: &str = "docs/observing.md";

/// Drop reasons of `verdict.rs` that have no row in a table of the manual.
pub fn drop_reasons(verdict: &str, manual: &str) -> Vec<Violation> {
    let has_row = |label: &str| {
        let cell = format!("`{label}`");
        manual
            .lines()
            .any(|line| line.trim_start().starts_with('|') && line.contains(&cell))
    };
    labels(verdict)
        .filter(|(_, label)| !has_row(label))
        .map(|(line, label)| Violation {
            file: "dispatcher-common/src/verdict.rs".to_owned(),
            line,
            rule: format!("drop reason `{label}` has no row in {DROP_REASONS}"),
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

/// Links of a document to files or headings that are not there. `read` gives the text of a file;
/// paths are from the root.
pub fn links(file: &str, text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, number) in prose(text) {
        for target in targets(line) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match path {
                "" => file.to_owned(),
                _ => below(file, path),
            };
            let found = read(&path);
            let there = match &found {
                None => false,
                Some(_) if heading.is_empty() => true,
                Some(text) => headings(text).any(|known| known == heading),
            };
            if !there {
                violations.push(Violation {
                    file: file.to_owned(),
                    line: number,
                    rule: format!("links to `{target}`, which is not there"),
                });
            }
        }
    }
    violations
}

/// Pages of the manual that its index does not link to.
pub fn index<'p>(index: &str, pages: impl Iterator<Item = &'p str>) -> Vec<Violation> {
    let linked: Vec<_> = index.lines().flat_map(targets).collect();
    let missing = pages.filter(|page| *page != "README.md" && !linked.contains(page));
    let violation = |page| Violation {
        file: "docs/README.md".to_owned(),
        line: 1,
        rule: format!("the index does not link to `{page}`"),
    };
    missing.map(violation).collect()
}

/// Lines that are in no fenced block, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut fenced = false;
    text.lines().zip(1..).filter(move |(line, _)| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What a line links to, but for other sites.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let rests = line.split("](").skip(1);
    let targets = rests.filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://"))
}

/// A path beside a file, from the root.
fn below(file: &str, path: &str) -> String {
    let mut parts: Vec<_> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The headings of a document as links name them: small letters, hyphens for spaces, no marks.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = prose(text).filter_map(|(line, _)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.trim().to_lowercase())
    });
    titles.map(|title| {
        let kept = title.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then_some(c),
        });
        kept.collect()
    })
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
            "dispatcher-common/src/verdict.rs:8: drop reason `fragment` has no row in \
             docs/observing.md"
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

    #[test]
    fn links_lead_to_files_and_headings() {
        let read = |path: &str| match path {
            "docs/a.md" => Some("# A\n## `b/c`, and D\n".to_owned()),
            "README.md" => Some("```\n# no heading\n```\n".to_owned()),
            _ => None,
        };
        let right = "[x](a.md) [x](../README.md) [x](#e) [x](a.md#bc-and-d) [x](https://x)\n";
        let text = format!("# E\n{right}```\n[x](gone)\n```\n");
        let own = |path: &str| {
            if path == "docs/z.md" {
                Some(text.clone())
            } else {
                read(path)
            }
        };
        assert_eq!(links("docs/z.md", &text, own), []);
        let wrong = "[x](b.md) [x](a.md#e) [x](../README.md#no-heading)";
        let violations = links("docs/z.md", wrong, read);
        assert_eq!(violations.len(), 3);
        assert_eq!(
            violations[0].to_string(),
            "docs/z.md:1: links to `b.md`, which is not there"
        );
    }

    #[test]
    fn the_index_links_to_every_page() {
        let violations = index("[a](a.md)", ["README.md", "a.md", "b.md"].into_iter());
        assert_eq!(violations.len(), 1);
        assert!(violations[0].rule.contains("`b.md`"));
    }
}
