//! A connection request as it is held: its headers, not its frame. Turns into the SYN for a
//! back-end or into the RST for the client. Pure.

use dispatcher_common::addr::Mac;
use dispatcher_common::checksum;
use dispatcher_common::flow::FlowKey;
use dispatcher_common::header::{EthHdr, Ipv4Hdr, Ipv6Hdr, PROTOCOL_TCP, TcpFlags, TcpHdr};
use dispatcher_common::link::{NextHop, VlanId};
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse::{self, Segment};
use dispatcher_common::rewrite::Translation;
use dispatcher_common::verdict::DropReason;

/// Longest headers of a request, bytes: IPv6 and TCP with 40 bytes of options.
pub const HEADERS_MAX: usize = size_of::<Ipv6Hdr>() + 60;

/// A received SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    headers: [u8; HEADERS_MAX],
    len: u8,
    vlan: VlanId,
    client: Mac,
    own: Mac,
    device: u32,
}

impl Syn {
    /// Takes the headers out of a frame that arrived on `device`. Data in the SYN (RFC 7413) is
    /// left behind: the client sends it again.
    ///
    /// # Errors
    ///
    /// The reason to drop it: what is wrong with it, or where it is not a request.
    pub fn read(frame: &[u8], device: u32) -> Result<(Self, Segment), DropReason> {
        let segment = parse::parse(frame).map_err(|_| DropReason::NotARequest)?;
        if !segment.tcp.flags.is_connection_request() {
            return Err(DropReason::NotARequest);
        }
        if segment.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        let eth = frame.header::<EthHdr>(0).ok_or(DropReason::NotARequest)?;
        // A SYN to all or many is none (RFC 1122 4.2.3.10), and nobody to answer is a sender.
        if is_group(eth.dst) || is_group(eth.src) {
            return Err(DropReason::NotARequest);
        }
        let ip = frame
            .get(segment.ip_offset()..segment.ip_offset() + usize::from(segment.ip_len))
            .ok_or(DropReason::NotARequest)?;
        if tcp_sum(ip, &segment) != 0xffff {
            return Err(DropReason::BadChecksum);
        }
        let len = segment.ip_header_len() + usize::from(segment.tcp_len);
        let mut headers = [0; HEADERS_MAX];
        headers
            .get_mut(..len)
            .ok_or(DropReason::NotARequest)?
            .copy_from_slice(&ip[..len]);
        if segment.tcp.payload > 0 {
            leave_data_behind(&mut headers, &segment, &ip[len..]);
        }
        let syn = Self {
            headers,
            len: len as u8,
            vlan: segment.vlan,
            client: eth.src,
            own: eth.dst,
            device,
        };
        Ok((syn, segment))
    }

    /// The interface that it came in on.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.device
    }

    /// The way back to whoever delivered it, true for no generation of the network: the routing
    /// table is asked before it is used.
    #[must_use]
    pub fn way_back(&self, mtu: u16) -> NextHop {
        NextHop {
            ifindex: self.device,
            generation: 0,
            dst: self.client,
            src: self.own,
            vlan: self.vlan,
            mtu,
        }
    }

    /// The IP packet for the back-end.
    #[must_use]
    pub fn packet(&self, translation: &Translation) -> Packet {
        let mut packet = Packet::new(&self.headers[..usize::from(self.len)]);
        packet.rewrite(translation);
        packet
    }

    /// The IP packet that refuses the request: RST, acknowledging the SYN (RFC 9293 3.10.7.1).
    #[must_use]
    pub fn reset(&self, key: &FlowKey, isn: u32) -> Packet {
        Packet::reset(&key.reversed(), 0, isn.wrapping_add(1))
    }
}

/// An IP packet to be sent, with room for a link header in front.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    bytes: [u8; Self::LINK_MAX + HEADERS_MAX],
    len: usize,
}

impl Packet {
    /// Room for Ethernet with one tag.
    const LINK_MAX: usize = 18;
    const ETHERNET: usize = size_of::<EthHdr>();
    /// An Ethernet header that says what is inside, so that the one parser reads the packet.
    const START: usize = Self::LINK_MAX - Self::ETHERNET;

    /// An RST with the addresses of `key`, which acknowledges `ack`.
    #[must_use]
    pub fn reset(key: &FlowKey, seq: u32, ack: u32) -> Self {
        Self::bare(key, seq, ack, TcpFlags::RST.with(TcpFlags::ACK))
    }

