//! Tests of the ways to balance: shares, fairness, what a change disrupts; and each of them against
//! the same rule by looking at everybody.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::least_response_time::SAMPLE_MAX;
use super::maglev::Member;
use super::source_hash::PROBES_MAX;
use super::*;
use crate::admission::settings::Ceiling;
use crate::admission::tests::seeded;

const BALANCES: [Balance; 4] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::LeastResponseTime,
    Balance::SourceHash,
];

fn addr(number: u32) -> Addr {
    Addr::from_v4_bytes((0x0a00_0000 + number).to_be_bytes())
}

fn settings(position: u32, weight: u32, group: Option<GroupId>) -> BackendSettings {
    BackendSettings {
        addr: addr(position),
        port: Port::new(8080),
        ceiling: Ceiling {
            initial: 1,
            min: 1,
            max: 1,
        },
        capacity: 1,
        weight,
        group,
    }
}

const fn free(held: u32) -> Standing {
    Standing {
        up: true,
        available: true,
        held,
    }
}

const fn full(held: u32) -> Standing {
    Standing {
        up: true,
        available: false,
        held,
    }
}

const DOWN: Standing = Standing {
    up: false,
    available: false,
    held: 0,
};

/// A selector without groups whose back-ends, one for each weight, are all free.
struct Pool {
    selector: Selector,
    groups: Groups,
}

impl Pool {
    fn new(balance: Balance, weights: &[u32]) -> Self {
        let mut selector = Selector::new(balance);
        for (position, &weight) in (0..).zip(weights) {
            selector.insert(position, &settings(position, weight, None));
            selector.set(position, free(0));
        }
        Self {
            selector,
            groups: Groups::new(),
        }
    }

    fn pick_for(&mut self, client: u32) -> Option<u32> {
        let open = self.selector.open(&self.groups);
        self.selector.pick(open, &addr(client), &mut |_| false)
    }

    fn pick(&mut self) -> u32 {
        self.pick_for(0).unwrap()
    }

    fn picks(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.pick()).collect()
    }
}

fn tally(picks: impl IntoIterator<Item = u32>) -> BTreeMap<u32, u32> {
    let mut tally = BTreeMap::new();
    for pick in picks {
        *tally.entry(pick).or_default() += 1;
    }
    tally
}

#[test]
fn a_selector_passes_over_the_few_it_is_told_to() {
    for balance in BALANCES {
        let mut pool = Pool::new(balance, &[]);
        for position in [3, 64, POSITIONS_MAX - 1] {
            let inserted = settings(position, 1, None);
            pool.selector.insert(position, &inserted);
            pool.selector.set(position, free(0));
        }
        let open = pool.selector.open(&pool.groups);
        let mut others = BTreeSet::new();
        for _ in 0..8 {
            let pick = pool
                .selector
                .pick(open, &addr(1), &mut |position| position == 64);
            others.insert(pick);
        }
        let expected = BTreeSet::from([Some(3), Some(POSITIONS_MAX - 1)]);
        assert!(others.is_subset(&expected), "{balance:?}: {others:?}");
        assert_eq!(pool.selector.pick(open, &addr(1), &mut |_| true), None);
        assert!(
            pool.pick_for(1).is_some(),
            "{balance:?}: a pick in vain leaves all as it was"
        );
    }
}

#[test]
fn round_robin_with_equal_weights_is_in_turn() {
    let mut pool = Pool::new(Balance::RoundRobin, &[7, 7, 7]);
    assert_eq!(pool.picks(4), [0, 1, 2, 0]);
    pool.selector.set(1, full(1));
    assert_eq!(pool.picks(3), [2, 0, 2]);
    pool.selector.set(1, free(0));
    assert_eq!(pool.picks(3), [0, 1, 2]);
}

#[test]
fn weighted_round_robin_gives_each_its_share_spread_out() {
    let mut pool = Pool::new(Balance::RoundRobin, &[5, 1, 2]);
    let picks = pool.picks(800);
    assert_eq!(
        tally(picks.iter().copied()),
        BTreeMap::from([(0, 500), (1, 100), (2, 200)])
    );
    for window in picks.windows(8) {
        let most = tally(window.iter().copied())[&0];
        assert!((4..=6).contains(&most), "{window:?}");
    }
}

