//! ICMP and ICMPv6 (RFC 792, RFC 4443) as far as connections need them: an error about a packet of
//! a flow is translated as the packet was, and a ping of a service's address is answered. Packets
//! begin with their IP header here, so that all offsets are constants.
//!
//! An error travels against the packet that it quotes. So the entry that knows its way and its
//! translation is the one of the packets that answer the quoted one:
//!
//! | who tells | quoted | becomes | sent to |
//! |---|---|---|---|
//! | a router towards the client | service → client | back-end → client | back-end |
//! | a router towards the back-end, or it itself | client → back-end | client → service | client |

use crate::addr::{Addr, Port};
use crate::checksum;
use crate::flow::{Direction, FlowKey};
use crate::header::{
    IcmpHdr, Ipv4Hdr, Ipv6Hdr, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, TcpStart,
};
use crate::packet::PacketBytes;
use crate::parse::{FRAGMENT_MASK, IPV6_FRAGMENT, is_ipv6_extension};
use crate::rewrite::{TTL_DELTA, Translation};

/// What a dispatcher may have to do with an ICMP message.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An error about a TCP segment, of which at least eight bytes are quoted.
    Error,
    /// An error about a packet with IPv4 options or IPv6 extension headers.
    QuotesOptions,
    /// An error about a fragment that is not the first.
    QuotesFragment,
    /// An echo request.
    EchoRequest,
}

/// An ICMP error about a TCP segment, as far as a dispatcher reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Sequence number of the quoted segment.
    pub seq: u32,
    /// ICMP, else ICMPv6.
    pub is_v4: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Bytes of the message, as its IP header says; at most what there is.
    pub ip_len: u16,
}

/// Echo reply, echo request (RFC 792).
const ECHO: [u8; 2] = [0, 8];
/// Echo reply, echo request (RFC 4443 4).
const ECHO_V6: [u8; 2] = [129, 128];

/// Destination unreachable, time exceeded, parameter problem (RFC 792). Source quench is to be
/// ignored (RFC 6633), and a redirect is for the host itself.
const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 3).
const fn is_error_v6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// Version 4, and a header of five words.
const V4_WITHOUT_OPTIONS: u8 = 0x45;
/// Where a TCP header has its checksum.
const TCP_CHECKSUM_AT: usize = 16;
/// The TTL that an answer sets out with (RFC 1700).
pub(crate) const TTL: u8 = 64;
/// The offset alone, bits 0 to 12: a first fragment has the ports.
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

const fn ip_header_len(is_v4: bool) -> usize {
    if is_v4 {
        size_of::<Ipv4Hdr>()
    } else {
        size_of::<Ipv6Hdr>()
    }
}

const fn quote_at(is_v4: bool) -> usize {
    ip_header_len(is_v4) + size_of::<IcmpHdr>()
}

const fn quoted_tcp_at(is_v4: bool) -> usize {
    quote_at(is_v4) + ip_header_len(is_v4)
}

/// What an IPv4 packet is. Nothing if it is left to the host's stack: another protocol, another
/// message, a fragment, an error about another protocol or with too short a quote, and whatever has
/// lengths that contradict each other.
///
/// No checksum is looked at: each is changed with what it covers, so it stays as right as it was,
/// and its receiver judges it.
#[inline(always)]
pub fn kind_v4<P: PacketBytes + ?Sized>(packet: &P) -> Option<Kind> {
    let ip = packet.header::<Ipv4Hdr>(0)?;
    if ip.version_ihl != V4_WITHOUT_OPTIONS
        || ip.protocol != PROTOCOL_ICMP
        || u16::from_be_bytes(ip.fragment) & FRAGMENT_MASK != 0
    {
        return None;
    }
    let ip_len = usize::from(u16::from_be_bytes(ip.total_length));
    if ip_len < quote_at(true) || ip_len > packet.len() {
        return None;
    }
    let icmp = packet.header::<IcmpHdr>(size_of::<Ipv4Hdr>())?;
    if icmp.kind == ECHO[1] {
        // Nobody to answer: "this" network, multicast, broadcast (RFC 1122 3.2.1.3).
        let speaks = !matches!(ip.src[0], 0 | 224..=255);
        return speaks.then_some(Kind::EchoRequest);
    }
    if !is_error(icmp.kind) || ip_len < quoted_tcp_at(true) {
        return None;
    }
    let quoted = packet.header::<Ipv4Hdr>(quote_at(true))?;
    if quoted.protocol != PROTOCOL_TCP || ip.dst != quoted.src {
        return None;
    }
    if quoted.version_ihl != V4_WITHOUT_OPTIONS {
        let options = quoted.version_ihl > V4_WITHOUT_OPTIONS && quoted.version_ihl < 0x50;
        return options.then_some(Kind::QuotesOptions);
    }
    if u16::from_be_bytes(quoted.fragment) & FRAGMENT_OFFSET_MASK != 0 {
        return Some(Kind::QuotesFragment);
    }
    let whole = ip_len >= quoted_tcp_at(true) + size_of::<TcpStart>();
    whole.then_some(Kind::Error)
}

