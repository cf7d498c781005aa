//! VLANs as the kernel knows them: devices like `front.100`, a bridge that tags. For kernels that
//! have both (8021q, bridge VLAN filtering); elsewhere these tests are ignored rather than passed,
//! and `cargo xtask test vm` runs them. What any kernel can do is in `netns_vlan.rs`.

use std::sync::Arc;
use std::time::Duration;

use dispatcher_tests::config::SERVICE_PORT;
use dispatcher_tests::scenario::{everybody_answers, holds_in};
use dispatcher_tests::topology::{ENDPOINT_DEVICE, Family, Shape, Topology, Vlans};
use dispatcher_user::network::{Network, NetworkView, Way};

const VLANS: Vlans = Vlans::Devices(100, 200);

#[test]
#[ignore = "takes a kernel with VLAN devices: cargo xtask test vm"]
fn clients_reach_backends_and_the_service_address() {
    for shape in [Shape::TwoArmed, Shape::OneArmed] {
        for queues in [1, 4] {
            let topology = Topology {
                clients: 2,
                shape,
                vlans: VLANS,
                queues,
                ..Topology::default()
            };
            topology.ensure_supported().unwrap();
            everybody_answers(&topology.up().unwrap());
        }
    }
}

#[test]
#[ignore = "takes a kernel with VLAN devices: cargo xtask test vm"]
fn two_armed_native() {
    holds_in(Shape::TwoArmed, VLANS, "native", Family::V4);
    holds_in(Shape::TwoArmed, VLANS, "native", Family::V6);
}

#[test]
#[ignore = "takes a kernel with VLAN devices: cargo xtask test vm"]
fn two_armed_generic() {
    holds_in(Shape::TwoArmed, VLANS, "generic", Family::V4);
}

#[test]
#[ignore = "takes a kernel with VLAN devices: cargo xtask test vm"]
fn one_armed_native() {
    holds_in(Shape::OneArmed, VLANS, "native", Family::V4);
    holds_in(Shape::OneArmed, VLANS, "native", Family::V6);
}

#[test]
#[ignore = "takes a kernel with VLAN devices: cargo xtask test vm"]
fn a_back_end_on_a_vlan_leaves_by_the_interface_under_it() {
    const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);
    let topology = Topology {
        vlans: VLANS,
        ..Topology::default()
    };
    topology.ensure_supported().unwrap();
    let lab = topology.up().unwrap();
    let dispatcher = lab.dispatcher();
    let device = topology.backend_side();
    dispatcher
        .run(&["ip", "link", "set", &device, "mtu", "1400"])
        .unwrap();
    let target = lab.backend(0).at(Family::V4, SERVICE_PORT).ip();
    let neighbour = lab.backend(0).mac(ENDPOINT_DEVICE).unwrap();
    let own = dispatcher.mac(&device).unwrap();
    let story = async {
        let interfaces = topology.interfaces().iter().map(ToString::to_string);
        let interfaces: Vec<_> = interfaces.collect();
        let (network, views) = Network::start(&interfaces, 0).await.unwrap();
        network.set_targets([target]);
        let until = |holds: fn(&Way) -> bool| {
            let mut views = views.clone();
            async move {
                let found = views.wait_for(|view| view.way(target).is_some_and(holds));
                let found = tokio::time::timeout(FOLLOWS_WITHIN, found).await;
                Arc::<NetworkView>::clone(&found.expect("the view follows").unwrap())
            }
        };
        let view = until(|way| matches!(way, Way::Via(_))).await;
        let Some(Way::Via(hop)) = view.way(target) else {
            unreachable!("it was there a line ago");
        };
        let physical = nix::net::if_::if_nametoindex("back").unwrap();
        assert_eq!((hop.ifindex, hop.vlan, hop.mtu), (physical, 200, 1400));
        assert_eq!((hop.dst.0, hop.src.0), (neighbour, own));
        let link = &view.links[&nix::net::if_::if_nametoindex(&*device).unwrap()];
        assert_eq!((link.device, link.vlan), (physical, 200));

        dispatcher.run(&["ip", "link", "delete", &device]).unwrap();
        until(|way| matches!(way, Way::Unresolved { why } if why.contains("no route"))).await;
    };
    dispatcher.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(story);
    });
}