#[test]
fn what_a_back_end_missed_is_not_made_up_for() {
    let mut pool = Pool::new(Balance::RoundRobin, &[3, 2, 1]);
    pool.picks(60);
    pool.selector.set(0, DOWN);
    assert!(!pool.picks(300).contains(&0));
    pool.selector.set(0, free(0));
    let share = tally(pool.picks(60))[&0];
    assert!((30..=31).contains(&share), "{share}");
}

#[test]
fn a_new_weight_holds_from_the_next_turn_on() {
    let mut pool = Pool::new(Balance::RoundRobin, &[1, 1]);
    assert_eq!(pool.picks(4), [0, 1, 0, 1]);
    assert!(pool.selector.change(1, &settings(1, 3, None)));
    assert_eq!(tally(pool.picks(400))[&1], 300);
    assert!(pool.selector.change(1, &settings(1, 1, None)));
    assert_eq!(tally(pool.picks(400))[&1], 200);
}

#[test]
fn least_connections_keeps_what_is_held_in_proportion_to_weights() {
    let mut pool = Pool::new(Balance::LeastConnections, &[1, 2, 4]);
    let mut held = [0; 3];
    for _ in 0..700 {
        let pick = pool.pick();
        held[pick as usize] += 1;
        pool.selector.set(pick, free(held[pick as usize]));
    }
    assert_eq!(held, [100, 200, 400]);

    pool.selector.set(0, free(50));
    assert!((0..50).all(|more| {
        let pick = pool.pick();
        pool.selector.set(0, free(51 + more));
        pick == 0
    }));
}

#[test]
fn idle_back_ends_have_their_shares_by_turns() {
    let mut pool = Pool::new(Balance::LeastConnections, &[1, 2, 4]);
    let picks = pool.picks(700);
    assert_eq!(tally(picks), BTreeMap::from([(0, 100), (1, 200), (2, 400)]));
}

#[test]
fn the_fastest_of_those_that_are_not_hot_is_picked() {
    let mut pool = Pool::new(Balance::LeastResponseTime, &[1; 4]);
    let millis = [10, 20, 30, 40];
    for (position, millis) in (0..).zip(millis) {
        let response = Some(Duration::from_millis(millis));
        pool.selector.set_response_time(position, response);
        pool.selector.set(position, free(5));
    }
    assert_eq!(pool.pick(), 0);
    pool.selector.set(0, free(6));
    assert_eq!(pool.pick(), 1, "the first holds more than the others");
    pool.selector.set(1, free(6));
    assert_eq!(pool.pick(), 0, "so does the second");
    pool.selector.change(0, &settings(0, 2, None));
    pool.selector.set(0, free(11));
    assert_eq!(pool.pick(), 0, "it is worth two");
}

#[test]
fn a_back_end_that_was_not_measured_is_given_a_chance_and_no_crowd() {
    let mut pool = Pool::new(Balance::LeastResponseTime, &[1; 3]);
    for position in 0..2 {
        let response = Some(Duration::from_millis(1));
        pool.selector.set_response_time(position, response);
    }
    assert_eq!(pool.pick(), 2);
    pool.selector.set(2, free(1));
    assert_ne!(pool.pick(), 2);

    let mut idle = Pool::new(Balance::LeastResponseTime, &[1; 3]);
    assert_eq!(idle.picks(6), [0, 1, 2, 0, 1, 2], "nobody was measured");
}

#[test]
fn every_available_back_end_is_drawn_as_often_as_any() {
    let mut pool = Pool::new(Balance::LeastResponseTime, &[1; 64]);
    // Of eight that are drawn one is faster than the rest: the fastest is chosen whenever drawn.
    for position in 0..64 {
        let response = Duration::from_millis(1 + u64::from(position));
        pool.selector.set_response_time(position, Some(response));
    }
    for gone in 32..48 {
        pool.selector.set(gone, DOWN);
    }
    let tally = tally(pool.picks(48_000));
    assert!(!tally.keys().any(|position| (32..48).contains(position)));
    // Chance that the fastest is among 8 of 48 is a sixth.
    assert!((7600..=8400).contains(&tally[&0]), "{}", tally[&0]);
}

#[test]
fn the_same_draws_follow_every_start() {
    let picks = || Pool::new(Balance::LeastResponseTime, &[1; 100]).picks(100);
    assert_eq!(picks(), picks());
}

