//! The one rewrite: turns a packet for the service into one for the back-end, or a packet of the
//! back-end into one of the service. Ports and addresses of one side change, TTL goes down by one,
//! checksums follow (see [`checksum`]). TCP options and data are never touched.

use crate::addr::{Addr, Port};
use crate::checksum::{self, Delta};
use crate::flow::{Direction, FlowKey};
use crate::header::{Ipv4Hdr, Ipv6Hdr, TcpHdr};
use crate::packet::PacketBytes;
use crate::parse::Segment;
use crate::tcp::SegmentView;

/// What to write into every packet of one direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The address to put in.
    pub addr: Addr,
    /// The port to put in.
    pub port: Port,
    /// [`Direction`] as a number: 0 writes the destination, 1 the source.
    pub direction: u8,
    /// 0.
    pub zero: u8,
    /// Change of the sum under the TCP checksum.
    pub tcp_delta: Delta,
    /// Change of the sum under the IPv4 header checksum, TTL included.
    pub ip_delta: Delta,
}

/// TTL is the high byte of its word: one less is 0x0100 less, in wire order.
pub(crate) const TTL_DELTA: Delta = !u16::from_ne_bytes([0x01, 0x00]);

impl Translation {
    /// For packets with key `forward`, whose destination becomes the back-end.
    #[must_use]
    pub fn to_backend(forward: &FlowKey, addr: Addr, port: Port) -> Self {
        Self::new(
            Direction::Forward,
            forward.dst,
            forward.dst_port,
            addr,
            port,
        )
    }

    /// For packets with key `reply`, whose source becomes the service.
    #[must_use]
    pub fn to_client(reply: &FlowKey, addr: Addr, port: Port) -> Self {
        Self::new(Direction::Reply, reply.src, reply.src_port, addr, port)
    }

    fn new(direction: Direction, old: Addr, old_port: Port, addr: Addr, port: Port) -> Self {
        // The prefix of a mapped address is not on the wire, and does not change either.
        let address = checksum::delta(old.bytes(), addr.bytes());
        let ports = checksum::delta(&old_port.bytes(), &port.bytes());
        Self {
            addr,
            port,
            direction: direction as u8,
            zero: 0,
            tcp_delta: checksum::combine(address, ports),
            ip_delta: checksum::combine(address, TTL_DELTA),
        }
    }

    /// Which end of the packet is rewritten.
    #[inline(always)]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        Direction::from_u8(self.direction)
    }

    /// Change of the sum over the address alone.
    #[inline(always)]
    #[must_use]
    pub const fn address_delta(&self) -> Delta {
        checksum::combine(self.ip_delta, !TTL_DELTA)
    }

    /// Rewrites a packet that was parsed to `segment`. Nothing is returned, and nothing was
    /// changed, if the frame is shorter than the segment says.
    ///
    /// The TTL must be above 1: judging that is the caller's.
    #[inline(always)]
    pub fn apply<P: PacketBytes + ?Sized>(&self, packet: &mut P, segment: &Segment) -> Option<()> {
        let tcp = packet.header_mut::<TcpHdr>(segment.tcp_offset())?;
        match self.direction() {
            Direction::Forward => tcp.dst_port = self.port.bytes(),
            Direction::Reply => tcp.src_port = self.port.bytes(),
        }
        tcp.checksum = checksum::update(tcp.checksum, self.tcp_delta);

        if segment.is_v4 {
            let ip = packet.header_mut::<Ipv4Hdr>(segment.ip_offset())?;
            match self.direction() {
                Direction::Forward => ip.dst = self.addr.v4_bytes(),
                Direction::Reply => ip.src = self.addr.v4_bytes(),
            }
            ip.ttl = ip.ttl.wrapping_sub(1);
            ip.checksum = checksum::update(ip.checksum, self.ip_delta);
        } else {
            let ip = packet.header_mut::<Ipv6Hdr>(segment.ip_offset())?;
            match self.direction() {
                Direction::Forward => self.addr.write_v6(&mut ip.dst),
                Direction::Reply => self.addr.write_v6(&mut ip.src),
            }
            ip.hop_limit = ip.hop_limit.wrapping_sub(1);
        }
        Some(())
    }
}

/// Gives the segment at `tcp_offset` the flags and numbers of `to`, and a checksum that follows.
/// Nothing is returned, and nothing was changed, if the frame is shorter than that.
#[inline(always)]
pub fn renumber<P: PacketBytes + ?Sized>(
    packet: &mut P,
    tcp_offset: usize,
    to: &SegmentView,
) -> Option<()> {
    let tcp = packet.header_mut::<TcpHdr>(tcp_offset)?;
    let (seq, ack) = (to.seq.to_be_bytes(), to.ack.to_be_bytes());
    // The sum of longer words is the same once it is folded (RFC 1071 2(C)).
    let long = |old: [u8; 4], new: [u8; 4]| {
        u64::from(!u32::from_ne_bytes(old)) + u64::from(u32::from_ne_bytes(new))
    };
    let sum = long(tcp.seq, seq) + long(tcp.ack, ack);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let numbers = checksum::fold((sum & 0xffff) as u32 + (sum >> 16) as u32);
    let old = [tcp.data_offset, tcp.flags.0];
    let flags = checksum::word_delta(old, [tcp.data_offset, to.flags.0]);
    tcp.checksum = checksum::update(tcp.checksum, checksum::combine(flags, numbers));
    (tcp.seq, tcp.ack, tcp.flags) = (seq, ack, to.flags);
    Some(())
}

const _: () = assert!(size_of::<Translation>() == 24);
