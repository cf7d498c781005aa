//! Stories of a network that changes: reports in, views out.

use dispatcher_common::addr::Mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::RuleMessage;

use super::link::tests::{down, ethernet, tunnel, vlan};
use super::*;

const FRONT: u32 = 2;
const VLAN: u32 = 4;
const WG0: u32 = 5;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `front` with VLAN 100 on it, a tunnel, and one back-end on the link.
fn state() -> State {
    let mut state = State::new(&["front".to_owned()]);
    let devices = Devices::from([
        (FRONT, ethernet("front", 2)),
        (VLAN, vlan("front.100", FRONT, 100, 4)),
        (WG0, tunnel("wg0")),
    ]);
    state.replace_tables(devices, Neighbours::new());
    route(&mut state, "10.0.0.2", FRONT, "10.0.0.2");
    state
}

fn route(state: &mut State, target: &str, oif: u32, next: &str) {
    let next = ip(next);
    let route = Route::Unicast {
        oif,
        next,
        mtu: None,
    };
    state.routes.insert(ip(target), route);
}

fn hears(state: &mut State, oif: u32, next: &str, now: NeighbourState, mac: Option<u8>) -> Change {
    let message = neighbour::tests::message((oif, ip(next)), now, mac);
    state.apply(&RouteNetlinkMessage::NewNeighbour(message))
}

fn first(state: &State) -> NetworkView {
    let empty = NetworkView {
        generation: 7,
        links: BTreeMap::new(),
        ways: HashMap::new(),
    };
    state.view_after(&empty, false).unwrap()
}

fn why(view: &NetworkView, target: &str) -> String {
    match view.way(ip(target)) {
        Some(Way::HostStack { why, .. }) => format!("host: {why}"),
        Some(Way::Unresolved { why }) => format!("unresolved: {why}"),
        other => panic!("{target} has the way {other:?}"),
    }
}

fn hop(view: &NetworkView, target: &str) -> NextHop {
    match view.way(ip(target)) {
        Some(Way::Via(hop)) => *hop,
        other => panic!("{target} has the way {other:?}"),
    }
}

const fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, last])
}

#[test]
fn a_back_end_on_the_link_is_reached_once_it_answers() {
    let mut state = state();
    let silent = first(&state);
    assert_eq!(
        why(&silent, "10.0.0.2"),
        "unresolved: 10.0.0.2 does not answer on front"
    );

    let change = hears(
        &mut state,
        FRONT,
        "10.0.0.2",
        NeighbourState::Reachable,
        Some(1),
    );
    assert!(change.view && change.lookups && !change.routes);
    let view = state.view_after(&silent, change.lookups).unwrap();

    assert_eq!(view.generation, silent.generation + 1);
    let expected = NextHop {
        ifindex: FRONT,
        generation: view.generation,
        dst: mac(1),
        src: Mac([2, 0, 0, 0, 0, 2]),
        vlan: 0,
        mtu: 1500,
    };
    assert_eq!(hop(&view, "10.0.0.2"), expected);
}

#[test]
fn a_vlan_leaves_by_its_parent_under_its_own_address() {
    let mut state = state();
    route(&mut state, "10.1.0.2", VLAN, "10.1.0.254");
    hears(
        &mut state,
        VLAN,
        "10.1.0.254",
        NeighbourState::Stale,
        Some(9),
    );

    let hop = hop(&first(&state), "10.1.0.2");

    assert_eq!((hop.ifindex, hop.vlan), (FRONT, 100));
    assert_eq!((hop.src, hop.dst), (Mac([2, 0, 0, 0, 0, 4]), mac(9)));
}

#[test]
fn packets_are_bounded_by_the_smaller_of_route_and_link() {
    let mut state = state();
    hears(
        &mut state,
        FRONT,
        "10.0.0.2",
        NeighbourState::Reachable,
        Some(1),
    );
    for (of_route, mtu) in [(Some(1400), 1400), (Some(9000), 1500), (None, 1500)] {
        let next = ip("10.0.0.2");
        let route = Route::Unicast {
            oif: FRONT,
            next,
            mtu: of_route,
        };
        state.routes.insert(next, route);
        assert_eq!(hop(&first(&state), "10.0.0.2").mtu, mtu);
    }
}