fn members(weights: &[u32]) -> Vec<Member> {
    let members = (0..).zip(weights);
    members
        .map(|(number, &weight)| Member {
            addr: addr(number.into()),
            port: Port::new(8080),
            weight,
            position: number,
        })
        .collect()
}

fn table(slots: u32, members: Vec<Member>) -> Vec<u16> {
    let mut table = Vec::new();
    maglev::fill(&mut table, slots, members);
    table
}

/// Slots of each member.
fn slots_of(table: &[u16]) -> BTreeMap<u32, u32> {
    tally(table.iter().map(|&position| position.into()))
}

#[test]
fn a_table_is_as_katran_has_it() {
    assert_eq!(table(7, members(&[])), [] as [u16; 0]);
    assert_eq!(table(7, members(&[1])), [0; 7]);
    let slots = slots_of(&table(7, members(&[2, 1])));
    assert_eq!(slots, BTreeMap::from([(0, 5), (1, 2)]));
}

#[test]
fn a_table_does_not_depend_on_the_order_in_which_back_ends_came() {
    let mut other = members(&[3, 1, 2, 5, 5]);
    let one = table(maglev::SMALL, other.clone());
    other.reverse();
    assert_eq!(table(maglev::SMALL, other), one);
}

#[test]
fn slots_are_in_proportion_to_weights() {
    let slots = slots_of(&table(maglev::SMALL, members(&[1, 2, 7])));
    for (member, share) in [(0, 0.1), (1, 0.2), (2, 0.7)] {
        let got = f64::from(slots[&member]) / f64::from(maglev::SMALL);
        assert!((got - share).abs() < 0.001, "{got} for {share}");
    }
    let many = slots_of(&table(maglev::LARGE, members(&[1; 1024])));
    assert!(many.len() == 1024 && many.values().all(|slots| (64..=65).contains(slots)));
    let small = slots_of(&table(
        maglev::SMALL,
        members(&[1; maglev::SMALL_MEMBERS_MAX]),
    ));
    assert!(small.values().all(|slots| (102..=103).contains(slots)));
}

/// How many slots changed hands between back-ends that were there before and after, in a hundred
/// of those that they had.
fn disrupted(before: &[u16], after: &[u16], gone: u16) -> f64 {
    let kept = before.iter().zip(after).filter(|(b, _)| **b != gone);
    let (kept, moved) = kept.fold((0, 0), |(kept, moved), (b, a)| {
        (kept + 1, moved + u32::from(a != b && *a != gone))
    });
    100.0 * f64::from(moved) / f64::from(kept)
}

#[test]
fn a_back_end_that_goes_or_comes_moves_few_of_the_others_slots() {
    for (slots, count, at_most) in [
        (maglev::SMALL, 3, 1.0),
        (maglev::SMALL, 40, 3.0),
        (maglev::LARGE, 100, 3.0),
        (maglev::LARGE, 1024, 6.0),
    ] {
        let all = members(&vec![1; count]);
        let gone = all[count / 2].position;
        let mut rest = all.clone();
        rest.retain(|member| member.position != gone);
        let (with, without) = (table(slots, all), table(slots, rest));
        let goes = disrupted(&with, &without, gone);
        let comes = disrupted(&without, &with, gone);
        assert!(
            goes <= at_most && comes <= at_most,
            "{goes} % as one of {count} goes, {comes} % as it comes"
        );
    }
}

#[test]
fn a_client_keeps_its_back_end_while_that_is_there() {
    let mut pool = Pool::new(Balance::SourceHash, &[1; 10]);
    let clients = 0..1000;
    let before: Vec<_> = clients
        .clone()
        .map(|client| pool.pick_for(client))
        .collect();
    let mut again: Vec<_> = clients
        .clone()
        .map(|client| pool.pick_for(client))
        .collect();
    assert_eq!(again, before);
    let shares = tally(before.iter().copied().flatten());
    assert!(shares.len() == 10 && shares.values().all(|share| (60..=140).contains(share)));

    pool.selector.set(4, DOWN);
    again = clients
        .clone()
        .map(|client| pool.pick_for(client))
        .collect();
    let (mut of_the_rest, mut moved) = (0, 0);
    for (before, after) in before.iter().zip(&again) {
        assert_ne!(*after, Some(4));
        if *before != Some(4) {
            of_the_rest += 1;
            moved += u32::from(before != after);
        }
    }
    assert!(moved * 50 <= of_the_rest, "{moved} of {of_the_rest}");
    pool.selector.set(4, free(0));
    again = clients.map(|client| pool.pick_for(client)).collect();
    assert_eq!(again, before, "it has all of its clients back");
}

