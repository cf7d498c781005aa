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
use crate::ingress::{Bytes, Frame};
use crate::pipeline::Verdict;
use crate::{classify, counters, egress};

/// Takes one packet that is no TCP to its end; the action for it.
#[inline(always)]
pub fn run(frame: &Frame<'_>) -> u32 {
    let Some(link) = parse::link_header(frame) else {
        return Verdict::Pass.carry_out();
    };
    let (ctx, link_len) = (frame.context(), link.len);
    let packet = frame.bytes_past(link_len);
    let (kind, is_v4) = match link.ethertype {
        ETHERTYPE_IPV4 => (kind_v4(packet.start, packet.end), true),
        ETHERTYPE_IPV6 => (kind_v6(packet.start, packet.end), false),
        _ => (None, false),
    };
    match (kind, is_v4) {
        (None, _) => Verdict::Pass.carry_out(),
        (Some(Kind::Error), true) => error_v4(ctx, link_len),
        (Some(Kind::Error), false) => error_v6(ctx, link_len),
        (Some(kind), _) => {
            let whole = frame.bytes_past(0);
            other(whole.start, whole.end, link_len, is_v4, kind)
        }
    }
}

// Functions of their own for the processor, too: what is rare is not to take the room of what is
// common. The verifier walks each by itself, and none keeps on its stack what another has read.

// Some are given the bounds of the packet and not the context: the code generator would read
// the context where they are called, and pass numbers that the verifier takes for no pointers.

#[inline(never)]
fn kind_v4(start: usize, end: usize) -> Option<Kind> {
    icmp::kind_v4(&Bytes { start, end })
}

#[inline(never)]
fn kind_v6(start: usize, end: usize) -> Option<Kind> {
    icmp::kind_v6(&Bytes { start, end })
}

#[inline(never)]
fn error_v4(ctx: *mut xdp_md, link_len: usize) -> u32 {
    let ctx = XdpContext::new(ctx);
    error(Frame::of(&ctx), link_len, true).carry_out()
}

#[inline(never)]
fn error_v6(ctx: *mut xdp_md, link_len: usize) -> u32 {
    let ctx = XdpContext::new(ctx);
    error(Frame::of(&ctx), link_len, false).carry_out()
}

#[inline(never)]
fn other(start: usize, end: usize, link_len: usize, is_v4: bool, kind: Kind) -> u32 {
    let frame = Bytes { start, end };
    let packet = Bytes {
        start: start + link_len,
        end,
    };
    let verdict = if !icmp::destination(&packet, is_v4).is_some_and(classify::is_service_address) {
        Verdict::Pass
    } else {
        match kind {
            Kind::QuotesOptions => Verdict::Drop(DropReason::IpOptions),
            Kind::QuotesFragment => Verdict::Drop(DropReason::Fragment),
            Kind::Error | Kind::EchoRequest => echo(frame, packet, is_v4),
        }
    };
    verdict.carry_out()
}

/// The flow that an error is about, if it is to be believed. Keys are read where they are needed,
/// because they take much of a small stack.
#[inline(always)]
fn flow_of(packet: &Bytes, message: &IcmpError) -> Result<Flow, Verdict> {
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
fn error(mut frame: Frame<'_>, link_len: usize, is_v4: bool) -> Verdict {
    let mut packet = frame.bytes_past(link_len);
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

/// A ping of a service's address, whether or not the host has that, too.
#[inline(always)]
fn echo(mut frame: Bytes, mut packet: Bytes, is_v4: bool) -> Verdict {
    let to_group = frame
        .header::<EthHdr>(0)
        .is_none_or(|eth| eth.dst.is_group());
    if to_group {
        return Verdict::Pass;
    }
    match icmp::answer(&mut packet, is_v4).and_then(|()| link::turn_round(&mut frame)) {
        Some(()) => Verdict::Answer(Handled::PingAnswered.counter()),
        None => Verdict::Drop(DropReason::Malformed),
    }
}
