//! Turns a segment that goes no further into the ICMP error that tells its sender why.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::addr::Addr;
use dispatcher_common::flow::Direction;
use dispatcher_common::header::{ETHERTYPE_IPV4, EthHdr, Ipv4Hdr};
use dispatcher_common::link::NextHop;
use dispatcher_common::notice::{self, Problem, Sent};
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse::{self, Segment};
use dispatcher_common::verdict::DropReason;

use crate::atomic;
use crate::flow::Flow;
use crate::ingress::Frame;
use crate::maps::NOTICES;
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
    if !may_tell(problem) {
        Verdict::Drop(DropReason::IcmpLimited)
    } else if write(frame.context(), &service, problem, mtu) {
        Verdict::Answer(reason.counter())
    } else {
        Verdict::Drop(reason)
    }
}

// Functions of their own for the processor, too: what is rare is not to stand in the way of what is
// common.

/// Whether one more notice may be sent in this second, which then counts as sent. While none may,
/// nothing is written, so that processors share the word.
#[inline(never)]
fn may_tell(problem: Problem) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let Some(word) = NOTICES.get_ptr_mut(problem as u32) else {
        return false;
    };
    // SAFETY: a helper without arguments.
    let second = (unsafe { bpf_ktime_get_ns() } / SECOND) as u32;
    // SAFETY: a live element of an array, aligned as its type is.
    let sent = Sent::from_word(unsafe { word.read_volatile() });
    if sent.second() == second {
        if !sent.leaves_room(problem) {
            return false;
        }
    } else {
        let first = Sent::of(second, 1).word();
        // SAFETY: as above, and written by atomic operations alone.
        if unsafe { atomic::replace(word, sent.word(), first) } {
            return true;
        }
        // Another processor has begun the second.
    }
    // SAFETY: as above.
    Sent::from_word(unsafe { atomic::fetch_add(word, 1) }).leaves_room(problem)
}

/// Makes the frame a notice; if that fails, it is fit for nothing but to be dropped.
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
