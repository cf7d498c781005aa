//! Starts of the daemon over flows that an earlier one left. The flows are put into the table of a
//! daemon that has stopped, as it would have put them there.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dispatcher_common::addr::Port;
use dispatcher_common::flow::{FlowKey, FlowPair, FlowSpec};
use dispatcher_common::link::NextHop;
use dispatcher_common::maps::FLOWS;
use dispatcher_common::tcp::Phase;

use crate::config::{BACKEND_PORT, Config, SERVICE_PORT};
use crate::daemon::Daemon;
use crate::topology::{Family, Lab, Topology};

/// The least room for flows that the daemon is given.
const CAPACITY_LEAST: u32 = 4096;

/// A start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Established connections that it found, of two back-ends.
    pub flows: u32,
    /// Flows that the table has room for.
    pub capacity: u32,
    /// From the start of the process until it answered over its admin socket.
    pub ready: Duration,
    /// Time on a processor that this took.
    pub used: Duration,
    /// The most memory that the daemon had, bytes.
    pub memory_peak: u64,
    /// Memory of the table in the kernel, bytes.
    pub table: u64,
}

/// So many starts over so many flows, in a lab of their own.
pub fn starts(flows: u32, count: usize) -> Result<Vec<Start>> {
    let lab = Topology::default().up()?;
    let mut config = Config::new(&lab, Family::V4, flows);
    config.on_exit = "keep";
    config.flow_capacity = flows.max(CAPACITY_LEAST);
    config.web().idle_timeout = "24h";
    let mut daemon = Daemon::start(&lab, &config)?;
    daemon.stop()?;
    fill(&lab, &daemon, flows)?;
    let mut starts = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        daemon.restart()?;
        let (ready, used) = (started.elapsed(), daemon.processor_time()?);
        let status = daemon.status();
        let found = [status.flows(), status.active()];
        ensure!(
            found == [u64::from(flows); 2],
            "of {flows} flows it found {found:?}"
        );
        starts.push(Start {
            flows,
            capacity: config.flow_capacity,
            ready,
            used,
            memory_peak: daemon.memory_peak()?,
            table: table_bytes(&lab, &daemon)?,
        });
        daemon.crash()?;
    }
    daemon.restart()?;
    daemon.finish()?;
    Ok(starts)
}

/// Memory of the daemon's flow table, by the kernel's own account.
fn table_bytes(lab: &Lab, daemon: &Daemon<'_>) -> Result<u64> {
    let pin = daemon.files().pin_path.join(FLOWS.name);
    let pin = pin.to_string_lossy();
    let line = ["bpftool", "--json", "map", "show", "pinned", &pin];
    let told: serde_json::Value = serde_json::from_str(&lab.dispatcher().run(&line)?)?;
    let bytes = told["bytes_memlock"].as_u64();
    bytes.ok_or_else(|| anyhow::anyhow!("bpftool says {told}"))
}

fn fill(lab: &Lab, daemon: &Daemon<'_>, flows: u32) -> Result<()> {
    let mut table = daemon.flow_table()?;
    let service = lab.service(Family::V4, SERVICE_PORT);
    for flow in 0..flows {
        let backend = flow % 2;
        // 2^14 ports of each address in the network for benchmarks (RFC 2544).
        let [_, _, high, low] = (flow >> 14).to_be_bytes();
        let client = IpAddr::V4(Ipv4Addr::new(198, 18, high, low));
        let port = 1024 + (flow & 0x3fff) as u16;
        let mut pair = FlowPair::new(&FlowSpec {
            key: FlowKey::new(
                client.into(),
                Port::new(port),
                service.ip().into(),
                Port::new(service.port()),
            ),
            backend_addr: lab.backend(backend as usize).ip(Family::V4).into(),
            backend_port: Port::new(BACKEND_PORT),
            backend,
            flow,
            generation: flow + 1,
            isn: flow,
            now_ticks: 0,
            asked: 0,
            to_backend: NextHop::UNKNOWN,
            to_client: NextHop::UNKNOWN,
        });
        let established = Phase::ANSWERED.with(Phase::ESTABLISHED);
        pair.forward.phase = established.0;
        pair.reply.phase = established.0;
        table.install(&pair)?;
    }
    Ok(())
}
