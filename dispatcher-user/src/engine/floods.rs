//! Floods of requests: admission is told what the program and the sockets dropped, and the program
//! which services to guard.

use dispatcher_common::addr::Port;
use dispatcher_common::service::{Service, ServiceKey};

use super::{Engine, ServiceInfo};
use crate::admission::{FloodChange, ServiceId, Time};

/// What is left over between two looks.
#[derive(Default)]
pub(super) struct Floods {
    /// Requests that the sockets had dropped when they were last asked.
    lost: u64,
    /// Requests that each service had received then, by [`ServiceId`].
    received: Vec<u64>,
}

impl Engine {
    /// Looks whether floods began or are over, and has the program know.
    pub(super) fn watch_floods(&mut self, now: Time) {
        let lost = self.sockets.receive_drops();
        let new = lost.saturating_sub(std::mem::replace(&mut self.floods.lost, lost));
        let received = self.newly_received();
        let all: u64 = received.iter().sum();
        for at in 0..self.services.len() {
            let id = self.services[at].id;
            // Nobody knows whose they were: most likely theirs of whom most came.
            let lost = match received.get(at) {
                Some(&own) if all > 0 => {
                    (u128::from(new) * u128::from(own) / u128::from(all)) as u64
                }
                _ => 0,
            };
            let unproven = self.datapath.unproven(id.0);
            if let Some(change) = self.admission.handle_flood(now, id, unproven, lost) {
                self.tell_of_flood(at, change);
            }
        }
    }

    /// Requests that each of `services` has received since the last look.
    fn newly_received(&mut self) -> Vec<u64> {
        let Self {
            services,
            admission,
            floods,
            ..
        } = self;
        let count = |service: &ServiceInfo| {
            let view = admission.service(service.id);
            let received = view.map_or(0, |view| view.counters.received);
            let place = service.id.0 as usize;
            let len = floods.received.len().max(place + 1);
            floods.received.resize(len, 0);
            let before = std::mem::replace(&mut floods.received[place], received);
            received.saturating_sub(before)
        };
        services.iter().map(count).collect()
    }

    fn tell_of_flood(&mut self, at: usize, change: FloodChange) {
        let info = &self.services[at];
        let is_on = change == FloodChange::Begun;
        let (ip, port) = (info.address.ip(), info.address.port());
        let key = ServiceKey::new(ip.into(), Port::new(port));
        if self.by_key.get(&key) == Some(&info.id)
            && let Err(error) = self.datapath.set_service(&key, guarded_if(info.id, is_on))
        {
            tracing::error!(%error, "the program does not know of the flood");
        }
        let service = &*info.name;
        match change {
            FloodChange::Begun => tracing::warn!(
                service,
                "a flood of requests is on: only those whose client sends its SYN again are let in"
            ),
            FloodChange::Over => {
                let view = self.admission.service(info.id);
                let dropped = view.map_or(0, |view| view.flood.unproven);
                tracing::info!(service, dropped, "the flood is over");
            }
        }
    }
}

/// The service as the program knows it while a flood of it is on, or is not.
pub(super) const fn guarded_if(id: ServiceId, is_flooded: bool) -> Service {
    Service {
        index: id.0,
        guarded: is_flooded as u32,
    }
}

/// What nobody can guess.
pub(super) fn secret() -> [u32; 4] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The system's random numbers key it.
    let state = RandomState::new();
    let word = |at: u32| {
        let mut hasher = state.build_hasher();
        hasher.write_u32(at);
        hasher.finish() as u32
    };
    [word(0), word(1), word(2), word(3)]
}
