//! The watcher against a real kernel: namespaces with a back-end and a client beside the
//! dispatcher's, changed under its eyes. Needs root and iproute2; starts no daemon.

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dispatcher_common::addr::Mac;
use dispatcher_common::link::NextHop;
use dispatcher_user::network::{Network, NetworkError, NetworkView, Way};
use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

/// By when a view must follow what the kernel knows.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);
/// How long the kernel may take to find something out.
const KERNEL_KNOWS_WITHIN: Duration = Duration::from_secs(10);
/// Well above the longest time for which the watcher collects changes.
const SETTLED_AFTER: Duration = Duration::from_millis(400);

const FRONT: Mac = Mac([2, 0, 0, 0, 0x1b, 1]);
const BACK: Mac = Mac([2, 0, 0, 0, 0x1b, 2]);
const CLIENT: Mac = Mac([2, 0, 0, 0, 0xc1, 1]);
const BACKEND: Mac = Mac([2, 0, 0, 0, 0xbe, 1]);

/// `client eth0 -- front [dispatcher] back -- eth0 backend`.
struct Lab {
    prefix: String,
}

impl Lab {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            prefix: format!("dnet-{pid}-{count}"),
        };
        for role in ["lb", "cl", "be"] {
            run(&format!("ip netns add {}", lab.ns(role)));
            lab.ip(role, "link set lo up");
            // Or link-local addresses turn up, with their routes, in the middle of a story.
            lab.sysctl(role, "net.ipv6.conf.default.accept_dad=0");
            lab.sysctl(role, "net.ipv6.conf.default.router_solicitations=0");
        }
        lab.connect("front", FRONT, "cl", CLIENT);
        lab.ip("lb", "address add 192.0.2.1/24 dev front");
        lab.ip("cl", "address add 192.0.2.2/24 dev eth0");
        lab.connect("back", BACK, "be", BACKEND);
        lab.ip("lb", "address add 10.0.1.1/24 dev back");
        lab.ip("lb", "address add fd00:1::1/64 dev back nodad");
        lab.ip("be", "address add 10.0.1.2/24 dev eth0");
        lab.ip("be", "address add fd00:1::2/64 dev eth0 nodad");
        // A new address is announced at once, and believed at once.
        lab.sysctl("be", "net.ipv4.conf.all.arp_notify=1");
        lab.sysctl("be", "net.ipv6.conf.eth0.ndisc_notify=1");
        lab.sysctl("lb", "net.ipv4.neigh.back.locktime=0");
        lab
    }

    fn connect(&self, name: &str, mac: Mac, role: &str, peer_mac: Mac) {
        let (lb, peer) = (self.ns("lb"), self.ns(role));
        run(&format!(
            "ip link add {name} netns {lb} address {mac:?} type veth \
             peer name eth0 netns {peer} address {peer_mac:?}"
        ));
        self.ip("lb", &format!("link set {name} up"));
        self.ip(role, "link set eth0 up");
    }

    fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    fn ip(&self, role: &str, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.ns(role)))
    }

    fn sysctl(&self, role: &str, setting: &str) {
        run(&format!(
            "ip netns exec {} sysctl -qw {setting}",
            self.ns(role)
        ));
    }

    fn ifindex(&self, name: &str) -> u32 {
        let shown = self.ip("lb", &format!("-o link show dev {name}"));
        shown.split(':').next().unwrap().trim().parse().unwrap()
    }

    /// Waits until the dispatcher's kernel says `what` of a neighbour.
    async fn kernel_says(&self, neighbour: &str, what: &str) {
        let started = Instant::now();
        loop {
            let shown = self.ip("lb", &format!("neigh show {neighbour}"));
            if shown.contains(what) {
                return;
            }
            let waited = started.elapsed();
            assert!(
                waited < KERNEL_KNOWS_WITHIN,
                "the kernel says {shown:?}, not {what:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a story on a thread of its own, inside the dispatcher's namespace.
    fn inside<F: Future<Output = ()>>(&self, story: impl FnOnce() -> F + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.ns("lb"))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(story());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for role in ["lb", "cl", "be"] {
            let deleted = Command::new("ip")
                .args(["netns", "delete", &self.ns(role)])
                .status();
            if !deleted.is_ok_and(|status| status.success()) {
                eprintln!("left behind: namespace {}", self.ns(role));
            }
        }
    }
}

fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}: {} (this test needs root)",
        errors.trim()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A running watcher and its views.
