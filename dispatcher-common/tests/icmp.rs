//! ICMP errors translated and pings answered on generated packets, judged by sums over the whole
//! message, and by what is left after the way back.

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::checksum::{combine, finish, sum};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::icmp::{self, IcmpError, Kind};
use dispatcher_common::rewrite::Translation;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        rng_seed: RngSeed::Fixed(792),
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
            Addr::from_v4_bytes([10, bytes[1], bytes[2], bytes[3]])
        }
    });
    addr.boxed()
}

fn ip_header(src: Addr, dst: Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    if src.is_v4() {
        let [high, low] = length(20 + payload);
        let mut header = vec![0x45, 0, high, low, 0, 1, 0x40, 0, 61, protocol, 0, 0];
        header.extend(src.v4_bytes());
        header.extend(dst.v4_bytes());
        let checksum = finish(sum(&header));
        header[10..12].copy_from_slice(&checksum);
        header
    } else {
        let [high, low] = length(payload);
        let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 61];
        header.extend(src.bytes());
        header.extend(dst.bytes());
        header
    }
}

/// The sum under an ICMP message's checksum, that included: all ones when it is right.
fn icmp_sum(packet: &[u8], is_v4: bool) -> u16 {
    if is_v4 {
        return sum(&packet[20..]);
    }
    let [high, low] = u16::try_from(packet.len() - 40).unwrap().to_be_bytes();
    let pseudo = combine(sum(&packet[8..40]), sum(&[high, low, 0, 58]));
    combine(pseudo, sum(&packet[40..]))
}

fn message(src: Addr, dst: Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let is_v4 = src.is_v4();
    let protocol = if is_v4 { 1 } else { 58 };
    let mut packet = ip_header(src, dst, protocol, 8 + body.len());
    let at = packet.len();
    packet.extend([kind, 4, 0, 0, 0, 0, 5, 20]);
    packet.extend(body);
    let checksum = finish(icmp_sum(&packet, is_v4));
    packet[at + 2..at + 4].copy_from_slice(&checksum);
    packet
}

fn kind(packet: &[u8], is_v4: bool) -> Option<Kind> {
    if is_v4 {
        icmp::kind_v4(packet)
    } else {
        icmp::kind_v6(packet)
    }
}

proptest! {
    #![proptest_config(config())]

    /// Towards the back-end, and as if the back-end were the service, back again.
    #[test]
    fn an_error_is_translated_and_back(
        (client, service, backend, router) in any::<bool>()
            .prop_flat_map(|v6| (addr(v6), addr(v6), addr(v6), addr(v6))),
        ports in any::<[u16; 3]>(),
        seq in any::<u32>(),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let [client_port, service_port, backend_port] = ports.map(Port::new);
        let is_v4 = client.is_v4();
        let tcp = [
            &service_port.bytes()[..],
            &client_port.bytes(),
            &seq.to_be_bytes(),
            &tail,
        ].concat();
        let mut quoted = ip_header(service, client, 6, 1400);
        quoted.extend(tcp);
        let before = message(router, service, if is_v4 { 3 } else { 2 }, &quoted);
        prop_assert_eq!(kind(&before, is_v4), Some(Kind::Error));
        let error = IcmpError::read(&before[..], is_v4).unwrap();
        prop_assert_eq!(error.seq, seq);
        let key = icmp::key_of_answers(&before[..], is_v4).unwrap();
        let forward = FlowKey::new(client, client_port, service, service_port);
        prop_assert_eq!(key, forward);

        let mut packet = before.clone();
        let there = Translation::to_backend(&forward, backend, backend_port);
        icmp::translate(&mut packet[..], &error, &there).unwrap();
        prop_assert_eq!(icmp_sum(&packet, is_v4), 0xffff);
        if is_v4 {
            prop_assert_eq!(sum(&packet[..20]), 0xffff);
            prop_assert_eq!(sum(&packet[28..48]), 0xffff);
        }
        prop_assert_eq!(icmp::destination(&packet[..], is_v4), Some(backend));
        let answers = icmp::key_of_answers(&packet[..], is_v4).unwrap();
        prop_assert_eq!(answers, FlowKey::new(client, client_port, backend, backend_port));

        let back = Translation::to_backend(&answers, service, service_port);
        icmp::translate(&mut packet[..], &error, &back).unwrap();
        prop_assert_eq!(icmp_sum(&packet, is_v4), 0xffff);
        // But for two hops, and for sums of zero, which have two forms.
        let (hops, checksums) = if is_v4 { (8, vec![10, 22, 38, 64]) } else { (7, vec![42, 104]) };
        prop_assert_eq!(packet[hops], before[hops] - 2);
        for at in 0..packet.len() {
            let of_a_sum = checksums.iter().any(|field| (*field..field + 2).contains(&at));
            if at != hops && !of_a_sum {
                prop_assert_eq!(packet[at], before[at], "byte {}", at);
            }
        }
    }

    #[test]
    fn a_ping_is_answered_with_what_it_said(
        (client, service) in any::<bool>().prop_flat_map(|v6| (addr(v6), addr(v6))),
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let is_v4 = client.is_v4();
        let speaks = !client.is_v6_multicast();
        let mut packet = message(client, service, if is_v4 { 8 } else { 128 }, &body);
        prop_assert_eq!(kind(&packet, is_v4), speaks.then_some(Kind::EchoRequest));
        icmp::answer(&mut packet[..], is_v4).unwrap();
        prop_assert_eq!(icmp_sum(&packet, is_v4), 0xffff);
        if is_v4 {
            prop_assert_eq!(sum(&packet[..20]), 0xffff);
        }
        prop_assert_eq!(icmp::destination(&packet[..], is_v4), Some(client));
        prop_assert_eq!(&packet[packet.len() - body.len()..], &body[..]);
    }

    /// Whatever bytes there are: nothing panics, and what is said to be an error can be read.
    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        is_v4 in any::<bool>(),
        starts_well in any::<bool>(),
    ) {
        let mut packet = bytes;
        if starts_well && packet.len() > 41 {
            let (src, dst) = if is_v4 {
                (Addr::from_v4_bytes([10, 0, 0, 1]), Addr::from_v4_bytes([10, 0, 0, 2]))
            } else {
                let addr = |last| {
                    let mut bytes = [0x20; 16];
                    bytes[15] = last;
                    Addr::from_v6_bytes(bytes)
                };
                (addr(1), addr(2))
            };
            let length = packet.len() - if is_v4 { 20 } else { 40 };
            let header = ip_header(src, dst, if is_v4 { 1 } else { 58 }, length);
            packet[..header.len()].copy_from_slice(&header);
        }
        if kind(&packet, is_v4) == Some(Kind::Error) {
            let error = IcmpError::read(&packet[..], is_v4).unwrap();
            let key = icmp::key_of_answers(&packet[..], is_v4).unwrap();
            let translation = Translation::to_backend(&key, key.src, key.src_port);
            icmp::translate(&mut packet[..], &error, &translation).unwrap();
        }
    }
}
