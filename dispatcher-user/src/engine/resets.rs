//! Resets the connections of back-ends that an operator disabled: an RST to both ends of each. The
//! flows lie anywhere in the table, so it is gone through once, some of it each turn. What an
//! earlier daemon did not finish of that is done again.

use std::collections::HashSet;

use dispatcher_common::flow::{FlowEntry, FlowKey, FlowPair};
use dispatcher_common::tcp::Phase;
use foldhash::quality::RandomState;

use super::Engine;
use super::syn::Packet;
use crate::admission::{BackendId, FlowId, FlowState, FlowView, Time};
use crate::fault::{self, Point};

/// Places of the flow table that are looked at in one turn.
const LOOKED_AT_A_TURN: u32 = 4096;
/// Connections that are reset in one turn.
const RESET_A_TURN: u32 = 128;

/// Whose connections are being reset, and how far that has come.
#[derive(Default)]
pub(super) struct Resets {
    backends: HashSet<BackendId, RandomState>,
    /// The next place of the flow table to look at.
    next: u32,
    /// Flows that an earlier daemon has cut.
    again: Vec<FlowId>,
}

impl Resets {
    /// Begins with a back-end. The table is gone through from its start for all of them.
    pub(super) fn begin(&mut self, backend: BackendId) {
        self.backends.insert(backend);
        self.next = 0;
    }

    /// Has a flow reset that an earlier daemon has cut: whether its ends know is not known.
    pub(super) fn repeat(&mut self, flow: FlowId) {
        self.again.push(flow);
    }

    /// Leaves alone what a back-end still has.
    pub(super) fn cancel(&mut self, backend: BackendId) {
        self.backends.remove(&backend);
    }
}

impl Engine {
    /// Resets some of the connections that are to be. Returns whether more may be left.
    pub(super) fn reset_some(&mut self, now: Time) -> bool {
        let end = self.admission.flow_capacity();
        let mut reset = 0;
        while reset < RESET_A_TURN
            && let Some(id) = self.resets.again.pop()
        {
            if let Some(flow) = self.admission.flow(id) {
                self.reset(now, &flow);
                reset += 1;
            }
        }
        if !self.resets.backends.is_empty() {
            for _ in 0..LOOKED_AT_A_TURN {
                if self.resets.next >= end || reset >= RESET_A_TURN {
                    break;
                }
                let flow = self.admission.flow_at(self.resets.next);
                self.resets.next += 1;
                let concerned = flow.filter(|flow| {
                    let of_these = self.resets.backends.contains(&flow.backend);
                    of_these && flow.state != FlowState::Lingering
                });
                if let Some(flow) = concerned {
                    self.reset(now, &flow);
                    reset += 1;
                }
            }
            if self.resets.next >= end {
                self.resets.backends.clear();
            }
        }
        if reset > 0 {
            self.carry_out(now);
            fault::point(Point::ResetsSent);
        }
        !self.resets.backends.is_empty() || !self.resets.again.is_empty()
    }

    fn reset(&mut self, now: Time, flow: &FlowView) {
        if let Some(pair) = self.datapath.flows().get(&flow.key) {
            // First: a daemon that dies before its ends have heard leaves that to the next one.
            self.datapath.flows().end(&pair, Phase::CUT);
            fault::point(Point::FlowCut);
            // What passed since has moved the numbers, and will: the ends hear of it at once.
            let pair = self.datapath.flows().get(&flow.key).unwrap_or(pair);
            self.reset_both(&pair);
            fault::point(Point::ResetQueued);
            self.sockets.flush();
        }
        // Late packets, and what an end that did not take its RST says, are still translated.
        self.enter_phase(now, flow.id, Phase::CUT);
    }

    fn reset_both(&mut self, pair: &FlowPair) {
        let FlowPair {
            forward_key,
            forward,
            reply,
            ..
        } = pair;
        let to_client = resets(reply, forward);
        for (seq, ack) in to_client {
            let packet = Packet::reset(&forward_key.reversed(), seq, ack);
            self.send(&reply.next_hop, &packet, forward_key.src.ip());
        }
        self.reset_backend(pair);
    }

    /// Has the back-end forget a handshake that its client does not finish: it would go on with it
    /// for a minute, and hold more of them than it has slots.
    pub(super) fn give_up_handshake(&mut self, key: &FlowKey) {
        if let Some(pair) = self.datapath.flows().get(key) {
            self.reset_backend(&pair);
        }
    }

    fn reset_backend(&mut self, pair: &FlowPair) {
        let FlowPair {
            reply_key,
            forward,
            reply,
            ..
        } = pair;
        for (seq, ack) in resets(forward, reply) {
            let packet = Packet::reset(&reply_key.reversed(), seq, ack);
            self.send(&forward.next_hop, &packet, reply_key.src.ip());
        }
    }
}

/// Sequence and acknowledgement numbers of the RSTs to the receiver of `own`'s packets. It obeys
/// one that stands exactly where it expects the next byte (RFC 5961 3.2): at the end of what was
/// sent to it, or, if some of that was lost, where it has acknowledged.
fn resets(own: &FlowEntry, peer: &FlowEntry) -> impl Iterator<Item = (u32, u32)> + use<> {
    let (sent, acknowledged) = (own.track.seq_end, peer.track.ack);
    let behind = (acknowledged != sent && peer.track.ack != 0).then_some(acknowledged);
    let ack = peer.track.seq_end;
    std::iter::once(sent)
        .chain(behind)
        .map(move |seq| (seq, ack))
}
