//! What was read from the machine: plain data, which tests make up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::admin::SocketState;
use crate::datapath::{Pinned, XdpLink};
use crate::network::{LinkFacts, Snapshot};

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Kernel and process.
    pub machine: Machine,
    /// Files, sockets, pins.
    pub places: Places,
    /// Links, addresses, routes, neighbours.
    pub network: Snapshot,
    /// What the drivers of the configured interfaces say, by interface index.
    pub devices: BTreeMap<u32, Device>,
    /// Names of the XDP programs that are attached, by their ids, as far as they can be told.
    pub programs: BTreeMap<u32, String>,
    /// The XDP links that there are, in all network namespaces. Nothing without privilege.
    pub xdp_links: Vec<XdpLink>,
    /// Settings by their paths below `/proc/sys`; those that do not exist are not here.
    pub sysctls: BTreeMap<String, i64>,
    /// Where TCP of this machine listens.
    pub listeners: BTreeSet<SocketAddr>,
}

/// Kernel and process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The kernel's release, such as `6.1.0-13-amd64`.
    pub release: String,
    /// The processor's architecture.
    pub architecture: String,
    /// The kernel describes its types.
    pub btf: bool,
    /// The kernel has AF_XDP; nothing if it cannot be told.
    pub af_xdp: Option<bool>,
    /// Why bpf(2) cannot be used.
    pub bpf_refused: Option<String>,
    /// What this process may do.
    pub privileges: Privileges,
    /// Bytes of memory that this process may lock; nothing for no limit.
    pub memory_lock: Option<u64>,
}

/// What this process may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Privileges {
    /// `CAP_NET_ADMIN`
    pub net_admin: bool,
    /// `CAP_NET_RAW`
    pub net_raw: bool,
    /// `CAP_BPF`
    pub bpf: bool,
    /// `CAP_IPC_LOCK`
    pub ipc_lock: bool,
    /// `CAP_SYS_ADMIN`
    pub sys_admin: bool,
}

impl Privileges {
    /// Those of root.
    pub const ALL: Self = Self {
        net_admin: true,
        net_raw: true,
        bpf: true,
        ipc_lock: true,
        sys_admin: true,
    };
}

impl Default for Machine {
    /// A kernel that is new enough, and root.
    fn default() -> Self {
        Self {
            release: "6.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            btf: true,
            af_xdp: Some(true),
            bpf_refused: None,
            privileges: Privileges::ALL,
            memory_lock: None,
        }
    }
}

/// Files, sockets, pins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// What is at the path of the admin socket.
    pub socket: SocketState,
    /// A file where the directory of the admin socket should be.
    pub socket_blocked: Option<PathBuf>,
    /// The deepest part of the pin path that exists, unless it is on a BPF file system.
    pub no_bpf_fs: Option<PathBuf>,
    /// What an earlier run has left.
    pub pinned: Pinned,
}

/// What the driver of an interface says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Its name.
    pub driver: Option<String>,
    /// Receive queues in use.
    pub receive_queues: u32,
}

impl Facts {
    /// A setting by its path below `/proc/sys`.
    #[must_use]
    pub fn sysctl(&self, path: &str) -> Option<i64> {
        self.sysctls.get(path).copied()
    }

    /// The configured interface of this name: index and link.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<(u32, &LinkFacts)> {
        self.network.link(name)
    }

    /// VLAN devices on the link of this index.
    pub fn vlans_on(&self, ifindex: u32) -> impl Iterator<Item = &LinkFacts> {
        let links = self.network.links.values();
        links.filter(move |link| link.kind == "vlan" && link.other == Some(ifindex))
    }

    /// The configured interface that frames leave by which are given to the link of this index:
    /// itself, or what a VLAN device stands on.
    #[must_use]
    pub fn configured(&self, interfaces: &[String], ifindex: u32) -> Option<u32> {
        let link = self.network.links.get(&ifindex)?;
        if interfaces.contains(&link.name) {
            return Some(ifindex);
        }
        let below = link.other.filter(|_| link.kind == "vlan")?;
        let parent = self.network.links.get(&below)?;
        interfaces.contains(&parent.name).then_some(below)
    }

    /// The name of a link, for messages.
    #[must_use]
    pub fn name(&self, ifindex: u32) -> &str {
        let link = self.network.links.get(&ifindex);
        link.map_or("an interface that is gone", |link| &link.name)
    }
}

/// The path of an interface's setting: family `ipv4` or `ipv6`, interface or `all`, setting.
#[must_use]
pub fn sysctl_of(family: &str, interface: &str, setting: &str) -> String {
    format!("net/{family}/conf/{interface}/{setting}")
}
