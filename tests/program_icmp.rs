//! ICMP: errors about flows are translated both ways, pings are answered, and senders are told of
//! what goes no further.

use std::net::IpAddr;

use dispatcher_common::flow::FlowPair;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::link::NextHop;
use dispatcher_common::notice::{Problem, Sent};
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::icmp::{Seen, echo, errors, ip_header, message, quote, told, verify};
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, CLIENT_ONE, CLIENT_TWO, DISPATCHER_MAC, FAMILIES, Family, Host, Packet,
    STRANGER, SYN, VIP_ONE, patched, verify as verify_tcp,
};
use dispatcher_tests::program::{
    Action, BACKEND, GENERATION, INGRESS, Outcome, Program, Verdict, spec,
};

/// A router that neither end knows.
const ROUTER: Host = STRANGER;
const SENT_ON: Verdict = Verdict::Sent(Action::Redirect);

/// What has passed between the ends of the flow: the first byte that is not acknowledged, and one
/// past the last that was sent.
const UNACKNOWLEDGED: u32 = 500_000;
const SENT: u32 = 510_000;

/// A program with an established flow in which both ends have as much under way.
fn established(family: Family) -> (Program, FlowPair) {
    let mut program = Program::load();
    let mut pair = FlowPair::new(&spec(family));
    for entry in [&mut pair.forward, &mut pair.reply] {
        entry.phase = (Phase::ANSWERED.with(Phase::ESTABLISHED)).0;
        entry.track.seq_end = SENT;
        entry.track.ack = UNACKNOWLEDGED;
    }
    program.put(&pair.forward_key, &pair.forward);
    program.put(&pair.reply_key, &pair.reply);
    (program, pair)
}

/// An error's way: who tells whom about which packet, and what that packet is to its sender.
struct Way {
    to: Host,
    quoted: [Host; 2],
    becomes: [Host; 2],
    reaches: Host,
}

/// About a reply that was on its way to the client.
const TO_BACKEND: Way = Way {
    to: VIP_ONE,
    quoted: [VIP_ONE, CLIENT_ONE],
    becomes: [BACKEND_ONE, CLIENT_ONE],
    reaches: BACKEND_ONE,
};
/// About a packet that was on its way to the back-end.
const TO_CLIENT: Way = Way {
    to: CLIENT_ONE,
    quoted: [CLIENT_ONE, BACKEND_ONE],
    becomes: [CLIENT_ONE, VIP_ONE],
    reaches: CLIENT_ONE,
};
const WAYS: [Way; 2] = [TO_BACKEND, TO_CLIENT];

/// A segment of the flow as a router has it, its TTL going down, and as its sender sent it but for
/// that.
fn segments(family: Family, way: &Way, seq: u32) -> [Vec<u8>; 2] {
    [way.quoted, way.becomes].map(|[src, dst]| {
        let packet = Packet::tcp(src, dst).over(family).flags(ACK).seq(seq);
        packet.ack(7).payload(&[0x5a; 1000]).ttl(61).build()
    })
}

const MTU: [u8; 4] = [0, 0, 0x05, 0x14];

fn told_by(family: Family, from: Host, way: &Way, kind: (u8, u8), body: &[u8]) -> Packet {
    message(family, from, way.to, kind, MTU, body)
}

/// One error about a segment with this sequence number, as much of it quoted.
fn error_about(family: Family, way: &Way, seq: u32, length: usize) -> Vec<u8> {
    let [quoted, _] = segments(family, way, seq);
    let (kind, _) = told(family);
    told_by(family, ROUTER, way, kind, &quote(&quoted, length)).build()
}

