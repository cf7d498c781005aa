//! Where the rewritten packet leaves: the next hop kept in the flow while the network has not
//! changed, one `bpf_fib_lookup` after it has.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::addr::Mac;
use dispatcher_common::flow::{Direction, FlowKey};
use dispatcher_common::header::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4Hdr, PROTOCOL_TCP};
use dispatcher_common::link::NextHop;
use dispatcher_common::packet::PacketBytes;
use dispatcher_common::parse::Segment;
use dispatcher_common::rewrite::Translation;
use dispatcher_common::verdict::DropReason;

use crate::flow::Flow;
use crate::ingress::Frame;
use crate::maps::LINKS;
use crate::pipeline::Verdict;

/// What is to be sent, as it was received.
pub struct Packet {
    /// IPv4, else IPv6.
    pub is_v4: bool,
    /// Bytes of the link header.
    pub link_len: usize,
    /// Bytes from the IP header on.
    pub ip_len: u16,
}

impl From<&Segment> for Packet {
    #[inline(always)]
    fn from(segment: &Segment) -> Self {
        Self {
            is_v4: segment.is_v4,
            link_len: segment.ip_offset(),
            ip_len: segment.ip_len,
        }
    }
}

/// Where the packets of a flow can go.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Where the flow's entry says.
    Known,
    /// Nowhere: the routing table forbids it.
    Denied,
    /// The host's stack may find it.
    Unknown,
}

/// Sees to it that the next hop in the flow's entry is true now.
///
/// When the routing table does not know one (no neighbour yet, forwarding off), the flow keeps the
/// last that it had: for replies that is at first the machine that delivered the SYN. An interface
/// that was made anew since is known in `LINKS` by its former index, too; one that is gone is not.
#[inline(always)]
pub fn way(frame: &Frame<'_>, segment: &Segment, flow: &Flow, generation: u32) -> Way {
    if flow.entry().next_hop.generation == generation {
        return Way::Known;
    }
    let tos = if segment.is_v4 {
        let ip = frame.header::<Ipv4Hdr>(segment.ip_offset());
        ip.map_or(0, |ip| ip.tos)
    } else {
        0
    };
    let key = segment.key;
    ask(frame.context(), &key, flow, generation, tos)
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks the routing table. A function of its own for the processor, too: what is rare is not to
/// take the room of what is common.
#[inline(never)]
fn ask(ctx: *mut xdp_md, key: &FlowKey, flow: &Flow, generation: u32, tos: u8) -> Way {
    let ctx = XdpContext::new(ctx);
    let known = flow.entry().next_hop;
    let next_hop = match look_up(&Frame::of(&ctx), key, &flow.entry().translation, tos) {
        Route::Via(next_hop) => next_hop,
        Route::Denied => return Way::Denied,
        // SAFETY: as in `look_up`.
        Route::Unknown => match unsafe { LINKS.get(known.ifindex) } {
            Some(link) => NextHop {
                ifindex: link.device,
                ..known
            },
            None => return Way::Unknown,
        },
    };
    flow.set_next_hop(&NextHop {
        generation,
        ..next_hop
    });
    Way::Known
}

enum Route {
    Via(NextHop),
    Denied,
    Unknown,
}

/// The way of a packet with this key once it is translated.
#[inline(always)]
fn look_up(frame: &Frame<'_>, key: &FlowKey, translation: &Translation, tos: u8) -> Route {
    let (src, dst) = match translation.direction() {
        Direction::Forward => (&key.src, &translation.addr),
        Direction::Reply => (&translation.addr, &key.dst),
    };
    let (src, dst) = (src.words(), dst.words());
    let mut fib = MaybeUninit::<FibLookup>::uninit();
    let words = fib.as_mut_ptr().cast::<u32>();
    // Zeroed as a whole it is a call of `memset`, and with its frame the chain of calls does not
    // fit into the stack as Linux 6.1 counts it.
    let mut word = 0;
    while word < size_of::<FibLookup>() / size_of::<u32>() {
        // SAFETY: the word lies within the struct, whose alignment is that of a word.
        unsafe { words.add(word).write_volatile(0) };
        word += 1;
    }
    // SAFETY: the struct is integers, byte arrays and unions of them: zero is a value of each.
    let fib = unsafe { fib.assume_init_mut() };
    fib.l4_protocol = PROTOCOL_TCP;
    fib.ifindex = frame.ingress_ifindex();
    // A total length of 0 asks for no MTU check; the MTU comes back in its place.
    if key.dst.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_2.tos = tos;
        fib.__bindgen_anon_3.ipv4_src = src[3];
        fib.__bindgen_anon_4.ipv4_dst = dst[3];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = src;
        fib.__bindgen_anon_4.ipv6_dst = dst;
    }
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

/// Puts the link header on and sends the packet, which was rewritten before.
#[inline(always)]
pub fn send(frame: &mut Frame<'_>, packet: &Packet, next_hop: &NextHop) -> Verdict {
    if next_hop.ifindex == NextHop::HOST_STACK || packet.ip_len > next_hop.mtu {
        return Verdict::HandToHost;
    }
    let grows = next_hop.header_len() as i32 - packet.link_len as i32;
    if grows != 0 && frame.adjust_head(-grows).is_none() {
        return Verdict::Drop(DropReason::NoHeadroom);
    }
    let ethertype = if packet.is_v4 {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    if next_hop.write_header(frame, ethertype).is_none() {
        return Verdict::Drop(DropReason::Malformed);
    }
    if next_hop.ifindex == frame.ingress_ifindex() {
        return Verdict::Send(XDP_TX);
    }
    // SAFETY: the helper takes two numbers and only notes them for when the program returns.
    Verdict::Send(unsafe { bpf_redirect(next_hop.ifindex, 0) } as u32)
}
