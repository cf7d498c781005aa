//! Everything known of the network, what a report of the kernel changes in it, and the ways that
//! follow. Pure: asks nobody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use dispatcher_common::link::NextHop;
use netlink_packet_route::RouteNetlinkMessage;

use super::link::{self, Devices, LinkInfo};
use super::neighbour::{self, NeighbourKey, Neighbours};
use super::route::{self, Route};
use super::{NetworkView, Way, next_generation};

/// Gateways that are kept resolved, besides those of targets; of others the program learns when
/// they make themselves known.
const GATEWAYS_MAX: usize = 256;

/// What is known.
#[derive(Debug)]
pub(super) struct State {
    interfaces: Vec<String>,
    devices: Devices,
    links: BTreeMap<u32, LinkInfo>,
    neighbours: Neighbours,
    /// By which anybody is reached, on whatever interface.
    gateways: BTreeSet<NeighbourKey>,
    /// The answer for each target.
    pub routes: BTreeMap<IpAddr, Route>,
}

/// What a report changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Change {
    /// The view may have.
    pub view: bool,
    /// The routes of the targets must be asked for again.
    pub routes: bool,
    /// The kernel's tables must be read again.
    pub tables: bool,
    /// A next hop that the program looked up by itself may be wrong now.
    pub lookups: bool,
}

impl Change {
    /// Nothing.
    pub const NONE: Self = Self {
        view: false,
        routes: false,
        tables: false,
        lookups: false,
    };
    /// The answers for targets, at most.
    pub const TARGETS: Self = Self {
        view: true,
        routes: true,
        ..Self::NONE
    };
    /// Where packets go, to whomever.
    pub const FORWARDING: Self = Self {
        lookups: true,
        ..Self::TARGETS
    };
    /// Perhaps something that was not reported.
    pub const UNREPORTED: Self = Self {
        tables: true,
        ..Self::TARGETS
    };

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self {
            view: self.view | other.view,
            routes: self.routes | other.routes,
            tables: self.tables | other.tables,
            lookups: self.lookups | other.lookups,
        }
    }
}

impl State {
    /// Knows no more than which interfaces are ours.
    pub fn new(interfaces: &[String]) -> Self {
        Self {
            interfaces: interfaces.to_vec(),
            devices: Devices::new(),
            links: BTreeMap::new(),
            neighbours: Neighbours::new(),
            gateways: BTreeSet::new(),
            routes: BTreeMap::new(),
        }
    }

    /// The first of our interfaces that does not exist, with the names of those that do.
    pub fn missing_interface(&self) -> Option<(String, String)> {
        let exists = |name: &String| self.devices.values().any(|device| device.name == *name);
        let missing = self.interfaces.iter().find(|name| !exists(name))?;
        let names: Vec<&str> = self.devices.values().map(|d| d.name.as_str()).collect();
        Some((missing.clone(), names.join(", ")))
    }

    /// Has an entry in `routes` for each target and for nothing else; earlier answers stand.
    pub fn want_routes(&mut self, targets: &BTreeSet<IpAddr>) {
        self.routes.retain(|target, _| targets.contains(target));
        for &target in targets {
            self.routes.entry(target).or_insert_with(|| Route::None {
                why: format!("the kernel has not said yet how to reach {target}"),
            });
        }
    }

    /// Takes over the kernel's whole tables, read just now.
    pub fn replace_tables(&mut self, devices: Devices, neighbours: Neighbours) -> Change {
        let lookups = neighbours.iter().any(|(key, after)| {
            self.neighbour_matters(*key, self.neighbours.get(key), Some(after))
        });
        self.neighbours = neighbours;
        self.devices = devices;
        self.derive_links();
        Change {
            lookups,
            ..Change::TARGETS
        }
    }

    /// Takes over the gateways of all routes, read just now.
    pub fn replace_gateways(&mut self, gateways: Vec<NeighbourKey>) {
        self.gateways.clear();
        self.add_gateways(gateways);
    }

    fn add_gateways(&mut self, gateways: Vec<NeighbourKey>) {
        let room = GATEWAYS_MAX.saturating_sub(self.gateways.len());
        self.gateways.extend(gateways.into_iter().take(room));
    }

    /// Takes in one report of the kernel.
    pub fn apply(&mut self, report: &RouteNetlinkMessage) -> Change {
        match report {
            RouteNetlinkMessage::NewLink(message) => link::parse(message)
                .map_or(Change::NONE, |(index, device)| {
                    self.set_device(index, Some(device))
                }),
            RouteNetlinkMessage::DelLink(message) => {
                link::parse(message).map_or(Change::NONE, |(index, _)| self.set_device(index, None))
            }
            RouteNetlinkMessage::NewNeighbour(message) => neighbour::parse(message)
                .map_or(Change::NONE, |(key, entry)| {
                    self.set_neighbour(key, Some(entry))
                }),
            RouteNetlinkMessage::DelNeighbour(message) => neighbour::parse(message)
                .map_or(Change::NONE, |(key, _)| self.set_neighbour(key, None)),
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                if route::matters(message) {
                    if matches!(report, RouteNetlinkMessage::NewRoute(_)) {
                        // That one is routed by no more is found out when all is read again.
                        self.add_gateways(route::gateways(message));
                    }
                    Change::FORWARDING
                } else {
                    Change::NONE
                }
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Change::FORWARDING,
            // What of an address matters to packets that are forwarded are its routes, which are
            // reported for themselves; an address whose lifetime is renewed is reported, too.
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => {
                Change::TARGETS
            }
            _ => Change::NONE,
        }
    }

