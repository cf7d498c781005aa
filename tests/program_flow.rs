//! Packets of a flow: what is rewritten, what is not, where they leave, and what is counted.
//!
//! Covers what the kernel's own bench of a load balancer in XDP calls (selftests/bpf, xdp_lb):
//!
//! | they say | we say | why |
//! |---|---|---|
//! | tcp-v4-lru-hit, tcp-v6-lru-hit | sent, rewritten | they encapsulate, this is NAT |
//! | tcp-v4v6-lru-hit | does not apply | they wrap IPv4 in IPv6; a flow here has one family |
//! | tcp-v4-lru-diverse, tcp-v6-lru-diverse | sent, each to its own | many flows, no eviction |

use dispatcher_common::flow::FlowEntry;
use dispatcher_common::link::{Link, NextHop};
use dispatcher_common::tcp::{Phase, Track};
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, BACKEND_TWO, CLIENT_ONE, DISPATCHER_MAC, FAMILIES, Family, Host, Packet, SYN,
    TcpFlags, VIP_ONE, patched, verify,
};
use dispatcher_tests::program::{
    Action, BACKEND, ELSEWHERE, GENERATION, INGRESS, Program, Sizes, TICKS, Verdict, spec, way_to,
};

const REDIRECTED: Verdict = Verdict::Sent(Action::Redirect);

/// A program with the flow of `spec`, its next hops changed by `change`.
fn with_flow(family: Family, change: impl Fn(&mut NextHop)) -> Program {
    let mut program = Program::load();
    add_flow(&mut program, family, change);
    program
}

fn add_flow(program: &mut Program, family: Family, change: impl Fn(&mut NextHop)) {
    let mut spec = spec(family);
    change(&mut spec.to_backend);
    change(&mut spec.to_client);
    program.install(&spec);
}

/// Sender and receiver before, sender and receiver after, and who the frame is handed to.
const FORWARD: [Host; 5] = [CLIENT_ONE, VIP_ONE, CLIENT_ONE, BACKEND_ONE, BACKEND_ONE];
const REPLY: [Host; 5] = [BACKEND_ONE, CLIENT_ONE, VIP_ONE, CLIENT_ONE, CLIENT_ONE];

fn data(family: Family, [src, dst, ..]: [Host; 5]) -> Packet {
    Packet::tcp(src, dst)
        .over(family)
        .flags(ACK.with(TcpFlags::PSH))
        .seq(0xffff_fff0)
        .ack(0x8000_0001)
        .options(&[1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7])
        .payload(b"an odd number of bytes")
}

#[test]
fn both_directions_are_rewritten_under_every_combination_of_tags() {
    for family in FAMILIES {
        for leaves_under in [0, 1, 200, 4094] {
            let mut program = with_flow(family, |hop| hop.vlan = leaves_under);
            for direction in [FORWARD, REPLY] {
                for comes_under in [None, Some((200, 0)), Some((100, 7)), Some((0, 3))] {
                    let mut packet = data(family, direction);
                    if let Some((id, priority)) = comes_under {
                        packet = packet.tag(id, priority);
                    }
                    let sentence = format!("{family:?}, {comes_under:?} to {leaves_under}");
                    let before = verify(&packet.build()).unwrap();
                    let outcome = program.run(&packet.build());
                    assert_eq!(outcome.verdict(), REDIRECTED, "{sentence}");
                    let after = verify(&outcome.frame).expect(&sentence);
                    let [_, _, src, dst, next] = direction;
                    assert_eq!(after.link, (way_to(next).dst, DISPATCHER_MAC), "{sentence}");
                    assert_eq!(after.vlan, Some(leaves_under).filter(|id| *id != 0));
                    assert_eq!(after.src, (src.ip(family), src.port), "{sentence}");
                    assert_eq!(after.dst, (dst.ip(family), dst.port), "{sentence}");
                    assert_eq!((before.ttl, after.ttl), (64, 63), "{sentence}");
                    assert_eq!(after.tcp, before.tcp, "{sentence}: the rest is untouched");
                }
            }
        }
    }
}

#[test]
fn bytes_after_the_packet_stay() {
    let mut program = with_flow(Family::V4, |_| {});
    let mut frame = Packet::tcp(CLIENT_ONE, VIP_ONE).build();
    frame.extend(b"padded");
    let outcome = program.run(&frame);
    assert_eq!(outcome.verdict(), REDIRECTED);
    assert_eq!(&outcome.frame[54..], b"padded");
    assert_eq!(
        program.backend(BACKEND).bytes_in,
        40,
        "padding is no traffic"
    );
}

