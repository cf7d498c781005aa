//! The table of maps. `tests/contract.rs` compares it with the object that was built.

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Name, at most 15 characters: also the name of its pin.
    pub name: &'static str,
    /// Kernel's number of the map type (`enum bpf_map_type`).
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Most elements, unless the configuration says otherwise.
    pub max_entries: u32,
    /// Flags it is made with: [`NO_PREALLOC`] or none.
    pub flags: u32,
}

/// Flows that `FLOWS` holds unless the configuration says otherwise.
pub const FLOW_CAPACITY_DEFAULT: u32 = 262_144;
/// Elements of `FLOWS` for so many flows.
#[must_use]
pub const fn flow_entries(flow_capacity: u32) -> u32 {
    flow_capacity.saturating_mul(2)
}

/// Most services.
pub const SERVICES_MAX: u32 = 256;
/// Most back-ends, over all services.
pub const BACKENDS_MAX: u32 = 4096;
/// Most AF_XDP sockets: receive queues of all interfaces together.
pub const XSKS_MAX: u32 = 256;
/// Most interfaces, VLANs on them included.
pub const LINKS_MAX: u32 = 1024;
/// Bytes of the event ring: 43 690 events of 16 bytes with the kernel's 8-byte header.
pub const EVENTS_BYTES: u32 = 1 << 20;

/// `BPF_F_NO_PREALLOC`: memory is taken when an element is inserted.
pub const NO_PREALLOC: u32 = 1;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_HASH: u32 = 5;
const PERCPU_ARRAY: u32 = 6;
const XSKMAP: u32 = 17;
const RINGBUF: u32 = 27;

/// 5-tuple → what to do with its packets.
pub const FLOWS: MapSpec = MapSpec {
    name: "FLOWS",
    kind: HASH,
    key_size: size_of::<crate::flow::FlowKey>(),
    value_size: size_of::<crate::flow::FlowEntry>(),
    max_entries: flow_entries(FLOW_CAPACITY_DEFAULT),
    flags: 0,
};
/// Address and port → service.
pub const SERVICES: MapSpec = MapSpec {
    name: "SERVICES",
    kind: HASH,
    key_size: size_of::<crate::service::ServiceKey>(),
    value_size: size_of::<crate::service::Service>(),
    // A marker for each address besides the service itself.
    max_entries: 2 * SERVICES_MAX,
    flags: 0,
};
/// Which keys `SERVICES` may have: one element.
pub const SERVED: MapSpec = MapSpec {
    name: "SERVED",
    kind: ARRAY,
    key_size: 4,
    value_size: size_of::<crate::service::Served>(),
    max_entries: 1,
    flags: 0,
};
/// Back-end → what passed to and from it, a value for each processor.
pub const BACKENDS: MapSpec = MapSpec {
    name: "BACKENDS",
    kind: PERCPU_ARRAY,
    key_size: 4,
    value_size: size_of::<crate::service::BackendCounters>(),
    max_entries: BACKENDS_MAX,
    flags: 0,
};
/// Interface index → physical interface, VLAN, sockets.
pub const LINKS: MapSpec = MapSpec {
    name: "LINKS",
    kind: HASH,
    key_size: 4,
    value_size: size_of::<crate::link::Link>(),
    max_entries: LINKS_MAX,
    flags: 0,
};
/// Socket index → AF_XDP socket.
pub const XSKS: MapSpec = MapSpec {
    name: "XSKS",
    kind: XSKMAP,
    key_size: 4,
    value_size: 4,
    max_entries: XSKS_MAX,
    flags: 0,
};
/// What user space tells the program.
pub const CONTROL: MapSpec = MapSpec {
    name: "CONTROL",
    kind: ARRAY,
    key_size: 4,
    value_size: size_of::<crate::control::Control>(),
    max_entries: 1,
    flags: 0,
};
/// What the program tells user space.
pub const EVENTS: MapSpec = MapSpec {
    name: "EVENTS",
    kind: RINGBUF,
    key_size: 0,
    value_size: 0,
    max_entries: EVENTS_BYTES,
    flags: 0,
};
/// Counters of drops and of what was handled, a value for each processor.
pub const COUNTERS: MapSpec = MapSpec {
    name: "COUNTERS",
    kind: PERCPU_ARRAY,
    key_size: 4,
    value_size: 8,
    max_entries: crate::verdict::COUNTERS_LEN,
    flags: 0,
};

/// Back-end and kind ([`Kind::key`](crate::measure::Kind::key)) → how long it took, a value for
/// each processor. A value is large, so only back-ends that there are have one.
pub const TIMES: MapSpec = MapSpec {
    name: "TIMES",
    kind: PERCPU_HASH,
    key_size: 4,
    value_size: size_of::<crate::measure::Histogram>(),
    max_entries: 2 * BACKENDS_MAX,
    flags: NO_PREALLOC,
};

/// Connection requests that were seen lately.
pub const PROOFS: MapSpec = MapSpec {
    name: "PROOFS",
    kind: ARRAY,
    key_size: 4,
    value_size: size_of::<crate::proof::Bucket>(),
    max_entries: crate::proof::BUCKETS,
    flags: 0,
};

/// Service → connection requests to it that were dropped as [`Unproven`], a value for each
/// processor.
///
/// [`Unproven`]: crate::verdict::DropReason::Unproven
pub const UNPROVEN: MapSpec = MapSpec {
    name: "UNPROVEN",
    kind: PERCPU_ARRAY,
    key_size: 4,
    value_size: 8,
    max_entries: SERVICES_MAX,
    flags: 0,
};

/// [`Problem`](crate::notice::Problem) → how many notices of it were sent
/// ([`Sent`](crate::notice::Sent)).
pub const NOTICES: MapSpec = MapSpec {
    name: "NOTICES",
    kind: ARRAY,
    key_size: 4,
    value_size: 8,
    max_entries: crate::notice::Problem::COUNT,
    flags: 0,
};

/// All of them.
pub const ALL: [MapSpec; 13] = [
    FLOWS, SERVICES, BACKENDS, LINKS, XSKS, CONTROL, EVENTS, COUNTERS, TIMES, PROOFS, UNPROVEN,
    SERVED, NOTICES,
];

/// Name of the XDP program.
pub const PROGRAM: &str = "dispatcher";
