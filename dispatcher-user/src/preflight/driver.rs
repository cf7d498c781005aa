//! What the driver of a configured interface does with XDP: its modes, MTU and offloads, and the
//! other end of a veth.

use super::facts::Facts;
use super::interface::subject;
use super::{Findings, Mend, advise, run};
use crate::config::{AttachMode, Config, XskMode};
use crate::network::LinkFacts;

/// Drivers with native XDP in Linux 6.1, as `ethtool -i` calls them; for kernels that do not tell.
const NATIVE: [&str; 38] = [
    "atlantic",
    "bnxt_en",
    "ena",
    "fec",
    "fsl_dpa",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "funeth",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "lan966x-switch",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "nicvf",
    "qede",
    "rvu-nicpf",
    "rvu_nicpf",
    "sfc",
    "st_gmac",
    "stmmac",
    "ti-cpsw",
    "tsnep",
    "tun",
    "veth",
    "virtio_net",
    "vif",
];

/// Largest MTU that a driver takes with a program of one buffer, such as ours, where it is known:
/// most put a frame, 256 bytes before it and 320 behind it into a page.
const MTU_MAX: [(&str, u32); 14] = [
    ("bnxt_en", 3502),
    ("ena", 3498),
    ("gve", 2032),
    ("i40e", 3046),
    ("ice", 3046),
    ("igb", 3046),
    ("igc", 1500),
    ("ixgbe", 3050),
    ("ixgbevf", 3050),
    ("mlx4_en", 3498),
    ("mlx5_core", 3498),
    ("nicvf", 1508),
    ("st_gmac", 1500),
    ("virtio_net", 3506),
];
/// The same of a veth, where it is the other end's MTU that counts.
const VETH_MTU_MAX: u32 = 3506;

/// Whether the program can be attached natively.
enum Native {
    Yes,
    Unknown,
    No { why: String, mend: Option<Mend> },
}

pub(super) fn check(
    config: &Config,
    facts: &Facts,
    ifindex: u32,
    link: &LinkFacts,
    findings: &mut Findings,
) {
    // They have their own finding, which says to configure another one.
    if matches!(&*link.kind, "vlan" | "bond" | "team") {
        return;
    }
    let driver = facts
        .devices
        .get(&ifindex)
        .and_then(|it| it.driver.as_deref());
    let driver = driver.unwrap_or("unknown");
    let mode = config.dataplane.attach_mode;
    let native = native(facts, link, driver);
    let generically = mode == AttachMode::Generic
        || mode == AttachMode::Auto && matches!(native, Native::No { .. });
    attach_mode(mode, native, link, driver, findings);
    zero_copy(config, link, driver, findings);
    received_merged(generically, link, findings);
    vlan_tags(facts, ifindex, link, findings);
    if link.kind == "veth" {
        other_end(config, facts, generically, link, findings);
    }
}

fn native(facts: &Facts, link: &LinkFacts, driver: &str) -> Native {
    let has = match link.xdp {
        Some(features) => features.has_native(),
        None if NATIVE.contains(&driver) => true,
        None => return Native::Unknown,
    };
    let other = veth_peer(facts, link);
    if link.kind == "veth" {
        return match other {
            _ if !has => Native::No {
                why: "the other end sends on more queues than this one receives on".to_owned(),
                mend: None,
            },
            Some(peer) if peer.mtu > VETH_MTU_MAX => too_large(peer, VETH_MTU_MAX),
            _ => Native::Yes,
        };
    }
    let most = MTU_MAX.iter().find(|(name, _)| *name == driver);
    match most {
        _ if !has => Native::No {
            why: format!("driver {driver} has no native XDP"),
            mend: None,
        },
        Some((_, most)) if link.mtu > *most => too_large(link, *most),
        _ => Native::Yes,
    }
}

fn too_large(link: &LinkFacts, most: u32) -> Native {
    let LinkFacts { name, mtu, .. } = link;
    Native::No {
        why: format!("the MTU of {name} is {mtu}, and native XDP takes at most {most}"),
        mend: Some(run(format!("ip link set dev {name} mtu {most}"))),
    }
}

fn veth_peer<'f>(facts: &'f Facts, link: &LinkFacts) -> Option<&'f LinkFacts> {
    let other = link.other.filter(|_| link.kind == "veth")?;
    facts.network.links.get(&other)
}

