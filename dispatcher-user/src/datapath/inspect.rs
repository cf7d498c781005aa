//! What of BPF is there before a start, for the pre-flight. Reads only.

use std::io;
use std::path::Path;

use super::{DatapathError, one_line, pins, syscall};

/// What an earlier run has left pinned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pinned {
    /// Nothing that a start would care for.
    #[default]
    Nothing,
    /// A program on these interfaces, by index, with maps that a start takes over.
    Adoptable(Vec<u32>),
    /// A program on these interfaces, with maps that a start refuses; why.
    Incompatible(Vec<u32>, String),
    /// It cannot be told.
    Unreadable(String),
}

impl Pinned {
    /// Indices of the interfaces that a pinned program is attached to.
    #[must_use]
    pub fn interfaces(&self) -> &[u32] {
        match self {
            Self::Adoptable(interfaces) | Self::Incompatible(interfaces, _) => interfaces,
            Self::Nothing | Self::Unreadable(_) => &[],
        }
    }
}

/// Looks at what is pinned below `pin_path`.
#[must_use]
pub fn pinned(pin_path: &Path, flow_capacity: u32) -> Pinned {
    let links = match pins::links(pin_path) {
        Ok(links) => links,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Pinned::Nothing,
        Err(error) => return Pinned::Unreadable(error.to_string()),
    };
    let attached = links
        .iter()
        .filter_map(|link| syscall::link_ifindex(&link.path(pin_path)).ok())
        .collect();
    if links.is_empty() {
        return Pinned::Nothing;
    }
    match pins::compatible(pin_path, flow_capacity) {
        Ok(()) => Pinned::Adoptable(attached),
        Err(DatapathError::FlowCapacity { has, wants, .. }) => Pinned::Incompatible(
            attached,
            format!("they hold {has} flows, and flow_capacity is {wants}"),
        ),
        Err(DatapathError::Incompatible { what, .. }) => Pinned::Incompatible(attached, what),
        Err(error) => Pinned::Incompatible(attached, one_line(&error)),
    }
}

/// Whether this process may use bpf(2) at all.
///
/// # Errors
///
/// `ENOSYS`: the kernel has none. `EPERM`: it is forbidden here, as in a container.
pub fn probe() -> io::Result<()> {
    syscall::probe()
}

/// An XDP link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpLink {
    /// Its id.
    pub id: u32,
    /// Id of its program.
    pub program: u32,
    /// Index of the interface that it is attached to, in whichever network namespace that is.
    pub ifindex: u32,
}

/// The XDP links that there are, in all network namespaces.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn xdp_links() -> io::Result<Vec<XdpLink>> {
    syscall::xdp_links()
}

/// The name of a loaded program; nothing if it cannot be told.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .flatten()
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
}
