//! Tells the sender of a segment why it goes no further: the ICMP error that a router owes it. It
//! bears the address of the service, which both ends have a way to; it leaves where the segment
//! came in, and quotes the segment as it came. Packets begin with their IP header here.

use crate::addr::Addr;
use crate::checksum;
use crate::header::{IcmpHdr, Ipv4Hdr, Ipv6Hdr, PROTOCOL_ICMP, PROTOCOL_ICMPV6, TcpHdr};
use crate::icmp::TTL;
use crate::packet::PacketBytes;

/// Why a segment goes no further.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It is longer than the way out takes: "fragmentation needed" (RFC 1191), "packet too big"
    /// (RFC 8201).
    TooBig,
    /// Its TTL or hop limit would reach zero: "time exceeded" (RFC 792, RFC 4443 3.3).
    TtlExpired,
}

impl Problem {
    /// How many there are.
    pub const COUNT: u32 = 2;

    /// Notices of it that are sent within a second of the clock, at most (RFC 4443 2.4 (f), RFC
    /// 1812 4.3.2.8). Of segments that have travelled too long, as many as Linux tells of
    /// (`icmp_msgs_per_sec`). Who is not told that a segment was too big stalls, so there are more
    /// of those; each has a bound of its own, so that nobody can use up the other.
    #[inline(always)]
    #[must_use]
    pub const fn a_second_max(self) -> u32 {
        match self {
            Self::TooBig => 10_000,
            Self::TtlExpired => 1000,
        }
    }

