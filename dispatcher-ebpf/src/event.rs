//! What happens to flows goes to user space by the event ring, and wakes it only when somebody
//! waits for it: connections come and go while slots are free, and a wake-up for each phase is
//! dear.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ringbuf_query;
use dispatcher_common::event::FlowEvent;
use dispatcher_common::maps::EVENTS_BYTES;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::Handled;

use crate::counters;
use crate::maps::{CONTROL, EVENTS};

/// Tells user space, or counts that it was not told.
#[inline(always)]
pub fn tell(event: &FlowEvent) {
    if Phase(event.phase).is_refused() || is_waited_for() || is_filling() {
        output(event, BPF_RB_FORCE_WAKEUP);
        return;
    }
    output(event, BPF_RB_NO_WAKEUP);
    // User space may have begun to wait after it was asked, and looked into the ring before the
    // event was there. An event that comes twice says nothing new the second time.
    if is_waited_for() {
        output(event, BPF_RB_FORCE_WAKEUP);
    }
}

/// Never left to the kernel's own judgement: it wakes whoever has read all before the event, and
/// that is not so after one that woke nobody.
#[inline(always)]
fn output(event: &FlowEvent, wakeup: u32) {
    if EVENTS
        .output_untyped::<FlowEvent>(event, u64::from(wakeup))
        .is_err()
    {
        counters::count(Handled::EventLost.counter());
    }
}

#[inline(always)]
fn is_waited_for() -> bool {
    let Some(control) = CONTROL.get(0) else {
        return true;
    };
    // SAFETY: the reference is to a live element; user space may store at any time, and any value
    // is valid.
    unsafe { (&raw const control.waiting).read_volatile() != 0 }
}

/// Whether so many events lie there that user space had better begin.
#[inline(always)]
fn is_filling() -> bool {
    // SAFETY: the map lives as long as the program; the helper only reads its positions.
    let bytes = unsafe {
        bpf_ringbuf_query(
            (&raw const EVENTS).cast_mut().cast(),
            u64::from(BPF_RB_AVAIL_DATA),
        )
    };
    bytes > u64::from(EVENTS_BYTES / 4)
}
