//! The rewrite, judged by checksums that etherparse computes over the whole packet.

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::checksum::{combine, delta, finish, sum, update};
use dispatcher_common::flow::{Direction, FlowKey};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::parse::{Segment, parse};
use dispatcher_common::rewrite::{Translation, renumber};
use dispatcher_common::tcp::SegmentView;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        rng_seed: RngSeed::Fixed(1624),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Addresses of one family: often with words of 0x0000 and 0xffff, where sums have two zeros.
fn addr(v6: bool) -> BoxedStrategy<Addr> {
    let byte = || prop_oneof![2 => any::<u8>(), 1 => Just(0), 1 => Just(0xff)];
    let bytes = prop::collection::vec(byte(), 16);
    let addr = bytes.prop_map(move |mut bytes| {
        if v6 {
            // Below 2000::/3, so that it is never a mapped address.
            bytes[0] = 0x20;
            Addr::from_v6_bytes(bytes.try_into().unwrap())
        } else {
            Addr::from_v4_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        }
    });
    addr.boxed()
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), Just(0), Just(0xffff)]
}

type Story = ([(Addr, u16); 3], Vec<u8>, u8);

/// Client, service and back-end of one family, data, and a TTL that may go down.
fn story() -> BoxedStrategy<Story> {
    let story = any::<bool>().prop_flat_map(|v6| {
        let end = || (addr(v6), port());
        let payload = prop::collection::vec(any::<u8>(), 0..90);
        ([end(), end(), end()], payload, 3..=255u8)
    });
    story.boxed()
}

fn frame(src: (Addr, u16), dst: (Addr, u16), payload: &[u8], ttl: u8) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    let ip = if src.0.is_v4() {
        frame.extend([8, 0]);
        PacketBuilder::ipv4(src.0.v4_bytes(), dst.0.v4_bytes(), ttl)
    } else {
        frame.extend([0x86, 0xdd]);
        PacketBuilder::ipv6(*src.0.bytes(), *dst.0.bytes(), ttl)
    };
    let tcp = ip.tcp(src.1, dst.1, 0x0102_0304, 512);
    tcp.ack(77).write(&mut frame, payload).unwrap();
    frame
}

fn key(src: (Addr, u16), dst: (Addr, u16)) -> FlowKey {
    FlowKey::new(src.0, Port::new(src.1), dst.0, Port::new(dst.1))
}

fn apply(translation: &Translation, frame: &mut [u8]) -> Segment {
    let segment = parse(frame).unwrap();
    translation.apply(frame, &segment).unwrap();
    parse(frame).unwrap()
}

