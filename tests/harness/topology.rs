//! The lab: clients, a dispatcher and back-ends, each in a network namespace, joined by bridges.
//!
//! ```text
//!  client-1 ─┐                                                     ┌─ backend-1
//!  client-2 ─┤ bridge ── front [dispatcher] back ── bridge ────────┤ backend-2
//!  ...       ┘                                                     └─ ...
//!  198.51.100.0/24, 2001:db8:c::/64                    10.0.0.0/24, fd00:b::/64
//! ```
//!
//! One-armed, both networks are on one bridge and on the dispatcher's only interface `one`. With
//! VLANs endpoints see plain frames and the dispatcher's interfaces tagged ones: see [`Vlans`]. The
//! bridges are in a namespace of their own, the switch.

mod wiring;

pub use wiring::Card;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use anyhow::{Context, Result};

use crate::netns::{self, Namespace};
use crate::port_program::BPF_FS;
use crate::scratch::{is_stale, unique};

/// The one network device of a client or back-end.
pub const ENDPOINT_DEVICE: &str = "eth0";

const CLIENT_NET: Networks = Networks {
    v4: [198, 51, 100],
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0),
    first_host: 10,
};
const BACKEND_NET: Networks = Networks {
    v4: [10, 0, 0],
    v6: Ipv6Addr::new(0xfd00, 0xb, 0, 0, 0, 0, 0, 0),
    first_host: 11,
};
const VIP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The dispatcher's host number in both networks.
const GATEWAY: u8 = 1;
/// The host number of a router in either.
const ROUTER: u8 = 250;

/// How many interfaces the dispatcher has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Clients on one interface, back-ends on another.
    TwoArmed,
    /// Both on the same interface, in two networks.
    OneArmed,
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// VLANs on the dispatcher's interfaces, by their ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vlans {
    /// Frames are plain.
    None,
    /// Of clients and of back-ends: the bridge tags, and the dispatcher's addresses are on VLAN
    /// devices, `front.100` and the like. Not every kernel has them.
    Devices(u16, u16),
    /// Of clients only, on any kernel: XDP programs tag at the switch's ports and untag at the
    /// clients. The dispatcher's own kernel cannot speak to the clients, so it has no address in
    /// their network and no route to it, and they know its Ethernet address from the start.
    AtPorts(u16),
}

/// What a lab looks like. Both address families are always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topology {
    /// Client namespaces, at most 200.
    pub clients: u8,
    /// Back-end namespaces, at most 200.
    pub backends: u8,
    /// Interfaces of the dispatcher.
    pub shape: Shape,
    /// VLANs on the dispatcher's interfaces.
    pub vlans: Vlans,
    /// Receive queues of the dispatcher's interfaces.
    pub queues: u8,
}

impl Default for Topology {
    /// A client, two back-ends, two-armed, no VLAN, one queue.
    fn default() -> Self {
        Self {
            clients: 1,
            backends: 2,
            shape: Shape::TwoArmed,
            vlans: Vlans::None,
            queues: 1,
        }
    }
}

/// A running lab; its namespaces go when it is dropped.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    prefix: String,
    clients: Vec<Node>,
    dispatcher: Node,
    backends: Vec<Node>,
    switch: Namespace,
}

/// A namespace with its addresses; what a [`Namespace`] can do, it can do.
#[derive(Debug)]
pub struct Node {
    namespace: Namespace,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Node {
    /// Its address in the lab; the dispatcher's is the one that clients see.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The Ethernet address of one of its devices.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let link = self.run(&["ip", "-json", "link", "show", "dev", device])?;
        let link: serde_json::Value = serde_json::from_str(&link)?;
        let text = link
            .pointer("/0/address")
            .and_then(serde_json::Value::as_str);
        let text = text.with_context(|| format!("{device} has no address"))?;
        let bytes: Result<Vec<_>, _> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect();
        bytes?
            .try_into()
            .ok()
            .with_context(|| format!("{text} is no Ethernet address"))
    }

    /// Its address with a port.
    #[must_use]
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

impl Topology {
    /// Makes the lab under a name that nobody else has, after removing those of processes that
    /// died without doing so.
    pub fn up(self) -> Result<Lab> {
        remove_stale()?;
        self.up_as(&unique("lab"))
    }

    /// Makes the lab with namespaces called `prefix-client-1`, `prefix-dispatcher` and so on.
    pub fn up_as(self, prefix: &str) -> Result<Lab> {
        let lab = self.assemble(prefix, Namespace::create)?;
        lab.wire().context("cannot build the lab")?;
        Ok(lab)
    }

    /// Takes hold of a lab that [`Self::up_as`] made and [`Lab::keep`] kept, without owning it.
    pub fn open(self, prefix: &str) -> Result<Lab> {
        self.assemble(prefix, Namespace::open)
    }

    fn assemble(self, prefix: &str, namespace: fn(&str) -> Result<Namespace>) -> Result<Lab> {
        let node = |role: &str, networks: &Networks, host| -> Result<Node> {
            Ok(Node {
                namespace: namespace(&format!("{prefix}-{role}"))?,
                v4: networks.v4(host),
                v6: networks.v6(host),
            })
        };
        let group = |role: &str, networks: &Networks, count| -> Result<Vec<Node>> {
            (0..count)
                .map(|i| {
                    node(
                        &format!("{role}-{}", i + 1),
                        networks,
                        networks.first_host + i,
                    )
                })
                .collect()
        };
        Ok(Lab {
            topology: self,
            prefix: prefix.to_owned(),
            clients: group("client", &CLIENT_NET, self.clients)?,
            dispatcher: node("dispatcher", &CLIENT_NET, GATEWAY)?,
            backends: group("backend", &BACKEND_NET, self.backends)?,
            switch: namespace(&format!("{prefix}-switch"))?,
        })
    }

