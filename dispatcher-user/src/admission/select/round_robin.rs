//! Round-robin: in turn, and where weights differ, as often as they say.

use super::in_turn::InTurn;
use super::lanes::Open;
use super::ordered::Ordered;
use super::{Exclude, Place, Places};

/// In turn while all weights are the same; by stride scheduling while they are not.
#[derive(Clone, Debug)]
pub(super) struct RoundRobin {
    in_turn: InTurn,
    weighted: Option<Ordered>,
}

impl RoundRobin {
    pub(super) const fn new() -> Self {
        Self {
            in_turn: InTurn::new(),
            weighted: None,
        }
    }

    /// A back-end has come, has gone, or has another weight. Looks at all.
    pub(super) fn membership_changed(&mut self, places: &Places, entered: Option<u32>) {
        let mut weights = places.iter().map(|(_, place)| place.weight);
        let first = weights.next();
        if weights.all(|weight| Some(weight) == first) {
            self.weighted = None;
            return;
        }
        if let Some(weighted) = &mut self.weighted {
            if let Some(position) = entered {
                weighted.enter(position);
            }
            return;
        }
        let mut weighted = Ordered::new();
        for (position, place) in places.iter() {
            weighted.enter(position);
            weighted.set(place.lane(), position, place.available.then_some(0));
        }
        self.weighted = Some(weighted);
    }

    pub(super) fn set(&mut self, position: u32, place: &Place) {
        self.in_turn.set(place.lane(), position, place.available);
        if let Some(weighted) = &mut self.weighted {
            weighted.set(place.lane(), position, place.available.then_some(0));
        }
    }

    pub(super) fn pick(
        &mut self,
        places: &Places,
        open: Open,
        exclude: &mut Exclude<'_>,
    ) -> Option<u32> {
        match &mut self.weighted {
            Some(weighted) => weighted.pick(open, exclude, |position| places.stride(position)),
            None => self.in_turn.pick(open, exclude),
        }
    }
}
