//! The kernel's program and the host's code, given the same frame, make the same bytes of it and
//! the same verdict: one parser and one rewrite, compiled twice.

use std::collections::HashMap;

use dispatcher_common::addr::{Addr, Mac, Port};
use dispatcher_common::flow::{Direction, FlowEntry, FlowKey, FlowPair};
use dispatcher_common::header::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TcpFlags};
use dispatcher_common::icmp::{self, IcmpError, Kind};
use dispatcher_common::link::{NextHop, turn_round};
use dispatcher_common::notice::{self, Problem, Sent};
use dispatcher_common::parse::{Unparsable, link_header, parse};
use dispatcher_common::service::{Service, ServiceKey};
use dispatcher_common::tcp::{self, Phase};
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::icmp::{self as icmp_harness, message, quote};
use dispatcher_tests::packet::{
    BACKEND_ONE, BACKEND_TWO, CLIENT_ONE, CLIENT_TWO, FAMILIES, Family, Host, Packet, STRANGER,
    VIP_ONE, VIP_TWO, verify,
};
use dispatcher_tests::program::{
    Action, CLIENT_ISN, GENERATION, INGRESS, Program, Sizes, Verdict, spec, way_to,
};
use proptest::strategy::{Just, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{collection, option, prelude::any, prop_oneof, sample};

const FRAMES: usize = 30_000;
const FLOWS: usize = 32;
const HOSTS: [Host; 7] = [
    CLIENT_ONE,
    CLIENT_TWO,
    VIP_ONE,
    VIP_TWO,
    BACKEND_ONE,
    BACKEND_TWO,
    STRANGER,
];

/// What the host says of a frame, in place; it knows the same flows and services.
struct Model {
    flows: HashMap<FlowKey, FlowEntry>,
    services: HashMap<ServiceKey, Service>,
}

impl Model {
    fn judge(&self, frame: &mut Vec<u8>) -> Verdict {
        let segment = match parse(&frame[..]) {
            Ok(segment) => segment,
            Err(error) => {
                let reason = match error.why {
                    Unparsable::NotTcp => return self.judge_icmp(frame).unwrap_or(Verdict::Passed),
                    Unparsable::Fragment => DropReason::Fragment,
                    Unparsable::IpOptions => DropReason::IpOptions,
                    Unparsable::Malformed => DropReason::Malformed,
                };
                let ours = self.services.contains_key(&ServiceKey::any_port(error.dst));
                return if ours {
                    Verdict::Dropped(reason)
                } else {
                    Verdict::Passed
                };
            }
        };
        let Some(entry) = self.flows.get(&segment.key) else {
            let verdict = self.judge_without_flow(&segment.key, segment.tcp.flags);
            if verdict == Verdict::Dropped(DropReason::Unattended) && segment.ttl <= 1 {
                tell(frame, &segment.key.dst, Problem::TtlExpired, 0);
                return Verdict::Told(DropReason::TtlExpired);
            }
            return verdict;
        };
        let forward = entry.translation.direction() == Direction::Forward;
        let service = if forward {
            segment.key.dst
        } else {
            entry.translation.addr
        };
        if segment.ttl <= 1 {
            tell(frame, &service, Problem::TtlExpired, 0);
            return Verdict::Told(DropReason::TtlExpired);
        }
        let hop = entry.next_hop;
        let may_be_cut = forward && segment.is_v4 && frame[segment.ip_offset() + 6] & 0x40 == 0;
        if segment.ip_len > hop.mtu && !may_be_cut {
            tell(frame, &service, Problem::TooBig, hop.mtu);
            return Verdict::Told(DropReason::TooBig);
        }
        entry.translation.apply(&mut frame[..], &segment).unwrap();
        send(
            frame,
            segment.ip_offset(),
            segment.ethertype(),
            segment.ip_len,
            &hop,
        )
    }

    /// Nothing of what is left to the host's stack.
    fn judge_icmp(&self, frame: &mut Vec<u8>) -> Option<Verdict> {
        let link = link_header(&frame[..])?;
        let is_v4 = match link.ethertype {
            ETHERTYPE_IPV4 => true,
            ETHERTYPE_IPV6 => false,
            _ => return None,
        };
        let to_group = frame[0] & 1 != 0;
        let packet = &mut frame[link.len..];
        let kind = if is_v4 {
            icmp::kind_v4(packet)
        } else {
            icmp::kind_v6(packet)
        }?;
        let dst = icmp::destination(packet, is_v4).unwrap();
        let ours = self.services.contains_key(&ServiceKey::any_port(dst));
        match kind {
            Kind::QuotesOptions => return ours.then_some(Verdict::Dropped(DropReason::IpOptions)),
            Kind::QuotesFragment => return ours.then_some(Verdict::Dropped(DropReason::Fragment)),
            Kind::EchoRequest if !ours || to_group => return None,
            Kind::EchoRequest => {
                icmp::answer(packet, is_v4).unwrap();
                turn_round(&mut frame[..]).unwrap();
                return Some(Verdict::Answered);
            }
            Kind::Error => {}
        }
        let key = icmp::key_of_answers(packet, is_v4).unwrap();
        let Some(entry) = self.flows.get(&key) else {
            return self
                .is_service(&key)
                .then_some(Verdict::Dropped(DropReason::NoFlow));
        };
        let error = IcmpError::read(packet, is_v4).unwrap();
        let direction = entry.translation.direction();
        let other = self.flows[&key.of_peer(&entry.translation)];
        // Nothing of what is sent here answers a SYN.
        let quoted = direction.reversed();
        if !tcp::is_under_way(Phase(0), quoted, error.seq, other.track, entry.track) {
            return Some(Verdict::Dropped(DropReason::IcmpOutOfWindow));
        }
        if error.ttl <= 1 {
            return Some(Verdict::Dropped(DropReason::TtlExpired));
        }
        icmp::translate(packet, &error, &entry.translation).unwrap();
        Some(send(
            frame,
            link.len,
            link.ethertype,
            error.ip_len,
            &entry.next_hop,
        ))
    }

    fn is_service(&self, key: &FlowKey) -> bool {
        let service = self.services.get(&ServiceKey::new(key.dst, key.dst_port));
        service.is_some_and(|service| service.index != Service::ADDRESS_ONLY)
    }

    fn judge_without_flow(&self, key: &FlowKey, flags: TcpFlags) -> Verdict {
        if !self.is_service(key) {
            return Verdict::Passed;
        }
        Verdict::Dropped(match flags {
            flags if flags.is_connection_request() => DropReason::Unattended,
            flags if flags.any(TcpFlags::SYN) && flags.any(TcpFlags::FIN.with(TcpFlags::RST)) => {
                DropReason::Malformed
            }
            _ => DropReason::NoFlow,
        })
    }
}

/// Puts the way's link header on, if the packet fits the way.
fn send(
    frame: &mut Vec<u8>,
    ip_offset: usize,
    ethertype: u16,
    ip_len: u16,
    hop: &NextHop,
) -> Verdict {
    if ip_len > hop.mtu {
        return Verdict::HandedToHost;
    }
    frame.splice(..ip_offset, vec![0; hop.header_len()]);
    hop.write_header(&mut frame[..], ethertype).unwrap();
    Verdict::Sent(if hop.ifindex == INGRESS {
        Action::Tx
    } else {
        Action::Redirect
    })
}

/// Makes the frame a notice to its sender.
fn tell(frame: &mut Vec<u8>, service: &Addr, problem: Problem, mtu: u16) {
    let link = link_header(&frame[..]).unwrap();
    let is_v4 = link.ethertype == ETHERTYPE_IPV4;
    let back = NextHop {
        dst: Mac(frame[6..12].try_into().unwrap()),
        src: Mac(frame[..6].try_into().unwrap()),
        vlan: link.vlan,
        ..NextHop::UNKNOWN
    };
    frame.truncate(link.len + notice::quote_len(is_v4));
    let headers = vec![0; back.header_len() + notice::headers_len(is_v4)];
    frame.splice(..link.len, headers);
    back.write_header(&mut frame[..], link.ethertype).unwrap();
    let packet = &mut frame[back.header_len()..];
    notice::write(packet, is_v4, service, problem, mtu).unwrap();
}

/// Flows between some ports, each with a next hop of its own kind.
fn flows(run: &mut TestRunner) -> Vec<FlowPair> {
    let shape = (
        any::<[u8; 16]>(),
        any::<u16>(),
        sample::select(vec![0, 0, 1, 7, 4094]),
    );
    let flow = |n: usize, (address, port, vlan): ([u8; 16], u16, u16)| {
        let family = FAMILIES[n % 2];
        let mut spec = spec(family);
        let client = CLIENT_ONE.at(n as u16);
        spec.key = Packet::tcp(client, VIP_ONE).over(family).key();
        spec.backend_addr = match family {
            Family::V4 => {
                let [a, b, c, d, ..] = address;
                Addr::from_v4_bytes([a, b, c, d])
            }
            Family::V6 => Addr::from_v6_bytes(address),
        };
        spec.backend_port = Port::new(port);
        let ifindex = if n.is_multiple_of(3) { INGRESS } else { 99 };
        let hop = |host| NextHop {
            vlan,
            ifindex,
            mtu: 110,
            ..way_to(host)
        };
        (spec.to_backend, spec.to_client) = (hop(BACKEND_ONE), hop(client));
        FlowPair::new(&spec)
    };
    (0..FLOWS)
        .map(|n| flow(n, shape.new_tree(run).unwrap().current()))
        .collect()
}

/// Well-formed frames, most of a flow.
fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let who = (
        sample::select(&HOSTS[..]),
        sample::select(&HOSTS[..]),
        0..64u16,
        0..4u8,
    );
    let link = option::of((0..4095u16, 0..8u8));
    let tcp = (any::<u8>(), any::<u32>(), any::<u32>(), 0..=10usize);
    let body = (
        collection::vec(any::<u8>(), 0..64),
        prop_oneof![0..3u8, any::<u8>()],
        0..8u8,
    );
    (who, link, tcp, body, any::<bool>()).prop_map(|(who, link, tcp, body, v6)| {
        let (src, dst, port, of_flow) = who;
        let (src, dst) = if of_flow > 0 {
            (CLIENT_ONE.at(port), VIP_ONE)
        } else {
            (src, dst)
        };
        let (flags, seq, ack, words) = tcp;
        let (payload, ttl, shape) = body;
        let mut packet = Packet::tcp(src, dst)
            .over(FAMILIES[usize::from(if of_flow > 1 { port % 2 == 1 } else { v6 })])
            .flags(TcpFlags(flags))
            .seq(seq)
            .ack(ack)
            .options(&vec![1; 4 * words])
            .payload(&payload)
            .ttl(ttl);
        if let Some((id, priority)) = link {
            packet = packet.tag(id, priority);
        }
        match shape {
            0 => packet.fragment(u16::from(ttl), flags & 1 == 0),
            1 => packet.ip_options(&vec![1; 4 * words]).extension(flags),
            _ => packet,
        }
        .build()
    })
}

