//! Least connections: the back-end that holds the fewest slots for its weight; of those that hold
//! as few, in turn, as often as weights say. So shares are by weight even where nobody holds more
//! than one or two, as they are not when ties go to whoever stands first.

use super::lanes::Open;
use super::ordered::Ordered;
use super::{Exclude, Place, Places};

#[derive(Clone, Debug)]
pub(super) struct LeastConnections {
    ordered: Ordered,
}

impl LeastConnections {
    pub(super) const fn new() -> Self {
        Self {
            ordered: Ordered::new(),
        }
    }

    pub(super) fn enter(&mut self, position: u32) {
        self.ordered.enter(position);
    }

    pub(super) fn set(&mut self, position: u32, place: &Place) {
        let load = place.available.then(|| place.load());
        self.ordered.set(place.lane(), position, load);
    }

    pub(super) fn pick(
        &mut self,
        places: &Places,
        open: Open,
        exclude: &mut Exclude<'_>,
    ) -> Option<u32> {
        self.ordered
            .pick(open, exclude, |position| places.stride(position))
    }
}
