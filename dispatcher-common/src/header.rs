//! The headers that a frame to or from a service has, byte for byte.

use crate::addr::Mac;
use crate::packet::Header;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IPv6 next header number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Ethernet II (IEEE 802.3 clause 3).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthHdr {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Big-endian EtherType.
    pub ethertype: [u8; 2],
}

/// What follows EtherType 0x8100 (IEEE 802.1Q).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanHdr {
    /// Priority (3 bits), drop eligible (1), VLAN id (12); big-endian.
    pub tci: [u8; 2],
    /// Big-endian EtherType of what is inside.
    pub ethertype: [u8; 2],
}

/// IPv4 without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Hdr {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, bytes, big-endian.
    pub total_length: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags (3 bits) and fragment offset (13 bits).
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}

/// IPv6 (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Hdr {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: [u8; 4],
    /// What follows this header, bytes, big-endian.
    pub payload_length: [u8; 2],
    /// Protocol number of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}

/// TCP without options (RFC 9293 3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHdr {
    /// Source port, big-endian.
    pub src_port: [u8; 2],
    /// Destination port, big-endian.
    pub dst_port: [u8; 2],
    /// Sequence number, big-endian.
    pub seq: [u8; 4],
    /// Acknowledgement number, big-endian.
    pub ack: [u8; 4],
    /// Header length in 32-bit words (4 bits), reserved (4).
    pub data_offset: u8,
    /// The eight flag bits.
    pub flags: TcpFlags,
    /// Window as sent, not scaled.
    pub window: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// The flag bits of a TCP header.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);

    /// Whether any bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets of bits.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// A connection request: SYN, and none of ACK, FIN and RST. ECN bits may be set (RFC 3168).
    #[inline(always)]
    #[must_use]
    pub const fn is_connection_request(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::FIN.0 | Self::RST.0) == Self::SYN.0
    }
}

/// The first eight bytes of TCP: the least that an ICMP error quotes of it (RFC 792).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpStart {
    /// Source port, big-endian.
    pub src_port: [u8; 2],
    /// Destination port, big-endian.
    pub dst_port: [u8; 2],
    /// Sequence number, big-endian.
    pub seq: [u8; 4],
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443 2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpHdr {
    /// What it says.
    pub kind: u8,
    /// What of it.
    pub code: u8,
    /// Checksum of this header and all that follows; of ICMPv6 with the pseudo-header.
    pub checksum: [u8; 2],
    /// An echo's identifier and number, an MTU, or nothing.
    pub rest: [u8; 4],
}

macro_rules! headers {
    ($($ty:ty = $size:literal),* $(,)?) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)` over byte arrays and bytes only, so alignment 1,
        // no padding (the size assertion below), and every bit pattern is a value.
        unsafe impl Header for $ty {}
        const _: () = assert!(size_of::<$ty>() == $size && align_of::<$ty>() == 1);
    )*};
}
headers!(
    EthHdr = 14,
    VlanHdr = 4,
    Ipv4Hdr = 20,
    Ipv6Hdr = 40,
    TcpHdr = 20,
    TcpStart = 8,
    IcmpHdr = 8
);
