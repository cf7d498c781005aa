//! What the XDP program costs a packet, by `BPF_PROG_TEST_RUN`, beside the floor: the least program
//! that translates the same packet, with a table of the same size.
//! `cargo bench -p dispatcher-tests --bench program [-- --json]`
//!
//! The rows are those of the kernel's own bench of a load balancer (`bench xdp-lb`, its names
//! beside ours) which can be asked of a dispatcher of TCP that keeps flows, and ours.
//!
//! Every run begins with the same headers, and with another client where there are many: see
//! [`dispatcher_tests::test_run`], whose cost is subtracted. A packet that changes its flow does so
//! only once; such rows have a flow for each run of a batch, and these are put back as they were
//! before each batch. Rounds over all rows alternate, so that what disturbs the machine disturbs
//! all of them; the median of the rounds is printed.
//!
//! No driver and no wire is part of this, and an action (`XDP_TX`, redirect) is only asked for.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use dispatcher_common::flow::{Direction, FlowEntry, FlowKey, FlowPair};
use dispatcher_common::maps::{FLOW_CAPACITY_DEFAULT, FLOWS};
use dispatcher_common::measure::Kind;
use dispatcher_common::tcp::Phase;
use dispatcher_tests::floor::Floor;
use dispatcher_tests::packet::{
    BACKEND_ONE, CLIENT_ONE, FAMILIES, FIN_ACK, Family, Host, Packet, RST_ACK, STRANGER, SYN,
    VIP_ONE, arp, verify,
};
use dispatcher_tests::program::{
    Action, BACKEND, ELSEWHERE, INGRESS, Program, PuntSocket, Sizes, ip, spec,
};
use dispatcher_tests::test_run::{Restorer, Start, client};

/// Runs in a batch: a power of two, so that each visits another of as many flows.
const REPEAT: u32 = 256;
const ROUNDS: usize = 1000;
/// Live flows, a setting each: with one, all other rows are measured.
const LIVE: [u32; 4] = [1, 1 << 12, 1 << 16, 1 << 18];
/// Clients that ask anew.
const STRANGERS: u32 = 1 << 24;

const STEADY: Phase = Phase::ANSWERED.with(Phase::ESTABLISHED);
/// What both ends have sent and acknowledged.
const SENT: u32 = 1_000_000;
/// Ports of a client, one for each kind of row that needs flows of its own.
const BACK_OUT: u16 = 40_100;
const CHANGING: u16 = 40_200;

/// Slots of the restorer.
const PROGRAM: u32 = 0;

struct Row {
    name: String,
    /// The row of `bench xdp-lb` that asks the same.
    like: &'static str,
    family: Family,
    start: Start,
    expected: Action,
    expected_of_floor: Action,
    /// Entries to put back before each batch.
    fresh: Vec<(FlowKey, FlowEntry)>,
    samples: Vec<u64>,
    of_floor: Vec<u64>,
}

impl Row {
    fn new(name: &str, like: &'static str, packet: &Packet, family: Family) -> Self {
        Self::of_frame(name, like, packet.clone().over(family).build(), family)
    }

    fn of_frame(name: &str, like: &'static str, frame: Vec<u8>, family: Family) -> Self {
        Self {
            name: name.into(),
            like,
            family,
            start: Start {
                frame,
                clients: 1,
                client_at: client_at(family, Direction::Forward),
            },
            expected: Action::Pass,
            expected_of_floor: Action::Pass,
            fresh: Vec::new(),
            samples: Vec::new(),
            of_floor: Vec::new(),
        }
    }

    fn expect(self, expected: Action) -> Self {
        Self { expected, ..self }
    }

    /// A packet of a flow, which the floor translates, too.
    fn hit(self, expected: Action) -> Self {
        Self {
            expected,
            expected_of_floor: Action::Redirect,
            ..self
        }
    }

    fn clients(mut self, clients: u32, direction: Direction) -> Self {
        self.start.clients = clients;
        self.start.client_at = client_at(self.family, direction);
        self
    }
}

/// Where in a frame the last four bytes of the client's address are.
const fn client_at(family: Family, direction: Direction) -> usize {
    match (family, direction) {
        (Family::V4, Direction::Forward) => 26,
        (Family::V4, Direction::Reply) => 30,
        (Family::V6, Direction::Forward) => 34,
        (Family::V6, Direction::Reply) => 50,
    }
}

/// The client with a number, as the restorer has it.
fn numbered(first: Host, number: u32) -> Host {
    let mut v6 = first.v6.octets();
    let last: [u8; 4] = v6[12..].try_into().expect("four bytes");
    v6[12..].copy_from_slice(&client(last, number));
    Host {
        v4: client(first.v4.octets(), number).into(),
        v6: v6.into(),
        ..first
    }
}

