//! Makes the services and back-ends those of a configuration, at the start and while everything
//! runs. Who stays and goes is [`plan`](super::plan)'s; here it happens, within one turn.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use dispatcher_common::addr::Port;
use dispatcher_common::service::ServiceKey;

use super::floods::guarded_if;
use super::handle::Names;
use super::plan::{Fate, KnownBackend, KnownGroup, KnownService, NoRoom, Plan, plan};
use super::waits::Waits;
use super::{BackendInfo, BackendWay, Engine, GroupInfo, ServiceInfo, unattended, way_to};
use crate::admission::{
    AddError, BackendId, BackendSettings, Balance, Ceiling, FloodMode, FloodSettings, GroupId,
    Overflow, ServiceId, ServiceSettings, Time,
};
use crate::ceiling::{Bounds, Controller};
use crate::config::{self, Config};
use crate::fault::{self, Point};

/// Who is there after a change: first the services of the configuration in its order, each with
/// first its configured back-ends in theirs; then those that were removed and have flows left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roster {
    /// Services.
    pub services: Vec<Enrolled<ServiceId>>,
    /// For each of them its back-ends.
    pub backends: Vec<Vec<Enrolled<BackendId>>>,
}

/// A service or a back-end that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Enrolled<Id> {
    /// Its number.
    pub id: Id,
    /// Unlike that of any other.
    pub name: Arc<str>,
    /// What it is known by.
    pub address: SocketAddr,
    /// How it stands since the change.
    pub since: Since,
}

/// What a change has made of a service or a back-end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// It was there before.
    Kept,
    /// It had been removed, and its flows count on.
    Revived,
    /// It was not there, though another may have had its number.
    New,
    /// It was removed; its flows go on.
    Leaving,
}

impl<Id> Fate<Id> {
    const fn since(&self) -> Since {
        match self {
            Self::Kept(_) => Since::Kept,
            Self::Revived(_) => Since::Revived,
            Self::New => Since::New,
        }
    }
}

impl Engine {
    /// Makes the services and back-ends those of the configuration. `number` says under which
    /// number flows of an earlier daemon know a back-end.
    ///
    /// # Errors
    ///
    /// When there is no room; then nothing has changed.
    pub(super) fn configure(
        &mut self,
        now: Time,
        config: &Config,
        number: impl FnMut(SocketAddr, SocketAddr) -> Option<BackendId>,
    ) -> Result<Roster, NoRoom> {
        self.forget_gone();
        let plan = plan(&self.known_services(), &self.known_groups(), config)?;
        fault::point(Point::ChangePlanned);
        // Nobody is released in between: requests see all of it or nothing.
        self.admission.hold();
        self.remove(now, &plan);
        fault::point(Point::OldRemoved);
        self.assign_groups(now, config, &plan);
        self.assign_services(now, config, &plan, number);
        self.admission.go_on(now);
        self.name_those_that_leave();
        self.tell_of_services();
        self.control.unattended = unattended(config.dataplane.unattended);
        self.tell_program();
        Ok(self.roster(&plan))
    }

    fn known_services(&self) -> Vec<KnownService> {
        let known = |service: &ServiceInfo| KnownService {
            id: service.id,
            address: service.address,
            leaving: self.is_leaving(service.id),
            backends: service
                .backends
                .iter()
                .filter_map(|one| self.known_backend(one))
                .collect(),
        };
        self.services.iter().map(known).collect()
    }

    fn known_backend(&self, info: &BackendInfo) -> Option<KnownBackend> {
        let view = self.admission.backend(info.id)?;
        Some(KnownBackend {
            id: info.id,
            address: info.address,
            leaving: view.leaving,
            flows: view.flows,
            group: view.group,
        })
    }

    fn known_groups(&self) -> Vec<KnownGroup> {
        let known = |group: &GroupInfo| KnownGroup {
            id: group.id,
            name: Arc::clone(&group.name),
        };
        self.groups.iter().map(known).collect()
    }

    fn is_leaving(&self, id: ServiceId) -> bool {
        self.admission
            .service(id)
            .is_none_or(|service| service.leaving)
    }

    fn remove(&mut self, now: Time, plan: &Plan) {
        for id in &plan.gone_services {
            self.admission.remove_service(now, *id);
        }
        for id in &plan.gone_backends {
            self.admission.remove_backend(now, *id);
        }
    }

