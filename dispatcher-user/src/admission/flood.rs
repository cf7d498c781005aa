//! Whether a flood is on: requests come that do not prove alive, and more of them than a service
//! has places for. One that waits proves alive by being sent again, or by a handshake in the end.
//!
//! While it is on, the program lets only those through that are sent again; so what is counted of
//! requests changes its meaning with it, and what ends a flood is told apart from what begins one.

use core::hash::BuildHasher;
use core::time::Duration;

use super::command::{DiscardReason, ServiceId};
use super::flows::FlowState;
use super::service::{Service, ServiceCounters};
use super::settings::{FloodMode, FloodSettings, Overflow};
use super::{Admission, Time};

/// By when a client that nobody answered has sent its SYN again: after a second (RFC 6298 2.1),
/// and half a second later at most.
const PROVEN_BY: Duration = Duration::from_millis(1500);
/// Requests at the head of a queue that are looked at for that.
const SAMPLE_MAX: usize = 64;
/// Fewer say nothing.
const SAMPLE_MIN: usize = 16;
/// Requests a second that may always fail to prove alive without a flood going on for it: the
/// noise of the internet.
const NOISE: u64 = 10;
/// Over how long that is judged whether a flood goes on: some retransmissions wait for a second.
const JUDGED: Duration = Duration::from_secs(1);
/// The part of what makes a flood that makes one likely.
const LIKELY: u64 = 4;
/// A flood that comes back within this after it ended must be away for twice as long.
const COMES_BACK: Duration = Duration::from_secs(60);
/// How often that doubles.
const DOUBLED_MAX: u32 = 4;

/// What a service has counted, all since it was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counted {
    /// Requests that reached admission.
    received: u64,
    /// Those of them that found no slot free, and those that were lost on the way.
    unplaced: u64,
    /// Those that proved alive after that.
    proven: u64,
    /// Requests that the program dropped because they were seen for the first time.
    unproven: u64,
}

impl Counted {
    const fn since(&self, before: &Self) -> Self {
        Self {
            received: self.received.saturating_sub(before.received),
            unplaced: self.unplaced.saturating_sub(before.unplaced),
            proven: self.proven.saturating_sub(before.proven),
            unproven: self.unproven.saturating_sub(before.unproven),
        }
    }
}

/// What came over a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FloodChange {
    /// A flood is on from now on.
    Begun,
    /// It is over.
    Over,
}

/// A service's floods, as they are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FloodView {
    /// When the one that is on began.
    pub since: Option<Time>,
    /// How many there were, this one included.
    pub begun: u64,
    /// Requests that the program dropped because they had not proved alive.
    pub unproven: u64,
}

/// What is known of a service's floods.
#[derive(Clone, Debug, Default)]
pub(super) struct Flood {
    since: Option<Time>,
    begun: u64,
    over: Option<Time>,
    /// How often the time that a flood must be away was doubled.
    doubled: u32,
    /// Since when the flood that is on was away, by what was judged.
    quiet_since: Option<Time>,
    /// When was looked last, and what was counted by then.
    looked: Option<(Time, Counted)>,
    /// When was judged last, and what was counted by then.
    judged: Option<(Time, Counted)>,
    /// Requests that did not prove alive beyond those that may, in thousandths.
    excess: u64,
    /// Requests that were queued before this one began are still to be looked through.
    clears: bool,
    lost: u64,
    proven: u64,
    /// What the program had counted when this began to count.
    base: Option<u64>,
    unproven: u64,
}

impl Flood {
    pub(super) const fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Whether there may be one that the next look will tell of: so many requests have found no
    /// slot free since the last one, or shortly before.
    const fn is_likely(&self, settings: &FloodSettings, unplaced: u64) -> bool {
        let (FloodMode::Auto, Some((_, before))) = (settings.mode, self.looked) else {
            return false;
        };
        let new = (unplaced + self.lost).saturating_sub(before.unplaced);
        self.excess + new * 1000 > settings.rate as u64 * 1000 / LIKELY
    }

    /// A request that found no slot free has proved alive.
    pub(super) const fn prove(&mut self) {
        self.proven += 1;
    }

    pub(super) const fn view(&self) -> FloodView {
        FloodView {
            since: self.since,
            begun: self.begun,
            unproven: self.unproven,
        }
    }

