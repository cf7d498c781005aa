//! Which connection requests have proved that somebody waits for their answer: those that are seen
//! a second time. A client sends its SYN again when nothing answers (RFC 6298 5); whoever invents
//! addresses as fast as it can does not.
//!
//! Requests are remembered as marks in buckets of one cache line, the latest fifteen of each.
//! Pure: what a bucket says of a request, and what is to be written into it.

use crate::flow::FlowKey;

/// Buckets, a power of two: 16 MiB in all.
pub const BUCKETS: u32 = 1 << 18;
/// Marks of a bucket.
pub const MARKS: usize = 15;
/// Least age of a mark that a request proves itself by, ticks. No stack sends again so soon: the
/// least that RFC 6298 (2.1) allows is a second.
pub const AGE_MIN: u32 = 5;
/// Greatest age of it, ticks: the pause before the fifth time that a SYN is sent is 16 s.
pub const AGE_MAX: u32 = 200;

const AGE_BITS: u32 = 8;
const AGE_MASK: u32 = (1 << AGE_BITS) - 1;
const _: () = assert!(
    AGE_MAX <= AGE_MASK,
    "an age is told within one turn of its bits"
);

/// A request as it is remembered: what stands in a bucket, and which bucket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Number of the bucket, below [`BUCKETS`].
    pub bucket: u32,
    /// Tells the requests of a bucket apart; the low 8 bits are 0.
    pub print: u32,
}

impl Mark {
    /// The mark of a request. Without the secret nobody can tell which requests share a bucket or
    /// a mark.
    #[inline(always)]
    #[must_use]
    pub fn of(key: &FlowKey, isn: u32, secret: [u32; 4]) -> Self {
        let ports = pair(
            u32::from(key.src_port.number()) << 16 | u32::from(key.dst_port.number()),
            isn,
        );
        let (src, dst) = (key.src.halves(), key.dst.halves());
        let mut hash = pair(secret[0], secret[1]);
        hash = mix(hash ^ src[0]);
        hash = mix(hash ^ src[1]);
        hash = mix(hash ^ dst[0]);
        hash = mix(hash ^ dst[1]);
        hash = mix(hash ^ ports);
        hash = mix(hash ^ pair(secret[2], secret[3]));
        Self {
            bucket: (hash >> 32) as u32 & (BUCKETS - 1),
            print: (hash as u32) & !AGE_MASK,
        }
    }
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Every bit of `word` bears on every bit of the result (the finisher of MurmurHash3).
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let word = (word ^ (word >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

/// An element of the `PROOFS` map. The program writes it with plain stores: where two processors
/// meet in one bucket, a mark may be lost, and its client needs one more time.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Where the next mark is written, over the oldest; [`MARKS`] for the first place.
    pub next: u32,
    /// A print each, with the tick at which the request was seen in the low 8 bits.
    pub marks: [u32; MARKS],
}

/// What a bucket says of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// For the first time, as far as the bucket knows: it is to be remembered.
    First,
    /// Again, sooner than any client: the mark at this place stays as it is.
    TooSoon,
    /// Again, when a client would: the mark at this place is to be renewed.
    Again(usize),
    /// Again, later than any client: the same, and it counts as the first time.
    TooLate(usize),
}

impl Bucket {
    /// Without a mark.
    pub const EMPTY: Self = Self {
        next: 0,
        marks: [0; MARKS],
    };

    /// The place of the next mark.
    #[inline(always)]
    #[must_use]
    pub const fn next_place(&self) -> usize {
        // A comparison and no remainder: the verifier must see the bound.
        if (self.next as usize) < MARKS {
            self.next as usize
        } else {
            0
        }
    }

