//! A table of records with stable numbers: insert and remove in constant time, memory for the most
//! records that there ever were at once.

use core::ops::{Index, IndexMut};

/// Ends a list of record numbers.
pub(super) const NONE: u32 = u32::MAX;

/// Most records for which memory is set aside at the start. It is not touched before it is used;
/// tables larger than this grow by doubling.
const RESERVED_MAX: u32 = 1 << 20;

#[derive(Clone, Debug)]
pub(super) enum Entry<T> {
    Free { previous: u32, next: u32 },
    Used(T),
}

/// The table. Free numbers form a list, the last freed first: its memory is the warmest.
#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Entry<T>>,
    free: u32,
    len: u32,
    capacity: u32,
}

impl<T> Slab<T> {
    /// An empty table of at most `capacity` records.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            slots: Vec::with_capacity(capacity.min(RESERVED_MAX) as usize),
            free: NONE,
            len: 0,
            capacity,
        }
    }

    /// Changes the bound; records beyond a lower one stay.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
        let reserved = self.capacity.min(RESERVED_MAX) as usize;
        self.slots
            .reserve_exact(reserved.saturating_sub(self.slots.len()));
    }

    /// Records in the table.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Most records.
    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Whether no further record fits.
    pub(super) const fn is_full(&self) -> bool {
        self.len >= self.capacity
    }

    /// The number that the next record to be put anywhere will get.
    pub(super) const fn next_index(&self) -> u32 {
        if self.free == NONE {
            self.slots.len() as u32
        } else {
            self.free
        }
    }

    /// Puts a record anywhere; gives it back when the table is full.
    #[inline]
    pub(super) fn insert(&mut self, record: T) -> Result<u32, T> {
        if self.is_full() {
            return Err(record);
        }
        let index = if self.free == NONE {
            self.extend()
        } else {
            self.free
        };
        self.occupy(index, record);
        Ok(index)
    }

    /// Puts a record at a given number; gives it back when that is taken or out of bounds.
    pub(super) fn insert_at(&mut self, index: u32, record: T) -> Result<(), T> {
        if index >= self.capacity || self.get(index).is_some() {
            return Err(record);
        }
        while self.slots.len() <= index as usize {
            self.extend();
        }
        self.occupy(index, record);
        Ok(())
    }

    /// Takes a record out.
    #[inline]
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        if matches!(slot, Entry::Free { .. }) {
            return None;
        }
        let next = self.free;
        let used = core::mem::replace(
            slot,
            Entry::Free {
                previous: NONE,
                next,
            },
        );
        self.set_previous(next, index);
        self.free = index;
        self.len -= 1;
        match used {
            Entry::Used(record) => Some(record),
            Entry::Free { .. } => None,
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize) {
            Some(Entry::Used(record)) => Some(record),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slots.get_mut(index as usize) {
            Some(Entry::Used(record)) => Some(record),
            _ => None,
        }
    }

    /// Numbers and records, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| match slot {
                Entry::Used(record) => Some((index, record)),
                Entry::Free { .. } => None,
            })
    }

    fn extend(&mut self) -> u32 {
        let index = self.slots.len() as u32;
        let next = self.free;
        self.slots.push(Entry::Free {
            previous: NONE,
            next,
        });
        self.set_previous(next, index);
        self.free = index;
        index
    }

    #[inline]
    fn occupy(&mut self, index: u32, record: T) {
        let slot = &mut self.slots[index as usize];
        if let Entry::Free { previous, next } = *slot {
            *slot = Entry::Used(record);
            self.set_next(previous, next);
            self.set_previous(next, previous);
            self.len += 1;
        }
    }

    fn set_previous(&mut self, index: u32, to: u32) {
        if let Some(Entry::Free { previous, .. }) = self.slots.get_mut(index as usize) {
            *previous = to;
        }
    }

    fn set_next(&mut self, index: u32, to: u32) {
        match self.slots.get_mut(index as usize) {
            Some(Entry::Free { next, .. }) => *next = to,
            _ => self.free = to,
        }
    }
}

/// For numbers that are known to be in use: those that records keep of each other.
impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        self.get(index)
            .expect("records keep only numbers of records that exist")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index)
            .expect("records keep only numbers of records that exist")
    }
}
