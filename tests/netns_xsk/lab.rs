//! Two namespaces joined by a veth pair, and an XDP program that punts all frames. No test.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dispatcher_tests::bpf::{MapKind, Mode, attach_xdp, create_map, load_xdp, update};
use dispatcher_tests::instruction::{SIZE_32, XDP_PASS, call, give_result, load, set, set_map};
use dispatcher_user::xsk::{XskConfig, XskSocket};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

/// The dispatcher's end of the pair.
pub const LB: &str = "lb0";
/// The other end.
pub const PEER: &str = "peer0";
/// Local Experimental Ethertype 1 (IEEE 802): no stack answers to it.
pub const ETHERTYPE: u16 = 0x88b5;
/// Tests run one after another, so that the rates they print are their own.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static TEST_NUMBER: AtomicU32 = AtomicU32::new(0);

/// Two namespaces joined by a veth pair.
pub struct Net {
    pub lb: String,
    peer: String,
    _alone: MutexGuard<'static, ()>,
}

impl Net {
    pub fn new(receive_queues: u32, transmit_queues: u32) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let number = TEST_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("xsk{}-{number}", std::process::id());
        let net = Self {
            lb: format!("{name}-lb"),
            peer: format!("{name}-peer"),
            _alone: alone,
        };
        let (lb, peer) = (&net.lb, &net.peer);
        ip(&format!("netns add {lb}"));
        ip(&format!("netns add {peer}"));
        let queues = format!("numrxqueues {receive_queues} numtxqueues {transmit_queues}");
        ip(&format!(
            "-n {lb} link add {LB} {queues} type veth peer name {PEER} {queues} netns {peer}"
        ));
        for (namespace, interface) in [(lb, LB), (peer, PEER)] {
            // No IPv6, no packets that the test did not send: without an address it still reports
            // its multicast groups.
            inside(namespace, || {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
                    .expect("IPv6 can be disabled");
            });
            ip(&format!(
                "-n {namespace} link set {interface} addrgenmode none up"
            ));
        }
        net
    }

    pub fn in_lb<T>(&self, act: impl FnOnce() -> T) -> T {
        inside(&self.lb, act)
    }

    pub fn in_peer<T>(&self, act: impl FnOnce() -> T) -> T {
        inside(&self.peer, act)
    }

    pub fn open_lb(&self, queue: u32) -> XskSocket {
        self.in_lb(|| XskSocket::open(LB, queue, &XskConfig::default()))
            .expect("a socket on the dispatcher's end")
    }

    pub fn open_peer(&self, queue: u32) -> XskSocket {
        self.in_peer(|| XskSocket::open(PEER, queue, &XskConfig::default()))
            .expect("a socket on the other end")
    }

    /// Frames that the peer's end dropped instead of handing them over.
    pub fn peer_dropped(&self) -> u64 {
        let table = self
            .in_peer(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("interface counters");
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("peer0:"))
            .expect("the interface's counters");
        // 8 numbers of receiving, then bytes, packets, errors, dropped of sending.
        let dropped = line.split_whitespace().nth(11).expect("12 columns");
        dropped.parse().expect("a number")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.lb, &self.peer] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status();
    let status = status.expect("ip from iproute2 is installed");
    assert!(status.success(), "`ip {arguments}` failed: is this root?");
}

/// Runs `act` with the calling thread in a namespace, and brings the thread back.
fn inside<T>(namespace: &str, act: impl FnOnce() -> T) -> T {
    struct Back(File);
    impl Drop for Back {
        fn drop(&mut self) {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("back to where we were");
        }
    }
    let back = Back(File::open("/proc/thread-self/ns/net").expect("own namespace"));
    let target = File::open(format!("/run/netns/{namespace}")).expect("the namespace's file");
    setns(target.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering a namespace");
    let result = act();
    drop(back);
    result
}

/// An XDP program that gives every frame to the socket of its receive queue, and passes it where
/// there is none; attached for as long as this lives.
pub struct Punt {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// Sockets that it has room for.
const SOCKETS: u32 = 64;
/// Offset of the queue in `struct xdp_md`.
const QUEUE: i16 = 16;
/// Number of the helper `bpf_redirect_map`.
const REDIRECT_MAP: i32 = 51;

impl Punt {
    pub fn attach(interface: &str) -> Self {
        let map = create_map(MapKind::Sockets, 4, 4, SOCKETS).expect("a map");
        let mut instructions = vec![load(SIZE_32, 2, 1, QUEUE)];
        instructions.extend(set_map(1, map.as_raw_fd()));
        // What passes is what there is no socket for.
        instructions.extend([set(3, XDP_PASS), call(REDIRECT_MAP), give_result()]);
        let program = load_xdp(&instructions).expect("the verifier accepts it");
        let index = if_nametoindex(interface).expect("the interface");
        let link = attach_xdp(&program, index, Mode::Native).expect("it is attached");
        Self {
            map,
            _program: program,
            _link: link,
        }
    }

    pub fn register(&self, socket: &XskSocket) {
        let key = socket.queue().to_ne_bytes();
        let value = socket.fd().as_raw_fd().to_ne_bytes();
        // SAFETY: keys and values are four bytes.
        unsafe { update(self.map.as_raw_fd(), &key, &value) }.expect("socket into map");
    }
}

/// A packet socket for the test's Ethertype.
pub fn packet_socket(interface: &str) -> OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let protocol = ETHERTYPE.to_be();
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let fd = fd.expect("a packet socket");
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: if_nametoindex(interface)
            .expect("the interface")
            .cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll and lives over the call.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(result, 0, "binding a packet socket");
    fd
}
