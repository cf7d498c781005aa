//! Taking over the flows that an earlier daemon left in the kernel.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use dispatcher_common::flow::{Direction, FlowKey};
use dispatcher_common::maps;
use dispatcher_common::tcp::Phase;
use foldhash::quality::RandomState;

use super::Engine;
use super::configure::Roster;
use super::plan::{KnownBackend, KnownService, NoRoom, plan};
use super::removed::keys_of;
use crate::admission::{BackendId, FlowId, ServiceId, Time};
use crate::config::{self, CAPACITY_MIN, CeilingBounds, Config};
use crate::datapath::FlowTable;
use crate::fault::{self, Point};

/// More events than the ring holds, each with a header of 8 bytes.
const EVENTS_WAITING_MAX: usize = maps::EVENTS_BYTES as usize / 24;

/// A service's and a back-end's address: what a back-end is known by when names and the order of
/// the configuration have changed.
type Place = (SocketAddr, SocketAddr);

/// What an earlier daemon left in the flow table.
#[derive(Default)]
pub(super) struct Legacy {
    flows: Vec<LegacyFlow>,
    /// Who has flows.
    owners: HashMap<Place, Owner, RandomState>,
    taken: HashSet<u32, RandomState>,
    /// The last number that was given to a back-end without flows.
    fresh: u32,
    /// Halves of flows that were removed.
    halves: u64,
}

/// A back-end with flows.
#[derive(Clone, Copy)]
struct Owner {
    /// The number by which the entries of its flows know it. The program counts under it.
    number: u32,
    flows: u32,
}

struct LegacyFlow {
    key: FlowKey,
    id: FlowId,
    backend: SocketAddr,
    phase: Phase,
}

impl LegacyFlow {
    /// An operator's reset of it has begun.
    fn is_cut(&self) -> bool {
        self.phase.has(Phase::CUT)
    }

    /// What has happened to it, but for a reset that its ends are to be told of again: it counts
    /// until then.
    fn entered(&self) -> Phase {
        if self.is_cut() {
            self.phase.without(Phase::CUT)
        } else {
            self.phase
        }
    }
}

impl Legacy {
    /// Reads the table.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read it.
    pub(super) fn read(table: &mut FlowTable) -> io::Result<Self> {
        let (mut legacy, whole) = Self::read_once(table)?;
        if !whole {
            let halves = table.remove_halves()?;
            (legacy, _) = Self::read_once(table)?;
            legacy.halves = halves;
        }
        Ok(legacy)
    }

    /// Also tells whether every entry has its other half.
    fn read_once(table: &FlowTable) -> io::Result<(Self, bool)> {
        let mut legacy = Self::default();
        let hasher = RandomState::default();
        // Sums over the keys of reply entries: as they are, and as forward entries name them.
        let (mut are, mut named) = (0u64, 0u64);
        table.for_each(|key, entry| {
            if entry.translation.direction() == Direction::Reply {
                are = are.wrapping_add(hasher.hash_one(key));
                return;
            }
            let to = entry.translation;
            named = named.wrapping_add(hasher.hash_one(key.of_peer(&to)));
            let backend = SocketAddr::new(to.addr.ip(), to.port.number());
            let owner = legacy.owners.entry((vip(key), backend)).or_insert(Owner {
                number: entry.backend,
                flows: 0,
            });
            owner.flows += 1;
            legacy.flows.push(LegacyFlow {
                key: *key,
                id: FlowId {
                    index: entry.flow,
                    generation: entry.generation,
                },
                backend,
                phase: Phase(entry.phase),
            });
        })?;
        legacy.taken = legacy.owners.values().map(|owner| owner.number).collect();
        Ok((legacy, are == named))
    }

    /// The configuration, and with it the services and back-ends that it does not know and that
    /// have flows; nothing if it knows all. Of those it says what can be told of the flows: where
    /// they are, and how many connections each has.
    ///
    /// # Errors
    ///
    /// When there is no room for them beside those of the configuration.
    pub(super) fn beside(&self, config: &Config) -> Result<Option<Config>> {
        let mut left: BTreeMap<SocketAddr, BTreeMap<SocketAddr, Owner>> = BTreeMap::new();
        for (&(service, backend), &owner) in &self.owners {
            left.entry(service).or_default().insert(backend, owner);
        }
        has_room(&left, config)?;
        for service in &config.services {
            let Some(owners) = left.get_mut(&service.address) else {
                continue;
            };
            owners.retain(|at, _| service.backends.iter().all(|known| known.address != *at));
            if owners.is_empty() {
                left.remove(&service.address);
            }
        }
        if left.is_empty() {
            return Ok(None);
        }
        let mut beside = config.clone();
        for (address, owners) in left {
            let mut known = beside.services.iter_mut();
            match known.find(|known| known.address == address) {
                Some(service) => {
                    let nameless = nameless_service(address, &owners)?;
                    service.backends.extend(nameless.backends);
                }
                None => beside.services.push(nameless_service(address, &owners)?),
            }
        }
        Ok(Some(beside))
    }

