//! Tests of the state machine as a whole, and what they share.

mod parts;
mod stories;
mod changes;
mod groups;
mod retries;
mod floods;
mod windows;
mod wheel;
mod bench;
mod model;
mod histories;
mod properties;

use core::hash::BuildHasherDefault;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::collections::{BTreeMap, hash_map::DefaultHasher};

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;

use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use super::*;
use bench::*;

/// The same cases in every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` ask for others.
pub(super) fn seeded() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0x5eed),
        asked_for => asked_for,
    };
    ProptestConfig {
        rng_seed,
        failure_persistence: None,
        ..default
    }
}

const ESTABLISHED: Phase = Phase(0x03);
const CLOSING: Phase = Phase(0x07);
const ENDED: Phase = Phase(0x3f);
const RESET: Phase = Phase(0x43);

const SETTINGS: ServiceSettings = ServiceSettings {
    queue_capacity: 3,
    queue_timeout: Duration::from_secs(30),
    overflow: Overflow::Refuse,
    per_source: 0,
    connect: Duration::from_secs(5),
    handshake: Duration::from_secs(5),
    idle: Duration::from_secs(300),
    closing: Duration::from_secs(30),
    balance: Balance::RoundRobin,
    flood: FloodSettings::OFF,
};
