//! Carries out what admission decided, in its order.

use std::net::IpAddr;

use dispatcher_common::flow::FlowKey;
use dispatcher_common::link::NextHop;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;

use super::admitted::{Admitted, SENT_ON_AT_ONCE};
use super::syn::{Packet, Syn};
use super::{Engine, clock};
use crate::admission::{
    Command, DiscardReason, FlowId, RefuseReason, RemoveReason, ServiceId, Time,
};

impl Engine {
    /// Carries out every command there is, those that one leads to included.
    pub(super) fn carry_out(&mut self, now: Time) {
        loop {
            let Some(command) = self.admission.poll_command() else {
                if self.admitted.is_empty() {
                    return;
                }
                self.send_on(now);
                continue;
            };
            // These are about flows, which the table must hold as they were decided.
            if let Command::Remove { .. } | Command::Probe { .. } | Command::Unanswered { .. } =
                command
            {
                self.send_on(now);
            }
            match command {
                Command::Admit {
                    flow,
                    service,
                    backend,
                    key,
                    isn,
                    request: syn,
                    waited,
                } => {
                    self.admitted.push(Admitted {
                        flow,
                        service,
                        backend,
                        key,
                        isn,
                        syn,
                        waited,
                    });
                    if self.admitted.len() == SENT_ON_AT_ONCE {
                        self.send_on(now);
                    }
                }
                Command::Refuse {
                    service,
                    key,
                    isn,
                    request,
                    reason,
                } => {
                    self.refusals.note(service, reason);
                    self.refuse(&key, isn, &request);
                }
                Command::Discard {
                    service, reason, ..
                } => self.discard(service, reason),
                Command::Remove {
                    flow,
                    key,
                    backend,
                    reason,
                } => {
                    match reason {
                        RemoveReason::Silent => self.take_back(&key),
                        RemoveReason::HandshakeTimeout => self.give_up_handshake(&key),
                        _ => {}
                    }
                    self.kept.forget(flow);
                    self.remove_entries(&key, backend, reason);
                }
                Command::Probe { flow, key, .. } => self.probe(now, flow, &key),
                Command::Unanswered { flow, key, .. } => self.look_for_answer(now, flow, &key),
            }
        }
    }

    pub(super) fn way_back(&self, syn: &Syn) -> NextHop {
        // It may have been made anew while the request waited.
        let ifindex = self.sockets.current(syn.device());
        let link = self.network.links.get(&ifindex);
        let mtu = link.map_or(u32::from(u16::MAX), |link| link.mtu);
        NextHop {
            ifindex,
            ..syn.way_back(u16::try_from(mtu).unwrap_or(u16::MAX))
        }
    }

    fn refuse(&mut self, key: &FlowKey, isn: u32, syn: &Syn) {
        let reset: Packet = syn.reset(key, isn);
        self.send(&self.way_back(syn), &reset, key.src.ip());
    }

    /// Sends by a socket of the way's interface; where there is none, as while the interface is
    /// being taken up again, the host's stack finds the way.
    pub(super) fn send(&mut self, way: &NextHop, packet: &Packet, to: IpAddr) {
        let sent = if self.sockets.can_send(way.ifindex) {
            self.sockets.send(way, packet)
        } else {
            self.host_stack.send(packet, to)
        };
        self.count_drop(sent);
    }

    fn discard(&mut self, service: ServiceId, reason: DiscardReason) {
        if let DiscardReason::Refused(why) = reason {
            self.refusals.note(service, why);
            let reason = match why {
                RefuseReason::QueueFull | RefuseReason::PerSource => DropReason::QueueFull,
                RefuseReason::TableFull
                | RefuseReason::Collision
                | RefuseReason::Expired
                | RefuseReason::ServiceRemoved
                | RefuseReason::BackendsRefused => return,
            };
            self.count_drop(Err(reason));
        }
    }

    fn probe(&mut self, now: Time, flow: FlowId, key: &FlowKey) {
        let Some(pair) = self.datapath.flows().get(key) else {
            self.admission.handle_missing(now, flow);
            return;
        };
        let last_seen = pair.forward.last_seen.max(pair.reply.last_seen);
        self.enter_phase(now, flow, Phase(pair.forward.phase));
        // A tick that has begun counts as over: a flow is not thought idle for longer than it is.
        self.admission
            .handle_activity(now, flow, clock::of_ticks(last_seen.wrapping_add(1)));
    }

    pub(super) fn note_wait(&mut self, now: Time, service: ServiceId, waited: std::time::Duration) {
        let place = self.places.get(service.0 as usize);
        if let Some(info) = place.and_then(|at| self.services.get_mut(*at)) {
            info.waits.record(now, waited);
        }
    }

    pub(super) fn count_drop(&mut self, sent: Result<(), DropReason>) {
        if let Err(reason) = sent {
            self.dropped[reason as usize] += 1;
        }
    }
}
