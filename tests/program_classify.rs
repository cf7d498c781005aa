//! Segments without a flow: is it for a service, and is it a connection request?
//!
//! Covers what the kernel's own bench of a load balancer in XDP calls (selftests/bpf, xdp_lb):
//!
//! | they say | we say | why |
//! |---|---|---|
//! | tcp-v4-ch, tcp-v6-ch | punt | they hash it to a back-end; here user space admits |
//! | tcp-v4-ch-diverse, tcp-v6-ch-diverse | punt | from many sources: no state |
//! | tcp-v4-syn | punt | a SYN is a connection request |
//! | tcp-v4-rst-miss | drop `no_flow` | nothing to reset |
//! | tcp-v4-lru-miss | drop `no_flow` | a segment of no connection; they pick a back-end for it |
//! | tcp-v4-lru-warmup | punt, then sent | entries come from user space |
//! | pass-v4-no-vip, pass-v6-no-vip | pass | not ours |

use dispatcher_common::control::UNATTENDED_PASS;
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{
    ACK, CLIENT_ONE, CLIENT_TWO, ECN, FAMILIES, FIN_ACK, Packet, RST, RST_ACK, STRANGER, SYN,
    SYN_ACK, TcpFlags, VIP_ONE, VIP_TWO,
};
use dispatcher_tests::program::{Action, INGRESS, Program, PuntSocket, Verdict, spec};

const NO_FLOW: Verdict = Verdict::Dropped(DropReason::NoFlow);
const MALFORMED: Verdict = Verdict::Dropped(DropReason::Malformed);

/// A program with a socket on the queue that frames come in on.
fn attended() -> (Program, PuntSocket) {
    let mut program = Program::load();
    let socket = PuntSocket::open();
    program.attend(0, &socket);
    program.link(INGRESS, 0, 1);
    (program, socket)
}

#[test]
fn the_flags_decide_what_a_segment_to_a_service_is() {
    let (mut program, _socket) = attended();
    let fin = TcpFlags::FIN;
    let rows = [
        ("SYN", SYN, Verdict::Punted),
        ("SYN that asks for ECN", SYN.with(ECN), Verdict::Punted),
        ("SYN with PSH", SYN.with(TcpFlags::PSH), Verdict::Punted),
        ("SYN and FIN", SYN.with(fin), MALFORMED),
        ("SYN and RST", SYN.with(RST), MALFORMED),
        ("SYN, FIN and ACK", SYN_ACK.with(fin), MALFORMED),
        ("every flag at once", TcpFlags(0xff), MALFORMED),
        ("SYN and ACK", SYN_ACK, NO_FLOW),
        ("ACK", ACK, NO_FLOW),
        ("data", ACK.with(TcpFlags::PSH), NO_FLOW),
        ("FIN", fin, NO_FLOW),
        ("FIN and ACK", FIN_ACK, NO_FLOW),
        ("RST", RST, NO_FLOW),
        ("RST and ACK", RST_ACK, NO_FLOW),
        ("no flag at all", TcpFlags(0), NO_FLOW),
    ];
    for family in FAMILIES {
        for (sentence, flags, verdict) in rows {
            let packet = Packet::tcp(CLIENT_ONE, VIP_ONE).over(family).flags(flags);
            let frame = packet.payload(b"data").build();
            let outcome = program.run(&frame);
            assert_eq!(outcome.verdict(), verdict, "{sentence} over {family:?}");
            assert_eq!(
                outcome.frame, frame,
                "{sentence} over {family:?}: untouched"
            );
        }
    }
    assert_eq!(program.events(), []);
    assert_eq!(program.flows.keys().count(), 0, "no packet makes a flow");
}

