//! What a new configuration makes of the services and back-ends that there are: who stays, comes,
//! comes back and goes. Pure. What could fail in the middle of the change is found out here.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use crate::admission::{BackendId, GroupId, ServiceId};
use crate::config::{BACKENDS_MAX, Config, GROUPS_MAX, SERVICES_MAX};

/// A service that there is. It is known by its address, whatever its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KnownService {
    pub(super) id: ServiceId,
    pub(super) address: SocketAddr,
    /// Removed, with flows left.
    pub(super) leaving: bool,
    pub(super) backends: Vec<KnownBackend>,
}

/// A back-end that there is. It is known by its address within its service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KnownBackend {
    pub(super) id: BackendId,
    pub(super) address: SocketAddr,
    /// Removed, with flows left.
    pub(super) leaving: bool,
    /// While it has any, it is not gone.
    pub(super) flows: u32,
    pub(super) group: Option<GroupId>,
}

/// A group that there is, known by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KnownGroup {
    pub(super) id: GroupId,
    pub(super) name: Arc<str>,
}

/// What becomes of something that is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate<Id> {
    /// It is there, and stays.
    Kept(Id),
    /// It was removed and is still there: its flows count on.
    Revived(Id),
    /// It is not there yet.
    New,
}

/// Who stays, comes and goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    /// For each service of the configuration, what becomes of it and of each of its back-ends.
    pub(super) services: Vec<(Fate<ServiceId>, Vec<Fate<BackendId>>)>,
    /// For each group of the configuration, the one of this name.
    pub(super) groups: Vec<Option<GroupId>>,
    /// Services to remove, with all their back-ends.
    pub(super) gone_services: Vec<ServiceId>,
    /// Back-ends to remove from services that stay.
    pub(super) gone_backends: Vec<BackendId>,
    /// Groups that no back-end is configured for.
    pub(super) gone_groups: Vec<GroupId>,
}

/// Why a configuration that is right cannot take the place of the one that runs: there is no room
/// beside what was removed and has connections left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "{wanted} {what} beside {leaving} that were removed and have connections left are more than \
     {most}; let these end, or disable their back-ends"
)]
pub struct NoRoom {
    what: &'static str,
    wanted: usize,
    leaving: usize,
    most: usize,
}

impl NoRoom {
    fn check(what: &'static str, wanted: usize, leaving: usize, most: usize) -> Result<(), Self> {
        let no_room = Self {
            what,
            wanted,
            leaving,
            most,
        };
        if wanted + leaving > most {
            return Err(no_room);
        }
        Ok(())
    }
}

/// What `config` makes of what there is.
pub(super) fn plan(
    services: &[KnownService],
    groups: &[KnownGroup],
    config: &Config,
) -> Result<Plan, NoRoom> {
    let known: HashMap<_, _> = services.iter().map(|one| (one.address, one)).collect();
    let mut plan = Plan {
        services: Vec::with_capacity(config.services.len()),
        groups: Vec::with_capacity(config.groups.len()),
        gone_services: Vec::new(),
        gone_backends: Vec::new(),
        gone_groups: Vec::new(),
    };
    let mut staying = Staying::default();
    let mut wanted = HashSet::new();
    for service in &config.services {
        wanted.insert(service.address);
        let Some(known) = known.get(&service.address) else {
            let backends = vec![Fate::New; service.backends.len()];
            plan.services.push((Fate::New, backends));
            continue;
        };
        let of_address: HashMap<_, _> = known
            .backends
            .iter()
            .map(|one| (one.address, one))
            .collect();
        let mut kept = HashSet::new();
        let backends = service.backends.iter().map(|backend| {
            let Some(known) = of_address.get(&backend.address) else {
                return Fate::New;
            };
            kept.insert(known.id);
            if known.leaving {
                // It is in its group until it comes back.
                staying.groups.extend(known.group);
            }
            match known.leaving {
                true => Fate::Revived(known.id),
                false => Fate::Kept(known.id),
            }
        });
        let fate = match known.leaving {
            true => Fate::Revived(known.id),
            false => Fate::Kept(known.id),
        };
        plan.services.push((fate, backends.collect()));
        for backend in known.backends.iter().filter(|one| !kept.contains(&one.id)) {
            staying.note(backend);
            if !backend.leaving {
                plan.gone_backends.push(backend.id);
            }
        }
    }
    for service in services.iter().filter(|one| !wanted.contains(&one.address)) {
        service.backends.iter().for_each(|one| staying.note(one));
        staying.services += usize::from(service.backends.iter().any(|one| one.flows > 0));
        if !service.leaving {
            plan.gone_services.push(service.id);
        }
    }
    plan.assign_groups(groups, config);
    let of_leaving = plan
        .gone_groups
        .iter()
        .filter(|id| staying.groups.contains(*id));
    let groups_staying = of_leaving.count();
    NoRoom::check(
        "services",
        config.services.len(),
        staying.services,
        SERVICES_MAX,
    )?;
    NoRoom::check(
        "back-ends",
        config.backends_len(),
        staying.backends,
        BACKENDS_MAX,
    )?;
    NoRoom::check("groups", config.groups.len(), groups_staying, GROUPS_MAX)?;
    Ok(plan)
}