    /// An RST with the addresses of `key` that acknowledges nothing: to one whose initial sequence
    /// number is not known.
    #[must_use]
    pub fn take_back(key: &FlowKey, seq: u32) -> Self {
        Self::bare(key, seq, 0, TcpFlags::RST)
    }

    fn bare(key: &FlowKey, seq: u32, ack: u32, flags: TcpFlags) -> Self {
        let tcp = TcpHdr {
            src_port: key.src_port.bytes(),
            dst_port: key.dst_port.bytes(),
            seq: seq.to_be_bytes(),
            ack: ack.to_be_bytes(),
            data_offset: 5 << 4,
            flags,
            window: [0; 2],
            checksum: [0; 2],
            urgent: [0; 2],
        };
        if key.dst.is_v4() {
            reset_v4(key, &tcp)
        } else {
            reset_v6(key, &tcp)
        }
    }

    fn new(ip: &[u8]) -> Self {
        let mut packet = Self {
            bytes: [0; Self::LINK_MAX + HEADERS_MAX],
            len: ip.len(),
        };
        packet.bytes[Self::LINK_MAX..][..ip.len()].copy_from_slice(ip);
        let ethertype = packet.ethertype();
        packet.bytes[Self::LINK_MAX - 2..Self::LINK_MAX].copy_from_slice(&ethertype.to_be_bytes());
        packet
    }

    fn ethertype(&self) -> u16 {
        use dispatcher_common::header::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
        if self.ip()[0] >> 4 == 4 {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        }
    }

    fn rewrite(&mut self, translation: &Translation) {
        let end = Self::LINK_MAX + self.len;
        let frame = &mut self.bytes[Self::START..end];
        // What was parsed on arrival parses again, and is as long as it says.
        if let Ok(segment) = parse::parse(&*frame) {
            let _ = translation.apply(frame, &segment);
        }
    }

    /// From the IP header on.
    #[must_use]
    pub fn ip(&self) -> &[u8] {
        &self.bytes[Self::LINK_MAX..Self::LINK_MAX + self.len]
    }

    /// Bytes of the frame that leaves by `next_hop`.
    #[must_use]
    pub fn frame_len(&self, next_hop: &NextHop) -> usize {
        next_hop.header_len() + self.len
    }

    /// Writes that frame; `frame` is [`Self::frame_len`] bytes.
    pub fn write_frame(&self, next_hop: &NextHop, frame: &mut [u8]) {
        let link = next_hop.header_len();
        if let Some(ip) = frame.get_mut(link..) {
            ip.copy_from_slice(self.ip());
            let _ = next_hop.write_header(frame, self.ethertype());
        }
    }
}

/// Whether an Ethernet address is a multicast or the broadcast address.
const fn is_group(mac: Mac) -> bool {
    mac.0[0] & 1 != 0
}

/// TTL of packets that the dispatcher itself makes (RFC 1700).
const TTL: u8 = 64;

fn reset_v4(key: &FlowKey, tcp: &TcpHdr) -> Packet {
    let total = size_of::<Ipv4Hdr>() + size_of::<TcpHdr>();
    let mut ip = Ipv4Hdr {
        version_ihl: 0x45,
        tos: 0,
        total_length: (total as u16).to_be_bytes(),
        id: [0; 2],
        // Don't fragment.
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: PROTOCOL_TCP,
        checksum: [0; 2],
        src: key.src.v4_bytes(),
        dst: key.dst.v4_bytes(),
    };
    let mut bytes = [0; size_of::<Ipv4Hdr>()];
    put(&mut bytes, 0, ip);
    ip.checksum = checksum::finish(checksum::sum(&bytes));
    packet_of(ip, tcp)
}

fn reset_v6(key: &FlowKey, tcp: &TcpHdr) -> Packet {
    let ip = Ipv6Hdr {
        version_class_label: [0x60, 0, 0, 0],
        payload_length: (size_of::<TcpHdr>() as u16).to_be_bytes(),
        next_header: PROTOCOL_TCP,
        hop_limit: TTL,
        src: *key.src.bytes(),
        dst: *key.dst.bytes(),
    };
    packet_of(ip, tcp)
}

fn packet_of<I: dispatcher_common::packet::Header>(ip: I, tcp: &TcpHdr) -> Packet {
    let mut bytes = [0; HEADERS_MAX];
    let len = size_of::<I>() + size_of::<TcpHdr>();
    put(&mut bytes, 0, ip);
    put(&mut bytes, size_of::<I>(), *tcp);
    let mut packet = Packet::new(&bytes[..len]);
    if let Ok(segment) = parse::parse(&packet.bytes[Packet::START..Packet::LINK_MAX + len]) {
        let sum = tcp_sum(packet.ip(), &segment);
        put(
            &mut packet.bytes[Packet::LINK_MAX..],
            size_of::<I>(),
            TcpHdr {
                checksum: checksum::finish(sum),
                ..*tcp
            },
        );
    }
    packet
}

