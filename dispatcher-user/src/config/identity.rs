//! Names and addresses, as services and back-ends have them: no two the same.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;

use super::reader::{Located, Table};
use super::scalar::{address, name};

const ADDRESS_WHAT: &str = r#"an address and port, such as "192.0.2.10:80""#;

/// The names and addresses of one kind of thing, and where each was first seen.
pub(super) struct Identities {
    kind: &'static str,
    names: HashMap<String, usize>,
    addresses: HashMap<SocketAddr, usize>,
}

impl Identities {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            names: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    pub(super) const fn addresses(&self) -> &HashMap<SocketAddr, usize> {
        &self.addresses
    }

    /// Reads `name` and `address` of the thing with this index, and gives messages its name. The
    /// name's default is made of the address.
    pub(super) fn read(
        &mut self,
        table: &mut Table<'_>,
        index: usize,
    ) -> (Option<String>, Option<Located<SocketAddr>>) {
        let Self { kind, .. } = self;
        let outer = table.scope().to_owned();
        table.set_scope(format!("{outer}{kind} {}: ", index + 1));
        let given = table.optional("name", name);
        if let Some(name) = given {
            table.set_scope(format!("{outer}{kind} {:?}: ", name.value));
        }
        let address = table.required("address", ADDRESS_WHAT, address);
        let address_is_new = address.is_none_or(|address| {
            refuse_twice(table, &mut self.addresses, "address", address, kind)
        });

        let name = given.map(|Located { value, at }| Located {
            value: value.to_owned(),
            at,
        });
        let name = name.or(address.map(|Located { value, at }| Located {
            value: default_name(value),
            at,
        }));
        // The default is as the address: to tell the same twice helps nobody.
        if let Some(name) = name.clone()
            && (given.is_some() || address_is_new)
        {
            refuse_twice(table, &mut self.names, "name", name, kind);
        }
        (name.map(|name| name.value), address)
    }
}

/// The address with `-` for every `:`, and no brackets: `192.0.2.10-80`.
fn default_name(address: SocketAddr) -> String {
    format!("{}-{}", address.ip(), address.port()).replace(':', "-")
}

/// Whether the value is the first of its kind; notes it if not.
fn refuse_twice<T: Eq + Hash + ToString>(
    table: &Table<'_>,
    seen: &mut HashMap<T, usize>,
    key: &str,
    located: Located<T>,
    kind: &str,
) -> bool {
    let Located { value, at } = located;
    let shown = value.to_string();
    let first = *seen.entry(value).or_insert(at);
    if first != at {
        let line = table.diagnostics().line(first);
        let predicate = format!("is {shown}, as that of another {kind} (line {line})");
        table.note(at, key, &predicate);
    }
    first == at
}
