//! The network as it is at one moment: links, addresses, routes, neighbours. Asks the kernel, once;
//! sends no packet and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute, LinkLayerType, LinkMessage, LinkXdp,
    Prop, XdpAttached,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

pub use netlink_packet_route::neighbour::NeighbourState;

use super::NetworkError;
use super::generic::{Generic, XdpFeatures};
use super::kernel::Kernel;
use super::route::Route;

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// By interface index.
    pub links: BTreeMap<u32, LinkFacts>,
    /// Of this machine.
    pub addresses: Vec<AddressFacts>,
    /// The kernel's answer for each address that was asked for.
    pub routes: BTreeMap<IpAddr, Route>,
    /// By interface index and address.
    pub neighbours: HashMap<(u32, IpAddr), NeighbourState>,
}

/// A link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    /// Name.
    pub name: String,
    /// Other names that it goes by.
    pub alternative_names: Vec<String>,
    /// What the kernel calls its sort, such as `veth`, `vlan` or `bond`; empty for hardware.
    pub kind: String,
    /// Its frames are Ethernet's.
    pub ethernet: bool,
    /// It is the loopback device.
    pub loopback: bool,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Something is at the other end.
    pub carrier: bool,
    /// The link that it stands on, or the other end of a veth, if that is in this namespace.
    pub other: Option<u32>,
    /// The bridge, bond or team that it is a member of.
    pub master: Option<u32>,
    /// XDP programs on it: how, and the program's id.
    pub programs: Vec<(ProgramMode, u32)>,
    /// What XDP its driver has, where the kernel tells.
    pub xdp: Option<XdpFeatures>,
    /// Offloads that are on; nothing where the kernel does not tell.
    pub offloads: Option<BTreeSet<String>>,
    /// Its queues are counted in pairs.
    pub combined_channels: bool,
}

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramMode {
    /// By the driver.
    Native,
    /// By the kernel's stack.
    Generic,
    /// In the network card.
    Hardware,
}

/// An address of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressFacts {
    /// The link that has it.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Another machine has it too, as duplicate address detection found.
    pub duplicate: bool,
}

impl Snapshot {
    /// Reads the namespace of the calling thread; `targets` are the addresses whose routes are
    /// asked for.
    ///
    /// # Errors
    ///
    /// A kernel that refuses netlink.
    pub async fn read(targets: impl IntoIterator<Item = IpAddr>) -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        let connection = tokio::spawn(connection);
        let read = Self::read_by(&Kernel::new(handle), targets).await;
        connection.abort();
        read
    }

    async fn read_by(
        kernel: &Kernel,
        targets: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, NetworkError> {
        let failed = |what| move |source| NetworkError::Read { what, source };
        let links = kernel.link_messages().await.map_err(failed("links"))?;
        let addresses = kernel.address_messages().await;
        let addresses = addresses.map_err(failed("addresses"))?;
        let neighbours = kernel.neighbour_messages().await;
        let neighbours = neighbours.map_err(failed("neighbours"))?;
        let mut routes = BTreeMap::new();
        for target in targets {
            let route = kernel.route(target).await.map_err(failed("routes"))?;
            routes.insert(target, route);
        }
        let mut links: BTreeMap<_, _> = links.iter().filter_map(link).collect();
        if let Ok(generic) = Generic::open() {
            for (ifindex, link) in &mut links {
                link.xdp = generic.xdp_features(*ifindex);
                link.offloads = generic.offloads(*ifindex);
                link.combined_channels = generic.has_combined_channels(*ifindex) == Some(true);
            }
        }
        Ok(Self {
            links,
            addresses: addresses.iter().filter_map(address).collect(),
            routes,
            neighbours: neighbours.iter().filter_map(neighbour).collect(),
        })
    }

    /// The link of this name, by its own name only.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<(u32, &LinkFacts)> {
        let mut links = self.links.iter();
        links
            .find(|(_, link)| link.name == name)
            .map(|(ifindex, link)| (*ifindex, link))
    }

    /// Where this machine has an address, if it has.
    #[must_use]
    pub fn own(&self, ip: IpAddr) -> Option<&AddressFacts> {
        self.addresses.iter().find(|own| own.ip == ip)
    }
}

fn link(message: &LinkMessage) -> Option<(u32, LinkFacts)> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let layer = message.header.link_layer_type;
    let (mut name, mut mtu, mut other, mut elsewhere) = (None, None, None, false);
    let mut link = LinkFacts {
        name: String::new(),
        alternative_names: Vec::new(),
        kind: String::new(),
        ethernet: layer == LinkLayerType::Ether,
        loopback: layer == LinkLayerType::Loopback,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::Running),
        other: None,
        master: None,
        programs: Vec::new(),
        xdp: None,
        offloads: None,
        combined_channels: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            LinkAttribute::Link(index) => other = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::PropList(properties) => {
                let names = properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                });
                link.alternative_names.extend(names);
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfoAttribute::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            LinkAttribute::Xdp(attributes) => link.programs = programs(attributes),
            _ => {}
        }
    }
    link.name = name?;
    link.mtu = mtu?;
    link.other = other.filter(|index| *index != 0 && !elsewhere);
    Some((message.header.index, link))
}

fn programs(attributes: &[LinkXdp]) -> Vec<(ProgramMode, u32)> {
    let each = attributes.iter().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some((ProgramMode::Native, *id)),
        LinkXdp::SkbProgId(id) => Some((ProgramMode::Generic, *id)),
        LinkXdp::HwProgId(id) => Some((ProgramMode::Hardware, *id)),
        _ => None,
    });
    let each: Vec<_> = each.filter(|(_, id)| *id != 0).collect();
    if !each.is_empty() {
        return each;
    }
    // Only one id where only one program is attached, on kernels that tell no more.
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(ProgramMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(ProgramMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(ProgramMode::Hardware),
        _ => None,
    });
    let id = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    mode.zip(id).into_iter().collect()
}

fn address(message: &AddressMessage) -> Option<AddressFacts> {
    // The other end of a point-to-point link is `Address`, the own one `Local`.
    let (mut remote, mut local, mut duplicate) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => remote = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(flags) => duplicate = flags.contains(AddressFlags::Dadfailed),
            _ => {}
        }
    }
    Some(AddressFacts {
        ifindex: message.header.index,
        ip: local.or(remote)?,
        prefix: message.header.prefix_len,
        duplicate,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), NeighbourState)> {
    let ip = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        })?;
    Some(((message.header.ifindex, ip), message.header.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("front".into()),
            LinkAttribute::Mtu(1500),
        ];
        message.attributes.extend(attributes);
        message
    }

    #[test]
    fn the_other_end_of_a_veth_is_known_only_in_this_namespace() {
        let here = message(vec![LinkAttribute::Link(7)]);
        assert_eq!(link(&here).unwrap().1.other, Some(7));
        let there = message(vec![LinkAttribute::Link(7), LinkAttribute::LinkNetNsId(0)]);
        assert_eq!(link(&there).unwrap().1.other, None);
    }

    #[test]
    fn each_attached_program_is_told_with_its_mode() {
        let both = [
            LinkXdp::Attached(XdpAttached::Multiple),
            LinkXdp::DrvProgId(4),
            LinkXdp::SkbProgId(5),
        ];
        let told = [(ProgramMode::Native, 4), (ProgramMode::Generic, 5)];
        assert_eq!(programs(&both), told);
        assert_eq!(programs(&[LinkXdp::Attached(XdpAttached::None)]), []);
        let old = [
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::ProgId(9),
        ];
        assert_eq!(programs(&old), [(ProgramMode::Generic, 9)]);
    }
}