#[test]
fn clients_of_a_full_back_end_spread_over_the_others_and_come_back() {
    let mut pool = Pool::new(Balance::SourceHash, &[1; 10]);
    let clients: Vec<_> = (0..2000)
        .filter(|&client| pool.pick_for(client) == Some(4))
        .collect();
    pool.selector.set(4, full(9));
    let elsewhere = |pool: &mut Pool| -> Vec<_> {
        let picks = clients.iter().map(|&client| pool.pick_for(client));
        picks.map(Option::unwrap).collect()
    };
    let first = elsewhere(&mut pool);
    assert_eq!(elsewhere(&mut pool), first, "each to the same one again");
    assert_eq!(tally(first).len(), 9);
    pool.selector.set(4, free(8));
    assert!(elsewhere(&mut pool).iter().all(|&pick| pick == 4));
}

#[test]
fn when_no_hashed_back_end_is_available_another_is_taken_in_turn() {
    let mut pool = Pool::new(Balance::SourceHash, &[1; 1024]);
    for position in 0..1022 {
        pool.selector.set(position, full(1));
    }
    let mut picks = (0..200).map(|client| pool.pick_for(client).unwrap());
    let (first, second) = (picks.next().unwrap(), picks.next().unwrap());
    assert_ne!(first, second);
    assert_eq!(tally(picks).len(), 2);
}

#[test]
fn back_ends_of_a_service_are_of_a_bounded_number_of_groups() {
    let mut groups = Groups::new();
    let ids: Vec<_> = (0..=GROUPS_PER_SERVICE_MAX)
        .map(|_| groups.add(1).unwrap())
        .collect();
    let (last, rest) = ids.split_last().unwrap();
    let mut selector = Selector::new(Balance::RoundRobin);
    for (position, &group) in (1..).zip(rest) {
        assert!(selector.admits(Some(group)));
        selector.insert(position, &settings(position, 1, Some(group)));
    }
    selector.insert(0, &settings(0, 1, None));
    assert!(!selector.admits(Some(*last)));
    assert!(!selector.change(0, &settings(0, 1, Some(*last))));
    assert!(
        selector.change(1, &settings(1, 1, Some(*last))),
        "the only one of its group leaves a place for another"
    );
    assert!(!selector.admits(Some(rest[0])));
    selector.remove(1);
    assert!(selector.admits(Some(rest[0])));
}

/// The rules once more, by looking at everybody each time.
struct Naive {
    balance: Balance,
    members: BTreeMap<u32, One>,
    cursor: u32,
    weighted: bool,
    time: u128,
    picks: u64,
    /// Made anew after every change.
    table: Option<Vec<u16>>,
}

struct One {
    weight: u32,
    group: Option<usize>,
    standing: Standing,
    response: Option<Duration>,
    turn: u128,
    picked: u64,
}

impl One {
    fn stride(&self) -> u64 {
        (1 << 20) / u64::from(self.weight)
    }

    fn load(&self) -> u64 {
        u64::from(self.standing.held) * self.stride()
    }
}

impl Naive {
    fn changed(&mut self) {
        self.table = None;
        let weights: BTreeSet<_> = self.members.values().map(|one| one.weight).collect();
        let weighted = weights.len() > 1;
        if self.balance == Balance::RoundRobin && weighted && !self.weighted {
            self.time = 0;
            self.members.values_mut().for_each(|one| one.turn = 0);
        }
        self.weighted = weighted;
    }

    /// Slots that a client is hashed to.
    fn probed(&mut self, client: u32) -> Vec<u32> {
        let table = self.table.get_or_insert_with(|| naive_table(&self.members));
        let own = maglev::hash(2, addr(client), Port::new(0)) % 4093;
        let slots = (0..=PROBES_MAX as u64).map(|step| ((own + step) % 4093) as usize);
        let positions = slots.filter_map(|slot| table.get(slot).copied());
        positions.map(u32::from).collect()
    }

