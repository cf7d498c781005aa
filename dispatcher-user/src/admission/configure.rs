//! Services and back-ends as they come, change and go, while the system runs. None of it is on the
//! path of a packet, and none of it cuts a connection. Numbers that name nothing change nothing.

use core::fmt;
use core::hash::BuildHasher;
use core::time::Duration;

use dispatcher_common::maps::{BACKENDS_MAX, SERVICES_MAX};

use super::command::{BackendId, GroupId, ServiceId};
use super::group::GROUPS_MAX;
use super::select::GROUPS_PER_SERVICE_MAX;
use super::service::{Backend, Service};
use super::settings::{BackendSettings, BackendState, Ceiling, ServiceSettings};
use super::slab::NONE;
use super::{Admission, Time, keys};

/// Why a service, a back-end or a group cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddError {
    /// There are as many services as there may be.
    ServicesFull,
    /// There are as many back-ends as there may be.
    BackendsFull,
    /// There is no such service.
    NoService,
    /// There are as many groups as there may be.
    GroupsFull,
    /// There is no such group.
    NoGroup,
    /// The service's back-ends are of as many groups as they may be.
    ServiceGroupsFull,
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
            Self::GroupsFull => write!(f, "there are {GROUPS_MAX} groups already; remove one"),
            Self::NoGroup => f.write_str("the group does not exist; add it first"),
            Self::ServiceGroupsFull => write!(
                f,
                "the service's back-ends are of {GROUPS_PER_SERVICE_MAX} groups already; use one \
                 of these, or none"
            ),
        }
    }
}

impl core::error::Error for AddError {}

/// A group cannot be removed: back-ends are in it, so many, counting removed ones whose last
/// connections have not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupInUse(pub u32);

impl fmt::Display for GroupInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} back-ends are in the group, counting removed ones whose last connections have not \
             ended; take them out, or wait",
            self.0
        )
    }
}