/// The program, the floors, and what runs them.
struct Setting {
    program: Program,
    floors: [Floor; 2],
    restorer: Restorer,
    /// Both clocks of what surrounds the program: an empty run, restored and not.
    restored: Vec<u64>,
    bare: Vec<u64>,
    rows: Vec<Row>,
    _socket: PuntSocket,
}

impl Setting {
    fn new() -> Self {
        let mut program = Program::of(Sizes {
            flows: FLOWS.max_entries,
            events: 1 << 20,
        });
        let socket = PuntSocket::open();
        program.attend(0, &socket);
        program.link(INGRESS, 0, 1);
        for kind in Kind::ALL {
            program.measure(BACKEND, kind);
        }
        let floors = FAMILIES.map(|family| Floor::load(family, FLOWS.max_entries).unwrap());
        ip("link add bench type veth peer name bench-peer");
        let interfaces =
            ["bench", "bench-peer"].map(|name| nix::net::if_::if_nametoindex(name).unwrap());
        let mut programs = vec![program.descriptor()];
        programs.extend(floors.iter().map(|floor| floor.program.as_raw_fd()));
        Self {
            restorer: Restorer::load(&programs, interfaces).unwrap(),
            program,
            floors,
            restored: Vec::new(),
            bare: Vec::new(),
            rows: Vec::new(),
            _socket: socket,
        }
    }

    /// Installs a steady flow in both tables.
    fn install(&mut self, family: Family, client: Host, ifindex: u32) -> FlowPair {
        let mut spec = spec(family);
        spec.key = Packet::tcp(client, VIP_ONE).over(family).key();
        let mut pair = FlowPair::new(&spec);
        for entry in [&mut pair.forward, &mut pair.reply] {
            entry.phase = STEADY.0;
            entry.next_hop.ifindex = ifindex;
            entry.track.seq_end = SENT;
            entry.track.ack = SENT;
            entry.asked = 0;
        }
        self.program.put(&pair.forward_key, &pair.forward);
        self.program.put(&pair.reply_key, &pair.reply);
        let floor = &self.floors[family as usize];
        for (key, entry, leaves_as) in [
            (pair.forward_key, pair.forward, pair.reply_key.reversed()),
            (pair.reply_key, pair.reply, pair.forward_key.reversed()),
        ] {
            floor.translate(&key, &leaves_as, &entry.next_hop).unwrap();
        }
        pair
    }

    /// Rows of packets that change nothing, of so many flows.
    fn hits(&mut self, live: u32, family: Family) {
        for number in 0..live {
            self.install(family, numbered(CLIENT_ONE, number), ELSEWHERE);
        }
        let like = match (live, family) {
            (1, Family::V4) => "tcp-v4-lru-hit",
            (1, Family::V6) => "tcp-v6-lru-hit",
            (4096, Family::V4) => "tcp-v4-lru-diverse",
            (4096, Family::V6) => "tcp-v6-lru-diverse",
            _ => "",
        };
        let steady = |packet: Packet| packet.seq(SENT).ack(SENT);
        let forward = steady(Packet::tcp(CLIENT_ONE, VIP_ONE));
        let reply = steady(Packet::tcp(BACKEND_ONE, CLIENT_ONE));
        let of = match live {
            1 => String::new(),
            live => format!(", {} Ki flows", live >> 10),
        };
        self.rows.extend([
            Row::new(&format!("flow, forward{of}"), like, &forward, family)
                .hit(Action::Redirect)
                .clients(live, Direction::Forward),
            Row::new(&format!("flow, reply{of}"), like, &reply, family)
                .hit(Action::Redirect)
                .clients(live, Direction::Reply),
        ]);
    }

    /// Rows of packets each of which changes its flow.
    fn changes(&mut self) {
        let family = Family::V4;
        let mut pairs = Vec::new();
        for number in 0..REPEAT {
            let host = numbered(CLIENT_ONE.at(CHANGING), number);
            pairs.push(self.install(family, host, ELSEWHERE));
        }
        let forward = Packet::tcp(CLIENT_ONE.at(CHANGING), VIP_ONE)
            .seq(SENT)
            .ack(SENT);
        let reply = Packet::tcp(BACKEND_ONE, CLIENT_ONE.at(CHANGING))
            .seq(SENT)
            .ack(SENT);
        let data = |packet: &Packet| packet.clone().payload(&[b'.'; 100]);
        let (ours, theirs) = (Direction::Forward, Direction::Reply);
        let rows = [
            ("request goes on", data(&forward), ours, 1),
            ("request starts", data(&forward), ours, 0),
            ("response goes on", data(&reply), theirs, 0),
            ("response stops", data(&reply), theirs, 1),
            ("FIN of a flow", forward.clone().flags(FIN_ACK), ours, 0),
            ("RST of a flow", forward.flags(RST_ACK), ours, 0),
        ];
        for (name, packet, direction, asked) in rows {
            let mut row = Row::new(name, "", &packet, family)
                .hit(Action::Redirect)
                .clients(REPEAT, direction);
            for pair in &pairs {
                let (mut forward, mut reply) = (pair.forward, pair.reply);
                match direction {
                    Direction::Forward => forward.asked = asked,
                    Direction::Reply => reply.asked = asked,
                }
                row.fresh.push((pair.forward_key, forward));
                row.fresh.push((pair.reply_key, reply));
            }
            self.rows.push(row);
        }
    }

