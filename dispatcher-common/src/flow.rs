//! A flow: one client's TCP connection to one service, kept as two entries of the `FLOWS` map.

use crate::addr::{Addr, Port};
use crate::link::NextHop;
use crate::rewrite::Translation;
use crate::tcp::Track;

/// The 5-tuple of a packet as it stands on the wire; the protocol is always TCP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowKey {
    /// Sender's address.
    pub src: Addr,
    /// Receiver's address.
    pub dst: Addr,
    /// Sender's port.
    pub src_port: Port,
    /// Receiver's port.
    pub dst_port: Port,
    /// 0.
    pub zero: [u8; 4],
}

/// Which way a packet goes.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Client to back-end; the destination is rewritten.
    Forward = 0,
    /// Back-end to client; the source is rewritten.
    Reply = 1,
}

impl Direction {
    /// From the byte in a [`Translation`]; anything but 0 is a reply.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(byte: u8) -> Self {
        if byte == 0 {
            Self::Forward
        } else {
            Self::Reply
        }
    }

    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }
}

/// One direction of a flow: what is done with its packets, and what was learned from them.
///
/// User space writes an entry once, before the flow's SYN leaves. From then on the program writes:
/// `phase` with atomic OR, everything else with plain stores, because the packets of one direction
/// arrive on one receive queue; where they do not, a count may lose a packet and nothing else.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    /// Packets seen in this direction.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// What to write into the packet.
    pub translation: Translation,
    /// Where the packet leaves.
    pub next_hop: NextHop,
    /// Index of the flow in user space's table.
    pub flow: u32,
    /// Generation of that index: events of an earlier flow there are told apart.
    pub generation: u32,
    /// [`Phase`](crate::tcp::Phase) bits. The forward entry's word is the flow's; the reply entry
    /// holds a copy that may lag, so that a packet of a steady flow needs one lookup.
    pub phase: u32,
    /// Index of the back-end's counters.
    pub backend: u32,
    /// Sequence numbers of this direction.
    pub track: Track,
    /// [`Control::ticks`](crate::control::Control) when the flow was installed.
    pub installed: u32,
    /// The same when a packet of it was last seen that [`advance`](crate::tcp::advance) believes.
    pub last_seen: u32,
    /// In the forward entry a count that is odd while a request of the client stands
    /// ([`follow_client`](crate::measure::follow_client)). In the reply entry what the clock showed
    /// when the back-end was asked ([`clock`](crate::measure::clock)), for its SYN-ACK at first; 0
    /// when it has answered.
    pub asked: u32,
}

/// The two entries of a flow, with their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPair {
    /// Client to service.
    pub forward_key: FlowKey,
    /// Back-end to client.
    pub reply_key: FlowKey,
    /// For packets of the client.
    pub forward: FlowEntry,
    /// For packets of the back-end.
    pub reply: FlowEntry,
}

/// What user space knows when it installs a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// The client's 5-tuple towards the service.
    pub key: FlowKey,
    /// Address of the back-end.
    pub backend_addr: Addr,
    /// Port of the back-end.
    pub backend_port: Port,
    /// Index of the back-end's counters.
    pub backend: u32,
    /// Index of the flow in user space's table.
    pub flow: u32,
    /// Generation of that index.
    pub generation: u32,
    /// Initial sequence number of the client's SYN.
    pub isn: u32,
    /// The tick at which the flow is installed.
    pub now_ticks: u32,
    /// What the [`clock`](crate::measure::clock) shows when the SYN is sent to the back-end.
    pub asked: u32,
    /// Way to the back-end.
    pub to_backend: NextHop,
    /// Way to the client.
    pub to_client: NextHop,
}

impl FlowKey {
    /// The key of packets from `src` to `dst`.
    #[inline(always)]
    #[must_use]
    pub const fn new(src: Addr, src_port: Port, dst: Addr, dst_port: Port) -> Self {
        let ([s0, s1], [d0, d1]) = (src.halves(), dst.halves());
        let ([sh, sl], [dh, dl]) = (src_port.bytes(), dst_port.bytes());
        let ports = u64::from_ne_bytes([sh, sl, dh, dl, 0, 0, 0, 0]);
        // By words, because the kernel hashes and compares a key by words, and a load of one waits
        // for all smaller stores into it.
        // SAFETY: both are forty plain bytes without an invalid value.
        unsafe { core::mem::transmute::<[u64; 5], Self>([s0, s1, d0, d1, ports]) }
    }

    /// The key that replies to packets of this key have before any rewrite.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst, self.dst_port, self.src, self.src_port)
    }

    /// The key of what a back-end sends, of the flow whose packets from the client have this one.
    #[inline(always)]
    #[must_use]
    pub const fn reply_of(&self, backend: Addr, port: Port) -> Self {
        Self::new(backend, port, self.src, self.src_port)
    }

    /// The key of the other direction's entry of the same flow, given this direction's translation.
    #[inline(always)]
    #[must_use]
    pub fn of_peer(&self, translation: &Translation) -> Self {
        match translation.direction() {
            Direction::Forward => self.reply_of(translation.addr, translation.port),
            Direction::Reply => {
                Self::new(self.dst, self.dst_port, translation.addr, translation.port)
            }
        }
    }
}

impl FlowPair {
    /// Both entries of a new flow whose SYN is about to be forwarded.
    #[must_use]
    pub fn new(spec: &FlowSpec) -> Self {
        let FlowSpec {
            key,
            backend_addr,
            backend_port,
            ..
        } = *spec;
        let forward = FlowEntry {
            packets: 0,
            bytes: 0,
            translation: Translation::to_backend(&key, backend_addr, backend_port),
            next_hop: spec.to_backend,
            flow: spec.flow,
            generation: spec.generation,
            phase: 0,
            backend: spec.backend,
            track: Track::of_syn(spec.isn),
            installed: spec.now_ticks,
            last_seen: spec.now_ticks,
            asked: 0,
        };
        let reply_key = key.of_peer(&forward.translation);
        let reply = FlowEntry {
            translation: Translation::to_client(&reply_key, key.dst, key.dst_port),
            next_hop: spec.to_client,
            track: Track::default(),
            asked: spec.asked,
            ..forward
        };
        Self {
            forward_key: key,
            reply_key,
            forward,
            reply,
        }
    }
}

const _: () = {
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<FlowEntry>() == 104);
};

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn each_entry_knows_the_key_of_the_other() {
        let key = FlowKey::new(
            addr("198.51.100.1"),
            Port::new(40000),
            addr("192.0.2.10"),
            Port::new(80),
        );
        let pair = FlowPair::new(&FlowSpec {
            key,
            backend_addr: addr("10.0.0.11"),
            backend_port: Port::new(8080),
            backend: 3,
            flow: 7,
            generation: 1,
            isn: 1000,
            now_ticks: 5,
            asked: 9,
            to_backend: NextHop::UNKNOWN,
            to_client: NextHop::UNKNOWN,
        });
        assert_eq!(
            pair.reply_key,
            FlowKey::new(
                addr("10.0.0.11"),
                Port::new(8080),
                addr("198.51.100.1"),
                Port::new(40000)
            )
        );
        assert_eq!((pair.forward.asked, pair.reply.asked), (0, 9));
        assert_eq!(
            pair.forward_key.of_peer(&pair.forward.translation),
            pair.reply_key
        );
        assert_eq!(
            pair.reply_key.of_peer(&pair.reply.translation),
            pair.forward_key
        );
    }
}
