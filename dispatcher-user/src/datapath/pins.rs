//! Pins: where they are, whether an earlier run's can be taken over, and how to remove them.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapInfo};
use dispatcher_common::control::{Control, LAYOUT};
use dispatcher_common::maps::{self, MapSpec};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::{AttachedMode, DatapathError};
use crate::fault::{self, Point};

/// The program's link to one interface, pinned as `native:eth0` or `generic:eth0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LinkPin {
    /// Interface.
    pub(super) interface: String,
    /// How the program is attached to it.
    pub(super) mode: AttachedMode,
}

impl LinkPin {
    fn parse(name: &str) -> Option<Self> {
        let (mode, interface) = name.split_once(':')?;
        let mode = [AttachedMode::Native, AttachedMode::Generic]
            .into_iter()
            .find(|candidate| candidate.label() == mode)?;
        Some(Self {
            interface: interface.replace(':', "."),
            mode,
        })
    }

    pub(super) fn path(&self, pin_path: &Path) -> PathBuf {
        // A bpffs keeps names with dots to itself; no interface has a colon in its name.
        let interface = self.interface.replace('.', ":");
        pin_path.join(format!("{}:{interface}", self.mode.label()))
    }
}

/// What `unload` removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unloaded {
    /// Interfaces that the program was detached from.
    pub interfaces: Vec<String>,
    /// Maps whose pins were removed.
    pub maps: usize,
}

impl std::fmt::Display for Unloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing was loaded");
        }
        match self.interfaces.as_slice() {
            [] => f.write_str("detached from no interface")?,
            interfaces => write!(f, "detached from {}", interfaces.join(", "))?,
        }
        write!(f, ", removed the pins of {} maps", self.maps)
    }
}

/// Detaches the program wherever the pins below `pin_path` hold it, and removes them all. Needs no
/// daemon; one that still runs loses its program, see [`is_in_use`].
///
/// # Errors
///
/// When a pin cannot be removed.
pub fn unload(pin_path: &Path) -> io::Result<Unloaded> {
    let mut unloaded = Unloaded::default();
    let entries = match fs::read_dir(pin_path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(unloaded),
        Err(error) => return Err(error),
    };
    // Links first: a program without its maps' pins still works, maps without a program are idle.
    let mut others = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pin) = LinkPin::parse(&name) {
            fs::remove_file(entry.path())?;
            fault::point(Point::LinkUnpinned);
            unloaded.interfaces.push(pin.interface);
        } else if maps::ALL.iter().any(|spec| spec.name == name) {
            others.push(entry.path());
        }
    }
    unloaded.interfaces.sort();
    for path in others {
        fs::remove_file(path)?;
        fault::point(Point::MapUnpinned);
        unloaded.maps += 1;
    }
    match fs::remove_dir(pin_path) {
        // Something that is not ours lies there too, or it was made for a user who may make none.
        Err(error)
            if error.raw_os_error() == Some(libc::ENOTEMPTY)
                || error.kind() == io::ErrorKind::PermissionDenied => {}
        other => other?,
    }
    Ok(unloaded)
}

