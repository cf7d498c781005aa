//! The same scenario over every shape of network and both ways of attaching.

use dispatcher_tests::scenario::holds_in;
use dispatcher_tests::topology::{Family, Shape, Vlans};

fn holds(shape: Shape, attach_mode: &'static str, family: Family) {
    holds_in(shape, Vlans::None, attach_mode, family);
}

#[test]
fn two_armed_native_ipv4() {
    holds(Shape::TwoArmed, "native", Family::V4);
}

#[test]
fn two_armed_native_ipv6() {
    holds(Shape::TwoArmed, "native", Family::V6);
}

#[test]
fn two_armed_generic_ipv4() {
    holds(Shape::TwoArmed, "generic", Family::V4);
}

#[test]
fn two_armed_generic_ipv6() {
    holds(Shape::TwoArmed, "generic", Family::V6);
}

#[test]
fn one_armed_native_ipv4() {
    holds(Shape::OneArmed, "native", Family::V4);
}

#[test]
fn one_armed_native_ipv6() {
    holds(Shape::OneArmed, "native", Family::V6);
}

#[test]
fn one_armed_generic_ipv4() {
    holds(Shape::OneArmed, "generic", Family::V4);
}

#[test]
fn one_armed_generic_ipv6() {
    holds(Shape::OneArmed, "generic", Family::V6);
}
