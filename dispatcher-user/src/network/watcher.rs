//! The task that follows the kernel: hears reports, asks again what they made doubtful, publishes
//! views, and has the neighbours of the targets kept alive. What a report means is `state`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocket, TokioSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::kernel::{Kernel, KernelError};
use super::neighbour::{Neighbour, NeighbourKey};
use super::state::{Change, State};
use super::{NetworkError, NetworkView};

/// Reports that come closer together than this are taken in together.
const QUIET: Duration = Duration::from_millis(20);
/// But a report waits no longer than this for others.
const LATEST: Duration = Duration::from_millis(100);
/// How often a neighbour that does not answer is asked for, and how often all are looked over.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is asked to keep a neighbour that it does not by itself.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often everything is read again, whatever was reported: some changes are not (a path MTU that
/// expired; a report that could not be decoded).
const REFRESH: Duration = Duration::from_secs(30);
/// Receive buffer for reports, bytes; the kernel may grant less. When it runs over, all is read
/// again and the generation raised.
const REPORT_BUFFER: usize = 1 << 20;

/// What the kernel reports to us.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

type Report = NetlinkMessage<RouteNetlinkMessage>;
type Reports = std::pin::Pin<Box<dyn Stream<Item = Report> + Send>>;

/// Everything that the task holds.
pub(super) struct Watcher {
    sockets: Sockets,
    targets: watch::Receiver<BTreeSet<IpAddr>>,
    views: watch::Sender<Arc<NetworkView>>,
    state: State,
    pending: Pending,
    /// The neighbours that we asked for, and when last.
    kept: HashMap<NeighbourKey, Instant>,
}

/// By which the kernel is heard and asked.
struct Sockets {
    kernel: Kernel,
    reports: Reports,
    /// They serve the sockets, and end with them.
    connections: JoinSet<()>,
}

impl Sockets {
    /// In the calling thread's namespace.
    fn open() -> Result<Self, NetworkError> {
        let mut connections = JoinSet::new();
        // Heard before read: what changes in between is reported.
        let (mut hearing, _, reports) =
            rtnetlink::new_multicast_connection_with_socket::<TokioSocket>(&GROUPS)
                .map_err(NetworkError::Socket)?;
        let socket = hearing.socket_mut().socket_mut();
        socket
            .set_rx_buf_sz(REPORT_BUFFER)
            .map_err(NetworkError::Socket)?;
        connections.spawn(hearing);
        let (asking, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        connections.spawn(asking);
        Ok(Self {
            kernel: Kernel::new(handle),
            reports: Box::pin(reports.map(|(report, _)| report)),
            connections,
        })
    }
}

impl Watcher {
    /// Opens the sockets in the calling thread's namespace and reads the tables once.
    pub async fn new(
        interfaces: &[String],
        last_generation: u32,
        targets: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> Result<(Self, watch::Receiver<Arc<NetworkView>>), NetworkError> {
        let start = NetworkView {
            generation: last_generation,
            links: BTreeMap::new(),
            ways: HashMap::new(),
        };
        let mut watcher = Self {
            sockets: Sockets::open()?,
            targets,
            views: watch::Sender::new(Arc::new(start)),
            state: State::new(interfaces),
            pending: Pending::default(),
            kept: HashMap::new(),
        };
        watcher.read_tables().await?;
        if let Some((name, existing)) = watcher.state.missing_interface() {
            return Err(NetworkError::NoSuchInterface { name, existing });
        }
        watcher.publish(true);
        let views = watcher.views.subscribe();
        Ok((watcher, views))
    }

    /// Follows the kernel until the targets' sender is gone.
    pub async fn run(mut self) {
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.reset();
        loop {
            let due = self.pending.due();
            // In this order: a stream of reports must not hold up what is due.
            tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.settle().await;
                }
                changed = self.targets.changed() => match changed {
                    Ok(()) => {
                        self.pending.add(Change::TARGETS, Instant::now());
                        self.settle().await;
                    }
                    Err(_) => break,
                },
                _ = tick.tick() => self.keep_neighbours().await,
                _ = refresh.tick() => self.pending.add(Change::UNREPORTED, Instant::now()),
                Some(report) = self.sockets.reports.next() => self.hear(&report),
                _ = self.sockets.connections.join_next() => {
                    tracing::warn!("a netlink socket failed: opening it anew");
                    if !self.reopen().await {
                        break;
                    }
                }
            }
        }
        if let Err(error) = self.release(&BTreeSet::new()).await {
            tracing::warn!("leaving neighbours under the kernel's care: {error}");
        }
    }