/// Replies of generated back-ends are built from the flow itself.
fn reply(pair: &FlowPair, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (pair.reply_key.src, pair.reply_key.dst);
    let from = host(src, pair.reply_key.src_port.number());
    let to = CLIENT_ONE.at(pair.reply_key.dst_port.number());
    let family = FAMILIES[usize::from(!dst.is_v4())];
    Packet::tcp(from, to).over(family).payload(payload).build()
}

/// ICMP messages with right checksums: pings, and errors about segments of flows or of none.
fn messages(pairs: &[FlowPair]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.forward_key, pair.reply_key))
        .collect();
    let about = (
        sample::select(pairs),
        0..3u8,
        any::<bool>(),
        prop_oneof![
            6 => Just(CLIENT_ISN),
            1 => any::<u32>(),
        ],
    );
    let kinds = prop_oneof![6 => 1..13u8, 1 => Just(8), 1 => Just(128), 1 => any::<u8>()];
    let shape = (
        any::<[u8; 4]>(),
        0..80usize,
        prop_oneof![4 => 2..65u8, 1 => 0..2u8],
        0..12u8,
    );
    let link = option::of((0..4095u16, 0..8u8));
    (about, kinds, shape, link).prop_map(|(about, kind, shape, link)| {
        let ((forward, reply), source, upwards, seq) = about;
        let (rest, length, ttl, oddity) = shape;
        // About what the client sent, as it left for the back-end; or about a reply of the service.
        let quoted = if upwards {
            reply.reversed()
        } else {
            forward.reversed()
        };
        let family = FAMILIES[usize::from(!quoted.src.is_v4())];
        let [from, to] = [(quoted.src, quoted.src_port), (quoted.dst, quoted.dst_port)]
            .map(|(addr, port)| host(addr, port.number()));
        let mut segment = Packet::tcp(from, to)
            .over(family)
            .seq(seq)
            .payload(&[7; 60]);
        match oddity {
            0 => segment = segment.fragment(u16::from(ttl), true),
            1 => segment = segment.ip_options(&[1; 8]).extension(ttl),
            2 => segment = segment.extension(60),
            _ => {}
        }
        let header = icmp_harness::ip_header(family);
        let body = quote(&segment.build(), header + length);
        let src = [STRANGER, to, CLIENT_ONE][usize::from(source)];
        let dst = if oddity == 3 { VIP_ONE } else { from };
        let packet = message(family, src, dst, (kind, 0), rest, &body).ttl(ttl);
        match link {
            Some((id, priority)) => packet.tag(id, priority).build(),
            None => packet.build(),
        }
    })
}

