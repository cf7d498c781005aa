//! The floor under the program's cost: the least XDP program that translates a connection. One
//! lookup of the 5-tuple in a table whose keys hold nothing else; addresses, ports, checksums and
//! TTL rewritten by deltas that were computed beforehand; both Ethernet addresses; redirect. It
//! tracks nothing and counts nothing, and passes what it does not know. Written in instructions,
//! because it must hold nothing that a compiler adds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use dispatcher_common::checksum::{self, Delta};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::link::NextHop;

use crate::bpf::{self, MapKind};
use crate::instruction::{
    FRAME_POINTER, Instruction, SIZE_8, SIZE_16, SIZE_32, SIZE_64, XDP_PASS, add, add_register,
    call, copy, flip, give, give_result, load, mask, set, set_map, shift_right, skip_if_beyond,
    skip_if_equal, skip_unless_equal, store,
};
use crate::packet::Family;

/// A loaded floor with its table.
#[derive(Debug)]
pub struct Floor {
    family: Family,
    table: OwnedFd,
    /// The program.
    pub program: OwnedFd,
}

/// Where a family has what in its packets, and how much.
struct Layout {
    /// EtherType, as it is loaded.
    ethertype: i32,
    /// Offset of the first byte of IP that is checked, and what it must be.
    version: (u8, i16, i32),
    /// Offset of the protocol number.
    protocol: i16,
    /// Offset of TTL or hop limit.
    ttl: i16,
    /// Offset and length of both addresses.
    addresses: (i16, usize),
    /// Offset of the header's own checksum.
    ip_checksum: Option<i16>,
}

const IP: i16 = 14;

impl Layout {
    const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                ethertype: 0x0800_u16.to_be() as i32,
                version: (SIZE_8, IP, 0x45),
                protocol: IP + 9,
                ttl: IP + 8,
                addresses: (IP + 12, 8),
                ip_checksum: Some(IP + 10),
            },
            Family::V6 => Self {
                ethertype: 0x86dd_u16.to_be() as i32,
                version: (SIZE_8, IP, 0x60),
                protocol: IP + 6,
                ttl: IP + 7,
                addresses: (IP + 8, 32),
                ip_checksum: None,
            },
        }
    }

    /// Offset of the TCP header, which begins with both ports.
    const fn ports(&self) -> i16 {
        self.addresses.0 + self.addresses.1 as i16
    }

    const fn key_bytes(&self) -> usize {
        self.addresses.1 + 4
    }

    /// Both deltas, both Ethernet addresses and an interface's index come after the new key.
    const fn value_bytes(&self) -> usize {
        self.key_bytes() + 2 + 2 + 12 + 4
    }
}

/// Holds the start of the frame over the calls.
const FRAME: u8 = 7;
/// Where the key is on the stack.
const KEY: i16 = -40;
const TCP_HEADER: i32 = 20;
const TCP_CHECKSUM: i16 = 16;
const PROTOCOL_TCP: i32 = 6;
/// Numbers of the helpers.
const MAP_LOOKUP: i32 = 1;
const REDIRECT: i32 = 23;

impl Floor {
    /// Loads it with room for `entries`, two for each connection.
    pub fn load(family: Family, entries: u32) -> io::Result<Self> {
        let layout = Layout::of(family);
        let (key, value) = (layout.key_bytes(), layout.value_bytes());
        let table = bpf::create_map(MapKind::Hash, key, value, entries)?;
        let program = bpf::load_xdp(&instructions(&layout, table.as_raw_fd()))?;
        Ok(Self {
            family,
            table,
            program,
        })
    }

    /// Has packets of the key `from` leave with the key `to`, to where `way` says.
    pub fn translate(&self, from: &FlowKey, to: &FlowKey, way: &NextHop) -> io::Result<()> {
        let layout = Layout::of(self.family);
        let (key, new) = (self.bytes(from), self.bytes(to));
        let addresses = ..layout.addresses.1;
        // One TTL less.
        let ttl: Delta = !u16::from_ne_bytes([1, 0]);
        let ip_delta = checksum::combine(checksum::delta(&key[addresses], &new[addresses]), ttl);
        let mut value = new.clone();
        value.extend(ip_delta.to_ne_bytes());
        value.extend(checksum::delta(&key, &new).to_ne_bytes());
        value.extend(way.dst.0);
        value.extend(way.src.0);
        value.extend(way.ifindex.to_ne_bytes());
        assert_eq!(value.len(), layout.value_bytes());
        // SAFETY: the table was made for keys and values of these lengths.
        unsafe { bpf::update(self.table.as_raw_fd(), &key, &value) }
    }

