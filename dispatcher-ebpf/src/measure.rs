//! Starts a flow's clock when its client asks and stops it when its back-end answers. No
//! other packet of a flow has a clock read for it, but one that is turned into a notice.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use dispatcher_common::flow::Direction;
use dispatcher_common::measure::{self, Asks, FAREWELL_MAX, Kind};
use dispatcher_common::parse::Segment;
use dispatcher_common::service::BackendCounters;
use dispatcher_common::tcp::Track;

use crate::flow::{self, Flow};
use crate::maps::{BACKENDS, TIMES};

/// Measures what a packet starts or ends. `before` is what was known of its direction.
#[inline(always)]
pub fn follow(flow: &Flow, segment: &Segment, before: &Track, ticks: u32) {
    let entry = flow.entry();
    match entry.translation.direction() {
        Direction::Forward => {
            let (asked, asks) =
                measure::follow_client(entry.asked, &segment.tcp, before, &entry.track);
            if asked != entry.asked {
                flow.set_asked(asked);
            }
            match asks {
                Asks::Nothing => {}
                Asks::Anew => start(flow, segment),
                Asks::Farewell => take_back(flow, segment),
            }
        }
        Direction::Reply => {
            if entry.asked != 0 && measure::brings_payload(&segment.tcp, before, &entry.track) {
                stop(flow, Kind::Response, ticks);
            }
        }
    }
}

/// The client asks: starts the clock, if it has seen all that the back-end sent.
#[inline(always)]
fn start(flow: &Flow, segment: &Segment) {
    let own = flow.entry();
    let Some(reply) = flow::find(&segment.key.of_peer(&own.translation)) else {
        return;
    };
    if reply.entry().track.seq_end != own.track.ack {
        return;
    }
    reply.set_asked(now());
    count(own.backend, |counters| counters.requests += 1);
}

/// What the client sent last was a farewell, unless it has waited for an answer.
#[inline(always)]
fn take_back(flow: &Flow, segment: &Segment) {
    let translation = flow.entry().translation;
    let Some(reply) = flow::find(&segment.key.of_peer(&translation)) else {
        return;
    };
    let asked = reply.entry().asked;
    if asked != 0 && measure::elapsed(asked, now()) <= FAREWELL_MAX {
        reply.set_asked(0);
    }
}

/// The back-end answers: stops the clock of its entry, and records what it shows.
#[inline(always)]
pub fn stop(reply: &Flow, kind: Kind, ticks: u32) {
    let (asked, backend) = (reply.entry().asked, reply.entry().backend);
    reply.set_asked(0);
    if asked == 0 {
        return;
    }
    let Some(histogram) = TIMES.get_ptr_mut(kind.key(backend)) else {
        return;
    };
    // SAFETY: the value belongs to this processor, which runs one XDP program at a time. Should
    // user space remove the element meanwhile, its memory stays mapped until the program returns,
    // and any bytes are a histogram.
    unsafe { (*histogram).record(measure::elapsed(asked, now()), ticks) };
}

/// The connection has ended: counts it if a request had no answer.
#[inline(always)]
pub fn end(reply: &Flow) {
    if reply.entry().asked != 0 {
        count(reply.entry().backend, |counters| counters.unanswered += 1);
    }
}

#[inline(always)]
fn count(backend: u32, add: impl FnOnce(&mut BackendCounters)) {
    if let Some(counters) = BACKENDS.get_ptr_mut(backend) {
        // SAFETY: the slot belongs to this processor, which runs one XDP program at a time.
        add(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    measure::clock(unsafe { bpf_ktime_get_ns() })
}
