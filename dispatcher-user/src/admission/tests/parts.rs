//! Tests of the parts: tables, the key index; and how much memory a request takes.

use core::hash::BuildHasher;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Hasher, ServiceId, key, ms};
use crate::admission::backlog::{Backlog, Queue, Queued};
use crate::admission::flows::Tried;
use crate::admission::keys::{KeyIndex, Owner, OwnerKind};
use crate::admission::request::Request;
use crate::admission::slab::{Entry, Slab};
use crate::admission::timer::Wheel;

#[test]
fn a_queued_request_fits_in_256_bytes() {
    let record = size_of::<Entry<Queued<[u8; 120]>>>();
    let aligned = size_of::<Entry<Queued<[u64; 15]>>>();
    assert_eq!((record, aligned), (208, 208));
    assert!(record + Wheel::BYTES_PER_TIMER + KeyIndex::BYTES_PER_KEY_MAX <= 256);
}

#[test]
fn those_that_are_put_back_stand_in_the_order_in_which_they_came() {
    let mut timers = Wheel::new(300);
    let mut backlog = Backlog::new();
    backlog.set_capacity(300);
    let mut queue = Queue::EMPTY;
    let mut request = |arrived: u32| {
        let timer = timers.add(Owner::new(OwnerKind::Request(arrived)));
        let request = Request {
            service: ServiceId(0),
            key: key('a'),
            isn: 0,
            request: arrived,
            arrived: ms(arrived.into()),
            waited: None,
            tried: Tried::NONE,
            collisions: 0,
        };
        Queued::new(request, timer)
    };
    let order = |backlog: &Backlog<u32>, queue: &Queue| -> Vec<u32> {
        let waiting = backlog.iter(queue);
        waiting.map(|(_, queued)| queued.request).collect()
    };
    backlog.push(&mut queue, request(500)).unwrap();
    backlog.push(&mut queue, request(501)).unwrap();
    for arrived in [20, 10, 30, 25, 5] {
        backlog.push_front(&mut queue, request(arrived)).unwrap();
    }
    assert_eq!(order(&backlog, &queue), [5, 10, 20, 25, 30, 500, 501]);
    let last = backlog.iter(&queue).find(|(_, one)| one.request == 30);
    let (last, _) = last.unwrap();
    backlog.remove(&mut queue, last).unwrap();
    backlog.push_front(&mut queue, request(40)).unwrap();
    assert_eq!(order(&backlog, &queue), [5, 10, 20, 25, 40, 500, 501]);

    for arrived in 100..170 {
        backlog.push_front(&mut queue, request(arrived)).unwrap();
    }
    backlog.push_front(&mut queue, request(50)).unwrap();
    let order = order(&backlog, &queue);
    let place = order.iter().position(|&arrived| arrived == 50).unwrap();
    assert_eq!(order[place + 1..][..64], (106..170).collect::<Vec<_>>());
    assert_eq!(order[place - 1], 105, "it has passed as many as it may");
}

#[test]
fn an_owner_is_told_from_every_other() {
    for index in [0, 1, 77, crate::admission::keys::RECORDS_MAX - 1] {
        for kind in [OwnerKind::Request(index), OwnerKind::Flow(index)] {
            assert_eq!(Owner::new(kind).kind(), kind);
        }
    }
}

proptest! {
    #![proptest_config(super::seeded())]

    #[test]
    fn a_slab_is_a_map_with_numbers_of_its_own(
        steps in prop::collection::vec((0..3u8, 0..12u32), 1..200),
    ) {
        let mut slab = Slab::new(10);
        let mut model = BTreeMap::new();
        for (value, (step, index)) in (0..).zip(steps) {
            match step {
                0 => {
                    let told = slab.next_index();
                    match slab.insert(value) {
                        Ok(index) => {
                            prop_assert_eq!(index, told);
                            prop_assert_eq!(model.insert(index, value), None);
                        }
                        Err(_) => prop_assert_eq!(model.len(), 10),
                    }
                }
                1 => prop_assert_eq!(slab.remove(index), model.remove(&index)),
                _ => {
                    let free = index < 10 && !model.contains_key(&index);
                    prop_assert_eq!(slab.insert_at(index, value).is_ok(), free);
                    if free { model.insert(index, value); }
                }
            }
            prop_assert_eq!(slab.len() as usize, model.len());
            prop_assert!(slab.iter().map(|(i, v)| (i, *v)).eq(model.iter().map(|(i, v)| (*i, *v))));
        }
    }

    #[test]
    fn a_key_index_finds_what_is_in_it_however_the_hashes_fall(
        steps in prop::collection::vec((any::<bool>(), 0..64u32), 1..400),
        buckets in 1..8u64,
    ) {
        // Few hashes, so that runs of buckets are long and wrap around.
        let hash = |key: u32| Hasher::default().hash_one(key) % buckets + u64::from(u32::MAX - 2);
        let mut index = KeyIndex::new();
        let mut model = BTreeSet::new();
        for (insert, key) in steps {
            let owner = Owner::new(OwnerKind::Flow(key));
            if insert && model.insert(key) {
                index.insert(hash(key), owner);
            } else if !insert {
                model.remove(&key);
                index.remove(hash(key), owner);
            }
            for key in 0..64 {
                let owner = Owner::new(OwnerKind::Flow(key));
                let found = index.find(hash(key), |candidate| candidate == owner);
                prop_assert_eq!(found.is_some(), model.contains(&key));
            }
        }
    }
}
