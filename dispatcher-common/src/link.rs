//! The link layer: where a packet leaves, and under which header.

use crate::addr::Mac;
use crate::header::{ETHERTYPE_VLAN, EthHdr, VlanHdr};
use crate::packet::PacketBytes;

/// The VLAN of a frame: the 12-bit id of its 802.1Q tag, 0 for none.
///
/// Priority bits are not kept. Id 0 in a tag means "priority only" (802.1Q 9.6), which is no VLAN.
pub type VlanId = u16;

/// Bits of a tag that hold the VLAN id.
pub const VLAN_ID_MASK: u16 = 0x0fff;

/// How to reach the next machine, resolved by user space or by `bpf_fib_lookup` and kept in a flow
/// entry for as long as `generation` is the current one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The physical interface, or 0: nothing is known. [`NextHop::HOST_STACK`]: leave it to the
    /// host's stack.
    pub ifindex: u32,
    /// [`Control::network_generation`](crate::control::Control) at which this was true; 0 never is.
    pub generation: u32,
    /// Neighbour.
    pub dst: Mac,
    /// Own address on that interface.
    pub src: Mac,
    /// VLAN to leave under, 0 for none.
    pub vlan: VlanId,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

impl NextHop {
    /// Nothing is known yet.
    pub const UNKNOWN: Self = Self {
        ifindex: 0,
        generation: 0,
        dst: Mac::UNKNOWN,
        src: Mac::UNKNOWN,
        vlan: 0,
        mtu: 0,
    };

    /// `ifindex` of a way that only the host's stack can take (a tunnel, a device without XDP).
    pub const HOST_STACK: u32 = u32::MAX;

    /// Length of the link header that packets leave with.
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        if self.vlan == 0 {
            size_of::<EthHdr>()
        } else {
            size_of::<EthHdr>() + size_of::<VlanHdr>()
        }
    }

    /// Writes the link header at the start of `packet`, which has [`Self::header_len`] bytes before
    /// its IP header. Nothing if the frame is too short.
    #[inline(always)]
    pub fn write_header<P: PacketBytes + ?Sized>(
        &self,
        packet: &mut P,
        ethertype: u16,
    ) -> Option<()> {
        let outer = if self.vlan == 0 {
            ethertype
        } else {
            ETHERTYPE_VLAN
        };
        let eth = packet.header_mut::<EthHdr>(0)?;
        self.dst.write(&mut eth.dst);
        self.src.write(&mut eth.src);
        eth.ethertype = outer.to_be_bytes();
        if self.vlan != 0 {
            *packet.header_mut::<VlanHdr>(size_of::<EthHdr>())? = VlanHdr {
                tci: self.vlan.to_be_bytes(),
                ethertype: ethertype.to_be_bytes(),
            };
        }
        Some(())
    }
}

/// Makes a frame one for whoever delivered it. Nothing if it is too short.
#[inline(always)]
pub fn turn_round<P: PacketBytes + ?Sized>(packet: &mut P) -> Option<()> {
    let eth = packet.header_mut::<EthHdr>(0)?;
    (eth.dst, eth.src) = (eth.src, eth.dst);
    Some(())
}

/// A value of the `LINKS` map: what the program must know of an interface that the routing table
/// or a received packet names.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The physical interface under it, where frames leave; its own index if it is one.
    pub device: u32,
    /// VLAN id that frames carry on that interface, 0 for none.
    pub vlan: u32,
    /// Index in `XSKS` of the socket on receive queue 0, or [`Link::NO_SOCKET`].
    pub xsk_base: u32,
    /// Number of receive queues with a socket.
    pub xsk_queues: u32,
}

impl Link {
    /// `xsk_base` of an interface that no socket listens on.
    pub const NO_SOCKET: u32 = u32::MAX;
}

const _: () = assert!(size_of::<NextHop>() == 24 && size_of::<Link>() == 16);
