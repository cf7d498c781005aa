//! What the program measures without looking into a connection: stories of clients that ask and
//! back-ends that answer. The kernel's clock cannot be set, so a story says when the back-end was
//! asked by moving that in the entry, and the time must come out between two readings of the clock.
//! At the end: back-ends that come and go, and who reads of them.

use std::path::Path;
use std::time::Duration;

use Sender::{Backend, Client};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use dispatcher_common::flow::{FlowEntry, FlowPair};
use dispatcher_common::maps::{BACKENDS, TIMES};
use dispatcher_common::measure::{FAREWELL_MAX, Histogram, Kind, UNIT_NANOS};
use dispatcher_common::service::BackendCounters;
use dispatcher_tests::packet::{
    ACK, BACKEND_ONE, CLIENT_ONE, FAMILIES, FIN_ACK, Family, Packet, RST, RST_ACK, SYN, SYN_ACK,
    TcpFlags, VIP_ONE,
};
use dispatcher_tests::port_program::{BPF_FS, mount_bpf_fs};
use dispatcher_tests::program::{Action, BACKEND, CLIENT_ISN, Program, TICKS, Verdict, now, spec};
use dispatcher_tests::scratch::unique;
use dispatcher_user::datapath::{Datapath, DatapathConfig, unload};
use dispatcher_user::measure::Reading;

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sender {
    Client,
    Backend,
}

/// Initial sequence number of the back-end, near the end of the number space on purpose.
const BACKEND_ISN: u32 = 0xffff_fff0;

/// One segment: sender, flags, sequence number, acknowledgement number, bytes of data. Numbers are
/// relative to the initial ones, as in a capture.
type Step = (Sender, TcpFlags, u32, u32, usize);

const CONNECT: [Step; 2] = [(Client, SYN, 0, 0, 0), (Backend, SYN_ACK, 0, 1, 0)];
const FINISH: Step = (Client, ACK, 1, 1, 0);

/// So many units pass in a story between question and answer, besides what the test itself takes.
const LONG: u32 = 200_000;

struct Story {
    program: Program,
    family: Family,
    pair: FlowPair,
    before: BackendCounters,
}

/// Tells a story in each family, each on a program of its own.
fn tell(story: impl Fn(&mut Story)) {
    for family in FAMILIES {
        let mut program = Program::load();
        for kind in Kind::ALL {
            program.measure(BACKEND, kind);
        }
        let pair = program.install(&spec(family));
        let before = program.backend(BACKEND);
        story(&mut Story {
            program,
            family,
            pair,
            before,
        });
    }
}

/// The same after a handshake.
fn tell_established(story: impl Fn(&mut Story)) {
    tell(|told| {
        told.play(&CONNECT);
        told.play(&[FINISH]);
        story(told);
    });
}

impl Story {
    fn play(&mut self, steps: &[Step]) {
        for step in steps {
            let (from, flags, seq, ack, data) = *step;
            let (packet, own_isn, peer_isn) = match from {
                Client => (Packet::tcp(CLIENT_ONE, VIP_ONE), CLIENT_ISN, BACKEND_ISN),
                Backend => (
                    Packet::tcp(BACKEND_ONE, CLIENT_ONE),
                    BACKEND_ISN,
                    CLIENT_ISN,
                ),
            };
            let packet = packet
                .over(self.family)
                .flags(flags)
                .seq(own_isn.wrapping_add(seq))
                .ack(peer_isn.wrapping_add(ack))
                .payload(&vec![b'.'; data]);
            let verdict = self.program.run(&packet.build()).verdict();
            assert_eq!(verdict, Verdict::Sent(Action::Redirect), "{step:?}");
        }
        self.program.events();
    }

    /// Plays a FIN, again should this machine have been so slow that it was no farewell.
    fn part(&mut self, fin: Step) {
        loop {
            let mut entry = self.reply();
            if entry.asked != 0 {
                entry.asked = now();
                self.program.put(&self.pair.reply_key, &entry);
            }
            self.play(&[fin]);
            if now().wrapping_sub(entry.asked) <= FAREWELL_MAX || entry.asked == 0 {
                return;
            }
        }
    }

    fn reply(&self) -> FlowEntry {
        self.program.entry(&self.pair.reply_key)
    }

    /// Whether a clock runs.
    fn is_asked(&self) -> bool {
        self.reply().asked != 0
    }

    /// Makes the back-end asked so many units earlier.
    fn pass(&mut self, units: u32) {
        let mut entry = self.reply();
        assert_ne!(entry.asked, 0, "a clock runs");
        entry.asked = entry.asked.wrapping_sub(units);
        self.program.put(&self.pair.reply_key, &entry);
    }

