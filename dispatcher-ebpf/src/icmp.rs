//! What is no TCP: errors about flows, and pings. Everything else is the host's stack's.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::header::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthHdr};
use dispatcher_common::icmp::{self, IcmpError, Kind};
use dispatcher_common::link::{self, NextHop};
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse;
use dispatcher_common::verdict::{DropReason, Handled};

use crate::egress::Packet;
use crate::flow::{self, Flow};
use crate::ingress::Frame;
use crate::pipeline::Verdict;
use crate::{classify, counters, egress};

/// Takes one packet that is no TCP to its end; the action for it.
#[inline(always)]
pub fn run(frame: &Frame<'_>) -> u32 {
    let link = parse::link_header(frame);
    match link.map(|link| (link.ethertype, link.len)) {
        Some((ETHERTYPE_IPV4, link_len)) => run_v4(frame.context(), link_len),
        Some((ETHERTYPE_IPV6, link_len)) => run_v6(frame.context(), link_len),
        _ => Verdict::Pass.carry_out(),
    }
}

// Functions of their own for the processor, too: what is rare is not to take the room of what is
// common, and the verifier walks each family by itself.

#[inline(never)]
fn run_v4(ctx: *mut xdp_md, link_len: usize) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::of(&ctx);
    let packet = frame.past(link_len);
    let kind = icmp::kind_v4(&packet);
    judge(kind, frame, packet, link_len, true).carry_out()
}

#[inline(never)]
fn run_v6(ctx: *mut xdp_md, link_len: usize) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = Frame::of(&ctx);
    let packet = frame.past(link_len);
    let kind = icmp::kind_v6(&packet);
    judge(kind, frame, packet, link_len, false).carry_out()
}

#[inline(always)]
fn judge(
    kind: Option<Kind>,
    frame: Frame<'_>,
    packet: Frame<'_>,
    link_len: usize,
    is_v4: bool,
) -> Verdict {
    let reason = match kind {
        None => return Verdict::Pass,
        Some(Kind::Error) => return error(frame, packet, link_len, is_v4),
        Some(Kind::EchoRequest) => return echo(frame, packet, is_v4),
        Some(Kind::QuotesOptions) => DropReason::IpOptions,
        Some(Kind::QuotesFragment) => DropReason::Fragment,
    };
    if is_for_service(&packet, is_v4) {
        Verdict::Drop(reason)
    } else {
        Verdict::Pass
    }
}

#[inline(always)]
fn is_for_service(packet: &Frame<'_>, is_v4: bool) -> bool {
    icmp::destination(packet, is_v4).is_some_and(classify::is_service_address)
}

/// The flow that an error is about, if it is to be believed. Keys are read where they are needed,
/// because they take much of a small stack.
#[inline(always)]
fn flow_of(packet: &Frame<'_>, message: &IcmpError) -> Result<Flow, Verdict> {
    let is_v4 = message.is_v4;
    let flow = {
        let key = icmp::key_of_answers(packet, is_v4).ok_or(Verdict::Pass)?;
        let Some(flow) = flow::find(&key) else {
            // Not about a service, it may be about a connection of this machine's own.
            return Err(if classify::is_service(&key) {
                Verdict::Drop(DropReason::NoFlow)
            } else {
                Verdict::Pass
            });
        };
        flow
    };
    let peer = icmp::key_of_answers(packet, is_v4)
        .ok_or(Verdict::Pass)?
        .of_peer(&flow.entry().translation);
    match flow::is_under_way(&flow, &peer, message.seq) {
        Some(true) => Ok(flow),
        Some(false) => Err(Verdict::Drop(DropReason::IcmpOutOfWindow)),
        None => Err(Verdict::Drop(DropReason::NoFlow)),
    }
}

/// Of a flow, it goes on as the flow's packets do. It changes nothing of the flow itself: neither
/// its phase nor when it was last seen.
#[inline(always)]
fn error(mut frame: Frame<'_>, mut packet: Frame<'_>, link_len: usize, is_v4: bool) -> Verdict {
    let Some(message) = IcmpError::read(&packet, is_v4) else {
        return Verdict::Pass;
    };
    let flow = match flow_of(&packet, &message) {
        Ok(flow) => flow,
        Err(verdict) => return verdict,
    };
    if message.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if icmp::translate(&mut packet, &message, &flow.entry().translation).is_none() {
        return Verdict::Drop(DropReason::Malformed);
    }
    counters::count(Handled::IcmpTranslated.counter());
    // Also one that an earlier network had: the flow's next packet asks anew, and until then the
    // worst is an error that does not arrive.
    let next_hop = &flow.entry().next_hop;
    if next_hop.ifindex == NextHop::UNKNOWN.ifindex {
        return Verdict::HandToHost;
    }
    let packet = Packet {
        is_v4: message.is_v4,
        link_len,
        ip_len: message.ip_len,
    };
    egress::send(&mut frame, &packet, next_hop)
}

/// Whether or not the host has the address, the service has it.
#[inline(always)]
fn echo(mut frame: Frame<'_>, mut packet: Frame<'_>, is_v4: bool) -> Verdict {
    let to_one = frame
        .header::<EthHdr>(0)
        .is_some_and(|eth| !eth.dst.is_group());
    if !to_one || !is_for_service(&packet, is_v4) {
        return Verdict::Pass;
    }
    match icmp::answer(&mut packet, is_v4).and_then(|()| link::turn_round(&mut frame)) {
        Some(()) => Verdict::Answer(Handled::PingAnswered.counter()),
        None => Verdict::Drop(DropReason::Malformed),
    }
}