/// What is configured no more and has flows left.
#[derive(Default)]
struct Staying {
    services: usize,
    backends: usize,
    groups: HashSet<GroupId>,
}

impl Staying {
    fn note(&mut self, backend: &KnownBackend) {
        if backend.flows > 0 {
            self.backends += 1;
            self.groups.extend(backend.group);
        }
    }
}

impl Plan {
    fn assign_groups(&mut self, groups: &[KnownGroup], config: &Config) {
        let of_name: HashMap<_, _> = groups.iter().map(|one| (&*one.name, one.id)).collect();
        let configured = config.groups.iter();
        self.groups = configured
            .map(|group| of_name.get(group.name.as_str()).copied())
            .collect();
        let kept: HashSet<_> = self.groups.iter().flatten().copied().collect();
        self.gone_groups = groups.iter().map(|group| group.id).collect();
        self.gone_groups.retain(|id| !kept.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Services by the last number of their address, each with back-ends by theirs and, if they are
    /// in one, the name of their group.
    fn config(services: &[(u8, &[(u8, &str)])]) -> Config {
        let mut text = "[dataplane]\ninterfaces = [\"eth0\"]\n".to_owned();
        let mut groups = Vec::new();
        for (service, backends) in services {
            text += &format!("[[service]]\naddress = \"192.0.2.{service}:80\"\n");
            for (backend, group) in *backends {
                text += "[[service.backend]]\ncapacity = 9\n";
                text += &format!("address = \"10.0.0.{backend}:80\"\n");
                if !group.is_empty() {
                    text += &format!("group = {group:?}\n");
                    groups.push(*group);
                }
            }
        }
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            text += &format!("[[group]]\nname = {group:?}\nceiling = 3\n");
        }
        Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap()
    }

    fn backend(id: u32, last: u8, flows: u32) -> KnownBackend {
        KnownBackend {
            id: BackendId(id),
            address: address(&format!("10.0.0.{last}:80")),
            leaving: false,
            flows,
            group: None,
        }
    }

    fn leaving(id: u32, last: u8) -> KnownBackend {
        KnownBackend {
            leaving: true,
            ..backend(id, last, 1)
        }
    }

    fn service(id: u32, last: u8, backends: &[KnownBackend]) -> KnownService {
        KnownService {
            id: ServiceId(id),
            address: address(&format!("192.0.2.{last}:80")),
            leaving: false,
            backends: backends.to_vec(),
        }
    }

    fn plan_of(known: &[KnownService], services: &[(u8, &[(u8, &str)])]) -> Plan {
        plan(known, &[], &config(services)).unwrap()
    }

    #[test]
    fn at_first_everything_is_new() {
        let plan = plan_of(&[], &[(1, &[(1, ""), (2, "")])]);
        assert_eq!(plan.services, [(Fate::New, vec![Fate::New; 2])]);
        assert_eq!((plan.gone_services.len(), plan.gone_backends.len()), (0, 0));
    }

    #[test]
    fn what_has_the_same_address_stays_in_whatever_order() {
        let known = [
            service(0, 1, &[backend(4, 1, 0), backend(5, 2, 9)]),
            service(1, 2, &[backend(6, 1, 0)]),
        ];
        let plan = plan_of(&known, &[(2, &[(1, "")]), (1, &[(2, ""), (1, "")])]);
        let kept = |id| Fate::Kept(BackendId(id));
        assert_eq!(
            plan.services,
            [
                (Fate::Kept(ServiceId(1)), vec![kept(6)]),
                (Fate::Kept(ServiceId(0)), vec![kept(5), kept(4)]),
            ]
        );
        assert_eq!((plan.gone_services.len(), plan.gone_backends.len()), (0, 0));
    }

    #[test]
    fn the_same_server_behind_two_services_is_two_back_ends() {
        let known = [
            service(0, 1, &[backend(4, 1, 0)]),
            service(1, 2, &[backend(6, 1, 0)]),
        ];
        let plan = plan_of(&known, &[(1, &[(2, "")]), (2, &[(1, "")])]);
        assert_eq!(plan.services[0].1, [Fate::New]);
        assert_eq!(plan.services[1].1, [Fate::Kept(BackendId(6))]);
        assert_eq!(plan.gone_backends, [BackendId(4)]);
    }

    #[test]
    fn what_was_removed_and_is_still_there_comes_back() {
        let mut gone = service(1, 2, &[leaving(6, 1)]);
        gone.leaving = true;
        let known = [service(0, 1, &[backend(4, 1, 0), leaving(5, 2)]), gone];
        let plan = plan_of(
            &known,
            &[(1, &[(1, ""), (2, "")]), (2, &[(1, ""), (3, "")])],
        );
        assert_eq!(plan.services[0].1[1], Fate::Revived(BackendId(5)));
        assert_eq!(
            plan.services[1],
            (
                Fate::Revived(ServiceId(1)),
                vec![Fate::Revived(BackendId(6)), Fate::New]
            )
        );
    }

    #[test]
    fn what_is_configured_no_more_goes_and_what_was_removed_before_is_not_removed_again() {
        let mut gone = service(2, 3, &[leaving(7, 1)]);
        gone.leaving = true;
        let known = [
            service(0, 1, &[backend(4, 1, 0), leaving(5, 2), backend(8, 3, 1)]),
            service(1, 2, &[backend(6, 1, 1)]),
            gone,
        ];
        let plan = plan_of(&known, &[(1, &[(1, "")])]);
        assert_eq!(plan.gone_services, [ServiceId(1)]);
        assert_eq!(plan.gone_backends, [BackendId(8)]);
    }

    #[test]
    fn groups_are_known_by_their_names() {
        let groups = ["db", "old"].map(Arc::<str>::from);
        let groups: Vec<_> = (3..)
            .zip(groups)
            .map(|(id, name)| KnownGroup {
                id: GroupId(id),
                name,
            })
            .collect();
        let config = config(&[(1, &[(1, "db"), (2, "new")])]);
        let plan = plan(&[], &groups, &config).unwrap();
        assert_eq!(plan.groups, [Some(GroupId(3)), None]);
        assert_eq!(plan.gone_groups, [GroupId(4)]);
    }

    /// So many back-ends with flows that were removed, or are to be.
    fn crowd(count: u32, was_removed: bool) -> Vec<KnownBackend> {
        let of_place = |id: u32| KnownBackend {
            id: BackendId(id),
            address: SocketAddr::new([10, 1, (id >> 8) as u8, id as u8].into(), 80),
            leaving: was_removed,
            flows: 1,
            group: Some(GroupId(id % GROUPS_MAX as u32)),
        };
        (0..count).map(of_place).collect()
    }

    #[test]
    fn back_ends_that_still_have_flows_take_room() {
        let two: &[(u8, &[(u8, &str)])] = &[(1, &[(1, ""), (2, "")])];
        let most = BACKENDS_MAX as u32;
        for was_removed in [true, false] {
            let fits = [service(0, 1, &crowd(most - 2, was_removed))];
            assert!(plan(&fits, &[], &config(two)).is_ok());
            let full = [service(0, 1, &crowd(most - 1, was_removed))];
            let error = plan(&full, &[], &config(two)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "2 back-ends beside 4095 that were removed and have connections left are more \
                 than 4096; let these end, or disable their back-ends"
            );
        }
        let mut without_flows = crowd(most, false);
        without_flows.iter_mut().for_each(|one| one.flows = 0);
        assert!(plan(&[service(0, 1, &without_flows)], &[], &config(two)).is_ok());
    }

    #[test]
    fn services_that_still_have_flows_take_room() {
        let known: Vec<_> = (0..SERVICES_MAX as u32)
            .map(|id| {
                let mut one = service(id, 1, &[leaving(id, 1)]);
                one.leaving = true;
                one.address = SocketAddr::new([192, 0, 3, id as u8].into(), 80);
                one
            })
            .collect();
        let one: &[(u8, &[(u8, &str)])] = &[(1, &[(1, "")])];
        let error = plan(&known, &[], &config(one)).unwrap_err();
        assert_eq!((error.what, error.leaving), ("services", 256));
        assert!(plan(&known[1..], &[], &config(one)).is_ok());
    }

    #[test]
    fn groups_of_back_ends_that_still_have_flows_take_room() {
        let groups: Vec<_> = (0..GROUPS_MAX as u32)
            .map(|id| KnownGroup {
                id: GroupId(id),
                name: format!("g{id}").into(),
            })
            .collect();
        let known = [service(0, 1, &crowd(GROUPS_MAX as u32, true))];
        let new = config(&[(1, &[(1, "new")])]);
        let error = plan(&known, &groups, &new).unwrap_err();
        assert_eq!((error.what, error.leaving), ("groups", 64));
        let known = [service(0, 1, &crowd(GROUPS_MAX as u32 - 1, true))];
        assert!(plan(&known, &groups, &new).is_ok());
        let same = config(&[(1, &[(1, "g7")])]);
        let known = [service(0, 1, &crowd(GROUPS_MAX as u32, true))];
        assert!(plan(&known, &groups, &same).is_ok(), "it has that one");
    }
}
