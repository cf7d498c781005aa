//! Which connection requests user space gets to see: all of them, and while a flood is on those
//! that have proved alive. All are remembered at any time, so that a client that asked shortly
//! before a flood was noticed needs no third time.

use dispatcher_common::flow::FlowKey;
use dispatcher_common::parse::Segment;
use dispatcher_common::proof::{self, MARKS, Mark, Met};
use dispatcher_common::service::Service;

use crate::maps::{CONTROL, PROOFS, UNPROVEN};

/// Remembers the request, and tells whether it goes on. One that does not is counted for its
/// service.
#[inline(always)]
pub fn admits(segment: &Segment, service: &Service) -> bool {
    let key = segment.key;
    if is_proven(&key, segment.tcp.seq) || service.guarded == 0 {
        return true;
    }
    if let Some(count) = UNPROVEN.get_ptr_mut(service.index) {
        // SAFETY: the slot belongs to this processor, which runs one XDP program at a time.
        unsafe { *count += 1 };
    }
    false
}

/// A function of its own, so that it has a stack of its own. Without the maps, which cannot be,
/// everybody is believed.
#[inline(never)]
fn is_proven(key: &FlowKey, isn: u32) -> bool {
    let Some(control) = CONTROL.get(0) else {
        return true;
    };
    let mark = Mark::of(key, isn, control.secret);
    let Some(bucket) = PROOFS.get_ptr_mut(mark.bucket) else {
        return true;
    };
    // SAFETY: a live element of an array. Other processors may store into it meanwhile: any bytes
    // are a bucket, and one that is half old and half new costs a mark at worst.
    let seen = unsafe { *bucket };
    let now = proof::written(mark.print, control.ticks);
    let met = seen.meet(mark.print, control.ticks);
    let place = match met {
        Met::TooSoon => return false,
        Met::Again(place) | Met::TooLate(place) => place,
        Met::First => {
            let place = seen.next_place();
            // SAFETY: as above.
            unsafe { (*bucket).next = place as u32 + 1 };
            place
        }
    };
    if place < MARKS {
        // SAFETY: as above; the place is within the bucket.
        unsafe { (*bucket).marks[place] = now };
    }
    matches!(met, Met::Again(_))
}