#[test]
fn a_checksum_that_was_wrong_stays_wrong() {
    let mut program = with_flow(Family::V4, |_| {});
    let frame = Packet::tcp(CLIENT_ONE, VIP_ONE).build();
    let damaged = patched(frame.clone(), 50, &[frame[50] ^ 1]);
    let outcome = program.run(&damaged);
    assert_eq!(outcome.verdict(), REDIRECTED);
    assert!(verify(&outcome.frame).unwrap_err().contains("TCP checksum"));
}

#[test]
fn a_packet_leaves_by_the_interface_of_its_next_hop() {
    let mut program = Program::load();
    for family in FAMILIES {
        for (ifindex, action) in [(INGRESS, Action::Tx), (ELSEWHERE, Action::Redirect)] {
            add_flow(&mut program, family, |hop| hop.ifindex = ifindex);
            for direction in [FORWARD, REPLY] {
                let outcome = program.run(&data(family, direction).build());
                assert_eq!(outcome.verdict(), Verdict::Sent(action), "{ifindex}");
                verify(&outcome.frame).unwrap();
            }
        }
    }
}

#[test]
fn ttl_must_leave_something() {
    let mut program = Program::load();
    for family in FAMILIES {
        add_flow(&mut program, family, |_| {});
        for direction in [FORWARD, REPLY] {
            for ttl in [0, 1] {
                let frame = data(family, direction).ttl(ttl).build();
                let outcome = program.run(&frame);
                let expired = Verdict::Told(DropReason::TtlExpired);
                assert_eq!(outcome.verdict(), expired, "TTL {ttl}");
                let key = data(family, direction).key();
                assert_eq!(program.entry(&key).packets, 0, "it is not traffic");
            }
        }
        let outcome = program.run(&data(family, FORWARD).ttl(2).build());
        assert_eq!(verify(&outcome.frame).unwrap().ttl, 1);
    }
}

/// The frame is rewritten, and its link header is as it came: the host's stack takes it from here.
fn assert_handed_to_host(program: &mut Program, packet: &Packet, direction: [Host; 5]) {
    let frame = packet.build();
    let outcome = program.run(&frame);
    assert_eq!(outcome.verdict(), Verdict::HandedToHost);
    let (before, after) = (verify(&frame).unwrap(), verify(&outcome.frame).unwrap());
    assert_eq!((after.link, after.vlan), (before.link, before.vlan));
    assert_eq!(after.src.1, direction[2].port);
    assert_eq!(after.dst.1, direction[3].port);
    assert_eq!(after.ttl, before.ttl - 1);
}

#[test]
fn what_fits_the_link_exactly_goes_on() {
    let mut program = Program::load();
    for family in FAMILIES {
        let headers = if family == Family::V4 { 40 } else { 60 };
        add_flow(&mut program, family, |_| {});
        for [src, dst, ..] in [FORWARD, REPLY] {
            let payload = vec![0x5a; 1500 - headers];
            let packet = Packet::tcp(src, dst).over(family).vlan(9).payload(&payload);
            assert_eq!(program.run(&packet.build()).verdict(), REDIRECTED);
        }
    }
}

#[test]
fn a_way_that_only_the_host_can_take_is_left_to_it() {
    for family in FAMILIES {
        let mut program = with_flow(family, |hop| hop.ifindex = NextHop::HOST_STACK);
        for direction in [FORWARD, REPLY] {
            assert_handed_to_host(&mut program, &data(family, direction), direction);
        }
    }
}

#[test]
fn nothing_known_and_nothing_found_is_left_to_the_host() {
    for family in FAMILIES {
        let mut program = with_flow(family, |hop| *hop = NextHop::UNKNOWN);
        for direction in [FORWARD, REPLY] {
            assert_handed_to_host(&mut program, &data(family, direction), direction);
            let entry = program.entry(&data(family, direction).key());
            assert_eq!(
                entry.next_hop,
                NextHop::UNKNOWN,
                "so the next packet asks again"
            );
        }
    }
}

