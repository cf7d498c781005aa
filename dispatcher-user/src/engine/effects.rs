//! Carries out what admission decided, in its order.

use std::net::IpAddr;

use dispatcher_common::flow::{FlowKey, FlowPair, FlowSpec};
use dispatcher_common::link::NextHop;
use dispatcher_common::measure;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;

use super::syn::{Packet, Syn};
use super::{Engine, clock};
use crate::admission::{
    BackendId, Command, DiscardReason, FlowId, InstallFailure, RefuseReason, RemoveReason,
    ServiceId, Time,
};
use crate::datapath::InstallError;
use crate::fault::{self, Point};

impl Engine {
    /// Carries out every command there is, those that one leads to included.
    pub(super) fn carry_out(&mut self, now: Time) {
        while let Some(command) = self.admission.poll_command() {
            match command {
                Command::Admit {
                    flow,
                    service,
                    backend,
                    key,
                    isn,
                    request,
                    waited,
                } => {
                    let installed = self.admit(now, flow, backend, &key, isn, request);
                    // After a collision the same request comes again, with the same wait.
                    if let (true, Some(waited)) = (installed, waited) {
                        self.note_wait(now, service, waited);
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
                    flow, key, reason, ..
                } => {
                    match reason {
                        RemoveReason::Silent => self.take_back(&key),
                        RemoveReason::HandshakeTimeout => self.give_up_handshake(&key),
                        _ => {}
                    }
                    self.datapath.flows().remove(&key);
                    self.kept.forget(flow);
                }
                Command::Probe { flow, key, .. } => self.probe(now, flow, &key),
                Command::Unanswered { flow, key, .. } => self.look_for_answer(now, flow, &key),
            }
        }
    }

    /// Installs the flow, then sends its SYN: a reply to it must find the flow. Returns whether it
    /// was installed.
    fn admit(
        &mut self,
        now: Time,
        flow: FlowId,
        backend: BackendId,
        key: &FlowKey,
        isn: u32,
        syn: Syn,
    ) -> bool {
        let way = self.backends[backend.0 as usize];
        let pair = FlowPair::new(&FlowSpec {
            key: *key,
            backend_addr: way.address.ip().into(),
            backend_port: dispatcher_common::addr::Port::new(way.address.port()),
            backend: backend.0,
            flow: flow.index,
            generation: flow.generation,
            isn,
            now_ticks: clock::ticks(now),
            // Not the time at which the turn began: what the SYN waits after that is none of the
            // back-end's.
            asked: measure::clock(clock::now().0),
            to_backend: way.next_hop,
            to_client: self.way_back(&syn),
        });
        fault::point(Point::SlotTaken);
        match self.datapath.flows().install(&pair) {
            Ok(()) => {
                fault::point(Point::FlowInstalled);
                let packet = syn.packet(&pair.forward.translation);
                self.send(&way.next_hop, &packet, way.address.ip());
                fault::point(Point::SynQueued);
                self.kept.keep(flow, isn, syn);
                true
            }
            Err(error) => {
                let failure = match error {
                    InstallError::Collision => InstallFailure::Collision,
                    InstallError::Full => InstallFailure::TableFull,
                    InstallError::Refused(errno) => {
                        self.install_refused = Some(errno);
                        self.install_refusals.note();
                        InstallFailure::TableFull
                    }
                };
                self.admission
                    .handle_install_failed(now, flow, failure, syn);
                false
            }
        }
    }

    fn way_back(&self, syn: &Syn) -> NextHop {
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

    fn note_wait(&mut self, now: Time, service: ServiceId, waited: std::time::Duration) {
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
