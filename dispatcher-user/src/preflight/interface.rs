//! A configured interface: that it is there, what it is, and that nobody else has it.

use dispatcher_common::maps::XSKS_MAX;

use super::facts::Facts;
use super::{Findings, advise, driver, forwarding, run};
use crate::config::{AttachMode, Config};
use crate::network::{LinkFacts, ProgramMode};

pub(super) fn subject(name: &str) -> String {
    format!("interface {name}")
}

pub(super) fn check(config: &Config, facts: &Facts, name: &str, findings: &mut Findings) {
    let Some((ifindex, link)) = facts.link(name) else {
        return missing(facts, name, findings);
    };
    if !link.ethernet {
        let what = if link.loopback {
            "loopback"
        } else {
            &link.kind
        };
        let found = format!("is not Ethernet ({what}): no packet of clients has a place there");
        let advice = format!("take {name} out of dataplane.interfaces");
        return findings
            .about("interface-kind", subject(name))
            .error(found, advise(advice));
    }
    state(facts, link, findings);
    kind(config, facts, link, findings);
    member(facts, link, findings);
    other_program(facts, ifindex, link, findings);
    queues(config, facts, ifindex, link, findings);
    driver::check(config, facts, ifindex, link, findings);
    forwarding::check_interface(config, facts, ifindex, link, findings);
}

fn missing(facts: &Facts, name: &str, findings: &mut Findings) {
    let about = findings.about("interface-exists", subject(name));
    let mut links = facts.network.links.values();
    let called = links.find(|link| link.alternative_names.iter().any(|other| other == name));
    if let Some(link) = called {
        let own = &link.name;
        return about.error(
            format!("is only another name of {own}"),
            advise(format!("write {own:?} in dataplane.interfaces")),
        );
    }
    let names = facts.network.links.values().filter(|link| link.ethernet);
    let names: Vec<_> = names.map(|link| link.name.as_str()).collect();
    let there = match names.as_slice() {
        [] => "no Ethernet interface".to_owned(),
        names => names.join(", "),
    };
    about.error(
        format!("does not exist in this network namespace; there is {there}"),
        advise("correct dataplane.interfaces"),
    );
}

fn state(facts: &Facts, link: &LinkFacts, findings: &mut Findings) {
    let name = &link.name;
    if !link.up {
        findings
            .about("interface-up", subject(name))
            .error("is down", run(format!("ip link set dev {name} up")));
    } else if !link.carrier {
        let peer = link.other.filter(|_| link.kind == "veth");
        let mend = match peer {
            Some(peer) => run(format!("ip link set dev {} up", facts.name(peer))),
            None => advise("look at the cable and at what is at its other end"),
        };
        let about = findings.about("interface-carrier", subject(name));
        about.warning("has no carrier", mend);
    }
}

/// The program writes VLAN tags itself, and frames of a bond arrive under a member's index.
fn kind(config: &Config, facts: &Facts, link: &LinkFacts, findings: &mut Findings) {
    let name = &link.name;
    let about = findings.about("interface-kind", subject(name));
    match link.kind.as_str() {
        "vlan" => {
            let below = link
                .other
                .map_or("what it stands on", |below| facts.name(below));
            let found =
                format!("is a VLAN device, which has no native XDP and hides {below}'s tags");
            let mend = advise(format!(
                "write {below:?} in dataplane.interfaces instead: the program reads and writes \
                 tags, and knows {name} by itself"
            ));
            match config.dataplane.attach_mode {
                AttachMode::Native => about.error(found, mend),
                AttachMode::Auto | AttachMode::Generic => about.warning(found, mend),
            }
        }
        kind @ ("bond" | "team") => about.error(
            format!("is a {kind}: frames arrive at its members, and have no way out by them"),
            advise("use an interface that is no bond; several equal routes share load as well"),
        ),
        _ => {}
    }
}

