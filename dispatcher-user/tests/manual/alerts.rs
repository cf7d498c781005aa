//! The table of alerts.

/// The rules that the package holds.
const RULES: &str = include_str!("../../../packaging/prometheus/alerts.yml");

/// A row for each: its name, how long it holds before it alerts, and its severity.
pub fn reference() -> String {
    let mut text = "| alert | severity | after | means |\n| --- | --- | --- | --- |\n".to_owned();
    for rule in RULES.split("- alert: ").skip(1) {
        let value = |key: &str| {
            let lines = rule.lines().map(str::trim);
            let mut values = lines.filter_map(|line| line.strip_prefix(key));
            values.next().unwrap_or_else(|| panic!("{key} in {rule}"))
        };
        let name = rule.lines().next().expect("an alert has a name");
        let severity = value("labels: { severity: ").trim_end_matches(" }");
        let summary = filled(value("summary: ").trim_matches('"'));
        let after = value("for: ");
        text.push_str(&format!(
            "| `{name}` | {severity} | {after} | {summary} |\n"
        ));
    }
    text
}

/// A template with what it will show: a label's name, and `N` for the value.
fn filled(template: &str) -> String {
    let mut parts = template.split("{{ ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (what, rest) = part.split_once(" }}").expect("a template ends");
        match what.strip_prefix("$labels.") {
            Some(label) => text.push_str(&format!("`{label}`")),
            None => text.push('N'),
        }
        text.push_str(rest);
    }
    text
}
