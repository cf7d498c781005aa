//! While a flood of a service is on, only those connection requests get to user space that are seen
//! again when a client would send them again.

use dispatcher_common::control::{Control, TICK_MS};
use dispatcher_common::service::{Service, ServiceKey};
use dispatcher_common::verdict::DropReason;
use dispatcher_tests::packet::{ACK, CLIENT_ONE, CLIENT_TWO, FAMILIES, Family, Host, Packet};
use dispatcher_tests::packet::{SYN, VIP_ONE, VIP_TWO};
use dispatcher_tests::program::{Program, PuntSocket, TICKS, Verdict, spec};

const UNPROVEN: Verdict = Verdict::Dropped(DropReason::Unproven);
/// Services in the order in which [`Program::load`] tells of them.
const OF_ONE: u32 = 0;
const OF_TWO: u32 = 3;

/// The program with a socket that takes every request.
struct Watched {
    program: Program,
    _socket: PuntSocket,
}

impl Watched {
    fn new() -> Self {
        let mut program = Program::load();
        let socket = PuntSocket::open();
        program.attend(0, &socket);
        program.link(1, 0, 1);
        Self {
            program,
            _socket: socket,
        }
    }

    /// Has a service guarded, or not, in both families.
    fn guard(&mut self, service: Host, index: u32, guarded: u32) {
        for family in FAMILIES {
            let key = ServiceKey::new(service.addr(family), service.key_port());
            let told = Service { index, guarded };
            self.program.services.insert(key, told, 0).unwrap();
        }
    }

    /// What becomes of a frame so many milliseconds after the start.
    fn at(&mut self, ms: u64, frame: &[u8]) -> Verdict {
        let ticks = TICKS + u32::try_from(ms / TICK_MS).unwrap();
        self.program
            .control(|control: &mut Control| control.ticks = ticks);
        self.program.run(frame).verdict()
    }
}

fn request(family: Family, client: Host, service: Host, isn: u32) -> Vec<u8> {
    Packet::tcp(client, service)
        .over(family)
        .flags(SYN)
        .seq(isn)
        .build()
}

#[test]
fn a_request_is_let_in_when_it_comes_again_and_not_before() {
    for family in FAMILIES {
        let syn = |isn| request(family, CLIENT_ONE, VIP_ONE, isn);
        let punted = Verdict::Punted;
        // When the same SYN is seen, and what becomes of it.
        let rows: [(&str, &[(u64, Verdict)]); 6] = [
            (
                "a client",
                &[
                    (0, UNPROVEN),
                    (1000, punted),
                    (3000, punted),
                    (7000, punted),
                ],
            ),
            (
                "twice at once",
                &[(0, UNPROVEN), (0, UNPROVEN), (400, UNPROVEN), (500, punted)],
            ),
            (
                "a cautious stack",
                &[(0, UNPROVEN), (3000, punted), (9000, punted)],
            ),
            ("after 20 s", &[(0, UNPROVEN), (20_000, punted)]),
            (
                "after 21 s",
                &[(0, UNPROVEN), (21_000, UNPROVEN), (22_000, punted)],
            ),
            (
                "to the end",
                &[
                    (0, UNPROVEN),
                    (1000, punted),
                    (1100, UNPROVEN),
                    (17_000, punted),
                ],
            ),
        ];
        for (isn, (what, seen)) in (1..).zip(rows) {
            let mut watched = Watched::new();
            watched.guard(VIP_ONE, OF_ONE, 1);
            for &(ms, verdict) in seen {
                assert_eq!(watched.at(ms, &syn(isn)), verdict, "{what}, after {ms} ms");
            }
            let dropped = seen
                .iter()
                .filter(|(_, verdict)| *verdict == UNPROVEN)
                .count();
            assert_eq!(watched.program.unproven(OF_ONE), dropped as u64, "{what}");
        }
    }
}