    /// Plays `answer`, which must be measured, and be as long as it took.
    fn answer(&mut self, kind: Kind, answer: Step) {
        let before = self.summed(kind);
        let (asked, earliest) = (self.reply().asked, now());
        self.play(&[answer]);
        let (after, latest) = (self.summed(kind), now());
        assert_eq!(self.reply().asked, 0, "the clock stands");
        let took = after.sum - before.sum;
        let bounds = [earliest, latest].map(|stop| u64::from(stop.wrapping_sub(asked)));
        assert!(
            (bounds[0]..=bounds[1]).contains(&took),
            "{took} units, not within {bounds:?}"
        );
        let mut expected = before;
        expected.record(took as u32, TICKS);
        assert_eq!(
            after, expected,
            "in its bucket, and the greatest of its tick"
        );
    }

    /// What was measured, over all processors; one tick of a story has one greatest value.
    fn summed(&self, kind: Kind) -> Histogram {
        let mut total = Histogram::EMPTY;
        for one in self.program.times(BACKEND, kind) {
            total.sum += one.sum;
            for (total, one) in total.buckets.iter_mut().zip(one.buckets) {
                *total += one;
            }
            for (total, one) in total.peaks.iter_mut().zip(one.peaks) {
                *total = one.max(*total);
            }
        }
        total
    }

    fn measured(&self, kind: Kind) -> u32 {
        self.summed(kind).buckets.iter().sum()
    }

    /// Requests, responses and unanswered ends so far.
    fn assert_counted(&self, requests: u64, responses: u32, unanswered: u64) {
        let counted = self.program.backend(BACKEND).since(&self.before);
        assert_eq!(
            (
                counted.requests,
                self.measured(Kind::Response),
                counted.unanswered
            ),
            (requests, responses, unanswered),
            "requests, responses, unanswered"
        );
    }
}

#[test]
fn a_connection_takes_from_the_syn_to_the_first_answer() {
    tell(|story| {
        assert!(story.is_asked(), "since it was installed");
        story.pass(LONG);
        story.play(&CONNECT[..1]);
        story.play(&CONNECT[..1]);
        story.answer(Kind::Connect, CONNECT[1]);
        story.play(&[CONNECT[1], CONNECT[0], CONNECT[1], FINISH]);
        assert_eq!(story.measured(Kind::Connect), 1, "repetitions are none");
        story.assert_counted(0, 0, 0);
    });
}

#[test]
fn a_connection_that_is_refused_took_no_time_and_was_asked_nothing() {
    tell(|story| {
        story.play(&[CONNECT[0], (Backend, RST_ACK, 0, 1, 0)]);
        assert_eq!(story.measured(Kind::Connect), 0);
        story.assert_counted(0, 0, 0);
    });
}

#[test]
fn a_request_is_answered() {
    tell_established(|story| {
        story.play(&[(Client, ACK, 1, 1, 100)]);
        story.pass(LONG);
        story.play(&[(Backend, ACK, 1, 101, 0)]);
        assert!(story.is_asked(), "an acknowledgement is no answer");
        story.answer(Kind::Response, (Backend, ACK, 1, 101, 500));
        story.assert_counted(1, 1, 0);
        assert_eq!(story.measured(Kind::Connect), 1, "the handshake's alone");
    });
}

#[test]
fn a_request_may_come_with_the_last_of_the_handshake() {
    tell(|story| {
        story.play(&CONNECT);
        story.play(&[(Client, ACK, 1, 1, 100)]);
        story.pass(LONG);
        story.answer(Kind::Response, (Backend, ACK, 1, 101, 500));
        story.assert_counted(1, 1, 0);
    });
}

#[test]
fn every_request_of_a_connection_that_is_kept_is_measured() {
    tell_established(|story| {
        for n in 0..20 {
            let (client, backend) = (1 + n * 100, 1 + n * 500);
            story.play(&[(Client, ACK, client, backend, 100)]);
            story.pass(LONG << (n % 8));
            story.answer(Kind::Response, (Backend, ACK, backend, client + 100, 500));
            if n % 2 == 0 {
                // The other half of the answers is acknowledged by the next request.
                story.play(&[(Client, ACK, client + 100, backend + 500, 0)]);
            }
        }
        story.assert_counted(20, 20, 0);
    });
}

