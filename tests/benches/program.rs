//! What the XDP program costs a packet, by `BPF_PROG_TEST_RUN`, beside the least program that looks
//! up the same key in the same table. `cargo bench -p dispatcher-tests --bench program [-- --json]`
//!
//! A test run that repeats hands the program what it made of the frame before. So the entry that
//! rewrites service to back-end stands beside one that rewrites it back: every run is a hit with
//! the full rewrite, and the frame's TTL of 255 bounds a batch to 200 runs. For many flows the
//! entries form a ring: each turns the packet into one of the next flow, so that no run finds its
//! entry in the cache. A packet starts or stops a clock only once, so those rows have a small ring
//! with a flow for each run of a batch, put back as it was before each round; what a clock costs
//! shows beside the same ring with packets that start and stop nothing. Rounds over all rows
//! alternate, so that what disturbs the machine disturbs all of them; the median of the rounds is
//! printed.
//!
//! No driver and no wire is part of this, and an action (`XDP_TX`, redirect) is only asked for.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use dispatcher_common::flow::{Direction, FlowEntry, FlowKey, FlowPair};
use dispatcher_common::maps::{FLOW_CAPACITY_DEFAULT, FLOWS};
use dispatcher_common::measure::Kind;
use dispatcher_common::rewrite::Translation;
use dispatcher_common::tcp::Phase;
use dispatcher_tests::floor::{Floor, FloorProgram};
use dispatcher_tests::packet::{
    BACKEND_ONE, CLIENT_ONE, CLIENT_TWO, FAMILIES, Family, Packet, STRANGER, SYN, VIP_ONE,
};
use dispatcher_tests::program::{
    Action, BACKEND, ELSEWHERE, INGRESS, Program, PuntSocket, Sizes, ip, spec,
};

const REPEAT: u32 = 200;
const ROUNDS: usize = 1000;
const STEADY: Phase = Phase::ANSWERED.with(Phase::ESTABLISHED);
/// Flows of the ring, and the distance from one to the next: odd, so that the ring visits all, and
/// far, so that neighbours in the table are not neighbours in the ring.
const RING: u32 = 1 << 16;
const STRIDE: u32 = 25_717;

struct Row {
    name: String,
    family: Family,
    /// Frames, one for each round in turn.
    frames: Vec<Vec<u8>>,
    expected: Action,
    /// The row that it is measured against.
    floor: Floor,
    /// Entries to put back before each round.
    fresh: Vec<(FlowKey, FlowEntry)>,
    samples: Vec<u64>,
}

fn row(name: &str, family: Family, packet: &Packet, expected: Action) -> Row {
    Row {
        name: name.into(),
        family,
        frames: vec![packet.clone().over(family).ttl(255).build()],
        expected,
        floor: Floor::Lookup(family),
        fresh: Vec::new(),
        samples: Vec::new(),
    }
}

fn steady(pair: &mut FlowPair, ifindex: u32) {
    for entry in [&mut pair.forward, &mut pair.reply] {
        entry.phase = STEADY.0;
        entry.next_hop.ifindex = ifindex;
    }
}

/// Installs a flow both of whose entries have one beside them that undoes the rewrite.
fn install_there_and_back(program: &mut Program, family: Family, port: u16, ifindex: u32) {
    let mut spec = spec(family);
    spec.key = Packet::tcp(CLIENT_ONE.at(port), VIP_ONE).over(family).key();
    let mut pair = FlowPair::new(&spec);
    steady(&mut pair, ifindex);
    let (vip, vip_port) = (spec.key.dst, spec.key.dst_port);
    let there = pair.reply_key.reversed();
    let undo_forward = Translation::to_backend(&there, vip, vip_port);
    let back = spec.key.reversed();
    let undo_reply = Translation::to_client(&back, spec.backend_addr, spec.backend_port);
    let with = |entry: FlowEntry, translation| FlowEntry {
        translation,
        ..entry
    };
    program.put(&pair.forward_key, &pair.forward);
    program.put(&pair.reply_key, &pair.reply);
    program.put(&there, &with(pair.forward, undo_forward));
    program.put(&back, &with(pair.reply, undo_reply));
}

/// The packet of the ring's flow `n`: only the destination differs.
fn of_ring(n: u32) -> Packet {
    let [_, _, c, d] = n.to_be_bytes();
    let mut host = BACKEND_ONE.at(9000);
    host.v4 = std::net::Ipv4Addr::new(10, 77, c, d);
    Packet::tcp(CLIENT_TWO, host)
}

fn install_ring(program: &mut Program) {
    for n in 0..RING {
        let key: FlowKey = of_ring(n).key();
        let next = of_ring((n + STRIDE) % RING).key();
        let mut spec = spec(Family::V4);
        (spec.key, spec.backend_addr, spec.backend_port) = (key, next.dst, next.dst_port);
        let mut pair = FlowPair::new(&spec);
        steady(&mut pair, INGRESS);
        program.put(&key, &pair.forward);
    }
}

