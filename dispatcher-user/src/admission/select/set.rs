//! A set of positions.

use super::POSITIONS_MAX;

const WORDS: usize = (POSITIONS_MAX / u64::BITS) as usize;
const _: () = assert!(
    WORDS == u64::BITS as usize,
    "one word summarizes all others"
);

/// Positions, and for each word of them a bit that says whether it is empty: the next member is
/// found in constant time.
#[derive(Clone, Debug)]
pub(super) struct PositionSet {
    summary: u64,
    words: [u64; WORDS],
}

impl PositionSet {
    pub(super) const EMPTY: Self = Self {
        summary: 0,
        words: [0; WORDS],
    };

    pub(super) const fn set(&mut self, position: u32, member: bool) {
        let word = position / u64::BITS;
        let bit = 1 << (position % u64::BITS);
        let bits = &mut self.words[word as usize];
        *bits = if member { *bits | bit } else { *bits & !bit };
        if *bits == 0 {
            self.summary &= !(1 << word);
        } else {
            self.summary |= 1 << word;
        }
    }

    /// The first member at or after `position`, or else the first of all.
    pub(super) const fn next_from(&self, position: u32) -> Option<u32> {
        let word = position / u64::BITS;
        let rest = self.words[word as usize] & u64::MAX << (position % u64::BITS);
        if rest != 0 {
            return Some(word * u64::BITS + rest.trailing_zeros());
        }
        // Shifted twice, because a shift by all 64 bits is none.
        let later = self.summary & u64::MAX << word << 1;
        let words = if later != 0 { later } else { self.summary };
        if words == 0 {
            return None;
        }
        let word = words.trailing_zeros();
        Some(word * u64::BITS + self.words[word as usize].trailing_zeros())
    }
}
