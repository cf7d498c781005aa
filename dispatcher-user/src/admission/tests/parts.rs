//! Tests of the parts: tables, the key index; and how much memory a request takes.

use core::hash::BuildHasher;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Hasher;
use crate::admission::backlog::Queued;
use crate::admission::keys::{KeyIndex, Owner, OwnerKind};
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
