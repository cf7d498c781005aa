//! A million connections of all kinds, while whatever can go wrong does, by a schedule that a seed
//! decides: nothing is lost, nothing is left.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dispatcher_common::flow::Direction;
use dispatcher_common::header::TcpFlags;
use dispatcher_tests::churn::Stop;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::kernel::tcp_counter;
use dispatcher_tests::raw::Crowd;
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::assert_settles;
use dispatcher_tests::server::{self, Count, Server, reset_on_close};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::wire::Segment;
use dispatcher_tests::{PATIENCE, client, eventually};

/// How long, seconds; it lasts until the connections were made, too.
const SECONDS: (&str, u64) = ("SOAK_SECONDS", 30 * 60);
/// How many connections.
const CONNECTIONS: (&str, u64) = ("SOAK_CONNECTIONS", 1_000_000);
/// What everything follows from; by default the time.
const SEED: &str = "SOAK_SEED";

/// Connections at once, more than the back-ends are given: so requests wait, too.
const CLIENTS: usize = 32;
/// Of each of the three back-ends.
const CEILING: u32 = 8;
const BACKENDS: u8 = 3;
/// Between two faults, milliseconds: at least, and so many more.
const PAUSE_MS: (u64, u64) = (300, 1500);
/// SYNs of a burst, each from somebody who never answers: half more than all back-ends are given.
const BURST: u64 = 36;
/// What a download is: 256 KiB that do not repeat.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(0);
    let words = (0..32 << 10).map(|_| random.next().to_be_bytes());
    words.flatten().collect()
});
/// Resident memory that may come in the last quarter, bytes: what soak_memory allows.
const GROWTH_MAX: u64 = 4 << 20;

fn setting((variable, default): (&str, u64)) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What there is to be disturbed.
struct World<'lab> {
    lab: &'lab Lab,
    service: SocketAddr,
    config: Config,
    daemon: Daemon<'lab>,
    servers: Vec<Server>,
    random: Random,
    /// Requests received by daemons that are gone.
    received: u64,
    /// Back-ends that were killed, and the connections that these had accepted.
    killed: u64,
    accepted: u64,
    /// Requests that nobody stands behind.
    forged: u64,
}

/// Something that goes wrong. It is over, or will be by itself, when it returns.
type Fault = (&'static str, fn(&mut World<'_>));

/// Each is as likely as any other.
const FAULTS: &[Fault] = &[
    ("kill", kill),
    ("restart", restart),
    ("flood", flood),
    ("forged resets", forge),
    ("neighbours forgotten", forget_neighbours),
    ("another route", change_route),
    ("another configuration", reload),
    ("drain and resume", drain_and_resume),
    ("back-end killed", kill_backend),
];

impl World<'_> {
    /// What the daemon says of requests adds up, at any moment.
    fn close_books(&mut self) {
        let status = self.daemon.status();
        status.assert_balanced();
        self.received += status.requests("received");
    }
}

fn kill(world: &mut World<'_>) {
    world.close_books();
    world.daemon.crash().unwrap();
    world.daemon.restart().unwrap();
}

fn restart(world: &mut World<'_>) {
    world.close_books();
    assert!(world.daemon.stop().unwrap().success());
    world.daemon.restart().unwrap();
}

/// Requests from addresses that nobody has, in the network for benchmarks (RFC 2544).
fn flood(world: &mut World<'_>) {
    let crowd = Crowd::of_clients(world.lab).unwrap();
    let mut stranger = || {
        let [a, b, c, d, port @ ..] = world.random.next().to_be_bytes();
        let ip = Ipv4Addr::new(198, 18 + a % 2, b, c);
        let port = 1024 | u16::from_be_bytes([port[0], port[1]]);
        (SocketAddr::new(IpAddr::V4(ip), port), u32::from(d))
    };
    let segments: Vec<_> = (0..BURST)
        .map(|_| {
            let (from, isn) = stranger();
            Segment::new(from, world.service, TcpFlags::SYN, isn, 0)
        })
        .collect();
    crowd.send(&segments).unwrap();
    world.forged += BURST;
}

