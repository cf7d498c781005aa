//! A service's address: that clients can find it, and that nobody else has it.

use std::net::IpAddr;

use super::facts::{Facts, sysctl_of};
use super::places::listening_at;
use super::{Findings, advise, run};
use crate::config::{Config, Service};
use crate::network::AddressFacts;

pub(super) fn check(config: &Config, facts: &Facts, service: &Service, findings: &mut Findings) {
    let subject = format!("service {}", service.name);
    let address = service.address;
    if let Some(taken) = listening_at(facts, address) {
        findings.about("service-listener", &*subject).note(
            format!(
                "something of this machine listens at {taken}: clients reach the back-ends, not it"
            ),
            None,
        );
    }
    let ip = address.ip();
    let own: Vec<_> = facts
        .network
        .addresses
        .iter()
        .filter(|own| own.ip == ip)
        .collect();
    if own.is_empty() {
        foreign(config, facts, ip, &subject, findings);
    } else {
        ours(config, facts, ip, &own, &subject, findings);
    }
}

/// The configured interface, or a VLAN device on one, in whose network an address is.
fn on_link<'f>(config: &Config, facts: &'f Facts, ip: IpAddr) -> Option<&'f AddressFacts> {
    let interfaces = &config.dataplane.interfaces;
    facts
        .network
        .addresses
        .iter()
        .find(|own| contains(own, ip) && facts.configured(interfaces, own.ifindex).is_some())
}

/// Whether `ip` is in the network of an own address, and a network it is.
pub(super) fn contains(own: &AddressFacts, ip: IpAddr) -> bool {
    match (own.ip, ip) {
        (IpAddr::V4(own_ip), IpAddr::V4(ip)) => {
            let different = own_ip.to_bits() ^ ip.to_bits();
            own.prefix < 32 && different.leading_zeros() >= u32::from(own.prefix)
        }
        (IpAddr::V6(own_ip), IpAddr::V6(ip)) => {
            let different = own_ip.to_bits() ^ ip.to_bits();
            own.prefix < 128 && different.leading_zeros() >= u32::from(own.prefix)
        }
        _ => false,
    }
}

/// The command that gives this machine an address.
fn add(ip: IpAddr, interface: &str) -> String {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    format!("ip address add {ip}/{bits} dev {interface}")
}

fn foreign(config: &Config, facts: &Facts, ip: IpAddr, subject: &str, findings: &mut Findings) {
    let about = findings.about("service-address", subject);
    match on_link(config, facts, ip) {
        Some(network) => {
            let interface = facts.name(network.ifindex);
            about.warning(
                format!("{ip} is in the network of {interface}, where nobody answers for it"),
                run(add(ip, interface)),
            );
        }
        None => about.note(
            format!(
                "{ip} is no address of this machine: clients find it only if it is routed here"
            ),
            advise(format!("route it to this machine, or: {}", add(ip, "lo"))),
        ),
    }
}

fn ours(
    config: &Config,
    facts: &Facts,
    ip: IpAddr,
    own: &[&AddressFacts],
    subject: &str,
    findings: &mut Findings,
) {
    let interfaces = &config.dataplane.interfaces;
    if let Some(duplicate) = own.iter().find(|own| own.duplicate) {
        let interface = facts.name(duplicate.ifindex);
        return findings.about("service-address", subject).error(
            format!("another machine on {interface} has {ip} too"),
            advise("take the address from one of them"),
        );
    }
    if let Some(network) = on_link(config, facts, ip) {
        let at = network.ifindex;
        if own.iter().all(|own| own.ifindex != at) && !answers_for_others(facts, ip, at) {
            let interface = facts.name(at);
            findings.about("service-address", subject).warning(
                format!(
                    "{ip} is not on {interface}, in whose network it is: nobody answers for it"
                ),
                run(add(ip, interface)),
            );
        }
        return;
    }
    let reachable = own.iter().any(|own| {
        let link = facts.network.links.get(&own.ifindex);
        // On a device without a network of its own it is there for routes.
        link.is_some_and(|link| !link.ethernet || link.kind == "dummy")
            || facts.configured(interfaces, own.ifindex).is_some()
    });
    if !reachable {
        let interface = facts.name(own[0].ifindex);
        findings.about("service-address", subject).warning(
            format!("{ip} is on {interface}, which is none of the configured interfaces"),
            advise(format!(
                "add {interface:?} to dataplane.interfaces, or move the address"
            )),
        );
    }
}

