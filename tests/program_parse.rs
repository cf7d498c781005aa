//! Frames that are no segment to dispatch: what is not for a service is left alone, what is for
//! one and cannot be read is dropped with its reason, and nothing is ever changed.
//!
//! Covers what the kernel's own bench of a load balancer in XDP calls (selftests/bpf, xdp_lb):
//!
//! | they say | we say | why |
//! |---|---|---|
//! | pass-v4-icmp | pass | unless it is about a flow or a ping of a service: see program_icmp.rs |
//! | pass-non-ip | pass | ARP is the host's |
//! | drop-v4-frag | drop `fragment` | only the first has ports; TCP does not need them |
//! | drop-v4-options | drop `ip_options` | no host sends them in TCP |
//! | drop-v6-frag | drop `fragment` | as for IPv4 |
//! | udp-v4-lru-hit, udp-v6-lru-hit | pass | no service is UDP: the host's stack has it |
//! | udp-v4-lru-diverse, udp-v4-lru-miss | pass | the same for any source |

use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{
    ACK, CLIENT_ONE, Family, Host, Packet, STRANGER, SYN, VIP_ONE, arp, patched,
};
use dispatcher_tests::program::{Program, Verdict};

const PASSED: Verdict = Verdict::Passed;
const fn dropped(reason: DropReason) -> Verdict {
    Verdict::Dropped(reason)
}

/// Runs rows of sentence, frame, verdict; every frame comes back as it was.
fn check(rows: Vec<(&str, Vec<u8>, Verdict)>) {
    let mut program = Program::load();
    for (sentence, frame, verdict) in rows {
        let outcome = program.run(&frame);
        assert_eq!(outcome.verdict(), verdict, "{sentence}");
        assert_eq!(outcome.frame, frame, "{sentence}: the frame is untouched");
        assert_eq!(program.events(), [], "{sentence}");
    }
}

fn to(host: Host) -> Packet {
    Packet::tcp(CLIENT_ONE, host).flags(SYN)
}

#[test]
fn what_is_not_tcp_is_left_to_the_host() {
    let udp = || Packet::udp(CLIENT_ONE, VIP_ONE).payload(b"who goes there");
    let sources = (1..=16).flat_map(|port| {
        let from = Packet::udp(CLIENT_ONE.at(port), VIP_ONE);
        [from.clone().build(), from.v6().build()]
    });
    let mut rows = vec![
        ("ARP", arp(), PASSED),
        ("UDP to a service's port, IPv4", udp().build(), PASSED),
        ("UDP to a service's port, IPv6", udp().v6().build(), PASSED),
        ("a ping", Packet::icmp(CLIENT_ONE, STRANGER).build(), PASSED),
        (
            "ICMPv6 number",
            Packet::icmp(CLIENT_ONE, VIP_ONE).v6().build(),
            PASSED,
        ),
        (
            "a frame of headers only",
            to(VIP_ONE).build()[..14].to_vec(),
            PASSED,
        ),
        ("a UDP fragment", udp().fragment(0, true).build(), PASSED),
        (
            "802.3 length instead of a type",
            patched(to(VIP_ONE).build(), 12, &[0, 46]),
            PASSED,
        ),
    ];
    rows.extend(sources.map(|frame| ("UDP from many ports", frame, PASSED)));
    check(rows);
}