#[test]
fn a_request_in_many_segments_begins_with_the_first_and_its_answer_too() {
    tell_established(|story| {
        story.play(&[(Client, ACK, 1, 1, 1000)]);
        story.pass(LONG);
        story.play(&[
            (Client, ACK, 1001, 1, 1000),
            (Backend, ACK, 1, 2001, 0),
            (Client, ACK, 2001, 1, 1000),
        ]);
        story.answer(Kind::Response, (Backend, ACK, 1, 3001, 1000));
        for n in 1..50 {
            story.play(&[
                (Backend, ACK, 1 + n * 1000, 3001, 1000),
                (Client, ACK, 3001, 1 + n * 1000, 0),
            ]);
        }
        story.assert_counted(1, 1, 0);
    });
}

#[test]
fn pipelined_requests_count_as_one() {
    tell_established(|story| {
        story.play(&[
            (Client, ACK, 1, 1, 100),
            (Client, ACK, 101, 1, 100),
            (Client, ACK, 201, 1, 100),
        ]);
        story.answer(Kind::Response, (Backend, ACK, 1, 301, 500));
        story.play(&[
            (Backend, ACK, 501, 301, 500),
            (Backend, ACK, 1001, 301, 500),
        ]);
        story.assert_counted(1, 1, 0);
        story.play(&[(Client, ACK, 301, 1501, 100)]);
        story.answer(Kind::Response, (Backend, ACK, 1501, 401, 500));
        story.assert_counted(2, 2, 0);
    });
}

#[test]
fn what_is_asked_amid_an_answer_is_not_measured() {
    tell_established(|story| {
        story.play(&[(Client, ACK, 1, 1, 100)]);
        story.answer(Kind::Response, (Backend, ACK, 1, 101, 1000));
        story.play(&[
            (Backend, ACK, 1001, 101, 1000),
            // Of the answer's two segments the client had one when it sent this.
            (Client, ACK, 101, 1001, 30),
        ]);
        assert!(!story.is_asked());
        story.play(&[(Backend, ACK, 2001, 131, 1000), (Client, ACK, 131, 3001, 0)]);
        story.assert_counted(1, 1, 0);
        story.play(&[(Client, ACK, 131, 3001, 100)]);
        story.answer(Kind::Response, (Backend, ACK, 3001, 231, 10));
        story.assert_counted(2, 2, 0);
    });
}

#[test]
fn a_back_end_that_speaks_first_answers_nothing() {
    tell_established(|story| {
        story.play(&[(Backend, ACK, 1, 1, 40), (Client, ACK, 1, 41, 0)]);
        story.assert_counted(0, 0, 0);
        story.play(&[(Client, ACK, 1, 41, 20)]);
        story.answer(Kind::Response, (Backend, ACK, 41, 21, 40));
        story.assert_counted(1, 1, 0);
    });
}

#[test]
fn repeated_segments_neither_ask_nor_answer() {
    tell_established(|story| {
        let (request, response) = ((Client, ACK, 1, 1, 100), (Backend, ACK, 1, 101, 500));
        story.play(&[request]);
        story.pass(LONG);
        story.play(&[request, request]);
        story.answer(Kind::Response, response);
        story.play(&[response, request, response, (Client, ACK, 101, 501, 0)]);
        // The client has its answer, and its old request still turns up.
        story.play(&[request, response]);
        story.assert_counted(1, 1, 0);
        story.play(&[(Client, ACK, 101, 501, 100), response]);
        assert!(
            story.is_asked(),
            "an old answer does not answer a new request"
        );
        story.answer(Kind::Response, (Backend, ACK, 501, 201, 500));
        story.assert_counted(2, 2, 0);
    });
}

#[test]
fn keep_alive_probes_ask_nothing() {
    tell_established(|story| {
        for probe in [(Client, ACK, 0, 1, 0), (Client, ACK, 0, 1, 1)] {
            story.play(&[probe, (Backend, ACK, 1, 1, 0)]);
        }
        assert!(!story.is_asked());
        story.assert_counted(0, 0, 0);
    });
}

#[test]
fn an_upload_that_is_asked_for_is_a_request_of_its_own() {
    tell_established(|story| {
        story.play(&[(Client, ACK, 1, 1, 100)]);
        // 100 Continue.
        story.answer(Kind::Response, (Backend, ACK, 1, 101, 25));
        story.play(&[(Client, ACK, 101, 26, 1000)]);
        story.pass(LONG);
        for n in 1..20 {
            let sent = 101 + n * 1000;
            story.play(&[(Client, ACK, sent, 26, 1000), (Backend, ACK, 26, sent, 0)]);
        }
        story.answer(Kind::Response, (Backend, ACK, 26, 20_101, 200));
        story.assert_counted(2, 2, 0);
    });
}

