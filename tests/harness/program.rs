//! The XDP program alone: loaded with maps of its own, run on one frame at a time by
//! `BPF_PROG_TEST_RUN`. Nothing is attached and no frame leaves.
//!
//! Needs root, and fails without it. Each [`Program`] moves its thread to a network namespace of
//! its own, which the kernel removes with the thread: routes are only what the test put there.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;

use aya::maps::{
    Array, HashMap, Map, MapData, MapInfo, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf,
    XskMap,
};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use dispatcher_common::control::{Control, LAYOUT, UNATTENDED_DROP};
use dispatcher_common::event::FlowEvent;
use dispatcher_common::flow::{FlowEntry, FlowKey, FlowPair, FlowSpec};
use dispatcher_common::link::{Link, NextHop};
use dispatcher_common::maps;
use dispatcher_common::measure::{self, Histogram, Kind};
use dispatcher_common::notice::{Problem, Sent};
use dispatcher_common::service::{BackendCounters, Served, Service, ServiceKey};
use dispatcher_common::verdict::{DropReason, Handled};

use dispatcher_user::datapath::{OBJECT, load_at_last};

use crate::packet::{BACKEND_ONE, CLIENT_ONE, DISPATCHER_MAC, FAMILIES, Family, Host};
use crate::packet::{VIP_ONE, VIP_TWO, key};

/// The loopback device, which every namespace has, is where test frames come in.
pub const INGRESS: u32 = 1;
/// An interface that a next hop may name: a test run does not look for it.
pub const ELSEWHERE: u32 = 77;
/// The network generation of a program that was just loaded.
pub const GENERATION: u32 = 7;
/// The tick of a program that was just loaded.
pub const TICKS: u32 = 1000;
/// The secret of a program that was just loaded.
pub const SECRET: [u32; 4] = [0x0123_4567, 0x89ab_cdef, 0xfedc_ba98, 0x7654_3210];
/// Initial sequence number of the client in [`spec`].
pub const CLIENT_ISN: u32 = 1000;
/// Flow index in [`spec`].
pub const FLOW: u32 = 5;
/// Generation of the flow index in [`spec`].
pub const FLOW_GENERATION: u32 = 3;
/// Back-end index in [`spec`].
pub const BACKEND: u32 = 2;

/// Sizes of the maps that are worth making small.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Entries of `FLOWS`, two for each flow.
    pub flows: u32,
    /// Bytes of `EVENTS`, a power of two and whole pages.
    pub events: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: 64,
            events: 4096,
        }
    }
}

/// Loads the object; maps and program stay in the result.
#[must_use]
pub fn load(sizes: Sizes) -> Ebpf {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root, to load a BPF program"
    );
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_max_entries(maps::FLOWS.name, sizes.flows)
        .map_max_entries(maps::EVENTS.name, sizes.events)
        .load(OBJECT)
        .expect("the object loads");
    load_at_last(xdp(&mut ebpf)).expect("the verifier accepts it");
    ebpf
}

/// The program in a loaded object.
pub fn xdp(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut(maps::PROGRAM).expect("it has the program");
    program.try_into().expect("it is an XDP program")
}

/// Moves the calling thread to a new network namespace, which ends with it. It has `lo`, up.
pub fn enter_private_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .expect("needs root, to make a network namespace");
    ip("link set lo up");
}

/// Runs iproute2's `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// A loaded program and its maps.
pub struct Program {
    ebpf: Ebpf,
    /// 5-tuple → entry.
    pub flows: HashMap<MapData, FlowKey, FlowEntry>,
    /// Address and port → service.
    pub services: HashMap<MapData, ServiceKey, Service>,
    served: Array<MapData, Served>,
    /// Interface → link.
    pub links: HashMap<MapData, u32, Link>,
    xsks: XskMap<MapData>,
    control: Array<MapData, Control>,
    backends: PerCpuArray<MapData, BackendCounters>,
    counters: PerCpuArray<MapData, u64>,
    times: PerCpuHashMap<MapData, u32, Histogram>,
    unproven: PerCpuArray<MapData, u64>,
    notices: Array<MapData, u64>,
    ring: RingBuf<MapData>,
    counted: Vec<u64>,
    /// What the kernel says of `FLOWS`.
    pub flows_info: MapInfo,
    /// Where frames come in: an interface of the private namespace, and its receive queue.
    pub ingress: (u32, u32),
}

impl Program {
    /// A program that knows `VIP_ONE` and `VIP_TWO` in both families, the loopback device without
    /// a socket, and no flow.
    #[must_use]
    pub fn load() -> Self {
        Self::of(Sizes::default())
    }