    /// The number for a back-end: its own if it has flows, else one that no other has.
    pub(super) fn number(&mut self, service: SocketAddr, backend: SocketAddr) -> BackendId {
        if let Some(owner) = self.owners.get(&(service, backend)) {
            return BackendId(owner.number);
        }
        while self.taken.contains(&self.fresh) {
            self.fresh += 1;
        }
        self.taken.insert(self.fresh);
        BackendId(self.fresh)
    }
}

/// As for a reload: what was removed and has flows takes room.
fn has_room(
    left: &BTreeMap<SocketAddr, BTreeMap<SocketAddr, Owner>>,
    config: &Config,
) -> Result<(), NoRoom> {
    let known = |(&address, owners): (&SocketAddr, &BTreeMap<SocketAddr, Owner>)| KnownService {
        id: ServiceId(0),
        address,
        leaving: true,
        backends: owners
            .iter()
            .map(|(&address, owner)| KnownBackend {
                id: BackendId(owner.number),
                address,
                leaving: true,
                flows: owner.flows,
                group: None,
            })
            .collect(),
    };
    let known: Vec<_> = left.iter().map(known).collect();
    plan(&known, &[], config).map(drop)
}

/// A service as it would be if the configuration said no more of it than where it and its back-ends
/// are. Each has the ceiling that it has connections.
fn nameless_service(
    address: SocketAddr,
    owners: &BTreeMap<SocketAddr, Owner>,
) -> Result<config::Service> {
    let mut backends = Vec::with_capacity(owners.len());
    let mut nameless = None;
    for (backend, owner) in owners {
        let text = format!(
            r#"
            dataplane.interfaces = ["none"]
            [[service]]
            address = "{address}"
            [[service.backend]]
            address = "{backend}"
            capacity = {CAPACITY_MIN}
            "#
        );
        let file = Path::new("what flows know");
        let mut service = Config::parse(file, text.as_bytes())?.services.remove(0);
        for mut backend in service.backends.drain(..) {
            backend.ceiling = CeilingBounds {
                initial: owner.flows,
                min: 1,
                max: owner.flows,
            };
            backend.capacity = owner.flows.saturating_add(1);
            backends.push(backend);
        }
        nameless = Some(service);
    }
    let service = nameless.context("a service without back-ends")?;
    Ok(config::Service {
        backends,
        ..service
    })
}

fn vip(forward: &FlowKey) -> SocketAddr {
    SocketAddr::new(forward.dst.ip(), forward.dst_port.number())
}

/// What became of the flows that were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Adopted {
    /// Flows that go on, and count against their back-ends' ceilings.
    pub(super) flows: u64,
    /// Halves of flows, those that a back-end has refused, and what there is no place for: removed.
    pub(super) removed: u64,
}

impl Engine {
    /// Makes services and back-ends those of the configuration, and takes over what an earlier
    /// daemon left: whoever has flows and is configured no more is kept until they have ended, as
    /// after a reload. Also returns who was there before those were removed, if some were.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to read the flow table, or there is no room.
    pub(super) fn take_over(
        &mut self,
        now: Time,
        config: &Config,
    ) -> Result<(Roster, Option<(Config, Roster)>)> {
        // What the ring holds may be of flows that the table holds no more; it says all the rest.
        self.datapath.drain_events(EVENTS_WAITING_MAX, |_| {});
        let legacy = Legacy::read(self.datapath.flows());
        let mut legacy = legacy.context("cannot read the flow table")?;
        let beside = legacy.beside(config)?;
        let first = beside.as_ref().unwrap_or(config);
        let number = |service, backend| Some(legacy.number(service, backend));
        let roster = self.configure(now, first, number)?;
        let numbers = roster.backends.iter().flatten().map(|one| one.id.0);
        self.datapath.measure_only(&numbers.collect::<Vec<_>>());
        let adopted = self.adopt(now, &legacy);
        tracing::info!(
            adopted.flows,
            adopted.removed,
            "took over from an earlier daemon"
        );
        match beside {
            None => Ok((roster, None)),
            Some(beside) => {
                let since = self.configure(now, config, |_, _| None)?;
                Ok((since, Some((beside, roster))))
            }
        }
    }

