//! What the daemon needs for itself: the admin socket, the address of the metrics, the pins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::facts::Facts;
use super::{Findings, advise, run};
use crate::admin::SocketState;
use crate::config::Config;
use crate::datapath::Pinned;

const SUBJECT: &str = "daemon";

pub(super) fn check(config: &Config, facts: &Facts, findings: &mut Findings) {
    socket(config, facts, findings);
    // One that runs has its own address.
    if facts.places.socket != SocketState::Answers {
        metrics(config, facts, findings);
    }
    pins(config, facts, findings);
}

fn socket(config: &Config, facts: &Facts, findings: &mut Findings) {
    let socket = config.admin.socket.display();
    let about = findings.about("admin-socket", SUBJECT);
    if let Some(file) = &facts.places.socket_blocked {
        let file = file.display();
        return about.error(
            format!("{file} is no directory, so {socket} cannot be made"),
            advise(format!(
                "move {file} away, or configure another admin.socket"
            )),
        );
    }
    match &facts.places.socket {
        SocketState::Free => {}
        SocketState::Answers => {
            about.note(format!("one runs already and answers at {socket}"), None);
        }
        SocketState::NotASocket => about.error(
            format!("{socket} exists and is no socket"),
            run(format!("rm {socket}")),
        ),
        SocketState::Unusable(why) => about.warning(
            format!("{socket} cannot be looked at: {why}"),
            advise("check as root"),
        ),
    }
}

fn metrics(config: &Config, facts: &Facts, findings: &mut Findings) {
    let Some(metrics) = &config.metrics else {
        return;
    };
    let listen = metrics.listen;
    let ip = listen.ip();
    let about = findings.about("metrics-address", SUBJECT);
    if let Some(taken) = listening_at(facts, listen) {
        return about.error(
            format!("{listen} is taken: something listens at {taken}"),
            advise("configure another metrics.listen, or stop what listens there"),
        );
    }
    let has = ip.is_unspecified() || ip.is_loopback() || facts.network.own(ip).is_some();
    if !has {
        about.error(
            format!("{listen} is no address of this machine"),
            advise("configure a metrics.listen that `ip address` shows"),
        );
    }
}

fn pins(config: &Config, facts: &Facts, findings: &mut Findings) {
    let pin_path = &config.dataplane.pin_path;
    if let Some(deepest) = &facts.places.no_bpf_fs {
        let standard = Path::new("/sys/fs/bpf");
        let mend = if pin_path.starts_with(standard) {
            "mount -t bpf bpf /sys/fs/bpf".to_owned()
        } else {
            let parent = pin_path.parent().unwrap_or(standard).display();
            format!("mkdir -p {parent} && mount -t bpf bpf {parent}")
        };
        let found = format!("{} is on no BPF file system", deepest.display());
        findings.about("bpffs", SUBJECT).error(found, run(mend));
    }
    let about = findings.about("pins", SUBJECT);
    let shown = pin_path.display();
    match &facts.places.pinned {
        Pinned::Nothing | Pinned::Adoptable(_) => {}
        Pinned::Incompatible(_, why) => about.error(
            format!("{shown} holds maps that cannot be taken over: {why}"),
            advise("let their flows end, then run `dispatcher unload` with this configuration"),
        ),
        // Without privilege that is told already.
        Pinned::Unreadable(_) if !facts.machine.privileges.sys_admin => {}
        Pinned::Unreadable(why) => about.warning(
            format!("{shown} cannot be looked at: {why}"),
            advise("check as root"),
        ),
    }
}