#[test]
fn every_error_reaches_the_sender_of_what_it_quotes() {
    for family in FAMILIES {
        let (mut program, pair) = established(family);
        let header = ip_header(family);
        for way in &WAYS {
            let [quoted, as_sent] = segments(family, way, UNACKNOWLEDGED);
            // Eight bytes of TCP; all but its checksum; that too, the header, and all of it.
            for length in [8, 16, 18, 20, 528, 2000].map(|length| header + length) {
                for &(what, kind, code) in errors(family) {
                    let body = quote(&quoted, length);
                    let packet = told_by(family, ROUTER, way, (kind, code), &body);
                    let outcome = program.run(&packet.build());
                    let sentence = format!("{family:?}: {what}, {length} bytes to {:?}", way.to);
                    assert_eq!(outcome.verdict(), SENT_ON, "{sentence}");
                    assert!(outcome.is_translated_error(), "{sentence}");
                    let seen = verify(&outcome.frame).expect(&sentence);
                    let expected = Seen {
                        link: (
                            dispatcher_common::addr::Mac(way.reaches.mac),
                            DISPATCHER_MAC,
                        ),
                        vlan: None,
                        src: ROUTER.ip(family),
                        dst: way.reaches.ip(family),
                        ttl: 63,
                        kind: (kind, code),
                        rest: MTU,
                        body: quote(&as_sent, length),
                    };
                    assert_eq!(seen, expected, "{sentence}");
                }
            }
        }
        assert_eq!(program.events(), [], "no error is news of a flow");
        for (key, entry) in [
            (pair.forward_key, pair.forward),
            (pair.reply_key, pair.reply),
        ] {
            assert_eq!(program.entry(&key), entry, "an error changes nothing of it");
        }
        assert_eq!(program.backend(BACKEND).packets_in, 0, "nor is it traffic");
    }
}

#[test]
fn an_error_of_the_backend_itself_comes_from_the_service() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let [quoted, as_sent] = segments(family, &TO_CLIENT, UNACKNOWLEDGED);
        for length in [ip_header(family) + 8, 528] {
            let body = quote(&quoted, length);
            let packet = told_by(family, BACKEND_ONE, &TO_CLIENT, (3, 3), &body);
            let outcome = program.run(&packet.build());
            assert_eq!(outcome.verdict(), SENT_ON);
            let seen = verify(&outcome.frame).unwrap();
            let ends: (IpAddr, IpAddr) = (VIP_ONE.ip(family), CLIENT_ONE.ip(family));
            assert_eq!((seen.src, seen.dst), ends);
            assert_eq!(seen.body, quote(&as_sent, length));
        }
    }
}

#[test]
fn what_no_segment_under_way_has_is_not_believed() {
    let dropped = Verdict::Dropped(DropReason::IcmpOutOfWindow);
    for family in FAMILIES {
        let (mut program, _) = established(family);
        for way in &WAYS {
            for (seq, verdict) in [
                (UNACKNOWLEDGED - 1, dropped),
                (UNACKNOWLEDGED, SENT_ON),
                (SENT - 1, SENT_ON),
                // A bare acknowledgement has it.
                (SENT, SENT_ON),
                (SENT + 1, dropped),
                (SENT.wrapping_add(1 << 31), dropped),
                (0, dropped),
            ] {
                let frame = error_about(family, way, seq, 528);
                let outcome = program.run(&frame);
                assert_eq!(outcome.verdict(), verdict, "{family:?} {seq}");
                if verdict == dropped {
                    assert_eq!(outcome.frame, frame, "it is untouched");
                }
            }
        }
    }
}

#[test]
fn before_the_answer_only_the_syn_is_under_way() {
    for family in FAMILIES {
        let mut program = Program::load();
        let spec = spec(family);
        program.install(&spec);
        let length = ip_header(family) + 8;
        for (way, seq, believed) in [
            (&TO_CLIENT, spec.isn, true),
            (&TO_CLIENT, spec.isn + 1, true),
            (&TO_CLIENT, spec.isn + 2, false),
            (&TO_BACKEND, 0, false),
            (&TO_BACKEND, spec.isn, false),
        ] {
            let outcome = program.run(&error_about(family, way, seq, length));
            let verdict = if believed {
                SENT_ON
            } else {
                Verdict::Dropped(DropReason::IcmpOutOfWindow)
            };
            assert_eq!(outcome.verdict(), verdict, "{family:?} {seq}");
        }
    }
}

#[test]
fn an_error_about_no_flow_is_the_hosts_or_of_a_service_that_lost_it() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let kind = told(family).0;
        for (about, verdict, sentence) in [
            (
                [VIP_ONE, CLIENT_TWO],
                Verdict::Dropped(DropReason::NoFlow),
                "a flow that is gone",
            ),
            (
                [VIP_ONE.at(22), CLIENT_ONE],
                Verdict::Passed,
                "the host's own, at such an address",
            ),
            ([STRANGER, CLIENT_ONE], Verdict::Passed, "somebody else's"),
            (
                [CLIENT_TWO, BACKEND_ONE],
                Verdict::Passed,
                "a client's without a flow",
            ),
        ] {
            let [src, dst] = about;
            let quoted = Packet::tcp(src, dst)
                .over(family)
                .payload(&[1; 100])
                .build();
            let packet = message(family, ROUTER, src, kind, MTU, &quote(&quoted, 528));
            let frame = packet.build();
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), verdict, "{family:?}: {sentence}");
            assert_eq!(outcome.frame, frame, "{sentence}: untouched");
        }
    }
}