    /// Opens the sockets anew, and has everything read again. Returns whether that came to be
    /// before the targets' sender was gone.
    async fn reopen(&mut self) -> bool {
        while self.targets.has_changed().is_ok() {
            match Sockets::open() {
                Ok(sockets) => {
                    self.sockets = sockets;
                    let all = Change::UNREPORTED.and(Change::FORWARDING);
                    self.pending.add(all, Instant::now());
                    return true;
                }
                Err(error) => tracing::warn!("network changes are not followed: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        }
        false
    }

    fn hear(&mut self, report: &Report) {
        let change = match &report.payload {
            NetlinkPayload::InnerMessage(message) => self.state.apply(message),
            NetlinkPayload::Overrun(_) => {
                tracing::info!("more network changes than were heard; reading all again");
                Change::UNREPORTED.and(Change::FORWARDING)
            }
            _ => Change::NONE,
        };
        self.pending.add(change, Instant::now());
    }

    /// What this finds changed.
    async fn read_tables(&mut self) -> Result<Change, NetworkError> {
        let failed = |what| move |source| NetworkError::Read { what, source };
        let kernel = &self.sockets.kernel;
        let devices = kernel.devices().await.map_err(failed("links"))?;
        let neighbours = kernel.neighbours().await;
        let neighbours = neighbours.map_err(failed("neighbours"))?;
        let gateways = kernel.gateways().await.map_err(failed("routes"))?;
        self.state.replace_gateways(gateways);
        Ok(self.state.replace_tables(devices, neighbours))
    }

    /// Asks again what became doubtful, then publishes.
    async fn settle(&mut self) {
        let mut change = self.pending.take();
        if change.tables {
            match self.read_tables().await {
                Ok(found) => change = change.and(found),
                Err(error) => {
                    tracing::warn!("{error}; trying again within {} s", REFRESH.as_secs());
                }
            }
        }
        if change.routes {
            self.ask_routes().await;
        }
        if change.view {
            self.publish(change.lookups);
            self.keep_neighbours().await;
        }
    }

    async fn ask_routes(&mut self) {
        let targets = self.targets.borrow_and_update().clone();
        self.state.want_routes(&targets);
        for target in targets {
            match self.sockets.kernel.route(target).await {
                Ok(route) => {
                    self.state.routes.insert(target, route);
                }
                Err(error) => {
                    tracing::warn!(
                        "asking for routes: {error}; trying again within {} s",
                        REFRESH.as_secs()
                    );
                    return;
                }
            }
        }
    }

    fn publish(&mut self, lookups: bool) {
        let last = self.views.borrow().clone();
        if let Some(view) = self.state.view_after(&last, lookups) {
            tracing::debug!(generation = view.generation, "network changed");
            self.views.send_replace(Arc::new(view));
        }
    }

    /// Has the kernel resolve and keep what the targets are reached by, and no more.
    async fn keep_neighbours(&mut self) {
        let in_use = self.state.neighbours_in_use();
        let kept = match self.release(&in_use).await {
            Ok(()) => self.keep(in_use).await,
            failed => failed,
        };
        if let Err(error) = kept {
            tracing::warn!("asking to resolve neighbours: {error}");
        }
    }

    async fn keep(&mut self, in_use: BTreeSet<NeighbourKey>) -> Result<(), KernelError> {
        for key in in_use {
            let wait = match self.state.neighbour(key) {
                Some(entry) if entry.foreign => continue,
                Some(entry) if entry.managed && entry.mac.is_some() => continue,
                Some(entry) if entry.mac.is_some() => KEEP_ALIVE,
                _ => RETRY,
            };
            let now = Instant::now();
            let asked = self.kept.get(&key);
            if asked.is_none_or(|asked| now.duration_since(*asked) >= wait) {
                self.kept.insert(key, now);
                unless_refused(key, self.sockets.kernel.keep(key).await)?;
            }
        }
        Ok(())
    }

    /// Releases the neighbours that we had kept, but for those in use.
    async fn release(&mut self, in_use: &BTreeSet<NeighbourKey>) -> Result<(), KernelError> {
        let gone: Vec<_> = self
            .kept
            .extract_if(|key, _| !in_use.contains(key))
            .collect();
        for (key, _) in gone {
            // Otherwise it is not there, or someone else's by now.
            let ours = |entry: &Neighbour| !entry.foreign;
            if self.state.neighbour(key).is_some_and(ours) {
                unless_refused(key, self.sockets.kernel.release(key).await)?;
            }
        }
        Ok(())
    }
}

/// A refusal concerns this neighbour (its interface just vanished); a failure, all of them.
fn unless_refused(
    (ifindex, neighbour): NeighbourKey,
    result: Result<(), KernelError>,
) -> Result<(), KernelError> {
    match result {
        Err(KernelError::Refused(error)) => {
            tracing::debug!(ifindex, %neighbour, %error, "not taken to be resolved");
            Ok(())
        }
        result => result,
    }
}

/// Changes that wait to be taken in together.
#[derive(Default)]
struct Pending {
    change: Change,
    /// When the first and the last of them came.
    span: Option<(Instant, Instant)>,
}

impl Pending {
    fn add(&mut self, change: Change, now: Instant) {
        if change != Change::NONE {
            self.change = self.change.and(change);
            let first = self.span.map_or(now, |(first, _)| first);
            self.span = Some((first, now));
        }
    }

    /// When they are taken in.
    fn due(&self) -> Option<Instant> {
        self.span
            .map(|(first, last)| (first + LATEST).min(last + QUIET))
    }

    fn take(&mut self) -> Change {
        self.span = None;
        std::mem::take(&mut self.change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_due_until_something_changed() {
        let mut pending = Pending::default();
        pending.add(Change::NONE, Instant::now());
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn changes_close_together_are_taken_in_together() {
        let mut pending = Pending::default();
        let start = Instant::now();
        let view_only = Change {
            view: true,
            ..Change::NONE
        };
        pending.add(view_only, start);
        assert_eq!(pending.due(), Some(start + QUIET));

        let later = start + QUIET / 2;
        pending.add(Change::TARGETS, later);
        assert_eq!(pending.due(), Some(later + QUIET));

        assert_eq!(pending.take(), Change::TARGETS);
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn an_endless_stream_of_changes_does_not_hold_up_the_first() {
        let mut pending = Pending::default();
        let start = Instant::now();
        for n in 0..100 {
            pending.add(Change::FORWARDING, start + QUIET / 2 * n);
            let due = pending.due().unwrap();
            assert!(due <= start + LATEST, "after {n} changes");
        }
    }
}