    /// Makes the groups those of the configuration. Back-ends that are in another one from now on
    /// are in none for as long as this takes: there may be no room for old and new together.
    fn assign_groups(&mut self, now: Time, config: &Config, plan: &Plan) {
        for (service, (_, fates)) in config.services.iter().zip(&plan.services) {
            for (backend, fate) in service.backends.iter().zip(fates) {
                let wanted = backend.group.and_then(|at| plan.groups[at]);
                if let Fate::Kept(id) = *fate
                    && let Some(view) = self.admission.backend(id)
                    && view.group != wanted
                {
                    let (ceiling, capacity) = (view.settings.ceiling, view.settings.capacity);
                    let weight = view.settings.weight;
                    let left = self
                        .admission
                        .update_backend(now, id, ceiling, capacity, weight, None);
                    note(left);
                }
            }
        }
        let admission = &mut self.admission;
        self.groups.retain(|group| {
            !plan.gone_groups.contains(&group.id) || admission.remove_group(group.id).is_err()
        });
        let mut groups = Vec::with_capacity(config.groups.len());
        for (group, known) in config.groups.iter().zip(&plan.groups) {
            let id = match known {
                Some(id) => {
                    self.admission.set_group_ceiling(now, *id, group.ceiling);
                    *id
                }
                None => match self.admission.add_group(group.ceiling) {
                    Ok(id) => id,
                    Err(error) => {
                        note::<()>(Err(error));
                        continue;
                    }
                },
            };
            groups.push(GroupInfo {
                id,
                name: group.name.as_str().into(),
            });
        }
        let configured: HashSet<_> = groups.iter().map(|group| group.id).collect();
        let left = self.groups.drain(..);
        groups.extend(left.filter(|group| !configured.contains(&group.id)));
        self.groups = groups;
    }

    fn assign_services(
        &mut self,
        now: Time,
        config: &Config,
        plan: &Plan,
        mut number: impl FnMut(SocketAddr, SocketAddr) -> Option<BackendId>,
    ) {
        let before = std::mem::take(&mut self.services);
        let mut before: HashMap<_, _> = before.into_iter().map(|one| (one.id, one)).collect();
        for (service, (fate, fates)) in config.services.iter().zip(&plan.services) {
            let settings = service_settings(service);
            let info = match *fate {
                Fate::Kept(id) => {
                    let known = self.admission.service(id);
                    // All that wait are gone through, so only where there is something new.
                    if known.is_some_and(|known| known.settings != settings) {
                        self.admission.update_service(now, id, settings);
                    }
                    before.remove(&id)
                }
                Fate::Revived(id) => {
                    self.admission.revive_service(now, id, settings);
                    before.remove(&id)
                }
                Fate::New => note(self.admission.add_service(settings)).map(|id| ServiceInfo {
                    id,
                    name: "".into(),
                    address: service.address,
                    backends: Vec::new(),
                    waits: Waits::new(now),
                }),
            };
            let Some(mut info) = info else { continue };
            if *info.name != *service.name {
                info.name = service.name.as_str().into();
            }
            let left = std::mem::take(&mut info.backends);
            for (backend, fate) in service.backends.iter().zip(fates) {
                let group = backend.group.and_then(|at| self.groups.get(at));
                let (group, group_name) = group
                    .map(|group| (group.id, Arc::clone(&group.name)))
                    .unzip();
                let first = number(service.address, backend.address);
                let id = self.assign_backend(now, (info.id, service), backend, *fate, group, first);
                if let Some(id) = id {
                    info.backends.push(BackendInfo {
                        id,
                        name: backend.name.as_str().into(),
                        address: backend.address,
                        policy: service.ceiling.policy.label(),
                        group: group_name,
                    });
                }
            }
            let configured: HashSet<_> = info.backends.iter().map(|one| one.id).collect();
            let left = left.into_iter().filter(|one| !configured.contains(&one.id));
            info.backends.extend(left);
            self.services.push(info);
        }
        let mut left: Vec<_> = before.into_values().collect();
        left.sort_unstable_by_key(|service| service.id);
        self.services.extend(left);
        self.any_leaving = true;
        self.forget_gone();
    }

