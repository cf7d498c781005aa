//! Which of a service's available back-ends takes the next request. Whether a back-end is available
//! is decided by its limiter; what is kept here is the set of those that are.
//!
//! Other ways to balance belong here too: they see the same set, and answer the same question.

/// Most back-ends of a service.
pub(super) const POSITIONS_MAX: u32 = dispatcher_common::maps::BACKENDS_MAX;

const WORDS: usize = (POSITIONS_MAX / u64::BITS) as usize;
const _: () = assert!(
    WORDS == u64::BITS as usize,
    "one word summarizes all others"
);

/// Round-robin over the available back-ends, each known by its position in the service.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    available: PositionSet,
    cursor: u32,
}

impl Selector {
    pub(super) const fn new() -> Self {
        Self {
            available: PositionSet::EMPTY,
            cursor: 0,
        }
    }

    /// Says whether the back-end at a position may be picked.
    pub(super) const fn set_available(&mut self, position: u32, available: bool) {
        self.available.set(position, available);
    }

    /// Whether any may.
    pub(super) const fn any(&self) -> bool {
        self.available.summary != 0
    }

    /// The next in turn, except those that `passed_over` names; it should name few.
    pub(super) fn pick(&mut self, mut passed_over: impl FnMut(u32) -> bool) -> Option<u32> {
        let first = self.available.next_from(self.cursor)?;
        let mut position = first;
        while passed_over(position) {
            position = self.available.next_from((position + 1) % POSITIONS_MAX)?;
            if position == first {
                return None;
            }
        }
        self.cursor = (position + 1) % POSITIONS_MAX;
        Some(position)
    }
}

/// A set of positions, and for each of its words a bit that says whether it is empty: the next
/// member is found in constant time.
#[derive(Clone, Debug)]
struct PositionSet {
    summary: u64,
    words: [u64; WORDS],
}

impl PositionSet {
    const EMPTY: Self = Self {
        summary: 0,
        words: [0; WORDS],
    };

    const fn set(&mut self, position: u32, member: bool) {
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
    const fn next_from(&self, position: u32) -> Option<u32> {
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
