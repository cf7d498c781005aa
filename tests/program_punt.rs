//! A connection request goes to the AF_XDP socket of its receive queue; where there is none, it
//! gets what `unattended` says.

use dispatcher_common::control::{UNATTENDED_DROP, UNATTENDED_PASS};
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{CLIENT_ONE, FAMILIES, Packet, SYN, VIP_ONE, verify};
use dispatcher_tests::program::{Program, PuntSocket, Verdict, ip};

const UNATTENDED: Verdict = Verdict::Dropped(DropReason::Unattended);

/// A device with four receive queues.
fn device_with_queues(program: &mut Program) -> u32 {
    ip("link add queues numrxqueues 4 type veth peer name other");
    let ifindex = nix::net::if_::if_nametoindex("queues").unwrap();
    program.ingress = (ifindex, 0);
    ifindex
}

#[test]
fn each_queue_has_its_own_socket() {
    let mut program = Program::load();
    let ifindex = device_with_queues(&mut program);
    let request = Packet::tcp(CLIENT_ONE, VIP_ONE).flags(SYN).build();
    let socket = PuntSocket::open();
    // Queues 0 to 2 of the device are sockets 8 to 10; only 9 is open.
    program.link(ifindex, 8, 3);
    program.attend(9, &socket);
    let rows = [
        (0, UNATTENDED, "its socket is not open"),
        (1, Verdict::Punted, "its socket is open"),
        (2, UNATTENDED, "its socket is not open"),
        (3, UNATTENDED, "it has no socket"),
    ];
    for (queue, verdict, why) in rows {
        program.ingress = (ifindex, queue);
        let outcome = program.run(&request);
        assert_eq!(outcome.verdict(), verdict, "queue {queue}: {why}");
        assert_eq!(outcome.frame, request);
    }
}

#[test]
fn a_socket_beyond_the_queues_of_the_link_is_not_used() {
    let mut program = Program::load();
    let ifindex = device_with_queues(&mut program);
    let request = Packet::tcp(CLIENT_ONE, VIP_ONE).flags(SYN).build();
    let socket = PuntSocket::open();
    for index in 0..4 {
        program.attend(index, &socket);
    }
    program.link(ifindex, 0, 2);
    let verdicts = [0, 1, 2, 3].map(|queue| {
        program.ingress = (ifindex, queue);
        program.run(&request).verdict()
    });
    let punted = Verdict::Punted;
    assert_eq!(verdicts, [punted, punted, UNATTENDED, UNATTENDED]);
}

#[test]
fn while_no_daemon_runs_unattended_decides() {
    let mut program = Program::load();
    for family in FAMILIES {
        let request = Packet::tcp(CLIENT_ONE, VIP_ONE)
            .over(family)
            .flags(SYN)
            .build();
        for (queues, why) in [(0, "no socket was announced"), (1, "the socket has gone")] {
            program.link(1, 0, queues);
            program.control(|control| control.unattended = UNATTENDED_DROP);
            assert_eq!(program.run(&request).verdict(), UNATTENDED, "{why}");
            program.control(|control| control.unattended = UNATTENDED_PASS);
            assert_eq!(program.run(&request).verdict(), Verdict::Passed, "{why}");
        }
    }
}

#[test]
fn the_kernel_removes_a_socket_that_closed() {
    let mut program = Program::load();
    let request = Packet::tcp(CLIENT_ONE, VIP_ONE).flags(SYN).build();
    program.link(1, 0, 1);
    let socket = PuntSocket::open();
    program.attend(0, &socket);
    assert_eq!(program.run(&request).verdict(), Verdict::Punted);
    drop(socket);
    assert_eq!(program.run(&request).verdict(), UNATTENDED);
}

#[test]
fn an_interface_that_nobody_told_of_is_unattended() {
    let mut program = Program::load();
    device_with_queues(&mut program);
    let request = Packet::tcp(CLIENT_ONE, VIP_ONE).flags(SYN).build();
    assert_eq!(program.run(&request).verdict(), UNATTENDED);
}

#[test]
fn what_user_space_gets_is_the_frame_as_it_came() {
    let mut program = Program::load();
    let socket = PuntSocket::open();
    program.attend(0, &socket);
    program.link(1, 0, 1);
    // MSS 1460, SACK permitted, timestamps, window scale 7.
    let options = [
        2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    for packet in [
        Packet::tcp(CLIENT_ONE, VIP_ONE),
        Packet::tcp(CLIENT_ONE, VIP_ONE).v6(),
        Packet::tcp(CLIENT_ONE, VIP_ONE).vlan(42),
    ] {
        let frame = packet.flags(SYN).options(&options).build();
        let outcome = program.run(&frame);
        assert_eq!(outcome.verdict(), Verdict::Punted);
        assert_eq!(outcome.frame, frame);
        verify(&outcome.frame).unwrap();
    }
}
