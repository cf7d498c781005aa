//! A back-end: that there is a way to it by a configured interface, that it answers there, and
//! whether its replies can come back through this machine.

use std::net::IpAddr;

use super::facts::Facts;
use super::forwarding::{OUTSIDE_V4, OUTSIDE_V6};
use super::service::contains;
use super::{Findings, advise, run};
use crate::config::{Backend, Config, Service};
use crate::network::{NeighbourState, Route};

pub(super) fn check(
    config: &Config,
    facts: &Facts,
    service: &Service,
    backend: &Backend,
    findings: &mut Findings,
) {
    let ip = backend.address.ip();
    let subject = format!("back-end {}/{}", service.name, backend.name);
    let same = config
        .services
        .iter()
        .find(|other| other.address.ip() == ip);
    if let Some(other) = same {
        return findings.about("backend-address", subject).error(
            format!("{ip} is also the address of service {}", other.name),
            advise("give the service an address of its own"),
        );
    }
    match facts.network.routes.get(&ip) {
        None => {}
        Some(Route::Local) => ours(facts, ip, subject, findings),
        Some(Route::None { why }) => {
            let why = why.split_once("; ").map_or(&**why, |(why, _)| why);
            let last = config.dataplane.interfaces.last();
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            let mend = last.map(|last| run(format!("ip route add {ip}/{bits} dev {last}")));
            findings.about("backend-route", subject).error(why, mend);
        }
        Some(Route::Encapsulated) => findings.about("backend-route", subject).error(
            "the route to it is a tunnel, whose packets the program does not see",
            advise("route it by a configured interface"),
        ),
        Some(Route::Unicast { oif, next, .. }) => {
            way(config, facts, &subject, ip, (*oif, *next), findings);
        }
    }
}

fn ours(facts: &Facts, ip: IpAddr, subject: String, findings: &mut Findings) {
    let found = format!("{ip} is this machine, whose packets the program does not see");
    let mut advice =
        "serve from another machine, or from a network namespace with a veth".to_owned();
    if let Some(own) = facts.network.own(ip) {
        // No command: run from afar, it could cut off who runs it.
        let (prefix, interface) = (own.prefix, facts.name(own.ifindex));
        let del = format!("ip address del {ip}/{prefix} dev {interface}");
        advice.push_str(&format!("; if it is here by mistake: {del}"));
    }
    let about = findings.about("backend-address", subject);
    about.error(found, advise(advice));
}

fn way(
    config: &Config,
    facts: &Facts,
    subject: &str,
    ip: IpAddr,
    (oif, next): (u32, IpAddr),
    findings: &mut Findings,
) {
    let interfaces = &config.dataplane.interfaces;
    let device = facts.name(oif);
    let Some(physical) = facts.configured(interfaces, oif) else {
        return findings.about("backend-route", subject).error(
            format!("the route to it leaves by {device}, where its replies would not be seen"),
            advise(format!(
                "add {device:?} to dataplane.interfaces, or route it by another"
            )),
        );
    };
    neighbour(facts, subject, (oif, next), findings);
    let own = facts.network.addresses.iter();
    let own: Vec<_> = own
        .filter(|own| own.ifindex == oif && own.ip.is_ipv4() == ip.is_ipv4())
        .collect();
    let here = own
        .iter()
        .find(|own| contains(own, next))
        .or(own.first())
        .map_or_else(|| "this machine".to_owned(), |own| own.ip.to_string());
    let about = findings.about("reply-path", subject);
    if next != ip {
        return about.warning(
            format!("is behind gateway {next}, which must send the replies back by this machine"),
            advise(format!("at {next}: route the clients' networks by {here}")),
        );
    }
    let outside = if ip.is_ipv4() { OUTSIDE_V4 } else { OUTSIDE_V6 };
    let default = match facts.network.routes.get(&outside) {
        Some(Route::Unicast { oif, .. }) => facts.configured(interfaces, *oif),
        _ => None,
    };
    if interfaces.len() == 1 || default == Some(physical) {
        about.warning(
            format!("is on {device}, where clients are too: one that it reaches itself fails"),
            advise(format!(
                "at {ip}: ip route replace default via {here}; and no clients in its own network"
            )),
        );
    }
}

