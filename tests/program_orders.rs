//! Generated histories of a connection, through the real program: packet by packet it makes of a
//! flow what the state machine makes of it on the host, and reports it as often.

use dispatcher_common::event::FlowEvent;
use dispatcher_common::flow::{Direction, FlowPair};
use dispatcher_common::parse::parse;
use dispatcher_common::tcp::Phase;
use dispatcher_common::verdict::DropReason;
use dispatcher_hostile::random::Random;
use dispatcher_hostile::wire::{Fate, Kept, Seen, Wire, history};
use dispatcher_tests::packet::{BACKEND_ONE, CLIENT_ONE, FAMILIES, Family, Packet, VIP_ONE};
use dispatcher_tests::program::{Action, Outcome, Program, Verdict, spec};

/// The program, with the flow that it keeps, if any.
struct Table {
    program: Program,
    family: Family,
    pair: Option<FlowPair>,
}

impl Table {
    fn install(&mut self, kept: &Kept) {
        let spec = spec(self.family);
        let pair = self.program.install(&dispatcher_common::flow::FlowSpec {
            flow: kept.id.index,
            generation: kept.id.generation,
            isn: kept.tracks[0].seq_end.wrapping_sub(1),
            ..spec
        });
        self.pair = Some(pair);
    }

    fn remove(&mut self) {
        if let Some(pair) = self.pair.take() {
            for key in [pair.forward_key, pair.reply_key] {
                self.program.flows.remove(&key).unwrap();
            }
        }
    }

    fn run(&mut self, seen: &Seen) -> Outcome {
        let packet = match seen.direction {
            Direction::Forward => Packet::tcp(CLIENT_ONE, VIP_ONE),
            Direction::Reply => Packet::tcp(BACKEND_ONE, CLIENT_ONE),
        };
        let segment = &seen.segment;
        let packet = packet.over(self.family).flags(segment.flags);
        let packet = packet.seq(segment.seq).ack(segment.ack);
        let payload = vec![b'.'; segment.payload as usize];
        self.program.run(&packet.payload(&payload).build())
    }

    /// Everything that the program keeps of the flow.
    fn kept(&self, kept: &Kept) -> Kept {
        let pair = self.pair.as_ref().expect("it is installed");
        let keys = [pair.forward_key, pair.reply_key];
        let [forward, reply] = keys.map(|key| self.program.entry(&key));
        assert_eq!(forward.phase, reply.phase);
        Kept {
            phase: Phase(forward.phase),
            tracks: [forward.track, reply.track],
            ..*kept
        }
    }

    fn replay(&mut self, seen: &Seen, before: Phase) {
        if seen.fate == Fate::Unknown {
            self.remove();
        }
        let outcome = self.run(seen);
        let verdict = outcome.verdict();
        let events = self.program.events();
        let expected = match (&seen.fate, seen.direction) {
            (Fate::SentOn(..), _) => Verdict::Sent(Action::Redirect),
            (Fate::Punted(_), _) => Verdict::Dropped(DropReason::Unattended),
            (Fate::Unknown, Direction::Reply) => Verdict::Passed,
            (Fate::Unknown, Direction::Forward) | (Fate::HeldBack, _) => {
                Verdict::Dropped(DropReason::NoFlow)
            }
        };
        assert_eq!(verdict, expected);
        match &seen.fate {
            Fate::SentOn(kept, is_news) => {
                assert_eq!(self.kept(kept), *kept);
                assert_eq!(parse(&outcome.frame[..]).unwrap().tcp, seen.sent);
                let event = FlowEvent {
                    flow: kept.id.index,
                    generation: kept.id.generation,
                    phase: kept.phase.0,
                    added: kept.phase.0 & !before.0,
                };
                assert_eq!(events, if *is_news { vec![event] } else { vec![] });
            }
            Fate::Punted(Some(kept)) => self.install(kept),
            Fate::Punted(None) | Fate::HeldBack | Fate::Unknown => assert_eq!(events, []),
        }
    }
}

#[test]
fn the_program_follows_every_history_as_the_state_machine_does() {
    const HISTORIES: u64 = 300;
    let mut table = Table {
        program: Program::load(),
        family: Family::V4,
        pair: None,
    };
    let (mut packets, mut ended) = (0, 0);
    for seed in 0..HISTORIES {
        let mut random = Random::new(seed);
        let mut wire = Wire::new();
        let length = 20 + random.below(200) as usize;
        history(&mut random, length, |act| wire.act(act));
        wire.settle();
        table.family = FAMILIES[seed as usize % 2];
        let mut before = Phase::default();
        for (n, seen) in wire.seen.iter().enumerate() {
            let replay = std::panic::AssertUnwindSafe(|| table.replay(seen, before));
            let replayed = std::panic::catch_unwind(replay);
            assert!(replayed.is_ok(), "seed {seed}, packet {n}: {:?}", wire.seen);
            before = match seen.fate {
                Fate::SentOn(kept, _) | Fate::Punted(Some(kept)) => kept.phase,
                Fate::Punted(None) | Fate::HeldBack | Fate::Unknown => before,
            };
            ended += u64::from(before.is_ended());
        }
        packets += wire.seen.len();
        table.remove();
    }
    assert!(packets > 5_000, "only {packets} packets");
    assert!(ended > 500, "only {ended} of an ended flow");
}
