//! The [floor](crate::floor) in the place of a dispatcher of a lab.
//!
//! It cannot make an entry: those of every connection that may come are installed beforehand.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use dispatcher_common::addr::{Mac, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::link::NextHop;
use nix::net::if_::if_nametoindex;

use crate::bpf::{self, Mode};
use crate::floor::Floor;
use crate::topology::{ENDPOINT_DEVICE, Family, Lab, Node};

/// Detached when dropped. What it does not know is the host's stack's.
#[derive(Debug)]
pub struct FloorInLab {
    _floor: Floor,
    _links: Vec<OwnedFd>,
}

impl FloorInLab {
    /// In a two-armed lab, over IPv4: between its service at `service_port` and all its back-ends
    /// at `backend_port`, for every one of `ports` of every client. Which back-end has a
    /// connection, the client's port says: Linux gives out every second one in turn.
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
        let floor = Floor::load(crate::packet::Family::V4, u32::try_from(entries)?)
            .context("cannot load the floor")?;
        let service = lab.service(Family::V4, service_port);
        let to_backends: Result<Vec<_>> = lab
            .backends()
            .iter()
            .map(|node| Ok((node.at(Family::V4, backend_port), way(lab, back, node)?)))
            .collect();
        let to_backends = to_backends?;
        for client in lab.clients() {
            let to_client = way(lab, front, client)?;
            for port in ports.clone() {
                let (backend, to_backend) =
                    &to_backends[usize::from(port >> 1) % to_backends.len()];
                let source = client.at(Family::V4, port);
                let [outer, inner] = [service, *backend].map(|to| key(source, to));
                floor.translate(&outer, &inner, to_backend)?;
                floor.translate(&inner.reversed(), &outer.reversed(), &to_client)?;
            }
        }
        let attach = |device: &str| {
            let attach = || bpf::attach_xdp(&floor.program, if_nametoindex(device)?, Mode::Native);
            let link = lab.dispatcher().enter(attach);
            link.with_context(|| format!("cannot attach the floor to {device}"))
        };
        let links = vec![attach(front)?, attach(back)?];
        Ok(Self {
            _links: links,
            _floor: floor,
        })
    }
}

/// Out of an interface of the lab's dispatcher to an endpoint.
fn way(lab: &Lab, interface: &str, to: &Node) -> Result<NextHop> {
    let dispatcher = lab.dispatcher();
    Ok(NextHop {
        ifindex: dispatcher.enter(|| if_nametoindex(interface))?,
        src: Mac(dispatcher.mac(interface)?),
        dst: Mac(to.mac(ENDPOINT_DEVICE)?),
        ..NextHop::UNKNOWN
    })
}

fn key(from: SocketAddr, to: SocketAddr) -> FlowKey {
    let [from_port, to_port] = [from, to].map(|end| Port::new(end.port()));
    FlowKey::new(from.ip().into(), from_port, to.ip().into(), to_port)
}
