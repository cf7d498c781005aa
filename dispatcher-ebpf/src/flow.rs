//! The flow table: find an entry, follow the connection, count, report phases that were entered.

use core::ptr::NonNull;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::event::FlowEvent;
use dispatcher_common::flow::{Direction, FlowEntry, FlowKey};
use dispatcher_common::header::TcpFlags;
use dispatcher_common::link::NextHop;
use dispatcher_common::measure::Kind;
use dispatcher_common::parse::Segment;
use dispatcher_common::rewrite;
use dispatcher_common::tcp::{self, Phase};

use crate::ingress::Frame;
use crate::maps::{BACKENDS, FLOWS};
use crate::{atomic, event, measure, punt};

/// An entry of the flow table, in place.
pub struct Flow(NonNull<FlowEntry>);

impl Flow {
    /// The entry as it is now.
    #[inline(always)]
    pub fn entry(&self) -> &FlowEntry {
        // SAFETY: the pointer came from a lookup in this run of the program, so it stays mapped
        // until the program returns. User space deletes an entry only after its quarantine, when
        // no packet of the flow is under way; were it reused all the same, every value of every
        // field is valid, and what was read of it meets one packet.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn phase_word(&self) -> *mut u32 {
        // SAFETY: as in `entry`; only the address is taken.
        unsafe { &raw mut (*self.0.as_ptr()).phase }
    }

    /// Starts or stops a clock, or counts a request. Plain stores: what two processors may do here
    /// at the same time costs a measurement and nothing else.
    #[inline(always)]
    pub fn set_asked(&self, asked: u32) {
        // SAFETY: as in `entry`; no reference to this field is held across the store.
        unsafe { (*self.0.as_ptr()).asked = asked };
    }

    /// Remembers where the flow's packets leave. Whoever stores at the same time stores the same:
    /// both asked the same routing table.
    #[inline(always)]
    pub fn set_next_hop(&self, next_hop: &NextHop) {
        // SAFETY: as in `entry`; no reference to this field is held across the store.
        unsafe { (*self.0.as_ptr()).next_hop = *next_hop };
    }
}

/// Whether the other direction of a flow, whose packets have the key `peer`, has a segment under
/// way that begins at `seq`; `None` when it has no entry.
#[inline(always)]
pub fn is_under_way(flow: &Flow, peer: &FlowKey, seq: u32) -> Option<bool> {
    let own = flow.entry();
    let peer = find(peer)?;
    let direction = own.translation.direction().reversed();
    // The forward entry's word is the flow's.
    let phase = match direction {
        Direction::Forward => peer.entry().phase,
        Direction::Reply => own.phase,
    };
    let sent = peer.entry().track;
    Some(tcp::is_under_way(
        Phase(phase),
        direction,
        seq,
        sent,
        own.track,
    ))
}

/// The entry for packets with this key.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<Flow> {
    FLOWS.get_ptr_mut(key).and_then(NonNull::new).map(Flow)
}

const CHANGES_PHASE: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);

/// Follows the connection with a packet of it, notes that its sender talks, and measures what that
/// starts or ends. What is forged is sent on, because only its receiver knows for certain, and
/// nothing else comes of it. Tells whether the packet may go on: not one of a back-end that refuses
/// the flow's SYN, or has.
///
/// A client's SYN on a flow that lives becomes the question whether the back-end does, too.
#[inline(always)]
pub fn track(frame: &Frame<'_>, flow: &Flow, segment: &Segment, ticks: u32) -> bool {
    let entry = flow.entry();
    let before = entry.track;
    if Phase(entry.phase).is_steady()
        && !segment.tcp.flags.any(CHANGES_PHASE)
        && before.is_near(&segment.tcp)
    {
        let mut track = before;
        track.follow(&segment.tcp);
        // SAFETY: `flow` is a live element; `track` is written by this direction's packets only.
        unsafe { (*flow.0.as_ptr()).track = track };
    } else {
        let segment = *segment;
        if refuses(flow, &segment) {
            return false;
        }
        if !change_phase(flow, &segment, ticks) {
            if segment.tcp.flags.is_connection_request() {
                ask_instead(frame.context(), flow, &segment);
            }
            return true;
        }
    }
    if entry.last_seen != ticks {
        // SAFETY: as above; whoever stores at the same time stores the same.
        unsafe { (*flow.0.as_ptr()).last_seen = ticks };
    }
    measure::follow(flow, segment, &before, ticks);
    true
}

/// Whether a packet is of a back-end that refuses the flow's SYN, or has. User space is told, and
/// has the request put back; the client is not. Without a daemon the packet is one like others.
///
/// Apart, so that what the verifier learns here does not double the paths that go on.
#[inline(never)]
fn refuses(flow: &Flow, segment: &Segment) -> bool {
    let copy = Phase(flow.entry().phase);
    if copy.has(Phase::ANSWERED) || !(segment.tcp.flags.any(TcpFlags::RST) || copy.is_refused()) {
        return false;
    }
    let translation = flow.entry().translation;
    if matches!(translation.direction(), Direction::Forward) || !punt::is_attended() {
        return false;
    }
    let Some(forward) = find(&segment.key.of_peer(&translation)) else {
        return false;
    };
    let (phase, client) = (Phase(forward.entry().phase), forward.entry().track);
    if !tcp::refuses(phase, &segment.tcp, &client) {
        return false;
    }
    fail(&forward, flow);
    true
}

