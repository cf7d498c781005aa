//! The one parser: bytes of a frame to a [`Segment`], or to the reason why they are none.

use crate::addr::{Addr, Port};
use crate::flow::FlowKey;
use crate::header::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, EthHdr, Ipv4Hdr, Ipv6Hdr, PROTOCOL_TCP, TcpHdr,
    VlanHdr,
};
use crate::link::{VLAN_ID_MASK, VlanId};
use crate::packet::PacketBytes;
use crate::tcp::SegmentView;

/// A TCP segment, as far as a dispatcher reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The 5-tuple on the wire.
    pub key: FlowKey,
    /// Flags, numbers, payload length.
    pub tcp: SegmentView,
    /// IPv4, else IPv6.
    pub is_v4: bool,
    /// Bytes of the TCP header, options included.
    pub tcp_len: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Bytes of the link header: 14, or 18 with a tag.
    pub link_len: u8,
    /// The tag's VLAN id, 0 for none.
    pub vlan: VlanId,
    /// Bytes from the IP header on, as that header says; at most what the frame holds.
    pub ip_len: u16,
}

impl Segment {
    /// Offset of the IP header in the frame.
    #[inline(always)]
    #[must_use]
    pub const fn ip_offset(&self) -> usize {
        self.link_len as usize
    }

    /// Bytes of the IP header.
    #[inline(always)]
    #[must_use]
    pub const fn ip_header_len(&self) -> usize {
        if self.is_v4 {
            size_of::<Ipv4Hdr>()
        } else {
            size_of::<Ipv6Hdr>()
        }
    }

    /// Offset of the TCP header in the frame.
    #[inline(always)]
    #[must_use]
    pub const fn tcp_offset(&self) -> usize {
        self.ip_offset() + self.ip_header_len()
    }

    /// The EtherType of what is in the frame, under any tag.
    #[inline(always)]
    #[must_use]
    pub const fn ethertype(&self) -> u16 {
        if self.is_v4 {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        }
    }
}

/// Why a frame is no segment that can be dispatched.
///
/// In words like [`Segment`], which shares its place in a `Result`: fields of unlike sizes there
/// would make the compiler split words on the BPF stack, and the verifier refuse that.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// Where the frame was going; unspecified for [`Unparsable::NotTcp`].
    pub dst: Addr,
    /// What is in the way.
    pub why: Unparsable,
}

/// What is in the way of dispatching a frame.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsable {
    /// Not TCP over IP under at most one tag, or too broken to have a destination.
    NotTcp,
    /// A fragment.
    Fragment,
    /// IPv4 options or IPv6 extension headers.
    IpOptions,
    /// Lengths in the headers contradict each other or the frame.
    Malformed,
}

const NOT_TCP: ParseError = ParseError {
    why: Unparsable::NotTcp,
    dst: Addr::UNSPECIFIED,
};

impl Unparsable {
    #[inline(always)]
    const fn at(self, dst: Addr) -> ParseError {
        ParseError { why: self, dst }
    }
}

/// More fragments (bit 13) or an offset (bits 0 to 12).
pub(crate) const FRAGMENT_MASK: u16 = 0x3fff;

/// Extension headers that may stand between IPv6 and TCP (RFC 8200 4): hop-by-hop, routing,
/// authentication, destination options, mobility, HIP, shim6.
pub(crate) const fn is_ipv6_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140)
}

/// The IPv6 fragment header (RFC 8200 4.5).
pub(crate) const IPV6_FRAGMENT: u8 = 44;

/// What a link header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkHeader {
    /// EtherType of what is in the frame, under any tag.
    pub ethertype: u16,
    /// Its bytes: 14, or 18 with a tag.
    pub len: usize,
    /// The tag's VLAN id, 0 for none.
    pub vlan: VlanId,
}

/// Reads Ethernet and one tag. Nothing if the frame is shorter than that.
#[inline(always)]
pub fn link_header<P: PacketBytes + ?Sized>(packet: &P) -> Option<LinkHeader> {
    let eth = packet.header::<EthHdr>(0)?;
    let mut link = LinkHeader {
        ethertype: u16::from_be_bytes(eth.ethertype),
        len: size_of::<EthHdr>(),
        vlan: 0,
    };
    if link.ethertype == ETHERTYPE_VLAN {
        let tag = packet.header::<VlanHdr>(link.len)?;
        link.vlan = u16::from_be_bytes(tag.tci) & VLAN_ID_MASK;
        link.ethertype = u16::from_be_bytes(tag.ethertype);
        link.len += size_of::<VlanHdr>();
    }
    Some(link)
}