#[test]
fn packets_of_the_hosts_stack_are_bounded_too() {
    let mut state = state();
    let next = ip("10.5.0.2");
    let bound_of = |state: &State| match first(state).way(next) {
        Some(&Way::HostStack { mtu, .. }) => mtu,
        other => panic!("{other:?}"),
    };
    for (of_route, mtu) in [(None, 1500), (Some(1380), 1380)] {
        let route = Route::Unicast {
            oif: WG0,
            next,
            mtu: of_route,
        };
        state.routes.insert(next, route);
        assert_eq!(bound_of(&state), mtu);
    }
    state.routes.insert(next, Route::Encapsulated);
    assert_eq!(bound_of(&state), u16::MAX, "it is not known");
}

#[test]
fn every_way_that_is_not_ours_says_why() {
    let mut state = state();
    route(&mut state, "10.5.0.2", WG0, "10.5.0.2");
    route(&mut state, "10.6.0.2", 99, "10.6.0.2");
    state.routes.insert(ip("10.0.0.1"), Route::Local);
    state.routes.insert(ip("10.7.0.2"), Route::Encapsulated);
    let no_route = Route::None {
        why: "no route to 10.8.0.2".to_owned(),
    };
    state.routes.insert(ip("10.8.0.2"), no_route);

    let view = first(&state);

    let wg0 = "host: the route leaves by wg0, which is not Ethernet but wireguard";
    assert_eq!(why(&view, "10.5.0.2"), wg0);
    let gone = "unresolved: interface 99 of the route to 10.6.0.2 is gone";
    assert_eq!(why(&view, "10.6.0.2"), gone);
    assert!(why(&view, "10.0.0.1").starts_with("unresolved: 10.0.0.1 is an address of this"));
    assert_eq!(
        why(&view, "10.7.0.2"),
        "host: the route to 10.7.0.2 encapsulates"
    );
    assert_eq!(why(&view, "10.8.0.2"), "unresolved: no route to 10.8.0.2");
}

#[test]
fn a_link_that_goes_down_takes_its_ways_along() {
    let mut state = state();
    hears(
        &mut state,
        FRONT,
        "10.0.0.2",
        NeighbourState::Reachable,
        Some(1),
    );
    let up = first(&state);

    let change = state.set_device(FRONT, Some(down(ethernet("front", 2))));
    assert_eq!(change, Change::TARGETS);
    let view = state.view_after(&up, false).unwrap();

    assert_eq!(view.generation, up.generation + 1);
    assert_eq!(
        why(&view, "10.0.0.2"),
        "unresolved: front is down or has no carrier"
    );
    assert!(state.neighbours_in_use().is_empty());
}

#[test]
fn an_interface_that_comes_back_under_another_index_is_taken_up() {
    let mut state = state();
    let before = first(&state);
    state.set_device(FRONT, None);
    let without = state.view_after(&before, false).unwrap();
    assert!(!without.links.contains_key(&FRONT));

    state.set_device(12, Some(ethernet("front", 2)));
    let with = state.view_after(&without, false).unwrap();

    assert_eq!(with.links[&12].name, "front");
    assert_eq!(with.generation, before.generation + 2);
}

#[test]
fn upkeep_of_a_neighbour_makes_no_new_view() {
    use NeighbourState::{Delay, Probe, Reachable, Stale};
    let mut state = state();
    hears(&mut state, FRONT, "10.0.0.2", Reachable, Some(1));
    let view = first(&state);
    for now in [Stale, Delay, Probe, Reachable] {
        let change = hears(&mut state, FRONT, "10.0.0.2", now, Some(1));
        assert!(!change.lookups, "{now:?}");
        assert_eq!(state.view_after(&view, change.lookups), None, "{now:?}");
    }
}

