//! The path of a packet: the only file with branches between stages.

use aya_ebpf::programs::XdpContext;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::parse::{self, ParseError, Segment, Unparsable};
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;

use crate::classify::{self, Classified};
use crate::flow::{self, Flow};
use crate::ingress::Frame;
use crate::{egress, punt};

/// What becomes of the packet.
pub enum Verdict {
    /// Not for a service: the host's stack has it, untouched.
    Pass,
    /// Rewritten, and left to the host's stack, which knows the way or finds it.
    HandToHost,
    /// Given to the socket of its receive queue; the action that does so.
    Punt(u32),
    /// Rewritten and sent on; the action that does so.
    Send(u32),
    /// Dropped, and counted by reason.
    Drop(DropReason),
}

/// Takes one packet through all stages.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Verdict {
    let mut frame = Frame::of(ctx);
    let segment = match parse::parse(&frame) {
        Ok(segment) => segment,
        Err(error) => return without_segment(error),
    };
    match flow::find(&segment.key) {
        Some(flow) if !begins_anew(&flow, &segment) => established(&mut frame, &segment, &flow),
        Some(_) if !segment.tcp.flags.is_connection_request() => Verdict::Drop(DropReason::NoFlow),
        _ => without_flow(ctx, &segment),
    }
}

/// A connection request on a flow that has ended is a new connection on the same ports, and is
/// judged as such. What answers one that passed before the end is held back, or its client would
/// finish a handshake that nothing counts; it asks again.
#[inline(always)]
fn begins_anew(flow: &Flow, segment: &Segment) -> bool {
    segment.tcp.flags.any(TcpFlags::SYN) && Phase(flow.entry().phase).is_ended()
}

#[inline(always)]
fn established(frame: &mut Frame<'_>, segment: &Segment, flow: &Flow) -> Verdict {
    if segment.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let Some(control) = crate::maps::CONTROL.get(0) else {
        return Verdict::Pass;
    };
    flow::track(flow, segment, control.ticks);
    flow::count(flow, segment);
    if flow.entry().translation.apply(frame, segment).is_none() {
        return Verdict::Drop(DropReason::Malformed);
    }
    match egress::next_hop(frame, segment, flow, control.network_generation) {
        Ok(next_hop) => egress::send(frame, segment, &next_hop),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
fn without_flow(ctx: &XdpContext, segment: &Segment) -> Verdict {
    match classify::segment(segment) {
        Classified::NotOurs => Verdict::Pass,
        Classified::Request => punt::punt(ctx),
        Classified::Unwanted(reason) => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn without_segment(error: ParseError) -> Verdict {
    let reason = match error.why {
        Unparsable::NotTcp => return Verdict::Pass,
        Unparsable::Fragment => DropReason::Fragment,
        Unparsable::IpOptions => DropReason::IpOptions,
        Unparsable::Malformed => DropReason::Malformed,
    };
    if classify::is_service_address(error.dst) {
        Verdict::Drop(reason)
    } else {
        Verdict::Pass
    }
}
