//! How long a daemon takes to start over flows that an earlier one left: 1, 100 000 and 1 000 000
//! established connections of two back-ends. `cargo bench -p dispatcher-tests --bench adoption`
//!
//! The flows are put into the table of a daemon that has stopped, as it would have put them there.
//! Measured is from the start of the process until it answers over its admin socket, and what time
//! on a processor that took; on a busy machine only the latter means something.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use dispatcher_common::addr::Port;
use dispatcher_common::flow::{FlowKey, FlowPair, FlowSpec};
use dispatcher_common::link::NextHop;
use dispatcher_common::tcp::Phase;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_user::datapath::FlowTable;

const SIZES: [u32; 3] = [1, 100_000, 1_000_000];
const ROUNDS: usize = 3;

fn main() {
    for size in SIZES {
        let lab = Topology::default().up().unwrap();
        let mut config = Config::new(&lab, Family::V4, size);
        config.on_exit = "keep";
        config.flow_capacity = size.max(4096);
        config.web().idle_timeout = "24h";
        let mut daemon = Daemon::start(&lab, &config).unwrap();
        daemon.stop().unwrap();
        fill(&lab, &daemon, size);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            daemon.restart().unwrap();
            let (ready, used) = (started.elapsed(), daemon.processor_time().unwrap());
            let status = daemon.status();
            assert_eq!(status.flows(), u64::from(size), "all are counted");
            assert_eq!(status.active(), u64::from(size));
            println!(
                "{size:9} flows: {ready:?} to the first answer, {used:?} of a processor, {} MiB",
                daemon.memory_peak().unwrap() >> 20
            );
            daemon.crash().unwrap();
        }
        daemon.restart().unwrap();
        daemon.finish().unwrap();
    }
}

fn fill(lab: &Lab, daemon: &Daemon<'_>, size: u32) {
    let mut table = FlowTable::open_pinned(&daemon.files().pin_path).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    for flow in 0..size {
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
        table.install(&pair).unwrap();
    }
}