/// RSTs to both ends of every flow, at sequence numbers that neither can expect.
fn forge(world: &mut World<'_>) {
    const FAR: u32 = 1 << 31;
    let table = world.daemon.flow_table().unwrap();
    let (mut to_backends, mut to_clients) = (Vec::new(), Vec::new());
    table
        .for_each(|key, entry| {
            let address =
                |ip: dispatcher_common::addr::Addr, port: u16| SocketAddr::new(ip.ip(), port);
            let (from, to) = (
                address(key.src, key.src_port.number()),
                address(key.dst, key.dst_port.number()),
            );
            let seq = entry.track.seq_end.wrapping_add(FAR);
            let forged = Segment::new(from, to, TcpFlags::RST, seq, 0);
            match entry.translation.direction() {
                Direction::Forward => to_backends.push(forged),
                Direction::Reply => to_clients.push(forged),
            }
        })
        .unwrap();
    Crowd::of_clients(world.lab)
        .unwrap()
        .send(&to_backends)
        .unwrap();
    Crowd::of_backends(world.lab)
        .unwrap()
        .send(&to_clients)
        .unwrap();
}

fn forget_neighbours(world: &mut World<'_>) {
    for interface in world.lab.topology().interfaces() {
        let flush = ["ip", "neigh", "flush", "dev", interface];
        world.lab.dispatcher().run(&flush).unwrap();
    }
}

/// A way to one back-end of its own, or none again.
fn change_route(world: &mut World<'_>) {
    let i = world.random.below(u64::from(BACKENDS)) as usize;
    let to = world.lab.backend(i).ip(Family::V4).to_string();
    let device = world.lab.topology().backend_side();
    for word in ["replace", "delete"] {
        let route = ["ip", "route", word, &to, "dev", &device];
        world.lab.dispatcher().run(&route).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}

/// Back-ends in another order, of other weights, and sometimes one fewer for a while.
fn reload(world: &mut World<'_>) {
    let mut config = world.config.clone();
    let random = &mut world.random;
    let by = random.below(u64::from(BACKENDS)) as usize;
    config.web().backends.rotate_left(by);
    for backend in &mut config.web().backends {
        backend.weight = 1 + random.below(3) as u32;
    }
    if random.below(2) == 0 {
        config.web().backends.pop();
        world.daemon.reload(&config).unwrap();
        thread::sleep(Duration::from_millis(random.below(500)));
    }
    world.daemon.reload(&world.config).unwrap();
}

fn drain_and_resume(world: &mut World<'_>) {
    let name = format!("web/web-{}", 1 + world.random.below(u64::from(BACKENDS)));
    world.daemon.ask(&["drain", &name]).unwrap();
    thread::sleep(Duration::from_millis(world.random.below(500)));
    world.daemon.ask(&["resume", &name]).unwrap();
}

/// What listens at it ends, and what it served is cut; a moment later it is there again.
fn kill_backend(world: &mut World<'_>) {
    let i = world.random.below(world.servers.len() as u64) as usize;
    let gone = world.servers.remove(i);
    let count = Arc::clone(gone.count());
    drop(gone);
    world.killed += 1;
    world.accepted += count.peers().len() as u64;
    thread::sleep(Duration::from_millis(world.random.below(1000)));
    let server = Server::start(world.lab.backend(i), BACKEND_PORT, serve);
    world.servers.insert(i, server.unwrap());
}

/// What a client does with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Asks for a page; the back-end closes.
    Page,
    /// Talks and closes.
    Talk,
    /// Closes its own direction first, and reads on.
    HalfClose,
    /// Fetches what takes many packets.
    Download,
    /// Resets as soon as it is connected.
    ResetAtOnce,
    /// Resets in the middle of an answer.
    ResetWithin,
}

const KINDS: [Kind; 6] = [
    Kind::Page,
    Kind::Talk,
    Kind::HalfClose,
    Kind::Download,
    Kind::ResetAtOnce,
    Kind::ResetWithin,
];

