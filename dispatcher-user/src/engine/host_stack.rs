//! Packets that the host's stack sends: where no AF_XDP socket knows the way, the kernel's routing
//! does, and it resolves neighbours that are not known yet.

use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use dispatcher_common::verdict::DropReason;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use crate::engine::syn::Packet;

/// Raw sockets that take whole IP packets, of any source address.
pub struct HostStack {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl HostStack {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// Without the privilege to do so.
    pub fn open() -> Result<Self> {
        Ok(Self {
            v4: raw(AddressFamily::Inet)?,
            v6: raw(AddressFamily::Inet6)?,
        })
    }

    /// Sends the packet to where its own destination address says.
    ///
    /// # Errors
    ///
    /// The reason for which it is dropped.
    pub fn send(&self, packet: &Packet, to: IpAddr) -> Result<(), DropReason> {
        let sent = match to {
            IpAddr::V4(v4) => {
                let to = SockaddrIn::from(SocketAddrV4::new(v4, 0));
                sendto(
                    self.v4.as_raw_fd(),
                    packet.ip(),
                    &to,
                    MsgFlags::MSG_DONTWAIT,
                )
            }
            IpAddr::V6(v6) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(v6, 0, 0, 0));
                sendto(
                    self.v6.as_raw_fd(),
                    packet.ip(),
                    &to,
                    MsgFlags::MSG_DONTWAIT,
                )
            }
        };
        sent.map(|_| ()).map_err(|_| DropReason::Unreachable)
    }
}

/// IPPROTO_RAW sockets are given their IP headers (raw(7)).
fn raw(family: AddressFamily) -> Result<OwnedFd> {
    let opened = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Raw,
    );
    opened
        .map_err(io::Error::from)
        .context("cannot open a raw socket; run as root")
}