/// The SYN of a flow has failed, however that was learned: user space is told, once. For a flow
/// that has no answer yet, while a daemon runs.
#[inline(always)]
fn fail(forward: &Flow, reply: &Flow) {
    let bits = Phase::REFUSED;
    // SAFETY: both words lie in live elements and are only ever written by atomic operations.
    let before = Phase(unsafe { atomic::fetch_or(forward.phase_word(), bits.0) });
    // SAFETY: as above.
    unsafe { atomic::fetch_or(reply.phase_word(), bits.0) };
    report(forward.entry(), before, before.with(bits));
}

/// Handshake, FIN and RST need both directions, and so does what is far from the packet before it.
/// Tells whether anything came of it.
#[inline(never)]
fn change_phase(flow: &Flow, segment: &Segment, ticks: u32) -> bool {
    let own = flow.entry();
    let translation = own.translation;
    let Some(peer) = find(&segment.key.of_peer(&translation)) else {
        return true;
    };
    let direction = translation.direction();
    let forward = match direction {
        Direction::Forward => flow,
        Direction::Reply => &peer,
    };
    let phase = Phase(forward.entry().phase);
    let Some((bits, track)) = tcp::advance(
        phase,
        direction,
        &segment.tcp,
        own.track,
        peer.entry().track,
    ) else {
        return false;
    };
    // SAFETY: `flow` is a live element; `track` is written by this direction's packets only.
    unsafe { (*flow.0.as_ptr()).track = track };
    if bits == Phase::default() {
        return true;
    }
    // SAFETY: both words lie in live elements and are only ever written by atomic operations.
    let before = Phase(unsafe { atomic::fetch_or(forward.phase_word(), bits.0) });
    let after = before.with(bits);
    let reply = match direction {
        Direction::Forward => &peer,
        Direction::Reply => flow,
    };
    // SAFETY: as above.
    unsafe { atomic::fetch_or(reply.phase_word(), bits.0) };
    if after.has(Phase::ANSWERED) && !before.has(Phase::ANSWERED) {
        measure::stop(reply, Kind::Connect, ticks);
    }
    if after.is_ended() && !before.is_ended() && after.is_established() {
        measure::end(reply);
    }
    report(forward.entry(), before, after);
    true
}

/// Makes a client's SYN on a flow that lives the question whether its back-end does, too. Called
/// by the entry point itself: what Linux 6.1 leaves of the stack is not enough further down.
#[inline(never)]
fn ask_instead(ctx: *mut xdp_md, flow: &Flow, segment: &Segment) {
    let translation = flow.entry().translation;
    let Some(peer) = find(&segment.key.of_peer(&translation)) else {
        return;
    };
    // The forward entry's word is the flow's.
    let phase = Phase(flow.entry().phase);
    if matches!(translation.direction(), Direction::Forward)
        && let Some(question) = tcp::asks_instead(phase, &segment.tcp, &peer.entry().track)
    {
        let ctx = XdpContext::new(ctx);
        // The parser found the header to be there.
        let _ = rewrite::renumber(&mut Frame::of(&ctx), segment.tcp_offset(), &question);
    }
}

/// One event for each phase that user space acts on; the atomic OR lets one processor see it.
#[inline(never)]
fn report(entry: &FlowEntry, before: Phase, after: Phase) {
    if !after.is_news_after(before) {
        return;
    }
    event::tell(&FlowEvent {
        flow: entry.flow,
        generation: entry.generation,
        phase: after.0,
        added: after.0 & !before.0,
    });
}

/// Counts the packet for the flow and for the back-end.
#[inline(always)]
pub fn count(flow: &Flow, segment: &Segment) {
    let bytes = u64::from(segment.ip_len);
    let entry = flow.0.as_ptr();
    // SAFETY: `flow` is a live element. The stores are plain: packets of one direction come on one
    // receive queue, and where they do not, a count may lose a packet and nothing else.
    let (backend, direction) = unsafe {
        (*entry).packets += 1;
        (*entry).bytes += bytes;
        ((*entry).backend, (*entry).translation.direction())
    };
    let Some(counters) = BACKENDS.get_ptr_mut(backend) else {
        return;
    };
    // SAFETY: the slot belongs to this processor, which runs one XDP program at a time.
    unsafe {
        match direction {
            Direction::Forward => {
                (*counters).packets_in += 1;
                (*counters).bytes_in += bytes;
            }
            Direction::Reply => {
                (*counters).packets_out += 1;
                (*counters).bytes_out += bytes;
            }
        }
    }
}