fn attach_mode(
    mode: AttachMode,
    native: Native,
    link: &LinkFacts,
    driver: &str,
    findings: &mut Findings,
) {
    let about = findings.about("attach-mode", subject(&link.name));
    let generic = || advise("write attach_mode = \"generic\", or use another interface");
    match (mode, native) {
        (AttachMode::Native, Native::No { why, mend }) => {
            about.error(why, mend.unwrap_or_else(generic));
        }
        (AttachMode::Auto, Native::No { why, mend }) => {
            let found = format!("{why}: the program is attached generically, which is slower");
            about.warning(
                found,
                mend.or_else(|| Some(advise("use another interface"))),
            );
        }
        (AttachMode::Generic, Native::Yes) => about.note(
            format!("driver {driver} has native XDP, which is faster than the generic one"),
            advise("write attach_mode = \"auto\""),
        ),
        (AttachMode::Native, Native::Unknown) => about.warning(
            format!("whether driver {driver} has native XDP cannot be told"),
            advise("write attach_mode = \"auto\""),
        ),
        (AttachMode::Auto | AttachMode::Native, Native::Yes)
        | (AttachMode::Generic, Native::No { .. } | Native::Unknown)
        | (AttachMode::Auto, Native::Unknown) => {}
    }
}

fn zero_copy(config: &Config, link: &LinkFacts, driver: &str, findings: &mut Findings) {
    let asked = config.dataplane.xsk_mode == XskMode::ZeroCopy;
    if asked && link.xdp.is_some_and(|features| !features.has_zero_copy()) {
        findings.about("xsk-mode", subject(&link.name)).error(
            format!("driver {driver} has no zero-copy"),
            advise("write xsk_mode = \"copy\""),
        );
    }
}

/// A segment that was put together from several frames is longer than a frame that can be sent.
fn received_merged(generically: bool, link: &LinkFacts, findings: &mut Findings) {
    let Some(on) = &link.offloads else { return };
    let name = &link.name;
    // The kernel turns off the first two itself where it attaches generically, and there the last
    // one comes before the program.
    let offloads: &[(&str, &str, &str)] = if generically {
        &[("rx-gro", "generic receive offload", "gro")]
    } else {
        &[
            ("rx-lro", "large receive offload", "lro"),
            ("rx-gro-hw", "receive offload in hardware", "rx-gro-hw"),
        ]
    };
    for (bit, what, flag) in offloads {
        if on.contains(*bit) {
            findings.about("receive-offload", subject(name)).warning(
                format!("{what} is on: what it puts together cannot be sent on"),
                run(format!("ethtool -K {name} {flag} off")),
            );
        }
    }
}

/// A tag that the driver takes off is not there for the program to see.
fn vlan_tags(facts: &Facts, ifindex: u32, link: &LinkFacts, findings: &mut Findings) {
    let Some(vlan) = facts.vlans_on(ifindex).next() else {
        return;
    };
    let stripped = link
        .offloads
        .as_ref()
        .is_some_and(|on| on.contains("rx-vlan-hw-parse"));
    if stripped {
        let name = &link.name;
        findings.about("vlan-offload", subject(name)).error(
            format!(
                "takes VLAN tags off before the program sees them, and has {}",
                vlan.name
            ),
            run(format!("ethtool -K {name} rxvlan off txvlan off")),
        );
    }
}