#[test]
fn a_half_closed_request_has_its_answer() {
    for flags in [FIN_ACK, ACK] {
        tell_established(|story| {
            story.play(&[(Client, flags, 1, 1, 100)]);
            if flags == ACK {
                story.play(&[(Client, FIN_ACK, 101, 1, 0)]);
            }
            story.pass(LONG);
            story.play(&[(Backend, ACK, 1, 102, 0)]);
            story.answer(Kind::Response, (Backend, ACK, 1, 102, 500));
            story.play(&[(Backend, FIN_ACK, 501, 102, 0), (Client, ACK, 102, 502, 0)]);
            story.assert_counted(1, 1, 0);
        });
    }
}

/// One request, answered, and acknowledged by whatever comes next.
const ANSWERED: [Step; 2] = [(Client, ACK, 1, 1, 100), (Backend, ACK, 1, 101, 500)];

#[test]
fn a_farewell_is_no_request() {
    // As one segment with the FIN, or followed by it.
    let partings: [&[Step]; 2] = [
        &[(Client, FIN_ACK, 101, 501, 31)],
        &[(Client, ACK, 101, 501, 31), (Client, FIN_ACK, 132, 501, 0)],
    ];
    for parting in partings {
        tell_established(|story| {
            story.play(&ANSWERED);
            story.play(&parting[..parting.len() - 1]);
            story.part(parting[parting.len() - 1]);
            assert!(!story.is_asked());
            story.play(&[(Backend, FIN_ACK, 501, 133, 31), (Client, ACK, 133, 533, 0)]);
            assert_eq!(story.measured(Kind::Response), 1);
            let counted = story.program.backend(BACKEND).since(&story.before);
            assert_eq!(counted.unanswered, 0);
        });
    }
}

#[test]
fn a_client_that_gives_up_has_no_answer() {
    tell_established(|story| {
        story.play(&ANSWERED);
        story.play(&[(Client, ACK, 101, 501, 31)]);
        story.pass(LONG);
        story.play(&[(Client, FIN_ACK, 132, 501, 0)]);
        assert!(story.is_asked(), "it has waited too long for a farewell");
        story.play(&[(Backend, FIN_ACK, 501, 133, 0), (Client, ACK, 133, 502, 0)]);
        story.assert_counted(2, 1, 1);
    });
}

#[test]
fn a_connection_that_ends_without_an_answer_is_counted_once() {
    let ends: [&[Step]; 3] = [
        &[(Backend, RST, 1, 0, 0), (Backend, RST, 1, 0, 0)],
        &[(Client, RST_ACK, 101, 1, 0)],
        &[
            (Backend, FIN_ACK, 1, 101, 0),
            (Client, FIN_ACK, 101, 2, 0),
            (Backend, ACK, 2, 102, 0),
            (Backend, ACK, 2, 102, 0),
        ],
    ];
    for end in ends {
        tell_established(|story| {
            story.play(&[(Client, ACK, 1, 1, 100)]);
            story.play(&[(Backend, ACK, 1, 101, 0)]);
            story.pass(LONG);
            story.play(end);
            story.assert_counted(1, 0, 1);
        });
    }
}

#[test]
fn an_end_after_the_answer_or_without_a_request_is_in_order() {
    let ends: [&[Step]; 2] = [&[(Backend, RST, 1, 0, 0)], &[(Client, RST_ACK, 1, 1, 0)]];
    for end in ends {
        tell_established(|story| {
            story.play(end);
            story.assert_counted(0, 0, 0);
        });
    }
    tell_established(|story| {
        story.play(&ANSWERED);
        story.play(&[(Client, ACK, 101, 501, 0), (Client, RST_ACK, 101, 501, 0)]);
        story.assert_counted(1, 1, 0);
    });
}

#[test]
fn a_handshake_that_is_reset_is_not_unanswered() {
    tell(|story| {
        story.play(&CONNECT);
        story.play(&[(Client, RST_ACK, 1, 1, 0)]);
        story.assert_counted(0, 0, 0);
    });
}

#[test]
fn a_back_end_without_histograms_is_counted_and_not_timed() {
    for family in FAMILIES {
        let mut program = Program::load();
        let pair = program.install(&spec(family));
        let before = program.backend(BACKEND);
        let mut story = Story {
            program,
            family,
            pair,
            before,
        };
        story.play(&CONNECT);
        story.play(&[FINISH, ANSWERED[0]]);
        assert!(story.is_asked());
        story.play(&ANSWERED[1..]);
        assert!(!story.is_asked());
        let counted = story.program.backend(BACKEND).since(&story.before);
        assert_eq!((counted.requests, counted.unanswered), (1, 0));
    }
}