    fn set_device(&mut self, index: u32, device: Option<link::Device>) -> Change {
        if self.devices.get(&index) == device.as_ref() {
            return Change::NONE;
        }
        match device {
            Some(device) => self.devices.insert(index, device),
            None => {
                self.neighbours.retain(|(on, _), _| *on != index);
                self.devices.remove(&index)
            }
        };
        self.derive_links();
        Change::TARGETS
    }

    fn set_neighbour(&mut self, key: NeighbourKey, after: Option<neighbour::Neighbour>) -> Change {
        let before = match after {
            Some(entry) => self.neighbours.insert(key, entry),
            None => self.neighbours.remove(&key),
        };
        Change {
            view: before != after,
            lookups: self.neighbour_matters(key, before.as_ref(), after.as_ref()),
            ..Change::NONE
        }
    }

    fn neighbour_matters(
        &self,
        (ifindex, _): NeighbourKey,
        before: Option<&neighbour::Neighbour>,
        after: Option<&neighbour::Neighbour>,
    ) -> bool {
        self.links.contains_key(&ifindex) && neighbour::matters(before, after)
    }

    fn derive_links(&mut self) {
        self.links = link::usable(&self.devices, &self.interfaces);
    }

    /// The kernel's entry of a neighbour.
    pub fn neighbour(&self, key: NeighbourKey) -> Option<&neighbour::Neighbour> {
        self.neighbours.get(&key)
    }

    /// The neighbours by which targets, and clients behind gateways, are reached over links of ours
    /// that are up. A client's own machine makes itself known when it asks for ours; a gateway may
    /// long know ours when packets are first routed by it.
    pub fn neighbours_in_use(&self) -> BTreeSet<NeighbourKey> {
        let up = |oif: &u32| self.links.get(oif).is_some_and(|link| link.up);
        let targets = self.routes.values().filter_map(|route| match route {
            Route::Unicast { oif, next, .. } => Some((*oif, *next)),
            _ => None,
        });
        targets
            .chain(self.gateways.iter().copied())
            .filter(|(oif, _)| up(oif))
            .collect()
    }

    /// The view that follows `last`: its own generation unless something changed that moves
    /// packets, be it in the view or, with `lookups`, beside it. Nothing if all is as it was.
    pub fn view_after(&self, last: &NetworkView, lookups: bool) -> Option<NetworkView> {
        let mut next = NetworkView {
            generation: last.generation,
            links: self.links.clone(),
            ways: self.ways(last.generation),
        };
        if lookups || next.links != last.links || !same_ways(&next.ways, &last.ways) {
            next.generation = next_generation(last.generation);
            next.ways = self.ways(next.generation);
        }
        (next != *last).then_some(next)
    }

    fn ways(&self, generation: u32) -> HashMap<IpAddr, Way> {
        self.routes
            .iter()
            .map(|(&target, route)| (target, self.way(target, route, generation)))
            .collect()
    }

    fn way(&self, target: IpAddr, route: &Route, generation: u32) -> Way {
        let unresolved = |why| Way::Unresolved { why };
        let (oif, next, route_mtu) = match route {
            Route::Unicast { oif, next, mtu } => (*oif, *next, *mtu),
            Route::None { why } => return unresolved(why.clone()),
            Route::Local => {
                return unresolved(format!(
                    "{target} is an address of this machine, whose replies would not come back \
                     through the dispatcher; a back-end needs a machine or namespace of its own"
                ));
            }
            Route::Encapsulated => {
                let why = format!("the route to {target} encapsulates");
                let mtu = u16::MAX;
                return Way::HostStack { why, mtu };
            }
        };
        let Some(link) = self.links.get(&oif) else {
            return match self.devices.get(&oif) {
                Some(device) => Way::HostStack {
                    why: link::why_host_stack(device),
                    mtu: narrower(device.mtu, route_mtu),
                },
                None => unresolved(format!("interface {oif} of the route to {target} is gone")),
            };
        };
        if !link.up {
            return unresolved(format!("{} is down or has no carrier", link.name));
        }
        let Some(mac) = self
            .neighbours
            .get(&(oif, next))
            .and_then(|entry| entry.mac)
        else {
            return unresolved(format!("{next} does not answer on {}", link.name));
        };
        Way::Via(NextHop {
            ifindex: link.device,
            generation,
            dst: mac,
            src: link.mac,
            vlan: link.vlan,
            mtu: narrower(link.mtu, route_mtu),
        })
    }
}

/// The MTU of a device, or that of the route by it if there is one and it is less.
fn narrower(device: u32, route: Option<u32>) -> u16 {
    let mtu = route.map_or(device, |route| route.min(device));
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// Whether packets take the same ways, whatever the reasons given for those that take none.
fn same_ways(a: &HashMap<IpAddr, Way>, b: &HashMap<IpAddr, Way>) -> bool {
    let same = |a: &Way, b: &Way| match (a, b) {
        (Way::Via(a), Way::Via(b)) => a == b,
        (Way::HostStack { mtu: a, .. }, Way::HostStack { mtu: b, .. }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    };
    a.len() == b.len()
        && a.iter()
            .all(|(ip, way)| b.get(ip).is_some_and(|b| same(way, b)))
}

#[cfg(test)]
mod tests;
