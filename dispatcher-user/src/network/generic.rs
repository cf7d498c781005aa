//! Questions over generic netlink that rtnetlink does not know: what of XDP a driver can do, and
//! which offloads are on. Reads only.
//!
//! The kernel answers such a question while it is being sent, so nothing here waits.

use std::collections::BTreeSet;
use std::io;

use rtnetlink::packet_core::{NLA_F_NESTED, NLA_TYPE_MASK};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `GENL_ID_CTRL` of `linux/genetlink.h`, with `CTRL_CMD_GETFAMILY` and its attributes.
const CONTROL: (u16, u8) = (16, 3);
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` of `linux/netdev.h`, and its attributes.
const NETDEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
/// `ETHTOOL_MSG_FEATURES_GET` and `ETHTOOL_MSG_CHANNELS_GET` of `linux/ethtool_netlink.h`, and
/// their attributes.
const FEATURES_GET: u8 = 11;
const CHANNELS_GET: u8 = 17;
const ETHTOOL_HEADER: u16 = 1;
const ETHTOOL_HEADER_IFINDEX: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BITSET_BIT_NAME: u16 = 2;
const CHANNELS_COMBINED_MAX: u16 = 5;
/// Bytes of the netlink and of the generic netlink header.
const HEADERS: usize = 16 + 4;

/// What XDP a driver has, as `enum netdev_xdp_act` of `linux/netdev.h` puts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// It runs programs itself.
    #[must_use]
    pub const fn has_native(self) -> bool {
        self.0 & 1 != 0
    }

    /// It takes what a program redirects to it.
    #[must_use]
    pub const fn is_redirect_target(self) -> bool {
        self.0 & 4 != 0
    }

    /// It gives frames to AF_XDP without a copy.
    #[must_use]
    pub const fn has_zero_copy(self) -> bool {
        self.0 & 8 != 0
    }
}

/// A socket for the questions.
pub(super) struct Generic {
    socket: Socket,
    netdev: Option<u16>,
    ethtool: Option<u16>,
}

impl Generic {
    /// In the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let mut generic = Self {
            socket,
            netdev: None,
            ethtool: None,
        };
        generic.netdev = generic.family("netdev");
        generic.ethtool = generic.family("ethtool");
        Ok(generic)
    }

    /// What XDP the driver has; nothing before Linux 6.3, which does not tell.
    pub fn xdp_features(&self, ifindex: u32) -> Option<XdpFeatures> {
        let question = attribute(NETDEV_IFINDEX, &ifindex.to_ne_bytes());
        let answer = self.ask((self.netdev?, NETDEV_GET), &question).ok()?;
        let value = find(&answer, NETDEV_XDP_FEATURES)?;
        Some(XdpFeatures(u64::from_ne_bytes(value.try_into().ok()?)))
    }

    /// The offloads that are on, by the names that `ethtool -k` derives its own from.
    pub fn offloads(&self, ifindex: u32) -> Option<BTreeSet<String>> {
        let question = ethtool_header(ifindex);
        let answer = self.ask((self.ethtool?, FEATURES_GET), &question).ok()?;
        let bits = find(find(&answer, FEATURES_ACTIVE)?, BITSET_BITS)?;
        let names = attributes(bits)
            .filter(|(kind, _)| *kind == BITSET_BIT)
            .filter_map(|(_, bit)| text(find(bit, BITSET_BIT_NAME)?));
        Some(names.collect())
    }

    /// Whether the driver counts its queues as pairs (`combined`) and not by direction.
    pub fn has_combined_channels(&self, ifindex: u32) -> Option<bool> {
        let question = ethtool_header(ifindex);
        let answer = self.ask((self.ethtool?, CHANNELS_GET), &question).ok()?;
        let most = find(&answer, CHANNELS_COMBINED_MAX);
        Some(most.is_some_and(|most| most.iter().any(|byte| *byte != 0)))
    }

    fn family(&self, name: &str) -> Option<u16> {
        let name = [name.as_bytes(), &[0]].concat();
        let answer = self.ask(CONTROL, &attribute(CONTROL_FAMILY_NAME, &name));
        let answer = answer.ok()?;
        let id = find(&answer, CONTROL_FAMILY_ID)?;
        Some(u16::from_ne_bytes(id.try_into().ok()?))
    }

    /// The attributes of the answer.
    fn ask(&self, (family, command): (u16, u8), attributes: &[u8]) -> io::Result<Vec<u8>> {
        let length = (HEADERS + attributes.len()) as u32;
        let mut message = Vec::with_capacity(length as usize);
        message.extend(length.to_ne_bytes());
        message.extend(family.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        // Sequence number and port: one question is open at a time.
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes);
        self.socket.send(&message, 0)?;
        let (mut answer, _) = self.socket.recv_from_full()?;
        let kind = answer.get(4..6).map(|kind| [kind[0], kind[1]]);
        if kind.map(u16::from_ne_bytes) == Some(ERROR) || answer.len() < HEADERS {
            return Err(io::Error::other("the kernel does not answer that"));
        }
        Ok(answer.split_off(HEADERS))
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What an ethtool question begins with.
fn ethtool_header(ifindex: u32) -> Vec<u8> {
    let device = attribute(ETHTOOL_HEADER_IFINDEX, &ifindex.to_ne_bytes());
    attribute(ETHTOOL_HEADER | NLA_F_NESTED, &device)
}

/// Those of `bytes` up to the first that is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(other, _)| *other == kind)
        .map(|(_, value)| value)
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let inner = [attribute(1, b"abc"), attribute(2, &7_u32.to_ne_bytes())].concat();
        let outer = attribute(5 | 0x8000, &inner);
        assert_eq!(inner.len(), 16);
        let found = find(&outer, 5).unwrap();
        assert_eq!(find(found, 1), Some(&b"abc"[..]));
        assert_eq!(find(found, 2), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(find(found, 3), None);
        assert_eq!(find(&inner[..7], 1), Some(&b"abc"[..]));
        assert_eq!(find(&inner[..6], 1), None);
    }

    #[test]
    fn loopback_has_offloads_that_are_on_and_no_native_xdp() {
        let generic = Generic::open().unwrap();
        // Index 1 in every network namespace.
        let offloads = generic.offloads(1).unwrap();
        assert!(offloads.contains("tx-checksum-ip-generic"), "{offloads:?}");
        assert_eq!(generic.offloads(u32::MAX >> 1), None);
        if let Some(features) = generic.xdp_features(1) {
            assert!(!features.has_native());
        }
    }
}
