//! The path of a packet: the only file with branches between stages.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::programs::XdpContext;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::notice::Problem;
use dispatcher_common::parse::{self, Segment, Unparsable};
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::{DropReason, Handled};

use crate::classify::{self, Classified};
use crate::egress::Way;
use crate::flow::{self, Flow};
use crate::ingress::Frame;
use crate::proof::Place;
use crate::{counters, egress, icmp, notice, proof, punt};

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
    /// Carried out elsewhere, to this action.
    Done(u32),
    /// Turned into an answer, which leaves where the packet came in; the slot of `COUNTERS` that
    /// says which.
    Answer(u32),
}

impl Verdict {
    /// Counts it, and gives the `xdp_action` for it.
    #[inline(always)]
    pub fn carry_out(self) -> u32 {
        let (counter, action) = match self {
            Self::Pass => (Handled::Passed.counter(), XDP_PASS),
            Self::HandToHost => (Handled::HandedToHost.counter(), XDP_PASS),
            Self::Punt(action) => (Handled::Punted.counter(), action),
            Self::Drop(reason) => (reason.counter(), XDP_DROP),
            Self::Answer(counter) => (counter, XDP_TX),
            Self::Send(action) | Self::Done(action) => return action,
        };
        counters::count(counter);
        action
    }
}

/// Takes one packet through all stages.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Verdict {
    let mut frame = Frame::of(ctx);
    let Ok(segment) = parse::parse(&frame) else {
        return without_segment(&frame);
    };
    // A copy, here and wherever a function that is not inlined takes an address: so the segment
    // itself stays in registers.
    let key = segment.key;
    let place = if segment.tcp.flags.is_connection_request() {
        Place::of(&segment)
    } else {
        Place::NONE
    };
    match flow::find(&key) {
        Some(flow) if !begins_anew(&flow, &segment) => established(&mut frame, &segment, &flow),
        Some(_) if !segment.tcp.flags.is_connection_request() => Verdict::Drop(DropReason::NoFlow),
        _ => without_flow(ctx, &frame, &segment, place),
    }
}

/// A connection request on a flow that has ended is a new connection on the same ports, and is
/// judged as such. What answers one that passed before the end is held back, or its client would
/// finish a handshake that nothing counts; it asks again. A request on a flow whose back-end has
/// refused it is user space's, which is about to have it put back.
#[inline(always)]
fn begins_anew(flow: &Flow, segment: &Segment) -> bool {
    let phase = Phase(flow.entry().phase);
    let flags = segment.tcp.flags;
    flags.any(TcpFlags::SYN)
        && (phase.is_ended() || (phase.has(Phase::REFUSED) && flags.is_connection_request()))
}

#[inline(always)]
fn established(frame: &mut Frame<'_>, segment: &Segment, flow: &Flow) -> Verdict {
    if segment.ttl <= 1 {
        return notice::tell(frame, segment, flow, Problem::TtlExpired, 0);
    }
    let Some(control) = crate::maps::CONTROL.get(0) else {
        return Verdict::Pass;
    };
    if !flow::track(frame, flow, segment, control.ticks) {
        return Verdict::Drop(DropReason::RefusedByBackend);
    }
    flow::count(flow, segment);
    let way = egress::way(frame, segment, flow, control.network_generation);
    if way == Way::Denied {
        return Verdict::Drop(DropReason::Unreachable);
    }
    let mtu = flow.entry().next_hop.mtu;
    if segment.ip_len > mtu && way == Way::Known && !notice::is_for_host(frame, segment, flow) {
        return notice::tell(frame, segment, flow, Problem::TooBig, mtu);
    }
    if flow.entry().translation.apply(frame, segment).is_none() {
        return Verdict::Drop(DropReason::Malformed);
    }
    match way {
        Way::Known => egress::send(frame, &segment.into(), &flow.entry().next_hop),
        Way::Denied | Way::Unknown => Verdict::HandToHost,
    }
}

#[inline(always)]
fn without_flow(ctx: &XdpContext, frame: &Frame<'_>, segment: &Segment, place: Place) -> Verdict {
    match classify::segment(segment) {
        Classified::NotOurs => Verdict::Pass,
        Classified::Request(_) if segment.ttl <= 1 => {
            notice::tell_as(frame, segment.key.dst, Problem::TtlExpired, 0)
        }
        Classified::Request(service) => match proof::admits(place, &service) {
            true => punt::punt(ctx),
            false => Verdict::Drop(DropReason::Unproven),
        },
        Classified::Unwanted(reason) => Verdict::Drop(reason),
    }
}

/// Parses again, to know what is in the way: so common packets do not carry along what that may be.
#[inline(always)]
fn without_segment(frame: &Frame<'_>) -> Verdict {
    let Err(error) = parse::parse(frame) else {
        return Verdict::Pass;
    };
    let reason = match error.why {
        Unparsable::NotTcp => return Verdict::Done(icmp::run(frame)),
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
