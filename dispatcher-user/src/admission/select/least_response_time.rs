//! Least response time, by the hot-cold rule of Prequal (NSDI 2024): of a few back-ends, drawn at
//! random, those that hold much for their weight are hot; of the others, the one that answered
//! fastest. Response times are told once a window and are old soon, what is held is exact at any
//! time: so a fast back-end is sent much, but no crowd.

use super::lanes::{Open, of_lane};
use super::{Exclude, Place};

/// Most back-ends that are looked at for one request. When no more are available, all are, and
/// nothing is left to chance.
pub(super) const SAMPLE_MAX: usize = 8;

/// Hot is who holds more than this quantile of the sample: the 84th percentile, in 25ths. Of two it
/// is the lower one, so at least one of every sample is cold.
const HOT_ABOVE: (usize, usize) = (21, 25);

const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct LeastResponseTime {
    /// Available back-ends of each lane, in no order.
    lanes: Vec<Vec<Candidate>>,
    /// Where each position stands in its lane.
    places: Vec<u32>,
    /// When each was last picked, by the count of picks.
    picked: Vec<u64>,
    picks: u64,
    random: Random,
}

/// What bears on a choice. In this order the least of those that are cold is chosen: one that was
/// not measured is as fast as can be, so that it will be; then who holds least; then who was not
/// picked for longest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    /// Nanoseconds.
    response: u64,
    load: u64,
    picked: u64,
    position: u32,
}

impl Candidate {
    const NONE: Self = Self {
        response: 0,
        load: 0,
        picked: 0,
        position: NOWHERE,
    };
}

impl LeastResponseTime {
    pub(super) const fn new() -> Self {
        Self {
            lanes: Vec::new(),
            places: Vec::new(),
            picked: Vec::new(),
            picks: 0,
            random: Random(0),
        }
    }

    pub(super) fn enter(&mut self, position: u32) {
        let position = position as usize;
        if position >= self.places.len() {
            self.places.resize(position + 1, NOWHERE);
            self.picked.resize(position + 1, 0);
        }
        self.picked[position] = 0;
    }

    /// Availability, load or response time have changed.
    pub(super) fn set(&mut self, position: u32, place: &Place) {
        let lane = of_lane(&mut self.lanes, place.lane(), Vec::new);
        let at = &mut self.places[position as usize];
        if place.available {
            let candidate = Candidate {
                response: place.response,
                load: place.load(),
                picked: self.picked[position as usize],
                position,
            };
            if let Some(known) = lane.get_mut(*at as usize) {
                *known = candidate;
            } else {
                *at = lane.len() as u32;
                lane.push(candidate);
            }
        } else if *at != NOWHERE {
            let at = core::mem::replace(at, NOWHERE);
            lane.swap_remove(at as usize);
            if let Some(moved) = lane.get(at as usize) {
                self.places[moved.position as usize] = at;
            }
        }
    }

    pub(super) fn pick(&mut self, open: Open, exclude: &mut Exclude<'_>) -> Option<u32> {
        let mut sample = [&Candidate::NONE; SAMPLE_MAX];
        let mut len = 0;
        let (drawn, count) = self.draw(open);
        for &place in &drawn[..count] {
            let candidate = self.available(open, place)?;
            if !exclude(candidate.position) {
                sample[len] = candidate;
                len += 1;
            }
        }
        let chosen = match coldest(&mut sample[..len]) {
            Some(coldest) => coldest.position,
            None => self.any(open, exclude)?,
        };
        self.picks += 1;
        self.picked[chosen as usize] = self.picks;
        let at = self.places[chosen as usize] as usize;
        for lane in open.lanes() {
            let of_lane = self.lanes[lane].get_mut(at);
            if let Some(known) = of_lane.filter(|known| known.position == chosen) {
                known.picked = self.picks;
            }
        }
        Some(chosen)
    }

    /// Any available back-end that is not excluded: all that were drawn are, and these are few.
    fn any(&self, open: Open, exclude: &mut Exclude<'_>) -> Option<u32> {
        let mut positions = open
            .lanes()
            .flat_map(|lane| &self.lanes[lane])
            .map(|candidate| candidate.position);
        positions.find(|&position| !exclude(position))
    }

    /// Places among the available back-ends of all open lanes, each at most once, each with the
    /// same chance; and how many. (Floyd's way to draw without putting back.)
    fn draw(&mut self, open: Open) -> ([u32; SAMPLE_MAX], usize) {
        let available = open.lanes().map(|lane| self.lanes[lane].len() as u32);
        let available = available.sum::<u32>();
        let count = SAMPLE_MAX.min(available as usize);
        let mut drawn = [0; SAMPLE_MAX];
        let highest = available - count as u32..available;
        for (len, highest) in highest.enumerate() {
            let mut place = highest;
            if available as usize > SAMPLE_MAX {
                let any = self.random.up_to(highest);
                if !drawn[..len].contains(&any) {
                    place = any;
                }
            }
            drawn[len] = place;
        }
        (drawn, count)
    }

    fn available(&self, open: Open, mut place: u32) -> Option<&Candidate> {
        for lane in open.lanes() {
            let lane = &self.lanes[lane];
            if let Some(candidate) = lane.get(place as usize) {
                return Some(candidate);
            }
            place -= lane.len() as u32;
        }
        None
    }
}

/// The least candidate that is not hot.
fn coldest<'a>(sample: &mut [&'a Candidate]) -> Option<&'a Candidate> {
    let (of, parts) = HOT_ABOVE;
    let quantile = sample.len().checked_sub(1)? * of / parts;
    let mut loads = [u64::MAX; SAMPLE_MAX];
    for (load, candidate) in loads.iter_mut().zip(&*sample) {
        *load = candidate.load;
    }
    for passed_over in 0..sample.len() {
        let rest = &mut sample[passed_over..];
        for at in 1..rest.len() {
            if rest[at] < rest[0] {
                rest.swap(0, at);
            }
        }
        let least = rest[0];
        let below = loads.iter().filter(|&&load| load < least.load);
        // When more are below it than below the quantile, it is above the quantile.
        if below.count() <= quantile {
            return Some(least);
        }
    }
    None
}

/// SplitMix64, from the same seed at every start: what is decided can be played again.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    /// From 0 to `highest`, which is far below 2^32.
    fn up_to(&mut self, highest: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let high = super::maglev::mix(self.0) >> 32;
        ((high * (u64::from(highest) + 1)) >> 32) as u32
    }
}
