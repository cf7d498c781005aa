//! Builds a lab: links, offloads, bridges, addresses, routes. In few calls, so that it takes a
//! fraction of a second.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use super::{
    BACKEND_NET, CLIENT_NET, ENDPOINT_DEVICE, Family, GATEWAY, Lab, Networks, Node, VIP_V4, VIP_V6,
    Vlans,
};
use crate::netns;
use crate::port_program::{PinnedProgram, PortProgram};

/// See [`Lab::set_offloads`].
const OFFLOADS_OFF: &str = "tx off tso off gso off gro off rxvlan off txvlan off";

/// What an interface is made of.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Queues to receive and to send.
    pub queues: u8,
}

impl Card {
    /// With an MTU of 1500 and one queue.
    #[must_use]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            mtu: 1500,
            queues: 1,
        }
    }
}

impl Lab {
    /// Takes an interface of the dispatcher away, as the removal of a card or of its driver does.
    pub fn unplug(&self, interface: &str) -> Result<()> {
        let line = ["ip", "link", "delete", interface];
        self.dispatcher.run(&line).map(drop)
    }

    /// Makes an interface of the dispatcher anew, with the addresses that it had, under a new
    /// index, up but without a carrier until [`Self::connect`]. Without VLANs only.
    pub fn plug_in(&self, interface: &'static str, card: Card) -> Result<()> {
        let port = format!("{interface}-port");
        let Card { mac, mtu, queues } = card;
        let (dispatcher, switch) = (self.dispatcher.name(), self.switch.name());
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let script = format!(
            "link add {interface} netns {dispatcher} address {mac} mtu {mtu} numtxqueues {queues} \
             numrxqueues {queues} type veth peer name {port} netns {switch} mtu {mtu} \
             numtxqueues {queues} numrxqueues {queues}\n"
        );
        netns::feed(Command::new("ip").args(["-batch", "-"]), &script)?;
        for (namespace, device) in [
            (&self.dispatcher.namespace, interface),
            (&self.switch, &port),
        ] {
            let line: Vec<_> = ["ethtool", "-K", device]
                .into_iter()
                .chain(OFFLOADS_OFF.split(' '))
                .collect();
            namespace.run(&line)?;
        }
        let bridge = self.bridge_of(&port);
        self.switch
            .batch("ip", &format!("link set {port} master {bridge}\n"))?;
        let mut script = format!("link set {interface} up\n");
        let sides = [
            (self.topology.client_side(), &CLIENT_NET),
            (self.topology.backend_side(), &BACKEND_NET),
        ];
        for (_, networks) in sides.iter().filter(|(device, _)| device == interface) {
            self.add_addresses(&mut script, interface, networks)?;
        }
        self.dispatcher.batch("ip", &script)
    }

    /// Gives an interface of the dispatcher its carrier.
    pub fn connect(&self, interface: &str) -> Result<()> {
        let port = format!("{interface}-port");
        let pass = PinnedProgram::load(PortProgram::Pass, &format!("{}-pass", self.prefix))?;
        pass.attach(&self.switch, &port)?;
        self.switch.batch("ip", &format!("link set {port} up\n"))
    }

    fn add_addresses(&self, script: &mut String, device: &str, networks: &Networks) -> Result<()> {
        let (v4, v6) = (networks.v4(GATEWAY), networks.v6(GATEWAY));
        writeln!(
            script,
            "address add {v4}/24 dev {device}\naddress add {v6}/64 dev {device} nodad"
        )?;
        Ok(())
    }

    pub(super) fn wire(&self) -> Result<()> {
        self.make_links()?;
        self.set_offloads()?;
        self.configure_switch()?;
        self.configure_dispatcher()?;
        for client in &self.clients {
            client.configure_endpoint(&CLIENT_NET)?;
        }
        for backend in &self.backends {
            backend.configure_endpoint(&BACKEND_NET)?;
        }
        self.make_redirect_targets()?;
        match self.topology.vlans {
            Vlans::AtPorts(vlan) => self.tag_at_ports(vlan),
            Vlans::None | Vlans::Devices(..) => Ok(()),
        }
    }