fn member(facts: &Facts, link: &LinkFacts, findings: &mut Findings) {
    let master = link
        .master
        .and_then(|index| facts.network.links.get(&index));
    let Some(master) = master else { return };
    // A VRF is a routing table, and no device that frames leave by.
    if !matches!(&*master.kind, "bridge" | "bond" | "team") {
        return;
    }
    let (name, kind, above) = (&link.name, &master.kind, &master.name);
    findings.about("interface-member", subject(name)).warning(
        format!("is a member of {kind} {above}: routes leave by {above}, not by {name}"),
        // No command: run from afar, it could cut off who runs it.
        advise(format!(
            "take it out of the {kind}: ip link set dev {name} nomaster"
        )),
    );
}

fn other_program(facts: &Facts, ifindex: u32, link: &LinkFacts, findings: &mut Findings) {
    let Some((mode, id)) = link.programs.first().copied() else {
        return;
    };
    if facts.places.pinned.interfaces().contains(&ifindex) {
        return;
    }
    let name = &link.name;
    let program = match facts.programs.get(&id) {
        Some(program) => format!("XDP program {id} ({program})"),
        None => format!("XDP program {id}"),
    };
    let about = findings.about("xdp-attached", subject(name));
    if !facts.machine.privileges.sys_admin {
        return about.warning(
            format!("has {program}; whose it is cannot be told without privilege"),
            advise("check as root"),
        );
    }
    let found = format!("has {program}, which is not of this configuration");
    // An index means an interface of each namespace; together with the program it is unlikely to.
    let links = facts.xdp_links.iter();
    let links: Vec<_> = links
        .filter(|link| link.program == id && link.ifindex == ifindex)
        .collect();
    let command = match (links.as_slice(), mode) {
        ([link], _) => format!("bpftool link detach id {}", link.id),
        ([], ProgramMode::Native) => format!("ip link set dev {name} xdpdrv off"),
        ([], ProgramMode::Generic) => format!("ip link set dev {name} xdpgeneric off"),
        ([], ProgramMode::Hardware) => format!("ip link set dev {name} xdpoffload off"),
        _ => return about.error(found, advise("detach its link: bpftool link shows several")),
    };
    about.error(found, run(command));
}

