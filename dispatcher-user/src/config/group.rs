//! `[[group]]`: a ceiling that back-ends share besides their own, and which back-ends do.

use std::collections::BTreeSet;

use toml::de::DeValue;

use super::diagnostics::Diagnostics;
use super::reader::{Located, Table, nearest};
use super::scalar::{describe, integer, name, text};
use super::{CAPACITY_MAX, GROUPS_MAX, GROUPS_PER_SERVICE_MAX, Group};

const NAME_WHAT: &str = r#"the name that back-ends give as their group, such as "db""#;

/// The groups of the file, while their back-ends are read.
pub(super) struct Groups {
    entries: Vec<Entry>,
    /// Whether it is not certain which back-ends belong to which group.
    doubtful: bool,
}

/// What was found right of a group.
struct Entry {
    name: Option<Located<String>>,
    ceiling: Option<u32>,
    used: bool,
}

impl Groups {
    pub(super) fn read(root: &mut Table<'_>) -> Self {
        let tables = root.sections("group", "[[group]]");
        let mut groups = Self {
            entries: Vec::new(),
            doubtful: tables.is_none(),
        };
        let tables = tables.unwrap_or_default();
        if let Some(surplus) = tables.get(GROUPS_MAX) {
            let message = format!("{} groups; there may be {GROUPS_MAX}", tables.len());
            root.diagnostics().note(surplus.at(), message);
            groups.doubtful = true;
        }
        for table in tables {
            groups.add(table);
        }
        groups
    }

    fn add(&mut self, mut table: Table<'_>) {
        table.set_scope(format!("group {}: ", self.entries.len() + 1));
        let given = table.required("name", NAME_WHAT, name);
        if let Some(Located { value, at }) = given {
            table.set_scope(format!("group {value:?}: "));
            let first = self.names().find(|first| first.value == value);
            if let Some(first_at) = first.map(|first| first.at) {
                let line = table.diagnostics().line(first_at);
                let predicate = format!("is {value}, as that of another group (line {line})");
                table.note(at, "name", &predicate);
                self.doubtful = true;
            }
        }
        let what = format!("1 to {CAPACITY_MAX} connections");
        let ceiling = table.required("ceiling", &what, integer(1..=CAPACITY_MAX, ""));
        table.finish();
        self.entries.push(Entry {
            name: given.map(|Located { value, at }| Located {
                value: value.to_owned(),
                at,
            }),
            ceiling: ceiling.map(|located| located.value),
            used: false,
        });
    }

    fn names(&self) -> impl Iterator<Item = &Located<String>> {
        self.entries.iter().filter_map(|entry| entry.name.as_ref())
    }

    /// Reads a back-end's `group`: its place among all. `service` holds the groups that the
    /// back-ends of its service have so far.
    pub(super) fn of_backend(
        &mut self,
        table: &mut Table<'_>,
        service: &mut BTreeSet<usize>,
    ) -> Option<usize> {
        if !table.has("group") {
            return None;
        }
        let Some(group) = table.optional("group", |value| self.find(value)) else {
            self.doubtful = true;
            return None;
        };
        self.entries[group.value].used = true;
        if service.insert(group.value) && service.len() > GROUPS_PER_SERVICE_MAX {
            let count = service.len();
            let predicate = format!(
                "is group {count} of this service; its back-ends may have \
                 {GROUPS_PER_SERVICE_MAX} different ones"
            );
            table.note(group.at, "group", &predicate);
        }
        Some(group.value)
    }

    fn find(&self, value: &DeValue<'_>) -> Result<usize, String> {
        let word = text(value)?;
        let is_it = |entry: &Entry| entry.name.as_ref().is_some_and(|name| name.value == word);
        if let Some(place) = self.entries.iter().position(is_it) {
            return Ok(place);
        }
        let hint = match nearest(word, self.names().map(|name| name.value.as_str())) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => "each begins with [[group]]".to_owned(),
        };
        Err(format!(
            "is {}, which no group is named; {hint}",
            describe(value)
        ))
    }

    /// All groups; nothing only if a problem was noted. A group that bounds nothing is refused,
    /// unless what is wrong elsewhere may be the cause.
    pub(super) fn finish(
        self,
        all_backends_read: bool,
        diagnostics: &Diagnostics<'_>,
    ) -> Option<Vec<Group>> {
        let certain = all_backends_read && !self.doubtful;
        let checked = self.entries.into_iter().map(|entry| {
            let Located { value: name, at } = entry.name?;
            if certain && !entry.used {
                let message = format!(
                    "group {name:?}: bounds nothing; a [[service.backend]] must have it as its \
                     group"
                );
                diagnostics.note(at, message);
            }
            Some(Group {
                name,
                ceiling: entry.ceiling?,
            })
        });
        // Every one is looked at before the first that is nothing ends it.
        checked.collect::<Vec<_>>().into_iter().collect()
    }
}
