//! A client without a TCP stack: it sends the segments that it is told to and no others. For
//! retransmissions, forgeries and floods.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dispatcher_common::header::TcpFlags;

use crate::topology::{ENDPOINT_DEVICE, Family, Lab, Node};
use crate::wire::{PacketSocket, Segment};

/// Many senders on the wire of one of the lab's machines, each a mere address in the frames: for
/// floods, and for more connections than a stack has ports.
#[derive(Debug)]
pub struct Crowd {
    socket: PacketSocket,
    mac: [u8; 6],
    gateway_mac: [u8; 6],
}

impl Crowd {
    /// Behind the lab's first client.
    pub fn of_clients(lab: &Lab) -> Result<Self> {
        Self::at(lab.client(0), lab, 0)
    }

    /// Behind the lab's first back-end.
    pub fn of_backends(lab: &Lab) -> Result<Self> {
        Self::at(lab.backend(0), lab, lab.topology().interfaces().len() - 1)
    }

    fn at(node: &Node, lab: &Lab, interface: usize) -> Result<Self> {
        Ok(Self {
            socket: node.enter(|| PacketSocket::open(ENDPOINT_DEVICE))?,
            mac: node.mac(ENDPOINT_DEVICE)?,
            gateway_mac: lab
                .dispatcher()
                .mac(lab.topology().interfaces()[interface])?,
        })
    }

    /// The Ethernet address that all of them have.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends the segments to the dispatcher, as fast as it goes.
    pub fn send<'a>(&self, segments: impl IntoIterator<Item = &'a Segment>) -> Result<()> {
        let frames: Vec<_> = segments
            .into_iter()
            .map(|segment| self.frame(segment))
            .collect();
        self.send_frames(&frames)
    }

    /// The frame in which a segment goes to the dispatcher.
    #[must_use]
    pub fn frame(&self, segment: &Segment) -> Vec<u8> {
        segment.to_frame(self.mac, self.gateway_mac)
    }

    /// Sends frames as they are.
    pub fn send_frames(&self, frames: &[Vec<u8>]) -> Result<()> {
        self.socket.send_all(frames)
    }
}

/// An address in the clients' network that no stack owns, spoken for by hand.
#[derive(Debug)]
pub struct RawClient {
    socket: PacketSocket,
    mac: [u8; 6],
    gateway_mac: [u8; 6],
    address: SocketAddr,
    service: SocketAddr,
}

impl RawClient {
    /// A client on the wire of the lab's first client, at `port` of the address with number `host`
    /// (one that the lab gave to nobody), to talk to `service`.
    pub fn new(lab: &Lab, host: u8, port: u16, service: SocketAddr) -> Result<Self> {
        let family = if service.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let address = SocketAddr::new(lab.client_address(host, family), port);
        let client = lab.client(0);
        let topology = lab.topology();
        let mac = client.mac(ENDPOINT_DEVICE)?;
        // Nobody answers for this address, so the dispatcher is told where it is.
        lab.dispatcher().run(&[
            "ip",
            "neighbour",
            "replace",
            &address.ip().to_string(),
            "lladdr",
            &mac.map(|byte| format!("{byte:02x}")).join(":"),
            "dev",
            &topology.client_side(),
            "nud",
            "permanent",
        ])?;
        Ok(Self {
            socket: client.enter(|| PacketSocket::open(ENDPOINT_DEVICE))?,
            mac,
            gateway_mac: lab.dispatcher().mac(topology.interfaces()[0])?,
            address,
            service,
        })
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A segment from here to the service.
    #[must_use]
    pub fn segment(&self, flags: TcpFlags, seq: u32, ack: u32) -> Segment {
        Segment::new(self.address, self.service, flags, seq, ack)
    }

    /// Sends a segment.
    pub fn send(&self, segment: &Segment) -> Result<()> {
        self.send_frame(&segment.to_frame(self.mac, self.gateway_mac))
    }

    /// Sends bytes to the dispatcher as they are.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame)
    }

    /// The Ethernet header of a frame from here to the dispatcher, with this type.
    #[must_use]
    pub fn ethernet(&self, ethertype: u16) -> Vec<u8> {
        [&self.gateway_mac[..], &self.mac, &ethertype.to_be_bytes()].concat()
    }

    /// Sends a connection request with this initial sequence number.
    pub fn request(&self, isn: u32) -> Result<()> {
        self.send(&self.segment(TcpFlags::SYN, isn, 0))
    }

    /// The next segment from the service to this client that has any of `flags`.
    pub fn expect(&self, flags: TcpFlags, patience: Duration) -> Result<Segment> {
        match self.next(flags, patience)? {
            Some(segment) => Ok(segment),
            None => bail!("no segment with {flags:?} came within {patience:?}"),
        }
    }

    /// As [`Self::expect`], but `None` when nothing comes.
    pub fn next(&self, flags: TcpFlags, patience: Duration) -> Result<Option<Segment>> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let Some(frame) = self.socket.receive(left)? else {
                continue;
            };
            let segment = Segment::parse(&frame.bytes).filter(|segment| {
                segment.source == self.service
                    && segment.destination == self.address
                    && segment.has(flags)
            });
            if segment.is_some() {
                return Ok(segment);
            }
        }
    }

    /// Opens a connection: request, answer, acknowledgement. Returns the answer.
    pub fn handshake(&self, isn: u32, patience: Duration) -> Result<Segment> {
        self.request(isn)?;
        let answer = self
            .expect(TcpFlags::SYN, patience)
            .context("no answer to a SYN")?;
        self.send(&self.segment(
            TcpFlags::ACK,
            isn.wrapping_add(1),
            answer.seq.wrapping_add(1),
        ))?;
        Ok(answer)
    }
}