    /// The ICMP header, its checksum still 0; the MTU has the same place in both families.
    #[inline(always)]
    const fn header(self, is_v4: bool, mtu: u16) -> IcmpHdr {
        let (kind, code) = match (self, is_v4) {
            (Self::TooBig, true) => (3, 4),
            (Self::TooBig, false) => (2, 0),
            (Self::TtlExpired, true) => (11, 0),
            (Self::TtlExpired, false) => (3, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        IcmpHdr {
            kind,
            code,
            checksum: [0; 2],
            rest: [0, 0, high, low],
        }
    }
}

/// How many notices of a problem were sent, and in which second of the clock; another second has
/// seen none yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent(u64);

impl Sent {
    /// So many in this second.
    #[inline(always)]
    #[must_use]
    pub const fn of(second: u32, count: u32) -> Self {
        Self((second as u64) << u32::BITS | count as u64)
    }

    /// As it lies in the map: the second in the upper half, the count in the lower, so that adding
    /// 1 adds a notice.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The reverse.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Which second it tells of.
    #[inline(always)]
    #[must_use]
    pub const fn second(self) -> u32 {
        (self.0 >> u32::BITS) as u32
    }

    /// Whether one more may be sent in the second that it tells of.
    #[inline(always)]
    #[must_use]
    pub const fn leaves_room(self, problem: Problem) -> bool {
        (self.0 as u32) < problem.a_second_max()
    }
}

/// What is quoted of the segment: its headers without TCP options. That is more than what TCP
/// needs to know it again, and of one length, so that a sum over it has no branch.
const QUOTE_V4: usize = size_of::<Ipv4Hdr>() + size_of::<TcpHdr>();
const QUOTE_V6: usize = size_of::<Ipv6Hdr>() + size_of::<TcpHdr>();
const ICMP_V4: usize = size_of::<IcmpHdr>() + QUOTE_V4;
const ICMP_V6: usize = size_of::<IcmpHdr>() + QUOTE_V6;

/// A type of service for what keeps the network going (RFC 1812 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// Bytes of a segment, from its IP header on, that stay as the quote.
#[inline(always)]
#[must_use]
pub const fn quote_len(is_v4: bool) -> usize {
    if is_v4 { QUOTE_V4 } else { QUOTE_V6 }
}

/// Bytes in front of them that [`write()`] fills.
#[inline(always)]
#[must_use]
pub const fn headers_len(is_v4: bool) -> usize {
    let ip = if is_v4 {
        size_of::<Ipv4Hdr>()
    } else {
        size_of::<Ipv6Hdr>()
    };
    ip + size_of::<IcmpHdr>()
}

/// Writes a notice from the address `from` in front of what it quotes: `packet` is
/// [`headers_len`] bytes of anything, then [`quote_len`] bytes of the segment. `mtu` is 0 unless
/// that is the problem. Nothing if the packet is shorter.
#[inline(always)]
pub fn write<P: PacketBytes + ?Sized>(
    packet: &mut P,
    is_v4: bool,
    from: &Addr,
    problem: Problem,
    mtu: u16,
) -> Option<()> {
    let icmp = problem.header(is_v4, mtu);
    if is_v4 {
        write_v4(packet, from, icmp)
    } else {
        write_v6(packet, from, icmp)
    }
}

#[inline(always)]
fn write_v4<P: PacketBytes + ?Sized>(packet: &mut P, from: &Addr, icmp: IcmpHdr) -> Option<()> {
    const ICMP_AT: usize = size_of::<Ipv4Hdr>();
    const QUOTE_AT: usize = ICMP_AT + size_of::<IcmpHdr>();
    const LENGTH: u16 = (ICMP_AT + ICMP_V4) as u16;
    let to = packet.header::<Ipv4Hdr>(QUOTE_AT)?.src;
    *packet.header_mut::<Ipv4Hdr>(0)? = Ipv4Hdr {
        version_ihl: 0x45,
        tos: INTERNETWORK_CONTROL,
        total_length: LENGTH.to_be_bytes(),
        id: [0; 2],
        fragment: DONT_FRAGMENT,
        ttl: TTL,
        protocol: PROTOCOL_ICMP,
        checksum: [0; 2],
        src: from.v4_bytes(),
        dst: to,
    };
    let sum = checksum::sum_of(packet.header::<[u8; ICMP_AT]>(0)?);
    packet.header_mut::<Ipv4Hdr>(0)?.checksum = checksum::finish(sum);
    *packet.header_mut::<IcmpHdr>(ICMP_AT)? = icmp;
    let sum = checksum::sum_of(packet.header::<[u8; ICMP_V4]>(ICMP_AT)?);
    packet.header_mut::<IcmpHdr>(ICMP_AT)?.checksum = checksum::finish(sum);
    Some(())
}

#[inline(always)]
fn write_v6<P: PacketBytes + ?Sized>(packet: &mut P, from: &Addr, icmp: IcmpHdr) -> Option<()> {
    const ICMP_AT: usize = size_of::<Ipv6Hdr>();
    const QUOTE_AT: usize = ICMP_AT + size_of::<IcmpHdr>();
    const LENGTH: [u8; 2] = (ICMP_V6 as u16).to_be_bytes();
    /// Where the addresses begin; all from there on is under the checksum (RFC 8200 8.1).
    const ADDRESSES_AT: usize = 8;
    let to = packet.header::<Ipv6Hdr>(QUOTE_AT)?.src;
    *packet.header_mut::<Ipv6Hdr>(0)? = Ipv6Hdr {
        version_class_label: [0x60, 0, 0, 0],
        payload_length: LENGTH,
        next_header: PROTOCOL_ICMPV6,
        hop_limit: TTL,
        src: *from.bytes(),
        dst: to,
    };
    *packet.header_mut::<IcmpHdr>(ICMP_AT)? = icmp;
    let covered = packet.header::<[u8; ICMP_AT - ADDRESSES_AT + ICMP_V6]>(ADDRESSES_AT)?;
    // The rest of the pseudo-header: length and next header.
    let rest = checksum::combine(
        u16::from_ne_bytes(LENGTH),
        u16::from_ne_bytes([0, PROTOCOL_ICMPV6]),
    );
    let sum = checksum::combine(checksum::sum_of(covered), rest);
    packet.header_mut::<IcmpHdr>(ICMP_AT)?.checksum = checksum::finish(sum);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_counted_within_its_second() {
        for problem in [Problem::TooBig, Problem::TtlExpired] {
            let most = problem.a_second_max();
            let last = Sent::of(u32::MAX, most - 1);
            assert!(last.leaves_room(problem));
            let full = Sent::from_word(last.word() + 1);
            assert_eq!(full, Sent::of(u32::MAX, most));
            assert!(!full.leaves_room(problem));
            assert_eq!(full.second(), u32::MAX);
            assert!((problem as u32) < Problem::COUNT);
        }
    }
}
