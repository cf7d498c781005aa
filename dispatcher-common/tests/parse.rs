//! The parser against etherparse on generated frames, and against anything at all.

use dispatcher_common::header::TcpFlags;
use dispatcher_common::parse::{Segment, Unparsable, parse};
use etherparse::{LinkExtHeader, NetHeaders, PacketBuilder, PacketHeaders};
use etherparse::{TcpHeader, TransportHeader, VlanId};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

#[derive(Clone, Debug)]
struct Described {
    v6: Option<([u8; 16], [u8; 16])>,
    v4: ([u8; 4], [u8; 4]),
    vlan: Option<u16>,
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: u8,
    options: usize,
    payload: Vec<u8>,
    ttl: u8,
}

fn described() -> impl Strategy<Value = Described> {
    let v6 = prop::option::of((any::<[u8; 16]>(), any::<[u8; 16]>()));
    let link = prop::option::of(0..4096u16);
    let tcp = (
        any::<(u16, u16)>(),
        any::<(u32, u32)>(),
        any::<u8>(),
        0..=10usize,
    );
    let body = (prop::collection::vec(any::<u8>(), 0..100), any::<u8>());
    (v6, any::<([u8; 4], [u8; 4])>(), link, tcp, body).prop_map(|(v6, v4, vlan, tcp, body)| {
        Described {
            v6,
            v4,
            vlan,
            ports: tcp.0,
            numbers: tcp.1,
            flags: tcp.2,
            options: tcp.3,
            payload: body.0,
            ttl: body.1,
        }
    })
}