    /// Fails, with the reason, if this kernel cannot build it.
    pub fn ensure_supported(self) -> Result<()> {
        if !matches!(self.vlans, Vlans::Devices(..)) {
            return Ok(());
        }
        let probe = Namespace::create(&unique("probe"))?;
        let script = "link add probe type bridge vlan_filtering 1\n\
                      link add link probe name probe.2 type vlan id 2\n";
        probe
            .batch("ip", script)
            .context("this kernel has no VLAN devices or no VLAN filtering (8021q)")
    }

    /// The dispatcher's physical interfaces: what its configuration lists.
    #[must_use]
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.shape {
            Shape::TwoArmed => &["front", "back"],
            Shape::OneArmed => &["one"],
        }
    }

    /// The dispatcher's interface that has the address in the clients' network.
    #[must_use]
    pub fn client_side(&self) -> String {
        match self.vlans {
            Vlans::Devices(client, _) => format!("{}.{client}", self.interfaces()[0]),
            Vlans::None | Vlans::AtPorts(_) => self.interfaces()[0].to_owned(),
        }
    }

    /// The dispatcher's interface that has the address in the back-ends' network.
    #[must_use]
    pub fn backend_side(&self) -> String {
        let last = self.interfaces()[self.interfaces().len() - 1];
        match self.vlans {
            Vlans::Devices(_, backend) => format!("{last}.{backend}"),
            Vlans::None | Vlans::AtPorts(_) => last.to_owned(),
        }
    }
}

impl Lab {
    /// What it looks like.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The i-th client, from 0.
    #[must_use]
    pub fn client(&self, i: usize) -> &Node {
        &self.clients[i]
    }

    /// The dispatcher's machine.
    #[must_use]
    pub fn dispatcher(&self) -> &Node {
        &self.dispatcher
    }

    /// The i-th back-end, from 0.
    #[must_use]
    pub fn backend(&self, i: usize) -> &Node {
        &self.backends[i]
    }

    /// The machine with the bridges. Its ports are called after what is at their other end:
    /// `client-1`, `front-port`.
    #[must_use]
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// All clients.
    #[must_use]
    pub fn clients(&self) -> &[Node] {
        &self.clients
    }

    /// All back-ends.
    #[must_use]
    pub fn backends(&self) -> &[Node] {
        &self.backends
    }

    /// The address at which services are offered.
    #[must_use]
    pub fn vip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => VIP_V4.into(),
            Family::V6 => VIP_V6.into(),
        }
    }

    /// An address in the clients' network by its host number.
    #[must_use]
    pub fn client_address(&self, host: u8, family: Family) -> IpAddr {
        match family {
            Family::V4 => CLIENT_NET.v4(host).into(),
            Family::V6 => CLIENT_NET.v6(host).into(),
        }
    }

    /// The addresses of the dispatcher and of a router in an endpoint's networks, which `node` is.
    pub(crate) fn neighbours_of(&self, node: &Node, family: Family) -> [IpAddr; 2] {
        let is_client = self.clients.iter().any(|client| client.v4 == node.v4);
        let networks = if is_client { &CLIENT_NET } else { &BACKEND_NET };
        [GATEWAY, ROUTER].map(|host| match family {
            Family::V4 => networks.v4(host).into(),
            Family::V6 => networks.v6(host).into(),
        })
    }

    /// A service's address.
    #[must_use]
    pub fn service(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip(family), port)
    }

    /// What the names of its namespaces begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Lets the namespaces live on when the handle is dropped.
    pub fn keep(&mut self) {
        let nodes = self.clients.iter_mut().chain(&mut self.backends);
        for node in nodes.chain([&mut self.dispatcher]) {
            node.namespace.keep();
        }
        self.switch.keep();
    }

    /// Removes every namespace of the lab called `prefix`.
    pub fn remove(prefix: &str) -> Result<()> {
        for name in netns::names()? {
            if name
                .strip_prefix(prefix)
                .is_some_and(|role| role.starts_with('-'))
            {
                netns::remove(&name);
            }
        }
        Ok(())
    }
}

/// The two networks of one side.
struct Networks {
    v4: [u8; 3],
    v6: Ipv6Addr,
    /// Host number of the first endpoint.
    first_host: u8,
}

impl Networks {
    fn v4(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, host)
    }

    fn v6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.v6.to_bits() | u128::from(host))
    }
}

/// Removes namespaces and pins whose makers no longer live: they were killed before they could.
fn remove_stale() -> Result<()> {
    for name in netns::names()?.iter().filter(|name| is_stale(name)) {
        netns::remove(name);
    }
    for pin in fs::read_dir(BPF_FS).into_iter().flatten() {
        let pin = pin?;
        if is_stale(&pin.file_name().to_string_lossy()) {
            let _ = fs::remove_file(pin.path());
            let _ = fs::remove_dir_all(pin.path());
        }
    }
    Ok(())
}