    /// Looks at what was counted up to now. `stale` tells that most of those that wait have missed
    /// the time by which they should have proved alive.
    fn look(
        &mut self,
        now: Time,
        settings: &FloodSettings,
        noise: u64,
        counted: Counted,
        stale: bool,
    ) -> Option<FloodChange> {
        let (last, before) = self
            .looked
            .replace((now, counted))
            .unwrap_or((now, counted));
        let begins = match settings.mode {
            FloodMode::Off => false,
            FloodMode::On => true,
            FloodMode::Auto => {
                let new = counted.since(&before);
                let strangers = new.unplaced.saturating_sub(new.proven) * 1000;
                let may = u64::from(settings.rate) * millis(now.since(last));
                self.excess = (self.excess + strangers).saturating_sub(may);
                self.excess > u64::from(settings.rate) * 1000 || stale
            }
        };
        match (self.is_on(), settings.mode) {
            (false, _) if begins => {
                self.begin(now, counted);
                Some(FloodChange::Begun)
            }
            (true, FloodMode::Off) => Some(self.end(now)),
            (true, FloodMode::Auto) if self.is_away(now, settings.hold, noise, counted) => {
                Some(self.end(now))
            }
            _ => None,
        }
    }

    fn begin(&mut self, now: Time, counted: Counted) {
        let came_back = self.over.is_some_and(|over| now.since(over) < COMES_BACK);
        self.doubled = match came_back {
            true => (self.doubled + 1).min(DOUBLED_MAX),
            false => 0,
        };
        self.since = Some(now);
        self.begun += 1;
        self.quiet_since = None;
        self.judged = Some((now, counted));
        self.clears = true;
    }

    fn end(&mut self, now: Time) -> FloodChange {
        self.since = None;
        self.over = Some(now);
        self.excess = 0;
        self.clears = false;
        FloodChange::Over
    }

