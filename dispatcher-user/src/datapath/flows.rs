//! The flow table from user space: both entries of a flow or neither.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use dispatcher_common::flow::{Direction, FlowEntry, FlowKey, FlowPair};
use dispatcher_common::maps;
use dispatcher_common::tcp::Phase;

use super::{DatapathError, syscall};
use crate::fault::{self, Point};

/// The `FLOWS` map.
pub struct FlowTable {
    map: HashMap<MapData, FlowKey, FlowEntry>,
    /// The same map once more: reading in batches is not aya's, and needs a descriptor.
    fd: OwnedFd,
}

/// Why a flow was not installed; nothing of it is in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InstallError {
    /// The table holds as many flows as it may.
    #[error("the flow table is full")]
    Full,
    /// Packets of the back-end would belong to two flows: another service's flow with the same
    /// client address and port is on the same back-end.
    #[error("the back-end has a connection with the same client address and port")]
    Collision,
    /// The kernel refused for another reason; its error number.
    #[error("the kernel refused with error {0}")]
    Refused(i32),
}

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;
const BPF_EXIST: u64 = 2;

impl FlowTable {
    pub(super) fn new(map: Map) -> Result<Self, DatapathError> {
        let refused = |error: &(dyn std::error::Error + 'static)| {
            DatapathError::refused(format!("map {}", maps::FLOWS.name), error)
        };
        let Map::HashMap(data) = &map else {
            return Err(refused(&MapError::InvalidMapType { map_type: 0 }));
        };
        let fd = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| refused(&error))?;
        let map = HashMap::try_from(map).map_err(|error| refused(&error))?;
        Ok(Self { map, fd })
    }

    /// Opens the table that a daemon has pinned, for reading beside it.
    ///
    /// # Errors
    ///
    /// When nothing is pinned there, or it is no flow table.
    pub fn open_pinned(pin_path: &Path) -> Result<Self, DatapathError> {
        let path = pin_path.join(maps::FLOWS.name);
        let map = MapData::from_pin(&path)
            .map_err(|error| DatapathError::refused(path.display().to_string(), &error))?;
        Self::new(Map::HashMap(map))
    }

    /// Installs both entries of a flow.
    ///
    /// The reply entry goes first: it is the one that another service's flow may hold.
    ///
    /// # Errors
    ///
    /// Says why not; the table is then as before.
    pub fn install(&mut self, pair: &FlowPair) -> Result<(), InstallError> {
        self.map
            .insert(pair.reply_key, pair.reply, BPF_NOEXIST)
            .map_err(|e| install_error(&e))?;
        fault::point(Point::FirstEntryInstalled);
        self.map
            .insert(pair.forward_key, pair.forward, BPF_ANY)
            .map_err(|error| {
                // What was inserted a moment ago is there to be removed.
                let _ = self.map.remove(&pair.reply_key);
                install_error(&error)
            })
    }

    /// Installs both entries of several flows, in one call of the kernel. Says of each, in their
    /// order, whether it is installed; of one that is not, nothing is in the table.
    ///
    /// None of their reply keys may be another flow's: what is under it would be overwritten.
    pub fn install_all(&mut self, pairs: &[FlowPair]) -> Vec<Result<(), InstallError>> {
        let keys: Vec<_> = pairs
            .iter()
            .flat_map(|pair| [pair.reply_key, pair.forward_key])
            .collect();
        let entries: Vec<_> = pairs
            .iter()
            .flat_map(|pair| [pair.reply, pair.forward])
            .collect();
        let mut installed = Vec::with_capacity(pairs.len());
        while installed.len() < pairs.len() {
            let from = 2 * installed.len();
            let written =
                syscall::write_elements(self.fd.as_raw_fd(), &keys[from..], &entries[from..]);
            let Err((count, error)) = written else {
                installed.resize(pairs.len(), Ok(()));
                break;
            };
            installed.resize(installed.len() + count / 2, Ok(()));
            if count % 2 == 1 {
                // Its forward entry was refused.
                let _ = self.map.remove(&keys[from + count - 1]);
            }
            installed.push(Err(install_errno(&error)));
        }
        installed
    }

    /// Removes entries, in one call of the kernel; one that is not there is as good as removed.
    pub fn remove_all(&mut self, keys: &[FlowKey]) {
        if keys.is_empty() {
            return;
        }
        let mut rest = keys;
        while let Err((removed, _)) = syscall::remove_elements(self.fd.as_raw_fd(), rest) {
            rest = rest.get(removed + 1..).unwrap_or_default();
        }
        fault::point(Point::EntriesRemoved);
    }

    /// Both entries of the flow with this forward key, when both are there.
    #[must_use]
    pub fn get(&self, forward: &FlowKey) -> Option<FlowPair> {
        let forward_entry = self.map.get(forward, 0).ok()?;
        let reply_key = forward.of_peer(&forward_entry.translation);
        let reply = self.map.get(&reply_key, 0).ok()?;
        Some(FlowPair {
            forward_key: *forward,
            reply_key,
            forward: forward_entry,
            reply,
        })
    }

    /// Adds phases to the forward entry of a flow, if it is still there. What the program counts of
    /// it at the same moment is lost: the kernel puts another element in the entry's place, and the
    /// next call reuses the former. So this is for flows that end.
    pub fn end(&mut self, pair: &FlowPair, phase: Phase) {
        let entry = FlowEntry {
            phase: pair.forward.phase | phase.0,
            ..pair.forward
        };
        let _ = self.map.insert(pair.forward_key, entry, BPF_EXIST);
    }

    /// Every entry, in no order, read in batches; flows that come or go meanwhile may be missed or
    /// seen twice.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the map.
    pub fn for_each(&self, each: impl FnMut(&FlowKey, &FlowEntry)) -> io::Result<()> {
        syscall::for_each_element(self.fd.as_raw_fd(), each)
    }

    /// As [`Self::for_each`], forward entries alone.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the map.
    pub fn for_each_forward(&self, mut each: impl FnMut(&FlowKey, &FlowEntry)) -> io::Result<()> {
        self.for_each(|key, entry| {
            if entry.translation.direction() == Direction::Forward {
                each(key, entry);
            }
        })
    }

    /// Removes entries whose other half is missing: a daemon was killed between the two. Returns
    /// how many there were. For a table that nobody else writes to.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the map.
    pub fn remove_halves(&mut self) -> io::Result<u64> {
        let mut halves = Vec::new();
        self.for_each(|key, entry| {
            let peer_key = key.of_peer(&entry.translation);
            let peer = self.map.get(&peer_key, 0);
            if !peer.is_ok_and(|peer| peer_key.of_peer(&peer.translation) == *key) {
                halves.push(*key);
            }
        })?;
        for key in &halves {
            let _ = self.map.remove(key);
            fault::point(Point::HalfRemoved);
        }
        Ok(halves.len() as u64)
    }
}

fn install_error(error: &MapError) -> InstallError {
    match error {
        MapError::SyscallError(error) => install_errno(&error.io_error),
        _ => InstallError::Refused(0),
    }
}

fn install_errno(error: &io::Error) -> InstallError {
    match error.raw_os_error().unwrap_or_default() {
        libc::E2BIG | libc::ENOMEM => InstallError::Full,
        libc::EEXIST => InstallError::Collision,
        other => InstallError::Refused(other),
    }
}