fn frame(described: &Described) -> Vec<u8> {
    let mut tcp = TcpHeader::new(
        described.ports.0,
        described.ports.1,
        described.numbers.0,
        512,
    );
    tcp.acknowledgment_number = described.numbers.1;
    let has = |bit: u8| described.flags & bit != 0;
    (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (has(1), has(2), has(4), has(8));
    (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (has(16), has(32), has(64), has(128));
    tcp.set_options_raw(&vec![1; 4 * described.options])
        .unwrap();
    let ip = match described.v6 {
        Some((src, dst)) => PacketBuilder::ipv6(src, dst, described.ttl),
        None => PacketBuilder::ipv4(described.v4.0, described.v4.1, described.ttl),
    };
    let mut packet = Vec::new();
    ip.tcp_header(tcp)
        .write(&mut packet, &described.payload)
        .unwrap();
    let ethertype = if described.v6.is_some() {
        [0x86, 0xdd]
    } else {
        [8, 0]
    };
    let mut frame = vec![0x02; 12];
    if let Some(id) = described.vlan {
        frame.extend([0x81, 0]);
        frame.extend(VlanId::try_new(id).unwrap().value().to_be_bytes());
    }
    frame.extend(ethertype);
    frame.extend(packet);
    frame
}

/// Everything that a segment says, read by etherparse instead.
fn assert_agreement(segment: &Segment, frame: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("etherparse reads it too");
    let Some(TransportHeader::Tcp(tcp)) = &headers.transport else {
        panic!("etherparse sees no TCP");
    };
    let key = segment.key;
    assert_eq!(key.src_port.number(), tcp.source_port);
    assert_eq!(key.dst_port.number(), tcp.destination_port);
    assert_eq!(segment.tcp.seq, tcp.sequence_number);
    assert_eq!(segment.tcp.ack, tcp.acknowledgment_number);
    assert_eq!(usize::from(segment.tcp_len), tcp.header_len());
    assert_eq!(segment.tcp.flags.any(TcpFlags::SYN), tcp.syn);
    assert_eq!(segment.tcp.flags.any(TcpFlags::FIN), tcp.fin);
    assert_eq!(segment.tcp.flags.any(TcpFlags::RST), tcp.rst);
    assert_eq!(segment.tcp.flags.any(TcpFlags::ACK), tcp.ack);
    assert_eq!(segment.tcp.payload as usize, headers.payload.slice().len());
    let (src, dst, ttl): (std::net::IpAddr, std::net::IpAddr, u8) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => (ip.source.into(), ip.destination.into(), ip.time_to_live),
        Some(NetHeaders::Ipv6(ip, _)) => (ip.source.into(), ip.destination.into(), ip.hop_limit),
        other => panic!("{other:?}"),
    };
    assert_eq!((key.src.ip(), key.dst.ip(), segment.ttl), (src, dst, ttl));
    let vlan = headers.link_exts.iter().find_map(|ext| match ext {
        LinkExtHeader::Vlan(tag) => Some(tag.vlan_id.value()),
        LinkExtHeader::Macsec(_) => None,
    });
    assert_eq!(segment.vlan, vlan.unwrap_or(0));
}

/// Every offset and length lies within the frame, in the order of the headers.
fn assert_inside(segment: &Segment, frame: &[u8]) {
    assert!(segment.ip_offset() == 14 || segment.ip_offset() == 18);
    assert!(segment.tcp_offset() > segment.ip_offset());
    let data = segment.tcp_offset() + usize::from(segment.tcp_len);
    let end = segment.ip_offset() + usize::from(segment.ip_len);
    assert!(segment.tcp_len >= 20 && data <= end && end <= frame.len());
    assert_eq!(data + segment.tcp.payload as usize, end);
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 4000,
        rng_seed: RngSeed::Fixed(894),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_whole_segment_is_read_as_etherparse_reads_it(
        described in described(),
        padding in 0..30usize,
    ) {
        let mut frame = frame(&described);
        frame.resize(frame.len() + padding, 0xee);
        let segment = parse(&frame[..]).unwrap();
        assert_agreement(&segment, &frame);
        assert_inside(&segment, &frame);
        prop_assert_eq!(segment.is_v4, described.v6.is_none());
        prop_assert_eq!(usize::from(segment.ip_len), frame.len() - padding - segment.ip_offset());
    }

    #[test]
    fn a_frame_that_was_cut_is_never_a_segment(described in described(), cut in 1..60usize) {
        let frame = frame(&described);
        let kept = &frame[..frame.len().saturating_sub(cut)];
        let error = parse(kept).unwrap_err();
        prop_assert!(matches!(error.why, Unparsable::Malformed | Unparsable::NotTcp));
    }

    #[test]
    fn a_damaged_frame_is_a_segment_only_if_it_still_is_one(
        described in described(),
        changes in prop::collection::vec((12..80usize, any::<u8>()), 1..4),
    ) {
        let mut frame = frame(&described);
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Ok(segment) = parse(&frame[..]) {
            assert_inside(&segment, &frame);
            assert_agreement(&segment, &frame);
        }
    }

    #[test]
    fn any_bytes_at_all_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(segment) = parse(&bytes[..]) {
            assert_inside(&segment, &bytes);
        }
    }

    #[test]
    fn bytes_behind_a_true_beginning_too(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        v6 in any::<bool>(),
    ) {
        let mut all = frame(&Described {
            v6: v6.then_some(([0x20; 16], [0x21; 16])),
            v4: ([1; 4], [2; 4]),
            vlan: None,
            ports: (1, 2),
            numbers: (0, 0),
            flags: 2,
            options: 0,
            payload: Vec::new(),
            ttl: 1,
        });
        all.truncate(15);
        all.extend(bytes);
        if let Ok(segment) = parse(&all[..]) {
            assert_inside(&segment, &all);
        }
    }
}

#[test]
fn the_error_says_where_the_frame_was_going() {
    let mut frame = vec![0x02; 12];
    frame.extend([8, 0]);
    PacketBuilder::ipv4([198, 51, 100, 1], [192, 0, 2, 10], 64)
        .tcp(1, 80, 0, 0)
        .write(&mut frame, &[])
        .unwrap();
    let dst = |frame: &[u8]| {
        let error = parse(frame).unwrap_err();
        (error.why, error.dst.to_string())
    };
    let patched = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        frame
    };
    let vip = || "192.0.2.10".to_owned();
    assert_eq!(dst(&patched(20, 0x20)), (Unparsable::Fragment, vip()));
    assert_eq!(dst(&patched(14, 0x46)), (Unparsable::IpOptions, vip()));
    assert_eq!(dst(&patched(17, 200)), (Unparsable::Malformed, vip()));
    assert_eq!(dst(&patched(23, 17)), (Unparsable::NotTcp, "::".to_owned()));
}
