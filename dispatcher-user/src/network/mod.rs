//! The network around this machine as forwarding sees it: which links there are, and by which way
//! each back-end is reached, followed by netlink as it changes. Sends no packet of its own (the
//! kernel is asked to resolve neighbours) and knows nothing of flows.
//!
//! Every change that could send an established flow's packets elsewhere raises the *generation*;
//! next hops that were remembered under an earlier one must be looked up anew. The kernel's own
//! upkeep of its neighbours (reachable, stale, probed, reachable again) does not raise it.
//!
//! The kernel is asked once for each target, without a client's address, mark or incoming
//! interface: among several equal routes one is taken for all flows, and routing rules that select
//! by these do not apply to the way *to* a back-end.

mod link;
mod neighbour;
mod route;
mod state;
mod kernel;
mod generic;
mod snapshot;
mod watcher;
mod link_events;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dispatcher_common::link::NextHop;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::generic::XdpFeatures;
pub use self::kernel::KernelError;
pub use self::link::{LinkInfo, LinkKind};
pub use self::link_events::LinkEvents;
pub use self::route::Route;
pub use self::snapshot::{AddressFacts, LinkFacts, NeighbourState, ProgramMode, Snapshot};
use self::watcher::Watcher;

/// What is known of the network at one generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkView {
    /// Raised whenever something that matters to forwarding changed; never 0.
    pub generation: u32,
    /// The links that the program can send on, by interface index: the configured interfaces and
    /// the VLAN devices on them. Whatever is not here is the host stack's.
    pub links: BTreeMap<u32, LinkInfo>,
    ways: HashMap<IpAddr, Way>,
}

impl NetworkView {
    /// These links, and a way to nobody.
    #[cfg(test)]
    pub(crate) fn of_links(links: impl IntoIterator<Item = LinkInfo>) -> Self {
        let links = links.into_iter().map(|link| (link.ifindex, link));
        Self {
            generation: 1,
            links: links.collect(),
            ways: HashMap::new(),
        }
    }

    /// The way to a target, or nothing if `ip` is not (or not yet) a target.
    #[must_use]
    pub fn way(&self, ip: IpAddr) -> Option<&Way> {
        self.ways.get(&ip.to_canonical())
    }

    /// Every target with its way, in no order.
    pub fn ways(&self) -> impl Iterator<Item = (IpAddr, &Way)> {
        self.ways.iter().map(|(ip, way)| (*ip, way))
    }
}

/// How a target is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// By a frame of ours, under the view's generation.
    Via(NextHop),
    /// Only by the host's stack: a tunnel, or a device that is not one of ours.
    HostStack {
        /// The device, and what about it.
        why: String,
        /// Largest IP packet, bytes; [`u16::MAX`] when that is not known.
        mtu: u16,
    },
    /// Not at present: no route, link down, neighbour silent, or an address of this machine.
    Unresolved {
        /// What is missing.
        why: String,
    },
}

/// Why the network cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A configured interface is not there.
    #[error("interface {name:?} does not exist here; there are {existing}; correct `interfaces`")]
    NoSuchInterface {
        /// As configured.
        name: String,
        /// Those that exist, separated by commas.
        existing: String,
    },
    /// No netlink socket, or not in the groups that report changes.
    #[error("cannot open a netlink socket to follow routes, links and neighbours: {0}")]
    Socket(#[source] std::io::Error),
    /// The first reading of the kernel's tables failed.
    #[error("cannot read the kernel's {what}: {source}")]
    Read {
        /// Which table.
        what: &'static str,
        /// As the kernel put it.
        source: KernelError,
    },
}

/// The running watcher. Dropped, it ends by itself; [`Network::stop`] waits for that.
#[derive(Debug)]
pub struct Network {
    targets: watch::Sender<BTreeSet<IpAddr>>,
    task: JoinHandle<()>,
}

impl Network {
    /// Starts to follow the network namespace of the calling thread, on the current tokio runtime.
    ///
    /// `interfaces` are the names of the configured interfaces; one that vanishes later and comes
    /// back, under whatever index, is taken up again. `last_generation` is what an earlier run left
    /// in the program's memory, 0 for none: the first view's is the next one, so that nothing which
    /// was remembered then passes for current.
    ///
    /// The receiver's sender is gone when the watcher has failed (it logs why) or was stopped.
    ///
    /// # Errors
    ///
    /// An interface that does not exist, or a kernel that refuses netlink.
    pub async fn start(
        interfaces: &[String],
        last_generation: u32,
    ) -> Result<(Self, watch::Receiver<Arc<NetworkView>>), NetworkError> {
        let (targets, wanted) = watch::channel(BTreeSet::new());
        let (watcher, views) = Watcher::new(interfaces, last_generation, wanted).await?;
        let task = tokio::spawn(watcher.run());
        Ok((Self { targets, task }, views))
    }

    /// Replaces the addresses that are kept resolved. A view with all of them follows.
    pub fn set_targets(&self, targets: impl IntoIterator<Item = IpAddr>) {
        let targets: BTreeSet<_> = targets.into_iter().map(|ip| ip.to_canonical()).collect();
        // The same again is no reason to look at everything.
        self.targets.send_if_modified(|known| {
            let differ = *known != targets;
            *known = targets;
            differ
        });
    }

    /// Ends the watcher, and takes back what the kernel was asked to keep alive.
    pub async fn stop(self) {
        let Self { targets, task } = self;
        drop(targets);
        if let Err(error) = task.await {
            tracing::warn!(%error, "the network watcher did not end in order");
        }
    }
}

/// The generation after `generation`, never 0.
const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}