    /// Makes a back-end what is configured of it. Returns its number.
    fn assign_backend(
        &mut self,
        now: Time,
        (of, service): (ServiceId, &config::Service),
        backend: &config::Backend,
        fate: Fate<BackendId>,
        group: Option<GroupId>,
        first: Option<BackendId>,
    ) -> Option<BackendId> {
        let mut settings = backend_settings(backend, group);
        if let Fate::Kept(id) = fate {
            let (ceiling, capacity) = (settings.ceiling, settings.capacity);
            let known = self.admission.backend(id).map(|known| known.settings);
            if known != Some(settings) {
                let weight = settings.weight;
                let updated = self
                    .admission
                    .update_backend(now, id, ceiling, capacity, weight, group);
                note(updated);
            }
            return Some(id);
        }
        if !self.is_starting() {
            settings.ceiling.initial = slow_start(service, backend);
        }
        if let Fate::Revived(id) = fate {
            self.resets.cancel(id);
            note(self.admission.revive_backend(now, id, settings));
            return Some(id);
        }
        let added = self.admission.add_backend_as(now, of, settings, first);
        let id = note(added)?;
        let at = id.0 as usize;
        let len = self.backends.len().max(at + 1);
        self.backends.resize(len, BackendWay::UNUSED);
        self.backends[at] = BackendWay {
            address: backend.address,
            next_hop: way_to(&self.network, backend.address.ip()),
            is_shared: true,
        };
        let measured = match self.is_starting() {
            true => self.datapath.measure(id.0),
            false => self.datapath.measure_anew(id.0),
        };
        if let Err(error) = measured {
            tracing::error!(%error, backend = backend.name, "its times are not measured");
        }
        Some(id)
    }

    /// Nothing is attached yet.
    fn is_starting(&self) -> bool {
        self.attached.is_none()
    }

    /// Forgets what was removed and whose last flow is gone. Its numbers are used again, but not
    /// before [`Self::configure`] gives them out.
    pub(super) fn forget_gone(&mut self) {
        if !self.any_leaving {
            return;
        }
        let Self {
            admission,
            datapath,
            resets,
            ..
        } = self;
        let (mut gone, mut leaving) = (false, false);
        self.services.retain_mut(|service| {
            service.backends.retain(|backend| {
                let view = admission.backend(backend.id);
                leaving |= view.is_some_and(|view| view.leaving);
                if view.is_none() {
                    gone = true;
                    datapath.measure_no_more(backend.id.0);
                    resets.cancel(backend.id);
                }
                view.is_some()
            });
            admission.service(service.id).is_some()
        });
        self.any_leaving = leaving;
        let used: HashSet<_> = admission.backends().filter_map(|one| one.group).collect();
        self.groups
            .retain(|group| used.contains(&group.id) || admission.remove_group(group.id).is_err());
        if gone {
            self.tell_names();
        }
    }

    /// Gives each that leaves a name that no other has: with its address, if its own is another's
    /// now. An `@` is in no configured name.
    fn name_those_that_leave(&mut self) {
        let services = self.services.iter().filter(|one| !self.is_leaving(one.id));
        let mut taken: HashSet<_> = services.map(|one| Arc::clone(&one.name)).collect();
        for at in 0..self.services.len() {
            let leaving = self.is_leaving(self.services[at].id);
            let service = &mut self.services[at];
            if leaving {
                service.name = free_name(&mut taken, &service.name, service.address);
            }
            let admission = &self.admission;
            let leaves = |one: &BackendInfo| admission.backend(one.id).is_none_or(|v| v.leaving);
            let staying = service.backends.iter().filter(|one| !leaves(one));
            let mut taken: HashSet<_> = staying.map(|one| Arc::clone(&one.name)).collect();
            for backend in service.backends.iter_mut().filter(|one| leaves(one)) {
                backend.name = free_name(&mut taken, &backend.name, backend.address);
            }
        }
    }

    /// Tells the program of the services. One that stays is never missing from the map.
    fn tell_of_services(&mut self) {
        self.by_key.clear();
        let mut keys = Vec::with_capacity(self.services.len());
        for service in &self.services {
            if !self.is_leaving(service.id) {
                let (ip, port) = (service.address.ip(), service.address.port());
                let key = ServiceKey::new(ip.into(), Port::new(port));
                let known = self.admission.service(service.id);
                let is_flooded = known.is_some_and(|known| known.flood.since.is_some());
                keys.push((key, guarded_if(service.id, is_flooded)));
                self.by_key.insert(key, service.id);
            }
        }
        if let Err(error) = self.datapath.set_services(&keys) {
            tracing::error!(%error, "the program does not know the services");
        }
        self.note_shared();
        self.tell_names();
    }

    /// Notes where each service stands, and tells everybody the names.
    fn tell_names(&mut self) {
        self.places.clear();
        for (at, service) in self.services.iter().enumerate() {
            let number = service.id.0 as usize;
            let len = self.places.len().max(number + 1);
            self.places.resize(len, usize::MAX);
            self.places[number] = at;
        }
        let backends = |service: &ServiceInfo| {
            let named = |one: &BackendInfo| (one.address, Arc::clone(&one.name));
            service.backends.iter().map(named).collect()
        };
        let named = |one: &ServiceInfo| (one.address, (Arc::clone(&one.name), backends(one)));
        let names: Names = self.services.iter().map(named).collect();
        self.names.send_replace(Arc::new(names));
    }