#[test]
fn a_changed_network_that_knows_no_better_leaves_the_known_way() {
    for family in FAMILIES {
        let mut program = with_flow(family, |_| {});
        program.link(ELSEWHERE, 0, 0);
        program.control(|control| control.network_generation = GENERATION + 1);
        for direction in [FORWARD, REPLY] {
            let outcome = program.run(&data(family, direction).build());
            assert_eq!(outcome.verdict(), REDIRECTED);
            let kept = NextHop {
                generation: GENERATION + 1,
                ..way_to(direction[4])
            };
            let entry = program.entry(&data(family, direction).key());
            assert_eq!(entry.next_hop, kept, "and it is current again");
        }
    }
}

#[test]
fn a_known_way_by_an_interface_that_was_made_anew_leaves_by_the_new_one() {
    for family in FAMILIES {
        let mut program = with_flow(family, |_| {});
        let moved = Link {
            device: INGRESS,
            vlan: 0,
            xsk_base: Link::NO_SOCKET,
            xsk_queues: 0,
        };
        program.links.insert(ELSEWHERE, moved, 0).unwrap();
        program.control(|control| control.network_generation = GENERATION + 1);
        for direction in [FORWARD, REPLY] {
            let outcome = program.run(&data(family, direction).build());
            assert_eq!(outcome.verdict(), Verdict::Sent(Action::Tx));
            let moved = NextHop {
                ifindex: INGRESS,
                generation: GENERATION + 1,
                ..way_to(direction[4])
            };
            let entry = program.entry(&data(family, direction).key());
            assert_eq!(entry.next_hop, moved);
        }
    }
}

#[test]
fn a_known_way_by_an_interface_that_is_gone_is_the_hosts_to_find() {
    for family in FAMILIES {
        let mut program = with_flow(family, |_| {});
        program.control(|control| control.network_generation = GENERATION + 1);
        for direction in [FORWARD, REPLY] {
            assert_handed_to_host(&mut program, &data(family, direction), direction);
            let entry = program.entry(&data(family, direction).key());
            assert_eq!(
                entry.next_hop,
                way_to(direction[4]),
                "the next packet asks again"
            );
        }
    }
}

mod routed {
    //! With routes and neighbours of its own: what the program learns of them.

    use dispatcher_common::addr::Mac;
    use dispatcher_tests::program::ip;

    use super::*;

