//! Frames as they are on a wire: a socket that sends and receives them, and what is in one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dispatcher_common::header::{ETHERTYPE_VLAN, TcpFlags};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpSlice, TransportSlice};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes that the socket buffers: a burst while the reader does not run.
const BUFFER_BYTES: usize = 64 << 20;
/// The longest frame.
const FRAME_BYTES_MAX: usize = 1 << 16;

/// A frame that passed a device.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Sent by this end, not received.
    pub outgoing: bool,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The control information of its 802.1Q tag: priority and VLAN id.
    #[must_use]
    pub fn tag(&self) -> Option<u16> {
        let tagged = self.bytes.get(12..14)? == ETHERTYPE_VLAN.to_be_bytes();
        let tci = self.bytes.get(14..16).filter(|_| tagged)?;
        Some(u16::from_be_bytes([tci[0], tci[1]]))
    }
}

/// Sends and receives whole frames at a device, beside the host's stack.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens it at a device of the calling thread's network namespace.
    pub fn open(device: &str) -> Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        setsockopt(&fd, sockopt::RcvBufForce, &BUFFER_BYTES)?;
        let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is a whole `sockaddr_ll` of the length given, read during the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        Errno::result(bound).with_context(|| format!("cannot watch {device}"))?;
        Ok(Self { socket: fd })
    }

    /// The next frame, or `None` when none comes within `patience`.
    pub fn receive(&self, patience: Duration) -> Result<Option<Frame>> {
        let patience = TimeVal::microseconds(patience.as_micros().max(1) as i64);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience)?;
        let mut bytes = vec![0; FRAME_BYTES_MAX];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
            Ok((length, from)) => {
                bytes.truncate(length);
                bytes.shrink_to_fit();
                let outgoing = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                Ok(Some(Frame { outgoing, bytes }))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        let sent = sent.with_context(|| format!("cannot send {} bytes", frame.len()))?;
        ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(())
    }

    /// Sends all frames, as fast as it goes.
    pub fn send_all(&self, frames: &[Vec<u8>]) -> Result<()> {
        const AT_ONCE: usize = 64;
        for frames in frames.chunks(AT_ONCE) {
            let mut slices: Vec<_> = frames
                .iter()
                .map(|frame| libc::iovec {
                    iov_base: frame.as_ptr().cast_mut().cast(),
                    iov_len: frame.len(),
                })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(slices.len());
            for slice in &mut slices {
                // SAFETY: integers and pointers, of which zero is a value.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = slice;
                message.msg_hdr.msg_iovlen = 1;
                messages.push(message);
            }
            let mut sent = 0;
            while sent < messages.len() {
                let left = &mut messages[sent..];
                // SAFETY: `left` is that many messages, each of one slice of a living frame, which
                // the kernel only reads.
                let result = unsafe {
                    libc::sendmmsg(
                        self.socket.as_raw_fd(),
                        left.as_mut_ptr(),
                        left.len() as u32,
                        0,
                    )
                };
                match Errno::result(result) {
                    Ok(more) => sent += more as usize,
                    Err(Errno::ENOBUFS | Errno::EINTR) => {}
                    Err(error) => return Err(error).context("cannot send frames"),
                }
            }
        }
        Ok(())
    }

    /// Frames that did not fit into the buffer since the last call.
    pub fn lost(&self) -> Result<u32> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: `stats` is what this option fills, and `length` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(stats.tp_drops),
            _ => Err(io::Error::last_os_error().into()),
        }
    }
}

/// A TCP segment with its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Flag bits.
    pub flags: TcpFlags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Option bytes, padding included.
    pub options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A segment with these flags and numbers, no options and no data.
    #[must_use]
    pub fn new(from: SocketAddr, to: SocketAddr, flags: TcpFlags, seq: u32, ack: u32) -> Self {
        Self {
            source: from,
            destination: to,
            flags,
            seq,
            ack,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Whether any of these flag bits is set.
    #[must_use]
    pub fn has(&self, flags: TcpFlags) -> bool {
        self.flags.any(flags)
    }

    /// Reads a frame; `None` if it is no TCP over IP.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination) = addresses(packet.net.as_ref()?)?;
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            return None;
        };
        Some(Self {
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            flags: TcpFlags(tcp.slice()[13]),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            options: tcp.options().to_vec(),
            payload: tcp.payload().to_vec(),
        })
    }

    /// The frame, with right checksums.
    #[must_use]
    pub fn to_frame(&self, from_mac: [u8; 6], to_mac: [u8; 6]) -> Vec<u8> {
        const HOPS: u8 = 64;
        let mut header = TcpHeader::new(
            self.source.port(),
            self.destination.port(),
            self.seq,
            u16::MAX,
        );
        header.acknowledgment_number = self.ack;
        header.fin = self.has(TcpFlags::FIN);
        header.syn = self.has(TcpFlags::SYN);
        header.rst = self.has(TcpFlags::RST);
        header.psh = self.has(TcpFlags::PSH);
        header.ack = self.has(TcpFlags::ACK);
        header
            .set_options_raw(&self.options)
            .expect("at most 40 bytes of options");
        let ethernet = PacketBuilder::ethernet2(from_mac, to_mac);
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOPS),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOPS),
            mixed => panic!("both ends of a segment are of one family: {mixed:?}"),
        };
        let mut frame = Vec::new();
        ip.tcp_header(header)
            .write(&mut frame, &self.payload)
            .expect("a segment shorter than 64 KiB");
        frame
    }
}

/// Says what is wrong with the IPv4 header's or the TCP checksum of a frame, if anything is.
pub fn verify_checksums(frame: &[u8]) -> Result<()> {
    let packet = SlicedPacket::from_ethernet(frame).context("cannot be read")?;
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        let (is, should) = (header.header_checksum, header.calc_header_checksum());
        ensure!(
            are_equal(is, should),
            "IPv4 header checksum is {is:04x}, should be {should:04x}"
        );
    }
    if let (Some(net), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) {
        let (is, should) = (tcp.checksum(), tcp_checksum(net, tcp)?);
        ensure!(
            are_equal(is, should),
            "TCP checksum is {is:04x}, should be {should:04x}"
        );
    }
    Ok(())
}

/// Whether two checksums are the same number of the ones' complement, in which all bits set is
/// another zero (RFC 1071 2). Linux sends that one when it computes a checksum itself.
fn are_equal(a: u16, b: u16) -> bool {
    a % u16::MAX == b % u16::MAX
}

fn tcp_checksum(net: &NetSlice, tcp: &TcpSlice) -> Result<u16> {
    match addresses(net) {
        Some((IpAddr::V4(from), IpAddr::V4(to))) => {
            Ok(tcp.calc_checksum_ipv4(from.octets(), to.octets())?)
        }
        Some((IpAddr::V6(from), IpAddr::V6(to))) => {
            Ok(tcp.calc_checksum_ipv6(from.octets(), to.octets())?)
        }
        _ => bail!("TCP over neither IPv4 nor IPv6"),
    }
}

fn addresses(net: &NetSlice) -> Option<(IpAddr, IpAddr)> {
    match net {
        NetSlice::Ipv4(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        NetSlice::Ipv6(ip) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        NetSlice::Arp(_) => None,
    }
}