    fn bytes(&self, key: &FlowKey) -> Vec<u8> {
        let mut bytes = Vec::new();
        for addr in [key.src, key.dst] {
            match self.family {
                Family::V4 => bytes.extend(addr.v4_bytes()),
                Family::V6 => bytes.extend(addr.bytes()),
            }
        }
        for port in [key.src_port, key.dst_port] {
            bytes.extend(port.bytes());
        }
        bytes
    }
}

/// Copies `bytes`, a multiple of four, in pieces that are as large as can be.
fn copy_bytes(to: (u8, i16), from: (u8, i16), bytes: usize) -> Vec<Instruction> {
    let mut all = Vec::new();
    let mut at = 0;
    while usize::try_from(at).is_ok_and(|at| at < bytes) {
        let left = bytes as i16 - at;
        let (size, step) = if left >= 8 {
            (SIZE_64, 8)
        } else {
            (SIZE_32, 4)
        };
        all.push(load(size, 1, from.0, from.1 + at));
        all.push(store(size, to.0, to.1 + at, 1));
        at += step;
    }
    all
}

/// Adds an entry's delta to a checksum of the packet; the entry is in register 0.
fn mend(checksum: i16, delta: i16) -> [Instruction; 10] {
    [
        load(SIZE_16, 1, FRAME, checksum),
        flip(1, 0xffff),
        load(SIZE_16, 2, 0, delta),
        add_register(1, 2),
        copy(2, 1),
        shift_right(2, 16),
        mask(1, 0xffff),
        add_register(1, 2),
        flip(1, 0xffff),
        store(SIZE_16, FRAME, checksum, 1),
    ]
}

fn instructions(layout: &Layout, table: RawFd) -> Vec<Instruction> {
    let key_bytes = layout.key_bytes();
    let addresses = layout.addresses.0;
    let after_key = key_bytes as i16;

    let mut hit = copy_bytes((FRAME, addresses), (0, 0), key_bytes);
    hit.extend([
        load(SIZE_8, 1, FRAME, layout.ttl),
        add(1, -1),
        store(SIZE_8, FRAME, layout.ttl, 1),
    ]);
    if let Some(checksum) = layout.ip_checksum {
        hit.extend(mend(checksum, after_key));
    }
    hit.extend(mend(layout.ports() + TCP_CHECKSUM, after_key + 2));
    hit.extend(copy_bytes((FRAME, 0), (0, after_key + 4), 12));
    hit.extend([
        load(SIZE_32, 1, 0, after_key + 16),
        set(2, 0),
        call(REDIRECT),
        give_result(),
    ]);

    // The key ends where it is aligned to end, as the verifier wants it.
    let mut look_up = copy_bytes((FRAME_POINTER, KEY), (FRAME, addresses), key_bytes);
    look_up.extend(set_map(1, table));
    look_up.extend([
        copy(2, FRAME_POINTER),
        add(2, KEY.into()),
        call(MAP_LOOKUP),
        // Over `hit` to the pass.
        skip_if_equal(0, 0, hit.len() as i16),
    ]);
    look_up.extend(hit);

    let (size, at, version) = layout.version;
    let checks = [
        (SIZE_16, IP - 2, layout.ethertype),
        (size, at, version),
        (SIZE_8, layout.protocol, PROTOCOL_TCP),
    ];
    let end = i32::from(layout.ports()) + TCP_HEADER;
    let mut all = vec![
        load(SIZE_32, FRAME, 1, 0),
        load(SIZE_32, 3, 1, 4),
        copy(4, FRAME),
        add(4, end),
        // Over all to the pass.
        skip_if_beyond(4, 3, (2 * checks.len() + look_up.len()) as i16),
    ];
    for (index, (size, at, wanted)) in checks.iter().enumerate() {
        let over = 2 * (checks.len() - index - 1) + look_up.len();
        all.push(load(*size, 5, FRAME, *at));
        all.push(skip_unless_equal(5, *wanted, over as i16));
    }
    all.extend(look_up);
    all.extend(give(XDP_PASS));
    all
}
