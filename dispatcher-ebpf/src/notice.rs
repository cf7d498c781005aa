//! Turns a segment that goes no further into the ICMP error that tells its sender why.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::addr::Addr;
use dispatcher_common::flow::Direction;
use dispatcher_common::header::{ETHERTYPE_IPV4, EthHdr, Ipv4Hdr};
use dispatcher_common::link::NextHop;
use dispatcher_common::notice::{self, Problem};
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse::{self, Segment};
use dispatcher_common::verdict::DropReason;

use crate::flow::Flow;
use crate::ingress::Frame;
use crate::pipeline::Verdict;

/// Whether a segment that is longer than the way out takes is the host's stack's all the same.
#[inline(always)]
pub fn is_for_host(frame: &Frame<'_>, segment: &Segment, flow: &Flow) -> bool {
    // Several segments that an offload made one of: their sender cannot send shorter ones.
    if u32::from(segment.ip_len) > frame.ingress_mtu() {
        return true;
    }
    // A sender that lets routers fragment gets what it wants. Replies cannot: the host's stack
    // would take their source, the service's own address, for a forgery.
    const DONT_FRAGMENT: u8 = 0x40;
    matches!(flow.entry().translation.direction(), Direction::Forward)
        && segment.is_v4
        && frame
            .header::<Ipv4Hdr>(segment.ip_offset())
            .is_some_and(|ip| ip.fragment[0] & DONT_FRAGMENT == 0)
}

/// Tells the sender of a flow's segment, in the name of the service; `mtu` is 0 unless the segment
/// is too big.
#[inline(always)]
pub fn tell(
    frame: &Frame<'_>,
    segment: &Segment,
    flow: &Flow,
    problem: Problem,
    mtu: u16,
) -> Verdict {
    let translation = &flow.entry().translation;
    let service = match translation.direction() {
        Direction::Forward => segment.key.dst,
        Direction::Reply => translation.addr,
    };
    tell_as(frame, service, problem, mtu)
}

/// The same of a segment of no flow, in the name of this service.
#[inline(always)]
pub fn tell_as(frame: &Frame<'_>, service: Addr, problem: Problem, mtu: u16) -> Verdict {
    let reason = match problem {
        Problem::TooBig => DropReason::TooBig,
        Problem::TtlExpired => DropReason::TtlExpired,
    };
    if write(frame.context(), &service, problem, mtu) {
        Verdict::Answer(reason.counter())
    } else {
        Verdict::Drop(reason)
    }
}

/// Makes the frame a notice; if that fails, it is fit for nothing but to be dropped. A function of
/// its own for the processor, too: what is rare is not to stand in the way of what is common.
#[inline(never)]
fn write(ctx: *mut xdp_md, service: &Addr, problem: Problem, mtu: u16) -> bool {
    let ctx = XdpContext::new(ctx);
    make(&mut Frame::of(&ctx), service, problem, mtu).is_some()
}

#[inline(always)]
fn make(frame: &mut Frame<'_>, service: &Addr, problem: Problem, mtu: u16) -> Option<()> {
    let link = parse::link_header(frame)?;
    let is_v4 = link.ethertype == ETHERTYPE_IPV4;
    let &EthHdr { dst, src, .. } = frame.header(0)?;
    let back = NextHop {
        dst: src,
        src: dst,
        vlan: link.vlan,
        ..NextHop::UNKNOWN
    };
    frame.cut(link.len + notice::quote_len(is_v4))?;
    let grows = back.header_len() + notice::headers_len(is_v4) - link.len;
    frame.adjust_head(-(grows as i32))?;
    back.write_header(frame, link.ethertype)?;
    notice::write(
        &mut frame.bytes_past(back.header_len()),
        is_v4,
        service,
        problem,
        mtu,
    )
}
