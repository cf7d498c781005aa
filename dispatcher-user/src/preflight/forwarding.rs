//! The kernel's settings for forwarding: what the program leaves to the host's stack needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::facts::{Facts, sysctl_of};
use super::interface::subject;
use super::{Findings, run};
use crate::config::Config;
use crate::network::{LinkFacts, Route};

/// An address that stands for the rest of the world: one for documentation (RFC 5737), which
/// nobody has, so that the way to it is the default route.
pub(super) const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// The same of IPv6 (RFC 3849).
pub(super) const OUTSIDE_V6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));

/// Settings that each interface has: family and name.
pub(super) const SETTINGS: [(&str, &str); 5] = [
    ("ipv4", "forwarding"),
    ("ipv4", "rp_filter"),
    ("ipv4", "send_redirects"),
    ("ipv4", "arp_ignore"),
    ("ipv6", "forwarding"),
];
/// Settings that there are once.
pub(super) const MACHINE_SETTINGS: [&str; 2] = ["net/ipv4/ip_forward", "net/core/bpf_jit_enable"];

/// `rp_filter`: what came in by another interface than the way back is dropped.
const STRICT: i64 = 1;

/// Families that services have: the kernel's name, and the setting that is for all interfaces.
fn families(config: &Config) -> impl Iterator<Item = (&'static str, &'static str)> {
    let has = |v4| {
        let mut services = config.services.iter();
        services.any(|service| service.address.is_ipv4() == v4)
    };
    let v4 = has(true).then_some(("ipv4", "net/ipv4/ip_forward"));
    let v6 = has(false).then_some(("ipv6", "net/ipv6/conf/all/forwarding"));
    v4.into_iter().chain(v6)
}

fn written(family: &str) -> &'static str {
    if family == "ipv4" { "IPv4" } else { "IPv6" }
}

/// Forwarding of the whole machine.
pub(super) fn check_machine(config: &Config, facts: &Facts, findings: &mut Findings) {
    for (family, setting) in families(config) {
        if facts.sysctl(setting) == Some(0) {
            let family = written(family);
            findings.about("forwarding", "machine").error(
                format!("forwarding of {family} is off: what is left to the host's stack is lost"),
                run(set(setting, 1)),
            );
        }
    }
}

/// The settings of an interface and of the VLAN devices on it.
pub(super) fn check_interface(
    config: &Config,
    facts: &Facts,
    ifindex: u32,
    link: &LinkFacts,
    findings: &mut Findings,
) {
    for link in std::iter::once(link).chain(facts.vlans_on(ifindex)) {
        for (family, all) in families(config) {
            forwarding(facts, family, all, link, findings);
            if family == "ipv4" {
                reverse_path(config, facts, ifindex, link, findings);
                redirects(config, facts, link, findings);
            }
        }
    }
}

fn forwarding(facts: &Facts, family: &str, all: &str, link: &LinkFacts, findings: &mut Findings) {
    let own = sysctl_of(family, &link.name, "forwarding");
    // Off for all is told of the machine.
    if facts.sysctl(&own) == Some(0) && facts.sysctl(all) != Some(0) {
        let family = written(family);
        findings.about("forwarding", subject(&link.name)).error(
            format!("forwarding of {family} is off for it"),
            run(set(&own, 1)),
        );
    }
}

/// Where the default route leaves by none of the configured interfaces, clients come in by another
/// one; what the program leaves to the host's stack then looks forged to a strict filter.
fn reverse_path(
    config: &Config,
    facts: &Facts,
    ifindex: u32,
    link: &LinkFacts,
    findings: &mut Findings,
) {
    let own = sysctl_of("ipv4", &link.name, "rp_filter");
    let value = |path: &str| facts.sysctl(path).unwrap_or(0);
    // The kernel takes the greater one.
    let strict = value(&own).max(value("net/ipv4/conf/all/rp_filter")) == STRICT;
    let Some(Route::Unicast { oif, .. }) = facts.network.routes.get(&OUTSIDE_V4) else {
        return;
    };
    let interfaces = &config.dataplane.interfaces;
    let back_by_ours = facts.configured(interfaces, *oif).is_some();
    if strict && !back_by_ours && !only_backends(config, facts, ifindex) {
        let default = facts.name(*oif);
        findings.about("reverse-path", subject(&link.name)).warning(
            format!("drops what comes from clients whose way back is by {default} (rp_filter)"),
            run(set(&own, 2)),
        );
    }
}

/// Whether an interface leads to back-ends and another one to clients, as far as can be told.
fn only_backends(config: &Config, facts: &Facts, ifindex: u32) -> bool {
    let interfaces = &config.dataplane.interfaces;
    let backends = config.services.iter().flat_map(|service| &service.backends);
    let mut ways = backends.filter_map(|backend| facts.network.routes.get(&backend.address.ip()));
    let here = |route: &Route| match route {
        Route::Unicast { oif, .. } => facts.configured(interfaces, *oif) == Some(ifindex),
        _ => false,
    };
    interfaces.len() > 1 && ways.any(here)
}