/// Each receive queue takes a socket, and the program's map holds so many.
fn queues(config: &Config, facts: &Facts, ifindex: u32, link: &LinkFacts, findings: &mut Findings) {
    let interfaces = &config.dataplane.interfaces;
    let queues = |name: &String| {
        let device = facts.devices.get(&facts.link(name)?.0)?;
        Some(device.receive_queues)
    };
    let before = interfaces.iter().take_while(|name| **name != link.name);
    let before: u32 = before.filter_map(queues).sum();
    let own = facts
        .devices
        .get(&ifindex)
        .map_or(0, |device| device.receive_queues);
    if before > XSKS_MAX || before + own <= XSKS_MAX {
        return;
    }
    let name = &link.name;
    let which = if link.combined_channels {
        "combined"
    } else {
        "rx"
    };
    let each = XSKS_MAX / interfaces.len() as u32;
    findings.about("queues", subject(name)).error(
        format!(
            "has {own} receive queues, which makes {} with those before it: there are sockets \
             for {XSKS_MAX}",
            before + own
        ),
        run(format!("ethtool -L {name} {which} {}", each.max(1))),
    );
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ETH0, ETH1, FREE, assert_finds, fit, link};
    use super::*;
    use crate::datapath::{Pinned, XdpLink};
    use crate::network::XdpFeatures;

    fn eth0(facts: &mut Facts) -> &mut LinkFacts {
        facts.network.links.get_mut(&ETH0).unwrap()
    }

    #[test]
    fn an_interface_that_is_not_there_is_told_with_those_that_are() {
        assert_finds(
            |config, _| config.dataplane.interfaces = vec!["eth1".into(), "eth7".into()],
            "error interface-exists interface eth7: does not exist in this network namespace; \
             there is eth0, eth1; # correct dataplane.interfaces",
        );
        assert_finds(
            |config, facts| {
                config.dataplane.interfaces = vec!["eth1".into(), "lan0".into()];
                eth0(facts).alternative_names.push("lan0".into());
            },
            "error interface-exists interface lan0: is only another name of eth0; \
             # write \"eth0\" in dataplane.interfaces",
        );
        assert_finds(
            |config, _| config.dataplane.interfaces.push("lo".into()),
            "error interface-kind interface lo: is not Ethernet (loopback): no packet of clients \
             has a place there; # take lo out of dataplane.interfaces",
        );
    }

    #[test]
    fn an_interface_that_is_down_is_told() {
        assert_finds(
            |_, facts| (eth0(facts).up, eth0(facts).carrier) = (false, false),
            "error interface-up interface eth0: is down; ip link set dev eth0 up",
        );
        assert_finds(
            |_, facts| eth0(facts).carrier = false,
            "warning interface-carrier interface eth0: has no carrier; \
             # look at the cable and at what is at its other end",
        );
    }

    #[test]
    fn a_vlan_device_stands_on_what_is_to_be_configured() {
        assert_finds(
            |config, facts| {
                config.dataplane.interfaces = vec!["eth0.100".into(), "eth1".into()];
                config.dataplane.attach_mode = AttachMode::Auto;
                let vlan = LinkFacts {
                    other: Some(ETH0),
                    xdp: Some(XdpFeatures(0)),
                    ..link("eth0.100", "vlan")
                };
                facts.network.links.insert(FREE, vlan);
            },
            "warning interface-kind interface eth0.100: is a VLAN device, which has no native XDP \
             and hides eth0's tags; # write \"eth0\" in dataplane.interfaces instead: the program \
             reads and writes tags, and knows eth0.100 by itself",
        );
    }

    #[test]
    fn bonds_and_members_are_told() {
        assert_finds(
            |_, facts| eth0(facts).kind = "bond".into(),
            "error interface-kind interface eth0: is a bond: frames arrive at its members, and \
             have no way out by them; # use an interface that is no bond; several equal routes \
             share load as well",
        );
        assert_finds(
            |_, facts| {
                facts.network.links.insert(FREE, link("br0", "bridge"));
                eth0(facts).master = Some(FREE);
            },
            "warning interface-member interface eth0: is a member of bridge br0: routes leave by \
             br0, not by eth0; # take it out of the bridge: ip link set dev eth0 nomaster",
        );
        let (config, mut facts) = fit();
        facts.network.links.insert(FREE, link("red", "vrf"));
        eth0(&mut facts).master = Some(FREE);
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn another_program_is_told_with_what_detaches_it() {
        for (mode, command) in [
            (ProgramMode::Native, "ip link set dev eth0 xdpdrv off"),
            (ProgramMode::Generic, "ip link set dev eth0 xdpgeneric off"),
            (ProgramMode::Hardware, "ip link set dev eth0 xdpoffload off"),
        ] {
            assert_finds(
                |_, facts| eth0(facts).programs = vec![(mode, 42)],
                &format!(
                    "error xdp-attached interface eth0: has XDP program 42, which is not of this \
                     configuration; {command}"
                ),
            );
        }
        assert_finds(
            |_, facts| {
                eth0(facts).programs = vec![(ProgramMode::Native, 42)];
                facts.programs.insert(42, "pass".into());
                let link = |id, program, ifindex| XdpLink {
                    id,
                    program,
                    ifindex,
                };
                // The second is that of another namespace.
                facts.xdp_links = vec![link(7, 42, ETH1), link(8, 41, ETH0), link(9, 42, ETH0)];
            },
            "error xdp-attached interface eth0: has XDP program 42 (pass), which is not of this \
             configuration; bpftool link detach id 9",
        );
    }

    #[test]
    fn our_own_program_is_no_other() {
        let (config, mut facts) = fit();
        eth0(&mut facts).programs = vec![(ProgramMode::Native, 42)];
        facts.places.pinned = Pinned::Adoptable(vec![ETH0]);
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn more_queues_than_sockets_are_told() {
        assert_finds(
            |_, facts| facts.devices.get_mut(&ETH1).unwrap().receive_queues = 256,
            "error queues interface eth1: has 256 receive queues, which makes 257 with those \
             before it: there are sockets for 256; ethtool -L eth1 combined 128",
        );
        assert_finds(
            |_, facts| {
                facts.devices.get_mut(&ETH0).unwrap().receive_queues = 300;
                eth0(facts).combined_channels = false;
            },
            "error queues interface eth0: has 300 receive queues, which makes 300 with those \
             before it: there are sockets for 256; ethtool -L eth0 rx 128",
        );
    }
}
