//! A connection request goes to the AF_XDP socket of its receive queue.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::programs::XdpContext;
use dispatcher_common::verdict::DropReason;

use crate::maps::{CONTROL, LINKS, XSKS};
use crate::pipeline::Verdict;

/// Gives the packet to user space, or to whoever `unattended` says while no daemon runs.
#[inline(always)]
pub fn punt(ctx: &XdpContext) -> Verdict {
    let unattended = CONTROL
        .get(0)
        .map_or(XDP_DROP, |control| control.unattended);
    let action = match socket(ctx) {
        // The helper takes the action for an empty slot in the low two bits.
        Some(socket) => XSKS.redirect(socket, u64::from(unattended & 3)),
        None => Err(unattended),
    };
    match action {
        Ok(action) => Verdict::Punt(action),
        Err(XDP_PASS) => Verdict::Pass,
        Err(_) => Verdict::Drop(DropReason::Unattended),
    }
}

/// Whether a daemon runs: the socket of the packet's receive queue is open. The kernel takes the
/// sockets of a process that has ended out of the map.
#[inline(always)]
pub fn is_attended(ctx: &XdpContext) -> bool {
    socket(ctx).is_some_and(|socket| XSKS.get(socket).is_some())
}

/// Index of the socket of the packet's receive queue; it need not be open.
#[inline(always)]
fn socket(ctx: &XdpContext) -> Option<u32> {
    let ifindex = ctx.ingress_ifindex() as u32;
    let queue = ctx.rx_queue_index();
    // SAFETY: any bytes are a `Link`. One that user space replaces or removes meanwhile would at
    // worst name a socket of another queue, which the kernel refuses.
    let link = unsafe { LINKS.get(ifindex) }?;
    (queue < link.xsk_queues).then_some(link.xsk_base + queue)
}
