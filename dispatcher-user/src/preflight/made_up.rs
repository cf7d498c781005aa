//! A machine that does not exist, on which nothing is wrong, for tests to break.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use super::facts::{Device, Facts};
use super::forwarding::{OUTSIDE_V4, OUTSIDE_V6};
use super::{Finding, check};
use crate::config::Config;
use crate::network::{AddressFacts, LinkFacts, NeighbourState, Route, Snapshot, XdpFeatures};

/// Interface indices.
pub const LO: u32 = 1;
pub const ETH0: u32 = 2;
pub const ETH1: u32 = 3;
/// The first that no link has.
pub const FREE: u32 = 4;
/// Everything but zero-copy.
pub const XDP: XdpFeatures = XdpFeatures(0b111);

const CONFIG: &str = r#"
    [metrics]
    [dataplane]
    interfaces  = ["eth0", "eth1"]
    attach_mode = "native"
    [[service]]
    name    = "web"
    address = "192.0.2.10:80"
    [[service.backend]]
    name     = "web-1"
    address  = "10.0.0.11:8080"
    capacity = 8
"#;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn link(name: &str, kind: &str) -> LinkFacts {
    LinkFacts {
        name: name.into(),
        alternative_names: vec![],
        kind: kind.into(),
        ethernet: true,
        loopback: false,
        mtu: 1500,
        up: true,
        carrier: true,
        other: None,
        master: None,
        programs: vec![],
        xdp: Some(XDP),
        offloads: Some(BTreeSet::new()),
        combined_channels: true,
    }
}

pub fn address(ifindex: u32, text: &str, prefix: u8) -> AddressFacts {
    AddressFacts {
        ifindex,
        ip: ip(text),
        prefix,
        duplicate: false,
    }
}

pub fn unicast(oif: u32, next: &str) -> Route {
    Route::Unicast {
        oif,
        next: ip(next),
        mtu: None,
    }
}

/// Two network cards, clients behind a router on the first, back-ends on the second.
pub fn fit() -> (Config, Facts) {
    let config = Config::parse(Path::new("made-up.toml"), CONFIG.as_bytes()).unwrap();
    let lo = LinkFacts {
        ethernet: false,
        loopback: true,
        ..link("lo", "")
    };
    let device = Device {
        driver: Some("ice".into()),
        receive_queues: 1,
    };
    let backend = ip("10.0.0.11");
    let nowhere = Route::None {
        why: "no route to it".into(),
    };
    let settings = [
        ("net/ipv4/ip_forward", 1),
        ("net/ipv4/conf/eth0/forwarding", 1),
        ("net/ipv4/conf/eth1/forwarding", 1),
        ("net/ipv4/conf/all/rp_filter", 0),
        ("net/ipv4/conf/eth0/rp_filter", 1),
        ("net/ipv4/conf/eth1/rp_filter", 1),
        ("net/ipv4/conf/all/send_redirects", 1),
        ("net/core/bpf_jit_enable", 1),
    ];
    let facts = Facts {
        network: Snapshot {
            links: BTreeMap::from([(LO, lo), (ETH0, link("eth0", "")), (ETH1, link("eth1", ""))]),
            addresses: vec![
                address(LO, "127.0.0.1", 8),
                address(LO, "192.0.2.10", 32),
                address(ETH0, "198.51.100.1", 24),
                address(ETH1, "10.0.0.1", 24),
            ],
            routes: BTreeMap::from([
                (backend, unicast(ETH1, "10.0.0.11")),
                (OUTSIDE_V4, unicast(ETH0, "198.51.100.254")),
                (OUTSIDE_V6, nowhere),
            ]),
            neighbours: [((ETH1, backend), NeighbourState::Reachable)].into(),
        },
        devices: BTreeMap::from([(ETH0, device.clone()), (ETH1, device)]),
        sysctls: settings
            .map(|(path, value)| (path.to_owned(), value))
            .into(),
        ..Facts::default()
    };
    (config, facts)
}

/// A finding on one line: severity, check, subject, what was found, what mends it.
pub fn line(finding: &Finding) -> String {
    let json = serde_json::to_value(finding).unwrap();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let told = format!(
        "{} {} {}: {}",
        text("severity"),
        text("check"),
        text("subject"),
        text("found")
    );
    match &finding.mend {
        Some(_) => format!("{told}; {}", text("mend")),
        None => told,
    }
}

/// That this change, and nothing else, makes exactly this finding.
#[track_caller]
pub fn assert_finds(change: impl FnOnce(&mut Config, &mut Facts), expected: &str) {
    let (mut config, mut facts) = fit();
    assert_eq!(check(&config, &facts), [], "before the change");
    change(&mut config, &mut facts);
    let found: Vec<_> = check(&config, &facts).iter().map(line).collect();
    assert_eq!(found, [expected]);
}
