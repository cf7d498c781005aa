//! Maglev's consistent hashing (NSDI 2016): a table in which each back-end has as many slots as its
//! weight says, and which changes little beyond the slots of a back-end that comes or goes.
//!
//! A table depends on addresses, ports and weights alone, not on the order in which back-ends came:
//! it is the same after a restart, and in every dispatcher with the same back-ends.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use dispatcher_common::addr::{Addr, Port};

/// Slots for up to [`SMALL_MEMBERS_MAX`] back-ends; prime.
pub(super) const SMALL: u32 = 4093;

/// Most back-ends of a small table: with 100 slots each, shares are within a hundredth.
pub(super) const SMALL_MEMBERS_MAX: usize = 40;

/// Slots for more back-ends; prime.
pub(super) const LARGE: u32 = 65_537;

/// Slots of the table for so many back-ends, whether or not they are up.
pub(super) const fn slots_for(members: usize) -> u32 {
    if members <= SMALL_MEMBERS_MAX {
        SMALL
    } else {
        LARGE
    }
}

/// A back-end that is to have slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) addr: Addr,
    pub(super) port: Port,
    pub(super) weight: u32,
    pub(super) position: u16,
}

impl Member {
    fn order(&self) -> ([u8; 16], u16) {
        (*self.addr.bytes(), self.port.number())
    }
}

/// The order in which a back-end wants slots: every `skip`th, from some slot on.
struct Wish {
    slot: u32,
    skip: u32,
    /// Slots that it has, counting the one that it waits for.
    turn: u32,
    weight: u32,
}

const FREE: u16 = u16::MAX;

/// Fills `table` with positions, `slots` of them; leaves it empty when there is no member. It takes
/// a few milliseconds with 1024 back-ends, and tens of microseconds with a few.
pub(super) fn fill(table: &mut Vec<u16>, slots: u32, mut members: Vec<Member>) {
    table.clear();
    let Some(heaviest) = members.iter().map(|member| member.weight).max() else {
        return;
    };
    members.sort_by_key(Member::order);
    table.resize(slots as usize, FREE);
    let mut wishes: Vec<_> = members
        .iter()
        .map(|member| Wish {
            slot: (hash(0, member.addr, member.port) % u64::from(slots)) as u32,
            skip: (hash(1, member.addr, member.port) % u64::from(slots - 1)) as u32 + 1,
            turn: 1,
            weight: member.weight,
        })
        .collect();
    let first = (0..).zip(&wishes);
    let mut turns: BinaryHeap<_> = first
        .map(|(number, wish)| Reverse(wish.key(heaviest, number)))
        .collect();
    for _ in 0..slots {
        let Some(mut first) = turns.peek_mut() else {
            return;
        };
        let number = first.0 as u16;
        let wish = &mut wishes[usize::from(number)];
        wish.turn += 1;
        *first = Reverse(wish.key(heaviest, number));
        while table[wish.slot as usize] != FREE {
            wish.slot = wish.after(slots);
        }
        table[wish.slot as usize] = members[usize::from(number)].position;
    }
}

impl Wish {
    /// The round in which its turn comes, and who it is among those of that round: the heaviest
    /// takes a slot in every round, one of half its weight in every second.
    fn key(&self, heaviest: u32, number: u16) -> u64 {
        let round = (u64::from(self.turn) * u64::from(heaviest)).div_ceil(self.weight.into());
        round << u16::BITS | u64::from(number)
    }

    const fn after(&self, slots: u32) -> u32 {
        let next = self.slot + self.skip;
        if next < slots { next } else { next - slots }
    }
}

/// A fixed hash, without a key: the same in every dispatcher. Whoever chooses client addresses can
/// choose a back-end by it, no more.
pub(super) fn hash(salt: u64, addr: Addr, port: Port) -> u64 {
    let (high, low) = addr.bytes().split_at(8);
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    [word(high), word(low), u64::from(port.number())]
        .into_iter()
        .fold(mix(salt + 1), |hash, word| mix(hash ^ word))
}

/// The finalizer of SplitMix64.
pub(super) const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
