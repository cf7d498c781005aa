//! Frames for tests: built, and judged, by etherparse, so that neither the checksums nor the
//! layout come from the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dispatcher_common::addr::{Addr, Mac, Port};
use dispatcher_common::flow::FlowKey;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel,
    Ipv6Header, LinkExtSlice, NetSlice, SingleVlanHeader, SlicedPacket, TcpHeader, TransportSlice,
    UdpHeader, VlanId, VlanPcp,
};

pub use dispatcher_common::header::TcpFlags;

/// SYN.
pub const SYN: TcpFlags = TcpFlags::SYN;
/// ACK.
pub const ACK: TcpFlags = TcpFlags::ACK;
/// RST.
pub const RST: TcpFlags = TcpFlags::RST;
/// SYN and ACK.
pub const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
/// FIN and ACK.
pub const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
/// RST and ACK.
pub const RST_ACK: TcpFlags = TcpFlags::RST.with(TcpFlags::ACK);
/// The flags by which a client asks for ECN: ECE and CWR (RFC 3168 6.1.1).
pub const ECN: TcpFlags = TcpFlags(0xc0);

/// One end of a conversation: its addresses in both families, its port, its Ethernet address.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// TCP port.
    pub port: u16,
    /// Ethernet address.
    pub mac: [u8; 6],
}

const fn host(v4: [u8; 4], v6: [u16; 3], port: u16, mac: u8) -> Host {
    let [net, sub, id] = v6;
    Host {
        v4: Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]),
        v6: Ipv6Addr::new(0x2001, 0xdb8, net, sub, 0, 0, 0, id),
        port,
        mac: [0x02, 0, 0, 0, 0, mac],
    }
}

/// A client.
pub const CLIENT_ONE: Host = host([198, 51, 100, 1], [0xc, 0, 1], 40_001, 0x11);
/// Another client.
pub const CLIENT_TWO: Host = host([198, 51, 100, 2], [0xc, 0, 2], 40_002, 0x12);
/// A service.
pub const VIP_ONE: Host = host([192, 0, 2, 10], [0, 0, 0x10], 80, 0xd1);
/// Another service, of another address.
pub const VIP_TWO: Host = host([192, 0, 2, 20], [0, 0, 0x20], 443, 0xd1);
/// A back-end.
pub const BACKEND_ONE: Host = host([10, 0, 0, 11], [0xb, 0, 0x11], 8080, 0x21);
/// Another back-end.
pub const BACKEND_TWO: Host = host([10, 0, 0, 12], [0xb, 0, 0x12], 8081, 0x22);
/// A machine that no service, flow or back-end knows.
pub const STRANGER: Host = host([203, 0, 113, 9], [0xe, 0, 9], 9, 0x31);

/// The dispatcher's own Ethernet address towards clients.
pub const DISPATCHER_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0xd0]);