struct Watched {
    network: Network,
    views: watch::Receiver<Arc<NetworkView>>,
}

impl Watched {
    async fn start(targets: &[&str]) -> Self {
        let interfaces = ["front".to_owned(), "back".to_owned()];
        let (network, views) = Network::start(&interfaces, 0).await.unwrap();
        network.set_targets(targets.iter().map(|target| ip(target)));
        Self { network, views }
    }

    /// The first view in which `holds`, within the time that a view may take to follow.
    async fn until(&mut self, what: &str, holds: impl Fn(&NetworkView) -> bool) -> NetworkView {
        let found = tokio::time::timeout(FOLLOWS_WITHIN, self.views.wait_for(|view| holds(view)));
        let found = found.await.map(|view| NetworkView::clone(&view.unwrap()));
        found.unwrap_or_else(|_| {
            panic!(
                "not within {FOLLOWS_WITHIN:?}: {what}; have {:#?}",
                self.views.borrow()
            )
        })
    }

    async fn until_via(&mut self, target: &str, dst: Mac) -> NextHop {
        let what = format!("{target} via {dst:?}");
        let via = |view: &NetworkView| hop(view, target).is_some_and(|hop| hop.dst == dst);
        hop(&self.until(&what, via).await, target).unwrap()
    }

    async fn until_why(&mut self, target: &str, part: &str) -> String {
        let what = format!("{target} has no way because {part:?}");
        let view = self
            .until(&what, |view| why(view, target).contains(part))
            .await;
        why(&view, target)
    }