/// A daemon's hold of its pins, as long as it lives: a lock of their folder, which the kernel takes
/// back however the daemon ends.
pub(super) struct InUse(#[expect(dead_code, reason = "the lock lasts as long as it")] File);

impl InUse {
    /// Takes hold.
    pub(super) fn begin(pin_path: &Path) -> Result<Self, DatapathError> {
        let wrong = |source: io::Error, hint| DatapathError::PinPath {
            path: pin_path.to_owned(),
            source,
            hint,
        };
        let folder = File::open(pin_path).map_err(|error| wrong(error, ""))?;
        match folder.try_lock() {
            Ok(()) => Ok(Self(folder)),
            Err(TryLockError::WouldBlock) => Err(DatapathError::InUse {
                path: pin_path.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(wrong(error, "")),
        }
    }
}

/// Whether a daemon runs with the pins below `pin_path`.
///
/// # Errors
///
/// When the folder cannot be opened; that it is not there is no error.
pub fn is_in_use(pin_path: &Path) -> io::Result<bool> {
    let folder = match File::open(pin_path) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match folder.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Nobody else may as much as see what is pinned.
const MODE: u32 = 0o700;

/// Makes the folder, for this user alone, and sees that it is on a bpffs and nobody else's: a bpffs
/// that is mounted without options lets everybody make folders.
pub(super) fn prepare(pin_path: &Path) -> Result<(), DatapathError> {
    let wrong = |source: io::Error, hint| DatapathError::PinPath {
        path: pin_path.to_owned(),
        source,
        hint,
    };
    let mut make = DirBuilder::new();
    make.recursive(true).mode(MODE);
    make.create(pin_path).map_err(|error| {
        let hint = if error.raw_os_error() == Some(libc::EPERM) {
            ": is a BPF file system mounted there? (mount -t bpf bpf /sys/fs/bpf)"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            ": run as root"
        } else {
            ""
        };
        wrong(error, hint)
    })?;
    let kind = statfs(pin_path)
        .map_err(|errno| wrong(errno.into(), ""))?
        .filesystem_type();
    if kind != BPF_FS_MAGIC {
        let error = io::Error::other("it is not on a BPF file system");
        let _ = fs::remove_dir(pin_path);
        return Err(wrong(
            error,
            ": mount one with `mount -t bpf bpf /sys/fs/bpf`",
        ));
    }
    let folder = fs::symlink_metadata(pin_path).map_err(|error| wrong(error, ""))?;
    if !folder.is_dir() || folder.uid() != geteuid().as_raw() {
        let error = io::Error::other("it is not this user's own directory");
        return Err(wrong(
            error,
            ": whoever made it could detach the program; remove it, or configure another",
        ));
    }
    fs::set_permissions(pin_path, fs::Permissions::from_mode(MODE))
        .map_err(|error| wrong(error, ""))
}

/// Whether an earlier run's maps are pinned with a program still attached. Maps that nothing is
/// attached to are left-overs of a start that failed, and removed.
pub(super) fn adoptable(pin_path: &Path, flow_capacity: u32) -> Result<bool, DatapathError> {
    let there = |spec: &MapSpec| pin_path.join(spec.name).exists();
    if !maps::ALL.iter().any(there) {
        return Ok(false);
    }
    let pinned = links(pin_path).map_err(|source| DatapathError::PinPath {
        path: pin_path.to_owned(),
        source,
        hint: "",
    })?;
    if pinned.is_empty() {
        for spec in maps::ALL.iter().filter(|spec| there(spec)) {
            let _ = fs::remove_file(pin_path.join(spec.name));
        }
        return Ok(false);
    }
    compatible(pin_path, flow_capacity)?;
    Ok(true)
}

/// Whether the pinned maps are as this version makes them.
pub(super) fn compatible(pin_path: &Path, flow_capacity: u32) -> Result<(), DatapathError> {
    // Before the shapes, which follow from it.
    same_layout(&pin_path.join(maps::CONTROL.name))?;
    for spec in maps::ALL {
        let path = pin_path.join(spec.name);
        if spec.name == maps::FLOWS.name {
            same_capacity(&path, flow_capacity)?;
            let max_entries = maps::flow_entries(flow_capacity);
            same_shape(
                &path,
                &MapSpec {
                    max_entries,
                    ..spec
                },
            )?;
        } else {
            same_shape(&path, &spec)?;
        }
    }
    Ok(())
}

/// In the words of the configuration.
fn same_capacity(path: &Path, flow_capacity: u32) -> Result<(), DatapathError> {
    let has = MapInfo::from_pin(path).map_or(0, |info| info.max_entries());
    if has == 0 || has == maps::flow_entries(flow_capacity) {
        return Ok(());
    }
    Err(DatapathError::FlowCapacity {
        path: path.to_owned(),
        has: has / 2,
        wants: flow_capacity,
    })
}

fn same_shape(path: &Path, spec: &MapSpec) -> Result<(), DatapathError> {
    let differs = |what: String| DatapathError::Incompatible {
        path: path.to_owned(),
        what,
    };
    let info = MapInfo::from_pin(path).map_err(|error| differs(super::one_line(&error)))?;
    let rows = [
        ("bytes a key", info.key_size(), spec.key_size as u32),
        ("bytes a value", info.value_size(), spec.value_size as u32),
        ("elements", info.max_entries(), spec.max_entries),
    ];
    for (what, has, wants) in rows {
        if has != wants {
            return Err(differs(format!("it has {has} {what}, not {wants}")));
        }
    }
    Ok(())
}

fn same_layout(path: &Path) -> Result<(), DatapathError> {
    let differs = |what: String| DatapathError::Incompatible {
        path: path.to_owned(),
        what,
    };
    let map = MapData::from_pin(path).map_err(|error| differs(super::one_line(&error)))?;
    let control: Array<_, Control> =
        Array::try_from(Map::Array(map)).map_err(|error| differs(super::one_line(&error)))?;
    let layout = control
        .get(&0, 0)
        .map_err(|error| differs(super::one_line(&error)))?
        .layout;
    if layout != LAYOUT {
        return Err(differs(format!(
            "its layout is version {layout}, not {LAYOUT}"
        )));
    }
    Ok(())
}

/// The pinned links.
pub(super) fn links(pin_path: &Path) -> io::Result<Vec<LinkPin>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(pin_path)? {
        links.extend(LinkPin::parse(&entry?.file_name().to_string_lossy()));
    }
    links.sort();
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_pin_names_interface_and_mode() {
        let pin = LinkPin {
            interface: "eth0.100".into(),
            mode: AttachedMode::Generic,
        };
        let path = pin.path(Path::new("/pins"));
        assert_eq!(path, Path::new("/pins/generic:eth0:100"));
        assert_eq!(LinkPin::parse("generic:eth0:100"), Some(pin));
        assert_eq!(LinkPin::parse("FLOWS"), None);
    }
}
