//! The floor under a dispatcher's cost on the wire: the least XDP program that translates
//! addresses. One lookup of the 5-tuple, addresses, ports, checksums and TTL rewritten by deltas
//! that were computed beforehand, both Ethernet addresses written, redirect. It tracks nothing and
//! counts nothing. Written in instructions, because it must hold nothing that a compiler adds.
//!
//! It cannot make an entry: those of every connection that may come are installed beforehand.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use dispatcher_common::header::ETHERTYPE_IPV4;
use nix::net::if_::if_nametoindex;

use crate::bpf;
use crate::instruction::{
    FRAME_POINTER, Instruction, SIZE_8, SIZE_16, SIZE_32, SIZE_64, XDP_PASS, add, add_register,
    call, copy, flip, give, instruction, load, mask, set, shift_right, skip_if_beyond,
    skip_if_equal, skip_unless_equal, store,
};
use crate::netns::Namespace;
use crate::topology::{ENDPOINT_DEVICE, Family, Lab, Node};

/// Source and destination of a connection's packets in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// Who sends.
    pub source: SocketAddrV4,
    /// Who receives.
    pub destination: SocketAddrV4,
}

/// Where packets leave.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub from: [u8; 6],
    /// The next machine's.
    pub to: [u8; 6],
}

/// The program with its table; detached when dropped. What it does not know is the host's stack's.
#[derive(Debug)]
pub struct Nat {
    table: OwnedFd,
    program: OwnedFd,
    links: Vec<OwnedFd>,
}

/// Addresses and ports as they stand in a packet without IPv4 options, from [`ADDRESSES`] on.
const KEY_BYTES: usize = 12;
/// An entry: the new [`KEY_BYTES`], the deltas of both checksums, 2 bytes each, both Ethernet
/// addresses, the interface's index.
const VALUE_BYTES: usize = 32;
const IP_DELTA: i16 = 12;
const TCP_DELTA: i16 = 14;
const ETHERNET: i16 = 16;
const INTERFACE: i16 = 28;

/// Offsets in a frame.
const TTL: i16 = 22;
const PROTOCOL: i16 = 23;
const IP_CHECKSUM: i16 = 24;
const ADDRESSES: i16 = 26;
const PORTS: i16 = 34;
const TCP_CHECKSUM: i16 = 50;
const HEADERS_END: i32 = 54;

/// Holds the start of the frame over the call.
const FRAME: u8 = 7;
/// Where the key is on the stack.
const KEY: i16 = -16;
/// Numbers of the helpers.
const MAP_LOOKUP: i32 = 1;
const REDIRECT: i32 = 23;

impl Nat {
    /// Loads it with room for `entries`, two for each connection.
    pub fn load(entries: u32) -> Result<Self> {
        let table = bpf::create_hash(KEY_BYTES, VALUE_BYTES, entries)?;
        let program = bpf::load_xdp(&instructions(table.as_raw_fd()));
        Ok(Self {
            program: program.context("cannot load the floor")?,
            table,
            links: Vec::new(),
        })
    }

    /// Has packets of `from` leave as those of `to`.
    pub fn translate(&self, from: Tuple, to: Tuple, way: Way) -> Result<()> {
        let (key, new) = (from.to_bytes(), to.to_bytes());
        // The TTL is the lower half of its word here, and becomes one less.
        let ttl = u32::from(!1_u16);
        let mut value = [0; VALUE_BYTES];
        value[..KEY_BYTES].copy_from_slice(&new);
        value[12..14].copy_from_slice(&folded(delta(&key, &new, 0..8) + ttl).to_ne_bytes());
        value[14..16].copy_from_slice(&folded(delta(&key, &new, 0..12)).to_ne_bytes());
        value[16..22].copy_from_slice(&way.to);
        value[22..28].copy_from_slice(&way.from);
        value[28..].copy_from_slice(&way.ifindex.to_ne_bytes());
        // SAFETY: the table was made for keys and values of these lengths.
        Ok(unsafe { bpf::update(self.table.as_raw_fd(), &key, &value) }?)
    }

    /// The floor under a dispatcher of a two-armed lab: between its service at `service_port` and
    /// all its back-ends at `backend_port`, for every one of `ports` of every client. Which
    /// back-end has a connection, the client's port says: Linux gives out every second one in turn.
    pub fn between(
        lab: &Lab,
        service_port: u16,
        backend_port: u16,
        ports: RangeInclusive<u16>,
    ) -> Result<Self> {
        let [front, back] = lab.topology().interfaces() else {
            bail!("the floor stands between two interfaces");
        };
        let entries = 2 * lab.clients().len() * ports.len();
        let mut nat = Self::load(u32::try_from(entries)?)?;
        let service = v4(lab.service(Family::V4, service_port))?;
        let to_backends: Result<Vec<_>> = lab
            .backends()
            .iter()
            .map(|node| {
                let at = v4(node.at(Family::V4, backend_port))?;
                Ok((at, Way::out(lab, back, node)?))
            })
            .collect();
        let to_backends = to_backends?;
        for client in lab.clients() {
            let to_client = Way::out(lab, front, client)?;
            for port in ports.clone() {
                let (at, to_backend) = to_backends[usize::from(port >> 1) % to_backends.len()];
                let source = v4(client.at(Family::V4, port))?;
                let [outer, inner] = [service, at].map(|destination| Tuple {
                    source,
                    destination,
                });
                nat.translate(outer, inner, to_backend)?;
                nat.translate(inner.reversed(), outer.reversed(), to_client)?;
            }
        }
        for device in [front, back] {
            nat.attach(lab.dispatcher(), device)?;
        }
        Ok(nat)
    }