    /// Those of the configuration stand in its order, as the plan's do.
    fn roster(&self, plan: &Plan) -> Roster {
        let mut roster = Roster::default();
        for (at, info) in self.services.iter().enumerate() {
            let planned = plan.services.get(at);
            roster.services.push(Enrolled {
                id: info.id,
                name: Arc::clone(&info.name),
                address: info.address,
                since: planned.map_or(Since::Leaving, |(fate, _)| fate.since()),
            });
            let fates = planned.map_or(&[][..], |(_, fates)| fates);
            let enrolled = info.backends.iter().enumerate().map(|(at, one)| Enrolled {
                id: one.id,
                name: Arc::clone(&one.name),
                address: one.address,
                since: fates.get(at).map_or(Since::Leaving, Fate::since),
            });
            roster.backends.push(enrolled.collect());
        }
        roster
    }
}

/// The plan has seen to it that nothing of this fails.
fn note<T>(done: Result<T, AddError>) -> Option<T> {
    if let Err(error) = &done {
        tracing::error!(%error, "a part of the configuration is not in force");
    }
    done.ok()
}

/// `name`, or, where it is taken, the same with the address. It is taken from then on.
fn free_name(taken: &mut HashSet<Arc<str>>, name: &Arc<str>, address: SocketAddr) -> Arc<str> {
    let mut free = Arc::clone(name);
    if taken.contains(&free) {
        let first = name.split('@').next().unwrap_or_default();
        free = format!("{first}@{address}").into();
    }
    taken.insert(Arc::clone(&free));
    free
}

/// The ceiling with which a back-end begins that comes while others serve.
fn slow_start(service: &config::Service, backend: &config::Backend) -> u32 {
    let bounds = Bounds {
        min: backend.ceiling.min,
        max: backend.ceiling.max,
    };
    Controller::new(&service.ceiling, bounds, backend.ceiling.initial).came_up()
}

fn service_settings(service: &config::Service) -> ServiceSettings {
    ServiceSettings {
        queue_capacity: service.queue.capacity,
        queue_timeout: service.queue.timeout,
        overflow: match service.queue.overflow {
            config::Overflow::Refuse => Overflow::Refuse,
            config::Overflow::Drop => Overflow::Drop,
        },
        per_source: service.queue.per_source,
        connect: service.timeouts.connect,
        handshake: service.timeouts.handshake,
        idle: service.timeouts.idle,
        closing: service.timeouts.closing,
        balance: match service.balance {
            config::Balance::RoundRobin => Balance::RoundRobin,
            config::Balance::LeastConnections => Balance::LeastConnections,
            config::Balance::LeastResponseTime => Balance::LeastResponseTime,
            config::Balance::SourceHash => Balance::SourceHash,
        },
        flood: FloodSettings {
            mode: match service.flood.mode {
                config::FloodMode::Auto => FloodMode::Auto,
                config::FloodMode::On => FloodMode::On,
                config::FloodMode::Off => FloodMode::Off,
            },
            rate: service.flood.rate,
            hold: service.flood.hold,
            half_open: service.flood.half_open,
            handshake: service.flood.handshake,
        },
    }
}

fn backend_settings(backend: &config::Backend, group: Option<GroupId>) -> BackendSettings {
    BackendSettings {
        addr: backend.address.ip().into(),
        port: Port::new(backend.address.port()),
        ceiling: Ceiling {
            initial: backend.ceiling.initial,
            min: backend.ceiling.min,
            max: backend.ceiling.max,
        },
        capacity: backend.capacity,
        weight: backend.weight,
        group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_the_same_name_are_told_apart_by_their_addresses() {
        let address = |last: u8| SocketAddr::new([10, 0, 0, last].into(), 80);
        let mut taken = HashSet::from([Arc::from("web-1")]);
        let mut name = |name: &str, last| free_name(&mut taken, &name.into(), address(last));
        assert_eq!(&*name("web-2", 1), "web-2");
        assert_eq!(&*name("web-1", 2), "web-1@10.0.0.2:80");
        assert_eq!(&*name("web-1", 3), "web-1@10.0.0.3:80");
        assert_eq!(
            &*name("web-2@10.0.0.9:80", 9),
            "web-2@10.0.0.9:80",
            "it keeps it"
        );
    }
}
