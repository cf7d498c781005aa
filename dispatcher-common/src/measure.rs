//! How long answers take, measured without looking into a connection: when the client of a flow
//! asks, when its back-end has answered, and the histogram that keeps how long that took.
//!
//! A client *asks* with the first new payload after it acknowledged something new. The back-end
//! *answers* with its first new payload after that. So requests that are sent before the answer to
//! the first has begun count as one; a server that speaks first answers nothing; and a repeated
//! segment neither asks nor answers. What is asked before everything that the back-end sent was
//! acknowledged is not measured: nobody could tell which of its bytes answer it. What a server says
//! of its own accord after it was asked is taken for the answer: TLS 1.3's session tickets, which
//! many servers send before they answer a connection's first request, make that one look short.

use crate::header::TcpFlags;
use crate::tcp::{SegmentView, Track};

/// log2 of [`UNIT_NANOS`].
const UNIT_SHIFT: u32 = 10;
/// Nanoseconds in a unit of time as it is measured.
pub const UNIT_NANOS: u64 = 1 << UNIT_SHIFT;

/// What the clock shows, in units of [`UNIT_NANOS`], `nanoseconds` after the machine started
/// (`CLOCK_MONOTONIC`, which is also `bpf_ktime_get_ns`). It wraps after 73 minutes. Never 0, which
/// stands for "no clock runs".
#[inline(always)]
#[must_use]
pub const fn clock(nanoseconds: u64) -> u32 {
    match (nanoseconds >> UNIT_SHIFT) as u32 {
        0 => 1,
        clock => clock,
    }
}

/// Units from one reading of [`clock`] to another: true to a unit, and modulo 73 minutes.
#[inline(always)]
#[must_use]
pub const fn elapsed(start: u32, stop: u32) -> u32 {
    stop.wrapping_sub(start)
}

/// The oldest that a question may be, in units, to be taken for a farewell when its client closes:
/// 10 ms.
pub const FAREWELL_MAX: u32 = 10_000;

/// What a client's segment means for the clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// A request begins: the clock starts.
    Anew,
    /// The client closes while a request that is not its first has no answer. If it was sent just
    /// now ([`FAREWELL_MAX`]), it was none: TLS, PostgreSQL and MySQL say farewell in that way.
    Farewell,
}

/// Whether a request stands, from the count that [`follow_client`] keeps.
const fn stands(asked: u32) -> bool {
    asked & 1 == 1
}

/// Follows the client with a segment of it, `before` and `after` which its direction had these
/// numbers. `asked` counts how often a request began or was answered: it is odd while one stands.
/// Returns the new count, and what to do.
#[inline(always)]
#[must_use]
pub const fn follow_client(
    asked: u32,
    segment: &SegmentView,
    before: &Track,
    after: &Track,
) -> (u32, Asks) {
    let closes = segment.flags.any(TcpFlags::FIN);
    // From odd to even: it has seen an answer.
    let asked = if after.ack == before.ack {
        asked
    } else {
        asked.wrapping_add(asked & 1)
    };
    if stands(asked) {
        let farewell = closes && asked > 1;
        let asks = if farewell {
            Asks::Farewell
        } else {
            Asks::Nothing
        };
        return (asked, asks);
    }
    if !brings_payload(segment, before, after) {
        return (asked, Asks::Nothing);
    }
    let asks = if closes && asked > 0 {
        Asks::Nothing
    } else {
        Asks::Anew
    };
    (asked.wrapping_add(1), asks)
}

/// Whether a segment carries payload that its direction had not sent yet. What a SYN carries does
/// not count.
#[inline(always)]
#[must_use]
pub const fn brings_payload(segment: &SegmentView, before: &Track, after: &Track) -> bool {
    segment.payload != 0 && after.seq_end != before.seq_end && !segment.flags.any(TcpFlags::SYN)
}

/// What took the time.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// From a request's first payload to its answer's.
    Response = 0,
    /// From the SYN that is sent to the back-end to its SYN-ACK.
    Connect = 1,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Response, Self::Connect];

    /// Key in the `TIMES` map.
    #[inline(always)]
    #[must_use]
    pub const fn key(self, backend: u32) -> u32 {
        backend << 1 | self as u32
    }
}

/// log2 of the buckets in an octave.
const PRECISION: u32 = 4;
/// Buckets in an octave, from one power of two to the next: the width of a bucket is at most a
/// 16th of the least value in it. Values below twice as many units have a bucket each.
const OCTAVE: u32 = 1 << PRECISION;
/// log2 of the least value, in units, that is not told apart from greater ones: 69 s.
const RANGE: u32 = 26;
/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = (OCTAVE * (RANGE - PRECISION + 1)) as usize;

/// The bucket of a value in units; the last one for whatever is longer.
#[inline(always)]
#[must_use]
pub const fn bucket(value: u32) -> usize {
    let value = if value < 1 << RANGE {
        value
    } else {
        (1 << RANGE) - 1
    };
    let shift = (value | (2 * OCTAVE - 1)).ilog2() - PRECISION;
    (shift * OCTAVE + (value >> shift)) as usize
}

/// The least value of a bucket, in units. One past the last bucket: where the range ends.
#[must_use]
pub const fn lowest_of(bucket: usize) -> u32 {
    let bucket = bucket as u32;
    if bucket < 2 * OCTAVE {
        return bucket;
    }
    let shift = bucket / OCTAVE - 1;
    (OCTAVE + bucket % OCTAVE) << shift
}

/// The least and the greatest value of a bucket, in units; the last bucket holds all that is
/// greater, too.
#[must_use]
pub const fn bounds_of(bucket: usize) -> (u32, u32) {
    (lowest_of(bucket), lowest_of(bucket + 1) - 1)
}

/// Ticks for which the longest time of each is remembered.
pub const PEAKS: usize = 16;

/// A value of the `TIMES` map, one for each processor: how often something took how long. All of it
/// only ever grows, so that who reads it needs no lock, and subtracts what was there before.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Histogram {
    /// Of all values, units.
    pub sum: u64,
    /// The greatest value of each of the last ticks, in the place of the tick modulo [`PEAKS`]: the
    /// tick in the upper half, the value in units in the lower. So a later tick is greater.
    pub peaks: [u64; PEAKS],
    /// How many values each bucket has; wraps.
    pub buckets: [u32; BUCKETS],
}

impl Histogram {
    /// Nothing measured.
    pub const EMPTY: Self = Self {
        sum: 0,
        peaks: [0; PEAKS],
        buckets: [0; BUCKETS],
    };

    /// Adds a value in units, at a tick.
    #[inline(always)]
    pub fn record(&mut self, value: u32, ticks: u32) {
        // A reader may see this half done: what is counted last is then missing in what it sees.
        if let Some(count) = self.buckets.get_mut(bucket(value)) {
            *count = count.wrapping_add(1);
        }
        self.sum = self.sum.wrapping_add(u64::from(value));
        let peak = &mut self.peaks[ticks as usize % PEAKS];
        let word = u64::from(ticks) << 32 | u64::from(value);
        if *peak < word {
            *peak = word;
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::EMPTY
    }
}

const _: () = {
    assert!(BUCKETS == 368);
    assert!(size_of::<Histogram>() == 8 + 8 * PEAKS + 4 * BUCKETS);
    assert!(bucket(u32::MAX) == BUCKETS - 1);
};