    /// A veth pair for every endpoint and every interface of the dispatcher; the other end is a
    /// port of a bridge.
    fn make_links(&self) -> Result<()> {
        let switch = self.switch.name();
        let mut script = String::new();
        for (node, device, port) in self.links() {
            // Endpoints have one, so that nothing but the flow's hash chooses the dispatcher's.
            let queues = match device {
                ENDPOINT_DEVICE => 1,
                _ => self.topology.queues,
            };
            let node = node.name();
            writeln!(
                script,
                "link add {device} netns {node} numtxqueues {queues} numrxqueues {queues} \
                 type veth peer name {port} netns {switch} \
                 numtxqueues {queues} numrxqueues {queues}"
            )?;
        }
        netns::feed(Command::new("ip").args(["-batch", "-"]), &script)
    }

    /// All veth pairs: node, its device, the port at the switch.
    fn links(&self) -> Vec<(&Node, &'static str, String)> {
        let endpoints = |nodes, role| {
            let ports = (1..).map(move |i| format!("{role}-{i}"));
            std::iter::zip(nodes, ports).map(|(node, port)| (node, ENDPOINT_DEVICE, port))
        };
        let dispatcher = self.topology.interfaces().iter();
        endpoints(&self.clients, "client")
            .chain(endpoints(&self.backends, "backend"))
            .chain(dispatcher.map(|device| (&self.dispatcher, *device, format!("{device}-port"))))
            .collect()
    }

    /// XDP sees what is in memory: checksums must be complete, VLAN tags in the frame, and no
    /// segment longer than a frame. Before any program is attached, which freezes some of these.
    fn set_offloads(&self) -> Result<()> {
        for (node, device, port) in self.links() {
            for (namespace, device) in [(&node.namespace, device), (&self.switch, &*port)] {
                let line: Vec<_> = ["ethtool", "-K", device]
                    .into_iter()
                    .chain(OFFLOADS_OFF.split(' '))
                    .collect();
                namespace.run(&line)?;
            }
        }
        Ok(())
    }

    fn configure_switch(&self) -> Result<()> {
        let filtering = if matches!(self.topology.vlans, Vlans::Devices(..)) {
            "vlan_filtering 1"
        } else {
            ""
        };
        let mut links = String::from("link set lo up\n");
        for interface in self.topology.interfaces() {
            writeln!(
                links,
                "link add {interface}-bridge type bridge stp_state 0 forward_delay 0 \
                 mcast_snooping 0 {filtering}\n\
                 link set {interface}-bridge up"
            )?;
        }
        let mut vlans = String::new();
        for (_, _, port) in self.links() {
            let bridge = self.bridge_of(&port);
            writeln!(links, "link set {port} master {bridge} up")?;
            self.add_vlans(&mut vlans, &port)?;
        }
        self.switch.batch("ip", &links)?;
        if vlans.is_empty() {
            return Ok(());
        }
        self.switch.batch("bridge", &vlans)
    }

    fn bridge_of(&self, port: &str) -> String {
        let interfaces = self.topology.interfaces();
        let interface = if port.starts_with("backend-") || port.starts_with("back-") {
            interfaces[interfaces.len() - 1]
        } else {
            interfaces[0]
        };
        format!("{interface}-bridge")
    }

    fn add_vlans(&self, script: &mut String, port: &str) -> Result<()> {
        let Vlans::Devices(client, backend) = self.topology.vlans else {
            return Ok(());
        };
        writeln!(script, "vlan del dev {port} vid 1")?;
        if port.starts_with("client-") {
            writeln!(script, "vlan add dev {port} vid {client} pvid untagged")?;
        } else if port.starts_with("backend-") {
            writeln!(script, "vlan add dev {port} vid {backend} pvid untagged")?;
        } else {
            writeln!(script, "vlan add dev {port} vid {client}")?;
            if backend != client {
                writeln!(script, "vlan add dev {port} vid {backend}")?;
            }
        }
        Ok(())
    }