#[test]
fn a_clients_new_address_raises_the_generation_on_our_links_only() {
    let mut state = state();
    let ours = hears(
        &mut state,
        FRONT,
        "10.0.0.77",
        NeighbourState::Reachable,
        Some(7),
    );
    assert!(ours.lookups);
    let before = first(&state);
    let raised = state.view_after(&before, true).unwrap();
    assert_eq!(raised.generation, before.generation + 1);
    assert!(same_ways(&raised.ways, &before.ways));

    let other = hears(
        &mut state,
        WG0,
        "10.5.0.77",
        NeighbourState::Reachable,
        Some(7),
    );
    assert!(!other.lookups);
}

#[test]
fn another_reason_for_the_same_silence_is_told_under_the_same_generation() {
    let mut state = state();
    let before = first(&state);
    let no_route = Route::None {
        why: "no route".to_owned(),
    };
    state.routes.insert(ip("10.0.0.2"), no_route);

    let after = state.view_after(&before, false).unwrap();

    assert_eq!(after.generation, before.generation);
    assert_eq!(why(&after, "10.0.0.2"), "unresolved: no route");
}

#[test]
fn routes_and_rules_raise_the_generation_and_addresses_only_ask_again() {
    let mut state = state();
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    let route = RouteNetlinkMessage::NewRoute(message);
    assert_eq!(state.apply(&route), Change::FORWARDING);
    let rule = RouteNetlinkMessage::NewRule(RuleMessage::default());
    assert_eq!(state.apply(&rule), Change::FORWARDING);
    let address = RouteNetlinkMessage::NewAddress(AddressMessage::default());
    assert_eq!(state.apply(&address), Change::TARGETS);
}

#[test]
fn reading_the_tables_again_finds_what_was_missed_and_nothing_else() {
    let mut state = state();
    hears(
        &mut state,
        FRONT,
        "10.0.0.77",
        NeighbourState::Reachable,
        Some(7),
    );
    let devices = state.devices.clone();
    let same = state.neighbours.clone();
    assert!(!state.replace_tables(devices.clone(), same).lookups);

    let mut missed = state.neighbours.clone();
    let key = (FRONT, ip("10.0.0.77"));
    let message = neighbour::tests::message(key, NeighbourState::Reachable, Some(8));
    missed.extend(neighbour::parse(&message));
    assert!(state.replace_tables(devices, missed).lookups);
}

#[test]
fn the_generation_is_never_zero() {
    assert_eq!(next_generation(0), 1);
    assert_eq!(next_generation(u32::MAX), 1);
}

fn routed_by(oif: u32, gateway: &str) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.kind = RouteType::Unicast;
    let IpAddr::V4(v4) = ip(gateway) else {
        panic!("{gateway} is not of IPv4");
    };
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(v4)),
        RouteAttribute::Oif(oif),
    ];
    message
}

#[test]
fn gateways_on_our_links_are_kept_until_no_route_has_them() {
    let mut state = state();
    let target = (FRONT, ip("10.0.0.2"));
    let router = (FRONT, ip("10.0.0.254"));
    state.apply(&RouteNetlinkMessage::NewRoute(routed_by(
        FRONT,
        "10.0.0.254",
    )));
    state.apply(&RouteNetlinkMessage::NewRoute(routed_by(WG0, "10.7.0.1")));
    assert_eq!(state.neighbours_in_use(), [target, router].into());
    assert_eq!(state.neighbours_in_use().len(), 2, "a tunnel's is not ours");

    state.apply(&RouteNetlinkMessage::DelRoute(routed_by(
        FRONT,
        "10.0.0.254",
    )));
    assert!(state.neighbours_in_use().contains(&router), "another may");
    state.replace_gateways(Vec::new());
    assert_eq!(state.neighbours_in_use(), [target].into());
}

#[test]
fn gateways_that_are_kept_are_bounded() {
    let mut state = state();
    let many = (0..2 * GATEWAYS_MAX as u32).map(|n| (FRONT, IpAddr::from(n.to_be_bytes())));
    state.replace_gateways(many.collect());
    assert_eq!(state.neighbours_in_use().len(), GATEWAYS_MAX + 1);
    state.apply(&RouteNetlinkMessage::NewRoute(routed_by(
        FRONT,
        "10.0.0.254",
    )));
    assert_eq!(state.neighbours_in_use().len(), GATEWAYS_MAX + 1);
}
