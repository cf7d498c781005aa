//! Services and back-ends as they come, change and go, while the system runs. None of it is on the
//! path of a packet, and none of it cuts a connection. Numbers that name nothing change nothing.

use core::fmt;
use core::hash::BuildHasher;

use dispatcher_common::maps::{BACKENDS_MAX, SERVICES_MAX};

use super::command::{BackendId, ServiceId};
use super::service::{Backend, Service};
use super::settings::{BackendSettings, BackendState, Ceiling, ServiceSettings};
use super::slab::NONE;
use super::{Admission, Time, keys};

/// Why a service or a back-end cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddError {
    /// There are as many services as there may be.
    ServicesFull,
    /// There are as many back-ends as there may be.
    BackendsFull,
    /// There is no such service.
    NoService,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServicesFull => write!(
                f,
                "there are {SERVICES_MAX} services already, counting removed ones whose last \
                 connections have not ended; remove one, or wait"
            ),
            Self::BackendsFull => write!(
                f,
                "there are {BACKENDS_MAX} back-ends already, counting removed ones whose last \
                 connections have not ended; remove one, or wait"
            ),
            Self::NoService => f.write_str("the service does not exist; add it first"),
        }
    }
}

impl core::error::Error for AddError {}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// Adds a service, without back-ends.
    ///
    /// # Errors
    ///
    /// When there are [`SERVICES_MAX`].
    pub fn add_service(&mut self, settings: ServiceSettings) -> Result<ServiceId, AddError> {
        let service = Service::new(settings, self.hasher.clone());
        let id = self
            .services
            .insert(service)
            .map_err(|_| AddError::ServicesFull)?;
        self.set_queue_capacity();
        Ok(ServiceId(id))
    }

    /// Changes a service. Requests that wait are judged by the new times at once; flows, from their
    /// next change on.
    pub fn update_service(&mut self, now: Time, id: ServiceId, settings: ServiceSettings) {
        let Some(service) = self.services.get_mut(id.0) else {
            return;
        };
        service.settings = settings;
        service.sources.clear();
        let waiting: Vec<_> = self
            .backlog
            .iter(&service.queue)
            .map(|(index, queued)| (index, queued.key.src))
            .collect();
        for &(_, source) in &waiting {
            service.count_source(source);
        }
        for (index, _) in waiting {
            self.arm_request(index);
        }
        self.set_queue_capacity();
        self.settle(now);
    }

    /// Removes a service: what waits is turned away, flows go on until they end, and the service is
    /// gone with the last of them.
    pub fn remove_service(&mut self, now: Time, id: ServiceId) {
        let Some(service) = self.services.get_mut(id.0) else {
            return;
        };
        service.leaving = true;
        let members: Vec<_> = service.members.iter().copied().flatten().collect();
        self.turn_away_queue(id);
        for backend in members {
            self.remove_backend(now, backend);
        }
        self.retire_service(id);
        self.set_queue_capacity();
    }

    /// Adds a back-end, up; requests that wait go to it at once.
    ///
    /// # Errors
    ///
    /// When there is no such service, or there are [`BACKENDS_MAX`] back-ends.
    pub fn add_backend(
        &mut self,
        now: Time,
        service: ServiceId,
        settings: BackendSettings,
    ) -> Result<BackendId, AddError> {
        self.add_backend_as(now, service, settings, None)
    }

    /// As [`Self::add_backend`], under the number by which flows of an earlier daemon know it;
    /// under any other if that is taken or out of bounds.
    ///
    /// # Errors
    ///
    /// As [`Self::add_backend`].
    pub fn add_backend_as(
        &mut self,
        now: Time,
        service: ServiceId,
        settings: BackendSettings,
        id: Option<BackendId>,
    ) -> Result<BackendId, AddError> {
        let Some(owner) = self
            .services
            .get_mut(service.0)
            .filter(|owner| !owner.leaving)
        else {
            return Err(AddError::NoService);
        };
        let free = owner.members.iter().position(Option::is_none);
        let position = free.unwrap_or(owner.members.len());
        let backend = Backend::new(service, position as u32, settings);
        let wanted = match id {
            Some(id) => self.backends.insert_at(id.0, backend).map(|()| id.0),
            None => Err(backend),
        };
        let id = wanted
            .or_else(|backend| self.backends.insert(backend))
            .map_err(|_| AddError::BackendsFull)?;
        let id = BackendId(id);
        if free.is_none() {
            owner.members.push(None);
        }
        owner.members[position] = Some(id);
        self.refresh(id);
        self.settle(now);
        Ok(id)
    }

    /// Changes a back-end, except where it is: a server elsewhere is another back-end.
    pub fn update_backend(
        &mut self,
        now: Time,
        id: BackendId,
        ceiling: Ceiling,
        capacity: u32,
        weight: u32,
    ) {
        self.change_backend(now, id, |backend| {
            backend.settings = BackendSettings {
                ceiling,
                capacity,
                weight,
                ..backend.settings
            };
            backend.limiter.set_bounds(ceiling, capacity);
        });
    }

    /// Removes a back-end: it takes no more flows, and is gone with the last that it has.
    pub fn remove_backend(&mut self, now: Time, id: BackendId) {
        self.change_backend(now, id, |backend| {
            backend.leaving = true;
            backend.state = BackendState::Draining;
        });
        self.retire(id);
    }

    /// Sets a back-end's ceiling, as near as its bounds allow. A higher one lets requests out of
    /// the queue at once; a lower one is reached as flows end.
    pub fn set_ceiling(&mut self, now: Time, id: BackendId, ceiling: u32) {
        self.change_backend(now, id, |backend| backend.limiter.set_ceiling(ceiling));
    }

    /// Says whether a back-end takes new flows; one that was removed does not, whatever is said.
    pub fn set_state(&mut self, now: Time, id: BackendId, state: BackendState) {
        self.change_backend(now, id, |backend| {
            if !backend.leaving {
                backend.state = state;
            }
        });
    }

    fn change_backend(&mut self, now: Time, id: BackendId, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.backends.get_mut(id.0) {
            change(backend);
            self.refresh(id);
            self.settle(now);
        }
    }

    /// Drops a removed back-end that has no flow left, and with the last one a removed service.
    pub(super) fn retire(&mut self, id: BackendId) {
        let Some(backend) = self.backends.get(id.0) else {
            return;
        };
        if !backend.leaving || backend.flows > 0 {
            return;
        }
        let (service, position) = (backend.service, backend.position);
        self.backends.remove(id.0);
        self.services[service.0].members[position as usize] = None;
        self.retire_service(service);
    }

    fn retire_service(&mut self, id: ServiceId) {
        if self
            .services
            .get(id.0)
            .is_some_and(|service| service.leaving && !service.has_members())
        {
            self.services.remove(id.0);
        }
    }

    /// Makes room for all that may wait, and for a key and a timer of each that and each flow.
    pub(super) fn set_queue_capacity(&mut self) {
        let capacities = self.services.iter().filter(|(_, service)| !service.leaving);
        let queued = capacities
            .map(|(_, service)| service.settings.queue_capacity.max(service.queue.len()))
            .fold(0, u32::saturating_add)
            .min(keys::RECORDS_MAX);
        let flows = self.flows.capacity();
        self.backlog.set_capacity(queued);
        self.timers
            .set_capacity(queued.saturating_add(flows).min(NONE - 1));
        self.index.reserve(queued as usize + flows as usize);
    }
}
