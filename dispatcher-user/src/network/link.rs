//! Links: what the kernel says of a device, and what of that the program can send on. Pure.

use std::collections::BTreeMap;

use dispatcher_common::addr::Mac;
use dispatcher_common::link::VlanId;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute, LinkLayerType,
    LinkMessage, VlanProtocol,
};

/// A link that the program can send on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// Name.
    pub name: String,
    /// Index, as routes and received packets name it.
    pub ifindex: u32,
    /// Index of the physical interface under a VLAN device; its own otherwise.
    pub device: u32,
    /// VLAN that frames carry on `device`, 0 for none.
    pub vlan: VlanId,
    /// Its own address.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up with a carrier, and so is the device under it.
    pub up: bool,
    /// Which of both it is.
    pub kind: LinkKind,
}

/// What a link is to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// A configured interface, where the program is attached.
    Physical,
    /// An 802.1Q device on one.
    Vlan,
}

/// What the kernel says of a device, of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Device {
    pub name: String,
    pub kind: DeviceKind,
    mac: Option<Mac>,
    pub mtu: u32,
    up: bool,
}

/// As far as the program's frames are concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DeviceKind {
    /// Frames of Ethernet.
    Ethernet,
    /// An 802.1Q device, with the index of what it stands on.
    Vlan { parent: u32, id: VlanId },
    /// Not Ethernet; the kernel's name for it.
    Other(String),
}

/// All devices by interface index.
pub(super) type Devices = BTreeMap<u32, Device>;

/// A device and its index; nothing if the message is another subsystem's note about one (a bridge's
/// about its port, a radio's about its cell), which does not describe the whole device.
pub(super) fn parse(message: &LinkMessage) -> Option<(u32, Device)> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let (mut name, mut address, mut mtu) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => address = mac(bytes),
            LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
            _ => {}
        }
    }
    let device = Device {
        name: name?,
        kind: kind(message),
        mac: address,
        mtu: mtu?,
        up: message
            .header
            .flags
            .contains(LinkFlags::Up | LinkFlags::Running),
    };
    Some((message.header.index, device))
}

