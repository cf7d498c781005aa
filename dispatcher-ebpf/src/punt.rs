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
    let ifindex = ctx.ingress_ifindex() as u32;
    let queue = ctx.rx_queue_index();
    // SAFETY: any bytes are a `Link`. One that user space replaces or removes meanwhile would at
    // worst name a socket of another queue, which the kernel refuses.
    let action = match unsafe { LINKS.get(ifindex) } {
        Some(link) if queue < link.xsk_queues => {
            // The helper takes the action for an empty slot in the low two bits.
            XSKS.redirect(link.xsk_base + queue, u64::from(unattended & 3))
        }
        _ => Err(unattended),
    };
    match action {
        Ok(action) => Verdict::Punt(action),
        Err(XDP_PASS) => Verdict::Pass,
        Err(_) => Verdict::Drop(DropReason::Unattended),
    }
}

/// Whether a daemon runs: it opens the first socket of all, and the kernel takes the sockets of a
/// process that has ended out of the map.
#[inline(always)]
pub fn is_attended() -> bool {
    XSKS.get(0).is_some()
}