    /// The generation once nothing has changed for longer than changes are collected.
    async fn settled(&mut self) -> u32 {
        self.views.borrow_and_update();
        while tokio::time::timeout(SETTLED_AFTER, self.views.changed())
            .await
            .is_ok()
        {}
        self.views.borrow().generation
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(view: &NetworkView, target: &str) -> Option<NextHop> {
    match view.way(ip(target)) {
        Some(Way::Via(hop)) => Some(*hop),
        _ => None,
    }
}

fn why(view: &NetworkView, target: &str) -> String {
    match view.way(ip(target)) {
        Some(Way::HostStack { why, .. }) => format!("host: {why}"),
        Some(Way::Unresolved { why }) => format!("unresolved: {why}"),
        _ => String::new(),
    }
}

#[test]
fn back_ends_on_the_link_behind_gateways_and_over_ipv6_are_resolved() {
    let lab = Lab::new();
    lab.ip("lb", "route add 10.9.0.0/24 via 10.0.1.2 mtu 1300");
    lab.ip("lb", "route add 10.8.0.0/24 via inet6 fd00:1::2 dev back");
    lab.inside(|| async {
        let targets = ["10.0.1.2", "10.9.0.7", "10.8.0.7", "fd00:1::2"];
        let mut watched = Watched::start(&targets).await;
        let back = lab.ifindex("back");

        let on_link = watched.until_via("10.0.1.2", BACKEND).await;
        assert_eq!(
            (on_link.ifindex, on_link.src, on_link.vlan),
            (back, BACK, 0)
        );
        assert_eq!(on_link.mtu, 1500);

        let gateway = watched.until_via("10.9.0.7", BACKEND).await;
        assert_eq!(
            (gateway.ifindex, gateway.src, gateway.mtu),
            (back, BACK, 1300)
        );

        let mixed = watched.until_via("10.8.0.7", BACKEND).await;
        assert_eq!((mixed.ifindex, mixed.src), (back, BACK));

        let v6 = watched.until_via("fd00:1::2", BACKEND).await;
        assert_eq!((v6.ifindex, v6.src, v6.mtu), (back, BACK, 1500));

        let view = watched.views.borrow().clone();
        for (_, way) in view.ways() {
            assert!(matches!(way, Way::Via(hop) if hop.generation == view.generation));
        }
        let mut names: Vec<_> = view.links.values().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["back", "front"]);
    });
}

#[test]
fn ways_that_are_not_ours_say_why() {
    let lab = Lab::new();
    lab.ip("lb", "link add spare type veth peer name spare-peer");
    lab.ip("lb", "link set spare-peer up");
    lab.ip("lb", "link set spare up");
    lab.ip("lb", "address add 10.77.0.1/24 dev spare");
    lab.ip("lb", "route add blackhole 10.66.0.0/24");
    lab.ip("lb", "route add prohibit 10.67.0.0/24");
    lab.inside(|| async {
        let targets = [
            "10.77.0.2",
            "10.0.1.1",
            "203.0.113.5",
            "fd00:9::1",
            "10.66.0.1",
        ];
        let mut watched = Watched::start(&targets).await;
        let spare = watched.until_why("10.77.0.2", "spare").await;
        assert!(spare.starts_with("host: ") && spare.contains("none of the configured"));
        watched
            .until_why("10.0.1.1", "address of this machine")
            .await;
        watched
            .until_why("203.0.113.5", "no route to 203.0.113.5")
            .await;
        watched
            .until_why("fd00:9::1", "no route to fd00:9::1")
            .await;
        watched.until_why("10.66.0.1", "black hole").await;

        watched.network.set_targets([ip("10.67.0.1")]);
        watched.until_why("10.67.0.1", "prohibited").await;
        assert_eq!(watched.views.borrow().way(ip("10.77.0.2")), None);
    });
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() {
    let lab = Lab::new();
    lab.inside(|| async {
        let error = Network::start(&["front".to_owned(), "eth7".to_owned()], 0).await;
        let Err(error @ NetworkError::NoSuchInterface { .. }) = error else {
            panic!("started without eth7");
        };
        let text = error.to_string();
        assert!(
            text.contains("\"eth7\"") && text.contains("front, back"),
            "{text}"
        );
    });
}

#[test]
fn the_first_generation_follows_that_of_an_earlier_run() {
    let lab = Lab::new();
    lab.inside(|| async {
        let (_network, views) = Network::start(&["front".to_owned()], u32::MAX)
            .await
            .unwrap();
        assert_eq!(views.borrow().generation, 1);
        let (_network, views) = Network::start(&["front".to_owned()], 41).await.unwrap();
        assert_eq!(views.borrow().generation, 42);
    });
}

#[test]
fn a_neighbour_with_a_new_address_is_followed() {
    let lab = Lab::new();
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2", "fd00:1::2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        watched.until_via("fd00:1::2", BACKEND).await;
        let before = watched.settled().await;

        let other = Mac([2, 0, 0, 0, 0xbe, 2]);
        lab.ip("be", &format!("link set eth0 address {other:?}"));
        lab.kernel_says("10.0.1.2", &format!("{other:?}")).await;
        let hop = watched.until_via("10.0.1.2", other).await;
        assert!(hop.generation > before);

        lab.kernel_says("fd00:1::2", &format!("{other:?}")).await;
        watched.until_via("fd00:1::2", other).await;
    });
}

#[test]
fn a_route_that_moves_to_another_interface_is_followed() {
    let lab = Lab::new();
    lab.ip("lb", "route add 10.9.0.0/24 via 10.0.1.2");
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.9.0.7"]).await;
        let before = watched.until_via("10.9.0.7", BACKEND).await;

        lab.ip("lb", "route replace 10.9.0.0/24 via 192.0.2.2");
        let after = watched.until_via("10.9.0.7", CLIENT).await;
        assert_eq!((after.ifindex, after.src), (lab.ifindex("front"), FRONT));
        assert!(after.generation > before.generation);

        lab.ip("lb", "route add 10.9.0.0/16 via 10.0.1.2 table 100");
        lab.ip("lb", "rule add to 10.9.0.7 lookup 100");
        watched.until_via("10.9.0.7", BACKEND).await;
    });
}

