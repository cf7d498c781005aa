//! Reads the facts: from the kernel's own files, by netlink and by ethtool. Sends no packet, binds
//! nothing, writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::facts::{Device, Facts, Machine, Places, Privileges, sysctl_of};
use super::forwarding::{MACHINE_SETTINGS, OUTSIDE_V4, OUTSIDE_V6, SETTINGS};
use crate::config::Config;
use crate::network::Snapshot;
use crate::{admin, datapath, xsk};

/// Most bytes of a table of sockets that are read: some 400 000 connections.
const SOCKETS_BYTES_MAX: u64 = 64 << 20;
/// State of a listening socket in such a table (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// Reads what the checks of this configuration need, in the network namespace of this process.
///
/// # Errors
///
/// When the kernel does not answer netlink.
pub async fn read(config: &Config) -> Result<Facts> {
    let backends = config.services.iter().flat_map(|service| &service.backends);
    let targets: BTreeSet<IpAddr> = backends
        .map(|backend| backend.address.ip())
        .chain([OUTSIDE_V4, OUTSIDE_V6])
        .collect();
    let network = Snapshot::read(targets).await?;
    let mut devices = BTreeMap::new();
    for name in &config.dataplane.interfaces {
        if let Some((ifindex, _)) = network.link(name) {
            devices.insert(ifindex, device(name));
        }
    }
    let programs = network.links.values().flat_map(|link| &link.programs);
    let programs = programs
        .filter_map(|(_, id)| Some((*id, datapath::program_name(*id)?)))
        .collect();
    Ok(Facts {
        machine: machine(),
        places: places(config),
        sysctls: sysctls(&network),
        listeners: listeners(),
        devices,
        programs,
        xdp_links: datapath::xdp_links().unwrap_or_default(),
        network,
    })
}

fn machine() -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let protocols = text("/proc/net/protocols");
    Machine {
        release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        af_xdp: (!protocols.is_empty())
            .then(|| protocols.lines().any(|line| line.starts_with("XDP "))),
        bpf_refused: datapath::probe().err().map(|error| error.to_string()),
        privileges: privileges(&text("/proc/self/status")),
        memory_lock: getrlimit(Resource::RLIMIT_MEMLOCK)
            .ok()
            .and_then(|(soft, _)| (soft != libc::RLIM_INFINITY).then_some(soft)),
    }
}

/// From the effective capabilities in `/proc/self/status`.
fn privileges(status: &str) -> Privileges {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    // The numbers are those of linux/capability.h.
    let has = |number: u32| bits.is_some_and(|bits| bits >> number & 1 != 0);
    let sys_admin = has(21);
    Privileges {
        net_admin: has(12),
        net_raw: has(13),
        ipc_lock: has(14),
        // What CAP_BPF allows, CAP_SYS_ADMIN does.
        bpf: has(39) || sys_admin,
        sys_admin,
    }
}

fn places(config: &Config) -> Places {
    let socket = &config.admin.socket;
    let pin_path = &config.dataplane.pin_path;
    let existing = |path: &Path| {
        let mut parts = path.ancestors();
        parts.find(|part| part.exists()).map(Path::to_path_buf)
    };
    let on_bpf_fs =
        |part: &Path| statfs(part).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    Places {
        socket: admin::socket_state(socket),
        socket_blocked: socket
            .parent()
            .and_then(existing)
            .filter(|part| !part.is_dir()),
        no_bpf_fs: existing(pin_path).filter(|part| !on_bpf_fs(part)),
        pinned: datapath::pinned(pin_path, config.dataplane.flow_capacity),
    }
}

fn device(name: &str) -> Device {
    Device {
        driver: xsk::driver_name(name).ok(),
        receive_queues: xsk::receive_queues(name).unwrap_or(0),
    }
}

fn sysctls(network: &Snapshot) -> BTreeMap<String, i64> {
    let links = network.links.values().map(|link| link.name.as_str());
    let of_links = links.chain(["all"]).flat_map(|name| {
        let path = |(family, setting): &(&str, &str)| sysctl_of(family, name, setting);
        SETTINGS.iter().map(path).collect::<Vec<_>>()
    });
    of_links
        .chain(MACHINE_SETTINGS.map(str::to_owned))
        .filter_map(|path| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(&path)).ok()?;
            Some((path, value.trim().parse().ok()?))
        })
        .collect()
}

fn listeners() -> BTreeSet<SocketAddr> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables
        .iter()
        .filter_map(|path| read_bounded(fs::File::open(path).ok()?, SOCKETS_BYTES_MAX).ok())
        .flat_map(|table| table.lines().filter_map(listener).collect::<Vec<_>>())
        .collect()
}

/// What comes after the first `most` bytes is not read.
fn read_bounded(table: impl io::Read, most: u64) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut table.take(most), &mut text)?;
    Ok(text)
}

/// Where the socket of one line listens, if it does.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (ip, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != LISTEN {
        return None;
    }
    // The kernel prints each word of an address as a number of this machine's byte order.
    let word = |at: usize| u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok();
    let ip: IpAddr = if ip.len() == 8 {
        Ipv4Addr::from(word(0)?.to_ne_bytes()).into()
    } else {
        let mut bytes = [0; 16];
        for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
            four.copy_from_slice(&word(at)?.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).into()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_table() {
        let lines = [
            "  sl  local_address rem_address   st tx_queue rx_queue",
            "   0: 0A0200C0:0050 00000000:0000 0A 00000000:00000000 00:00000000",
            "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000",
            "   2: B80D0120000000000000000010000000:01BB \
             00000000000000000000000000000000:0000 0A 00000000:00000000",
        ];
        let read: Vec<_> = lines.iter().filter_map(|line| listener(line)).collect();
        let expected = ["192.0.2.10:80", "[2001:db8::10]:443"].map(|text| text.parse().unwrap());
        assert_eq!(read, expected);
    }

    #[test]
    fn a_table_without_end_is_read_so_far() {
        let read = read_bounded(io::repeat(b' '), SOCKETS_BYTES_MAX >> 10).unwrap();
        assert_eq!(read.len(), 64 << 10);
    }

    #[test]
    fn privileges_are_the_effective_capabilities() {
        assert_eq!(privileges("CapEff:\t000001ffffffffff\n"), Privileges::ALL);
        assert_eq!(
            privileges("CapEff:\t0000000000000000\n"),
            Privileges::default()
        );
        let service = privileges("CapPrm:\t0\nCapEff:\t0000008000003000\n");
        let expected = Privileges {
            net_admin: true,
            net_raw: true,
            bpf: true,
            ..Privileges::default()
        };
        assert_eq!(service, expected);
    }
}