#[test]
fn a_service_is_an_address_and_a_port() {
    let (mut program, _socket) = attended();
    let rows = [
        ("one service", VIP_ONE, Verdict::Punted),
        ("another service", VIP_TWO, Verdict::Punted),
        (
            "another port of a service's address",
            VIP_ONE.at(22),
            Verdict::Passed,
        ),
        (
            "the port of another service",
            VIP_ONE.at(VIP_TWO.port),
            Verdict::Passed,
        ),
        (
            "port 0, which marks the address",
            VIP_ONE.at(0),
            NOT_A_SERVICE_PORT,
        ),
        ("no service at all", STRANGER, Verdict::Passed),
        (
            "no service, a service's port",
            STRANGER.at(VIP_ONE.port),
            Verdict::Passed,
        ),
    ];
    for family in FAMILIES {
        for (sentence, dst, verdict) in rows {
            let packet = Packet::tcp(CLIENT_ONE, dst).over(family).flags(SYN);
            let outcome = program.run(&packet.build());
            assert_eq!(outcome.verdict(), verdict, "{sentence} over {family:?}");
        }
    }
}

/// TCP port 0 is reserved (RFC 6335 6), so nothing listens there.
const NOT_A_SERVICE_PORT: Verdict = Verdict::Passed;

#[test]
fn services_of_both_families_do_not_mix() {
    let (mut program, _socket) = attended();
    let key = |family| {
        dispatcher_common::service::ServiceKey::new(VIP_ONE.addr(family), VIP_ONE.key_port())
    };
    let [v4, v6] = FAMILIES;
    program.services.remove(&key(v4)).unwrap();
    let request = |family| Packet::tcp(CLIENT_ONE, VIP_ONE).over(family).flags(SYN);
    assert_eq!(program.run(&request(v4).build()).verdict(), Verdict::Passed);
    assert_eq!(program.run(&request(v6).build()).verdict(), Verdict::Punted);
}

#[test]
fn requests_from_many_sources_are_punted_and_leave_no_trace() {
    let (mut program, _socket) = attended();
    for port in 1..=500 {
        for family in FAMILIES {
            let packet = Packet::tcp(CLIENT_ONE.at(port), VIP_ONE).over(family);
            let outcome = program.run(&packet.flags(SYN).build());
            assert_eq!(outcome.verdict(), Verdict::Punted);
        }
    }
    assert_eq!(program.flows.keys().count(), 0);
}

#[test]
fn a_flow_exists_from_when_user_space_installs_it_until_it_removes_it() {
    let (mut program, _socket) = attended();
    for family in FAMILIES {
        let request = Packet::tcp(CLIENT_ONE, VIP_ONE).over(family).flags(SYN);
        let data = Packet::tcp(CLIENT_ONE, VIP_ONE).over(family).build();
        assert_eq!(program.run(&request.build()).verdict(), Verdict::Punted);
        assert_eq!(program.run(&data).verdict(), NO_FLOW);

        let pair = program.install(&spec(family));
        let sent = Verdict::Sent(Action::Redirect);
        assert_eq!(program.run(&request.build()).verdict(), sent);
        assert_eq!(program.run(&data).verdict(), sent);

        let other = Packet::tcp(CLIENT_TWO, VIP_ONE).over(family).build();
        assert_eq!(program.run(&other).verdict(), NO_FLOW, "another client");

        program.flows.remove(&pair.forward_key).unwrap();
        assert_eq!(program.run(&data).verdict(), NO_FLOW);
    }
}

#[test]
fn a_program_that_was_told_nothing_drops_requests_and_passes_the_rest() {
    let mut program = Program::load();
    program.control(|control| {
        control.unattended = 0;
        control.network_generation = 0;
    });
    let request = Packet::tcp(CLIENT_ONE, VIP_ONE).flags(SYN).build();
    let unattended = Verdict::Dropped(DropReason::Unattended);
    assert_eq!(program.run(&request).verdict(), unattended);
    program.links.remove(&INGRESS).unwrap();
    assert_eq!(program.run(&request).verdict(), unattended);
    program.control(|control| control.unattended = UNATTENDED_PASS);
    assert_eq!(program.run(&request).verdict(), Verdict::Passed);
}
