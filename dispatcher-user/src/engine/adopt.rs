//! Taking over the flows that an earlier daemon left in the kernel.

use std::net::SocketAddr;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::tcp::Phase;

use super::Engine;
use crate::admission::{BackendId, FlowId, ServiceId, Time};

/// What was found in the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Adopted {
    /// Flows that go on, and count against their back-ends' ceilings.
    pub(super) flows: u64,
    /// Flows of services or back-ends that are configured no more: removed.
    pub(super) removed: u64,
}

impl Engine {
    /// Counts every flow of the table that belongs to a configured back-end, and removes the rest.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the table.
    pub(super) fn adopt(&mut self, now: Time) -> std::io::Result<Adopted> {
        let mut found = Vec::new();
        self.datapath.flows().for_each_forward(|key, entry| {
            let flow = FlowId {
                index: entry.flow,
                generation: entry.generation,
            };
            let to = entry.translation;
            found.push((*key, flow, (to.addr, to.port), Phase(entry.phase)));
        })?;
        let mut adopted = Adopted::default();
        for (key, flow, (addr, port), phase) in found {
            let at = self.owner((key.dst, key.dst_port), (addr, port));
            let taken = at.is_some_and(|(service, backend)| {
                self.admission
                    .adopt(now, service, backend, key, flow, phase)
                    .is_ok()
            });
            if taken {
                adopted.flows += 1;
            } else {
                self.datapath.flows().remove(&key);
                adopted.removed += 1;
            }
        }
        Ok(adopted)
    }

    fn owner(&self, vip: (Addr, Port), backend: (Addr, Port)) -> Option<(ServiceId, BackendId)> {
        let same = |address: SocketAddr, (addr, port): (Addr, Port)| {
            Addr::from(address.ip()) == addr && address.port() == port.number()
        };
        let service = self
            .services
            .iter()
            .find(|service| same(service.address, vip))?;
        let backend = service
            .backends
            .iter()
            .find(|one| same(one.address, backend))?;
        Some((service.id, backend.id))
    }
}