#[test]
fn a_link_that_goes_down_comes_up_and_is_made_anew_is_followed() {
    let lab = Lab::new();
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;

        lab.ip("be", "link set eth0 down");
        watched
            .until_why("10.0.1.2", "back is down or has no carrier")
            .await;
        lab.ip("be", "link set eth0 up");
        watched.until_via("10.0.1.2", BACKEND).await;

        lab.ip("lb", "link set back down");
        watched.until_why("10.0.1.2", "no route").await;
        assert!(
            watched
                .views
                .borrow()
                .links
                .values()
                .any(|l| l.name == "back" && !l.up)
        );
        lab.ip("lb", "link set back up");
        watched.until_via("10.0.1.2", BACKEND).await;

        let first = lab.ifindex("back");
        lab.ip("lb", "link delete back");
        let gone = |view: &NetworkView| !view.links.contains_key(&first);
        watched.until("back is gone", gone).await;
        let spare = Mac([2, 0, 0, 0, 0x1b, 9]);
        lab.connect("back", spare, "be", BACKEND);
        lab.ip("lb", "address add 10.0.1.1/24 dev back");
        lab.ip("be", "address add 10.0.1.2/24 dev eth0");
        let hop = watched.until_via("10.0.1.2", BACKEND).await;
        assert_eq!((hop.ifindex, hop.src), (lab.ifindex("back"), spare));
        assert_ne!(hop.ifindex, first);
    });
}

#[test]
fn a_neighbour_that_falls_silent_is_given_up_and_found_again() {
    let lab = Lab::new();
    lab.sysctl("lb", "net.ipv4.neigh.back.retrans_time_ms=50");
    lab.sysctl("lb", "net.ipv4.neigh.back.ucast_solicit=1");
    lab.sysctl("lb", "net.ipv4.neigh.back.mcast_solicit=1");
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        let before = watched.until_via("10.0.1.2", BACKEND).await;

        lab.ip("be", "address delete 10.0.1.2/24 dev eth0");
        lab.ip(
            "lb",
            &format!("neigh change 10.0.1.2 dev back lladdr {BACKEND:?} nud probe"),
        );
        lab.kernel_says("10.0.1.2", "FAILED").await;
        watched
            .until_why("10.0.1.2", "does not answer on back")
            .await;
        let silent = watched.settled().await;
        assert!(silent > before.generation);

        // Asked for every second meanwhile, without effect on anyone else's flows.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(watched.views.borrow().generation, silent);

        lab.ip("be", "address add 10.0.1.2/24 dev eth0");
        lab.kernel_says("10.0.1.2", &format!("{BACKEND:?}")).await;
        watched.until_via("10.0.1.2", BACKEND).await;
    });
}

#[test]
fn the_kernels_upkeep_of_neighbours_does_not_raise_the_generation() {
    let lab = Lab::new();
    lab.ip(
        "lb",
        &format!("neigh add 192.0.2.2 dev front lladdr {CLIENT:?} nud stale"),
    );
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        let before = watched.settled().await;

        for state in ["stale", "delay", "probe", "reachable", "stale", "reachable"] {
            for (address, device, mac) in [
                ("10.0.1.2", "back", BACKEND),
                ("192.0.2.2", "front", CLIENT),
            ] {
                let neighbour = format!("{address} dev {device} lladdr {mac:?}");
                lab.ip("lb", &format!("neigh change {neighbour} nud {state}"));
            }
        }
        assert_eq!(watched.settled().await, before);

        let other = Mac([2, 0, 0, 0, 0xc1, 2]);
        let neighbour = format!("192.0.2.2 dev front lladdr {other:?}");
        lab.ip("lb", &format!("neigh change {neighbour} nud reachable"));
        watched
            .until("one more", |view| view.generation == before + 1)
            .await;
    });
}

