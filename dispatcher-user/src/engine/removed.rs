//! Flows that have ended leave the kernel's table together, in one call.

use std::net::SocketAddr;

use dispatcher_common::addr::Port;
use dispatcher_common::flow::FlowKey;

use super::Engine;
use super::admitted::Admitted;
use crate::admission::{BackendId, RemoveReason};

/// Most flows that are removed together. What is in the table until then, no longer than a tick,
/// holds no slot.
const REMOVED_AT_ONCE: usize = 64;

/// Flows that are gone for admission, and whose entries are still in the kernel's table.
#[derive(Default)]
pub(super) struct Removed {
    /// Both of each flow.
    keys: Vec<FlowKey>,
    /// Their clients', which either key has.
    ports: Vec<Port>,
}

/// Under which a flow with this back-end is in the table.
pub(super) fn keys_of(forward: &FlowKey, backend: SocketAddr) -> [FlowKey; 2] {
    let reply = forward.reply_of(backend.ip().into(), Port::new(backend.port()));
    [reply, *forward]
}

impl Removed {
    /// Whether a new flow may have a key that is among these.
    fn may_have(&self, one: &Admitted) -> bool {
        self.ports.contains(&one.key.src_port)
    }
}

impl Engine {
    /// Has the entries of a flow removed: with others, if it has ended; else at once, since to the
    /// next daemon its entries would be a flow that lives.
    pub(super) fn remove_entries(
        &mut self,
        key: &FlowKey,
        backend: BackendId,
        reason: RemoveReason,
    ) {
        let address = self.backends[backend.0 as usize].address;
        self.removed.keys.extend(keys_of(key, address));
        self.removed.ports.push(key.src_port);
        if reason != RemoveReason::Ended || self.removed.ports.len() == REMOVED_AT_ONCE {
            self.remove_the_rest();
        }
    }

    /// Removes what is in the way of these that are to be installed: the same keys, or a full
    /// table.
    pub(super) fn make_way(&mut self, admitted: &[Admitted]) {
        let flows = self.in_table + admitted.len();
        let is_full = flows > self.admission.flow_capacity() as usize;
        if is_full || admitted.iter().any(|one| self.removed.may_have(one)) {
            self.remove_the_rest();
        }
    }

    /// Removes all that are yet to be.
    pub(super) fn remove_the_rest(&mut self) {
        self.datapath.flows().remove_all(&self.removed.keys);
        self.in_table = self.in_table.saturating_sub(self.removed.ports.len());
        self.removed.keys.clear();
        self.removed.ports.clear();
    }
}