impl Host {
    /// The same host under another port.
    #[must_use]
    pub const fn at(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The address of one family.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The same, as it stands in a key.
    #[must_use]
    pub fn addr(&self, family: Family) -> Addr {
        self.ip(family).into()
    }

    /// The port, as it stands in a key.
    #[must_use]
    pub const fn key_port(&self) -> Port {
        Port::new(self.port)
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The key of packets from `src` to `dst`.
#[must_use]
pub fn key(family: Family, src: Host, dst: Host) -> FlowKey {
    FlowKey::new(
        src.addr(family),
        src.key_port(),
        dst.addr(family),
        dst.key_port(),
    )
}

/// A frame that is being described. Whatever is not said is what a common client would send.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub src: Host,
    /// Receiver.
    pub dst: Host,
    protocol: IpNumber,
    family: Family,
    link: (Mac, Mac),
    tag: Option<(u16, u8)>,
    flags: TcpFlags,
    seq: u32,
    ack: u32,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
    ttl: u8,
    fragment: Option<(u16, bool)>,
    ip_options: Vec<u8>,
    extension: Option<u8>,
}

impl Packet {
    /// A TCP segment over IPv4 with ACK set and no data.
    #[must_use]
    pub fn tcp(src: Host, dst: Host) -> Self {
        Self::of(IpNumber::TCP, src, dst)
    }

    /// A UDP datagram over IPv4.
    #[must_use]
    pub fn udp(src: Host, dst: Host) -> Self {
        Self::of(IpNumber::UDP, src, dst)
    }

    /// An ICMP (or ICMPv6) echo request; its checksum is not filled in.
    #[must_use]
    pub fn icmp(src: Host, dst: Host) -> Self {
        Self::of(IpNumber::ICMP, src, dst).payload(&[8, 0, 0, 0, 0, 1, 0, 1])
    }

    /// A packet with this protocol number over IPv4, and nothing between IP header and payload.
    #[must_use]
    pub fn raw(protocol: u8, src: Host, dst: Host) -> Self {
        Self::of(IpNumber(protocol), src, dst)
    }

    fn of(protocol: IpNumber, src: Host, dst: Host) -> Self {
        Self {
            src,
            dst,
            protocol,
            family: Family::V4,
            link: (DISPATCHER_MAC, Mac(src.mac)),
            tag: None,
            flags: ACK,
            seq: 0,
            ack: 0,
            window: 64_240,
            options: Vec::new(),
            payload: Vec::new(),
            ttl: 64,
            fragment: None,
            ip_options: Vec::new(),
            extension: None,
        }
    }

    /// Over this family.
    #[must_use]
    pub fn over(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Over IPv6.
    #[must_use]
    pub fn v6(self) -> Self {
        self.over(Family::V6)
    }

    /// Under a tag with this VLAN id.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(id, 0)
    }

    /// Under a tag with this VLAN id and priority.
    #[must_use]
    pub fn tag(mut self, id: u16, priority: u8) -> Self {
        self.tag = Some((id, priority));
        self
    }

    /// With these TCP flags and no others.
    #[must_use]
    pub fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Sequence number.
    #[must_use]
    pub fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    /// Acknowledgement number.
    #[must_use]
    pub fn ack(mut self, ack: u32) -> Self {
        self.ack = ack;
        self
    }

    /// TCP options, a multiple of four bytes and at most 40.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Data.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Destination and source of the Ethernet header.
    #[must_use]
    pub fn link(mut self, dst: Mac, src: Mac) -> Self {
        self.link = (dst, src);
        self
    }

    /// A fragment: offset in units of eight bytes, and whether more follow.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// IPv4 options, a multiple of four bytes and at most 40.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    /// An IPv6 extension header of this number, eight bytes long.
    #[must_use]
    pub fn extension(mut self, number: u8) -> Self {
        self.extension = Some(number);
        self
    }

    /// The key of this packet.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        key(self.family, self.src, self.dst)
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let ethertype = match self.family {
            Family::V4 => EtherType::IPV4,
            Family::V6 => EtherType::IPV6,
        };
        let (destination, source) = self.link;
        let ether_type = if self.tag.is_some() {
            EtherType::VLAN_TAGGED_FRAME
        } else {
            ethertype
        };
        let eth = Ethernet2Header {
            source: source.0,
            destination: destination.0,
            ether_type,
        };
        let mut frame = eth.to_bytes().to_vec();
        if let Some((id, priority)) = self.tag {
            let tag = SingleVlanHeader {
                pcp: VlanPcp::try_new(priority).unwrap(),
                drop_eligible_indicator: false,
                vlan_id: VlanId::try_new(id).unwrap(),
                ether_type: ethertype,
            };
            frame.extend_from_slice(&tag.to_bytes());
        }
        let transport = self.build_transport();
        match self.family {
            Family::V4 => self.build_v4(&mut frame, &transport),
            Family::V6 => self.build_v6(&mut frame, &transport),
        }
        frame
    }

    fn build_v4(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        let mut ip = Ipv4Header {
            time_to_live: self.ttl,
            protocol: self.protocol,
            source: self.src.v4.octets(),
            destination: self.dst.v4.octets(),
            dont_fragment: self.fragment.is_none(),
            identification: 0x1d,
            ..Ipv4Header::default()
        };
        if let Some((offset, more)) = self.fragment {
            ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            ip.more_fragments = more;
        }
        ip.options = Ipv4Options::try_from(&self.ip_options[..]).unwrap();
        ip.set_payload_len(transport.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        frame.extend_from_slice(&ip.to_bytes());
        frame.extend_from_slice(transport);
    }

    fn build_v6(&self, frame: &mut Vec<u8>, transport: &[u8]) {
        let mut between = Vec::new();
        let mut next_header = self.protocol;
        if let Some(number) = self.extension {
            between = vec![next_header.0, 0, 1, 4, 0, 0, 0, 0];
            next_header = IpNumber(number);
        }
        if let Some((offset, more)) = self.fragment {
            let field = (offset << 3 | u16::from(more)).to_be_bytes();
            between = vec![self.protocol.0, 0, field[0], field[1], 0, 0, 0, 0x1d];
            next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
        }
        let ip = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::try_new(0xf10e).unwrap(),
            payload_length: u16::try_from(between.len() + transport.len()).unwrap(),
            next_header,
            hop_limit: self.ttl,
            source: self.src.v6.octets(),
            destination: self.dst.v6.octets(),
        };
        frame.extend_from_slice(&ip.to_bytes());
        frame.extend_from_slice(&between);
        frame.extend_from_slice(transport);
    }

    fn build_transport(&self) -> Vec<u8> {
        let (src, dst) = (self.src.port, self.dst.port);
        let mut bytes = match self.protocol {
            IpNumber::TCP => self.tcp_header().to_bytes().to_vec(),
            IpNumber::UDP => {
                let udp = match self.family {
                    Family::V4 => {
                        UdpHeader::with_ipv4_checksum(src, dst, &self.v4_header(), &self.payload)
                    }
                    Family::V6 => UdpHeader::without_ipv4_checksum(src, dst, self.payload.len()),
                };
                udp.unwrap().to_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    fn v4_header(&self) -> Ipv4Header {
        Ipv4Header {
            source: self.src.v4.octets(),
            destination: self.dst.v4.octets(),
            protocol: self.protocol,
            ..Ipv4Header::default()
        }
    }

    fn tcp_header(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.src.port, self.dst.port, self.seq, self.window);
        tcp.acknowledgment_number = self.ack;
        let has = |bit: u8| self.flags.0 & bit != 0;
        tcp.fin = has(0x01);
        tcp.syn = has(0x02);
        tcp.rst = has(0x04);
        tcp.psh = has(0x08);
        tcp.ack = has(0x10);
        tcp.urg = has(0x20);
        tcp.ece = has(0x40);
        tcp.cwr = has(0x80);
        tcp.set_options_raw(&self.options).unwrap();
        tcp.checksum = match self.family {
            Family::V4 => tcp.calc_checksum_ipv4_raw(
                self.src.v4.octets(),
                self.dst.v4.octets(),
                &self.payload,
            ),
            Family::V6 => tcp.calc_checksum_ipv6_raw(
                self.src.v6.octets(),
                self.dst.v6.octets(),
                &self.payload,
            ),
        }
        .unwrap();
        tcp
    }
}

/// An ARP request, as short as Ethernet allows.
#[must_use]
pub fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&CLIENT_ONE.mac);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(60, 0);
    frame
}

/// Writes `bytes` over a frame.
#[must_use]
pub fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// What a correct frame says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Destination and source of the Ethernet header.
    pub link: (Mac, Mac),
    /// VLAN id, if there is a tag.
    pub vlan: Option<u16>,
    /// Sender.
    pub src: (IpAddr, u16),
    /// Receiver.
    pub dst: (IpAddr, u16),
    /// TTL or hop limit.
    pub ttl: u8,
    /// Everything that no rewrite may touch: TCP header without ports and checksum, and data.
    pub tcp: (TcpHeader, Vec<u8>),
}

