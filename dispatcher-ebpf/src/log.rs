//! Tells what became of packets that were not simply sent on, by the label of the counter that
//! counts them. Only in objects that are built with the feature `log`; the level is set when such
//! an object is loaded.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use dispatcher_common::parse;
use dispatcher_common::verdict::Handled;

use crate::ingress::Frame;
use crate::pipeline::Verdict;

/// Tells of the packet as it is now: one that was rewritten, by its new addresses.
#[inline(always)]
pub fn tell(ctx: &XdpContext, verdict: &Verdict) {
    let counted = match verdict {
        Verdict::Pass | Verdict::Send(_) | Verdict::Done(_) | Verdict::Answer(_) => return,
        Verdict::HandToHost => Handled::HandedToHost.label(),
        Verdict::Punt(_) => Handled::Punted.label(),
        Verdict::Drop(reason) => reason.label(),
    };
    let Ok(segment) = parse::parse(&Frame::of(ctx)) else {
        debug!(ctx, "{}", counted);
        return;
    };
    let key = &segment.key;
    let (from, to) = (key.src_port.number(), key.dst_port.number());
    if key.src.is_v4() {
        let (src, dst) = (key.src.v4_bytes(), key.dst.v4_bytes());
        debug!(
            ctx,
            "{}: {:i} port {} to {:i} port {}", counted, src, from, dst, to
        );
    } else {
        let (src, dst) = (*key.src.bytes(), *key.dst.bytes());
        debug!(
            ctx,
            "{}: {:i} port {} to {:i} port {}", counted, src, from, dst, to
        );
    }
}