fn neighbour(facts: &Facts, subject: &str, (oif, next): (u32, IpAddr), findings: &mut Findings) {
    let about = findings.about("neighbour", subject);
    let device = facts.name(oif);
    match facts.network.neighbours.get(&(oif, next)) {
        Some(NeighbourState::Failed | NeighbourState::Incomplete) => about.warning(
            format!("{next} does not answer on {device}"),
            run(format!("ping -c 1 -W 2 -I {device} {next}")),
        ),
        None | Some(NeighbourState::None) => about.note(
            format!("{next} was not spoken to on {device} yet: whether it is there is not known"),
            run(format!("ping -c 1 -W 2 -I {device} {next}")),
        ),
        // Those that the kernel sends to at once.
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{
        ETH0, ETH1, FREE, address, assert_finds, fit, ip, line, link, unicast,
    };
    use super::*;

    fn routed(facts: &mut Facts, route: Route) {
        facts.network.routes.insert(ip("10.0.0.11"), route);
    }

    #[test]
    fn a_backend_without_a_way_by_our_interfaces_is_told() {
        assert_finds(
            |_, facts| {
                let why = "no route to 10.0.0.11; add one with `ip route`".into();
                routed(facts, Route::None { why });
            },
            "error backend-route back-end web/web-1: no route to 10.0.0.11; \
             ip route add 10.0.0.11/32 dev eth1",
        );
        assert_finds(
            |_, facts| {
                facts.network.links.insert(FREE, link("mgmt0", ""));
                routed(facts, unicast(FREE, "10.0.0.11"));
            },
            "error backend-route back-end web/web-1: the route to it leaves by mgmt0, where its \
             replies would not be seen; # add \"mgmt0\" to dataplane.interfaces, or route it by \
             another",
        );
        assert_finds(
            |_, facts| routed(facts, Route::Encapsulated),
            "error backend-route back-end web/web-1: the route to it is a tunnel, whose packets \
             the program does not see; # route it by a configured interface",
        );
    }

    #[test]
    fn a_way_by_a_vlan_on_a_configured_interface_is_one() {
        let (config, mut facts) = fit();
        let vlan = crate::network::LinkFacts {
            other: Some(ETH1),
            ..link("eth1.7", "vlan")
        };
        facts.network.links.insert(FREE, vlan);
        routed(&mut facts, unicast(FREE, "10.0.0.11"));
        let key = (FREE, ip("10.0.0.11"));
        facts.network.neighbours.insert(key, NeighbourState::Stale);
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn a_backend_on_this_machine_is_told() {
        assert_finds(
            |_, facts| {
                facts.network.addresses.push(address(ETH1, "10.0.0.11", 24));
                routed(facts, Route::Local);
            },
            "error backend-address back-end web/web-1: 10.0.0.11 is this machine, whose packets \
             the program does not see; # serve from another machine, or from a network namespace \
             with a veth; if it is here by mistake: ip address del 10.0.0.11/24 dev eth1",
        );
        assert_finds(
            |_, facts| routed(facts, Route::Local),
            "error backend-address back-end web/web-1: 10.0.0.11 is this machine, whose packets \
             the program does not see; # serve from another machine, or from a network namespace \
             with a veth",
        );
    }

    #[test]
    fn a_backend_at_a_services_address_is_told() {
        assert_finds(
            |config, _| {
                let backend = &mut config.services[0].backends[0];
                backend.address = "192.0.2.10:8080".parse().unwrap();
            },
            "error backend-address back-end web/web-1: 192.0.2.10 is also the address of service \
             web; # give the service an address of its own",
        );
    }

    #[test]
    fn a_neighbour_is_told_when_it_is_silent_or_unknown() {
        let key = (ETH1, ip("10.0.0.11"));
        for state in [NeighbourState::Failed, NeighbourState::Incomplete] {
            assert_finds(
                |_, facts| {
                    facts.network.neighbours.insert(key, state);
                },
                "warning neighbour back-end web/web-1: 10.0.0.11 does not answer on eth1; \
                 ping -c 1 -W 2 -I eth1 10.0.0.11",
            );
        }
        assert_finds(
            |_, facts| facts.network.neighbours.clear(),
            "note neighbour back-end web/web-1: 10.0.0.11 was not spoken to on eth1 yet: whether \
             it is there is not known; ping -c 1 -W 2 -I eth1 10.0.0.11",
        );
        for state in [
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Permanent,
            NeighbourState::Noarp,
        ] {
            let (config, mut facts) = fit();
            facts.network.neighbours.insert(key, state);
            assert_eq!(super::super::check(&config, &facts), [], "{state:?}");
        }
    }

    #[test]
    fn replies_that_may_come_another_way_are_told() {
        assert_finds(
            |_, facts| {
                routed(facts, unicast(ETH1, "10.0.0.254"));
                let key = (ETH1, ip("10.0.0.254"));
                facts
                    .network
                    .neighbours
                    .insert(key, NeighbourState::Reachable);
            },
            "warning reply-path back-end web/web-1: is behind gateway 10.0.0.254, which must send \
             the replies back by this machine; \
             # at 10.0.0.254: route the clients' networks by 10.0.0.1",
        );
        assert_finds(
            |_, facts| {
                routed(facts, unicast(ETH0, "10.0.0.11"));
                let key = (ETH0, ip("10.0.0.11"));
                facts
                    .network
                    .neighbours
                    .insert(key, NeighbourState::Reachable);
                facts.network.addresses.push(address(ETH0, "10.0.0.2", 24));
            },
            "warning reply-path back-end web/web-1: is on eth0, where clients are too: one that it \
             reaches itself fails; # at 10.0.0.11: ip route replace default via 10.0.0.2; and no \
             clients in its own network",
        );
    }

    #[test]
    fn with_one_interface_clients_are_where_backends_are() {
        let (mut config, mut facts) = fit();
        config.dataplane.interfaces = vec!["eth1".into()];
        let default = unicast(ETH1, "10.0.0.254");
        facts.network.routes.insert(OUTSIDE_V4, default);
        facts.sysctls.remove("net/ipv4/conf/all/send_redirects");
        let found: Vec<_> = super::super::check(&config, &facts)
            .iter()
            .map(line)
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("warning reply-path back-end web/web-1: is on eth1"));
    }
}