/// Reads a frame with etherparse, strictly, and recomputes its checksums.
///
/// # Errors
///
/// What etherparse finds wrong with it, or which checksum is not what it should be.
pub fn verify(frame: &[u8]) -> Result<Seen, String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return Err("no TCP segment".into());
    };
    let mut header = tcp.to_header();
    let (src, dst, ttl, expected): (IpAddr, IpAddr, u8, _) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            same("IPv4", ip.header_checksum, ip.calc_header_checksum())?;
            let sum = tcp.calc_checksum_ipv4(ip.source, ip.destination);
            (
                ip.source.into(),
                ip.destination.into(),
                ip.time_to_live,
                sum,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            let sum = tcp.calc_checksum_ipv6(ip.source, ip.destination);
            (ip.source.into(), ip.destination.into(), ip.hop_limit, sum)
        }
        _ => return Err("neither IPv4 nor IPv6".into()),
    };
    let expected = expected.map_err(|error| error.to_string())?;
    same("TCP", header.checksum, expected)?;
    let ports = (header.source_port, header.destination_port);
    (header.source_port, header.destination_port) = (0, 0);
    header.checksum = 0;
    let mac = |at: usize| Mac(frame[at..at + 6].try_into().unwrap());
    Ok(Seen {
        link: (mac(0), mac(6)),
        vlan: sliced.link_exts.iter().find_map(|ext| match ext {
            LinkExtSlice::Vlan(tag) => Some(tag.vlan_identifier().value()),
            _ => None,
        }),
        src: (src, ports.0),
        dst: (dst, ports.1),
        ttl,
        tcp: (header, tcp.payload().to_vec()),
    })
}

fn same(what: &str, found: u16, expected: u16) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!(
            "{what} checksum is {found:#06x}, not {expected:#06x}"
        ))
    }
}
