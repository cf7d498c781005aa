//! The AF_XDP sockets of all interfaces: one for each receive queue, and the way out of each
//! interface.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use dispatcher_common::link::{Link, NextHop};
use dispatcher_common::maps::XSKS_MAX;
use dispatcher_common::verdict::DropReason;
use nix::net::if_::if_nametoindex;

use crate::datapath::{Datapath, DatapathError};
use crate::engine::syn::Packet;
use crate::network::NetworkView;
use crate::status::FrameStatus;
use crate::xsk::{self, XskConfig, XskMode, XskSocket};

/// The sockets of one interface, by queue.
struct Interface {
    name: String,
    ifindex: u32,
    /// Index of the first one in the `XSKS` map.
    base: u32,
    sockets: Vec<XskSocket>,
}

impl Interface {
    /// Queues a packet on the first of the transmit queues that has room, if one has.
    fn queue(&mut self, way: &NextHop, packet: &Packet) -> bool {
        let len = packet.frame_len(way);
        self.sockets
            .iter_mut()
            .filter(|socket| socket.can_transmit())
            .any(|socket| {
                let sent = socket.send(len, |frame| packet.write_frame(way, frame));
                sent.is_ok()
            })
    }

    /// Whether the kernel had all sockets transmit, as it does not once the interface is gone.
    fn flush(&mut self) -> bool {
        let mut flushed = true;
        for socket in &mut self.sockets {
            if let Err(error) = socket.flush() {
                tracing::debug!(interface = self.name, %error, "cannot transmit");
                flushed = false;
            }
        }
        flushed
    }
}

/// All of them.
pub struct Sockets {
    interfaces: Vec<Interface>,
}

impl Sockets {
    /// Opens a socket on every receive queue of every interface.
    ///
    /// # Errors
    ///
    /// When one cannot be opened, or there are more queues than the program's map has room for.
    pub fn open(interfaces: &[String], mode: XskMode) -> Result<Self> {
        let mut opened = Vec::new();
        let mut base = 0;
        for name in interfaces {
            let ifindex = if_nametoindex(name.as_str()).map_err(|_| {
                anyhow::anyhow!("there is no interface {name:?}; `ip link` lists those there are")
            })?;
            let queues = xsk::receive_queues(name)
                .with_context(|| format!("cannot tell how many receive queues {name} has"))?;
            if base + queues > XSKS_MAX {
                anyhow::bail!(
                    "the interfaces have more than {XSKS_MAX} receive queues, {queues} of them on \
                     {name}; give them fewer with `ethtool -L {name} combined N`"
                );
            }
            let config = XskConfig {
                mode,
                ..XskConfig::default()
            };
            let sockets = (0..queues)
                .map(|queue| XskSocket::open(name, queue, &config))
                .collect::<Result<Vec<_>, _>>()?;
            opened.push(Interface {
                name: name.clone(),
                ifindex,
                base,
                sockets,
            });
            base += queues;
        }
        Ok(Self { interfaces: opened })
    }

    /// What the program is to know of the interfaces.
    #[must_use]
    pub fn links(&self, view: &NetworkView) -> Vec<(u32, Link)> {
        let link = |ifindex: u32, device: u32, vlan: u16| {
            let own = self
                .interfaces
                .iter()
                .find(|interface| interface.ifindex == ifindex);
            let link = Link {
                device,
                vlan: u32::from(vlan),
                xsk_base: own.map_or(Link::NO_SOCKET, |interface| interface.base),
                xsk_queues: own.map_or(0, |interface| interface.sockets.len() as u32),
            };
            (ifindex, link)
        };
        view.links
            .values()
            .map(|known| link(known.ifindex, known.device, known.vlan))
            .collect()
    }

    /// Interfaces of `before` that are not there any more; one of the same name is another one.
    pub fn vanished<'a>(
        &'a self,
        before: &'a NetworkView,
        now: &'a NetworkView,
    ) -> impl Iterator<Item = &'a str> {
        let gone = |one: &&Interface| {
            before.links.contains_key(&one.ifindex) && !now.links.contains_key(&one.ifindex)
        };
        self.interfaces.iter().filter(gone).map(|one| &*one.name)
    }

    /// Lets the program give connection requests to the sockets.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one.
    pub fn register(&self, datapath: &mut Datapath) -> Result<(), DatapathError> {
        for interface in &self.interfaces {
            for (queue, socket) in interface.sockets.iter().enumerate() {
                datapath.set_socket(interface.base + queue as u32, socket.fd())?;
            }
        }
        Ok(())
    }

    /// Shows every waiting frame with the index of its interface, at most `budget` a socket.
    /// Returns whether more may wait.
    pub fn receive(&mut self, budget: usize, mut each: impl FnMut(u32, &[u8])) -> bool {
        let mut more = false;
        for interface in &mut self.interfaces {
            let ifindex = interface.ifindex;
            for socket in &mut interface.sockets {
                more |= socket.receive(budget, |frame| each(ifindex, frame)) == budget;
            }
        }
        more
    }

    /// Queues `packet` to leave by `way`; it leaves with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The reason for which it is dropped.
    pub fn send(&mut self, way: &NextHop, packet: &Packet) -> Result<(), DropReason> {
        let interface = self
            .interfaces
            .iter_mut()
            .find(|interface| interface.ifindex == way.ifindex)
            .ok_or(DropReason::Unreachable)?;
        // A crowd that is released or refused at once is more than the rings hold.
        if interface.queue(way, packet) || (interface.flush() && interface.queue(way, packet)) {
            Ok(())
        } else {
            Err(DropReason::TransmitFull)
        }
    }

    /// Makes the kernel take what is queued; what it does not take now goes with the next call.
    pub fn flush(&mut self) {
        for interface in &mut self.interfaces {
            interface.flush();
        }
    }

    /// Descriptors to wait on.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.interfaces
            .iter()
            .flat_map(|interface| &interface.sockets)
            .map(XskSocket::fd)
    }

    /// Frames that were given to the sockets and did not fit.
    #[must_use]
    pub fn receive_drops(&self) -> u64 {
        let sockets = self.interfaces.iter().flat_map(|one| &one.sockets);
        sockets
            .filter_map(|socket| socket.statistics().ok())
            .map(|statistics| statistics.dropped())
            .sum()
    }

    /// Where the frames are.
    #[must_use]
    pub fn frames(&self) -> FrameStatus {
        let mut status = FrameStatus::default();
        for socket in self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.sockets)
        {
            let frames = socket.frames();
            status.total += u64::from(frames.total);
            status.home += u64::from(frames.receive_home + frames.transmit_free);
            status.in_flight += u64::from(frames.receive_held + frames.transmit_in_flight);
        }
        status
    }
}