fn host(addr: Addr, port: u16) -> Host {
    let mut host = BACKEND_ONE.at(port);
    match addr.ip() {
        std::net::IpAddr::V4(v4) => host.v4 = v4,
        std::net::IpAddr::V6(v6) => host.v6 = v6,
    }
    host
}

/// Some bytes changed, cut or added.
fn damaged(frame: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = collection::vec((0..80usize, any::<u8>()), 0..4);
    (frame, changes, option::of(14..100usize)).prop_map(|(mut frame, changes, length)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(length) = length {
            frame.resize(length, 0xa5);
        }
        frame
    })
}

/// Bits turned over, most of them where headers say how long they are.
fn flipped(frame: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let anywhere = 0..600usize;
    // Ethernet type; version and length, total length, fragment; payload length, next header; and
    // where TCP's own length is, over IPv4 and IPv6.
    let lengths = sample::select(vec![12, 13, 14, 16, 17, 18, 19, 20, 21, 46, 66]);
    let bit = prop_oneof![
        anywhere,
        (lengths, 0..8usize).prop_map(|(byte, bit)| 8 * byte + bit)
    ];
    (frame, collection::vec(bit, 1..4)).prop_map(|(mut frame, bits)| {
        for bit in bits {
            if let Some(place) = frame.get_mut(bit / 8) {
                *place ^= 1 << (bit % 8);
            }
        }
        frame
    })
}