#[test]
fn what_is_not_about_a_segment_of_a_flow_is_left_to_the_host() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let [quoted, _] = segments(family, &TO_BACKEND, SENT);
        let kind = told(family).0;
        let whole = quote(&quoted, 528);
        let udp = Packet::udp(VIP_ONE, CLIENT_ONE)
            .over(family)
            .payload(&[1; 64]);
        let mut rows = vec![
            (
                "a redirect",
                told_by(family, ROUTER, &TO_BACKEND, (5, 1), &whole),
            ),
            (
                "an echo reply",
                told_by(family, ROUTER, &TO_BACKEND, (echo(family).1, 0), &whole),
            ),
            (
                "about UDP",
                told_by(family, ROUTER, &TO_BACKEND, kind, &quote(&udp.build(), 528)),
            ),
            (
                "to somebody else than who sent what it quotes",
                message(family, ROUTER, BACKEND_ONE, kind, MTU, &whole),
            ),
        ];
        if family == Family::V4 {
            let quench = told_by(family, ROUTER, &TO_BACKEND, (4, 0), &whole);
            rows.push(("a source quench", quench));
            let fragment = told_by(family, ROUTER, &TO_BACKEND, kind, &whole).fragment(0, true);
            rows.push(("a fragment itself", fragment));
        }
        for (sentence, packet) in rows {
            let frame = packet.build();
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), Verdict::Passed, "{family:?}: {sentence}");
            assert_eq!(outcome.frame, frame, "{sentence}: untouched");
        }
    }
}

#[test]
fn a_quote_cut_anywhere_does_no_harm() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let [quoted, _] = segments(family, &TO_BACKEND, SENT);
        let kind = told(family).0;
        for length in 0..ip_header(family) + 30 {
            let body = quote(&quoted, length);
            let frame = told_by(family, ROUTER, &TO_BACKEND, kind, &body).build();
            let verdict = program.run(&frame).verdict();
            let enough = length >= ip_header(family) + 8;
            let expected = if enough { SENT_ON } else { Verdict::Passed };
            assert_eq!(verdict, expected, "{family:?}: {length} bytes are quoted");
            // As long a header, and a frame that ends before it says.
            for cut in (14..frame.len()).step_by(7) {
                let verdict = program.run(&frame[..cut]).verdict();
                assert_eq!(verdict, Verdict::Passed, "{family:?}: cut to {cut}");
            }
        }
    }
}

#[test]
fn wrong_checksums_stay_exactly_as_wrong() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let icmp_checksum = 14 + ip_header(family) + 2;
        let tcp_checksum = 14 + ip_header(family) + 8 + ip_header(family) + 16;
        for at in [icmp_checksum, tcp_checksum] {
            let right = error_about(family, &TO_BACKEND, SENT, 528);
            let field = u16::from_be_bytes([right[at], right[at + 1]]);
            let wrong = patched(right.clone(), at, &(field ^ 0x5555).to_be_bytes());
            let frames = [&right, &wrong].map(|frame| program.run(frame).frame);
            let differ: Vec<_> = (0..frames[0].len())
                .filter(|&i| frames[0][i] != frames[1][i])
                .collect();
            assert_eq!(differ, [at, at + 1], "{family:?}");
        }
    }
}

