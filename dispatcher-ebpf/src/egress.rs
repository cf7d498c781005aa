//! Where the rewritten packet leaves: the next hop kept in the flow while the network has not
//! changed, one `bpf_fib_lookup` after it has.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::bpf_redirect;
use dispatcher_common::addr::Mac;
use dispatcher_common::header::{Ipv4Hdr, Ipv6Hdr, PROTOCOL_TCP};
use dispatcher_common::link::NextHop;
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse::Segment;
use dispatcher_common::verdict::DropReason;

use crate::flow::Flow;
use crate::ingress::Frame;
use crate::maps::LINKS;
use crate::pipeline::Verdict;

/// The next hop of a packet that was rewritten already.
///
/// When the routing table does not know one (no neighbour yet, forwarding off), the flow keeps the
/// last that it had: for replies that is at first the machine that delivered the SYN. An interface
/// that was made anew since is known in `LINKS` by its former index, too; one that is gone is not.
#[inline(always)]
pub fn next_hop(
    frame: &Frame<'_>,
    segment: &Segment,
    flow: &Flow,
    generation: u32,
) -> Result<NextHop, Verdict> {
    let known = flow.entry().next_hop;
    if known.generation == generation {
        return Ok(known);
    }
    let next_hop = match look_up(frame, segment) {
        Route::Via(next_hop) => NextHop {
            generation,
            ..next_hop
        },
        Route::Denied => return Err(Verdict::Drop(DropReason::Unreachable)),
        // SAFETY: as in `ask`.
        Route::Unknown => match unsafe { LINKS.get(known.ifindex) } {
            Some(link) => NextHop {
                ifindex: link.device,
                generation,
                ..known
            },
            None => return Err(Verdict::HandToHost),
        },
    };
    flow.set_next_hop(&next_hop);
    Ok(next_hop)
}

enum Route {
    Via(NextHop),
    Denied,
    Unknown,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[inline(always)]
fn look_up(frame: &Frame<'_>, segment: &Segment) -> Route {
    // SAFETY: the struct is integers, byte arrays and unions of them: zero is a value of each.
    let mut fib: FibLookup = unsafe { core::mem::zeroed() };
    fib.l4_protocol = PROTOCOL_TCP;
    fib.ifindex = frame.ingress_ifindex();
    // A total length of 0 asks for no MTU check; the MTU comes back in its place.
    if segment.is_v4 {
        let Some(ip) = frame.header::<Ipv4Hdr>(segment.ip_offset()) else {
            return Route::Unknown;
        };
        fib.family = AF_INET;
        fib.__bindgen_anon_2.tos = ip.tos;
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(ip.src);
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(ip.dst);
    } else {
        let Some(ip) = frame.header::<Ipv6Hdr>(segment.ip_offset()) else {
            return Route::Unknown;
        };
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = words(ip.src);
        fib.__bindgen_anon_4.ipv6_dst = words(ip.dst);
    }
    ask(frame, &mut fib)
}

/// Four words in network order, as the helper wants an IPv6 address.
#[inline(always)]
fn words(addr: [u8; 16]) -> [u32; 4] {
    let word = |at: usize| u32::from_ne_bytes([addr[at], addr[at + 1], addr[at + 2], addr[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

#[inline(always)]
fn ask(frame: &Frame<'_>, fib: &mut FibLookup) -> Route {
    let result = frame.fib_lookup(fib);
    match u32::try_from(result) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => {}
        Ok(
            BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT,
        ) => return Route::Denied,
        _ => return Route::Unknown,
    }
    // SAFETY: all views of this union are the same two bytes.
    let mtu = unsafe { fib.__bindgen_anon_1.mtu_result };
    // SAFETY: any bytes are a `Link`. An interface that goes takes its element along, and should
    // that be in use again at once, a wrong way is kept only until the new generation of the
    // network, which user space tells after every change of LINKS.
    let Some(link) = (unsafe { LINKS.get(fib.ifindex) }) else {
        return Route::Via(NextHop {
            ifindex: NextHop::HOST_STACK,
            mtu,
            ..NextHop::UNKNOWN
        });
    };
    Route::Via(NextHop {
        ifindex: link.device,
        generation: 0,
        dst: Mac(fib.dmac),
        src: Mac(fib.smac),
        vlan: link.vlan as u16,
        mtu,
    })
}

/// Puts the link header on and sends the packet.
#[inline(always)]
pub fn send(frame: &mut Frame<'_>, segment: &Segment, next_hop: &NextHop) -> Verdict {
    if next_hop.ifindex == NextHop::HOST_STACK || segment.ip_len > next_hop.mtu {
        return Verdict::HandToHost;
    }
    let grows = next_hop.header_len() as i32 - segment.ip_offset() as i32;
    if grows != 0 && frame.adjust_head(-grows).is_none() {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    if next_hop.write_header(frame, segment.ethertype()).is_none() {
        return Verdict::Drop(DropReason::Malformed);
    }
    if next_hop.ifindex == frame.ingress_ifindex() {
        return Verdict::Send(XDP_TX);
    }
    // SAFETY: the helper takes two numbers and only notes them for when the program returns.
    Verdict::Send(unsafe { bpf_redirect(next_hop.ifindex, 0) } as u32)
}