    fn configure_dispatcher(&self) -> Result<()> {
        self.dispatcher.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])?;
        let mut script = String::from("link set lo up\n");
        for interface in self.topology.interfaces() {
            // These were made before the defaults above were written.
            self.dispatcher.sysctl(&[
                (&format!("ipv4/conf/{interface}/rp_filter"), "0"),
                (&format!("ipv4/conf/{interface}/send_redirects"), "0"),
            ])?;
            writeln!(script, "link set {interface} up")?;
        }
        let sides = [
            (self.topology.client_side(), &CLIENT_NET),
            (self.topology.backend_side(), &BACKEND_NET),
        ];
        let skipped = usize::from(matches!(self.topology.vlans, Vlans::AtPorts(_)));
        for (device, networks) in sides.into_iter().skip(skipped) {
            if let Some((physical, vlan)) = device.split_once('.') {
                writeln!(
                    script,
                    "link add link {physical} name {device} type vlan id {vlan}\n\
                     link set {device} up"
                )?;
            }
            self.add_addresses(&mut script, &device, networks)?;
        }
        writeln!(
            script,
            "address add {VIP_V4}/32 dev lo\naddress add {VIP_V6}/128 dev lo"
        )?;
        self.dispatcher.batch("ip", &script)
    }

    /// A redirect or `XDP_TX` of the dispatcher arrives only where the peer has a program.
    fn make_redirect_targets(&self) -> Result<()> {
        let pass = PinnedProgram::load(PortProgram::Pass, &format!("{}-pass", self.prefix))?;
        for interface in self.topology.interfaces() {
            pass.attach(&self.switch, &format!("{interface}-port"))?;
        }
        Ok(())
    }

    /// What clients send is tagged where it enters the switch; what comes to them must be.
    fn tag_at_ports(&self, vlan: u16) -> Result<()> {
        /// A tag has more than the VLAN in it: this priority is not part of the id.
        const PRIORITY: u16 = 3 << 13;
        let push = PortProgram::PushTag(PRIORITY | vlan);
        let push = PinnedProgram::load(push, &format!("{}-push", self.prefix))?;
        let pop = PinnedProgram::load(PortProgram::PopTag(vlan), &format!("{}-pop", self.prefix))?;
        let gateway = self.dispatcher.mac(self.topology.interfaces()[0])?;
        let gateway = gateway.map(|byte| format!("{byte:02x}")).join(":");
        for (client, i) in self.clients.iter().zip(1..) {
            push.attach(&self.switch, &format!("client-{i}"))?;
            pop.attach(client, ENDPOINT_DEVICE)?;
            let mut script = String::new();
            for family in [Family::V4, Family::V6] {
                let address = self.dispatcher.ip(family);
                writeln!(
                    script,
                    "neighbour add {address} lladdr {gateway} dev {ENDPOINT_DEVICE} nud permanent"
                )?;
            }
            client.batch("ip", &script)?;
        }
        Ok(())
    }
}

impl Node {
    fn configure_endpoint(&self, networks: &Networks) -> Result<()> {
        let (v4, v6) = (networks.v4(GATEWAY), networks.v6(GATEWAY));
        self.batch(
            "ip",
            &format!(
                "link set lo up\n\
                 link set {ENDPOINT_DEVICE} up\n\
                 address add {}/24 dev {ENDPOINT_DEVICE}\n\
                 address add {}/64 dev {ENDPOINT_DEVICE} nodad\n\
                 route add default via {v4}\n\
                 route add default via {v6}\n",
                self.v4, self.v6
            ),
        )
    }
}
