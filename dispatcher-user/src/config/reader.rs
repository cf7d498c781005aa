//! Reads a TOML table key by key and notes what is wrong with it: values that do not read, keys
//! that are missing, keys that nobody asked for. What a value may be is said in `scalar`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Diagnostics;
use super::scalar::describe;

/// Similarity (Jaro-Winkler, 0 to 1) from which a word is taken for a slip of another.
const SLIP_SIMILARITY_MIN: f64 = 0.8;

/// One table. A section that the file leaves out reads like an empty one, so defaults apply.
pub(super) struct Table<'a> {
    entries: Option<&'a DeTable<'a>>,
    at: usize,
    /// Who this is about, for messages: `service "web": `.
    scope: String,
    /// Where this is within that: `queue.`.
    path: String,
    known: Vec<&'static str>,
    /// Keys that mean nothing here, and why.
    elsewhere: Vec<(&'static str, String)>,
    diagnostics: &'a Diagnostics<'a>,
}

/// A value and the byte offset where it stands.
#[derive(Clone, Copy)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(super) fn root(table: &'a DeTable<'a>, diagnostics: &'a Diagnostics<'a>) -> Self {
        Self {
            entries: Some(table),
            at: 0,
            scope: String::new(),
            path: String::new(),
            known: Vec::new(),
            elsewhere: Vec::new(),
            diagnostics,
        }
    }

    /// Where the table begins.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Names what the following messages are about.
    pub(super) fn set_scope(&mut self, scope: String) {
        self.scope = scope;
        self.path.clear();
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    pub(super) fn diagnostics(&self) -> &'a Diagnostics<'a> {
        self.diagnostics
    }

    /// Notes that something is wrong with a key: `{key} {predicate}`.
    pub(super) fn note(&self, at: usize, key: &str, predicate: &str) {
        let Self { scope, path, .. } = self;
        self.diagnostics
            .note(at, format!("{scope}{path}{key} {predicate}"));
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.entries?.get(key)
    }

    /// Whether the file has this key.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// A value, if the file has one that reads.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let spanned = self.get(key)?;
        let at = spanned.span().start;
        match read(spanned.get_ref()) {
            Ok(value) => Some(Located { value, at }),
            Err(predicate) => {
                self.note(at, key, &predicate);
                None
            }
        }
    }

    /// A value, or its default where the file has none (or one that does not read: noted).
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> T {
        self.optional(key, read)
            .map_or(default, |located| located.value)
    }

    /// A value that has no default; `what` it must be, if it is missing.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, String>,
    ) -> Option<Located<T>> {
        if !self.has(key) {
            self.note(self.at, key, &format!("is missing; it must be {what}"));
        }
        self.optional(key, read)
    }

    /// A table within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let mut section = Self {
            entries: None,
            at: self.at,
            scope: self.scope.clone(),
            path: format!("{}{key}.", self.path),
            known: Vec::new(),
            elsewhere: Vec::new(),
            diagnostics: self.diagnostics,
        };
        if let Some(found) = self.get(key) {
            section.at = found.span().start;
            match found.get_ref() {
                DeValue::Table(entries) => section.entries = Some(entries),
                other => {
                    let predicate = format!("is {}; it must be a table", describe(other));
                    self.note(section.at, key, &predicate);
                }
            }
        }
        section
    }

    /// The tables of an array of them, such as `[[service]]`; `header` is how it is written.
    /// Nothing if the key holds something else: noted.
    pub(super) fn sections(&mut self, key: &'static str, header: &str) -> Option<Vec<Self>> {
        let Some(found) = self.get(key) else {
            return Some(Vec::new());
        };
        let DeValue::Array(items) = found.get_ref() else {
            let what = describe(found.get_ref());
            let predicate = format!("is {what}; each begins with {header}");
            self.note(found.span().start, key, &predicate);
            return None;
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => tables.push(Self {
                    entries: Some(entries),
                    at: item.span().start,
                    scope: self.scope.clone(),
                    path: String::new(),
                    known: Vec::new(),
                    elsewhere: Vec::new(),
                    diagnostics: self.diagnostics,
                }),
                other => {
                    let predicate = format!("holds {}; each begins with {header}", describe(other));
                    self.note(item.span().start, key, &predicate);
                }
            }
        }
        Some(tables)
    }

    /// Names a key that has its place elsewhere; `why` it means nothing here, should it stand here.
    pub(super) fn elsewhere(&mut self, key: &'static str, why: String) {
        self.elsewhere.push((key, why));
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(mut self) {
        self.known.sort_unstable();
        self.known.dedup();
        let Some(entries) = self.entries else { return };
        for key in entries.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let shown = name.escape_debug().to_string();
            let predicate = match self.elsewhere.iter().find(|(known, _)| *known == name) {
                Some((_, why)) => why.clone(),
                None => format!("is not a key; {}", self.hint(name)),
            };
            self.note(key.span().start, &shown, &predicate);
        }
    }

    fn hint(&self, name: &str) -> String {
        match nearest(name, self.known.iter().copied()) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("the keys here are {}", self.known.join(", ")),
        }
    }
}

/// The known word that this one is taken for a slip of.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let rated = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let (similarity, nearest) = rated.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (similarity >= SLIP_SIMILARITY_MIN).then_some(nearest)
}