    /// The same with other map sizes.
    #[must_use]
    pub fn of(sizes: Sizes) -> Self {
        enter_private_network();
        let mut ebpf = load(sizes);
        let Some(Map::HashMap(flows)) = ebpf.map(maps::FLOWS.name) else {
            panic!("FLOWS is a hash map");
        };
        let flows_info = flows.info().expect("root sees every map");
        let mut program = Self {
            flows_info,
            flows: take(&mut ebpf, maps::FLOWS.name),
            services: take(&mut ebpf, maps::SERVICES.name),
            served: take(&mut ebpf, maps::SERVED.name),
            links: take(&mut ebpf, maps::LINKS.name),
            xsks: take(&mut ebpf, maps::XSKS.name),
            control: take(&mut ebpf, maps::CONTROL.name),
            backends: take(&mut ebpf, maps::BACKENDS.name),
            counters: take(&mut ebpf, maps::COUNTERS.name),
            times: take(&mut ebpf, maps::TIMES.name),
            unproven: take(&mut ebpf, maps::UNPROVEN.name),
            notices: take(&mut ebpf, maps::NOTICES.name),
            ring: take(&mut ebpf, maps::EVENTS.name),
            counted: Vec::new(),
            ingress: (INGRESS, 0),
            ebpf,
        };
        program.control(|_| {});
        program.link(INGRESS, 0, 0);
        for family in FAMILIES {
            program.serve(VIP_ONE.addr(family), VIP_ONE);
            program.serve(VIP_TWO.addr(family), VIP_TWO);
        }
        program.counted = program.count();
        program
    }

    /// Sets `CONTROL` to its first value, changed by `change`.
    pub fn control(&mut self, change: impl FnOnce(&mut Control)) {
        let mut control = Control {
            layout: LAYOUT,
            network_generation: GENERATION,
            ticks: TICKS,
            unattended: UNATTENDED_DROP,
            secret: SECRET,
            waiting: 0,
        };
        change(&mut control);
        self.control.set(0, control, 0).expect("CONTROL is written");
    }

    fn serve(&mut self, addr: dispatcher_common::addr::Addr, service: Host) {
        let keys = [
            (ServiceKey::new(addr, service.key_port()), 0),
            (ServiceKey::any_port(addr), Service::ADDRESS_ONLY),
        ];
        let mut served = self.served.get(&0, 0).expect("SERVED has it");
        for (key, index) in keys {
            let service = Service { index, guarded: 0 };
            let inserted = self.services.insert(key, service, 0);
            inserted.expect("SERVICES has room");
            served.add(&key);
        }
        self.served.set(0, served, 0).expect("SERVED is written");
    }

    /// Tells the program of an interface that is its own device: sockets `xsk_base..` listen on
    /// its first `xsk_queues` queues.
    pub fn link(&mut self, ifindex: u32, xsk_base: u32, xsk_queues: u32) {
        let link = Link {
            device: ifindex,
            vlan: 0,
            xsk_base,
            xsk_queues,
        };
        let inserted = self.links.insert(ifindex, link, 0);
        inserted.expect("LINKS has room");
    }

    /// Puts a socket into `XSKS`.
    pub fn attend(&mut self, index: u32, socket: &PuntSocket) {
        let set = self.xsks.set(index, socket.0.as_raw_fd(), 0);
        set.expect("XSKS takes the socket");
    }

    /// Installs both entries of a flow.
    pub fn install(&mut self, spec: &FlowSpec) -> FlowPair {
        let pair = FlowPair::new(spec);
        self.put(&pair.forward_key, &pair.forward);
        self.put(&pair.reply_key, &pair.reply);
        pair
    }

