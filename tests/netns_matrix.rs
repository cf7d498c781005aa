//! The same scenario over every shape of network and both ways of attaching.

use dispatcher_tests::config::Config;
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::ceilings_hold;
use dispatcher_tests::skipped;
use dispatcher_tests::topology::{Family, Shape, Topology};

const CEILING: u32 = 4;
const CLIENTS: usize = 60;

/// Runs the scenario in one shape, with one and with four queues; says so if the kernel cannot.
fn holds(shape: Shape, vlan: Option<(u16, u16)>, attach_mode: &'static str, family: Family) {
    for queues in [1, 4] {
        let topology = Topology {
            clients: 2,
            backends: 2,
            shape,
            vlan,
            queues,
        };
        if let Some(reason) = topology.unsupported().unwrap() {
            skipped(&format!("{topology:?}"), reason);
            return;
        }
        let lab = topology.up().unwrap();
        let mut config = Config::new(&lab, family, CEILING);
        config.attach_mode = attach_mode;
        let daemon = Daemon::start(&lab, &config).unwrap();
        println!("{topology:?}, {attach_mode}, {family:?}");
        assert_eq!(daemon.status().0["attach_mode"], attach_mode);
        ceilings_hold(&lab, &daemon, family, CLIENTS, CEILING as usize);
        daemon.finish().unwrap();
    }
}

const VLANS: Option<(u16, u16)> = Some((100, 200));

#[test]
fn two_armed_native_ipv4() {
    holds(Shape::TwoArmed, None, "native", Family::V4);
}

#[test]
fn two_armed_native_ipv6() {
    holds(Shape::TwoArmed, None, "native", Family::V6);
}

#[test]
fn two_armed_generic_ipv4() {
    holds(Shape::TwoArmed, None, "generic", Family::V4);
}

#[test]
fn two_armed_generic_ipv6() {
    holds(Shape::TwoArmed, None, "generic", Family::V6);
}

#[test]
fn one_armed_native_ipv4() {
    holds(Shape::OneArmed, None, "native", Family::V4);
}

#[test]
fn one_armed_native_ipv6() {
    holds(Shape::OneArmed, None, "native", Family::V6);
}

#[test]
fn one_armed_generic_ipv4() {
    holds(Shape::OneArmed, None, "generic", Family::V4);
}

#[test]
fn one_armed_generic_ipv6() {
    holds(Shape::OneArmed, None, "generic", Family::V6);
}

#[test]
fn two_armed_vlans_native() {
    holds(Shape::TwoArmed, VLANS, "native", Family::V4);
    holds(Shape::TwoArmed, VLANS, "native", Family::V6);
}

#[test]
fn two_armed_vlans_generic() {
    holds(Shape::TwoArmed, VLANS, "generic", Family::V4);
}

#[test]
fn one_armed_vlans_native() {
    holds(Shape::OneArmed, VLANS, "native", Family::V4);
    holds(Shape::OneArmed, VLANS, "native", Family::V6);
}
