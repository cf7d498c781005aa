//! ICMP messages: errors about packets of flows, and pings.

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::header::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use dispatcher_common::icmp::{self, IcmpError, Kind};
use dispatcher_common::parse::link_header;
use dispatcher_common::rewrite::Translation;

use crate::packet::sum;

/// The first 18 bytes say where to, the rest is a frame. A translated error is about the other
/// end's flow, an answered ping goes back; their sums are as right or wrong as they were.
pub fn answer_or_translate(bytes: &[u8]) {
    let Some((to, frame)) = bytes.split_at_checked(18) else {
        return;
    };
    let Some(link) = link_header(frame) else {
        return;
    };
    let is_v4 = match link.ethertype {
        ETHERTYPE_IPV4 => true,
        ETHERTYPE_IPV6 => false,
        _ => return,
    };
    let packet = &frame[link.len..];
    match kind(packet, is_v4) {
        None | Some(Kind::QuotesOptions | Kind::QuotesFragment) => {}
        Some(Kind::EchoRequest) => answer(packet, is_v4),
        Some(Kind::Error) => {
            let port = Port::new(u16::from_be_bytes([to[16], to[17]]));
            let addr = if is_v4 {
                Addr::from_v4_bytes([to[0], to[1], to[2], to[3]])
            } else {
                Addr::from_v6_bytes(to[..16].try_into().expect("16 bytes"))
            };
            // A mapped address never stands on a wire.
            if addr.is_v4() == is_v4 {
                translate(packet, is_v4, addr, port);
            }
        }
    }
}

fn kind(packet: &[u8], is_v4: bool) -> Option<Kind> {
    if is_v4 {
        icmp::kind_v4(packet)
    } else {
        icmp::kind_v6(packet)
    }
}

fn answer(packet: &[u8], is_v4: bool) {
    let mut answer = packet.to_vec();
    icmp::answer(&mut answer[..], is_v4).expect("it is whole");
    assert_eq!(kind(&answer, is_v4), None, "nobody answers an answer");
    let (at, len) = if is_v4 { (12, 4) } else { (8, 16) };
    assert_eq!(answer[at..at + len], packet[at + len..at + 2 * len]);
    assert_eq!(answer[at + len..at + 2 * len], packet[at..at + len]);
    assert_eq!(sums(&answer, is_v4), sums(packet, is_v4));
}

fn translate(packet: &[u8], is_v4: bool, addr: Addr, port: Port) {
    let error = IcmpError::read(packet, is_v4).expect("it is whole");
    let key = icmp::key_of_answers(packet, is_v4).expect("it is whole");
    assert_eq!(icmp::destination(packet, is_v4), Some(key.dst));
    if error.ttl <= 1 {
        // Such a packet is dropped.
        return;
    }
    for (translation, expected) in [
        (
            Translation::to_backend(&key, addr, port),
            FlowKey::new(key.src, key.src_port, addr, port),
        ),
        (
            Translation::to_client(&key, addr, port),
            FlowKey::new(addr, port, key.dst, key.dst_port),
        ),
    ] {
        let mut translated = packet.to_vec();
        icmp::translate(&mut translated[..], &error, &translation).expect("it is whole");
        assert_eq!(kind(&translated, is_v4), Some(Kind::Error));
        let again = icmp::key_of_answers(&translated[..], is_v4);
        assert_eq!(again, Some(expected));
        let again = IcmpError::read(&translated[..], is_v4).expect("it is whole");
        let ttl = error.ttl - 1;
        assert_eq!(again, IcmpError { ttl, ..error });
        assert_eq!(sums(&translated, is_v4), sums(packet, is_v4));
        assert_eq!(
            quoted_sums(&translated, &error),
            quoted_sums(packet, &error)
        );
    }
}

/// By how much the sums of a message's own headers are off: of the IP header, of ICMP.
fn sums(packet: &[u8], is_v4: bool) -> (u16, u16) {
    if is_v4 {
        let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        return (sum(0, &packet[..20]), sum(0, &packet[20..end]));
    }
    let payload = u16::from_be_bytes([packet[4], packet[5]]);
    let pseudo = sum(58 + u64::from(payload), &packet[8..40]);
    let end = 40 + usize::from(payload);
    (0, sum(u64::from(pseudo), &packet[40..end]))
}

/// The same of what it quotes; of the TCP segment only the beginning is there.
fn quoted_sums(packet: &[u8], error: &IcmpError) -> (u16, u16) {
    let quoted = &packet[..usize::from(error.ip_len)];
    let (quoted, addresses, tcp_at) = if error.is_v4 {
        (&quoted[28..], 12..20, 20)
    } else {
        (&quoted[48..], 8..40, 40)
    };
    let header = if error.is_v4 {
        sum(0, &quoted[..tcp_at])
    } else {
        0
    };
    let tcp = &quoted[tcp_at..];
    if tcp.len() < 18 {
        // The checksum is not there.
        return (header, 0);
    }
    let pseudo = sum(0, &quoted[addresses]);
    (header, sum(u64::from(pseudo), tcp))
}
