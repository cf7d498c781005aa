//! From a 5-tuple to the one record that has it. The keys themselves stay in the records: a bucket
//! is eight bytes, where a `HashMap` would store each key a second time.

use core::num::NonZeroU32;

/// The record that a bucket or a timer belongs to, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(NonZeroU32);

/// What an [`Owner`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OwnerKind {
    /// A queued request, by its number in the backlog.
    Request(u32),
    /// A flow, by its index.
    Flow(u32),
}

/// Most records of a kind: one bit tells the kinds apart, and no owner is 0.
pub(super) const RECORDS_MAX: u32 = (1 << 31) - 1;

impl Owner {
    /// Of a record below [`RECORDS_MAX`].
    pub(super) const fn new(kind: OwnerKind) -> Self {
        let raw = match kind {
            OwnerKind::Request(index) => (index << 1) + 1,
            OwnerKind::Flow(index) => (index << 1) + 2,
        };
        Self(NonZeroU32::new(raw).expect("an index is below RECORDS_MAX"))
    }

    pub(super) const fn kind(self) -> OwnerKind {
        let raw = self.0.get() - 1;
        if raw & 1 == 0 {
            OwnerKind::Request(raw >> 1)
        } else {
            OwnerKind::Flow(raw >> 1)
        }
    }
}

/// Open addressing with linear probing, at most three quarters full. A bucket holds 32 bits of the
/// hash above the owner; 0 is an empty one.
#[derive(Clone, Debug)]
pub(super) struct KeyIndex {
    buckets: Vec<u64>,
    len: usize,
}

impl KeyIndex {
    /// Most bytes that one key costs: just after the table has doubled it is three eighths full.
    #[cfg(test)]
    pub(super) const BYTES_PER_KEY_MAX: usize = (size_of::<u64>() << 3).div_ceil(3);

    /// Most keys for which memory is set aside ahead; not touched before it is used.
    const RESERVED_MAX: usize = 1 << 21;

    pub(super) const fn new() -> Self {
        Self {
            buckets: Vec::new(),
            len: 0,
        }
    }

    /// Makes room for `total` keys, so that inserting them moves none.
    pub(super) fn reserve(&mut self, total: usize) {
        let wanted = buckets_for(total.min(Self::RESERVED_MAX));
        if wanted > self.buckets.len() {
            self.resize(wanted);
        }
    }

    /// The owner with this hash that `is_it` confirms.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(Owner) -> bool) -> Option<Owner> {
        if self.buckets.is_empty() {
            return None;
        }
        let mut at = self.home(hash as u32);
        while let Some((tag, owner)) = unpack(self.buckets[at]) {
            if tag == hash as u32 && is_it(owner) {
                return Some(owner);
            }
            at = self.after(at);
        }
        None
    }

    /// Adds an owner whose key is not there yet.
    pub(super) fn insert(&mut self, hash: u64, owner: Owner) {
        if buckets_for(self.len + 1) > self.buckets.len() {
            self.resize(buckets_for(self.len + 1));
        }
        self.place(pack(hash as u32, owner));
        self.len += 1;
    }

    /// Puts another owner in the place of one whose key it has now.
    pub(super) fn replace(&mut self, hash: u64, old: Owner, new: Owner) {
        if let Some(at) = self.bucket_of(hash, old) {
            self.buckets[at] = pack(hash as u32, new);
        }
    }

    /// Takes an owner out, and closes the gap: no bucket is ever a tombstone.
    pub(super) fn remove(&mut self, hash: u64, owner: Owner) {
        let Some(mut gap) = self.bucket_of(hash, owner) else {
            return;
        };
        self.len -= 1;
        let mut at = self.after(gap);
        while let Some((tag, _)) = unpack(self.buckets[at]) {
            let mask = self.buckets.len() - 1;
            let from_home = at.wrapping_sub(self.home(tag)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.buckets[gap] = self.buckets[at];
                gap = at;
            }
            at = self.after(at);
        }
        self.buckets[gap] = 0;
    }

    /// Where an owner is.
    #[inline]
    fn bucket_of(&self, hash: u64, owner: Owner) -> Option<usize> {
        if self.buckets.is_empty() {
            return None;
        }
        let wanted = pack(hash as u32, owner);
        let mut at = self.home(hash as u32);
        while self.buckets[at] != wanted {
            if self.buckets[at] == 0 {
                return None;
            }
            at = self.after(at);
        }
        Some(at)
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        tag as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.buckets.len() - 1)
    }

    fn place(&mut self, bucket: u64) {
        let mut at = self.home((bucket >> 32) as u32);
        while self.buckets[at] != 0 {
            at = self.after(at);
        }
        self.buckets[at] = bucket;
    }

    fn resize(&mut self, buckets: usize) {
        let old = core::mem::replace(&mut self.buckets, vec![0; buckets]);
        for bucket in old.into_iter().filter(|&bucket| bucket != 0) {
            self.place(bucket);
        }
    }
}

/// Buckets for `keys` at three quarters.
const fn buckets_for(keys: usize) -> usize {
    (keys * 4).div_ceil(3).next_power_of_two()
}

#[inline]
fn pack(tag: u32, owner: Owner) -> u64 {
    u64::from(tag) << 32 | u64::from(owner.0.get())
}

#[inline]
fn unpack(bucket: u64) -> Option<(u32, Owner)> {
    NonZeroU32::new(bucket as u32).map(|raw| ((bucket >> 32) as u32, Owner(raw)))
}
