//! Which of a service's available back-ends takes the next request. Whether a back-end is available
//! is decided by its limiter and its state; what is kept here are those that are, in the form in
//! which each way to balance wants them. None looks at all of them for a request.

mod lanes;
mod set;
mod in_turn;
mod ordered;
mod round_robin;
mod least_connections;
mod least_response_time;
mod maglev;
mod source_hash;
#[cfg(test)]
mod tests;

use core::time::Duration;

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::maps::BACKENDS_MAX;

use super::command::GroupId;
use super::flows::Tried;
use super::group::Groups;
use super::settings::{BackendSettings, Balance, WEIGHT_MAX};

use lanes::Lanes;
use least_connections::LeastConnections;
use least_response_time::LeastResponseTime;
use ordered::STRIDE;
use round_robin::RoundRobin;
use source_hash::SourceHash;

pub use lanes::GROUPS_PER_SERVICE_MAX;
pub(super) use lanes::Open;

/// Most back-ends of a service.
pub(super) const POSITIONS_MAX: u32 = BACKENDS_MAX;
const _: () = assert!(POSITIONS_MAX < u16::MAX as u32, "a position in two bytes");

/// Tells who is not to be picked; it should name few.
type Exclude<'a> = dyn FnMut(u32) -> bool + 'a;

/// How a back-end stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// Takes flows when it has room.
    pub(super) up: bool,
    /// Is up and has room, but for what its group says.
    pub(super) available: bool,
    /// Slots in use.
    pub(super) held: u32,
}

/// What is known of a back-end, whatever the way to balance.
#[derive(Clone, Debug)]
struct Place {
    addr: Addr,
    /// Nanoseconds; 0 when it was not measured.
    response: u64,
    held: u32,
    /// What a connection weighs: the less, the greater its own weight.
    stride: u32,
    weight: u16,
    port: Port,
    lane: u8,
    up: bool,
    available: bool,
}

const _: () = assert!(
    size_of::<Option<Place>>() == 40,
    "several are looked at for a request"
);

impl Place {
    /// Slots in use for its weight, in units that only compare.
    fn load(&self) -> u64 {
        u64::from(self.held) * u64::from(self.stride)
    }

    fn lane(&self) -> usize {
        self.lane.into()
    }

    fn set_weight(&mut self, weight: u32) {
        self.weight = weight.clamp(1, WEIGHT_MAX) as u16;
        self.stride = STRIDE / u32::from(self.weight);
    }
}

const _: () = assert!(WEIGHT_MAX <= u16::MAX as u32);

/// By position in the service.
#[derive(Clone, Debug)]
struct Places(Vec<Option<Place>>);

impl Places {
    fn get(&self, position: u32) -> Option<&Place> {
        self.0.get(position as usize)?.as_ref()
    }

    fn get_mut(&mut self, position: u32) -> Option<&mut Place> {
        self.0.get_mut(position as usize)?.as_mut()
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &Place)> {
        let places = (0..).zip(&self.0);
        places.filter_map(|(position, place)| Some((position, place.as_ref()?)))
    }

    fn stride(&self, position: u32) -> u32 {
        self.get(position).map_or(STRIDE, |place| place.stride)
    }
}

#[derive(Clone, Debug)]
enum Method {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    LeastResponseTime(LeastResponseTime),
    SourceHash(SourceHash),
}

impl Method {
    const fn new(balance: Balance) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new()),
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::new()),
            Balance::LeastResponseTime => Self::LeastResponseTime(LeastResponseTime::new()),
            Balance::SourceHash => Self::SourceHash(SourceHash::new()),
        }
    }

    /// A back-end is new at a position, or, if none is told, one has gone, has gone up or down, or
    /// has another weight.
    fn membership_changed(&mut self, places: &Places, entered: Option<u32>) {
        match self {
            Self::RoundRobin(method) => method.membership_changed(places, entered),
            Self::SourceHash(method) => method.membership_changed(),
            Self::LeastConnections(method) => entered.into_iter().for_each(|e| method.enter(e)),
            Self::LeastResponseTime(method) => entered.into_iter().for_each(|e| method.enter(e)),
        }
    }

    /// A back-end's availability has changed.
    fn set(&mut self, position: u32, place: &Place) {
        match self {
            Self::RoundRobin(method) => method.set(position, place),
            Self::LeastConnections(method) => method.set(position, place),
            Self::LeastResponseTime(method) => method.set(position, place),
            Self::SourceHash(method) => method.set(position, place),
        }
    }

    /// Only what a back-end holds, or how fast it answers, has changed.
    fn set_load(&mut self, position: u32, place: &Place) {
        match self {
            Self::LeastConnections(method) => method.set(position, place),
            Self::LeastResponseTime(method) => method.set(position, place),
            Self::RoundRobin(_) | Self::SourceHash(_) => {}
        }
    }
}

/// The back-ends of a service, each known by its position in it.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    places: Places,
    lanes: Lanes,
    method: Method,
    up: Up,
}

/// Which back-ends are up, by the bits that requests note tries with.
#[derive(Clone, Debug)]
struct Up {
    /// Those with any.
    bits: Tried,
    /// How many each has.
    counts: [u16; Tried::BITS as usize],
}

impl Up {
    const NONE: Self = Self {
        bits: Tried::NONE,
        counts: [0; Tried::BITS as usize],
    };

