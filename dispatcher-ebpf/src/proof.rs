//! Which connection requests user space gets to see: all of them, and while a flood is on those
//! that have proved alive. All are remembered at any time, so that a client that asked shortly
//! before a flood was noticed needs no third time.

use dispatcher_common::parse::Segment;
use dispatcher_common::proof::{self, Bucket, MARKS, Mark, Met};
use dispatcher_common::service::Service;

use crate::maps::{CONTROL, PROOFS, UNPROVEN};

/// Where a request is remembered.
#[derive(Clone, Copy)]
pub struct Place {
    bucket: *mut Bucket,
    print: u32,
}

impl Place {
    /// Of no request.
    pub const NONE: Self = Self {
        bucket: core::ptr::null_mut(),
        print: 0,
    };

    /// Of a connection request, to be asked for before its flow: what is read here of the bucket
    /// has the processor fetch it while it fetches the flow.
    #[inline(always)]
    pub fn of(segment: &Segment) -> Self {
        let Some(control) = CONTROL.get(0) else {
            return Self::NONE;
        };
        let mark = Mark::of(&segment.key, segment.tcp.seq, control.secret);
        let Some(bucket) = PROOFS.get_ptr_mut(mark.bucket) else {
            return Self::NONE;
        };
        // SAFETY: a live element of an array; any bytes are a bucket.
        unsafe { (&raw const (*bucket).next).read_volatile() };
        Self {
            bucket,
            print: mark.print,
        }
    }
}

/// Remembers the request, and tells whether it goes on. One that does not is counted for its
/// service.
#[inline(always)]
pub fn admits(place: Place, service: &Service) -> bool {
    if is_proven(place) || service.guarded == 0 {
        return true;
    }
    if let Some(count) = UNPROVEN.get_ptr_mut(service.index) {
        // SAFETY: the slot belongs to this processor, which runs one XDP program at a time.
        unsafe { *count += 1 };
    }
    false
}

/// Without the maps, which cannot be, everybody is believed.
#[inline(always)]
fn is_proven(Place { bucket, print }: Place) -> bool {
    let Some(control) = CONTROL.get(0) else {
        return true;
    };
    if bucket.is_null() {
        return true;
    }
    // SAFETY: a live element of an array. Other processors may store into it meanwhile: any bytes
    // are a bucket, and one that is half old and half new costs a mark at worst.
    let seen = unsafe { *bucket };
    let now = proof::written(print, control.ticks);
    let met = seen.meet(print, control.ticks);
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