    /// Rows of packets without a flow, and of a flow that leaves where it came in.
    fn others(&mut self, family: Family) {
        self.install(family, CLIENT_ONE.at(BACK_OUT), INGRESS);
        let v4 = family == Family::V4;
        let either = |of_v4, of_v6| if v4 { of_v4 } else { of_v6 };
        let client = CLIENT_ONE.at(40_300);
        let to_service = Packet::tcp(client, VIP_ONE);
        let row = |name: &str, like, packet: &Packet| Row::new(name, like, packet, family);
        let back_out = Packet::tcp(CLIENT_ONE.at(BACK_OUT), VIP_ONE);
        let request = to_service.clone().flags(SYN);
        let stranger = Packet::tcp(client, STRANGER);
        self.rows.extend([
            row("flow, back out", "", &back_out.seq(SENT).ack(SENT)).hit(Action::Tx),
            row("request, to AF_XDP", either("tcp-v4-syn", ""), &request).expect(Action::Redirect),
            row(
                "requests of 16 Mi clients",
                either("tcp-v4-lru-miss", ""),
                &request,
            )
            .expect(Action::Redirect)
            .clients(STRANGERS, Direction::Forward),
            row("no flow, dropped", "", &to_service).expect(Action::Drop),
            row(
                "RST of 16 Mi clients, dropped",
                either("tcp-v4-rst-miss", ""),
                &to_service.clone().flags(RST_ACK),
            )
            .expect(Action::Drop)
            .clients(STRANGERS, Direction::Forward),
            row(
                "not ours",
                either("pass-v4-no-vip", "pass-v6-no-vip"),
                &stranger,
            ),
            row(
                "other port of a service",
                "",
                &Packet::tcp(client, VIP_ONE.at(81)),
            ),
            row("UDP", "", &Packet::udp(client, VIP_ONE)),
            row(
                "fragment",
                either("drop-v4-frag", "drop-v6-frag"),
                &to_service.clone().fragment(0, true),
            )
            .expect(Action::Drop),
        ]);
        if v4 {
            self.rows.extend([
                row(
                    "IP options",
                    "drop-v4-options",
                    &to_service.ip_options(&[1; 4]),
                )
                .expect(Action::Drop),
                row("ICMP", "pass-v4-icmp", &Packet::icmp(client, STRANGER)),
                Row::of_frame("ARP", "pass-non-ip", arp(), family),
            ]);
        }
    }

    /// Each row once: what it does is what it is for.
    fn verify(&mut self) {
        for row in &self.rows {
            let floor = 1 + row.family as u32;
            let start = Start {
                clients: 1,
                ..row.start.clone()
            };
            for (key, entry) in &row.fresh {
                self.program.put(key, entry);
            }
            let ours = self.restorer.run(PROGRAM, &start, 1).unwrap();
            let floors = self.restorer.run(floor, &start, 1).unwrap();
            let actions = [ours.action, floors.action].map(Action::from_number);
            let name = (&row.name, row.family);
            assert_eq!(actions, [row.expected, row.expected_of_floor], "{name:?}");
            if row.expected_of_floor == Action::Redirect {
                let [ours, floors] = [ours, floors].map(|ran| verify(&ran.frame).unwrap());
                assert_eq!(ours, floors, "{name:?}");
            }
        }
    }