    /// Whether the flood was away for `hold`, or longer if it has come back before. It is away
    /// while three of four that are seen for the first time are seen again, and of the others no
    /// more come than may.
    fn is_away(&mut self, now: Time, hold: Duration, noise: u64, counted: Counted) -> bool {
        let (last, before) = self.judged.unwrap_or((now, counted));
        let length = now.since(last);
        if length >= JUDGED {
            self.judged = Some((now, counted));
            let new = counted.since(&before);
            let strangers = new.unproven.saturating_sub(new.received);
            let may = new.unproven / 4 + noise * millis(length) / 1000;
            self.quiet_since = match strangers <= may {
                true => self.quiet_since.or(Some(last)),
                false => None,
            };
        }
        let hold = hold * (1 << self.doubled);
        self.quiet_since
            .is_some_and(|since| now.since(since) >= hold)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<S> Service<S> {
    /// What unfinished handshakes may hold of a ceiling, percent.
    pub(super) const fn half_open_percent(&self) -> u32 {
        match self.flood.is_on() {
            true => self.settings.flood.half_open,
            false => 100,
        }
    }

    /// How long a handshake may take.
    pub(super) fn handshake_in(&self) -> Duration {
        match self.flood.is_on() {
            true => self.settings.handshake.min(self.settings.flood.handshake),
            false => self.settings.handshake,
        }
    }

    /// How long a back-end may take to answer a SYN.
    pub(super) fn answer_in(&self) -> Duration {
        self.settings.connect.min(self.handshake_in())
    }

    /// What is done with a request that is turned away. In a flood nobody is answered whose address
    /// may be another's; nor while there may be one, or clients would be refused as it begins.
    pub(super) const fn overflow(&self) -> Overflow {
        let unplaced = self.counters.queued + self.counters.refused;
        match self.flood.is_on() || self.flood.is_likely(&self.settings.flood, unplaced) {
            true => Overflow::Drop,
            false => self.settings.overflow,
        }
    }
}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// Looks whether a flood began or is over; to be called a few times a second. `unproven` is
    /// what the program counts of the service's requests as such, `lost` how many requests were
    /// lost on their way here since the last call. A service that is not there has no floods.
    ///
    /// Until the next call, requests may come that passed the program before it knew of the flood.
    pub fn handle_flood(
        &mut self,
        now: Time,
        id: ServiceId,
        unproven: u64,
        lost: u64,
    ) -> Option<FloodChange> {
        let stale = self.is_stale(now, id);
        let service = self.services.get_mut(id.0)?;
        let flood = &mut service.flood;
        flood.lost += lost;
        let base = *flood.base.get_or_insert(unproven);
        flood.unproven = unproven.saturating_sub(base);
        let ServiceCounters {
            received,
            queued,
            refused,
            ..
        } = service.counters;
        let counted = Counted {
            received,
            unplaced: queued + refused + flood.lost,
            proven: flood.proven,
            unproven: flood.unproven,
        };
        let noise = NOISE.max(u64::from(service.settings.queue_capacity) / 100);
        let settings = service.settings.flood;
        let clears = core::mem::take(&mut flood.clears);
        let change = flood.look(now, &settings, noise, counted, stale);
        if change.is_some() {
            self.bound_half_open(id);
            self.settle(now);
        } else if clears {
            self.clear(now, id);
        }
        change
    }

    /// Whether most of those that have waited longest have missed the time by which they should
    /// have proved alive.
    fn is_stale(&self, now: Time, id: ServiceId) -> bool {
        let Some(service) = self.services.get(id.0) else {
            return false;
        };
        let (mut looked_at, mut silent) = (0, 0);
        for (_, queued) in self.backlog.iter(&service.queue).take(SAMPLE_MAX) {
            if now.since(queued.enqueued_at) >= PROVEN_BY {
                looked_at += 1;
                silent += usize::from(queued.retransmissions == 0);
            }
        }
        looked_at >= SAMPLE_MIN && silent * 4 >= looked_at * 3
    }

    /// Holds unfinished handshakes to their share of each ceiling, or no longer.
    pub(super) fn bound_half_open(&mut self, id: ServiceId) {
        let service = &self.services[id.0];
        let percent = service.half_open_percent();
        let members: Vec<_> = service.members.iter().copied().flatten().collect();
        for backend in members {
            self.backends[backend.0].limiter.bound_half_open(percent);
            self.refresh(backend);
        }
    }

    /// Makes room for those that prove alive: gives up all who wait and have not, and judges
    /// handshakes by the shorter time. A client among them is known to the program, and gets
    /// through when it sends its SYN again.
    fn clear(&mut self, now: Time, id: ServiceId) {
        let service = &self.services[id.0];
        let silent: Vec<_> = self
            .backlog
            .iter(&service.queue)
            .filter(|(_, queued)| queued.retransmissions == 0)
            .map(|(index, _)| index)
            .collect();
        let (answer, handshake) = (service.answer_in(), service.handshake_in());
        for index in silent {
            if let Some(queued) = self.dequeue(now, index) {
                self.services[id.0].counters.abandoned += 1;
                self.discard(id, queued.request, DiscardReason::Abandoned);
            }
        }
        for (_, flow) in self.flows.iter() {
            if flow.service == id && flow.state == FlowState::HalfOpen {
                let time = if flow.is_answer_known() {
                    handshake
                } else {
                    answer
                };
                self.timers.arm(flow.timer, flow.admitted_at + time);
            }
        }
        self.settle(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: FloodSettings = FloodSettings {
        mode: FloodMode::Auto,
        rate: 2000,
        hold: Duration::from_secs(10),
        half_open: 50,
        handshake: Duration::from_secs(2),
    };
    /// From one look to the next, milliseconds.
    const TICK: u64 = 100;

    /// A service at which so much happens each second.
    #[derive(Clone, Copy, Debug, Default)]
    struct Load {
        /// Requests that nobody will ever send again.
        forged: u64,
        /// Clients that find a slot.
        served: u64,
        /// Clients that find none, and repeat themselves a second later.
        waiting: u64,
        /// The same, but they are refused, and come no more.
        refused: u64,
    }

    struct World {
        flood: Flood,
        settings: FloodSettings,
        counted: Counted,
        now: u64,
        /// What was seen for the first time in the last second, tick by tick, by clients.
        clients: std::collections::VecDeque<u64>,
    }

    impl World {
        fn new(settings: FloodSettings) -> Self {
            Self {
                flood: Flood::default(),
                settings,
                counted: Counted::default(),
                now: 0,
                clients: vec![0; 10].into(),
            }
        }

        /// Lets it go on for so many ticks; the first change, and when that was told.
        fn run(&mut self, load: Load, ticks: u64) -> Option<(u64, FloodChange)> {
            let began = self.now;
            for _ in 0..ticks {
                self.now += TICK;
                let of = |a_second: u64| a_second * TICK / 1000;
                let counted = &mut self.counted;
                let clients = of(load.served + load.waiting + load.refused);
                self.clients.push_back(clients);
                let again = self.clients.pop_front().unwrap_or_default();
                if self.flood.is_on() {
                    counted.unproven += of(load.forged) + clients;
                    counted.received += again;
                } else {
                    counted.received += of(load.forged) + clients;
                    counted.unplaced += of(load.forged + load.waiting + load.refused);
                    counted.proven +=
                        again * load.waiting / (load.served + load.waiting + load.refused).max(1);
                }
                let now = Time(self.now * 1_000_000);
                let change = self.flood.look(now, &self.settings, NOISE, *counted, false);
                if let Some(change) = change {
                    return Some((self.now - began, change));
                }
            }
            None
        }
    }

    #[test]
    fn a_flood_is_noticed_the_sooner_the_more_there_is_of_it() {
        let forged = |forged| Load {
            forged,
            ..Load::default()
        };
        // Requests each second, and after how many milliseconds a flood is on.
        let rows = [
            (0, None),
            (1900, None),
            (4200, Some(1000)),
            (20_000, Some(200)),
            (100_000, Some(100)),
            (1_000_000, Some(100)),
        ];
        for (rate, expected) in rows {
            let mut world = World::new(SETTINGS);
            world.run(Load::default(), 2);
            let change = world.run(forged(rate), 600);
            let expected = expected.map(|after| (after, FloodChange::Begun));
            assert_eq!(change, expected, "{rate} a second");
        }
    }

    #[test]
    fn clients_make_no_flood_however_many_there_are() {
        let rows = [
            Load {
                served: 200_000,
                ..Load::default()
            },
            Load {
                served: 1000,
                waiting: 1900,
                ..Load::default()
            },
            Load {
                served: 50_000,
                refused: 1900,
                ..Load::default()
            },
        ];
        for load in rows {
            let mut world = World::new(SETTINGS);
            assert_eq!(world.run(load, 600), None, "{load:?}");
        }
    }

    #[test]
    fn a_flood_is_over_when_it_was_away_for_long_enough() {
        let flood = Load {
            forged: 100_000,
            served: 500,
            ..Load::default()
        };
        let peace = Load {
            served: 500,
            ..Load::default()
        };
        let mut world = World::new(SETTINGS);
        world.run(peace, 2);
        assert_eq!(world.run(flood, 10), Some((100, FloodChange::Begun)));
        assert_eq!(world.run(flood, 6000), None, "for ten minutes");
        // It was part of the first second that is judged, and is away for ten after that.
        let (after, change) = world.run(peace, 200).expect("it ends");
        assert_eq!(change, FloodChange::Over);
        assert!((10_000..=12_000).contains(&after), "{after} ms");
        assert_eq!(world.run(peace, 600), None);
    }

    #[test]
    fn a_flood_that_comes_and_goes_must_be_away_for_longer_each_time() {
        let flood = Load {
            forged: 100_000,
            ..Load::default()
        };
        let mut world = World::new(SETTINGS);
        let mut away = |pause| {
            assert_eq!(world.run(Load::default(), pause), None);
            assert_eq!(
                world.run(flood, 10).map(|change| change.1),
                Some(FloodChange::Begun)
            );
            let (after, change) = world.run(Load::default(), 2000).expect("it ends");
            assert_eq!(change, FloodChange::Over);
            after / 10_000
        };
        assert_eq!(away(2), 1);
        assert_eq!(
            [away(2), away(2), away(2), away(2), away(2)],
            [2, 4, 8, 16, 16]
        );
        assert_eq!(away(700), 1, "it had not come back for a minute");
    }

    #[test]
    fn a_mode_is_obeyed_at_the_next_look() {
        let flood = Load {
            forged: 100_000,
            ..Load::default()
        };
        let with = |mode| FloodSettings { mode, ..SETTINGS };
        let mut world = World::new(with(FloodMode::Off));
        assert_eq!(world.run(flood, 100), None);
        world.settings = with(FloodMode::On);
        assert_eq!(
            world.run(Load::default(), 1),
            Some((100, FloodChange::Begun))
        );
        assert_eq!(
            world.run(Load::default(), 1000),
            None,
            "nobody floods, and it is on"
        );
        world.settings = with(FloodMode::Off);
        assert_eq!(world.run(flood, 1), Some((100, FloodChange::Over)));
    }

    proptest! {
        #![proptest_config(crate::admission::tests::seeded())]

        /// Whatever is counted and whenever it is looked at: changes alternate, what is told agrees
        /// with them, and none is over before its time.
        #[test]
        fn begun_and_over_alternate(
            looks in prop::collection::vec(
                (1u64..5000, 0u64..20_000, 0u64..20_000, 0u64..20_000, 0u64..20_000, any::<bool>()),
                1..200,
            )
        ) {
            let mut flood = Flood::default();
            let (mut counted, mut now, mut begun) = (Counted::default(), 0, None);
            for (pause, received, unplaced, proven, unproven, stale) in looks {
                now += pause;
                counted.received += received;
                counted.unplaced += unplaced;
                counted.proven += proven;
                counted.unproven += unproven;
                let at = Time(now * 1_000_000);
                let change = flood.look(at, &SETTINGS, NOISE, counted, stale);
                match change {
                    Some(FloodChange::Begun) => {
                        prop_assert!(begun.is_none());
                        begun = Some(now);
                    }
                    Some(FloodChange::Over) => {
                        let since = begun.take();
                        prop_assert!(since.is_some_and(|since| now - since >= 10_000));
                    }
                    None => {}
                }
                prop_assert_eq!(flood.is_on(), begun.is_some());
                prop_assert_eq!(flood.view().since, begun.map(|at| Time(at * 1_000_000)));
            }
        }
    }
}
