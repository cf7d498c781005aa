//! Every map. `dispatcher_common::maps` has the same table for user space, and a test compares the
//! two. All are declared with BTF types, so that bpftool prints them field by field.

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf, XskMap};
use aya_ebpf::macros::btf_map;
use dispatcher_common::control::Control;
use dispatcher_common::flow::{FlowEntry, FlowKey};
use dispatcher_common::link::Link;
use dispatcher_common::maps as table;
use dispatcher_common::measure::Histogram;
use dispatcher_common::proof::Bucket;
use dispatcher_common::service::{BackendCounters, Served, Service, ServiceKey};

/// 5-tuple of a packet → what to do with it.
/// Written by user space (whole entries) and by the program (fields, in place); read by both.
/// Two entries a flow; when full, user space refuses the request. Never LRU: an eviction would
/// break a live connection.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowEntry, { table::FLOWS.max_entries as usize }> =
    HashMap::new();

/// Address and port → service. Written by user space, read by the program. Bounded by the number
/// of services that a configuration may have.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, Service, { table::SERVICES.max_entries as usize }> =
    HashMap::new();

/// Which keys SERVICES may have: one element. Written by user space, read by the program.
#[btf_map]
pub static SERVED: Array<Served, { table::SERVED.max_entries as usize }> = Array::new();

/// Back-end → what passed, for each processor. Written by the program, read by user space.
#[btf_map]
pub static BACKENDS: PerCpuArray<BackendCounters, { table::BACKENDS.max_entries as usize }> =
    PerCpuArray::new();

/// Interface index → physical interface, VLAN, sockets. Written by user space, read by the
/// program. When full, further interfaces are left to the host's stack.
#[btf_map]
pub static LINKS: HashMap<u32, Link, { table::LINKS.max_entries as usize }> = HashMap::new();

/// Socket index → AF_XDP socket. Written by user space; the kernel removes closed sockets.
#[btf_map]
pub static XSKS: XskMap<{ table::XSKS.max_entries as usize }> = XskMap::new();

/// What user space tells the program: one element.
#[btf_map]
pub static CONTROL: Array<Control, { table::CONTROL.max_entries as usize }> = Array::new();

/// Phases that flows entered. Written by the program, read by user space. When full the event is
/// lost and counted; user space finds out by reconciling. Records are `FlowEvent`s; the map itself
/// is declared without a value, because libbpf wants a ring's value size to be 0.
#[btf_map]
pub static EVENTS: RingBuf<(), { table::EVENTS_BYTES as usize }> = RingBuf::new();

/// Drop reasons, then what was handled, for each processor. Written by the program, read by user
/// space.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { table::COUNTERS.max_entries as usize }> =
    PerCpuArray::new();

/// Back-end and kind → how long it took, for each processor. Elements are inserted and removed by
/// user space, which reads them; the program writes them in place. Where there is none, nothing is
/// recorded.
#[btf_map]
pub static TIMES: PerCpuHashMap<
    u32,
    Histogram,
    { table::TIMES.max_entries as usize },
    { table::TIMES.flags as usize },
> = PerCpuHashMap::new();

/// Connection requests that were seen lately, by their marks. Written and read by the program
/// alone. When a bucket is full its oldest mark makes room: its client needs one more time.
#[btf_map]
pub static PROOFS: Array<Bucket, { table::PROOFS.max_entries as usize }> = Array::new();

/// Service → requests to it that were dropped because they had not proved alive, for each
/// processor. Written by the program, read by user space.
#[btf_map]
pub static UNPROVEN: PerCpuArray<u64, { table::UNPROVEN.max_entries as usize }> =
    PerCpuArray::new();

/// Problem → how many ICMP errors told of it, and in which second. Written and read by the program
/// alone.
#[btf_map]
pub static NOTICES: Array<u64, { table::NOTICES.max_entries as usize }> = Array::new();