    fn measure(&mut self) {
        self.verify();
        for _ in 0..ROUNDS {
            for row in &mut self.rows {
                for (key, entry) in &row.fresh {
                    self.program.put(key, entry);
                }
                let floor = 1 + row.family as u32;
                let ours = self.restorer.run(PROGRAM, &row.start, REPEAT).unwrap();
                let action = Action::from_number(ours.action);
                assert_eq!(action, row.expected, "{}: the last run", row.name);
                row.samples.push(ours.nanoseconds);
                if !row.fresh.is_empty() {
                    // What was put back is in the caches; what the floor finds is to be, too.
                    self.restorer.run(floor, &row.start, REPEAT).unwrap();
                }
                let floors = self.restorer.run(floor, &row.start, REPEAT).unwrap();
                row.of_floor.push(floors.nanoseconds);
            }
            let start = &self.rows[0].start;
            let nothing = self.restorer.nothing;
            let restored = self.restorer.run(nothing, start, REPEAT).unwrap();
            self.restored.push(restored.nanoseconds);
            let bare = self.restorer.run_nothing(start, REPEAT).unwrap();
            self.bare.push(bare.nanoseconds);
            self.program.events();
        }
    }

    fn results(&self) -> Vec<Result> {
        let bare = median(&self.bare);
        let restoring = median(&self.restored) - bare;
        let result = |row: &Row| Result {
            name: row.name.clone(),
            like: row.like,
            family: row.family,
            nanoseconds: median(&row.samples) - restoring,
            floor: median(&row.of_floor) - restoring,
            bare,
        };
        self.rows.iter().map(result).collect()
    }
}

/// What a row came to, nanoseconds; all but `bare` with the test run's own share.
struct Result {
    name: String,
    like: &'static str,
    family: Family,
    nanoseconds: f64,
    floor: f64,
    /// A run of a program that does nothing.
    bare: f64,
}

impl Result {
    fn times_floor(&self) -> f64 {
        self.nanoseconds / self.floor
    }

    /// The same without what a run costs by itself; nothing if the floor is that.
    fn times_floor_net(&self) -> Option<f64> {
        let floor = self.floor - self.bare;
        (floor > 5.0).then(|| (self.nanoseconds - self.bare) / floor)
    }
}

fn median(samples: &[u64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    (sorted[middle - 1] + sorted[middle]) as f64 / 2.0
}

/// Bytes of kernel memory for a flow's two entries, all of the table counted.
fn bytes_of_a_flow(flows: RawFd) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{flows}")).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes: u64 = line.expect("fdinfo has memlock").trim().parse().unwrap();
    bytes / u64::from(FLOW_CAPACITY_DEFAULT)
}

fn main() {
    let mut results = Vec::new();
    let mut bytes = 0;
    for live in LIVE {
        // All live flows are of one family, so that there are as many as is said.
        let families: &[&[Family]] = match live {
            1 => &[&FAMILIES],
            _ => &[&[Family::V4], &[Family::V6]],
        };
        for families in families {
            let mut setting = Setting::new();
            for family in *families {
                setting.hits(live, *family);
            }
            if live == 1 {
                for family in *families {
                    setting.others(*family);
                }
                setting.changes();
            }
            setting.measure();
            results.extend(setting.results());
            let flows = setting.program.flows_info.fd().unwrap();
            bytes = bytes_of_a_flow(flows.as_fd().as_raw_fd());
        }
    }
    if std::env::args().any(|argument| argument == "--json") {
        print_json(&results, bytes);
    } else {
        print_table(&results, bytes);
    }
}

fn print_table(results: &[Result], bytes: u64) {
    println!(
        "{:<30} {:<19} {:>6} {:>7} {:>7} {:>6} {:>6}",
        "packet", "as in xdp-lb", "family", "ns", "floor", "times", "net"
    );
    for result in results {
        let family = format!("{:?}", result.family);
        let net = result.times_floor_net();
        println!(
            "{:<30} {:<19} {:>6} {:>7.1} {:>7.1} {:>6.2} {:>6}",
            result.name,
            result.like,
            family,
            result.nanoseconds,
            result.floor,
            result.times_floor(),
            net.map_or_else(String::new, |net| format!("{net:.2}")),
        );
    }
    let bare = results.first().map_or(0.0, |first| first.bare);
    println!("\nmedian of {ROUNDS} rounds of {REPEAT} runs");
    println!(
        "a run of an empty program takes {bare:.1} ns: it is in `ns` and `floor`, not in `net`"
    );
    println!("kernel memory of a flow: {bytes} bytes, both entries and their table");
}

fn print_json(results: &[Result], bytes: u64) {
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            serde_json::json!({
                "packet": result.name,
                "like": result.like,
                "family": format!("{:?}", result.family),
                "nanoseconds": result.nanoseconds,
                "floor_nanoseconds": result.floor,
                "times_floor": result.times_floor(),
                "times_floor_net": result.times_floor_net(),
                "empty_nanoseconds": result.bare,
            })
        })
        .collect();
    let report = serde_json::json!({ "program": rows, "kernel_bytes_per_flow": bytes });
    println!("{report:#}");
}