/// With one interface the host's stack thinks that the two ends could talk without it.
fn redirects(config: &Config, facts: &Facts, link: &LinkFacts, findings: &mut Findings) {
    if config.dataplane.interfaces.len() > 1 {
        return;
    }
    let settings = ["all", &*link.name].map(|name| sysctl_of("ipv4", name, "send_redirects"));
    let on: Vec<_> = settings
        .iter()
        .filter(|path| facts.sysctl(path).is_some_and(|value| value != 0))
        .map(|path| set(path, 0))
        .collect();
    if !on.is_empty() {
        findings.about("redirects", subject(&link.name)).warning(
            "clients and back-ends are told to talk past this machine (send_redirects)",
            run(on.join(" && ")),
        );
    }
}

/// The command that writes a setting. Names with dots are taken with slashes only.
fn set(path: &str, value: i64) -> String {
    let name = if path.contains('.') {
        path.to_owned()
    } else {
        path.replace('/', ".")
    };
    format!("sysctl -w {name}={value}")
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ETH0, ETH1, FREE, assert_finds, fit, line, link, unicast};
    use super::*;

    fn set_to(facts: &mut Facts, path: &str, value: i64) {
        facts.sysctls.insert(path.into(), value);
    }

    #[test]
    fn forwarding_that_is_off_is_told_once() {
        assert_finds(
            |_, facts| {
                set_to(facts, "net/ipv4/ip_forward", 0);
                set_to(facts, "net/ipv4/conf/eth0/forwarding", 0);
            },
            "error forwarding machine: forwarding of IPv4 is off: what is left to the host's stack \
             is lost; sysctl -w net.ipv4.ip_forward=1",
        );
        assert_finds(
            |_, facts| set_to(facts, "net/ipv4/conf/eth1/forwarding", 0),
            "error forwarding interface eth1: forwarding of IPv4 is off for it; \
             sysctl -w net.ipv4.conf.eth1.forwarding=1",
        );
    }

    #[test]
    fn a_vlan_device_has_settings_of_its_own() {
        assert_finds(
            |_, facts| {
                let vlan = LinkFacts {
                    other: Some(ETH0),
                    ..link("eth0.100", "vlan")
                };
                facts.network.links.insert(FREE, vlan);
                set_to(facts, "net/ipv4/conf/eth0.100/forwarding", 0);
            },
            "error forwarding interface eth0.100: forwarding of IPv4 is off for it; \
             sysctl -w net/ipv4/conf/eth0.100/forwarding=1",
        );
    }

    #[test]
    fn only_the_families_of_services_matter() {
        let (mut config, mut facts) = fit();
        set_to(&mut facts, "net/ipv6/conf/all/forwarding", 0);
        assert_eq!(super::super::check(&config, &facts), []);
        let service = &mut config.services[0];
        service.address = "[2001:db8::10]:80".parse().unwrap();
        let found = super::super::check(&config, &facts);
        assert_eq!(
            line(&found[0]),
            "error forwarding machine: forwarding of IPv6 is off: what is left to the host's stack \
             is lost; sysctl -w net.ipv6.conf.all.forwarding=1"
        );
    }

    #[test]
    fn a_strict_filter_matters_where_the_way_back_is_another() {
        assert_finds(
            |_, facts| {
                facts.network.links.insert(FREE, link("mgmt0", ""));
                let default = unicast(FREE, "172.16.0.1");
                facts.network.routes.insert(OUTSIDE_V4, default);
            },
            "warning reverse-path interface eth0: drops what comes from clients whose way back is \
             by mgmt0 (rp_filter); sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        );
        let (config, mut facts) = fit();
        let default = unicast(ETH1, "10.0.0.254");
        facts.network.routes.insert(OUTSIDE_V4, default);
        set_to(&mut facts, "net/ipv4/conf/eth0/rp_filter", 2);
        let found = super::super::check(&config, &facts);
        assert!(found.iter().all(|finding| finding.check != "reverse-path"));
    }

    #[test]
    fn redirects_matter_with_one_interface() {
        let (mut config, mut facts) = fit();
        config.dataplane.interfaces = vec!["eth1".into()];
        set_to(&mut facts, "net/ipv4/conf/eth1/send_redirects", 1);
        set_to(&mut facts, "net/ipv4/conf/eth1/rp_filter", 0);
        let found = super::super::check(&config, &facts);
        let redirects = found.iter().find(|finding| finding.check == "redirects");
        assert_eq!(
            line(redirects.unwrap()),
            "warning redirects interface eth1: clients and back-ends are told to talk past this \
             machine (send_redirects); sysctl -w net.ipv4.conf.all.send_redirects=0 && \
             sysctl -w net.ipv4.conf.eth1.send_redirects=0"
        );
    }
}