/// What is sent into a veth comes out of its other end, in the state that it was sent in.
fn other_end(
    config: &Config,
    facts: &Facts,
    generically: bool,
    link: &LinkFacts,
    findings: &mut Findings,
) {
    let name = &link.name;
    let lost = link
        .xdp
        .is_some_and(|features| !features.is_redirect_target());
    let lost_found = "what the program sends out by it is lost: the other end has neither GRO nor \
                      an XDP program";
    let Some(peer) = veth_peer(facts, link) else {
        if lost && !generically {
            findings.about("veth-redirect", subject(name)).warning(
                lost_found,
                advise("in the other end's namespace, while it is up: ethtool -K PEER gro on"),
            );
        }
        if link.mtu > VETH_MTU_MAX && !generically {
            findings.about("veth-mtu", subject(name)).warning(
                format!(
                    "its MTU is {}: if the other end's is above {VETH_MTU_MAX} as well, there is \
                     no native XDP",
                    link.mtu
                ),
                run(format!("ip link set dev {name} mtu {VETH_MTU_MAX}")),
            );
        }
        return findings.about("veth-checksum", subject(name)).note(
            "its other end is in another namespace: whether that finishes checksums cannot be seen",
            advise("in the other end's namespace: ethtool -K PEER tx off"),
        );
    };
    let other = &peer.name;
    let on = |bit: &str| peer.offloads.as_ref().is_some_and(|on| on.contains(bit));
    if on("tx-checksum-ip-generic") {
        findings.about("veth-checksum", subject(name)).warning(
            format!("its other end {other} leaves TCP checksums unfinished"),
            run(format!("ethtool -K {other} tx off")),
        );
    }
    if generically {
        return;
    }
    if lost {
        // One that is on from before the link was up does not count.
        let first = if on("rx-gro") {
            format!("ethtool -K {other} gro off && ")
        } else {
            String::new()
        };
        let mend = run(format!("{first}ethtool -K {other} gro on"));
        let about = findings.about("veth-redirect", subject(name));
        about.warning(lost_found, mend);
    }
    if config.dataplane.interfaces.len() == 1 && peer.programs.is_empty() {
        findings.about("veth-transmit", subject(name)).warning(
            format!("what goes back by where it came from is lost: {other} has no XDP program"),
            advise(format!(
                "attach a program to {other} that passes everything"
            )),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ETH0, FREE, assert_finds, fit, link};
    use super::*;
    use crate::network::XdpFeatures;

    fn eth0(facts: &mut Facts) -> &mut LinkFacts {
        facts.network.links.get_mut(&ETH0).unwrap()
    }

    fn turn_on(link: &mut LinkFacts, offload: &str) {
        link.offloads.as_mut().unwrap().insert(offload.into());
    }

    fn driver(facts: &mut Facts, name: &str) {
        facts.devices.get_mut(&ETH0).unwrap().driver = Some(name.into());
    }

    /// Makes eth0 a veth whose other end is in this namespace and as it should be.
    fn veth(facts: &mut Facts) -> &mut LinkFacts {
        driver(facts, "veth");
        (eth0(facts).kind, eth0(facts).other) = ("veth".into(), Some(FREE));
        let peer = LinkFacts {
            other: Some(ETH0),
            ..link("peer0", "veth")
        };
        facts.network.links.entry(FREE).or_insert(peer)
    }

    #[test]
    fn a_driver_without_native_xdp_is_told_by_what_was_asked_for() {
        let without = |facts: &mut Facts| {
            driver(facts, "r8169");
            eth0(facts).xdp = Some(XdpFeatures(0));
        };
        assert_finds(
            |_, facts| without(facts),
            "error attach-mode interface eth0: driver r8169 has no native XDP; \
             # write attach_mode = \"generic\", or use another interface",
        );
        assert_finds(
            |config, facts| {
                without(facts);
                config.dataplane.attach_mode = AttachMode::Auto;
            },
            "warning attach-mode interface eth0: driver r8169 has no native XDP: the program is \
             attached generically, which is slower; # use another interface",
        );
        let (mut config, mut facts) = fit();
        facts
            .network
            .links
            .values_mut()
            .for_each(|link| link.xdp = Some(XdpFeatures(0)));
        config.dataplane.attach_mode = AttachMode::Generic;
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn generic_where_native_is_possible_is_worth_a_note() {
        let (mut config, facts) = fit();
        config.dataplane.attach_mode = AttachMode::Generic;
        let found = super::super::check(&config, &facts);
        let lines: Vec<_> = found.iter().map(super::super::made_up::line).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            "note attach-mode interface eth0: driver ice has native XDP, which is faster than the \
             generic one; # write attach_mode = \"auto\""
        );
    }

    #[test]
    fn where_the_kernel_does_not_tell_a_table_does() {
        let (config, mut facts) = fit();
        eth0(&mut facts).xdp = None;
        assert_eq!(super::super::check(&config, &facts), []);
        assert_finds(
            |_, facts| {
                eth0(facts).xdp = None;
                driver(facts, "newcomer");
            },
            "warning attach-mode interface eth0: whether driver newcomer has native XDP cannot be \
             told; # write attach_mode = \"auto\"",
        );
    }

    #[test]
    fn an_mtu_that_native_xdp_does_not_take_is_told() {
        assert_finds(
            |_, facts| eth0(facts).mtu = 9000,
            "error attach-mode interface eth0: the MTU of eth0 is 9000, and native XDP takes at \
             most 3046; ip link set dev eth0 mtu 3046",
        );
        let (config, mut facts) = fit();
        eth0(&mut facts).mtu = 3046;
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn zero_copy_that_the_driver_does_not_have_is_told() {
        let (mut config, facts) = fit();
        config.dataplane.xsk_mode = XskMode::ZeroCopy;
        let found = super::super::check(&config, &facts);
        assert_eq!(
            super::super::made_up::line(&found[0]),
            "error xsk-mode interface eth0: driver ice has no zero-copy; \
             # write xsk_mode = \"copy\""
        );
    }

    #[test]
    fn receive_offloads_are_told_in_the_mode_that_they_break() {
        for (bit, what, flag) in [
            ("rx-lro", "large receive offload", "lro"),
            ("rx-gro-hw", "receive offload in hardware", "rx-gro-hw"),
        ] {
            assert_finds(
                |_, facts| turn_on(eth0(facts), bit),
                &format!(
                    "warning receive-offload interface eth0: {what} is on: what it puts together \
                     cannot be sent on; ethtool -K eth0 {flag} off"
                ),
            );
        }
        let (config, mut facts) = fit();
        turn_on(eth0(&mut facts), "rx-gro");
        assert_eq!(super::super::check(&config, &facts), []);
        assert_finds(
            |config, facts| {
                config.dataplane.attach_mode = AttachMode::Generic;
                facts
                    .network
                    .links
                    .values_mut()
                    .for_each(|link| link.xdp = Some(XdpFeatures(0)));
                turn_on(eth0(facts), "rx-gro");
                turn_on(eth0(facts), "rx-lro");
            },
            "warning receive-offload interface eth0: generic receive offload is on: what it puts \
             together cannot be sent on; ethtool -K eth0 gro off",
        );
    }

    #[test]
    fn tags_that_are_taken_off_matter_where_there_are_vlans() {
        let (config, mut facts) = fit();
        turn_on(eth0(&mut facts), "rx-vlan-hw-parse");
        assert_eq!(super::super::check(&config, &facts), []);
        assert_finds(
            |_, facts| {
                turn_on(eth0(facts), "rx-vlan-hw-parse");
                let vlan = LinkFacts {
                    other: Some(ETH0),
                    ..link("eth0.100", "vlan")
                };
                facts.network.links.insert(FREE, vlan);
            },
            "error vlan-offload interface eth0: takes VLAN tags off before the program sees them, \
             and has eth0.100; ethtool -K eth0 rxvlan off txvlan off",
        );
    }

    #[test]
    fn a_veth_is_as_good_as_its_other_end() {
        let (config, mut facts) = fit();
        veth(&mut facts);
        assert_eq!(super::super::check(&config, &facts), []);
        assert_finds(
            |_, facts| turn_on(veth(facts), "tx-checksum-ip-generic"),
            "warning veth-checksum interface eth0: its other end peer0 leaves TCP checksums \
             unfinished; ethtool -K peer0 tx off",
        );
        assert_finds(
            |_, facts| veth(facts).mtu = 9000,
            "error attach-mode interface eth0: the MTU of peer0 is 9000, and native XDP takes at \
             most 3506; ip link set dev peer0 mtu 3506",
        );
        assert_finds(
            |_, facts| {
                veth(facts);
                eth0(facts).xdp = Some(XdpFeatures(0b11));
            },
            "warning veth-redirect interface eth0: what the program sends out by it is lost: the \
             other end has neither GRO nor an XDP program; ethtool -K peer0 gro on",
        );
        assert_finds(
            |_, facts| {
                turn_on(veth(facts), "rx-gro");
                eth0(facts).xdp = Some(XdpFeatures(0b11));
            },
            "warning veth-redirect interface eth0: what the program sends out by it is lost: the \
             other end has neither GRO nor an XDP program; \
             ethtool -K peer0 gro off && ethtool -K peer0 gro on",
        );
        assert_finds(
            |_, facts| {
                veth(facts);
                eth0(facts).xdp = Some(XdpFeatures(0b100));
            },
            "error attach-mode interface eth0: the other end sends on more queues than this one \
             receives on; # write attach_mode = \"generic\", or use another interface",
        );
    }

    #[test]
    fn of_an_other_end_elsewhere_is_said_what_to_do_there() {
        assert_finds(
            |_, facts| {
                driver(facts, "veth");
                eth0(facts).kind = "veth".into();
            },
            "note veth-checksum interface eth0: its other end is in another namespace: whether \
             that finishes checksums cannot be seen; \
             # in the other end's namespace: ethtool -K PEER tx off",
        );
    }

    #[test]
    fn a_one_armed_veth_needs_a_program_at_its_other_end() {
        let (mut config, mut facts) = fit();
        veth(&mut facts);
        config.dataplane.interfaces = vec!["eth0".into()];
        let found = super::super::check(&config, &facts);
        let found = found
            .iter()
            .find(|finding| finding.check == "veth-transmit");
        assert_eq!(
            super::super::made_up::line(found.unwrap()),
            "warning veth-transmit interface eth0: what goes back by where it came from is lost: \
             peer0 has no XDP program; # attach a program to peer0 that passes everything"
        );
    }
}
