//! As many back-ends as there may be, all checked, and half of them silent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dispatcher_tests::config::{BACKEND_PORT, Backend, Config, Service};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::eventually;
use dispatcher_tests::server::Server;
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_user::config::{BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX};
use dispatcher_user::health::CHECKS_MAX;

/// Descriptors of a daemon that checks nobody, in the lab.
const OTHER_DESCRIPTORS: usize = 100;

/// Half of each service's back-ends answer, at 10.1.0.0/16; what is sent to 10.2.0.0/16 is lost.
fn services(lab: &Lab, like: &Service) -> Vec<Service> {
    let count = (BACKENDS_MAX / BACKENDS_PER_SERVICE_MAX) as u8;
    let backend = |service: u8, number: u16| {
        let [high, low] = number.to_be_bytes();
        let ip = Ipv4Addr::new(10, 1 + low % 2, service * 16 + high, low);
        Backend {
            name: format!("b{number}"),
            address: SocketAddr::new(ip.into(), BACKEND_PORT),
            ..like.backends[0].clone()
        }
    };
    let service = |number: u8| Service {
        name: format!("s{number}"),
        address: lab.service(Family::V4, 80 + u16::from(number)),
        health: "tcp",
        backends: (0..BACKENDS_PER_SERVICE_MAX as u16)
            .map(|at| backend(number, at))
            .collect(),
        ..like.clone()
    };
    (0..count).map(service).collect()
}

/// How many back-ends are in each state.
fn states(daemon: &Daemon) -> BTreeMap<String, usize> {
    let status = daemon.status().0;
    let services = status["services"].as_array().unwrap();
    let backends = services
        .iter()
        .flat_map(|service| service["backends"].as_array().unwrap());
    let mut states = BTreeMap::new();
    for backend in backends {
        let state = backend["state"].as_str().unwrap().to_owned();
        *states.entry(state).or_default() += 1;
    }
    states
}

#[test]
fn every_back_end_is_checked_however_many_are_silent() {
    let topology = Topology {
        backends: 1,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let script = "route add 10.1.0.0/16 via 10.0.0.11\nroute add 10.2.0.0/16 via 10.0.0.11\n";
    lab.dispatcher().batch("ip", script).unwrap();
    let script = "route add local 10.1.0.0/16 dev lo\nroute add blackhole 10.2.0.0/16\n";
    lab.backend(0).batch("ip", script).unwrap();
    let server = Server::start(lab.backend(0), BACKEND_PORT, |_, _| Ok(())).unwrap();
    let mut config = Config::new(&lab, Family::V4, 8);
    config.services = services(&lab, &config.services[0]);
    let daemon = Daemon::start(&lab, &config).unwrap();

    let half = BACKENDS_MAX / 2;
    let wanted = BTreeMap::from([("down".to_owned(), half), ("up".to_owned(), half)]);
    let began = Instant::now();
    eventually(Duration::from_secs(120), "half are down", || {
        states(&daemon) == wanted
    });
    println!("half were down after {:?}", began.elapsed());
    let waited = daemon.metric("dispatcher_checks_waited_total", "").unwrap();
    assert!(waited > 0.0, "more were to be checked at once than may be");
    let open = daemon.descriptors().unwrap();
    assert!(open <= CHECKS_MAX + OTHER_DESCRIPTORS, "{open} descriptors");

    // Nobody who answers is forgotten, nor taken for one who does not.
    let (checked, used) = (
        server.count().peers().len(),
        daemon.processor_time().unwrap(),
    );
    let began = Instant::now();
    let enough = 10 * half;
    eventually(Duration::from_secs(240), "all are checked again", || {
        std::thread::sleep(Duration::from_millis(100));
        server.count().peers().len() >= checked + enough
    });
    let (took, used) = (began.elapsed(), daemon.processor_time().unwrap() - used);
    println!("{enough} good checks in {took:?}, by {used:?} of processor time");
    assert_eq!(states(&daemon), wanted);
    daemon.finish().unwrap();
}