    /// A back-end has gone up or down.
    const fn count(&mut self, position: u32, up: bool) {
        let bit = Tried::bit(position);
        let count = &mut self.counts[bit as usize];
        *count = if up { *count + 1 } else { *count - 1 };
        self.bits = if *count > 0 {
            self.bits.and(position)
        } else {
            self.bits.without_bit(bit)
        };
    }
}

impl Selector {
    pub(super) fn new(balance: Balance) -> Self {
        Self {
            places: Places(Vec::new()),
            lanes: Lanes::new(),
            method: Method::new(balance),
            up: Up::NONE,
        }
    }

    /// Whether a back-end is up, available or not, that is not among these.
    pub(super) const fn is_up_beyond(&self, tried: Tried) -> bool {
        self.up.bits.go_beyond(tried)
    }

    /// Balances in another way from now on. Turns begin anew.
    pub(super) fn set_balance(&mut self, balance: Balance) {
        self.method = Method::new(balance);
        for (position, place) in self.places.iter() {
            self.method.membership_changed(&self.places, Some(position));
            self.method.set(position, place);
        }
    }

    /// Whether a back-end of this group may come: there is a bound of groups to a service.
    pub(super) fn admits(&self, group: Option<GroupId>) -> bool {
        self.lanes.find(group).is_some()
    }

    /// Adds a back-end, not up yet; of a group that [`Self::admits`].
    pub(super) fn insert(&mut self, position: u32, settings: &BackendSettings) {
        let Some(lane) = self.lanes.find(settings.group) else {
            return;
        };
        self.lanes.enter(lane, settings.group);
        if self.places.0.len() <= position as usize {
            self.places.0.resize(position as usize + 1, None);
        }
        let mut place = Place {
            addr: settings.addr,
            response: 0,
            held: 0,
            stride: 0,
            weight: 0,
            port: settings.port,
            lane: lane as u8,
            up: false,
            available: false,
        };
        place.set_weight(settings.weight);
        self.places.0[position as usize] = Some(place);
        self.method.membership_changed(&self.places, Some(position));
    }

    /// Takes a back-end out.
    pub(super) fn remove(&mut self, position: u32) {
        let gone = Standing {
            up: false,
            available: false,
            held: 0,
        };
        self.set(position, gone);
        if let Some(place) = self
            .places
            .0
            .get_mut(position as usize)
            .and_then(Option::take)
        {
            self.lanes.leave(place.lane());
            self.method.membership_changed(&self.places, None);
        }
    }

    /// Gives a back-end another weight or group; it keeps its turn. Changes nothing, and says so,
    /// when there is no lane for the group.
    pub(super) fn change(&mut self, position: u32, settings: &BackendSettings) -> bool {
        let Some(place) = self.places.get(position) else {
            return true;
        };
        let (old, alone) = (place.lane(), self.lanes.is_alone(place.lane()));
        let Some(lane) = self.lanes.find(settings.group).or(alone.then_some(old)) else {
            return false;
        };
        let before = Standing {
            up: place.up,
            available: place.available,
            held: place.held,
        };
        self.set(
            position,
            Standing {
                available: false,
                ..before
            },
        );
        if let Some(place) = self.places.get_mut(position) {
            place.set_weight(settings.weight);
            place.lane = lane as u8;
            self.lanes.leave(old);
            self.lanes.enter(lane, settings.group);
            self.method.membership_changed(&self.places, None);
        }
        self.set(position, before);
        true
    }

    /// Says how a back-end stands.
    pub(super) fn set(&mut self, position: u32, standing: Standing) {
        let Some(place) = self.places.get_mut(position) else {
            return;
        };
        let turned = place.available != standing.available;
        let went = place.up != standing.up;
        place.up = standing.up;
        place.available = standing.available;
        place.held = standing.held;
        if turned {
            self.lanes.count(place.lane(), standing.available);
            self.method.set(position, place);
        } else {
            self.method.set_load(position, place);
        }
        if went {
            self.up.count(position, standing.up);
            self.method.membership_changed(&self.places, None);
        }
    }

    /// Says how fast a back-end answers, if that is known.
    pub(super) fn set_response_time(&mut self, position: u32, response: Option<Duration>) {
        if let Some(place) = self.places.get_mut(position) {
            let nanos = response.map_or(0, |response| response.as_nanos());
            place.response = u64::try_from(nanos).unwrap_or(u64::MAX);
            self.method.set_load(position, place);
        }
    }

    /// The lanes that have an available back-end: none when no request can be taken.
    pub(super) fn open(&self, groups: &Groups) -> Open {
        self.lanes.open(groups)
    }

    /// A bit for each full group but for which one more back-end would be available.
    pub(super) fn held_up_by(&self, groups: &Groups) -> u64 {
        self.lanes.held_up_by(groups)
    }

    /// The back-end whose request it is, of those in open lanes that are not excluded.
    pub(super) fn pick(
        &mut self,
        open: Open,
        source: &Addr,
        exclude: &mut Exclude<'_>,
    ) -> Option<u32> {
        let places = &self.places;
        match &mut self.method {
            Method::RoundRobin(method) => method.pick(places, open, exclude),
            Method::LeastConnections(method) => method.pick(places, open, exclude),
            Method::LeastResponseTime(method) => method.pick(open, exclude),
            Method::SourceHash(method) => method.pick(places, open, source, exclude),
        }
    }
}
