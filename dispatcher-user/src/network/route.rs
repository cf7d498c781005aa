//! Routes: what the kernel answers when asked for the way to one address. Pure.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::neighbour::NeighbourKey;

/// The kernel's answer for one target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// To `next`, a gateway or the target itself, by interface `oif`.
    Unicast {
        /// Index of the interface.
        oif: u32,
        /// The next machine.
        next: IpAddr,
        /// What the route itself bounds packets to, bytes.
        mtu: Option<u32>,
    },
    /// Under a header that only the host's stack can put on.
    Encapsulated,
    /// An address of this machine.
    Local,
    /// Nowhere.
    None {
        /// As the kernel put it.
        why: String,
    },
}

/// Reads the answer to a route request for `target`.
pub(super) fn parse(target: IpAddr, message: &RouteMessage) -> Route {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Route::Local,
        kind => {
            return Route::None {
                why: format!("the route to {target} is of type {kind:?}"),
            };
        }
    }
    let (mut oif, mut next, mut mtu) = (None, target, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => return Route::Encapsulated,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) => Some(*bytes),
                    _ => None,
                });
            }
            other => next = gateway(other).unwrap_or(next),
        }
    }
    match oif {
        Some(oif) => Route::Unicast { oif, next, mtu },
        None => Route::None {
            why: format!("the route to {target} names no interface"),
        },
    }
}

/// Reads a refusal in answer to a route request for `target`.
pub(super) fn refused(target: IpAddr, error: &io::Error) -> Route {
    Route::None {
        why: match error.raw_os_error() {
            Some(libc::ENETUNREACH) => format!("no route to {target}; add one with `ip route`"),
            Some(libc::EHOSTUNREACH) => format!("the route to {target} says unreachable"),
            Some(libc::EACCES) => format!("the route to {target} says prohibited"),
            Some(libc::EINVAL) => format!("the route to {target} is a black hole"),
            _ => format!("no route to {target}: {error}"),
        },
    }
}

/// Whether a change of this entry of the routing tables can move packets: not the kernel's own
/// copies, nor multicast.
pub(super) fn matters(message: &RouteMessage) -> bool {
    let header = &message.header;
    matches!(
        header.address_family,
        AddressFamily::Inet | AddressFamily::Inet6
    ) && !header.flags.contains(RouteFlags::Cloned)
        && header.kind != RouteType::Multicast
}

/// The gateways of an entry of the routing tables, each with the interface that it is on; none if
/// the entry does not matter.
pub(super) fn gateways(message: &RouteMessage) -> Vec<NeighbourKey> {
    if !matters(message) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut oif = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                let ways = hops.iter().filter_map(|hop| {
                    let gateway = hop.attributes.iter().find_map(gateway)?;
                    Some((hop.interface_index, gateway))
                });
                found.extend(ways);
            }
            _ => {}
        }
    }
    let single = message.attributes.iter().find_map(gateway);
    found.extend(oif.zip(single));
    found
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4))
        | RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6))
        | RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> Route {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        parse(target(), &message)
    }

    fn target() -> IpAddr {
        "10.0.0.2".parse().unwrap()
    }

    fn unicast(next: &str, mtu: Option<u32>) -> Route {
        let next = next.parse().unwrap();
        Route::Unicast { oif: 3, next, mtu }
    }

    #[test]
    fn the_next_machine_is_the_target_a_gateway_or_one_of_the_other_family() {
        let on_link = answer(RouteType::Unicast, vec![RouteAttribute::Oif(3)]);
        assert_eq!(on_link, unicast("10.0.0.2", None));

        let gateway = RouteAttribute::Gateway(RouteAddress::Inet("10.0.0.254".parse().unwrap()));
        let by_gateway = answer(RouteType::Unicast, vec![gateway, RouteAttribute::Oif(3)]);
        assert_eq!(by_gateway, unicast("10.0.0.254", None));

        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let by_ipv6 = answer(RouteType::Unicast, vec![RouteAttribute::Oif(3), via]);
        assert_eq!(by_ipv6, unicast("fe80::1", None));
    }

    #[test]
    fn a_routes_own_mtu_is_kept() {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Lock(0), RouteMetric::Mtu(1400)]);
        let route = answer(RouteType::Unicast, vec![RouteAttribute::Oif(3), metrics]);
        assert_eq!(route, unicast("10.0.0.2", Some(1400)));
    }

    #[test]
    fn what_is_not_forwarded_is_told_apart() {
        assert_eq!(
            answer(RouteType::Local, vec![RouteAttribute::Oif(1)]),
            Route::Local
        );
        for kind in [
            RouteType::BlackHole,
            RouteType::Prohibit,
            RouteType::Broadcast,
        ] {
            assert!(matches!(
                answer(kind, vec![RouteAttribute::Oif(3)]),
                Route::None { .. }
            ));
        }
        assert!(matches!(
            answer(RouteType::Unicast, vec![]),
            Route::None { .. }
        ));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let Route::None { why } =
            refused(target(), &io::Error::from_raw_os_error(libc::ENETUNREACH))
        else {
            panic!("a refusal is no route");
        };
        assert_eq!(why, "no route to 10.0.0.2; add one with `ip route`");
    }

    #[test]
    fn all_gateways_of_a_route_are_told_with_their_interfaces() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        let by = |oif: u32, last: u8| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = oif;
            let gateway = RouteAddress::Inet([10, 0, 0, last].into());
            hop.attributes = vec![RouteAttribute::Gateway(gateway)];
            hop
        };
        message.attributes = vec![RouteAttribute::MultiPath(vec![by(2, 7), by(3, 8)])];
        assert_eq!(gateways(&message), [], "no family");
        message.header.address_family = AddressFamily::Inet;
        let both = [(2, [10, 0, 0, 7].into()), (3, [10, 0, 0, 8].into())];
        assert_eq!(gateways(&message), both);
        message.attributes = vec![RouteAttribute::Oif(2)];
        assert_eq!(gateways(&message), [], "on the link");
    }
}
