//! The table of every policy on every scenario, and its place in the manual.

use core::fmt::Write as _;

use anyhow::{Context, Result};

use crate::judge::Report;

/// Before the table, in the manual.
pub const BEGIN: &str = "<!-- begin: cargo xtask simulate --docs -->";
/// After it.
pub const END: &str = "<!-- end -->";

/// Columns of the policies, in their order.
const POLICIES: [&str; 4] = ["queue-depth", "response-time", "throughput", "gradient"];

/// The table, in Markdown.
#[must_use]
pub fn markdown(reports: &[Report]) -> String {
    let mut table = String::from("| scenario | best fixed | ceiling 255 |");
    for policy in POLICIES {
        let _ = write!(table, " {policy} |");
    }
    table.push_str("\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for report in reports {
        for row in &report.rows {
            let name = [report.scenario.name, row.stretch.name].join(" ");
            let _ = write!(
                table,
                "| {} | {:.0}/s at {} | {} |",
                name.trim_end(),
                row.best_served,
                row.best,
                percent(row.unlimited / row.best_served),
            );
            for verdict in &row.verdicts {
                let settled = verdict
                    .settled
                    .map_or_else(|| "never".to_owned(), |windows| windows.to_string());
                let share = percent(verdict.share);
                let _ = write!(table, " {share}, {settled}, {} |", verdict.ceiling);
            }
            table.push('\n');
        }
    }
    table
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// What stands between the markers in a document.
///
/// # Errors
///
/// When a marker is not there.
pub fn committed(document: &str) -> Result<&str> {
    let (_, rest) = document.split_once(BEGIN).with_context(|| no(BEGIN))?;
    let (table, _) = rest.split_once(END).with_context(|| no(END))?;
    Ok(table.trim())
}

fn no(marker: &str) -> String {
    format!("the document has no line `{marker}`")
}

/// The document with another table.
///
/// # Errors
///
/// When a marker is not there.
pub fn replaced(document: &str, table: &str) -> Result<String> {
    let (before, rest) = document.split_once(BEGIN).with_context(|| no(BEGIN))?;
    let (_, after) = rest.split_once(END).with_context(|| no(END))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// The shares of a table by row and column, in percent; rows by their name.
#[must_use]
pub fn shares(table: &str) -> Vec<(String, Vec<f64>)> {
    let rows = table.lines().skip(2);
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let name = cells.next().unwrap_or_default().to_owned();
        let shares = cells.skip(2).filter_map(|cell| {
            let (share, _) = cell.split_once(" %")?;
            share.parse().ok()
        });
        (name, shares.collect())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_and_replaced() {
        let document = format!("# A\n{BEGIN}\nold\n{END}\nmore\n");
        assert_eq!(committed(&document).unwrap(), "old");
        let document = replaced(&document, "new\n").unwrap();
        assert_eq!(document, format!("# A\n{BEGIN}\nnew\n{END}\nmore\n"));
        assert!(committed("# A\n").is_err());
    }

    #[test]
    fn shares_are_read_back() {
        let table =
            "| a | b |\n| - | - |\n| x y | 219/s at 16 | 13 % | 99 %, 4, 13 | 98 %, 5, 9 |\n";
        assert_eq!(shares(table), [("x y".to_owned(), vec![99.0, 98.0])]);
    }
}