/// The beginning of one, and the end of another.
fn spliced(
    frame: impl Strategy<Value = Vec<u8>>,
    other: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    (frame, other, 14..80usize, 0..80usize).prop_map(|(mut frame, other, at, from)| {
        frame.truncate(at);
        frame.extend_from_slice(other.get(from..).unwrap_or_default());
        frame.resize(frame.len().max(14), 0);
        frame
    })
}

/// Frames that a fuzzer found worth keeping: for the parser; and for rewrite and ICMP, whose first
/// 18 bytes are no frame.
fn of_corpus() -> Vec<Vec<u8>> {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("hostile/corpus");
    let frames = [("parse", 0), ("rewrite", 18), ("icmp", 18)]
        .into_iter()
        .flat_map(|(target, skip)| {
            let inputs = std::fs::read_dir(corpus.join(target)).unwrap();
            inputs.map(move |input| {
                let bytes = std::fs::read(input.unwrap().path()).unwrap();
                bytes.get(skip..).unwrap_or_default().to_vec()
            })
        });
    let mut frames: Vec<_> = frames.filter(|frame| frame.len() >= 14).collect();
    frames.sort();
    frames
}

#[test]
fn kernel_and_host_agree_on_every_frame() {
    let mut run = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, b"a dispatcher, tested twice over."),
    );
    let mut program = Program::of(Sizes {
        flows: 4 * FLOWS as u32,
        ..Sizes::default()
    });
    let pairs = flows(&mut run);
    let mut model = Model {
        flows: HashMap::new(),
        services: HashMap::new(),
    };
    for pair in &pairs {
        for (key, entry) in [
            (pair.forward_key, pair.forward),
            (pair.reply_key, pair.reply),
        ] {
            assert_eq!(entry.next_hop.generation, GENERATION);
            program.put(&key, &entry);
            model.flows.insert(key, entry);
        }
    }
    model
        .services
        .extend(program.services.iter().map(Result::unwrap));

    let replies: Vec<_> = (0..FLOWS * 3)
        .map(|n| reply(&pairs[n / 3], &vec![n as u8; n]))
        .collect();
    let kept = of_corpus();
    assert!(kept.len() >= 20, "only {} frames in the corpus", kept.len());
    let frames = prop_oneof![
        2 => flipped(well_formed()),
        1 => flipped(sample::select(replies.clone())),
        1 => spliced(well_formed(), well_formed()),
        1 => spliced(well_formed(), sample::select(replies.clone())),
        1 => sample::select(kept.clone()),
        1 => flipped(sample::select(kept)),
        8 => messages(&pairs),
        1 => damaged(messages(&pairs)),
        4 => well_formed(),
        2 => sample::select(replies.clone()),
        3 => damaged(well_formed()),
        1 => damaged(sample::select(replies)),
        1 => collection::vec(any::<u8>(), 14..200),
    ];
    let mut verdicts: HashMap<String, usize> = HashMap::new();
    for n in 0..FRAMES {
        let frame = frames.new_tree(&mut run).unwrap().current();
        let mut expected = frame.clone();
        let verdict = model.judge(&mut expected);
        // All of them within one second would be more than are told of.
        for problem in [Problem::TooBig, Problem::TtlExpired] {
            program.set_sent(problem, Sent::of(0, 0));
        }
        let outcome = program.run(&frame);
        assert_eq!(outcome.verdict(), verdict, "frame {n}: {frame:02x?}");
        assert_eq!(outcome.frame, expected, "frame {n}: {frame:02x?}");
        let is_right = |frame: &[u8]| {
            verify(frame).map(drop).or_else(|tcp| {
                let icmp = icmp_harness::verify(frame).map(drop);
                icmp.map_err(|icmp| format!("{tcp}; {icmp}"))
            })
        };
        if is_right(&frame).is_ok() {
            is_right(&outcome.frame).unwrap_or_else(|error| panic!("frame {n}: {error}"));
        }
        *verdicts.entry(format!("{verdict:?}")).or_default() += 1;
        program.events();
        restore(&mut program, &model, &frame);
    }
    for verdict in EVERY_VERDICT {
        let count = verdicts.get(verdict).copied().unwrap_or_default();
        assert!(
            count >= 50,
            "{verdict} came up {count} times only: {verdicts:?}"
        );
    }
}

const EVERY_VERDICT: [&str; 14] = [
    "Passed",
    "HandedToHost",
    "Sent(Tx)",
    "Sent(Redirect)",
    "Dropped(NoFlow)",
    "Dropped(Fragment)",
    "Dropped(IpOptions)",
    "Dropped(Malformed)",
    "Dropped(TtlExpired)",
    "Dropped(IcmpOutOfWindow)",
    "Told(TtlExpired)",
    "Told(TooBig)",
    "Answered",
    "Dropped(Unattended)",
];

/// Puts a flow's entries back as they were when the frame may have ended it.
fn restore(program: &mut Program, model: &Model, frame: &[u8]) {
    let Ok(segment) = parse(frame) else {
        return;
    };
    if !segment
        .tcp
        .flags
        .any(TcpFlags::RST.with(TcpFlags::FIN).with(TcpFlags::SYN))
    {
        return;
    }
    if let Some(entry) = model.flows.get(&segment.key) {
        let peer = segment.key.of_peer(&entry.translation);
        program.put(&segment.key, entry);
        program.put(&peer, &model.flows[&peer]);
    }
}