    /// Attaches it natively to a device in there.
    pub fn attach(&mut self, namespace: &Namespace, device: &str) -> Result<()> {
        let program = &self.program;
        let link = namespace.enter(|| bpf::attach_xdp(program, if_nametoindex(device)?));
        self.links
            .push(link.with_context(|| format!("cannot attach the floor to {device}"))?);
        Ok(())
    }
}

impl Way {
    /// Out of an interface of the lab's dispatcher to an endpoint.
    fn out(lab: &Lab, interface: &str, to: &Node) -> Result<Self> {
        let dispatcher = lab.dispatcher();
        Ok(Self {
            ifindex: dispatcher.enter(|| if_nametoindex(interface))?,
            from: dispatcher.mac(interface)?,
            to: to.mac(ENDPOINT_DEVICE)?,
        })
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is not of IPv4"),
    }
}

impl Tuple {
    /// As in a packet: both addresses, both ports.
    fn to_bytes(self) -> [u8; KEY_BYTES] {
        let address = |address: &Ipv4Addr| address.octets();
        let mut bytes = [0; KEY_BYTES];
        bytes[..4].copy_from_slice(&address(self.source.ip()));
        bytes[4..8].copy_from_slice(&address(self.destination.ip()));
        bytes[8..10].copy_from_slice(&self.source.port().to_be_bytes());
        bytes[10..].copy_from_slice(&self.destination.port().to_be_bytes());
        bytes
    }

    /// That of the answers.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// What a checksum's complement grows by (RFC 1624), in the machine's own byte order, as the
/// program loads it; not folded.
fn delta(old: &[u8], new: &[u8], bytes: Range<usize>) -> u32 {
    let words = std::iter::zip(old[bytes.clone()].chunks(2), new[bytes].chunks(2));
    let word = |bytes: &[u8]| u16::from_ne_bytes([bytes[0], bytes[1]]);
    words
        .map(|(old, new)| u32::from(!word(old)) + u32::from(word(new)))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Adds an entry's delta to a checksum of the packet; the entry is in register 0.
fn mend(checksum: i16, delta: i16) -> [Instruction; 9] {
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
    ]
}

fn instructions(table: RawFd) -> Vec<Instruction> {
    let mut hit = vec![
        load(SIZE_64, 1, 0, 0),
        store(SIZE_64, FRAME, ADDRESSES, 1),
        load(SIZE_32, 1, 0, 8),
        store(SIZE_32, FRAME, PORTS, 1),
        load(SIZE_8, 1, FRAME, TTL),
        add(1, -1),
        store(SIZE_8, FRAME, TTL, 1),
    ];
    for (checksum, delta) in [(IP_CHECKSUM, IP_DELTA), (TCP_CHECKSUM, TCP_DELTA)] {
        hit.extend(mend(checksum, delta));
        hit.push(store(SIZE_16, FRAME, checksum, 1));
    }
    hit.extend([
        load(SIZE_64, 1, 0, ETHERNET),
        store(SIZE_64, FRAME, 0, 1),
        load(SIZE_32, 1, 0, ETHERNET + 8),
        store(SIZE_32, FRAME, 8, 1),
        load(SIZE_32, 1, 0, INTERFACE),
        set(2, 0),
        call(REDIRECT),
        // Returns what the helper did.
        instruction(0x95, 0, 0, 0, 0),
    ]);

    let mut all = vec![
        load(SIZE_32, FRAME, 1, 0),
        load(SIZE_32, 3, 1, 4),
        copy(4, FRAME),
        add(4, HEADERS_END),
    ];
    let mut look_up = vec![
        load(SIZE_64, 5, FRAME, ADDRESSES),
        store(SIZE_64, FRAME_POINTER, KEY, 5),
        load(SIZE_32, 5, FRAME, PORTS),
        store(SIZE_32, FRAME_POINTER, KEY + 8, 5),
        // r1 = the map.
        instruction(0x18, 1, 1, 0, table),
        instruction(0, 0, 0, 0, 0),
        copy(2, FRAME_POINTER),
        add(2, KEY.into()),
        call(MAP_LOOKUP),
        // Over `hit` to the pass.
        skip_if_equal(0, 0, hit.len() as i16),
    ];
    look_up.extend(hit);
    // IPv4 without options, TCP; else over all to the pass, a check's own load being skipped, too.
    let ethertype = i32::from(ETHERTYPE_IPV4.to_be());
    let mut checks = Vec::new();
    for (size, at, wanted) in [
        (SIZE_8, PROTOCOL, libc::IPPROTO_TCP),
        (SIZE_8, 14, 0x45),
        (SIZE_16, 12, ethertype),
    ] {
        let over = (checks.len() + look_up.len()) as i16;
        checks.splice(
            0..0,
            [load(size, 5, FRAME, at), skip_unless_equal(5, wanted, over)],
        );
    }
    checks.extend(look_up);
    all.push(skip_if_beyond(4, 3, checks.len() as i16));
    all.extend(checks);
    all.extend(give(XDP_PASS));
    all
}