#[test]
fn quotes_with_options_and_later_fragments_are_dropped_if_they_are_for_a_service() {
    for (family, extension) in [(Family::V4, 0), (Family::V6, 60)] {
        let (mut program, _) = established(family);
        let kind = told(family).0;
        for (to, ours) in [(VIP_ONE, true), (STRANGER, false)] {
            let packet = || Packet::tcp(to, CLIENT_ONE).over(family).payload(&[1; 64]);
            let with_options = match family {
                Family::V4 => packet().ip_options(&[1; 4]),
                Family::V6 => packet().extension(extension),
            };
            for (quoted, reason) in [
                (with_options, DropReason::IpOptions),
                (packet().fragment(8, false), DropReason::Fragment),
            ] {
                let body = quote(&quoted.build(), 528);
                let frame = message(family, ROUTER, to, kind, MTU, &body).build();
                let expected = if ours {
                    Verdict::Dropped(reason)
                } else {
                    Verdict::Passed
                };
                assert_eq!(program.run(&frame).verdict(), expected, "{family:?}");
            }
        }
    }
    let (mut program, _) = established(Family::V4);
    let first = Packet::tcp(VIP_ONE, CLIENT_ONE).seq(SENT).fragment(0, true);
    let body = quote(&first.payload(&[1; 64]).build(), 528);
    let frame = message(Family::V4, ROUTER, VIP_ONE, (11, 1), MTU, &body).build();
    assert_eq!(
        program.run(&frame).verdict(),
        SENT_ON,
        "a first fragment has the ports"
    );
}

#[test]
fn an_error_leaves_as_the_flows_packets_do() {
    for family in FAMILIES {
        let (mut program, mut pair) = established(family);
        let length = ip_header(family) + 8;
        let frame = error_about(family, &TO_BACKEND, SENT, length);
        // Tagged, and by the interface that it came in on.
        pair.forward.next_hop.vlan = 300;
        pair.forward.next_hop.ifindex = INGRESS;
        program.put(&pair.forward_key, &pair.forward);
        let outcome = program.run(&frame);
        assert_eq!(outcome.verdict(), Verdict::Sent(Action::Tx));
        assert_eq!(verify(&outcome.frame).unwrap().vlan, Some(300));
        // As it was before the network changed.
        pair.forward.next_hop.generation = GENERATION - 1;
        program.put(&pair.forward_key, &pair.forward);
        assert_eq!(program.run(&frame).verdict(), Verdict::Sent(Action::Tx));
        // What only the host can do, and what nobody knows.
        for ifindex in [NextHop::HOST_STACK, 0] {
            pair.forward.next_hop.ifindex = ifindex;
            program.put(&pair.forward_key, &pair.forward);
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), Verdict::HandedToHost);
            assert_eq!(verify(&outcome.frame).unwrap().dst, BACKEND_ONE.ip(family));
        }
        let last = told_by(family, ROUTER, &TO_BACKEND, told(family).0, &[]);
        let last = last
            .payload(&frame[14 + ip_header(family)..])
            .ttl(1)
            .build();
        let expired = Verdict::Dropped(DropReason::TtlExpired);
        assert_eq!(
            program.run(&last).verdict(),
            expired,
            "no error about an error"
        );
    }
}

fn ping(family: Family, to: Host, payload: &[u8]) -> Packet {
    let request = (echo(family).0, 0);
    message(family, CLIENT_ONE, to, request, [0x12, 0x34, 0, 7], payload)
}

#[test]
fn a_ping_of_a_services_address_is_answered() {
    for family in FAMILIES {
        let mut program = Program::load();
        for length in [0, 1, 56, 1400] {
            for vlan in [None, Some(42)] {
                let payload: Vec<_> = (0..length).map(|i| i as u8).collect();
                let packet = ping(family, VIP_ONE, &payload).ttl(3);
                let packet = vlan.map_or(packet.clone(), |id| packet.vlan(id));
                let outcome = program.run(&packet.build());
                assert_eq!(outcome.verdict(), Verdict::Answered);
                let expected = Seen {
                    link: (dispatcher_common::addr::Mac(CLIENT_ONE.mac), DISPATCHER_MAC),
                    vlan,
                    src: VIP_ONE.ip(family),
                    dst: CLIENT_ONE.ip(family),
                    ttl: 64,
                    kind: (echo(family).1, 0),
                    rest: [0x12, 0x34, 0, 7],
                    body: payload,
                };
                assert_eq!(verify(&outcome.frame).unwrap(), expected);
            }
        }
    }
}