/// Whether the kernel answers on an interface for an address that another one has: in IPv4 unless
/// told otherwise, in IPv6 never.
fn answers_for_others(facts: &Facts, ip: IpAddr, ifindex: u32) -> bool {
    let ignores = ["all", facts.name(ifindex)]
        .map(|name| facts.sysctl(&sysctl_of("ipv4", name, "arp_ignore")));
    ip.is_ipv4() && ignores.iter().all(|value| value.unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ETH0, FREE, address, assert_finds, fit, ip, line, link};
    use super::*;

    /// Takes the service's address away.
    fn take(facts: &mut Facts) {
        facts
            .network
            .addresses
            .retain(|own| own.ip != ip("192.0.2.10"));
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        for (own, prefix, other, within) in [
            ("10.0.0.1", 24, "10.0.0.255", true),
            ("10.0.0.1", 24, "10.0.1.0", false),
            ("10.0.0.1", 32, "10.0.0.1", false),
            ("10.0.0.1", 0, "192.0.2.1", true),
            ("10.0.0.1", 24, "::ffff:10.0.0.2", false),
            ("2001:db8::1", 64, "2001:db8::ffff", true),
            ("2001:db8::1", 64, "2001:db8:0:1::1", false),
        ] {
            assert_eq!(
                contains(&address(1, own, prefix), ip(other)),
                within,
                "{other}"
            );
        }
    }

    #[test]
    fn an_address_that_nobody_answers_for_is_told() {
        assert_finds(
            |_, facts| {
                take(facts);
                facts.network.addresses.push(address(ETH0, "192.0.2.1", 24));
            },
            "warning service-address service web: 192.0.2.10 is in the network of eth0, where \
             nobody answers for it; ip address add 192.0.2.10/32 dev eth0",
        );
        assert_finds(
            |_, facts| take(facts),
            "note service-address service web: 192.0.2.10 is no address of this machine: clients \
             find it only if it is routed here; \
             # route it to this machine, or: ip address add 192.0.2.10/32 dev lo",
        );
    }

    #[test]
    fn an_address_on_lo_is_answered_for_in_ipv4_unless_told_otherwise() {
        let (config, mut facts) = fit();
        facts.network.addresses.push(address(ETH0, "192.0.2.1", 24));
        assert_eq!(super::super::check(&config, &facts), []);
        assert_finds(
            |_, facts| {
                facts.network.addresses.push(address(ETH0, "192.0.2.1", 24));
                facts
                    .sysctls
                    .insert("net/ipv4/conf/all/arp_ignore".into(), 1);
            },
            "warning service-address service web: 192.0.2.10 is not on eth0, in whose network it \
             is: nobody answers for it; ip address add 192.0.2.10/32 dev eth0",
        );
    }

    #[test]
    fn an_address_on_lo_is_not_answered_for_in_ipv6() {
        let (mut config, mut facts) = fit();
        config.services[0].address = "[2001:db8::10]:80".parse().unwrap();
        facts
            .network
            .addresses
            .push(address(1, "2001:db8::10", 128));
        facts
            .network
            .addresses
            .push(address(ETH0, "2001:db8::1", 64));
        let found: Vec<_> = super::super::check(&config, &facts)
            .iter()
            .map(line)
            .collect();
        let expected = "warning service-address service web: 2001:db8::10 is not on eth0, in whose \
                        network it is: nobody answers for it; \
                        ip address add 2001:db8::10/128 dev eth0";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn an_address_elsewhere_is_told() {
        assert_finds(
            |_, facts| {
                take(facts);
                facts.network.links.insert(FREE, link("mgmt0", ""));
                facts
                    .network
                    .addresses
                    .push(address(FREE, "192.0.2.10", 24));
            },
            "warning service-address service web: 192.0.2.10 is on mgmt0, which is none of the \
             configured interfaces; # add \"mgmt0\" to dataplane.interfaces, or move the address",
        );
        assert_finds(
            |_, facts| {
                take(facts);
                let own = address(ETH0, "192.0.2.10", 24);
                let duplicate = AddressFacts {
                    duplicate: true,
                    ..own
                };
                facts.network.addresses.push(duplicate);
            },
            "error service-address service web: another machine on eth0 has 192.0.2.10 too; \
             # take the address from one of them",
        );
    }

    #[test]
    fn a_listener_that_nobody_will_reach_is_worth_a_note() {
        for at in ["192.0.2.10:80", "0.0.0.0:80", "[::]:80"] {
            assert_finds(
                |_, facts| {
                    facts.listeners.insert(at.parse().unwrap());
                },
                &format!(
                    "note service-listener service web: something of this machine listens at {at}: \
                     clients reach the back-ends, not it"
                ),
            );
        }
    }
}
