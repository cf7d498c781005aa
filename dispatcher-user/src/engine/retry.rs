//! Requests that a back-end has, but has not taken yet. Their headers are kept, so that they can go
//! to another one when it refuses them or does not answer.

use std::collections::HashMap;

use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;
use foldhash::quality::RandomState;

use super::Engine;
use super::syn::{Packet, Syn};
use crate::admission::{ConnectFailure, FlowId, Time};

/// Most requests that are kept: 17 MB with the table's own overhead. A request beyond them is not
/// put back; its client's retransmission is another one.
pub(super) const KEPT_MAX: usize = 65_536;

/// By the index of their flow.
#[derive(Default)]
pub(super) struct Kept(HashMap<u32, KeptSyn, RandomState>);

#[derive(Clone, Copy)]
struct KeptSyn {
    generation: u32,
    isn: u32,
    syn: Syn,
}

impl Kept {
    /// Keeps the request of a flow, if there is room.
    pub(super) fn keep(&mut self, flow: FlowId, isn: u32, syn: Syn) {
        if self.0.len() < KEPT_MAX {
            let generation = flow.generation;
            let kept = KeptSyn {
                generation,
                isn,
                syn,
            };
            self.0.insert(flow.index, kept);
        }
    }

    /// The request of a flow, with its initial sequence number.
    fn get(&self, flow: FlowId) -> Option<(u32, Syn)> {
        let kept = self.0.get(&flow.index)?;
        (kept.generation == flow.generation).then_some((kept.isn, kept.syn))
    }

    /// The flow needs its request no more.
    pub(super) fn forget(&mut self, flow: FlowId) {
        if let Some(kept) = self.0.get(&flow.index)
            && kept.generation == flow.generation
        {
            self.0.remove(&flow.index);
        }
    }
}

impl Engine {
    /// Takes up what happened on a flow. Whatever comes of it, the commands are yet to be carried
    /// out.
    pub(super) fn enter_phase(&mut self, now: Time, flow: FlowId, phase: Phase) {
        if phase.is_refused() {
            self.connect_failed(now, flow, ConnectFailure::Refused);
            return;
        }
        self.admission.handle_phase(now, flow, phase);
        if phase.is_established() || phase.is_ended() {
            self.kept.forget(flow);
        }
    }

    /// The SYN of a flow has failed, in whatever way that was learned.
    pub(super) fn connect_failed(&mut self, now: Time, flow: FlowId, failure: ConnectFailure) {
        let Some(view) = self.admission.flow(flow) else {
            return;
        };
        let kept = self.kept.get(flow).filter(|(isn, _)| {
            // A client that has asked anew from the same port meanwhile was followed by the
            // program alone: what is kept is of a request that it has given up.
            let pair = self.datapath.flows().get(&view.key);
            pair.is_some_and(|pair| pair.forward.track.seq_end == isn.wrapping_add(1))
        });
        let syn = kept.map(|(_, syn)| syn);
        self.admission
            .handle_connect_failed(now, flow, failure, syn);
    }

    /// Admission has heard of no answer. The program tells of an answer only once the handshake is
    /// finished, so the map is asked.
    pub(super) fn look_for_answer(&mut self, now: Time, flow: FlowId, key: &FlowKey) {
        let Some(pair) = self.datapath.flows().get(key) else {
            self.admission.handle_missing(now, flow);
            return;
        };
        let phase = Phase(pair.forward.phase);
        self.enter_phase(now, flow, phase);
        let silent = !phase.has(Phase::ANSWERED) && !phase.is_refused() && !phase.is_ended();
        if silent {
            self.connect_failed(now, flow, ConnectFailure::Silent);
        }
    }

    /// Tells a silent back-end, before its flow is removed, that nobody waits for its answer: by an
    /// RST in the place of the first byte, which one that has the SYN obeys (RFC 9293 3.10.7.4).
    pub(super) fn take_back(&mut self, key: &FlowKey) {
        if let Some(pair) = self.datapath.flows().get(key) {
            let to_backend = pair.reply_key.reversed();
            let packet = Packet::take_back(&to_backend, pair.forward.track.seq_end);
            self.send(&pair.forward.next_hop, &packet, to_backend.dst.ip());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_of_one_flow_and_bounded() {
        let syn = Syn::read(&super::super::syn::tests::any_syn(), 7)
            .unwrap()
            .0;
        let flow = |index, generation| FlowId { index, generation };
        let mut kept = Kept::default();
        kept.keep(flow(1, 5), 77, syn);
        assert_eq!(kept.get(flow(1, 5)), Some((77, syn)));
        assert_eq!(kept.get(flow(1, 4)), None, "of an earlier flow there");
        kept.forget(flow(1, 4));
        assert!(kept.get(flow(1, 5)).is_some());
        kept.forget(flow(1, 5));
        assert_eq!(kept.get(flow(1, 5)), None);

        for index in 0..=KEPT_MAX as u32 {
            kept.keep(flow(index, 1), 1, syn);
        }
        assert_eq!(kept.0.len(), KEPT_MAX);
        let last = flow(KEPT_MAX as u32, 1);
        assert_eq!(kept.get(last), None, "there was no room");
        let bytes = kept.0.capacity() * 8 / 7 * (size_of::<(u32, KeptSyn)>() + 1);
        assert!(bytes <= 18 << 20, "{bytes} bytes");
    }
}