    fn pick(&mut self, full: &[bool], client: u32, excluded: u32) -> Option<u32> {
        let mut probed = vec![];
        if self.balance == Balance::SourceHash {
            probed = self.probed(client);
        }
        let may = |(position, one): &(&u32, &One)| {
            let held_up = one.group.is_some_and(|group| full[group]);
            one.standing.available && !held_up && **position != excluded
        };
        let able: Vec<_> = self.members.iter().filter(may).collect();
        let in_turn = || {
            let from = |(position, _): &&(&u32, &One)| {
                (**position + POSITIONS_MAX - self.cursor) % POSITIONS_MAX
            };
            able.iter().min_by_key(from).map(|(position, _)| **position)
        };
        let picked = match self.balance {
            Balance::RoundRobin if !self.weighted => in_turn(),
            Balance::RoundRobin => {
                let due = able.iter().map(|(position, one)| (one.turn, **position));
                due.min().map(|(_, position)| position)
            }
            Balance::LeastConnections => {
                let key = |(position, one): &(&u32, &One)| (one.load(), one.turn, **position);
                able.iter().map(key).min().map(|(_, _, position)| position)
            }
            Balance::LeastResponseTime => {
                let mut loads: Vec<_> = able.iter().map(|(_, one)| one.load()).collect();
                loads.sort_unstable();
                let hot_above = loads.get((loads.len().max(1) - 1) * 84 / 100);
                let cold = able
                    .iter()
                    .filter(|(_, one)| Some(&one.load()) <= hot_above);
                let key = |(position, one): &(&u32, &One)| {
                    let response = one.response.unwrap_or_default();
                    (response, one.load(), one.picked, **position)
                };
                cold.map(key).min().map(|(_, _, _, position)| position)
            }
            Balance::SourceHash => {
                let is_able = |slot: &&u32| able.iter().any(|(position, _)| position == slot);
                probed.iter().find(is_able).copied().or_else(in_turn)
            }
        }?;
        self.picks += 1;
        let went_in_turn = match self.balance {
            Balance::RoundRobin => !self.weighted,
            Balance::SourceHash => !probed.contains(&picked),
            _ => false,
        };
        if went_in_turn {
            self.cursor = (picked + 1) % POSITIONS_MAX;
        }
        let one = self.members.get_mut(&picked)?;
        one.picked = self.picks;
        self.time = self.time.max(one.turn);
        one.turn = self.time + u128::from(one.stride());
        Some(picked)
    }
}

