//! Source hash: a client's address decides, and goes on deciding the same while its back-end is up.
//!
//! When the back-end of a client's slot is not available, the next slots are looked at, so that
//! clients of a full back-end spread over many others, and each of them over the same ones; when
//! none of a bounded number is available, any is taken that is, in turn.

use dispatcher_common::addr::{Addr, Port};

use super::in_turn::InTurn;
use super::lanes::Open;
use super::maglev::{self, Member};
use super::{Exclude, Place, Places};

/// Most slots that are looked at after a client's own.
pub(super) const PROBES_MAX: usize = 16;

/// The salt that is not a back-end's.
const CLIENT: u64 = 2;

#[derive(Clone, Debug)]
pub(super) struct SourceHash {
    /// Positions of the back-ends that are up; empty when there is none.
    table: Vec<u16>,
    /// A back-end has come or gone, gone up or down, or has another weight, since the table was
    /// made. It is made anew for the next request, once for any number of changes.
    stale: bool,
    in_turn: InTurn,
}

impl SourceHash {
    pub(super) const fn new() -> Self {
        Self {
            table: Vec::new(),
            stale: true,
            in_turn: InTurn::new(),
        }
    }

    pub(super) const fn membership_changed(&mut self) {
        self.stale = true;
    }

    pub(super) fn set(&mut self, position: u32, place: &Place) {
        self.in_turn.set(place.lane(), position, place.available);
    }

    pub(super) fn pick(
        &mut self,
        places: &Places,
        open: Open,
        source: &Addr,
        exclude: &mut Exclude<'_>,
    ) -> Option<u32> {
        if self.stale {
            self.fill(places);
        }
        let slots = self.table.len().max(1) as u64;
        let own = (maglev::hash(CLIENT, *source, Port::new(0)) % slots) as usize;
        let after = self.table[own..].iter().chain(&self.table);
        let mut probed = after.take(1 + PROBES_MAX).copied().map(u32::from);
        let hashed = probed.find(|&position| {
            let place = places.get(position);
            place.is_some_and(|place| place.available && open.has(place.lane()))
                && !exclude(position)
        });
        hashed.or_else(|| self.in_turn.pick(open, exclude))
    }

    fn fill(&mut self, places: &Places) {
        let up = places.iter().filter(|(_, place)| place.up);
        let up = up.map(|(position, place)| Member {
            addr: place.addr,
            port: place.port,
            weight: place.weight.into(),
            position: position as u16,
        });
        let slots = maglev::slots_for(places.iter().count());
        maglev::fill(&mut self.table, slots, up.collect());
        self.stale = false;
    }
}