/// As [`kind_v4`], of an IPv6 packet.
#[inline(always)]
pub fn kind_v6<P: PacketBytes + ?Sized>(packet: &P) -> Option<Kind> {
    let ip = packet.header::<Ipv6Hdr>(0)?;
    if ip.version_class_label[0] >> 4 != 6 || ip.next_header != PROTOCOL_ICMPV6 {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes(ip.payload_length));
    let ip_len = payload + size_of::<Ipv6Hdr>();
    if ip_len < quote_at(false) || ip_len > packet.len() || ip_len > usize::from(u16::MAX) {
        return None;
    }
    // A mapped address never stands on a wire; it would be taken for an IPv4 flow.
    let (src, dst) = (Addr::from_v6_bytes(ip.src), Addr::from_v6_bytes(ip.dst));
    if src.is_v4() || dst.is_v4() {
        return None;
    }
    let icmp = packet.header::<IcmpHdr>(size_of::<Ipv6Hdr>())?;
    if icmp.kind == ECHO_V6[1] {
        // Nobody to answer: unspecified, multicast (RFC 4443 2.2).
        let speaks = !src.is_v6_multicast() && src != Addr::UNSPECIFIED;
        return speaks.then_some(Kind::EchoRequest);
    }
    if !is_error_v6(icmp.kind) || ip_len < quoted_tcp_at(false) {
        return None;
    }
    let quoted = packet.header::<Ipv6Hdr>(quote_at(false))?;
    if quoted.version_class_label[0] >> 4 != 6
        || dst != Addr::from_v6_bytes(quoted.src)
        || Addr::from_v6_bytes(quoted.dst).is_v4()
    {
        return None;
    }
    if quoted.next_header == IPV6_FRAGMENT {
        return Some(Kind::QuotesFragment);
    }
    if is_ipv6_extension(quoted.next_header) {
        return Some(Kind::QuotesOptions);
    }
    let whole = ip_len >= quoted_tcp_at(false) + size_of::<TcpStart>();
    (quoted.next_header == PROTOCOL_TCP && whole).then_some(Kind::Error)
}

/// Where a packet goes.
#[inline(always)]
pub fn destination<P: PacketBytes + ?Sized>(packet: &P, is_v4: bool) -> Option<Addr> {
    Some(if is_v4 {
        Addr::from_v4_bytes(packet.header::<Ipv4Hdr>(0)?.dst)
    } else {
        Addr::from_v6_bytes(packet.header::<Ipv6Hdr>(0)?.dst)
    })
}

/// The key of packets that answer the one that a [`Kind::Error`] quotes; so its destination is the
/// message's own. Nothing if the packet is shorter than that.
#[inline(always)]
pub fn key_of_answers<P: PacketBytes + ?Sized>(packet: &P, is_v4: bool) -> Option<FlowKey> {
    let tcp = packet.header::<TcpStart>(quoted_tcp_at(is_v4))?;
    let (src, dst) = if is_v4 {
        let quoted = packet.header::<Ipv4Hdr>(quote_at(true))?;
        let (src, dst) = (quoted.src, quoted.dst);
        (Addr::from_v4_bytes(src), Addr::from_v4_bytes(dst))
    } else {
        let quoted = packet.header::<Ipv6Hdr>(quote_at(false))?;
        let (src, dst) = (quoted.src, quoted.dst);
        (Addr::from_v6_bytes(src), Addr::from_v6_bytes(dst))
    };
    let src_port = Port::from_bytes(tcp.src_port);
    let dst_port = Port::from_bytes(tcp.dst_port);
    Some(FlowKey::new(dst, dst_port, src, src_port))
}

impl IcmpError {
    /// Reads a packet that is a [`Kind::Error`]. Nothing if it is shorter than that.
    #[inline(always)]
    pub fn read<P: PacketBytes + ?Sized>(packet: &P, is_v4: bool) -> Option<Self> {
        let tcp = packet.header::<TcpStart>(quoted_tcp_at(is_v4))?;
        let (ttl, ip_len) = if is_v4 {
            let ip = packet.header::<Ipv4Hdr>(0)?;
            (ip.ttl, u16::from_be_bytes(ip.total_length))
        } else {
            let ip = packet.header::<Ipv6Hdr>(0)?;
            let payload = u16::from_be_bytes(ip.payload_length);
            let ip_len = payload.saturating_add(size_of::<Ipv6Hdr>() as u16);
            (ip.hop_limit, ip_len)
        };
        Some(Self {
            seq: u32::from_be_bytes(tcp.seq),
            is_v4,
            ttl,
            ip_len,
        })
    }