/// The table round by round: in each, whoever has saved up the greatest weight takes a slot.
fn naive_table(members: &BTreeMap<u32, One>) -> Vec<u16> {
    let mut wishes: Vec<_> = members
        .iter()
        .filter(|(_, one)| one.standing.up)
        .map(|(&position, one)| {
            let slot = maglev::hash(0, addr(position), Port::new(8080)) % 4093;
            let skip = maglev::hash(1, addr(position), Port::new(8080)) % 4092 + 1;
            (position, one.weight, 0, slot, skip)
        })
        .collect();
    let Some(heaviest) = wishes.iter().map(|(_, weight, ..)| *weight).max() else {
        return vec![];
    };
    let mut table = vec![None; 4093];
    let mut taken = 0;
    loop {
        for (position, weight, saved, slot, skip) in &mut wishes {
            *saved += *weight;
            if *saved < heaviest {
                continue;
            }
            *saved -= heaviest;
            if taken == table.len() {
                return table.into_iter().flatten().collect();
            }
            while table[*slot as usize].is_some() {
                *slot = (*slot + *skip) % 4093;
            }
            table[*slot as usize] = Some(*position as u16);
            taken += 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32, Option<usize>),
    Remove(u32),
    Change(u32, u32, Option<usize>),
    Stand(u32, bool, bool, u32),
    Response(u32, Option<u64>),
    Group(usize, bool),
    Pick(u32, u32),
}

const GROUPS: usize = 3;

fn steps(positions: u32) -> impl Strategy<Value = Vec<Step>> {
    let group = || prop::option::of(0..GROUPS);
    let weight = || prop::sample::select(vec![1, 1, 1, 2, 3, 10]);
    let position = || 0..positions;
    let step = prop_oneof![
        3 => (position(), weight(), group()).prop_map(|(p, w, g)| Step::Insert(p, w, g)),
        1 => position().prop_map(Step::Remove),
        1 => (position(), weight(), group()).prop_map(|(p, w, g)| Step::Change(p, w, g)),
        6 => (position(), 0..8u8, any::<bool>(), 0..6u32)
            .prop_map(|(p, up, room, held)| Step::Stand(p, up > 0, room, held)),
        2 => (position(), prop::option::of(0..5u64)).prop_map(|(p, ms)| Step::Response(p, ms)),
        2 => (0..GROUPS, any::<bool>()).prop_map(|(group, full)| Step::Group(group, full)),
        8 => (any::<u32>(), 0..2 * positions).prop_map(|(c, e)| Step::Pick(c % 4096, e)),
    ];
    prop::collection::vec(step, 1..150)
}

/// Both do the same steps; what they pick is the same.
fn compare(balance: Balance, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut groups = Groups::new();
    let ids: [GroupId; GROUPS] = core::array::from_fn(|_| groups.add(1).unwrap());
    let mut is_full = [false; GROUPS];
    let id = |group: Option<usize>| group.map(|group| ids[group]);
    let mut selector = Selector::new(balance);
    let mut naive = Naive {
        balance,
        members: BTreeMap::new(),
        cursor: 0,
        weighted: false,
        time: 0,
        picks: 0,
        table: None,
    };
    for step in steps {
        match step {
            Step::Insert(position, weight, group) if !naive.members.contains_key(&position) => {
                selector.insert(position, &settings(position, weight, id(group)));
                selector.set(position, free(0));
                let one = One {
                    weight,
                    group,
                    standing: free(0),
                    response: None,
                    turn: naive.time,
                    picked: 0,
                };
                naive.members.insert(position, one);
                naive.changed();
            }
            Step::Remove(position) => {
                selector.remove(position);
                naive.members.remove(&position);
                naive.changed();
            }
            Step::Change(position, weight, group) => {
                prop_assert!(selector.change(position, &settings(position, weight, id(group))));
                if let Some(one) = naive.members.get_mut(&position) {
                    (one.weight, one.group) = (weight, group);
                    naive.changed();
                }
            }
            Step::Stand(position, up, room, held) => {
                let standing = Standing {
                    up,
                    available: up && room,
                    held,
                };
                selector.set(position, standing);
                if let Some(one) = naive.members.get_mut(&position) {
                    let went = one.standing.up != up;
                    one.standing = standing;
                    if went {
                        naive.table = None;
                    }
                }
            }
            Step::Response(position, millis) => {
                let response = millis.map(Duration::from_millis);
                selector.set_response_time(position, response);
                if let Some(one) = naive.members.get_mut(&position) {
                    one.response = response;
                }
            }
            Step::Group(group, now_full) => {
                groups.set_ceiling(ids[group], u32::from(!now_full));
                is_full[group] = now_full;
            }
            Step::Pick(client, excluded) => {
                let open = selector.open(&groups);
                let picked = selector.pick(open, &addr(client), &mut |p| p == excluded);
                prop_assert_eq!(picked, naive.pick(&is_full, client, excluded));
            }
            Step::Insert(..) => {}
        }
        let able = naive.members.values().filter(|one| one.standing.available);
        let may = |one: &One| one.group.is_none_or(|group| !is_full[group]);
        prop_assert_eq!(
            selector.open(&groups).is_empty(),
            !able.into_iter().any(may)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn round_robin_is_as_who_looks_at_all_has_it(steps in steps(200)) {
        compare(Balance::RoundRobin, steps)?;
    }

    #[test]
    fn least_connections_is_as_who_looks_at_all_has_it(steps in steps(200)) {
        compare(Balance::LeastConnections, steps)?;
    }

    #[test]
    fn few_are_balanced_as_who_looks_at_all_has_it(
        balance in prop::sample::select(BALANCES[..3].to_vec()),
        steps in steps(SAMPLE_MAX as u32),
    ) {
        compare(balance, steps)?;
    }
}

proptest! {
    // Each makes some dozens of tables, twice.
    #![proptest_config(ProptestConfig { cases: 24, ..seeded() })]

    #[test]
    fn source_hash_is_as_who_looks_at_all_has_it(steps in steps(12)) {
        compare(Balance::SourceHash, steps)?;
    }
}