#[test]
fn each_tick_has_its_longest_time_and_forgets_it_after_sixteen() {
    tell_established(|story| {
        let mut sent = (1, 1);
        let mut take = |story: &mut Story, tick: u32, long: u32| {
            story.program.control(|control| control.ticks = tick);
            story.play(&[(Client, ACK, sent.0, sent.1, 10)]);
            story.pass(long);
            story.play(&[(Backend, ACK, sent.1, sent.0 + 10, 10)]);
            sent = (sent.0 + 10, sent.1 + 10);
            story.summed(Kind::Response).peaks[tick as usize % 16]
        };
        let near = |word: u64, tick: u32, long: u32| {
            assert_eq!((word >> 32) as u32, tick);
            // The test itself takes no second.
            let slack = (1_000_000_000 / UNIT_NANOS) as u32;
            assert!((long..long + slack).contains(&(word as u32)), "{word:x}");
        };
        near(take(story, 5, LONG), 5, LONG);
        near(take(story, 5, 20 * LONG), 5, 20 * LONG);
        near(take(story, 5, 1), 5, 20 * LONG);
        near(take(story, 6, 1), 6, 1);
        near(take(story, 21, 1), 21, 1);
    });
}

#[test]
fn the_daemons_clock_is_the_programs() {
    tell_established(|story| {
        let before = now();
        story.play(&[(Client, ACK, 1, 1, 100)]);
        let after = now();
        let ran = story.reply().asked.wrapping_sub(before);
        assert!(ran <= after.wrapping_sub(before), "asked {ran} units later");
    });
}

#[test]
fn a_back_end_that_goes_takes_its_times_along() {
    mount_bpf_fs().unwrap();
    let pin_path = Path::new(BPF_FS).join(unique("times"));
    let (mut datapath, _) = Datapath::open(&DatapathConfig {
        pin_path: pin_path.clone(),
        flow_capacity: 64,
    })
    .unwrap();
    let meters = datapath.meters().unwrap();
    for backend in [1, 2] {
        datapath.measure(backend).unwrap();
    }
    let pinned = MapData::from_pin(pin_path.join(TIMES.name)).unwrap();
    let mut times: PerCpuHashMap<_, u32, Histogram> =
        Map::PerCpuHashMap(pinned).try_into().unwrap();
    let processors = aya::util::nr_cpus().unwrap();
    for backend in [1, 2] {
        for (kind, value) in Kind::ALL.into_iter().zip([7, 9]) {
            let mut recorded = Histogram::EMPTY;
            recorded.record(value * backend, TICKS);
            let values = PerCpuValues::try_from(vec![recorded; processors]).unwrap();
            times.insert(kind.key(backend), values, 0).unwrap();
        }
    }
    let before = [1, 2].map(|backend| meters.read(backend));

    datapath.measure_no_more(1);
    for backend in [2, 4095] {
        datapath.measure(backend).unwrap();
    }
    let mut keys: Vec<_> = times.keys().map(Result::unwrap).collect();
    keys.sort_unstable();
    assert_eq!(keys, [4, 5, 8190, 8191]);
    assert_eq!(meters.read(1), Reading::default(), "it is gone");
    assert_eq!(meters.read(2), before[1], "what was measured stays");
    let measured = meters.read(2).since(&Reading::default());
    for (measured, value) in [(measured.response, 14), (measured.connect, 18)] {
        assert_eq!(measured.count(), processors as u64, "one of each processor");
        assert_eq!(measured.max(), Duration::from_nanos(value * UNIT_NANOS));
    }
    let pinned = MapData::from_pin(pin_path.join(BACKENDS.name)).unwrap();
    let mut counted: PerCpuArray<_, BackendCounters> = Map::PerCpuArray(pinned).try_into().unwrap();
    let some = BackendCounters {
        requests: 3,
        ..BackendCounters::default()
    };
    let some = PerCpuValues::try_from(vec![some; processors]).unwrap();
    counted.set(2, some, 0).unwrap();
    assert_eq!(meters.read(2).counters.requests, 3 * processors as u64);
    datapath.measure_anew(2).unwrap();
    assert_eq!(meters.read(2), Reading::default(), "another has its number");
    datapath.measure(1).unwrap();
    datapath.measure_only(&[1, 4095]);
    assert_eq!(times.keys().count(), 4);
    assert_eq!(
        meters.read(1),
        Reading::default(),
        "one that comes back begins anew"
    );
    drop(datapath);
    unload(&pin_path).unwrap();
}
