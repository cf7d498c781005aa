//! Minutes of floods, one manner after the other, while clients connect: what they met with is
//! printed, and the clients get in wherever an attacker does not play a client.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dispatcher_common::verdict::DropReason;
use dispatcher_tests::capture::Capture;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::flood::{Flood, Manner, ask};
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::topology::{Family, Topology};
use dispatcher_tests::{PATIENCE, eventually, server};

/// How long each flood is, seconds; another number by [`SECONDS_VARIABLE`].
const SECONDS_DEFAULT: u64 = 60;
/// Names another duration.
const SECONDS_VARIABLE: &str = "SOAK_SECONDS";
const CEILING: u32 = 32;
const CLIENTS: usize = 32;
/// Resident memory that a flood may cost after the first of its kind, bytes.
const GROWTH_MAX: u64 = 2 << 20;

/// A flood, and what clients may expect.
struct Attack {
    what: &'static str,
    manner: Manner,
    /// 99 of a hundred are served, half of them within 1.5 s.
    withstood: bool,
}

const ATTACKS: [Attack; 4] = [
    Attack {
        what: "as fast as the machine can",
        manner: Manner {
            rate: None,
            again: None,
        },
        withstood: true,
    },
    Attack {
        what: "10 000 a second",
        manner: Manner {
            rate: Some(10_000),
            again: None,
        },
        withstood: true,
    },
    Attack {
        what: "1000 a second, too few for the rate",
        manner: Manner {
            rate: Some(1000),
            again: None,
        },
        withstood: true,
    },
    Attack {
        what: "2000 a second, each sent again after a second",
        manner: Manner {
            rate: Some(2000),
            again: Some(Duration::from_secs(1)),
        },
        withstood: false,
    },
];

#[test]
fn clients_get_in_through_minutes_of_floods() {
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("SOAK_SECONDS is a number of seconds")
    });
    let topology = Topology {
        backends: 2,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let _servers = on_all(&lab, || server::http(Duration::ZERO));
    let mut config = Config::new(&lab, Family::V4, CEILING);
    config.web().queue_timeout = "5s";
    config.web().flood = "hold = \"2s\"";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    // What every flood takes once: rings, tables, the allocator's reserves.
    drop(Flood::start(&lab, service, 7, Manner::default()));
    let warm_up = Flood::start(&lab, service, 8, Manner::default());
    sleep(Duration::from_secs(3));
    drop(warm_up);
    eventually(6 * PATIENCE, "the flood is over", || !is_on(&daemon));

    for (seed, attack) in (1..).zip(ATTACKS) {
        let half_open: Vec<_> = lab
            .backends()
            .iter()
            .map(|node| Sampler::start_half_open(node, BACKEND_PORT))
            .collect();
        let (memory, before) = (daemon.memory().unwrap(), daemon.status());
        let began = Instant::now();
        let wires: Vec<_> = lab
            .backends()
            .iter()
            .map(|node| Capture::start(node).unwrap())
            .collect();
        let flood = Flood::start(&lab, service, seed, attack.manner);
        let met = ask(&lab, service, CLIENTS, Duration::from_secs(seconds));
        let rate = flood.sent() as f64 / began.elapsed().as_secs_f64();
        assert!(is_on(&daemon) || !attack.withstood, "{}", daemon.log());
        drop(flood);
        let (grown, status) = (
            daemon.memory().unwrap().saturating_sub(memory),
            daemon.status(),
        );
        let most = std::iter::zip(lab.backends(), wires)
            .map(|(node, wire)| most_half_open(wire, node.at(Family::V4, BACKEND_PORT)))
            .max()
            .unwrap();
        let more = |reason| status.dropped(reason) - before.dropped(reason);
        println!(
            "{}: {rate:.0} SYNs a second; {} of {} requests served ({:.2} %), connected within \
             {:.3} s (median), {:.3} s (99 %); at most {most} half-open at a back-end; {} KiB \
             more; {} unproven, {} by full sockets; errors {:?}",
            attack.what,
            met.connect.len(),
            met.asked(),
            100.0 * met.served(),
            met.percentile(50).as_secs_f64(),
            met.percentile(99).as_secs_f64(),
            grown >> 10,
            more(DropReason::Unproven),
            more(DropReason::ReceiveFull),
            met.errors.iter().take(3).collect::<Vec<_>>(),
        );
        status.assert_balanced();
        assert_eq!(status.dropped(DropReason::BadChecksum), 0);
        assert!(most <= CEILING as usize, "{most} half-open connections");
        assert!(grown <= GROWTH_MAX, "{grown} bytes more");
        if attack.withstood {
            assert!(met.served() >= 0.99, "{:?}", met.errors);
            assert!(met.percentile(50) < Duration::from_millis(1500));
        }
        eventually(40 * PATIENCE, "the flood is over", || !is_on(&daemon));
        assert_settles(&daemon);
        // A look is a moment old; by itself a back-end would wait for a minute.
        eventually(PATIENCE / 4, "no back-end waits for a stranger", || {
            half_open.iter().all(|sampler| sampler.now() == 0)
        });
    }
    daemon.finish().unwrap();
}

fn most_half_open(wire: Capture, backend: SocketAddr) -> usize {
    let wire = wire.stop().expect("nothing is lost");
    wire.most_half_open(backend)
}

fn is_on(daemon: &Daemon) -> bool {
    daemon.status().0["services"][0]["flood"]["on"] == true
}
