//! Buckets and peaks of a histogram, for every value; and when a client asks.

use dispatcher_common::header::TcpFlags;
use dispatcher_common::measure::{
    Asks, BUCKETS, Histogram, Kind, PEAKS, bounds_of, brings_payload, bucket, clock, elapsed,
    follow_client, lowest_of,
};
use dispatcher_common::tcp::{SegmentView, Track};
use proptest::prelude::*;

#[test]
fn the_buckets_follow_one_another_without_gap_and_as_narrow_as_stated() {
    assert_eq!(lowest_of(0), 0);
    for at in 0..BUCKETS {
        let (least, greatest) = bounds_of(at);
        assert!(least <= greatest);
        assert_eq!(bucket(least), at);
        assert_eq!(bucket(greatest), at);
        assert_eq!(lowest_of(at + 1), greatest + 1);
        let width = greatest - least + 1;
        assert!(16 * width <= least.max(16), "{least} to {greatest}");
        if least < 32 {
            assert_eq!(width, 1, "small values are exact");
        }
    }
    assert_eq!(lowest_of(BUCKETS), 1 << 26, "69 s in units of 1024 ns");
}

#[test]
fn what_is_beyond_the_range_is_in_the_last_bucket() {
    for value in [1 << 26, (1 << 26) + 1, u32::MAX] {
        assert_eq!(bucket(value), BUCKETS - 1);
    }
}

proptest! {
    #[test]
    fn a_value_lies_in_its_bucket_and_near_its_middle(
        value in (0..26u32, 0..1u32 << 26).prop_map(|(shift, value)| value >> shift),
    ) {
        let (least, greatest) = bounds_of(bucket(value));
        prop_assert!((least..=greatest).contains(&value));
        // Twice the middle, to stay whole.
        let error = (2 * i64::from(value) - i64::from(least) - i64::from(greatest)).abs();
        prop_assert!(32 * error <= 2 * i64::from(value), "{value} in {least}..={greatest}");
    }

    #[test]
    fn a_greater_value_is_in_no_lower_bucket(one: u32, other: u32) {
        prop_assert_eq!(bucket(one.min(other)), bucket(one).min(bucket(other)));
    }

    #[test]
    fn a_histogram_holds_what_was_recorded(
        values in prop::collection::vec((any::<u32>(), 0..40u32), 1..100),
    ) {
        let mut values = values;
        values.sort_by_key(|(_, tick)| *tick);
        let mut histogram = Histogram::EMPTY;
        for (value, tick) in &values {
            histogram.record(*value, *tick);
        }
        let sum: u64 = values.iter().map(|(value, _)| u64::from(*value)).sum();
        prop_assert_eq!(histogram.sum, sum);
        for at in 0..BUCKETS {
            let inside = values.iter().filter(|(value, _)| bucket(*value) == at).count();
            prop_assert_eq!(histogram.buckets[at] as usize, inside);
        }
        // The last tick that came to a place has its greatest value there.
        for place in 0..PEAKS {
            let there = values.iter().filter(|(_, tick)| *tick as usize % PEAKS == place);
            let expected = there.max_by_key(|(value, tick)| (*tick, *value));
            let expected = expected.map_or(0, |(value, tick)| {
                u64::from(*tick) << 32 | u64::from(*value)
            });
            prop_assert_eq!(histogram.peaks[place], expected);
        }
    }
}

#[test]
fn the_clock_counts_1024_nanoseconds_and_never_shows_0() {
    assert_eq!(clock(0), 1);
    assert_eq!(clock(1023), 1);
    assert_eq!(clock(2048), 2);
    assert_eq!(clock(10 * 1024 + 1023), 10);
    let wraps = (1u64 << 32) * 1024;
    assert_eq!(clock(wraps), 1);
    assert_eq!(clock(wraps + 4 * 1024), 4);
    assert_eq!(elapsed(clock(wraps - 3 * 1024), clock(wraps + 4 * 1024)), 7);
}

#[test]
fn every_back_end_has_a_key_for_each_kind() {
    assert_eq!([0, 1, 4095].map(|at| Kind::Response.key(at)), [0, 2, 8190]);
    assert_eq!([0, 1, 4095].map(|at| Kind::Connect.key(at)), [1, 3, 8191]);
}

const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN.with(ACK);
const SYN: TcpFlags = TcpFlags::SYN;

/// Follows a client that had sent up to 100 and acknowledged 500.
fn follow(asked: u32, flags: TcpFlags, sends: u32, acks: u32) -> (u32, Asks) {
    let before = Track {
        seq_end: 100,
        ack: 500,
        fin_end: 0,
    };
    let after = Track {
        seq_end: before.seq_end + sends + u32::from(flags.any(TcpFlags::FIN)),
        ack: before.ack + acks,
        ..before
    };
    let segment = SegmentView {
        flags,
        seq: before.seq_end,
        ack: after.ack,
        payload: sends,
    };
    follow_client(asked, &segment, &before, &after)
}

#[test]
fn a_client_asks_with_its_first_new_payload_after_an_answer() {
    use Asks::{Anew, Farewell, Nothing};
    // Count before, flags, payload, acknowledged; count after, what it means.
    let rows = [
        (0, ACK, 0, 0, 0, Nothing),
        (0, ACK, 0, 9, 0, Nothing),
        (0, ACK, 10, 0, 1, Anew),
        (0, ACK, 10, 9, 1, Anew),
        (1, ACK, 10, 0, 1, Nothing),
        (1, ACK, 0, 9, 2, Nothing),
        (1, ACK, 10, 9, 3, Anew),
        (2, ACK, 0, 9, 2, Nothing),
        (2, ACK, 10, 0, 3, Anew),
        (0, SYN, 10, 0, 0, Nothing),
        // A first request may be the only one: half-closed, it wants its answer.
        (0, FIN, 10, 0, 1, Anew),
        (1, FIN, 0, 0, 1, Nothing),
        (1, FIN, 0, 9, 2, Nothing),
        // A later one is a farewell.
        (2, FIN, 0, 0, 2, Nothing),
        (2, FIN, 10, 0, 3, Nothing),
        (3, FIN, 0, 0, 3, Farewell),
        (3, FIN, 10, 9, 5, Nothing),
        // The count wraps to an even number.
        (u32::MAX, ACK, 0, 9, 0, Nothing),
    ];
    for (asked, flags, sends, acks, after, asks) in rows {
        let sentence = format!("{asked}: {flags:?}, {sends} sent, {acks} acknowledged");
        assert_eq!(
            follow(asked, flags, sends, acks),
            (after, asks),
            "{sentence}"
        );
    }
}

#[test]
fn a_repeated_segment_brings_nothing() {
    let track = |seq_end| Track {
        seq_end,
        ack: 0,
        fin_end: 0,
    };
    let segment = |flags, payload| SegmentView {
        flags,
        seq: 90,
        ack: 0,
        payload,
    };
    let rows = [
        (segment(ACK, 10), 90, 100, true),
        (segment(ACK, 10), 100, 100, false),
        (segment(FIN, 10), 90, 101, true),
        (segment(FIN, 0), 90, 91, false),
        (segment(SYN, 10), 90, 101, false),
    ];
    for (segment, before, after, brings) in rows {
        let brought = brings_payload(&segment, &track(before), &track(after));
        assert_eq!(brought, brings, "{segment:?}");
    }
}