    /// Writes one entry.
    pub fn put(&mut self, key: &FlowKey, entry: &FlowEntry) {
        let inserted = self.flows.insert(key, entry, 0);
        inserted.expect("FLOWS has room");
    }

    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, key: &FlowKey) -> FlowEntry {
        self.flows.get(key, 0).expect("the flow is installed")
    }

    /// What passed to and from a back-end, over all processors.
    #[must_use]
    pub fn backend(&self, index: u32) -> BackendCounters {
        let values = self.backends.get(&index, 0).expect("BACKENDS has it");
        let mut sum = BackendCounters::default();
        for value in values.iter() {
            sum += *value;
        }
        sum
    }

    /// Lets times of a back-end be measured, of one kind.
    pub fn measure(&mut self, backend: u32, kind: Kind) {
        let processors = aya::util::nr_cpus().expect("the kernel tells");
        let empty = PerCpuValues::try_from(vec![Histogram::EMPTY; processors]);
        let inserted = self
            .times
            .insert(kind.key(backend), empty.expect("one for each"), 0);
        inserted.expect("TIMES has room");
    }

    /// What was measured of a back-end, as each processor has it.
    #[must_use]
    pub fn times(&self, backend: u32, kind: Kind) -> Vec<Histogram> {
        let values = self.times.get(&kind.key(backend), 0);
        values.expect("it is measured").iter().copied().collect()
    }

    /// Requests to a service that were dropped because they had not proved alive.
    #[must_use]
    pub fn unproven(&self, service: u32) -> u64 {
        let values = self.unproven.get(&service, 0).expect("UNPROVEN has it");
        values.iter().sum()
    }

    /// Sets how many notices of a problem were sent.
    pub fn set_sent(&mut self, problem: Problem, sent: Sent) {
        let set = self.notices.set(problem as u32, sent.word(), 0);
        set.expect("NOTICES has it");
    }

    /// How many notices of a problem were sent.
    #[must_use]
    pub fn sent(&self, problem: Problem) -> Sent {
        let word = self.notices.get(&(problem as u32), 0);
        Sent::from_word(word.expect("NOTICES has it"))
    }

    /// Events that were reported and not yet read.
    pub fn events(&mut self) -> Vec<FlowEvent> {
        let mut events = Vec::new();
        while let Some(record) = self.ring.next() {
            let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
            assert_eq!(record.len(), size_of::<FlowEvent>());
            events.push(FlowEvent {
                flow: word(0),
                generation: word(4),
                phase: word(8),
                added: word(12),
            });
        }
        events
    }

    fn count(&self) -> Vec<u64> {
        let slots = 0..u32::try_from(labels().len()).unwrap();
        slots
            .map(|slot| self.counters.get(&slot, 0).unwrap().iter().sum())
            .collect()
    }

    /// The program's descriptor.
    pub fn descriptor(&mut self) -> RawFd {
        let fd = xdp(&mut self.ebpf).fd().expect("it is loaded");
        fd.as_fd().as_raw_fd()
    }

    /// Runs the program on one frame.
    pub fn run(&mut self, frame: &[u8]) -> Outcome {
        let mut out = vec![0; frame.len() + 64];
        let (action, length) = self.test_run(frame, Some(&mut out));
        out.truncate(length);
        let counted = self.count();
        let before = std::mem::replace(&mut self.counted, counted);
        let moved = labels()
            .into_iter()
            .zip(before.iter().zip(&self.counted))
            .filter(|(_, (before, after))| before != after)
            .map(|(label, (before, after))| (label, after - before))
            .collect();
        Outcome {
            action: Action::from_number(action),
            frame: out,
            moved,
        }
    }

    /// Runs the program on one frame, and does not look what came of it.
    pub fn run_unseen(&mut self, frame: &[u8]) {
        self.test_run(frame, None);
    }

    fn test_run(&mut self, frame: &[u8], out: Option<&mut [u8]>) -> (u32, usize) {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
        let (ifindex, queue) = self.ingress;
        let length = u32::try_from(frame.len()).unwrap();
        let context = [0, length, 0, ifindex, queue, 0].map(u32::to_ne_bytes);
        let result = xdp(&mut self.ebpf)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: out,
                ctx_in: Some(context.as_flattened()),
                repeat: 1,
                ..TestRunOptions::default()
            })
            .expect("BPF_PROG_TEST_RUN");
        (result.return_value, result.data_size_out as usize)
    }
}

fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> M
where
    M::Error: std::fmt::Debug,
{
    let map = ebpf.take_map(name).expect("the object has the map");
    map.try_into().expect("the map is of the expected type")
}

/// Labels of the slots of `COUNTERS`.
fn labels() -> Vec<&'static str> {
    let reasons = DropReason::ALL.iter().map(|reason| reason.label());
    let handled = Handled::ALL.iter().map(|handled| handled.label());
    reasons.chain(handled).collect()
}

/// What an XDP program may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
}

impl Action {
    /// Of what a test run returned; panics if no program may return that.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        use Action::{Aborted, Drop, Pass, Redirect, Tx};
        [Aborted, Drop, Pass, Tx, Redirect][number as usize]
    }
}

/// What the program did with a frame.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it returned.
    pub action: Action,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Slots of `COUNTERS` that changed, and by how much.
    pub moved: Vec<(&'static str, u64)>,
}