/// What the other end has acknowledged and sent in the small rings.
const SENT: u32 = 1_000_000;

/// A ring of as many flows as there are runs in a batch, each of which turns the packet into one of
/// the next. The packet carries payload; `asked` is what each entry of its direction holds.
fn small_ring(program: &mut Program, name: &str, direction: Direction, asked: u32) -> Row {
    // Rings of one client each, so that no two have an entry in common.
    let client = CLIENT_TWO.at(match (direction, asked) {
        (Direction::Forward, 0) => 1,
        (Direction::Forward, _) => 2,
        (Direction::Reply, 0) => 3,
        (Direction::Reply, _) => 4,
    });
    let host = |n: u32| {
        let mut host = BACKEND_ONE.at(9001);
        host.v4 = std::net::Ipv4Addr::new(10, 78, 0, n as u8);
        host
    };
    let packet = |n: u32| {
        let packet = match direction {
            Direction::Forward => Packet::tcp(client, host(n)),
            Direction::Reply => Packet::tcp(host(n), client),
        };
        packet.seq(SENT).ack(SENT).payload(&[b'.'; 100])
    };
    let mut fresh = Vec::new();
    for n in 0..REPEAT {
        let next = (n + 1) % REPEAT;
        let mut spec = spec(Family::V4);
        spec.key = Packet::tcp(client, host(n)).key();
        spec.backend_addr = host(next).addr(Family::V4);
        spec.backend_port = host(next).key_port();
        let mut pair = FlowPair::new(&spec);
        steady(&mut pair, INGRESS);
        for entry in [&mut pair.forward, &mut pair.reply] {
            entry.track.seq_end = SENT;
            entry.track.ack = SENT;
            entry.asked = asked;
        }
        match direction {
            Direction::Forward => {
                program.put(&pair.reply_key, &pair.reply);
                fresh.push((pair.forward_key, pair.forward));
            }
            Direction::Reply => {
                let to = host(next);
                let key = packet(n).key();
                let translation = Translation::to_client(&key, to.addr(Family::V4), to.key_port());
                let entry = FlowEntry {
                    translation,
                    ..pair.reply
                };
                fresh.push((key, entry));
            }
        }
    }
    Row {
        fresh,
        ..row(name, Family::V4, &packet(0), Action::Tx)
    }
}

fn rows(program: &mut Program) -> Vec<Row> {
    let mut rows = Vec::new();
    for family in FAMILIES {
        install_there_and_back(program, family, 1, INGRESS);
        install_there_and_back(program, family, 2, ELSEWHERE);
        let [tx, redirected] = [CLIENT_ONE.at(1), CLIENT_ONE.at(2)];
        let forward = Packet::tcp(tx, VIP_ONE);
        let reply = Packet::tcp(BACKEND_ONE, tx);
        let redirect = Packet::tcp(redirected, VIP_ONE);
        let request = Packet::tcp(CLIENT_TWO, VIP_ONE).flags(SYN);
        let unknown = Packet::tcp(CLIENT_TWO, VIP_ONE);
        let passed = Packet::tcp(CLIENT_TWO, STRANGER);
        rows.extend([
            row("flow, forward", family, &forward, Action::Tx),
            row("flow, reply", family, &reply, Action::Tx),
            row(
                "flow, forward, redirect",
                family,
                &redirect,
                Action::Redirect,
            ),
            row("request, to AF_XDP", family, &request, Action::Redirect),
            row("no flow, dropped", family, &unknown, Action::Drop),
            row("not ours, passed", family, &passed, Action::Pass),
        ]);
    }
    rows.extend([
        small_ring(program, "request goes on", Direction::Forward, 1),
        small_ring(program, "request starts", Direction::Forward, 0),
        small_ring(program, "response goes on", Direction::Reply, 0),
        small_ring(program, "response stops", Direction::Reply, 1),
    ]);
    install_ring(program);
    let starts = (0..ROUNDS as u32).map(|n| n.wrapping_mul(48_271) % RING);
    let frames = starts.map(|n| of_ring(n).ttl(255).build()).collect();
    let name = format!("one of {} Ki flows", RING >> 10);
    rows.push(Row {
        frames,
        floor: Floor::Chase,
        ..row(&name, Family::V4, &of_ring(0), Action::Tx)
    });
    rows
}

struct FloorRow {
    floor: Floor,
    program: FloorProgram,
    frames: Vec<Vec<u8>>,
    samples: Vec<u64>,
}