/// What listens where a listener at `address` would be in its way, or it in theirs.
pub(super) fn listening_at(facts: &Facts, address: SocketAddr) -> Option<SocketAddr> {
    let overlaps = |other: &IpAddr| {
        *other == address.ip()
            || *other == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && address.is_ipv4()
            // Of both families unless it says otherwise, which cannot be seen.
            || *other == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            || address.ip().is_unspecified() && other.is_ipv4() == address.is_ipv4()
    };
    let mut listeners = facts.listeners.iter();
    listeners
        .find(|other| other.port() == address.port() && overlaps(&other.ip()))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{assert_finds, fit};
    use super::*;

    #[test]
    fn a_path_that_the_socket_cannot_have_is_told() {
        assert_finds(
            |_, facts| facts.places.socket = SocketState::NotASocket,
            "error admin-socket daemon: /run/dispatcher/admin.sock exists and is no socket; \
             rm /run/dispatcher/admin.sock",
        );
        assert_finds(
            |_, facts| facts.places.socket_blocked = Some("/run/dispatcher".into()),
            "error admin-socket daemon: /run/dispatcher is no directory, so \
             /run/dispatcher/admin.sock cannot be made; \
             # move /run/dispatcher away, or configure another admin.socket",
        );
        assert_finds(
            |_, facts| facts.places.socket = SocketState::Unusable("Permission denied".into()),
            "warning admin-socket daemon: /run/dispatcher/admin.sock cannot be looked at: \
             Permission denied; # check as root",
        );
    }

    #[test]
    fn a_running_daemon_is_told_and_has_its_own_metrics_address() {
        assert_finds(
            |_, facts| {
                facts.places.socket = SocketState::Answers;
                facts.listeners.insert("127.0.0.1:9464".parse().unwrap());
            },
            "note admin-socket daemon: one runs already and answers at /run/dispatcher/admin.sock",
        );
    }

    #[test]
    fn a_metrics_address_that_cannot_be_had_is_told() {
        for taken in ["127.0.0.1:9464", "0.0.0.0:9464", "[::]:9464"] {
            assert_finds(
                |_, facts| {
                    facts.listeners.insert(taken.parse().unwrap());
                },
                &format!(
                    "error metrics-address daemon: 127.0.0.1:9464 is taken: something listens at \
                     {taken}; # configure another metrics.listen, or stop what listens there"
                ),
            );
        }
        assert_finds(
            |config, _| {
                config.metrics.as_mut().unwrap().listen = "203.0.113.5:9464".parse().unwrap();
            },
            "error metrics-address daemon: 203.0.113.5:9464 is no address of this machine; \
             # configure a metrics.listen that `ip address` shows",
        );
        let (config, mut facts) = fit();
        for other in ["127.0.0.2:9464", "127.0.0.1:9465", "[::1]:9464"] {
            facts.listeners.insert(other.parse().unwrap());
        }
        assert_eq!(super::super::check(&config, &facts), []);
    }

    #[test]
    fn pins_that_cannot_be_made_or_taken_over_are_told() {
        assert_finds(
            |_, facts| facts.places.no_bpf_fs = Some("/sys/fs/bpf".into()),
            "error bpffs daemon: /sys/fs/bpf is on no BPF file system; \
             mount -t bpf bpf /sys/fs/bpf",
        );
        assert_finds(
            |config, facts| {
                config.dataplane.pin_path = "/mnt/bpf/dispatcher".into();
                facts.places.no_bpf_fs = Some("/mnt".into());
            },
            "error bpffs daemon: /mnt is on no BPF file system; \
             mkdir -p /mnt/bpf && mount -t bpf bpf /mnt/bpf",
        );
        assert_finds(
            |_, facts| {
                let why = "its layout is version 1, not 2".into();
                facts.places.pinned = Pinned::Incompatible(vec![], why);
            },
            "error pins daemon: /sys/fs/bpf/dispatcher holds maps that cannot be taken over: its \
             layout is version 1, not 2; # let their flows end, then run `dispatcher unload` with \
             this configuration",
        );
        assert_finds(
            |_, facts| facts.places.pinned = Pinned::Unreadable("I/O error".into()),
            "warning pins daemon: /sys/fs/bpf/dispatcher cannot be looked at: I/O error; \
             # check as root",
        );
    }
}