#[test]
fn what_moves_replies_to_clients_raises_the_generation() {
    let lab = Lab::new();
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        let neighbour = format!("192.0.2.9 dev front lladdr {CLIENT:?}");
        let changes = [
            format!("neigh add {neighbour} nud reachable"),
            "neigh change 192.0.2.9 dev front nud failed".to_owned(),
            "route add 198.51.100.0/24 via 192.0.2.2".to_owned(),
            "rule add from 10.0.1.2 lookup main".to_owned(),
            "link set front mtu 1400".to_owned(),
        ];
        for change in changes {
            let before = watched.settled().await;
            lab.ip("lb", &change);
            watched
                .until(&change, |view| view.generation > before)
                .await;
        }

        // What forwards nothing raises nothing.
        let before = watched.settled().await;
        lab.ip("lb", "link add spare type veth peer name spare-peer");
        lab.ip("lb", "link set spare address 02:00:00:00:00:99");
        assert_eq!(watched.settled().await, before);
    });
}

#[test]
fn neighbours_are_kept_alive_only_while_they_are_needed() {
    let lab = Lab::new();
    let by_hand = format!("neigh add 10.0.1.9 dev back lladdr {BACKEND:?} nud permanent");
    lab.ip("lb", &by_hand);
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2", "fd00:1::2", "10.0.1.9"]).await;
        for target in ["10.0.1.2", "fd00:1::2", "10.0.1.9"] {
            watched.until_via(target, BACKEND).await;
        }
        lab.kernel_says("10.0.1.2", "managed").await;
        lab.kernel_says("fd00:1::2", "managed").await;
        lab.kernel_says("10.0.1.9", "PERMANENT").await;

        watched.network.set_targets([ip("10.0.1.2")]);
        watched
            .until("fd00:1::2 dropped", |view| {
                view.way(ip("fd00:1::2")).is_none()
            })
            .await;
        let shown = lab.ip("lb", "neigh show");
        let managed: Vec<_> = shown
            .lines()
            .filter(|line| line.contains("managed"))
            .collect();
        assert_eq!(managed.len(), 1, "{shown}");

        watched.network.stop().await;
        assert!(
            watched.views.has_changed().is_err(),
            "the watcher has ended"
        );
        let shown = lab.ip("lb", "neigh show");
        assert!(!shown.contains("managed"), "{shown}");
        assert!(shown.contains("PERMANENT"), "{shown}");
    });
}

#[test]
fn the_kernel_keeps_a_targets_neighbour_reachable_without_traffic() {
    let lab = Lab::new();
    lab.sysctl("lb", "net.ipv4.neigh.back.base_reachable_time_ms=500");
    lab.sysctl("lb", "net.ipv4.neigh.back.delay_first_probe_time=1");
    lab.sysctl("lb", "net.ipv4.neigh.back.interval_probe_time_ms=200");
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        let before = watched.settled().await;
        for _ in 0..2 {
            lab.kernel_says("10.0.1.2", "DELAY").await;
            lab.kernel_says("10.0.1.2", "REACHABLE").await;
        }
        assert_eq!(watched.settled().await, before);
    });
}

/// Replies to clients go by them, and a gateway need not ask for the dispatcher's address before.
#[test]
fn gateways_of_routes_are_resolved_though_nothing_is_sent_by_them() {
    let lab = Lab::new();
    lab.ip("lb", "route add 203.0.113.0/24 via 192.0.2.2");
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        lab.kernel_says("192.0.2.2", &format!("{CLIENT:?}")).await;

        let before = watched.settled().await;
        lab.ip("lb", "route add 2001:db8:f::/64 via fd00:1::2");
        lab.kernel_says("fd00:1::2", &format!("{BACKEND:?}")).await;
        assert!(watched.settled().await > before);
    });
}

