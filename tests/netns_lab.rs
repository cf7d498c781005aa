//! The lab itself: wires carry traffic in every shape, and nothing is left behind.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use dispatcher_tests::netns;
use dispatcher_tests::topology::{Family, Node, Shape, Topology};

fn every_shape() -> Vec<Topology> {
    let mut all = Vec::new();
    for shape in [Shape::TwoArmed, Shape::OneArmed] {
        for vlan in [None, Some((100, 200))] {
            for queues in [1, 4] {
                all.push(Topology {
                    clients: 2,
                    shape,
                    vlan,
                    queues,
                    ..Topology::default()
                });
            }
        }
    }
    all
}

#[test]
fn clients_reach_backends_and_the_service_address_in_every_shape() {
    for topology in every_shape() {
        if let Some(reason) = topology.unsupported().unwrap() {
            println!("SKIPPED {topology:?}: {reason}");
            continue;
        }
        let started = std::time::Instant::now();
        let lab = topology.up().unwrap();
        println!("{topology:?}: up in {:?}", started.elapsed());
        for family in [Family::V4, Family::V6] {
            for client in lab.clients() {
                let backends = lab.backends().iter().map(|node| node.ip(family));
                for to in backends.chain([lab.vip(family)]) {
                    assert!(answers(client, to), "{topology:?}: {to} does not answer");
                }
            }
        }
    }
}

/// Nobody listens there, so the answer is an RST: proof of the way there and back.
fn answers(client: &Node, to: IpAddr) -> bool {
    let patience = Duration::from_secs(3);
    let result = client.enter(|| TcpStream::connect_timeout(&(to, 9).into(), patience));
    matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn nothing_is_left_of_a_lab_that_was_dropped_even_in_a_panic() {
    let (tell, told) = mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Topology::default().up().unwrap();
        tell.send(lab.prefix().to_owned()).unwrap();
        panic!("on purpose");
    });
    let prefix = told.recv().expect("the lab comes up");
    assert!(panicked.join().is_err());
    let left = netns::names().unwrap();
    assert!(
        !left.iter().any(|name| name.starts_with(&prefix)),
        "{left:?}"
    );
}