#[test]
fn a_ping_that_is_not_a_services_is_left_to_the_host() {
    for family in FAMILIES {
        let mut program = Program::load();
        let mut nobody = CLIENT_ONE;
        nobody.v4 = [224, 0, 0, 1].into();
        nobody.v6 = "ff02::1".parse().unwrap();
        let request = (echo(family).0, 0);
        let everybody = dispatcher_common::addr::Mac([0xff; 6]);
        let from = dispatcher_common::addr::Mac(CLIENT_ONE.mac);
        for (sentence, packet) in [
            ("another address", ping(family, STRANGER, &[1; 56])),
            (
                "from a group",
                message(family, nobody, VIP_ONE, request, [0; 4], &[1; 8]),
            ),
            (
                "to all on the link",
                ping(family, VIP_ONE, &[1; 56]).link(everybody, from),
            ),
        ] {
            let frame = packet.build();
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), Verdict::Passed, "{family:?}: {sentence}");
            assert_eq!(outcome.frame, frame, "{sentence}: untouched");
        }
        // Of IPv6 a fragment does not say at once of what.
        let verdict = match family {
            Family::V4 => Verdict::Passed,
            Family::V6 => Verdict::Dropped(DropReason::Fragment),
        };
        for (offset, more) in [(0, true), (9, false)] {
            let fragment = ping(family, VIP_ONE, &[1; 56]).fragment(offset, more);
            assert_eq!(
                program.run(&fragment.build()).verdict(),
                verdict,
                "{family:?}"
            );
        }
    }
}

/// The notice in `outcome` is one about `packet`, to its sender, from the service.
fn assert_told(outcome: &Outcome, packet: &Packet, family: Family, kind: (u8, u8), mtu: u16) {
    let frame = packet.build();
    let before = verify_tcp(&frame).unwrap();
    let seen = verify(&outcome.frame).unwrap();
    let [high, low] = mtu.to_be_bytes();
    let link = if before.vlan.is_some() { 18 } else { 14 };
    let expected = Seen {
        link: (before.link.1, before.link.0),
        vlan: before.vlan,
        src: VIP_ONE.ip(family),
        dst: before.src.0,
        ttl: 64,
        kind,
        rest: [0, 0, high, low],
        body: frame[link..link + ip_header(family) + 20].to_vec(),
    };
    assert_eq!(seen, expected);
}

#[test]
fn the_sender_of_what_does_not_fit_the_way_out_is_told() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let headers = ip_header(family) + 20;
        for [src, dst] in [[CLIENT_ONE, VIP_ONE], [BACKEND_ONE, CLIENT_ONE]] {
            for vlan in [None, Some(9)] {
                let sized = |bytes: usize| {
                    let packet = Packet::tcp(src, dst).over(family).seq(SENT);
                    let packet = packet.payload(&vec![0x5a; bytes - headers]);
                    vlan.map_or(packet.clone(), |id| packet.vlan(id))
                };
                let outcome = program.run(&sized(1501).build());
                assert_eq!(outcome.verdict(), Verdict::Told(DropReason::TooBig));
                assert_told(&outcome, &sized(1501), family, told(family).0, 1500);
            }
        }
    }
}

#[test]
fn a_way_of_the_hosts_stack_has_an_mtu_too() {
    for family in FAMILIES {
        let (mut program, mut pair) = established(family);
        pair.forward.next_hop = NextHop {
            ifindex: NextHop::HOST_STACK,
            mtu: 1380,
            ..pair.forward.next_hop
        };
        program.put(&pair.forward_key, &pair.forward);
        let packet = Packet::tcp(CLIENT_ONE, VIP_ONE).over(family);
        let packet = packet.payload(&[0x5a; 1400]);
        let outcome = program.run(&packet.build());
        assert_eq!(outcome.verdict(), Verdict::Told(DropReason::TooBig));
        assert_told(&outcome, &packet, family, told(family).0, 1380);
    }
}

#[test]
fn a_sender_that_lets_routers_fragment_is_let_to_where_the_host_can() {
    let (mut program, _) = established(Family::V4);
    // The flags are in the seventh byte, under the header's checksum.
    let without_df = |packet: Packet| {
        let frame = packet.payload(&[0x5a; 1500]).build();
        let checksum = u16::from_be_bytes([frame[24], frame[25]]);
        let frame = patched(frame, 20, &[0, 0]);
        patched(frame, 24, &(checksum + 0x4000).to_be_bytes())
    };
    let outcome = program.run(&without_df(Packet::tcp(CLIENT_ONE, VIP_ONE)));
    assert_eq!(outcome.verdict(), Verdict::HandedToHost);
    let seen = verify_tcp(&outcome.frame).unwrap();
    assert_eq!(
        seen.dst.0,
        BACKEND_ONE.ip(Family::V4),
        "rewritten, to be fragmented"
    );
    let outcome = program.run(&without_df(Packet::tcp(BACKEND_ONE, CLIENT_ONE)));
    let told = Verdict::Told(DropReason::TooBig);
    assert_eq!(
        outcome.verdict(),
        told,
        "the host would not forward its own address"
    );
}

