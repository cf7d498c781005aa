//! Two namespaces joined by a veth pair, and an XDP program that punts all frames. No test.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Punt {
    /// Numbers from linux/bpf.h.
    const MAP_CREATE: i32 = 0;
    const MAP_UPDATE_ELEM: i32 = 2;
    const PROG_LOAD: i32 = 5;
    const LINK_CREATE: i32 = 28;
    const MAP_TYPE_XSKMAP: u32 = 17;
    const PROG_TYPE_XDP: u32 = 6;
    const ATTACH_TYPE_XDP: u32 = 37;

    pub fn attach(interface: &str) -> Self {
        // Type, key size, value size, most elements.
        let map = bpf(Self::MAP_CREATE, &[Self::MAP_TYPE_XSKMAP, 4, 4, 64]);
        let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
            code,
            registers: source << 4 | destination,
            offset,
            immediate,
        };
        let program = [
            // r2 = context->rx_queue_index
            instruction(0x61, 2, 1, 16, 0),
            // r1 = the map
            instruction(0x18, 1, 1, 0, map.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            // r3 = XDP_PASS, the verdict if there is no socket
            instruction(0xb7, 3, 0, 0, 2),
            // return bpf_redirect_map(r1, r2, r3)
            instruction(0x85, 0, 0, 0, 51),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let mut load = [0; 18];
        load[0] = Self::PROG_TYPE_XDP;
        load[1] = program.len() as u32;
        set_pointer(&mut load, 2, program.as_ptr().cast());
        set_pointer(&mut load, 4, c"GPL".as_ptr().cast());
        load[17] = Self::ATTACH_TYPE_XDP;
        let program = bpf(Self::PROG_LOAD, &load);

        let index = if_nametoindex(interface).expect("the interface");
        let fd = program.as_raw_fd().cast_unsigned();
        let link = bpf(Self::LINK_CREATE, &[fd, index, Self::ATTACH_TYPE_XDP, 0]);
        Self {
            map,
            _program: program,
            _link: link,
        }
    }

    pub fn register(&self, socket: &XskSocket) {
        let key = socket.queue();
        let value = socket.fd().as_raw_fd();
        let mut update = [0; 8];
        update[0] = self.map.as_raw_fd().cast_unsigned();
        set_pointer(&mut update, 2, (&raw const key).cast());
        set_pointer(&mut update, 4, (&raw const value).cast());
        assert_eq!(
            bpf_call(Self::MAP_UPDATE_ELEM, &update),
            0,
            "socket into map"
        );
    }
}

/// Writes a pointer at a word of the attributes.
fn set_pointer(attributes: &mut [u32], word: usize, pointer: *const c_void) {
    let address = pointer as u64;
    attributes[word] = address as u32;
    attributes[word + 1] = (address >> 32) as u32;
}

fn bpf_call(command: i32, attributes: &[u32]) -> i64 {
    // SAFETY: the kernel reads as many bytes of `attributes` as it is told, takes the rest for
    // zero, and writes none for these commands; pointers in it are to values that outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    }
}

fn bpf(command: i32, attributes: &[u32]) -> OwnedFd {
    let fd = bpf_call(command, attributes);
    let error = std::io::Error::last_os_error();
    assert!(fd >= 0, "bpf command {command}: {error}");
    // SAFETY: these commands return a new descriptor, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) }
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