    /// Whether the quote reaches as far as the TCP checksum.
    #[inline(always)]
    const fn quotes_checksum(&self) -> bool {
        const CHECKSUM_END: usize = TCP_CHECKSUM_AT + size_of::<[u8; 2]>();
        self.ip_len as usize >= quoted_tcp_at(self.is_v4) + CHECKSUM_END
    }
}

/// Translates an error about a packet of a flow, given the translation of the packets that answer
/// that one. Nothing, with the packet changed in part, if it is shorter than `error` says.
///
/// The TTL must be above 1: judging that is the caller's.
#[inline(always)]
pub fn translate<P: PacketBytes + ?Sized>(
    packet: &mut P,
    error: &IcmpError,
    translation: &Translation,
) -> Option<()> {
    let direction = translation.direction();
    let address = translation.address_delta();
    // What the quoted addresses and ports add to the sum under the checksum of ICMP; each quoted
    // checksum that covers them takes as much away again.
    let mut sum = translation.tcp_delta;

    let tcp_at = quoted_tcp_at(error.is_v4);
    if error.quotes_checksum() {
        let tcp_checksum = packet.header_mut::<[u8; 2]>(tcp_at + TCP_CHECKSUM_AT)?;
        *tcp_checksum = checksum::update(*tcp_checksum, translation.tcp_delta);
        sum = checksum::combine(sum, !translation.tcp_delta);
    }
    let tcp = packet.header_mut::<TcpStart>(tcp_at)?;
    match direction {
        Direction::Forward => tcp.src_port = translation.port.bytes(),
        Direction::Reply => tcp.dst_port = translation.port.bytes(),
    }

    // Of the message's own ends the translation is of the receiver, towards a back-end; or of the
    // sender, if that is the back-end itself, which clients do not know.
    if error.is_v4 {
        let addr = translation.addr.v4_bytes();
        let quoted = packet.header_mut::<Ipv4Hdr>(quote_at(error.is_v4))?;
        let backend = quoted.dst;
        match direction {
            Direction::Forward => quoted.src = addr,
            Direction::Reply => quoted.dst = addr,
        }
        quoted.checksum = checksum::update(quoted.checksum, address);
        sum = checksum::combine(sum, !address);
        let ip = packet.header_mut::<Ipv4Hdr>(0)?;
        let mut of_header = translation.ip_delta;
        match direction {
            Direction::Forward => ip.dst = addr,
            Direction::Reply if ip.src == backend => ip.src = addr,
            Direction::Reply => of_header = TTL_DELTA,
        }
        ip.ttl = ip.ttl.wrapping_sub(1);
        ip.checksum = checksum::update(ip.checksum, of_header);
    } else {
        let addr = *translation.addr.bytes();
        let quoted = packet.header_mut::<Ipv6Hdr>(quote_at(error.is_v4))?;
        let backend = quoted.dst;
        match direction {
            Direction::Forward => quoted.src = addr,
            Direction::Reply => quoted.dst = addr,
        }
        let ip = packet.header_mut::<Ipv6Hdr>(0)?;
        // They are under the checksum of ICMPv6, too.
        let mut of_ends = address;
        match direction {
            Direction::Forward => ip.dst = addr,
            Direction::Reply if ip.src == backend => ip.src = addr,
            Direction::Reply => of_ends = 0,
        }
        sum = checksum::combine(sum, of_ends);
        ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    }
    let icmp = packet.header_mut::<IcmpHdr>(ip_header_len(error.is_v4))?;
    icmp.checksum = checksum::update(icmp.checksum, sum);
    Some(())
}

/// Makes a [`Kind::EchoRequest`] its reply, of the same length and in the same place. Nothing if it
/// is too short to be one.
#[inline(always)]
pub fn answer<P: PacketBytes + ?Sized>(packet: &mut P, is_v4: bool) -> Option<()> {
    let [reply, _] = if is_v4 { ECHO } else { ECHO_V6 };
    let icmp = packet.header_mut::<IcmpHdr>(ip_header_len(is_v4))?;
    let delta = checksum::word_delta([icmp.kind, 0], [reply, 0]);
    icmp.checksum = checksum::update(icmp.checksum, delta);
    icmp.kind = reply;
    // Addresses that change places leave every sum as it is.
    if is_v4 {
        let ip = packet.header_mut::<Ipv4Hdr>(0)?;
        (ip.src, ip.dst) = (ip.dst, ip.src);
        let delta = checksum::word_delta([ip.ttl, 0], [TTL, 0]);
        ip.ttl = TTL;
        ip.checksum = checksum::update(ip.checksum, delta);
    } else {
        let ip = packet.header_mut::<Ipv6Hdr>(0)?;
        let (src, dst) = (Addr::from_v6_bytes(ip.src), Addr::from_v6_bytes(ip.dst));
        ip.src = *dst.bytes();
        ip.dst = *src.bytes();
        ip.hop_limit = TTL;
    }
    Some(())
}

const _: () = assert!(size_of::<IcmpError>() == 8);