#[test]
fn a_frame_cut_anywhere_never_does_harm() {
    let mut program = Program::load();
    for packet in [
        to(VIP_ONE),
        to(VIP_ONE).v6(),
        to(VIP_ONE).vlan(7),
        to(VIP_ONE).v6().vlan(7),
    ] {
        let whole = packet.options(&[1; 40]).payload(&[0xaa; 8]).build();
        for length in 14..whole.len() {
            let outcome = program.run(&whole[..length]);
            let verdict = outcome.verdict();
            assert!(
                matches!(verdict, PASSED | Verdict::Dropped(DropReason::Malformed)),
                "{verdict:?} at {length} of {} bytes",
                whole.len()
            );
            assert_eq!(outcome.frame, &whole[..length]);
        }
        let verdict = program.run(&whole).verdict();
        assert_eq!(
            verdict,
            dropped(DropReason::Unattended),
            "whole, it is a request"
        );
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let (v4, v6) = (to(VIP_ONE).build(), to(VIP_ONE).v6().build());
    let malformed = dropped(DropReason::Malformed);
    let tail = |mut frame: Vec<u8>| {
        frame.extend([0; 20]);
        frame
    };
    check(vec![
        (
            "a total length beyond the frame",
            patched(v4.clone(), 16, &[0, 41]),
            malformed,
        ),
        (
            "a total length of nothing",
            patched(v4.clone(), 16, &[0, 0]),
            malformed,
        ),
        (
            "a total length short of the TCP header",
            patched(v4.clone(), 16, &[0, 39]),
            malformed,
        ),
        ("an IHL of 4", patched(v4.clone(), 14, &[0x44]), malformed),
        ("an IHL of 0", patched(v4.clone(), 14, &[0x40]), malformed),
        (
            "a data offset of 4",
            patched(v4.clone(), 46, &[0x40]),
            malformed,
        ),
        (
            "a data offset of 0",
            patched(v4.clone(), 46, &[0]),
            malformed,
        ),
        (
            "a data offset beyond the packet",
            patched(v4.clone(), 46, &[0x60]),
            malformed,
        ),
        (
            "the same with bytes in the frame",
            tail(patched(v4.clone(), 46, &[0x60])),
            malformed,
        ),
        (
            "a payload length beyond the frame",
            patched(v6.clone(), 18, &[0, 21]),
            malformed,
        ),
        (
            "the largest payload length",
            patched(v6.clone(), 18, &[0xff; 2]),
            malformed,
        ),
        (
            "a jumbogram's payload length",
            patched(v6.clone(), 18, &[0, 0]),
            malformed,
        ),
        (
            "a data offset of 15, IPv6",
            patched(v6, 66, &[0xf0]),
            malformed,
        ),
        (
            "version 6 under the type of IPv4",
            patched(v4.clone(), 14, &[0x65]),
            PASSED,
        ),
        (
            "padding after a short packet",
            tail(v4.clone()),
            dropped(DropReason::Unattended),
        ),
        (
            "a wrong length to somebody else",
            patched(to(STRANGER).build(), 16, &[0, 0]),
            PASSED,
        ),
        (
            "a bad checksum is the receiver's",
            patched(v4, 24, &[0, 0]),
            dropped(DropReason::Unattended),
        ),
    ]);
}

#[test]
fn fragments_and_options_to_a_service_are_dropped_with_their_reason() {
    let fragment = dropped(DropReason::Fragment);
    let options = dropped(DropReason::IpOptions);
    let ack = |host: Host| Packet::tcp(CLIENT_ONE, host).flags(ACK);
    let mut rows = vec![
        (
            "the first fragment",
            ack(VIP_ONE).fragment(0, true).build(),
            fragment,
        ),
        (
            "a middle fragment",
            ack(VIP_ONE).fragment(8, true).build(),
            fragment,
        ),
        (
            "the last fragment",
            ack(VIP_ONE).fragment(16, false).build(),
            fragment,
        ),
        (
            "an IPv6 fragment",
            ack(VIP_ONE).v6().fragment(0, true).build(),
            fragment,
        ),
        (
            "an atomic IPv6 fragment",
            ack(VIP_ONE).v6().fragment(0, false).build(),
            fragment,
        ),
        (
            "a fragment to another",
            ack(STRANGER).fragment(0, true).build(),
            PASSED,
        ),
        (
            "an IPv6 one to another",
            ack(STRANGER).v6().fragment(0, true).build(),
            PASSED,
        ),
        (
            "no operation",
            ack(VIP_ONE).ip_options(&[1, 1, 1, 0]).build(),
            options,
        ),
        (
            "all forty bytes",
            ack(VIP_ONE).ip_options(&[1; 40]).build(),
            options,
        ),
        (
            "options to another",
            ack(STRANGER).ip_options(&[1; 4]).build(),
            PASSED,
        ),
        (
            "an unknown next header",
            ack(VIP_ONE).v6().extension(200).build(),
            PASSED,
        ),
        (
            "ESP is not TCP",
            ack(VIP_ONE).v6().extension(50).build(),
            PASSED,
        ),
    ];
    for number in [0, 43, 51, 60, 135, 139, 140] {
        rows.push((
            "an extension header",
            ack(VIP_ONE).v6().extension(number).build(),
            options,
        ));
        rows.push((
            "one to another",
            ack(STRANGER).v6().extension(number).build(),
            PASSED,
        ));
    }
    check(rows);
}

#[test]
fn an_ipv4_address_in_an_ipv6_header_is_nobodys() {
    let mapped = [&[0; 10][..], &[0xff; 2], &VIP_ONE.v4.octets()].concat();
    let request = to(VIP_ONE).v6().build();
    check(vec![
        (
            "as destination",
            patched(request.clone(), 14 + 24, &mapped),
            PASSED,
        ),
        ("as source", patched(request, 14 + 8, &mapped), PASSED),
    ]);
}

#[test]
fn one_tag_is_read_and_two_are_left_to_the_host() {
    let request = dropped(DropReason::Unattended);
    let tagged = to(VIP_ONE).vlan(100).build();
    let mut twice = tagged.clone();
    twice.splice(12..12, [0x81, 0x00, 0, 5]);
    let provider = patched(twice.clone(), 12, &[0x88, 0xa8]);
    check(vec![
        ("one tag", tagged.clone(), request),
        (
            "one tag, IPv6",
            to(VIP_ONE).v6().vlan(4094).build(),
            request,
        ),
        ("priority only", to(VIP_ONE).tag(0, 5).build(), request),
        ("802.1Q twice", twice, PASSED),
        ("802.1ad outside", provider, PASSED),
        ("a tag and nothing after it", tagged[..16].to_vec(), PASSED),
    ]);
    assert_eq!(
        Packet::tcp(CLIENT_ONE, VIP_ONE)
            .over(Family::V4)
            .build()
            .len(),
        54
    );
}
