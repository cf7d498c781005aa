//! Back-ends that are killed and started again at random while clients are served: none of them is
//! to be refused while one back-end lives.

use std::io::{ErrorKind, Read};
use std::iter::zip;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client;
use crate::config::{BACKEND_PORT, Config, SERVICE_PORT};
use crate::daemon::Daemon;
use crate::sampler::Sampler;
use crate::scenario::assert_settles;
use crate::server::{self, Server};
use crate::topology::{Family, Lab, Topology};

/// Clients that fetch over one new connection after the other: more than the back-ends are given.
const CLIENTS: usize = 24;
/// Of each back-end.
const CEILING: u32 = 6;
/// Long enough for requests to pile up while a back-end is away.
const SERVICE_TIME: Duration = Duration::from_millis(10);
/// For how long a back-end is away, least and most, ms.
const AWAY: (u64, u64) = (20, 800);
/// For how long all are there before the next one is, ms.
const THERE: (u64, u64) = (50, 600);

/// Always the same numbers for a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn millis(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    connected: AtomicU64,
    served: AtomicU64,
    /// Their back-end was killed while it served them.
    cut: AtomicU64,
}

/// Kills and starts back-ends for `time`, in an order that `seed` decides, one at a time; panics
/// when a client cannot connect, a ceiling is exceeded, or the counts are not true in the end.
pub fn fail_under_load(time: Duration, seed: u64) {
    let topology = Topology {
        backends: 3,
        ..Topology::default()
    };
    let lab = topology.up().expect("a lab");
    let samplers: Vec<_> = lab
        .backends()
        .iter()
        .map(|node| Sampler::start(node, BACKEND_PORT))
        .collect();
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.web().queue_timeout = "30s";
    let daemon = Daemon::start(&lab, &config).expect("a daemon");
    let service = lab.service(Family::V4, SERVICE_PORT);

    let (over, seen) = (AtomicBool::new(false), Seen::default());
    let mut outages = 0;
    thread::scope(|scope| {
        let _stop = Stop(&over);
        let mut servers: Vec<_> = (0..3).map(|i| Some(start(&lab, i))).collect();
        for _ in 0..CLIENTS {
            let (lab, over, seen) = (&lab, &over, &seen);
            scope.spawn(move || {
                lab.client(0).enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        seen.fetch(service);
                    }
                });
            });
        }
        let mut random = Random(seed);
        let end = Instant::now() + time;
        while Instant::now() < end {
            let failing = random.below(3) as usize;
            let server = servers[failing].take();
            assert_within_ceiling(server, &daemon, &samplers[failing]);
            thread::sleep(random.millis(AWAY));
            servers[failing] = Some(start(&lab, failing));
            thread::sleep(random.millis(THERE));
            outages += 1;
        }
        over.store(true, Ordering::Relaxed);
        assert_settles(&daemon);
        for (server, sampler) in zip(servers, &samplers) {
            assert_within_ceiling(server, &daemon, sampler);
        }
    });

    let status = daemon.status();
    let Seen {
        connected,
        served,
        cut,
    } = seen;
    let (connected, served, cut) = (
        connected.into_inner(),
        served.into_inner(),
        cut.into_inner(),
    );
    let retried = status.requests("retried");
    println!(
        "{outages} outages: {connected} connections, {served} served, {cut} cut, {retried} put back"
    );
    assert!(outages > 0 && retried > 0);
    assert_eq!(connected, served + cut);
    for lost in ["refused", "expired", "abandoned"] {
        assert_eq!(status.requests(lost), 0, "{lost}: {:#}", status.0);
    }
    assert_eq!(status.requests("admitted"), connected);
    let refused: u64 = (0..3).map(|i| status.backend(i, "total/refused")).sum();
    let silent: u64 = (0..3).map(|i| status.backend(i, "total/silent")).sum();
    assert!(refused + silent >= retried, "{:#}", status.0);
    for (i, sampler) in samplers.iter().enumerate() {
        let most = sampler.most();
        assert!(most <= CEILING as usize, "back-end {i} had {most}");
        assert!(status.backend(i, "active_max") <= u64::from(CEILING));
    }
    daemon.finish().expect("nothing is left");
}

impl Seen {
    /// Connecting never fails; what comes after that may, when the server is killed. That may be so
    /// soon that the call which connects tells of it: a reset, not a refusal.
    fn fetch(&self, service: SocketAddr) {
        let mut stream = match client::connect(service) {
            Ok(stream) => stream,
            Err(error) => {
                let reset = error.kind() == ErrorKind::ConnectionReset;
                assert!(reset, "refused while a back-end lives: {error}");
                self.connected.fetch_add(1, Ordering::Relaxed);
                self.cut.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        self.connected.fetch_add(1, Ordering::Relaxed);
        let mut answer = String::new();
        let got =
            client::get(&mut stream, "/", false).and_then(|()| stream.read_to_string(&mut answer));
        let is_whole = got.is_ok() && answer.ends_with("ok\n");
        let count = if is_whole { &self.served } else { &self.cut };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn start(lab: &Lab, i: usize) -> Server {
    Server::start(lab.backend(i), BACKEND_PORT, server::http(SERVICE_TIME)).expect("a server")
}

/// Judged by the server's own count; what its kernel and the daemon say helps to tell why.
fn assert_within_ceiling(server: Option<Server>, daemon: &Daemon, sampler: &Sampler) {
    let Some(server) = server else { return };
    let most = server.count().most();
    assert!(
        most <= CEILING as usize,
        "a server had {most}, those of {:?}; its kernel {}; the daemon says {:#}",
        server.count().fullest(),
        sampler.most(),
        daemon.status().0
    );
}