impl core::error::Error for GroupInUse {}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// Makes the changes that follow one: nobody who waits is released before [`Self::go_on`].
    pub const fn hold(&mut self) {
        self.held = true;
    }

    /// Ends what [`Self::hold`] began.
    pub fn go_on(&mut self, now: Time) {
        self.held = false;
        self.settle(now);
    }

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
    /// next change on; the next request goes where the new balance says.
    pub fn update_service(&mut self, now: Time, id: ServiceId, settings: ServiceSettings) {
        let Some(service) = self.services.get_mut(id.0) else {
            return;
        };
        if service.settings.balance != settings.balance {
            service.selector.set_balance(settings.balance);
        }
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
        self.bound_half_open(id);
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
        self.turn_away_queue(now, id);
        for backend in members {
            self.remove_backend(now, backend);
        }
        self.retire_service(id);
        self.set_queue_capacity();
    }

    /// Takes a removed service back that still has flows; its back-ends stay removed. Tells whether
    /// it was there.
    pub fn revive_service(&mut self, now: Time, id: ServiceId, settings: ServiceSettings) -> bool {
        let Some(service) = self.services.get_mut(id.0) else {
            return false;
        };
        service.leaving = false;
        self.update_service(now, id, settings);
        true
    }

    /// Adds a back-end, up; requests that wait go to it at once.
    ///
    /// # Errors
    ///
    /// When there is no such service or group, there are [`BACKENDS_MAX`] back-ends, or those of
    /// the service are of [`GROUPS_PER_SERVICE_MAX`] other groups.
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
        let group = settings.group;
        if group.is_some_and(|group| self.groups.get(group).is_none()) {
            return Err(AddError::NoGroup);
        }
        if !owner.selector.admits(group) {
            return Err(AddError::ServiceGroupsFull);
        }
        let free = owner.members.iter().position(Option::is_none);
        let position = free.unwrap_or(owner.members.len());
        let mut backend = Backend::new(now, service, position as u32, settings);
        backend.limiter.bound_half_open(owner.half_open_percent());
        let is_free =
            |id: &BackendId| id.0 < self.backends.capacity() && self.backends.get(id.0).is_none();
        let added = match id.filter(is_free) {
            Some(id) => self.backends.insert_at(id.0, backend).map(|()| id.0),
            None => self.backends.insert(backend),
        };
        let id = added.map_err(|_| AddError::BackendsFull)?;
        let id = BackendId(id);
        if free.is_none() {
            owner.members.push(None);
        }
        owner.members[position] = Some(id);
        owner.window_begun.get_or_insert(now);
        owner.selector.insert(position as u32, &settings);
        self.groups.enter(group, 0);
        self.refresh(id);
        self.settle(now);
        Ok(id)
    }

    /// Changes a back-end, except where it is: a server elsewhere is another back-end. It takes the
    /// slots that it uses into another group, even above that one's ceiling.
    ///
    /// # Errors
    ///
    /// When there is no such group, or the service's back-ends are of [`GROUPS_PER_SERVICE_MAX`]
    /// others; then nothing changes.
    pub fn update_backend(
        &mut self,
        now: Time,
        id: BackendId,
        ceiling: Ceiling,
        capacity: u32,
        weight: u32,
        group: Option<GroupId>,
    ) -> Result<(), AddError> {
        if group.is_some_and(|group| self.groups.get(group).is_none()) {
            return Err(AddError::NoGroup);
        }
        let Some(backend) = self.backends.get_mut(id.0) else {
            return Ok(());
        };
        let before = backend.settings;
        let settings = BackendSettings {
            ceiling,
            capacity,
            weight,
            group,
            ..before
        };
        let selector = &mut self.services[backend.service.0].selector;
        if (before.weight, before.group) != (weight, group)
            && !selector.change(backend.position, &settings)
        {
            return Err(AddError::ServiceGroupsFull);
        }
        backend.settings = settings;
        backend.limiter.set_bounds(ceiling, capacity);
        if before.group != group {
            self.groups.leave(before.group, backend.limiter.held());
            self.groups.enter(group, backend.limiter.held());
        }
        self.refresh(id);
        self.settle(now);
        Ok(())
    }

    /// Adds a group, of at most `ceiling` slots in use over all of its back-ends.
    ///
    /// # Errors
    ///
    /// When there are [`GROUPS_MAX`].
    pub fn add_group(&mut self, ceiling: u32) -> Result<GroupId, AddError> {
        self.groups.add(ceiling).ok_or(AddError::GroupsFull)
    }

    /// Sets a group's ceiling. A higher one lets requests out of queues at once; a lower one is
    /// reached as flows end.
    pub fn set_group_ceiling(&mut self, now: Time, id: GroupId, ceiling: u32) {
        self.groups.set_ceiling(id, ceiling);
        self.settle(now);
    }

    /// Removes a group.
    ///
    /// # Errors
    ///
    /// While a back-end is in it; then nothing changes.
    pub fn remove_group(&mut self, id: GroupId) -> Result<(), GroupInUse> {
        match self.groups.get(id) {
            Some(group) if group.members > 0 => return Err(GroupInUse(group.members)),
            _ => {}
        }
        for service in self.groups.remove(id) {
            self.not_held_up(service, id);
        }
        Ok(())
    }

    /// Says how fast a back-end answers, once a window; nothing, when none of its answers was
    /// measured in it. Only [`Balance::LeastResponseTime`](super::Balance) takes notice.
    pub fn set_response_time(&mut self, id: BackendId, response: Option<Duration>) {
        if let Some(backend) = self.backends.get(id.0) {
            let selector = &mut self.services[backend.service.0].selector;
            selector.set_response_time(backend.position, response);
        }
    }

    /// Removes a back-end: it takes no more flows, and is gone with the last that it has.
    pub fn remove_backend(&mut self, now: Time, id: BackendId) {
        let Some(backend) = self.backends.get_mut(id.0) else {
            return;
        };
        backend.leaving = true;
        backend.state = BackendState::Draining;
        let selector = &mut self.services[backend.service.0].selector;
        selector.remove(backend.position);
        self.retire(id);
        self.settle(now);
    }

    /// Takes a removed back-end back that still has flows, as it is configured now but for where it
    /// is: up, at its initial ceiling, against which these flows count. Tells whether it was there.
    ///
    /// # Errors
    ///
    /// As [`Self::add_backend`]; then nothing changes.
    pub fn revive_backend(
        &mut self,
        now: Time,
        id: BackendId,
        settings: BackendSettings,
    ) -> Result<bool, AddError> {
        let Some(backend) = self.backends.get_mut(id.0).filter(|known| known.leaving) else {
            return Ok(false);
        };
        let group = settings.group;
        if group.is_some_and(|group| self.groups.get(group).is_none()) {
            return Err(AddError::NoGroup);
        }
        let service = &mut self.services[backend.service.0];
        if service.leaving {
            return Err(AddError::NoService);
        }
        if !service.selector.admits(group) {
            return Err(AddError::ServiceGroupsFull);
        }
        let before = backend.settings;
        backend.settings = BackendSettings {
            addr: before.addr,
            port: before.port,
            ..settings
        };
        backend.leaving = false;
        backend.state = BackendState::Up;
        backend
            .limiter
            .set_bounds(settings.ceiling, settings.capacity);
        backend.limiter.set_ceiling(settings.ceiling.initial);
        service.selector.insert(backend.position, &backend.settings);
        let held = backend.limiter.held();
        self.groups.leave(before.group, held);
        self.groups.enter(group, held);
        self.refresh(id);
        self.settle(now);
        Ok(true)
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
        self.groups.leave(backend.settings.group, 0);
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