fn put<H: dispatcher_common::packet::Header>(bytes: &mut [u8], offset: usize, header: H) {
    if let Some(place) = bytes.header_mut::<H>(offset) {
        *place = header;
    }
}

/// The sum over pseudo-header and segment (RFC 9293 3.1): all ones when the checksum is right.
fn tcp_sum(ip: &[u8], segment: &Segment) -> u16 {
    let tcp = ip.get(segment.ip_header_len()..).unwrap_or_default();
    let key = &segment.key;
    let pseudo = [
        checksum::sum(tcp),
        addresses_sum(key),
        u16::from_be(u16::from(PROTOCOL_TCP)),
        u16::from_be(tcp.len() as u16),
    ];
    pseudo.into_iter().fold(0, checksum::combine)
}

/// The prefixes of mapped addresses cancel out: ffff is the other zero.
fn addresses_sum(key: &FlowKey) -> u16 {
    checksum::combine(
        checksum::sum(key.src.bytes()),
        checksum::sum(key.dst.bytes()),
    )
}

/// Takes the data out of lengths and checksums, so that a segment which arrived damaged stays so.
fn leave_data_behind(headers: &mut [u8; HEADERS_MAX], segment: &Segment, data: &[u8]) {
    let headers = headers.as_mut_slice();
    let tcp_len = u16::from(segment.tcp_len);
    let with_data = tcp_len + segment.tcp.payload as u16;
    if segment.is_v4 {
        if let Some(ip) = headers.header_mut::<Ipv4Hdr>(0) {
            let total = segment.ip_header_len() as u16 + tcp_len;
            let delta = checksum::delta(&ip.total_length, &total.to_be_bytes());
            ip.total_length = total.to_be_bytes();
            ip.checksum = checksum::update(ip.checksum, delta);
        }
    } else if let Some(ip) = headers.header_mut::<Ipv6Hdr>(0) {
        ip.payload_length = tcp_len.to_be_bytes();
    }
    if let Some(tcp) = headers.header_mut::<TcpHdr>(segment.ip_header_len()) {
        let length = checksum::delta(&with_data.to_be_bytes(), &tcp_len.to_be_bytes());
        let delta = checksum::combine(length, !checksum::sum(data));
        tcp.checksum = checksum::update(tcp.checksum, delta);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use dispatcher_common::addr::Port;
    use std::net::IpAddr;

    const ETHERNET: usize = 14;

    /// A good one.
    pub(in crate::engine) fn any_syn() -> Vec<u8> {
        syn_frame("198.51.100.1", "192.0.2.10", b"")
    }

    /// A SYN with 12 bytes of options and `data`, checksums by the full sums.
    fn syn_frame(src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => builder.ipv4(s.octets(), d.octets(), 60),
            (IpAddr::V6(s), IpAddr::V6(d)) => builder.ipv6(s.octets(), d.octets(), 60),
            _ => panic!("both of one family"),
        };
        let options = [2, 4, 5, 0xb4, 4, 2, 1, 1, 1, 3, 3, 7];
        let builder = builder
            .tcp(40000, 80, 1000, 64240)
            .syn()
            .options_raw(&options)
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, data).unwrap();
        frame
    }

    fn checksums_are_right(ip: &[u8]) -> bool {
        let sliced = etherparse::SlicedPacket::from_ip(ip).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
            return false;
        };
        match sliced.net.unwrap() {
            etherparse::NetSlice::Ipv4(v4) => {
                v4.header().to_header().calc_header_checksum() == v4.header().header_checksum()
                    && tcp.calc_checksum_ipv4(v4.header().source(), v4.header().destination())
                        == Ok(tcp.checksum())
            }
            etherparse::NetSlice::Ipv6(v6) => {
                tcp.calc_checksum_ipv6(v6.header().source(), v6.header().destination())
                    == Ok(tcp.checksum())
            }
            etherparse::NetSlice::Arp(_) => false,
        }
    }

    const FAMILIES: [(&str, &str, &str); 2] = [
        ("198.51.100.1", "192.0.2.10", "10.0.0.11"),
        ("2001:db8:c::1", "2001:db8::10", "fd00:b::11"),
    ];

    #[test]
    fn a_request_goes_to_the_backend_with_its_options_and_right_checksums() {
        for (client, vip, backend) in FAMILIES {
            for data in [&b""[..], b"x", b"early data"] {
                let frame = syn_frame(client, vip, data);
                let (syn, segment) = Syn::read(&frame, 7).unwrap();
                let backend: IpAddr = backend.parse().unwrap();
                let translation =
                    Translation::to_backend(&segment.key, backend.into(), Port::new(8080));
                let packet = syn.packet(&translation);
                assert!(
                    checksums_are_right(packet.ip()),
                    "{client} with {} bytes",
                    data.len()
                );
                let tcp_at = segment.ip_header_len();
                assert_eq!(packet.ip().len(), tcp_at + 32, "data stays behind");
                assert_eq!(
                    packet.ip()[tcp_at + 20..],
                    frame[ETHERNET + tcp_at + 20..ETHERNET + tcp_at + 32],
                    "options are untouched"
                );
                assert_eq!(packet.ip()[tcp_at + 2..tcp_at + 4], 8080u16.to_be_bytes());
            }
        }
    }

    #[test]
    fn a_request_is_refused_by_a_reset_that_acknowledges_it() {
        for (client, vip, _) in FAMILIES {
            let (syn, segment) = Syn::read(&syn_frame(client, vip, b""), 7).unwrap();
            let packet = syn.reset(&segment.key, segment.tcp.seq);
            assert!(checksums_are_right(packet.ip()));
            let way = syn.way_back(1500);
            let mut frame = vec![0; packet.frame_len(&way)];
            packet.write_frame(&way, &mut frame);
            let reset = parse::parse(&frame[..]).unwrap();
            assert_eq!(reset.key, segment.key.reversed());
            assert_eq!(reset.tcp.flags, TcpFlags::RST.with(TcpFlags::ACK));
            assert_eq!((reset.tcp.seq, reset.tcp.ack), (0, 1001));
            assert_eq!(
                frame[..12],
                [2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4],
                "back where it came from"
            );
        }
    }

    #[test]
    fn a_reset_in_the_middle_of_a_connection_has_right_numbers_and_checksums() {
        for (client, vip, _) in FAMILIES {
            let (_, segment) = Syn::read(&syn_frame(client, vip, b""), 7).unwrap();
            let packet = Packet::reset(&segment.key, 0xffff_fff0, 77);
            assert!(checksums_are_right(packet.ip()));
            let mut frame = vec![0; packet.frame_len(&NextHop::UNKNOWN)];
            packet.write_frame(&NextHop::UNKNOWN, &mut frame);
            let reset = parse::parse(&frame[..]).unwrap();
            assert_eq!(reset.key, segment.key);
            assert_eq!((reset.tcp.seq, reset.tcp.ack), (0xffff_fff0, 77));

            let packet = Packet::take_back(&segment.key, 1001);
            assert!(checksums_are_right(packet.ip()));
            packet.write_frame(&NextHop::UNKNOWN, &mut frame);
            let reset = parse::parse(&frame[..]).unwrap();
            assert_eq!(reset.tcp.flags, TcpFlags::RST);
            assert_eq!((reset.tcp.seq, reset.tcp.ack), (1001, 0));
        }
    }

    #[test]
    fn what_is_no_request_is_dropped_under_a_reason() {
        let good = syn_frame("198.51.100.1", "192.0.2.10", b"");
        let damaged = |at: usize, byte: u8| {
            let mut frame = good.clone();
            frame[at] = byte;
            Syn::read(&frame, 7).map(|_| ()).unwrap_err()
        };
        assert_eq!(
            damaged(ETHERNET + 20 + 13, 0x12),
            DropReason::NotARequest,
            "SYN and ACK"
        );
        assert_eq!(damaged(ETHERNET + 20 + 17, 0x55), DropReason::BadChecksum);
        assert_eq!(damaged(ETHERNET + 8, 1), DropReason::TtlExpired);
        for (at, end) in [(0, "receiver"), (6, "sender")] {
            assert_eq!(damaged(at, 0xff), DropReason::NotARequest, "group {end}");
        }
        assert_eq!(
            Syn::read(&good[..40], 7).map(|_| ()),
            Err(DropReason::NotARequest)
        );
        assert_eq!(Syn::read(&[], 7).map(|_| ()), Err(DropReason::NotARequest));
    }

    #[test]
    fn a_queued_request_is_small() {
        assert!(size_of::<Syn>() <= 120, "{} bytes", size_of::<Syn>());
    }
}