#[test]
fn the_sender_of_what_has_travelled_too_long_is_told() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        for [src, dst] in [[CLIENT_ONE, VIP_ONE], [BACKEND_ONE, CLIENT_ONE]] {
            for ttl in [0, 1] {
                // The shortest that there is: the notice is longer.
                let packet = Packet::tcp(src, dst)
                    .over(family)
                    .ttl(ttl)
                    .flags(TcpFlags::ACK);
                let outcome = program.run(&packet.build());
                assert_eq!(outcome.verdict(), Verdict::Told(DropReason::TtlExpired));
                assert_told(&outcome, &packet, family, told(family).1, 0);
            }
        }
    }
}

#[test]
fn a_request_that_has_travelled_too_long_is_not_queued() {
    for family in FAMILIES {
        let mut program = Program::load();
        let packet = |host| Packet::tcp(CLIENT_ONE, host).over(family).flags(SYN).ttl(1);
        let outcome = program.run(&packet(VIP_ONE).build());
        assert_eq!(outcome.verdict(), Verdict::Told(DropReason::TtlExpired));
        assert_told(&outcome, &packet(VIP_ONE), family, told(family).1, 0);
        let verdict = program.run(&packet(STRANGER).build()).verdict();
        assert_eq!(verdict, Verdict::Passed, "the host tells of its own");
    }
}

/// Seconds of the clock that the program reads.
fn second() -> u32 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    u32::try_from(clock.unwrap().tv_sec()).unwrap()
}

#[test]
fn so_many_are_told_in_a_second_and_what_comes_beyond_is_dropped_without_a_word() {
    for family in FAMILIES {
        let (mut program, _) = established(family);
        let of_client = Packet::tcp(CLIENT_ONE, VIP_ONE).over(family).seq(SENT);
        let too_big = of_client.clone().payload(&[0x5a; 1500]).build();
        let expired = of_client.flags(ACK).ttl(1).build();
        let to_service = Packet::tcp(CLIENT_TWO, VIP_ONE).over(family);
        let request = to_service.flags(SYN).ttl(1).build();
        for (problem, reason, frame) in [
            (Problem::TooBig, DropReason::TooBig, &too_big),
            (Problem::TtlExpired, DropReason::TtlExpired, &expired),
            (Problem::TtlExpired, DropReason::TtlExpired, &request),
        ] {
            let told = Verdict::Told(reason);
            // Once more when another second has begun amid it.
            let seen = loop {
                let begun = second();
                program.set_sent(problem, Sent::of(begun, problem.a_second_max() - 2));
                let outcomes = [(); 4].map(|()| program.run(frame));
                if second() == begun {
                    break outcomes;
                }
            };
            let limited = Verdict::Dropped(DropReason::IcmpLimited);
            let verdicts = seen.each_ref().map(Outcome::verdict);
            assert_eq!(verdicts, [told, told, limited, limited], "{problem:?}");
            assert_eq!(seen[3].frame, *frame, "it is untouched");
            let most = Sent::of(program.sent(problem).second(), problem.a_second_max());
            assert_eq!(program.sent(problem), most, "and counts no further");

            // A second that is over holds nobody up.
            program.set_sent(problem, Sent::of(second() - 1, problem.a_second_max()));
            assert_eq!(program.run(frame).verdict(), told);
            assert!(program.sent(problem).leaves_room(problem));
        }
    }
}

#[test]
fn one_problem_does_not_use_up_what_may_be_told_of_another() {
    let (mut program, _) = established(Family::V4);
    let of_client = Packet::tcp(CLIENT_ONE, VIP_ONE).seq(SENT);
    let too_big = of_client.payload(&[0x5a; 1500]).build();
    for second in [second(), second() + 1] {
        let most = Problem::TtlExpired.a_second_max();
        program.set_sent(Problem::TtlExpired, Sent::of(second, most));
        let outcome = program.run(&too_big);
        assert_eq!(outcome.verdict(), Verdict::Told(DropReason::TooBig));
    }
}
