//! ICMP messages of both families: built, and read strictly, with every checksum recomputed by code
//! that is not the program's.

use std::net::IpAddr;

use dispatcher_common::addr::Mac;

use crate::packet::{Family, Host, Packet};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an ICMP header.
const ICMP: usize = 8;

/// The errors that are told about connections: what one is, type and code, in one family.
#[must_use]
pub fn errors(family: Family) -> &'static [(&'static str, u8, u8)] {
    match family {
        Family::V4 => &[
            ("net unreachable", 3, 0),
            ("host unreachable", 3, 1),
            ("port unreachable", 3, 3),
            ("fragmentation needed", 3, 4),
            ("administratively prohibited", 3, 13),
            ("time exceeded", 11, 0),
            ("reassembly time exceeded", 11, 1),
            ("parameter problem", 12, 0),
        ],
        Family::V6 => &[
            ("no route", 1, 0),
            ("prohibited", 1, 1),
            ("port unreachable", 1, 4),
            ("packet too big", 2, 0),
            ("time exceeded", 3, 0),
            ("parameter problem", 4, 0),
        ],
    }
}

/// Type of an echo request and of its reply.
#[must_use]
pub const fn echo(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    }
}

/// Type and code of "fragmentation needed" or "packet too big", and of "time exceeded".
#[must_use]
pub const fn told(family: Family) -> ((u8, u8), (u8, u8)) {
    match family {
        Family::V4 => ((3, 4), (11, 0)),
        Family::V6 => ((2, 0), (3, 0)),
    }
}

/// A message with a right checksum.
#[must_use]
pub fn message(
    family: Family,
    src: Host,
    dst: Host,
    (kind, code): (u8, u8),
    rest: [u8; 4],
    body: &[u8],
) -> Packet {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend_from_slice(&rest);
    bytes.extend_from_slice(body);
    let sum = checksum(family, &addresses(family, src, dst), &bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = match family {
        Family::V4 => Packet::raw(1, src, dst),
        Family::V6 => Packet::raw(58, src, dst).v6(),
    };
    packet.payload(&bytes)
}

/// The first `length` bytes of the IP packet in an untagged frame.
#[must_use]
pub fn quote(frame: &[u8], length: usize) -> Vec<u8> {
    frame[ETHERNET..frame.len().min(ETHERNET + length)].to_vec()
}

/// Bytes of an IP header without options.
#[must_use]
pub const fn ip_header(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

fn addresses(family: Family, src: Host, dst: Host) -> Vec<u8> {
    match family {
        Family::V4 => [src.v4.octets(), dst.v4.octets()].concat(),
        Family::V6 => [src.v6.octets(), dst.v6.octets()].concat(),
    }
}

/// RFC 1071, and of ICMPv6 with the pseudo-header (RFC 8200 8.1).
fn checksum(family: Family, addresses: &[u8], message: &[u8]) -> u16 {
    let mut covered = message.to_vec();
    if covered.len() % 2 == 1 {
        covered.push(0);
    }
    if family == Family::V6 {
        covered.extend_from_slice(addresses);
        covered.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        covered.extend_from_slice(&[0, 0, 0, 58]);
    }
    !ones_complement(&covered)
}

fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let mut sum: u64 = words
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a correct frame with an ICMP message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Destination and source of the Ethernet header.
    pub link: (Mac, Mac),
    /// VLAN id, if there is a tag.
    pub vlan: Option<u16>,
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type and code.
    pub kind: (u8, u8),
    /// The last four bytes of its header.
    pub rest: [u8; 4],
    /// All that follows.
    pub body: Vec<u8>,
}

/// Reads a frame that is to hold an ICMP message.
///
/// # Errors
///
/// What is wrong with it: lengths, or a checksum.
pub fn verify(frame: &[u8]) -> Result<Seen, String> {
    let bytes = |at: usize, length: usize| {
        let bytes = frame.get(at..at + length);
        bytes.ok_or_else(|| format!("{} bytes are too few", frame.len()))
    };
    let word = |at: usize| Ok::<_, String>(u16::from_be_bytes(bytes(at, 2)?.try_into().unwrap()));
    let mac = |at: usize| Ok::<_, String>(Mac(bytes(at, 6)?.try_into().unwrap()));
    let vlan = (word(12)? == 0x8100).then(|| word(14)).transpose()?;
    let ip_at = if vlan.is_some() { 18 } else { ETHERNET };
    let (family, addresses, src, dst, ttl, ip_len);
    match word(ip_at - 2)? {
        0x0800 => {
            let header = bytes(ip_at, 20)?;
            if ones_complement(header) != 0xffff || header[0] != 0x45 || header[9] != 1 {
                return Err(format!("a wrong IPv4 header: {header:02x?}"));
            }
            family = Family::V4;
            addresses = header[12..20].to_vec();
            src = <[u8; 4]>::try_from(&addresses[..4]).unwrap().into();
            dst = <[u8; 4]>::try_from(&addresses[4..]).unwrap().into();
            ttl = header[8];
            ip_len = usize::from(word(ip_at + 2)?);
        }
        0x86dd => {
            let header = bytes(ip_at, 40)?;
            if header[0] >> 4 != 6 || header[6] != 58 {
                return Err(format!("a wrong IPv6 header: {header:02x?}"));
            }
            family = Family::V6;
            addresses = header[8..40].to_vec();
            src = <[u8; 16]>::try_from(&addresses[..16]).unwrap().into();
            dst = <[u8; 16]>::try_from(&addresses[16..]).unwrap().into();
            ttl = header[7];
            ip_len = 40 + usize::from(word(ip_at + 4)?);
        }
        other => return Err(format!("EtherType {other:04x}")),
    }
    let icmp = bytes(ip_at + ip_header(family), ip_len - ip_header(family))?;
    if icmp.len() < ICMP {
        return Err("no whole ICMP header".into());
    }
    // A message is right when the sum over all of it, its checksum included, is all ones.
    if checksum(family, &addresses, icmp) != 0 {
        return Err(format!("a wrong ICMP checksum: {icmp:02x?}"));
    }
    Ok(Seen {
        link: (mac(0)?, mac(6)?),
        vlan: vlan.map(|tag| tag & 0xfff),
        src,
        dst,
        ttl,
        kind: (icmp[0], icmp[1]),
        rest: icmp[4..8].try_into().unwrap(),
        body: icmp[8..].to_vec(),
    })
}