/// Answers `G` with a page, `D` with a download, and `E` with what comes after it.
fn serve(stream: &mut TcpStream, count: &Count) -> io::Result<()> {
    let mut asked = [0];
    stream.read_exact(&mut asked)?;
    match asked {
        [b'G'] => {
            server::read_head(stream)?;
            server::respond(stream)
        }
        [b'D'] => stream.write_all(&CONTENT),
        _ => server::echo(stream, count),
    }
}

/// What clients did.
#[derive(Default)]
struct Tally {
    begun: AtomicU64,
    /// To their end as it should be.
    made: AtomicU64,
    /// Cut, because the back-end was killed.
    cut: AtomicU64,
    /// The longest way to a connection, milliseconds.
    longest: AtomicU64,
}

/// One connection after the other, of a kind that the seed decides.
fn keep_connecting(service: SocketAddr, seed: u64, tally: &Tally, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let number = tally.begun.fetch_add(1, Ordering::Relaxed);
        let kind = KINDS[Random(seed ^ number).below(KINDS.len() as u64) as usize];
        let asked = Instant::now();
        let mut stream = match client::connect(service) {
            Ok(stream) => stream,
            // The back-end had taken it, and was killed before the client had looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                tally.cut.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Err(error) => panic!("connection {number} was not made: {error}"),
        };
        let took = asked.elapsed().as_millis() as u64;
        tally.longest.fetch_max(took, Ordering::Relaxed);
        let done = match talk(&mut stream, kind) {
            Ok(()) => &tally.made,
            Err(_) => &tally.cut,
        };
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn talk(stream: &mut TcpStream, kind: Kind) -> io::Result<()> {
    let right = |is: bool| match is {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    };
    match kind {
        Kind::Page => {
            client::get(stream, "/", false)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            right(answer.starts_with("HTTP/1.1 200"))
        }
        Kind::Talk => {
            stream.write_all(b"E")?;
            (0..3).try_for_each(|_| right(client::exchange(stream, b"hello")? == b"hello"))
        }
        Kind::HalfClose => {
            stream.write_all(b"Elast words")?;
            stream.shutdown(Shutdown::Write)?;
            let mut back = Vec::new();
            stream.read_to_end(&mut back)?;
            right(back == b"last words")
        }
        Kind::Download => {
            stream.write_all(b"D")?;
            let mut content = Vec::with_capacity(CONTENT.len());
            stream.read_to_end(&mut content)?;
            right(content == *CONTENT)
        }
        Kind::ResetAtOnce => reset_on_close(stream),
        Kind::ResetWithin => {
            stream.write_all(b"D")?;
            stream.read_exact(&mut [0; 1000])?;
            reset_on_close(stream)
        }
    }
}

#[test]
fn a_million_connections_and_every_fault_leave_nothing_behind() {
    let (seconds, connections) = (setting(SECONDS), setting(CONNECTIONS));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting((SEED, now.as_secs()));
    println!("{SEED}={seed}: {connections} connections, {seconds} s at least");
    let topology = Topology {
        clients: 2,
        backends: BACKENDS,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    for node in lab.clients() {
        // Every port that there is, because each one rests after its connection.
        let ports = [("ipv4/ip_local_port_range", "1024 65535")];
        node.sysctl(&ports).unwrap();
    }
    let serving = |i| Server::start(lab.backend(i), BACKEND_PORT, serve).unwrap();
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.on_exit = "keep";
    config.web().queue_timeout = "60s";
    config.web().overflow = "drop";
    config.web().handshake_timeout = "2s";
    let mut world = World {
        lab: &lab,
        service: lab.service(Family::V4, SERVICE_PORT),
        daemon: Daemon::start(&lab, &config).unwrap(),
        config,
        servers: (0..usize::from(BACKENDS)).map(serving).collect(),
        random: Random(seed),
        received: 0,
        killed: 0,
        accepted: 0,
        forged: 0,
    };
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    let descriptors = world.daemon.descriptors().unwrap();

    let (tally, over) = (&Tally::default(), &AtomicBool::new(false));
    let started = Instant::now();
    let mut faults = [0_u64; FAULTS.len()];
    let (mut warm, mut most) = (None, 0);
    thread::scope(|scope| {
        let service = world.service;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|i| {
                let node = lab.client(i % lab.clients().len());
                let connect = move || keep_connecting(service, seed, tally, over);
                scope.spawn(move || node.enter(connect))
            })
            .collect();
        // Stopped also when this panics, or the clients would never end.
        let _stop = Stop(over);
        loop {
            let time = started.elapsed().as_secs_f64() / seconds as f64;
            let share = tally.begun.load(Ordering::Relaxed) as f64 / connections as f64;
            let done = time.min(share);
            if done >= 1.0 || clients.iter().any(ScopedJoinHandle::is_finished) {
                break;
            }
            // In the last quarter one daemon lives through everything else: it may not grow.
            let fault = world.random.below(FAULTS.len() as u64) as usize;
            let (name, run) = FAULTS[fault];
            if done < 0.75 || !matches!(name, "kill" | "restart") {
                let (at, made) = (started.elapsed(), tally.begun.load(Ordering::Relaxed));
                println!("{:8.1} s, connection {made}: {name}", at.as_secs_f64());
                run(&mut world);
                faults[fault] += 1;
            }
            world.daemon.status().assert_balanced();
            world.daemon.metrics().unwrap();
            if done >= 0.875 {
                let memory = world.daemon.memory().unwrap();
                warm.get_or_insert(memory);
                most = most.max(memory);
            }
            let pause = PAUSE_MS.0 + world.random.below(PAUSE_MS.1);
            thread::sleep(Duration::from_millis(pause));
        }
    });
    assert_settles(&world.daemon);
    world.close_books();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (made, cut) = (count(&tally.made), count(&tally.cut));
    let warm = warm.expect("a look in the last eighth");
    println!(
        "{made} connections in {:?}, {cut} cut, {} requests received; the longest way to a \
         connection {} ms; resident {} KiB after seven eighths, at most {} KiB since",
        started.elapsed(),
        world.received,
        count(&tally.longest),
        warm >> 10,
        most >> 10,
    );
    for ((name, _), times) in FAULTS.iter().zip(faults) {
        println!("{times:6} {name}");
    }
    assert_eq!(made + cut, count(&tally.begun));
    assert!(made + cut >= connections);
    // Not by the servers themselves: their threads hear of a reset when they are at it.
    for (i, sampler) in samplers.iter().enumerate() {
        let most = sampler.most();
        assert!(most <= CEILING as usize, "back-end {i} had {most} at once");
    }
    let accepted = world.servers.iter().map(|server| {
        assert_eq!(server.count().active(), 0);
        server.count().peers().len() as u64
    });
    let accepted = world.accepted + accepted.sum::<u64>();
    // Reset before the back-end had heard that the handshake was over.
    let nodes = lab.backends().iter();
    let early: u64 = nodes.map(|node| tcp_counter(node, "EmbryonicRsts")).sum();
    println!("{accepted} accepted, {early} reset before that");
    // A back-end that is killed takes along what it holds: accepted, or not yet.
    let lost = world.killed * u64::from(CEILING);
    assert!(
        cut <= lost,
        "{cut} were cut, by {} killed back-ends",
        world.killed
    );
    let at_backends = accepted + early;
    assert!(
        (made.saturating_sub(lost)..=made + cut + world.forged).contains(&at_backends),
        "each connection is at a back-end once, and a forged one until it is reset"
    );
    let entries = world.daemon.flow_entries().unwrap();
    assert_eq!(entries, 0, "entries are left in the program's table");
    eventually(PATIENCE, "every descriptor is closed", || {
        world.daemon.descriptors().unwrap() <= descriptors
    });
    assert!(
        most <= warm + GROWTH_MAX,
        "{} KiB more",
        (most - warm) >> 10
    );
    world.daemon.finish().unwrap();
}