/// An Ethernet address, if it is one.
pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn kind(message: &LinkMessage) -> DeviceKind {
    let (mut name, mut parent, mut id, mut foreign) = (String::new(), None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            // Set when the parent is in another namespace, where its index means something else.
            LinkAttribute::LinkNetNsId(_) => foreign = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfoAttribute::Kind(kind) => name = kind.to_string(),
                        LinkInfoAttribute::Data(InfoData::Vlan(data)) => id = dot1q_id(data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    match message.header.link_layer_type {
        LinkLayerType::Ether => match (parent, id) {
            (Some(parent), Some(id)) if !foreign => DeviceKind::Vlan { parent, id },
            _ => DeviceKind::Ethernet,
        },
        LinkLayerType::Loopback => DeviceKind::Other("loopback".to_owned()),
        _ => DeviceKind::Other(name),
    }
}

/// The id of an 802.1Q device; nothing for an 802.1ad one, whose tag we do not write.
fn dot1q_id(data: &[InfoVlan]) -> Option<VlanId> {
    if data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)) {
        return None;
    }
    data.iter().find_map(|item| match item {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

/// The links that the program can send on: the configured interfaces, and the VLANs on them.
pub(super) fn usable(devices: &Devices, interfaces: &[String]) -> BTreeMap<u32, LinkInfo> {
    devices
        .iter()
        .filter_map(|(&ifindex, device)| {
            Some((ifindex, link(devices, interfaces, ifindex, device)?))
        })
        .collect()
}

fn link(
    devices: &Devices,
    interfaces: &[String],
    ifindex: u32,
    device: &Device,
) -> Option<LinkInfo> {
    let physical = |device: &Device| {
        interfaces.contains(&device.name) && !matches!(device.kind, DeviceKind::Other(_))
    };
    let info = LinkInfo {
        name: device.name.clone(),
        ifindex,
        device: ifindex,
        vlan: 0,
        mac: device.mac?,
        mtu: device.mtu,
        up: device.up,
        kind: LinkKind::Physical,
    };
    if physical(device) {
        return Some(info);
    }
    let DeviceKind::Vlan { parent, id } = device.kind else {
        return None;
    };
    let below = devices.get(&parent).filter(|below| physical(below))?;
    Some(LinkInfo {
        device: parent,
        vlan: id,
        up: device.up && below.up,
        kind: LinkKind::Vlan,
        ..info
    })
}

/// Why packets that leave by this device are left to the host's stack.
pub(super) fn why_host_stack(device: &Device) -> String {
    let name = &device.name;
    match &device.kind {
        DeviceKind::Other(kind) if kind.is_empty() => {
            format!("the route leaves by {name}, which is not Ethernet")
        }
        DeviceKind::Other(kind) => {
            format!("the route leaves by {name}, which is not Ethernet but {kind}")
        }
        DeviceKind::Vlan { .. } => format!(
            "the route leaves by {name}, a VLAN whose parent is none of the configured interfaces"
        ),
        DeviceKind::Ethernet => {
            format!("the route leaves by {name}, which is none of the configured interfaces")
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use netlink_packet_route::link::InfoKind;

    use super::*;

    /// An Ethernet device that is up.
    pub fn ethernet(name: &str, last_mac_byte: u8) -> Device {
        Device {
            name: name.to_owned(),
            kind: DeviceKind::Ethernet,
            mac: Some(Mac([2, 0, 0, 0, 0, last_mac_byte])),
            mtu: 1500,
            up: true,
        }
    }

    pub fn vlan(name: &str, parent: u32, id: VlanId, last_mac_byte: u8) -> Device {
        Device {
            kind: DeviceKind::Vlan { parent, id },
            ..ethernet(name, last_mac_byte)
        }
    }

    pub fn tunnel(name: &str) -> Device {
        Device {
            kind: DeviceKind::Other("wireguard".to_owned()),
            mac: None,
            ..ethernet(name, 0)
        }
    }

    pub fn down(device: Device) -> Device {
        Device {
            up: false,
            ..device
        }
    }

    fn message(name: &str, index: u32, infos: Vec<LinkInfoAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::Running;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(infos),
        ];
        message
    }

    fn vlan_infos(protocol: VlanProtocol) -> Vec<LinkInfoAttribute> {
        vec![
            LinkInfoAttribute::Kind(InfoKind::Vlan),
            LinkInfoAttribute::Data(InfoData::Vlan(vec![
                InfoVlan::Id(100),
                InfoVlan::Protocol(protocol),
            ])),
        ]
    }

    #[test]
    fn a_vlan_device_is_known_by_its_parent_and_id() {
        let message = message("front.100", 7, vlan_infos(VlanProtocol::Ieee8021Q));
        assert_eq!(parse(&message), Some((7, vlan("front.100", 2, 100, 9))));
    }

    #[test]
    fn a_service_vlan_is_not_a_vlan_that_we_can_write() {
        let message = message("front.100", 7, vlan_infos(VlanProtocol::Ieee8021Ad));
        let (_, device) = parse(&message).unwrap();
        assert_eq!(device.kind, DeviceKind::Ethernet);
    }

    #[test]
    fn a_vlan_over_another_namespace_has_no_parent_here() {
        let mut message = message("front.100", 7, vlan_infos(VlanProtocol::Ieee8021Q));
        message.attributes.push(LinkAttribute::LinkNetNsId(0));
        let (_, device) = parse(&message).unwrap();
        assert_eq!(device.kind, DeviceKind::Ethernet);
    }

    #[test]
    fn a_bridges_note_about_a_port_is_not_a_device() {
        let mut message = message("front", 2, vec![]);
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(parse(&message), None);
    }

    #[test]
    fn configured_interfaces_and_vlans_on_them_are_usable_and_nothing_else() {
        let devices = Devices::from([
            (2, ethernet("front", 2)),
            (3, ethernet("docker0", 3)),
            (4, vlan("front.100", 2, 100, 4)),
            (5, vlan("docker0.7", 3, 7, 5)),
            (6, vlan("front.100.8", 4, 8, 6)),
            (7, tunnel("front2")),
        ]);
        let interfaces = ["front".to_owned(), "front2".to_owned()];

        let links = usable(&devices, &interfaces);

        assert_eq!(links.keys().copied().collect::<Vec<_>>(), [2, 4]);
        assert_eq!((links[&2].device, links[&2].vlan), (2, 0));
        assert_eq!((links[&4].device, links[&4].vlan), (2, 100));
        assert_eq!(links[&4].mac, Mac([2, 0, 0, 0, 0, 4]));
    }

    #[test]
    fn a_vlan_is_down_with_its_parent() {
        let devices = Devices::from([
            (2, down(ethernet("front", 2))),
            (4, vlan("front.100", 2, 100, 4)),
        ]);
        assert!(!usable(&devices, &["front".to_owned()])[&4].up);
    }
}