/// Reads the headers of one frame.
///
/// # Errors
///
/// What is not a whole, unfragmented TCP segment without IP options, and why.
#[inline(always)]
pub fn parse<P: PacketBytes + ?Sized>(packet: &P) -> Result<Segment, ParseError> {
    let link = link_header(packet).ok_or(NOT_TCP)?;
    match link.ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(packet, link.len, link.vlan),
        ETHERTYPE_IPV6 => parse_ipv6(packet, link.len, link.vlan),
        _ => Err(NOT_TCP),
    }
}

#[inline(always)]
fn parse_ipv4<P: PacketBytes + ?Sized>(
    packet: &P,
    link_len: usize,
    vlan: VlanId,
) -> Result<Segment, ParseError> {
    let ip = packet.header::<Ipv4Hdr>(link_len).ok_or(NOT_TCP)?;
    if ip.version_ihl >> 4 != 4 || ip.protocol != PROTOCOL_TCP {
        return Err(NOT_TCP);
    }
    let dst = Addr::from_v4_bytes(ip.dst);
    if ip.version_ihl & 0x0f < 5 {
        return Err(Unparsable::Malformed.at(dst));
    }
    if ip.version_ihl & 0x0f > 5 {
        return Err(Unparsable::IpOptions.at(dst));
    }
    if u16::from_be_bytes(ip.fragment) & FRAGMENT_MASK != 0 {
        return Err(Unparsable::Fragment.at(dst));
    }
    let ip_len = u16::from_be_bytes(ip.total_length);
    let found = Found {
        src: Addr::from_v4_bytes(ip.src),
        dst,
        is_v4: true,
        ttl: ip.ttl,
        link_len,
        vlan,
        ip_len: usize::from(ip_len),
    };
    parse_tcp(packet, &found)
}

#[inline(always)]
fn parse_ipv6<P: PacketBytes + ?Sized>(
    packet: &P,
    link_len: usize,
    vlan: VlanId,
) -> Result<Segment, ParseError> {
    let ip = packet.header::<Ipv6Hdr>(link_len).ok_or(NOT_TCP)?;
    if ip.version_class_label[0] >> 4 != 6 {
        return Err(NOT_TCP);
    }
    let (src, dst) = (Addr::from_v6_bytes(ip.src), Addr::from_v6_bytes(ip.dst));
    // A mapped address never stands on a wire; it would be taken for an IPv4 flow.
    if src.is_v4() || dst.is_v4() {
        return Err(NOT_TCP);
    }
    if ip.next_header == IPV6_FRAGMENT {
        return Err(Unparsable::Fragment.at(dst));
    }
    if is_ipv6_extension(ip.next_header) {
        return Err(Unparsable::IpOptions.at(dst));
    }
    if ip.next_header != PROTOCOL_TCP {
        return Err(NOT_TCP);
    }
    let found = Found {
        src,
        dst,
        is_v4: false,
        ttl: ip.hop_limit,
        link_len,
        vlan,
        ip_len: usize::from(u16::from_be_bytes(ip.payload_length)) + size_of::<Ipv6Hdr>(),
    };
    parse_tcp(packet, &found)
}

/// What the IP header said.
struct Found {
    src: Addr,
    dst: Addr,
    is_v4: bool,
    ttl: u8,
    link_len: usize,
    vlan: VlanId,
    ip_len: usize,
}

#[inline(always)]
fn parse_tcp<P: PacketBytes + ?Sized>(packet: &P, found: &Found) -> Result<Segment, ParseError> {
    let malformed = Unparsable::Malformed.at(found.dst);
    let ip_header_len = if found.is_v4 {
        size_of::<Ipv4Hdr>()
    } else {
        size_of::<Ipv6Hdr>()
    };
    let tcp = packet
        .header::<TcpHdr>(found.link_len + ip_header_len)
        .ok_or(malformed)?;
    let tcp_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_len < size_of::<TcpHdr>()
        || found.ip_len < ip_header_len + tcp_len
        || found.ip_len > usize::from(u16::MAX)
        || packet.len() < found.link_len + found.ip_len
    {
        return Err(malformed);
    }
    Ok(Segment {
        key: FlowKey::new(
            found.src,
            Port::from_bytes(tcp.src_port),
            found.dst,
            Port::from_bytes(tcp.dst_port),
        ),
        tcp: SegmentView {
            flags: tcp.flags,
            seq: u32::from_be_bytes(tcp.seq),
            ack: u32::from_be_bytes(tcp.ack),
            payload: (found.ip_len - ip_header_len - tcp_len) as u32,
        },
        is_v4: found.is_v4,
        tcp_len: tcp_len as u8,
        ttl: found.ttl,
        link_len: found.link_len as u8,
        vlan: found.vlan,
        ip_len: found.ip_len as u16,
    })
}