    /// Counts every flow, and removes what there is no place for.
    pub(super) fn adopt(&mut self, now: Time, legacy: &Legacy) -> Adopted {
        let mut adopted = Adopted {
            flows: 0,
            removed: legacy.halves,
        };
        let owners = self.owners();
        let mut placeless = Vec::new();
        // The number of a flow that had ended may have been given to another before its entries
        // were removed.
        let (ended, live): (Vec<_>, Vec<_>) = legacy
            .flows
            .iter()
            .partition(|flow| flow.entered().is_ended());
        for flow in live.into_iter().chain(ended) {
            fault::point(Point::AdoptingFlow);
            let owner = owners.get(&(vip(&flow.key), flow.backend));
            // Its request went with the earlier daemon; the client's retransmission is another.
            let refused = flow.phase.is_refused();
            let phase = flow.entered();
            let taken = owner.is_some_and(|&(service, backend)| {
                !refused
                    && self
                        .admission
                        .adopt(now, service, backend, flow.key, flow.id, phase)
                        .is_ok()
            });
            if taken {
                adopted.flows += 1;
                self.in_table += 1;
                if flow.is_cut() {
                    self.resets.repeat(flow.id);
                }
            } else {
                placeless.extend(keys_of(&flow.key, flow.backend));
                adopted.removed += 1;
            }
        }
        self.datapath.flows().remove_all(&placeless);
        adopted
    }

    fn owners(&self) -> HashMap<Place, (ServiceId, BackendId), RandomState> {
        let of = |service: &super::ServiceInfo| {
            let (id, address) = (service.id, service.address);
            let backends = service.backends.iter();
            backends
                .map(|backend| ((address, backend.address), (id, backend.id)))
                .collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BACKENDS_MAX, SERVICES_MAX};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A service with one back-end.
    fn config() -> Config {
        let text = r#"
            dataplane.interfaces = ["eth0"]
            [[service]]
            address = "192.0.2.1:80"
            [[service.backend]]
            address = "10.0.0.1:80"
            capacity = 9
        "#;
        Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap()
    }

    fn legacy(owners: impl IntoIterator<Item = (Place, u32)>) -> Legacy {
        let owner = |(number, (place, flows))| (place, Owner { number, flows });
        let owners: HashMap<_, _, _> = (0..).zip(owners).map(owner).collect();
        Legacy {
            taken: owners.values().map(|owner: &Owner| owner.number).collect(),
            owners,
            ..Legacy::default()
        }
    }

    #[test]
    fn nothing_stands_beside_a_configuration_that_knows_all_who_have_flows() {
        let place = (at("192.0.2.1:80"), at("10.0.0.1:80"));
        for owners in [vec![], vec![(place, 7)]] {
            assert_eq!(legacy(owners).beside(&config()).unwrap(), None);
        }
    }

    #[test]
    fn who_has_flows_and_is_configured_no_more_stands_behind_those_that_are() {
        let owners = [
            ((at("192.0.2.1:80"), at("10.0.0.1:80")), 1),
            ((at("192.0.2.1:80"), at("10.0.0.2:80")), 2),
            ((at("[2001:db8::1]:80"), at("[fd00::1]:80")), 3),
            ((at("[2001:db8::1]:80"), at("[fd00::2]:80")), 4),
        ];
        let beside = legacy(owners).beside(&config()).unwrap().unwrap();
        let backends = beside.services.iter().flat_map(|one| {
            let backends = one.backends.iter();
            backends.map(|backend| (one.address, backend.address, backend.ceiling.max))
        });
        let expected = owners.map(|((service, backend), flows)| {
            let configured = backend == at("10.0.0.1:80");
            (service, backend, if configured { 8 } else { flows })
        });
        assert_eq!(backends.collect::<Vec<_>>(), expected);
        assert_eq!(
            beside.services[0].backends[0],
            config().services[0].backends[0]
        );
        assert_eq!(beside.services[0].backends[1].name, "10.0.0.2-80");
        assert_eq!(beside.services[1].name, "2001-db8--1-80");
    }

    #[test]
    fn who_has_flows_takes_room() {
        let backend = |i: usize| at(&format!("10.1.{}.{}:80", i >> 8, i & 0xff));
        let of_service = |i| ((at("192.0.2.1:80"), backend(i)), 1);
        let error = legacy((0..BACKENDS_MAX).map(of_service)).beside(&config());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("1 back-ends beside 4096"), "{error}");
        let service = |i: usize| at(&format!("192.0.3.{i}:80"));
        let services = (0..SERVICES_MAX).map(|i| ((service(i), backend(0)), 1));
        let error = legacy(services).beside(&config()).unwrap_err().to_string();
        assert!(error.starts_with("1 services beside 256"), "{error}");
    }

    #[test]
    fn a_back_end_without_flows_gets_a_number_that_no_flow_knows() {
        let service = at("192.0.2.1:80");
        let mut legacy = legacy([
            ((service, at("10.0.0.1:80")), 1),
            ((service, at("10.0.0.2:80")), 1),
        ]);
        let mut number = |backend| legacy.number(service, at(backend)).0;
        assert_eq!(number("10.0.0.9:80"), 2);
        assert_eq!(number("10.0.0.2:80"), 1);
        assert_eq!(number("10.0.0.8:80"), 3);
    }
}