#[test]
fn changes_lost_in_a_flood_are_found_again() {
    const ROUTES: u32 = 20_000;
    let lab = Lab::new();
    let batch = std::env::temp_dir().join(format!("{}.batch", lab.prefix));
    let routes: String = (0..ROUTES)
        .map(|n| {
            format!(
                "route add 172.{}.{}.{}/32 via 192.0.2.2\n",
                16 + (n >> 16),
                n >> 8 & 255,
                n & 255
            )
        })
        .collect();
    std::fs::write(&batch, routes).unwrap();
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        let before = watched.settled().await;

        // The watcher shares this thread: it hears nothing until all is done, and its socket
        // overflows with the routes, after which the two changes that count are lost.
        lab.ip("lb", &format!("-batch {}", batch.display()));
        lab.ip("lb", "link set back mtu 1300");
        let other = Mac([2, 0, 0, 0, 0xbe, 7]);
        lab.ip(
            "lb",
            &format!("neigh replace 10.0.1.2 dev back lladdr {other:?} nud permanent"),
        );

        let hop = watched.until_via("10.0.1.2", other).await;
        assert_eq!(hop.mtu, 1300);
        assert!(hop.generation > before);
    });
    std::fs::remove_file(batch).unwrap();
}

/// Descriptors and inodes of this process's rtnetlink sockets in this thread's namespace: of those
/// that hear reports, or of those by which the kernel is asked.
fn netlink_sockets(hearing: bool) -> Vec<(i32, u64)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let of_ours = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "0", _, groups, .., inode] = words[..] else {
            return None;
        };
        let hears = u32::from_str_radix(groups, 16).ok()? != 0;
        (hears == hearing).then(|| inode.parse().ok())?
    };
    let inodes: Vec<u64> = table.lines().filter_map(of_ours).collect();
    let own = std::fs::read_dir("/proc/self/fd").unwrap();
    let sockets = own.filter_map(|entry| {
        let path = entry.ok()?.path();
        let link = std::fs::read_link(&path).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        let fd = path.file_name()?.to_str()?.parse().ok()?;
        Some((fd, inode.parse().ok()?))
    });
    sockets
        .filter(|(_, inode)| inodes.contains(inode))
        .collect()
}

#[test]
fn a_socket_that_fails_is_opened_anew_and_what_changed_meanwhile_is_found() {
    let lab = Lab::new();
    lab.inside(|| async {
        let mut watched = Watched::start(&["10.0.1.2"]).await;
        watched.until_via("10.0.1.2", BACKEND).await;
        let (heard, asked) = (netlink_sockets(true), netlink_sockets(false));
        assert_eq!((heard.len(), asked.len()), (1, 1));

        // What stands in its place takes no message.
        let null = File::open("/dev/null").unwrap();
        // SAFETY: takes two descriptors that are open; the watcher still owns the second one, and
        // closes it as it would have before.
        let replaced = unsafe { libc::dup2(null.as_raw_fd(), asked[0].0) };
        assert_eq!(replaced, asked[0].0);
        let other = Mac([2, 0, 0, 0, 0xbe, 7]);
        lab.ip(
            "lb",
            &format!("neigh replace 10.0.1.2 dev back lladdr {other:?} nud permanent"),
        );
        // It is asked for another target, and so finds out.
        watched
            .network
            .set_targets(["10.0.1.2", "fd00:1::2"].map(ip));
        let known = |view: &Arc<NetworkView>| {
            let is = |target, mac| hop(view, target).is_some_and(|hop| hop.dst == mac);
            is("10.0.1.2", other) && is("fd00:1::2", BACKEND)
        };
        let found = watched.views.wait_for(known);
        let found = tokio::time::timeout(KERNEL_KNOWS_WITHIN, found).await;
        found.expect("both are reached").unwrap();
        let anew = netlink_sockets(true);
        assert_eq!(anew.len(), 1);
        assert_ne!(anew[0].1, heard[0].1, "both are other sockets now");

        // Reports are heard by the new one.
        watched.settled().await;
        lab.ip("lb", "link set back mtu 1300");
        watched
            .until("the smaller MTU", |view| {
                hop(view, "10.0.1.2").is_some_and(|hop| hop.mtu == 1300)
            })
            .await;
    });
}
