//! Flows that have ended leave the kernel's table together, in one call.

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

impl Removed {
    fn add(&mut self, forward: &FlowKey, reply: &FlowKey) {
        self.keys.extend([*reply, *forward]);
        self.ports.push(forward.src_port);
    }

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
        let reply = key.reply_of(address.ip().into(), Port::new(address.port()));
        self.removed.add(key, &reply);
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
        if !self.removed.keys.is_empty() {
            self.datapath.flows().remove_all(&self.removed.keys);
            self.in_table = self.in_table.saturating_sub(self.removed.ports.len());
            self.removed.keys.clear();
            self.removed.ports.clear();
        }
    }
}