/// What became of a frame: the action and the counter together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Left to the host's stack, not ours.
    Passed,
    /// Left to the host's stack after the rewrite.
    HandedToHost,
    /// Given to an AF_XDP socket.
    Punted,
    /// Sent on, by this action.
    Sent(Action),
    /// Dropped, and turned into an ICMP error for its sender.
    Told(DropReason),
    /// A ping, turned into its answer.
    Answered,
    /// Dropped.
    Dropped(DropReason),
}

impl Outcome {
    /// Action and counters as one verdict, which each must agree on: exactly the counter that
    /// belongs to it moved, by one. Beside the point here are a lost event, and that what was sent
    /// on is a translated ICMP error.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let beside = [Handled::EventLost, Handled::IcmpTranslated].map(Handled::label);
        let beside = |label| beside.contains(label);
        let moved: Vec<_> = self.moved.iter().filter(|(of, _)| !beside(of)).collect();
        let reason = |label: &str| {
            let mut reasons = DropReason::ALL.iter();
            reasons.find(|reason| reason.label() == label).copied()
        };
        let verdict = match (self.action, &moved[..]) {
            (action @ (Action::Tx | Action::Redirect), []) => Some(Verdict::Sent(action)),
            (Action::Pass, [("passed", 1)]) => Some(Verdict::Passed),
            (Action::Pass, [("handed_to_host", 1)]) => Some(Verdict::HandedToHost),
            (Action::Redirect, [("punted", 1)]) => Some(Verdict::Punted),
            (Action::Tx, [("ping_answered", 1)]) => Some(Verdict::Answered),
            (Action::Tx, [(label, 1)]) => reason(label).map(Verdict::Told),
            (Action::Drop, [(label, 1)]) => reason(label).map(Verdict::Dropped),
            _ => None,
        };
        verdict.unwrap_or_else(|| panic!("{:?} contradicts {:?}", self.action, self.moved))
    }

    /// Whether it was counted as a translated ICMP error.
    #[must_use]
    pub fn is_translated_error(&self) -> bool {
        self.moved.contains(&(Handled::IcmpTranslated.label(), 1))
    }

    /// Whether an event found the ring full.
    #[must_use]
    pub fn lost_an_event(&self) -> bool {
        self.moved.contains(&(Handled::EventLost.label(), 1))
    }
}

/// A next hop that is current, by another interface than the one that frames come in on.
#[must_use]
pub fn way_to(host: Host) -> NextHop {
    NextHop {
        ifindex: ELSEWHERE,
        generation: GENERATION,
        dst: dispatcher_common::addr::Mac(host.mac),
        src: DISPATCHER_MAC,
        vlan: 0,
        mtu: 1500,
    }
}

/// What the clock of requests shows now.
#[must_use]
pub fn now() -> u32 {
    let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let since_boot = std::time::Duration::from(since_boot.expect("every Linux has it"));
    measure::clock(u64::try_from(since_boot.as_nanos()).expect("in 584 years"))
}

/// A flow of `CLIENT_ONE` to `VIP_ONE` on `BACKEND_ONE`, its SYN not yet forwarded.
#[must_use]
pub fn spec(family: Family) -> FlowSpec {
    FlowSpec {
        key: key(family, CLIENT_ONE, VIP_ONE),
        backend_addr: BACKEND_ONE.addr(family),
        backend_port: BACKEND_ONE.key_port(),
        backend: BACKEND,
        flow: FLOW,
        generation: FLOW_GENERATION,
        isn: CLIENT_ISN,
        now_ticks: TICKS,
        asked: now(),
        to_backend: way_to(BACKEND_ONE),
        to_client: way_to(CLIENT_ONE),
    }
}

/// An AF_XDP socket that can stand in `XSKS`: the kernel asks no more of it than a receive ring.
pub struct PuntSocket(OwnedFd);

impl PuntSocket {
    /// Opens one. It is not bound, so it never receives.
    #[must_use]
    pub fn open() -> Self {
        // SAFETY: takes three numbers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "AF_XDP: {}", std::io::Error::last_os_error());
        // SAFETY: a descriptor that was just opened, and that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let entries: libc::c_int = 64;
        // SAFETY: the option's value is one int, as the length says.
        let failed = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_RX_RING,
                (&raw const entries).cast(),
                size_of_val(&entries) as libc::socklen_t,
            )
        };
        assert!(
            failed == 0,
            "XDP_RX_RING: {}",
            std::io::Error::last_os_error()
        );
        Self(fd)
    }
}
