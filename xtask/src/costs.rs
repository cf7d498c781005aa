//! What a packet and a decision cost as far as it can be counted, and not only timed: the counts
//! that were agreed are in `tests/costs.toml`, and one that has moved is an error until that file
//! says the new one, and why.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use toml::{Table, Value};

use crate::bpf;

/// The agreed counts, from the root of the workspace.
pub const FILE: &str = "tests/costs.toml";

/// Elsewhere than where the agreed counts are of, a count may be half as much again.
const ELSEWHERE_PERCENT: u64 = 50;

/// Compares what was counted, by name, with a table of [`FILE`]. `of` is what the counts depend on
/// besides the source, as `Linux 6.18`: where the table is of the same, each count lies within its
/// margin, and elsewhere none is much greater.
///
/// # Errors
///
/// When a count has moved, is not in the table, or is there and was not counted; and when the table
/// is not as it should be. All counts are in the error.
pub fn check(table: &str, of: &str, counted: &[(&str, u64)]) -> Result<()> {
    let path = bpf::workspace().join(FILE);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    compare(&text, table, of, counted)
        .with_context(|| format!("costs of {table}; the agreed ones are in {FILE}"))
}

fn compare(text: &str, table: &str, of: &str, counted: &[(&str, u64)]) -> Result<()> {
    let file: Table = text.parse().context("no TOML")?;
    let table = file.get(table).and_then(Value::as_table);
    let agreed = Agreed::read(table.context("no such table")?)?;
    let wrong = agreed.wrong(of, counted);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

struct Agreed {
    of: String,
    costs: Vec<Cost>,
}

struct Cost {
    name: String,
    count: u64,
    margin_percent: u64,
}

impl Agreed {
    fn read(table: &Table) -> Result<Self> {
        let of = table.get("of").and_then(Value::as_str);
        let costs = table.iter().filter(|(name, _)| *name != "of");
        Ok(Self {
            of: of.context("no `of`: what the counts depend on")?.to_owned(),
            costs: costs
                .map(|(name, value)| Cost::read(name, value).with_context(|| name.clone()))
                .collect::<Result<_>>()?,
        })
    }

    fn wrong(&self, of: &str, counted: &[(&str, u64)]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, count) in counted {
            match self.costs.iter().find(|cost| cost.name == *name) {
                Some(cost) => wrong.extend(cost.wrong(*count, (self.of != of).then_some(of))),
                None => wrong.push(format!("{name} is {count}, and not in the file")),
            }
        }
        for cost in &self.costs {
            if counted.iter().all(|(name, _)| cost.name != *name) {
                wrong.push(format!("{} was not counted", cost.name));
            }
        }
        wrong
    }
}

impl Cost {
    fn read(name: &str, value: &Value) -> Result<Self> {
        let number = |key: &str| {
            let number = value.get(key).and_then(Value::as_integer);
            let number = number.and_then(|number| u64::try_from(number).ok());
            number.with_context(|| format!("no number `{key}`"))
        };
        let reason = value.get("reason").and_then(Value::as_str);
        ensure!(
            reason.is_some_and(|reason| !reason.trim().is_empty()),
            "no `reason`: why it is as much"
        );
        Ok(Self {
            name: name.to_owned(),
            count: number("count")?,
            margin_percent: number("margin_percent")?,
        })
    }

    /// What is wrong with a count, if it is; `elsewhere` names where it was counted if that is not
    /// where the agreed one is of.
    fn wrong(&self, count: u64, elsewhere: Option<&str>) -> Option<String> {
        let margin_percent = if elsewhere.is_some() {
            ELSEWHERE_PERCENT
        } else {
            self.margin_percent
        };
        let margin = self.count * margin_percent / 100;
        let (least, most) = (self.count - margin.min(self.count), self.count + margin);
        if count <= most && (count >= least || elsewhere.is_some()) {
            return None;
        }
        let Self {
            name,
            count: agreed,
            ..
        } = self;
        let mut wrong = format!("{name} is {count}, agreed are {agreed} within {margin_percent} %");
        if let Some(elsewhere) = elsewhere {
            let _ = write!(wrong, ", as this is {elsewhere}");
        }
        Some(wrong + ": if it is meant to be so, say the new count and the reason there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        [program]
        of = 'Linux 6.18'
        [program.instructions]
        count = 1000
        margin_percent = 2
        reason = 'it parses and rewrites'
    ";

    fn compared(of: &str, counted: &[(&str, u64)]) -> Result<()> {
        compare(TEXT, "program", of, counted)
    }

    #[test]
    fn a_count_may_move_within_its_margin_and_no_farther_either_way() {
        for (count, agreed) in [(979, false), (980, true), (1020, true), (1021, false)] {
            let compared = compared("Linux 6.18", &[("instructions", count)]);
            assert_eq!(compared.is_ok(), agreed, "{count}: {compared:?}");
        }
    }

    #[test]
    fn elsewhere_a_count_is_only_not_much_greater() {
        for (count, agreed) in [(1, true), (1500, true), (1501, false)] {
            let compared = compared("Linux 6.1", &[("instructions", count)]);
            assert_eq!(compared.is_ok(), agreed, "{count}: {compared:?}");
        }
    }

    #[test]
    fn counts_and_table_have_the_same_names() {
        let unknown = compared("Linux 6.18", &[("instructions", 1000), ("bytes", 8000)]);
        assert!(format!("{:#}", unknown.unwrap_err()).contains("bytes is 8000"));
        let missing = compared("Linux 6.18", &[]);
        assert!(format!("{:#}", missing.unwrap_err()).contains("instructions was not counted"));
    }

    #[test]
    fn a_count_without_a_reason_is_refused() {
        let text = TEXT.replace("it parses and rewrites", " ");
        let compared = compare(&text, "program", "Linux 6.18", &[("instructions", 1000)]);
        assert!(format!("{:#}", compared.unwrap_err()).contains("instructions: no `reason`"));
    }
}
