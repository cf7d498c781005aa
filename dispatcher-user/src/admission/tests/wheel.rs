//! The timing wheel against a sorted list.

use core::time::Duration;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Time, ms};
use crate::admission::keys::{Owner, OwnerKind};
use crate::admission::timer::{NANOS_PER_TICK, Step, TimerId, Wheel};

const TIMERS: u32 = 16;

/// What is done with the wheel; times are nanoseconds from now.
#[derive(Clone, Debug)]
enum Deed {
    Arm(u32, u64),
    Renew(u32),
    Pass(u64),
    PassToNext,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    // Spans of every level, and some that end on a tick.
    let span = (0..48u32, any::<u64>(), any::<bool>()).prop_map(|(bits, random, whole)| {
        let span = random & ((1 << bits) - 1);
        if whole {
            (span.saturating_mul(NANOS_PER_TICK)).min(1 << 60)
        } else {
            span
        }
    });
    let deed = prop_oneof![
        4 => (0..TIMERS, span.clone()).prop_map(|(timer, span)| Deed::Arm(timer, span)),
        1 => (0..TIMERS).prop_map(Deed::Renew),
        1 => span.prop_map(Deed::Pass),
        2 => Just(Deed::PassToNext),
    ];
    prop::collection::vec(deed, 1..120)
}

struct Pair {
    wheel: Wheel,
    timers: Vec<TimerId>,
    /// Deadline and order of arming of each armed timer.
    model: BTreeMap<u32, (u64, usize)>,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        let mut wheel = Wheel::new(TIMERS);
        let timers = (0..TIMERS).map(|index| wheel.add(owner(index))).collect();
        Self {
            wheel,
            timers,
            model: BTreeMap::new(),
            now: 0,
        }
    }

    /// Passes the time to `now` in one go: what fires is what the model says, in its order.
    fn pass(&mut self, now: u64) {
        self.now = self.now.max(now);
        let mut fired = Vec::new();
        loop {
            match self.wheel.step(Time(self.now)) {
                Step::Fired(by) => fired.push(by),
                Step::Moved => {}
                Step::Idle => break,
            }
        }
        let tick = self.now / NANOS_PER_TICK;
        let due = |&(deadline, _): &(u64, usize)| deadline.div_ceil(NANOS_PER_TICK) <= tick;
        let mut expected: Vec<_> = self.model.iter().filter(|(_, armed)| due(armed)).collect();
        expected.sort_by_key(|(_, (deadline, order))| (deadline.div_ceil(NANOS_PER_TICK), *order));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(index, _)| owner(*index))
            .collect();
        assert_eq!(fired, expected);
        self.model.retain(|_, armed| !due(armed));
    }

    fn check_next(&self) {
        let first = self
            .model
            .values()
            .map(|(deadline, _)| deadline.div_ceil(NANOS_PER_TICK))
            .min();
        let next = self.wheel.next().map(|time| time.0 / NANOS_PER_TICK);
        assert_eq!(next.is_some(), first.is_some());
        assert!(
            next <= first,
            "a caller that sleeps until {next:?} is late for {first:?}"
        );
    }
}

fn owner(index: u32) -> Owner {
    Owner::new(OwnerKind::Flow(index))
}

proptest! {
    #![proptest_config(super::seeded())]

    #[test]
    fn timers_fire_in_order_never_early_and_at_most_a_tick_late(deeds in deeds()) {
        let mut pair = Pair::new();
        for (order, deed) in deeds.into_iter().enumerate() {
            match deed {
                Deed::Arm(index, span) => {
                    // A deadline in the past stands for the tick that was reached.
                    let deadline = pair.now.saturating_add(span);
                    pair.wheel.arm(pair.timers[index as usize], Time(deadline));
                    pair.model.insert(index, (deadline, order));
                }
                Deed::Renew(index) => {
                    pair.wheel.remove(pair.timers[index as usize]);
                    pair.timers[index as usize] = pair.wheel.add(owner(index));
                    pair.model.remove(&index);
                }
                Deed::Pass(span) => pair.pass(pair.now.saturating_add(span)),
                Deed::PassToNext => {
                    if let Some(next) = pair.wheel.next() {
                        pair.pass(next.0);
                    }
                }
            }
            pair.check_next();
        }
    }
}

#[test]
fn a_deadline_that_has_passed_fires_at_once() {
    let mut pair = Pair::new();
    pair.pass(ms(5000).0);
    pair.wheel.arm(pair.timers[0], ms(1));
    assert_eq!(pair.wheel.next(), Some(ms(5000)));
    assert_eq!(pair.wheel.step(ms(5000)), Step::Fired(owner(0)));
    assert_eq!(pair.wheel.step(ms(5000)), Step::Idle);
}

#[test]
fn the_last_deadline_that_can_be_told_has_a_slot() {
    let mut pair = Pair::new();
    pair.wheel.arm(pair.timers[0], ms(7) + Duration::MAX);
    assert!(pair.wheel.next().is_some());
    assert_eq!(pair.wheel.step(ms(1)), Step::Idle);
}