    const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0xee]);
    const OWN_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0xaa]);

    /// A program beside a device `way` with routes to everyone through permanent neighbours;
    /// frames of the flow know no next hop yet. Gives the device's index.
    fn with_routes(mtu: u16) -> (Program, u32) {
        let program = Program::load();
        ip("link add way type veth peer name far");
        ip(&format!(
            "link set way mtu {mtu} address 02:00:00:00:00:aa up"
        ));
        ip("link set far up");
        ip("addr add 10.0.0.1/24 dev way");
        ip("addr add 2001:db8:b::1/64 dev way nodad");
        ip("route add default via 10.0.0.254");
        ip("route add default via 2001:db8:b::fe dev way");
        for neighbour in [
            "10.0.0.254",
            "10.0.0.11",
            "2001:db8:b::fe",
            "2001:db8:b::11",
        ] {
            let entry = format!("neigh add {neighbour} lladdr 02:00:00:00:00:ee dev way");
            ip(&format!("{entry} nud permanent"));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let ifindex = nix::net::if_::if_nametoindex("way").unwrap();
        (program, ifindex)
    }

    fn learned(program: &mut Program, family: Family, direction: [Host; 5]) -> (Verdict, NextHop) {
        let frame = data(family, direction).build();
        let outcome = program.run(&frame);
        verify(&outcome.frame).unwrap();
        let entry = program.entry(&data(family, direction).key());
        (outcome.verdict(), entry.next_hop)
    }

    #[test]
    fn the_first_packet_asks_and_the_others_know() {
        let (mut program, way) = with_routes(1400);
        program.link(way, 0, 0);
        for family in FAMILIES {
            add_flow(&mut program, family, |hop| *hop = NextHop::UNKNOWN);
            let hop = NextHop {
                ifindex: way,
                generation: GENERATION,
                dst: GATEWAY_MAC,
                src: OWN_MAC,
                vlan: 0,
                mtu: 1400,
            };
            for direction in [FORWARD, REPLY] {
                let first = learned(&mut program, family, direction);
                assert_eq!(first, (REDIRECTED, hop), "{family:?}");
            }
        }
        ip("link del way");
        for family in FAMILIES {
            for direction in [FORWARD, REPLY] {
                let (verdict, _) = learned(&mut program, family, direction);
                assert_eq!(verdict, REDIRECTED, "no further question is asked");
            }
        }
    }

    #[test]
    fn a_vlan_interface_is_its_device_and_its_tag() {
        let (mut program, way) = with_routes(1500);
        let link = Link {
            device: INGRESS,
            vlan: 300,
            xsk_base: Link::NO_SOCKET,
            xsk_queues: 0,
        };
        program.links.insert(way, link, 0).unwrap();
        for family in FAMILIES {
            add_flow(&mut program, family, |hop| *hop = NextHop::UNKNOWN);
            let outcome = program.run(&data(family, FORWARD).build());
            let sent = Verdict::Sent(Action::Tx);
            assert_eq!(outcome.verdict(), sent, "the device is where it came in");
            let seen = verify(&outcome.frame).unwrap();
            assert_eq!((seen.link, seen.vlan), ((GATEWAY_MAC, OWN_MAC), Some(300)));
        }
    }

    #[test]
    fn a_device_that_nobody_told_of_is_left_to_the_host() {
        let (mut program, _) = with_routes(1500);
        for family in FAMILIES {
            add_flow(&mut program, family, |hop| *hop = NextHop::UNKNOWN);
            let (verdict, hop) = learned(&mut program, family, FORWARD);
            assert_eq!(verdict, Verdict::HandedToHost);
            assert_eq!(
                (hop.ifindex, hop.generation),
                (NextHop::HOST_STACK, GENERATION)
            );
        }
    }

    #[test]
    fn a_new_generation_replaces_the_way() {
        let (mut program, way) = with_routes(1500);
        program.link(way, 0, 0);
        for family in FAMILIES {
            add_flow(&mut program, family, |_| {});
            let (_, before) = learned(&mut program, family, FORWARD);
            assert_eq!(before, way_to(BACKEND_ONE));
            program.control(|control| control.network_generation = GENERATION + 1);
            let (verdict, after) = learned(&mut program, family, FORWARD);
            assert_eq!(verdict, REDIRECTED);
            assert_eq!((after.ifindex, after.dst), (way, GATEWAY_MAC));
            assert_eq!(after.generation, GENERATION + 1);
            program.control(|_| {});
        }
    }

    #[test]
    fn a_route_that_refuses_is_unreachable() {
        let (mut program, way) = with_routes(1500);
        program.link(way, 0, 0);
        for (kind, n) in [("blackhole", 1), ("unreachable", 2), ("prohibit", 3)] {
            ip(&format!("route replace {kind} 10.0.0.11/32"));
            ip(&format!(
                "-6 route replace {kind} 2001:db8:b::11/128 metric {n}"
            ));
            for family in FAMILIES {
                add_flow(&mut program, family, |hop| hop.generation = 0);
                let (verdict, hop) = learned(&mut program, family, FORWARD);
                let refused = Verdict::Dropped(DropReason::Unreachable);
                assert_eq!(verdict, refused, "{kind}, {family:?}");
                assert_eq!(hop.generation, 0, "{kind}: the next packet asks again");
            }
        }
    }

    #[test]
    fn a_neighbour_that_is_not_known_yet_is_the_hosts_to_find() {
        let (mut program, way) = with_routes(1500);
        program.link(way, 0, 0);
        ip("neigh del 10.0.0.11 dev way");
        add_flow(&mut program, Family::V4, |hop| *hop = NextHop::UNKNOWN);
        let (verdict, hop) = learned(&mut program, Family::V4, FORWARD);
        assert_eq!((verdict, hop), (Verdict::HandedToHost, NextHop::UNKNOWN));
        ip("neigh add 10.0.0.11 lladdr 02:00:00:00:00:ee dev way nud permanent");
        let (verdict, _) = learned(&mut program, Family::V4, FORWARD);
        assert_eq!(verdict, REDIRECTED);
    }
}

