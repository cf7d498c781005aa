//! What a request that waits takes of the daemon's memory: resident with a full queue, against the
//! same daemon with an empty one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dispatcher_common::header::TcpFlags;
use dispatcher_tests::config::{Config, SERVICE_PORT, Service};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::raw::Crowd;
use dispatcher_tests::topology::{Family, Lab};
use dispatcher_tests::wire::Segment;
use dispatcher_tests::{PATIENCE, client};

/// Requests of a full queue: the most that may be configured.
const QUEUE: u32 = 65_536;
/// Requests that are sent before, to have every frame of the sockets used once.
const WARM_UP: u32 = 16_384;
/// Sent together; more at once than a socket takes would be lost, and have to be sent again.
const BATCH: u32 = 1024;
/// Port of a service whose requests find no room.
const REFUSING_PORT: u16 = 81;

/// Bytes of a request.
pub fn bytes_of_a_request(lab: &Lab) -> Result<f64> {
    let mut config = Config::new(lab, Family::V4, 1);
    config.metrics = None;
    config.web().queue_capacity = QUEUE;
    config.web().queue_timeout = "60s";
    let mut refusing = Service::new(lab, Family::V4, 1);
    refusing.name = "refusing".to_owned();
    refusing.address = lab.service(Family::V4, REFUSING_PORT);
    refusing.queue_capacity = 1;
    for backend in &mut refusing.backends {
        backend.address.set_port(backend.address.port() + 1);
    }
    config.services.push(refusing);
    for service in &mut config.services {
        service.flood = "mode = \"off\"";
    }
    let daemon = Daemon::start(lab, &config)?;
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = Vec::new();
    for _ in lab.backends() {
        held.push(lab.client(0).enter(|| client::connect(service))?);
    }

    let crowd = Crowd::of_clients(lab)?;
    let refused = lab.service(Family::V4, REFUSING_PORT);
    for first in (0..WARM_UP).step_by(BATCH as usize) {
        send(&crowd, refused, first)?;
    }
    let empty = daemon.memory()?;
    let end = Instant::now() + PATIENCE;
    while daemon.status().queued() < u64::from(QUEUE) {
        ensure!(
            Instant::now() < end,
            "the queue does not fill: {:#}",
            daemon.status().0
        );
        for first in (0..QUEUE).step_by(BATCH as usize) {
            send(&crowd, service, first)?;
        }
    }
    let full = daemon.memory()?;
    daemon.status().assert_balanced();
    drop(held);
    let more = full.checked_sub(empty).context("it has less than before")?;
    Ok(more as f64 / f64::from(QUEUE))
}

/// Requests of a batch of strangers.
fn send(crowd: &Crowd, to: SocketAddr, first: u32) -> Result<()> {
    let batch: Vec<_> = (first..first + BATCH)
        .map(|i| Segment::new(stranger(i), to, TcpFlags::SYN, i, 0))
        .collect();
    crowd.send(&batch)?;
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}

/// The i-th of many clients that nobody has heard of, in the network for benchmarks (RFC 2544).
fn stranger(i: u32) -> SocketAddr {
    let [_, a, b, c] = i.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18 + a, b, c)), 4000)
}