/// Recomputes both checksums. A sum of zero has two forms, and an update may keep either
/// (RFC 1624 section 3); a receiver adds everything up and accepts both.
fn assert_checksums(frame: &[u8]) {
    let same = |found: u16, computed: u16| found == computed || [found, computed] == [0xffff, 0];
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        panic!("no TCP");
    };
    let computed = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert!(same(ip.header_checksum, ip.calc_header_checksum()), "IPv4");
            tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap()
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            tcp.calc_checksum_ipv6(ip.source, ip.destination).unwrap()
        }
        other => panic!("{other:?}"),
    };
    assert!(
        same(tcp.checksum(), computed),
        "TCP: {:#x}, not {computed:#x}",
        tcp.checksum()
    );
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn both_directions_keep_the_checksums_and_all_that_is_not_theirs(story in story()) {
        let ([client, service, backend], payload, ttl) = story;
        let port = Port::new(backend.1);
        let forward = Translation::to_backend(&key(client, service), backend.0, port);
        let reply = Translation::to_client(&key(backend, client), service.0, Port::new(service.1));
        prop_assert_eq!(forward.direction(), Direction::Forward);
        prop_assert_eq!(reply.direction(), Direction::Reply);

        let mut there = frame(client, service, &payload, ttl);
        let segment = apply(&forward, &mut there);
        prop_assert_eq!(segment.key, key(client, backend));
        assert_checksums(&there);

        let mut back = frame(backend, client, &payload, ttl);
        let segment = apply(&reply, &mut back);
        prop_assert_eq!(segment.key, key(service, client));
        assert_checksums(&back);

        // What would have come if the client had spoken to the back-end itself.
        let direct = frame(client, backend, &payload, ttl - 1);
        let v4_or_tcp_checksum = |at: usize| if client.0.is_v4() {
            matches!(at, 24 | 25 | 50 | 51)
        } else {
            matches!(at, 70 | 71)
        };
        for at in (0..direct.len()).filter(|at| !v4_or_tcp_checksum(*at)) {
            prop_assert_eq!(there[at], direct[at], "byte {}", at);
        }
    }

    #[test]
    fn there_and_back_again_changes_nothing_but_the_ttl(story in story()) {
        let ([client, service, backend], payload, ttl) = story;
        let port = Port::new(backend.1);
        let there = Translation::to_backend(&key(client, service), backend.0, port);
        let back = Translation::to_backend(&key(client, backend), service.0, Port::new(service.1));
        let mut twice = frame(client, service, &payload, ttl);
        apply(&there, &mut twice);
        let segment = apply(&back, &mut twice);
        prop_assert_eq!((segment.ttl, segment.key), (ttl - 2, key(client, service)));
        assert_checksums(&twice);
        prop_assert_eq!(&twice[segment.tcp_offset() + 20..], &payload[..]);
    }

    #[test]
    fn other_numbers_keep_the_checksums_and_all_that_is_not_theirs(
        (ends, payload, ttl) in story(),
        numbers in prop::array::uniform2(prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)]),
        flags in any::<u8>(),
    ) {
        let before = frame(ends[0], ends[1], &payload, ttl);
        let segment = parse(&before[..]).unwrap();
        let to = SegmentView {
            flags: TcpFlags(flags),
            seq: numbers[0],
            ack: numbers[1],
            payload: segment.tcp.payload,
        };
        let mut after = before.clone();
        renumber(&mut after[..], segment.tcp_offset(), &to).unwrap();
        prop_assert_eq!(parse(&after[..]).unwrap().tcp, to);
        assert_checksums(&after);
        let at = segment.tcp_offset();
        prop_assert_eq!(&after[..at + 4], &before[..at + 4]);
        prop_assert_eq!(after[at + 12], before[at + 12]);
        prop_assert_eq!(&after[at + 18..], &before[at + 18..]);
    }

    #[test]
    fn an_update_is_what_a_full_computation_gives(
        mut bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(0xff)], 8..120),
        new in prop::array::uniform4(prop_oneof![any::<u8>(), Just(0), Just(0xff)]),
        at in 0..28usize,
    ) {
        let at = (2 * at).min(bytes.len() / 2 * 2 - 4);
        let checksum = finish(sum(&bytes));
        let delta = delta(&bytes[at..at + 4], &new);
        bytes[at..at + 4].copy_from_slice(&new);
        let updated = update(checksum, delta);
        // Adding up data and checksum gives all ones, whichever zero it is.
        let total = combine(sum(&bytes), u16::from_ne_bytes(updated));
        prop_assert!(total == 0xffff || total == 0, "{:#x}", total);
        if bytes.iter().any(|byte| *byte != 0) {
            prop_assert_eq!(total, 0xffff);
        }
    }
}

#[test]
fn words_of_all_zeros_and_all_ones_are_the_same_number() {
    let [zeros, ones] = [[0u8; 2], [0xff; 2]];
    for (old, new) in [(zeros, zeros), (zeros, ones), (ones, zeros), (ones, ones)] {
        let unchanged = update([0x12, 0x34], delta(&old, &new));
        assert_eq!(unchanged, [0x12, 0x34], "{old:?} to {new:?}");
    }
}

#[test]
fn a_frame_that_ends_before_its_tcp_header_is_not_touched() {
    let client = (Addr::from_v4_bytes([198, 51, 100, 1]), 40_000);
    let service = (Addr::from_v4_bytes([192, 0, 2, 10]), 80);
    let whole = frame(client, service, &[], 64);
    let segment = parse(&whole[..]).unwrap();
    let to = Translation::to_backend(&key(client, service), client.0, Port::new(1));
    let mut cut = whole[..53].to_vec();
    assert_eq!(to.apply(&mut cut[..], &segment), None);
    assert_eq!(cut, whole[..53]);
}