#[test]
fn packets_and_bytes_are_counted_for_the_flow_and_for_the_back_end() {
    let mut program = Program::load();
    for (family, each) in FAMILIES.into_iter().zip([74, 94]) {
        add_flow(&mut program, family, |_| {});
        let was = program.backend(BACKEND);
        let (forward, reply) = (data(family, FORWARD), data(family, REPLY));
        for _ in 0..3 {
            program.run(&forward.build());
        }
        program.run(&reply.vlan(8).build());
        let entry = program.entry(&forward.key());
        assert_eq!((entry.packets, entry.bytes), (3, 3 * each));
        let entry = program.entry(&data(family, REPLY).key());
        assert_eq!(
            (entry.packets, entry.bytes),
            (1, each),
            "a tag does not count"
        );
        let now = program.backend(BACKEND);
        assert_eq!(now.packets_in - was.packets_in, 3);
        assert_eq!(now.bytes_in - was.bytes_in, 3 * each);
        assert_eq!(now.packets_out - was.packets_out, 1);
        assert_eq!(now.bytes_out - was.bytes_out, each);
    }
    assert_eq!(program.backend(BACKEND + 1), Default::default());
}

#[test]
fn each_direction_is_stamped_with_the_tick_of_its_last_packet() {
    let mut program = with_flow(Family::V4, |_| {});
    let (forward, reply) = (data(Family::V4, FORWARD), data(Family::V4, REPLY));
    for packet in [&forward, &reply] {
        let established = FlowEntry {
            phase: Phase::ANSWERED.with(Phase::ESTABLISHED).0,
            track: Track {
                seq_end: 0xffff_fff0,
                ack: 0x8000_0001,
                fin_end: 0,
            },
            ..program.entry(&packet.key())
        };
        program.put(&packet.key(), &established);
    }
    let seen =
        |program: &Program| [&forward, &reply].map(|packet| program.entry(&packet.key()).last_seen);
    assert_eq!(seen(&program), [TICKS, TICKS], "as installed");
    program.control(|control| control.ticks = TICKS + 5);
    program.run(&forward.build());
    assert_eq!(seen(&program), [TICKS + 5, TICKS]);
    program.control(|control| control.ticks = 2);
    program.run(&reply.build());
    assert_eq!(seen(&program), [TICKS + 5, 2], "ticks may wrap");
}

#[test]
fn many_flows_each_go_to_their_own_back_end_and_none_is_evicted() {
    let mut program = Program::of(Sizes {
        flows: 1024,
        ..Sizes::default()
    });
    let flow = |n: u16| {
        (
            CLIENT_ONE.at(10_000 + n),
            [BACKEND_ONE, BACKEND_TWO][n as usize % 2],
        )
    };
    let install = |program: &mut Program, n: u16| {
        let family = FAMILIES[usize::from(n / 2) % 2];
        let (client, backend) = flow(n);
        let mut spec = spec(family);
        spec.key = Packet::tcp(client, VIP_ONE).over(family).key();
        (spec.backend_addr, spec.backend_port) = (backend.addr(family), backend.key_port());
        let pair = dispatcher_common::flow::FlowPair::new(&spec);
        program.flows.insert(pair.forward_key, pair.forward, 0)?;
        program.flows.insert(pair.reply_key, pair.reply, 0)
    };
    for n in 0..512 {
        install(&mut program, n).unwrap();
    }
    assert!(install(&mut program, 512).is_err(), "a full table refuses");
    for n in 0..512 {
        let family = FAMILIES[usize::from(n / 2) % 2];
        let (client, backend) = flow(n);
        let there = program.run(&Packet::tcp(client, VIP_ONE).over(family).build());
        let seen = verify(&there.frame).unwrap();
        assert_eq!(seen.dst, (backend.ip(family), backend.port));
        let back = program.run(&Packet::tcp(backend, client).over(family).build());
        let seen = verify(&back.frame).unwrap();
        assert_eq!(seen.src, (VIP_ONE.ip(family), VIP_ONE.port));
        assert_eq!(seen.dst, (client.ip(family), client.port));
    }
}

#[test]
fn a_flow_goes_on_when_its_service_is_gone() {
    let mut program = with_flow(Family::V4, |_| {});
    let keys: Vec<_> = program.services.keys().map(Result::unwrap).collect();
    for key in keys {
        program.services.remove(&key).unwrap();
    }
    let verdict = program.run(&data(Family::V4, FORWARD).build()).verdict();
    assert_eq!(verdict, REDIRECTED);
    let request = Packet::tcp(CLIENT_ONE.at(1), VIP_ONE).flags(SYN).build();
    assert_eq!(program.run(&request).verdict(), Verdict::Passed);
}
