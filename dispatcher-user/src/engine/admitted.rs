//! Requests that were admitted are sent on together: their flows are installed in one call, and
//! each SYN follows its flow.

use std::time::Duration;

use dispatcher_common::addr::Port;
use dispatcher_common::flow::{FlowKey, FlowPair, FlowSpec};
use dispatcher_common::measure;

use super::syn::Syn;
use super::{Engine, clock};
use crate::admission::{BackendId, FlowId, InstallFailure, ServiceId, Time};
use crate::datapath::InstallError;
use crate::fault::{self, Point};

/// Most requests that are sent on together: enough that a call costs each of them little, and so
/// few that what the call reads stays in the nearest cache.
pub(super) const SENT_ON_AT_ONCE: usize = 64;

/// A request that a back-end is to have.
pub(super) struct Admitted {
    pub(super) flow: FlowId,
    pub(super) service: ServiceId,
    pub(super) backend: BackendId,
    pub(super) key: FlowKey,
    pub(super) isn: u32,
    pub(super) syn: Syn,
    /// How long it was in the queue, if it was.
    pub(super) waited: Option<Duration>,
}

impl Engine {
    /// Installs the flows of those that are admitted, then sends their SYNs: a reply to one must
    /// find its flow.
    pub(super) fn send_on(&mut self, now: Time) {
        if self.admitted.is_empty() {
            return;
        }
        let mut admitted = std::mem::take(&mut self.admitted);
        // Not the time at which the turn began: what a SYN waits after that is none of its
        // back-end's.
        let asked = measure::clock(clock::now().0);
        let pairs: Vec<_> = admitted
            .iter()
            .map(|one| self.pair(now, asked, one))
            .collect();
        fault::point(Point::SlotTaken);
        self.make_way(&admitted);
        let installed = self.install(&admitted, &pairs);
        for ((one, pair), installed) in admitted.drain(..).zip(&pairs).zip(installed) {
            match installed {
                Ok(()) => {
                    self.in_table += 1;
                    self.send_syn(now, &one, pair);
                }
                Err(error) => self.not_installed(now, &one, &error),
            }
        }
        // The same memory the next time.
        self.admitted = admitted;
    }

    fn pair(&self, now: Time, asked: u32, one: &Admitted) -> FlowPair {
        let way = &self.backends[one.backend.0 as usize];
        FlowPair::new(&FlowSpec {
            key: one.key,
            backend_addr: way.address.ip().into(),
            backend_port: Port::new(way.address.port()),
            backend: one.backend.0,
            flow: one.flow.index,
            generation: one.flow.generation,
            isn: one.isn,
            now_ticks: clock::ticks(now),
            asked,
            to_backend: way.next_hop,
            to_client: self.way_back(&one.syn),
        })
    }

    /// One by one where a reply key may be another flow's already: a call for several would not
    /// notice.
    fn install(
        &mut self,
        admitted: &[Admitted],
        pairs: &[FlowPair],
    ) -> Vec<Result<(), InstallError>> {
        let is_shared = |one: &Admitted| self.backends[one.backend.0 as usize].is_shared;
        let flows = self.datapath.flows();
        if pairs.len() == 1 || admitted.iter().any(is_shared) {
            pairs.iter().map(|pair| flows.install(pair)).collect()
        } else {
            flows.install_all(pairs)
        }
    }

    fn send_syn(&mut self, now: Time, one: &Admitted, pair: &FlowPair) {
        fault::point(Point::FlowInstalled);
        let way = self.backends[one.backend.0 as usize];
        let packet = one.syn.packet(&pair.forward.translation);
        self.send(&way.next_hop, &packet, way.address.ip());
        fault::point(Point::SynQueued);
        self.kept.keep(one.flow, one.isn, one.syn);
        if let Some(waited) = one.waited {
            self.note_wait(now, one.service, waited);
        }
    }

    /// After a collision the same request comes again, with the same wait.
    fn not_installed(&mut self, now: Time, one: &Admitted, error: &InstallError) {
        let failure = match error {
            InstallError::Collision => InstallFailure::Collision,
            InstallError::Full => InstallFailure::TableFull,
            &InstallError::Refused(errno) => {
                self.install_refused = Some(errno);
                self.install_refusals.note();
                InstallFailure::TableFull
            }
        };
        self.admission
            .handle_install_failed(now, one.flow, failure, one.syn);
    }

    /// Notes which back-ends have an address and port that another service's have, too.
    pub(super) fn note_shared(&mut self) {
        let of_service = |at: usize| self.services[at].backends.iter();
        let all = (0..self.services.len()).flat_map(|at| of_service(at).map(move |one| (at, one)));
        let mut owners = std::collections::HashMap::new();
        let mut shared = std::collections::HashSet::new();
        for (at, one) in all {
            if *owners.entry(one.address).or_insert(at) != at {
                shared.insert(one.address);
            }
        }
        for way in &mut self.backends {
            way.is_shared = shared.contains(&way.address);
        }
    }
}