#[test]
fn another_request_proves_nothing() {
    let mut watched = Watched::new();
    watched.guard(VIP_ONE, OF_ONE, 1);
    for family in FAMILIES {
        let first = request(family, CLIENT_ONE, VIP_ONE, 1);
        assert_eq!(watched.at(0, &first), UNPROVEN);
        let others = [
            (request(family, CLIENT_ONE, VIP_ONE, 2), "another ISN"),
            (request(family, CLIENT_TWO, VIP_ONE, 1), "another client"),
        ];
        for (frame, what) in others {
            assert_eq!(watched.at(1000, &frame), UNPROVEN, "{what}");
        }
        assert_eq!(watched.at(1000, &first), Verdict::Punted);
    }
}

#[test]
fn without_a_flood_all_are_let_in_and_remembered_all_the_same() {
    let mut watched = Watched::new();
    for family in FAMILIES {
        let frame = request(family, CLIENT_ONE, VIP_ONE, 1);
        for ms in [0, 100, 1000] {
            assert_eq!(watched.at(ms, &frame), Verdict::Punted);
        }
        assert_eq!(watched.program.unproven(OF_ONE), 0);
        watched.guard(VIP_ONE, OF_ONE, 1);
        assert_eq!(
            watched.at(2000, &frame),
            Verdict::Punted,
            "it was seen before"
        );
        watched.guard(VIP_ONE, OF_ONE, 0);
        let fresh = request(family, CLIENT_TWO, VIP_ONE, 1);
        assert_eq!(watched.at(2000, &fresh), Verdict::Punted, "it is over");
    }
}

#[test]
fn a_flood_of_one_service_is_nothing_to_another() {
    let mut watched = Watched::new();
    watched.guard(VIP_ONE, OF_ONE, 1);
    watched.guard(VIP_TWO, OF_TWO, 0);
    for family in FAMILIES {
        for isn in 0..3 {
            let (one, two) = (
                request(family, CLIENT_ONE, VIP_ONE, isn),
                request(family, CLIENT_ONE, VIP_TWO, isn),
            );
            assert_eq!(watched.at(0, &one), UNPROVEN);
            assert_eq!(watched.at(0, &two), Verdict::Punted);
        }
    }
    assert_eq!(watched.program.unproven(OF_ONE), 6);
    assert_eq!(watched.program.unproven(OF_TWO), 0);
}

#[test]
fn connections_go_on_in_a_flood() {
    for family in FAMILIES {
        let mut watched = Watched::new();
        watched.guard(VIP_ONE, OF_ONE, 1);
        watched.program.install(&spec(family));
        let again = request(
            family,
            CLIENT_ONE,
            VIP_ONE,
            dispatcher_tests::program::CLIENT_ISN,
        );
        assert_ne!(watched.at(0, &again), UNPROVEN, "the SYN of a flow");
        let data = Packet::tcp(CLIENT_ONE, VIP_ONE)
            .over(family)
            .flags(ACK)
            .build();
        assert_ne!(watched.at(0, &data), UNPROVEN);
        assert_eq!(watched.program.unproven(OF_ONE), 0);
    }
}

#[test]
fn a_client_is_remembered_through_a_flood_of_hundreds_of_thousands_a_second() {
    let mut watched = Watched::new();
    watched.guard(VIP_ONE, OF_ONE, 1);
    let clients: Vec<_> = (0..1000)
        .map(|isn| request(Family::V4, CLIENT_ONE, VIP_ONE, isn))
        .collect();
    for frame in &clients {
        assert_eq!(watched.at(0, frame), UNPROVEN);
    }
    let (seen, spoofed) = (200_000, 0x4000_0000);
    let mut stranger = request(Family::V4, CLIENT_TWO, VIP_ONE, spoofed);
    for isn in spoofed..spoofed + seen {
        // Checksums are user space's; the sequence number stands behind Ethernet, IPv4 and ports.
        stranger[38..42].copy_from_slice(&isn.to_be_bytes());
        watched.program.run_unseen(&stranger);
    }
    // Counted with it is what was not looked at, which is no part of the next verdict.
    watched.program.run(&stranger);
    let dropped = watched.program.unproven(OF_ONE);
    assert_eq!(
        dropped,
        u64::from(seen) + 1001,
        "none got through by chance"
    );
    let back = clients
        .iter()
        .filter(|frame| watched.at(1000, frame) == Verdict::Punted);
    assert!(back.count() >= 999);
}
