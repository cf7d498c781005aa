//! Two routers and a narrow link between an endpoint and its network: the endpoint keeps its
//! address and its MTU, and nobody but the routers knows what fits between them.
//!
//! ```text
//!  endpoint ── near ══ narrow ══ far ── bridge ── dispatcher
//! ```

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use crate::netns::{self, Namespace};
use crate::topology::{ENDPOINT_DEVICE, Family, Lab, Node};

/// The narrow way to an endpoint; the routers go when it is dropped, and the endpoint is cut off.
#[derive(Debug)]
pub struct Narrows {
    near: Namespace,
    far: Namespace,
}

/// Addresses at both ends of the narrow link: near, far.
const LINK_V4: [&str; 2] = ["172.31.0.1", "172.31.0.2"];
const LINK_V6: [&str; 2] = ["fd00:ff::1", "fd00:ff::2"];
/// Where the endpoint finds its router.
const NEAR_V4: &str = "169.254.0.1";
const NEAR_V6: &str = "fe80::1";

impl Narrows {
    /// Puts them between `node` and the rest of the lab.
    pub fn before(lab: &Lab, node: &Node, mtu: u16) -> Result<Self> {
        let router = |role: &str| Namespace::create(&format!("{}-{role}", node.name()));
        let narrows = Self {
            near: router("near")?,
            far: router("far")?,
        };
        narrows.wire(lab, node, mtu)?;
        Ok(narrows)
    }

    fn wire(&self, lab: &Lab, node: &Node, mtu: u16) -> Result<()> {
        let (endpoint, near, far) = (node.name(), self.near.name(), self.far.name());
        for router in [&self.near, &self.far] {
            router.sysctl(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ])?;
        }
        // The endpoint's place at the bridge is the far router's now.
        node.batch(
            "ip",
            &format!("link set {ENDPOINT_DEVICE} netns {far} name outer\n"),
        )?;
        let links = format!(
            "link add {ENDPOINT_DEVICE} netns {endpoint} type veth peer name inner netns {near}\n\
             link add narrow netns {near} mtu {mtu} type veth peer name narrow netns {far} \
             mtu {mtu}\n"
        );
        netns::feed(Command::new("ip").args(["-batch", "-"]), &links)?;
        for (namespace, device) in [
            (&**node, ENDPOINT_DEVICE),
            (&self.near, "inner"),
            (&self.near, "narrow"),
            (&self.far, "narrow"),
        ] {
            let off = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
            namespace.run(&[&["ethtool", "-K", device][..], &off].concat())?;
        }
        let [mut of_endpoint, mut of_near, mut of_far, mut of_dispatcher] =
            [const { String::new() }; 4];
        writeln!(of_endpoint, "link set {ENDPOINT_DEVICE} up")?;
        writeln!(of_near, "link set inner up\nlink set narrow up")?;
        writeln!(of_far, "link set outer up\nlink set narrow up")?;
        for (family, router, [near_end, far_end], bits, net) in [
            (Family::V4, NEAR_V4, LINK_V4, 32, 24),
            (Family::V6, NEAR_V6, LINK_V6, 128, 64),
        ] {
            let address = node.ip(family);
            let [gateway, own] = lab.neighbours_of(node, family);
            let quiet = if family == Family::V6 { "nodad" } else { "" };
            writeln!(
                of_endpoint,
                "address add {address}/{bits} dev {ENDPOINT_DEVICE} {quiet}\n\
                 route add default via {router} dev {ENDPOINT_DEVICE} onlink"
            )?;
            writeln!(
                of_near,
                "address add {router}/{bits} dev inner {quiet}\n\
                 address add {near_end}/{net} dev narrow {quiet}\n\
                 route add {address}/{bits} dev inner\n\
                 route add default via {far_end}"
            )?;
            writeln!(
                of_far,
                "address add {far_end}/{net} dev narrow {quiet}\n\
                 address add {own}/{net} dev outer {quiet}\n\
                 route add {address}/{bits} via {near_end}\n\
                 route add default via {gateway}"
            )?;
            writeln!(of_dispatcher, "route add {address}/{bits} via {own}")?;
        }
        node.batch("ip", &of_endpoint)?;
        self.near.batch("ip", &of_near)?;
        self.far.batch("ip", &of_far)?;
        lab.dispatcher().batch("ip", &of_dispatcher)
    }
}