    /// What the bucket says of a request at `ticks`.
    #[inline(always)]
    #[must_use]
    pub fn meet(&self, print: u32, ticks: u32) -> Met {
        let mut place = 0;
        while place < MARKS {
            let mark = self.marks[place];
            if mark & !AGE_MASK == print {
                // One older than its bits can tell looks younger than it is, and is believed.
                let age = ticks.wrapping_sub(mark) & AGE_MASK;
                return if age < AGE_MIN {
                    Met::TooSoon
                } else if age <= AGE_MAX {
                    Met::Again(place)
                } else {
                    Met::TooLate(place)
                };
            }
            place += 1;
        }
        Met::First
    }
}

/// A mark as it is written at `ticks`.
#[inline(always)]
#[must_use]
pub const fn written(print: u32, ticks: u32) -> u32 {
    print | ticks & AGE_MASK
}

const _: () = assert!(size_of::<Bucket>() == 64, "a cache line");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Addr, Port};

    const SECRET: [u32; 4] = [1, 2, 3, 4];

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey::new(
            Addr::from_v4_bytes(client.to_be_bytes()),
            Port::new(port),
            Addr::from_v4_bytes([192, 0, 2, 10]),
            Port::new(80),
        )
    }

    /// Does what the program does.
    fn see(bucket: &mut Bucket, print: u32, ticks: u32) -> Met {
        let met = bucket.meet(print, ticks);
        match met {
            Met::First => {
                let place = bucket.next_place();
                bucket.marks[place] = written(print, ticks);
                bucket.next = place as u32 + 1;
            }
            Met::Again(place) | Met::TooLate(place) => bucket.marks[place] = written(print, ticks),
            Met::TooSoon => {}
        }
        met
    }

    #[test]
    fn a_request_proves_itself_by_coming_again_in_time() {
        // Ticks after the first time, and what is said then.
        let rows: [(&[u32], Met); 9] = [
            (&[0], Met::TooSoon),
            (&[AGE_MIN - 1], Met::TooSoon),
            (&[AGE_MIN], Met::Again(0)),
            (&[10], Met::Again(0)),
            (&[AGE_MAX], Met::Again(0)),
            (&[AGE_MAX + 1], Met::TooLate(0)),
            (&[AGE_MAX + 1, AGE_MAX + 11], Met::Again(0)),
            // A stack's own pauses: 1, 2, 4, 8, 16 s.
            (&[10, 30, 70, 150, 310], Met::Again(0)),
            // It was too soon once, and is in time now.
            (&[2, 10], Met::Again(0)),
        ];
        // Also where the ticks' low bits turn over.
        for begin in [0, 1000, u32::MAX - 3] {
            for (later, expected) in rows {
                let mut bucket = Bucket::EMPTY;
                let print = 0x1234_5600;
                assert_eq!(see(&mut bucket, print, begin), Met::First);
                let mut met = Met::First;
                for after in later {
                    met = see(&mut bucket, print, begin.wrapping_add(*after));
                }
                assert_eq!(met, expected, "after {later:?} ticks");
            }
        }
    }

    #[test]
    fn a_bucket_keeps_the_latest_fifteen() {
        let print = |i: u32| (i + 1) << AGE_BITS;
        let mut bucket = Bucket::EMPTY;
        for i in 0..15 {
            assert_eq!(see(&mut bucket, print(i), 0), Met::First);
        }
        for i in 0..15 {
            assert_eq!(see(&mut bucket, print(i), 10), Met::Again(i as usize));
        }
        assert_eq!(see(&mut bucket, print(15), 10), Met::First);
        assert_eq!(bucket.meet(print(0), 20), Met::First, "it made room");
        assert_eq!(bucket.meet(print(1), 20), Met::Again(1));
        assert_eq!(bucket.meet(print(15), 20), Met::Again(0));
    }

    #[test]
    fn whatever_tells_requests_apart_changes_the_mark() {
        let mark = |key: &FlowKey, isn| Mark::of(key, isn, SECRET);
        let one = mark(&key(1, 1000), 7);
        assert_eq!(one, mark(&key(1, 1000), 7));
        assert_eq!(one.print & AGE_MASK, 0);
        assert_ne!(one, mark(&key(1, 1000), 8), "ISN");
        assert_ne!(one, mark(&key(1, 1001), 7), "port");
        assert_ne!(one, mark(&key(2, 1000), 7), "address");
        assert_ne!(one, Mark::of(&key(1, 1000), 7, [1, 2, 3, 5]), "secret");
    }

    #[test]
    fn marks_are_spread_evenly() {
        // 2^20 requests of which each differs from the next in one number.
        let mut filled = [0u32; 256];
        let mut prints = [0u32; 256];
        for i in 0..1 << 20 {
            let mark = Mark::of(&key(i, 1000), i, SECRET);
            filled[(mark.bucket >> 10) as usize] += 1;
            prints[(mark.print >> 24) as usize] += 1;
        }
        for counts in [filled, prints] {
            for count in counts {
                // 4096 expected, with a standard deviation of 64.
                assert!((3700..4500).contains(&count), "{count}");
            }
        }
    }
}