/// A new interface, to have somewhere to attach to.
fn interface(name: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {name}-peer"));
    nix::net::if_::if_nametoindex(name).unwrap()
}

fn floors(rows: &[Row], flows: RawFd) -> Vec<FloorRow> {
    let kinds = [
        Floor::Empty,
        Floor::Lookup(Family::V4),
        Floor::Lookup(Family::V6),
        Floor::Chase,
    ];
    let floor = |floor: Floor| {
        let row = rows
            .iter()
            .find(|row| row.floor == floor)
            .unwrap_or(&rows[0]);
        let mut program = floor.load(flows);
        program.attach(interface(
            &format!("{floor:?}").to_lowercase().replace(['(', ')'], ""),
        ));
        FloorRow {
            floor,
            program,
            // Not in the same order, or it would warm the cache for the row that follows.
            frames: row.frames.iter().rev().cloned().collect(),
            samples: Vec::new(),
        }
    };
    kinds.map(floor).into()
}

fn measure(program: &mut Program, rows: &mut [Row], floors: &mut [FloorRow]) {
    for round in 0..ROUNDS {
        for floor in &mut *floors {
            let frame = &floor.frames[round % floor.frames.len()];
            let (nanoseconds, action) = floor.program.time(frame, REPEAT);
            let hit = if floor.floor == Floor::Empty { 1 } else { 3 };
            assert_eq!(action, hit, "{:?}: the last run is a hit", floor.floor);
            floor.samples.push(nanoseconds);
        }
        for row in &mut *rows {
            for (key, entry) in &row.fresh {
                program.put(key, entry);
            }
            let frame = &row.frames[round % row.frames.len()];
            let (nanoseconds, action) = program.time(frame, REPEAT);
            assert_eq!(action, row.expected, "{}: the last run is one", row.name);
            row.samples.push(nanoseconds);
        }
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
    let mut program = Program::of(Sizes {
        flows: FLOWS.max_entries,
        ..Sizes::default()
    });
    let socket = PuntSocket::open();
    program.attend(0, &socket);
    program.link(INGRESS, 0, 1);
    program.attach(INGRESS);
    for kind in Kind::ALL {
        program.measure(BACKEND, kind);
    }
    let flows = program.flows_info.fd().unwrap();
    let flows = flows.as_fd().as_raw_fd();
    let mut rows = rows(&mut program);
    let mut floors = floors(&rows, flows);
    measure(&mut program, &mut rows, &mut floors);
    let bytes = bytes_of_a_flow(flows);
    if std::env::args().any(|argument| argument == "--json") {
        print_json(&rows, &floors, bytes);
    } else {
        print_table(&rows, &floors, bytes);
    }
}

/// Name, family, nanoseconds, and how many times its floor.
fn results(rows: &[Row], floors: &[FloorRow]) -> Vec<(String, String, f64, Option<f64>)> {
    let of_floor = |floor: Floor| {
        let row = floors.iter().find(|row| row.floor == floor);
        median(&row.expect("every floor is measured").samples)
    };
    let floor_rows = floors.iter().map(|row| {
        let (name, family) = match row.floor {
            Floor::Empty => ("an empty program", "-".into()),
            Floor::Lookup(family) => ("floor: one lookup", format!("{family:?}")),
            Floor::Chase => ("floor: one lookup of many", "V4".into()),
        };
        (name.to_owned(), family, median(&row.samples), None)
    });
    let program_rows = rows.iter().map(|row| {
        let nanoseconds = median(&row.samples);
        let ratio = nanoseconds / of_floor(row.floor);
        (
            row.name.clone(),
            format!("{:?}", row.family),
            nanoseconds,
            Some(ratio),
        )
    });
    floor_rows.chain(program_rows).collect()
}

fn print_table(rows: &[Row], floors: &[FloorRow], bytes: u64) {
    println!(
        "{:<28} {:>6} {:>10} {:>9}",
        "packet", "family", "ns", "of floor"
    );
    for (name, family, nanoseconds, ratio) in results(rows, floors) {
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        println!("{name:<28} {family:>6} {nanoseconds:>10.1} {ratio:>9}");
    }
    println!("\nmedian of {ROUNDS} rounds of {REPEAT} runs; the test run itself is in every row");
    println!("kernel memory of a flow: {bytes} bytes, both entries and their table");
}

fn print_json(rows: &[Row], floors: &[FloorRow], bytes: u64) {
    let rows: Vec<_> = results(rows, floors)
        .into_iter()
        .map(|(name, family, nanoseconds, ratio)| {
            serde_json::json!({
                "packet": name,
                "family": family,
                "nanoseconds": nanoseconds,
                "times_floor": ratio,
            })
        })
        .collect();
    let report = serde_json::json!({ "program": rows, "kernel_bytes_per_flow": bytes });
    println!("{report:#}");
}
