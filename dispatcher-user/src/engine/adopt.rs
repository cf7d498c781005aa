//! Taking over the flows that an earlier daemon left in the kernel.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;

use dispatcher_common::flow::{Direction, FlowKey};
use dispatcher_common::tcp::Phase;
use foldhash::quality::RandomState;

use super::Engine;
use crate::admission::{BackendId, FlowId, ServiceId, Time};
use crate::datapath::FlowTable;

/// A service's and a back-end's address: what a back-end is known by when names and the order of
/// the configuration have changed.
type Place = (SocketAddr, SocketAddr);

/// What an earlier daemon left in the flow table.
#[derive(Default)]
pub(super) struct Legacy {
    flows: Vec<LegacyFlow>,
    /// The number by which the entries of its flows know a back-end. The program counts under it.
    numbers: HashMap<Place, u32, RandomState>,
    taken: HashSet<u32, RandomState>,
    /// The last number that was given to a back-end without flows.
    fresh: u32,
    /// Halves of flows that were removed.
    halves: u64,
}

struct LegacyFlow {
    key: FlowKey,
    id: FlowId,
    backend: SocketAddr,
    phase: Phase,
}

impl Legacy {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read it.
    pub(super) fn read(table: &mut FlowTable) -> io::Result<Self> {
        let (mut legacy, whole) = Self::read_once(table)?;
        if !whole {
            let halves = table.remove_halves()?;
            (legacy, _) = Self::read_once(table)?;
            legacy.halves = halves;
        }
        Ok(legacy)
    }

    /// Also tells whether every entry has its other half.
    fn read_once(table: &FlowTable) -> io::Result<(Self, bool)> {
        let mut legacy = Self::default();
        let hasher = RandomState::default();
        // Sums over the keys of reply entries: as they are, and as forward entries name them.
        let (mut are, mut named) = (0u64, 0u64);
        table.for_each(|key, entry| {
            if entry.translation.direction() == Direction::Reply {
                are = are.wrapping_add(hasher.hash_one(key));
                return;
            }
            let to = entry.translation;
            named = named.wrapping_add(hasher.hash_one(key.of_peer(&to)));
            let backend = SocketAddr::new(to.addr.ip(), to.port.number());
            legacy.numbers.insert((vip(key), backend), entry.backend);
            legacy.taken.insert(entry.backend);
            legacy.flows.push(LegacyFlow {
                key: *key,
                id: FlowId {
                    index: entry.flow,
                    generation: entry.generation,
                },
                backend,
                phase: Phase(entry.phase),
            });
        })?;
        Ok((legacy, are == named))
    }

    /// The number for a back-end: its own if it has flows, else one that no other has.
    pub(super) fn number(&mut self, service: SocketAddr, backend: SocketAddr) -> BackendId {
        if let Some(number) = self.numbers.get(&(service, backend)) {
            return BackendId(*number);
        }
        while self.taken.contains(&self.fresh) {
            self.fresh += 1;
        }
        self.taken.insert(self.fresh);
        BackendId(self.fresh)
    }
}

fn vip(forward: &FlowKey) -> SocketAddr {
    SocketAddr::new(forward.dst.ip(), forward.dst_port.number())
}

/// What became of the flows that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Adopted {
    /// Flows that go on, and count against their back-ends' ceilings.
    pub(super) flows: u64,
    /// Flows of services or back-ends that are configured no more, those that a back-end has
    /// refused, and halves of flows: removed.
    pub(super) removed: u64,
}

impl Engine {
    /// Counts every flow that belongs to a configured back-end, and removes the rest.
    pub(super) fn adopt(&mut self, now: Time, legacy: Legacy) -> Adopted {
        let mut adopted = Adopted {
            flows: 0,
            removed: legacy.halves,
        };
        let owners = self.owners();
        for flow in legacy.flows {
            let owner = owners.get(&(vip(&flow.key), flow.backend));
            // Its request went with the earlier daemon; the client's retransmission is another.
            let refused = flow.phase.is_refused();
            let taken = owner.is_some_and(|&(service, backend)| {
                !refused
                    && self
                        .admission
                        .adopt(now, service, backend, flow.key, flow.id, flow.phase)
                        .is_ok()
            });
            if taken {
                adopted.flows += 1;
            } else {
                self.datapath.flows().remove(&flow.key);
                adopted.removed += 1;
            }
        }
        adopted
    }

    fn owners(&self) -> HashMap<Place, (ServiceId, BackendId), RandomState> {
        let of = |service: &super::ServiceInfo| {
            let (id, address) = (service.id, service.address);
            let backends = service.backends.iter();
            backends
                .map(|backend| ((address, backend.address), (id, backend.id)))
                .collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }
}
