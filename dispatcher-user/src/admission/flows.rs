//! The flow table: what is known of each flow, by index and generation, and the flows that linger
//! in the order in which they ended. It keeps records; it decides nothing.

use dispatcher_common::flow::FlowKey;
use dispatcher_common::tcp::Phase;

use super::command::{BackendId, FlowId, ServiceId};
use super::limiter::Slot;
use super::slab::{NONE, Slab};
use super::time::Time;
use super::timer::TimerId;

/// Most back-ends at which a request may collide before it is turned away: a client port that
/// collides at as many is no coincidence.
pub(super) const COLLISIONS_MAX: u8 = 4;

/// Where a flow stands in its life. It only ever moves on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowState {
    /// Its SYN was forwarded, the handshake is not finished.
    HalfOpen,
    /// The handshake is finished.
    Established,
    /// One side has closed.
    Closing,
    /// It has ended and holds no slot; late packets of it are still translated.
    Lingering,
}

impl FlowState {
    /// The state of a flow in `phase`.
    #[must_use]
    pub const fn of(phase: Phase) -> Self {
        if phase.is_ended() {
            Self::Lingering
        } else if phase.is_closing() {
            Self::Closing
        } else if phase.is_established() {
            Self::Established
        } else {
            Self::HalfOpen
        }
    }

    /// The slot that a flow holds in this state.
    pub(super) const fn slot(self) -> Option<Slot> {
        match self {
            Self::HalfOpen => Some(Slot::HalfOpen),
            Self::Established | Self::Closing => Some(Slot::Active),
            Self::Lingering => None,
        }
    }
}

/// Back-ends that could not take a request: they refused it, were silent, or it collided there. A
/// bit for a position in the service; positions beyond the 64th share bits, so of more back-ends
/// some may be passed over that were not tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tried(u64);

impl Tried {
    /// None.
    pub(super) const NONE: Self = Self(0);
    /// Bits, for whoever counts by them.
    pub(super) const BITS: u32 = u64::BITS;

    /// The bit of a position.
    pub(super) const fn bit(position: u32) -> u32 {
        position % Self::BITS
    }

    /// These and one more.
    pub(super) const fn and(self, position: u32) -> Self {
        Self(self.0 | 1 << Self::bit(position))
    }

    /// All but one bit.
    pub(super) const fn without_bit(self, bit: u32) -> Self {
        Self(self.0 & !(1 << bit))
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn has(self, position: u32) -> bool {
        self.0 >> Self::bit(position) & 1 != 0
    }

    /// Whether one of these is not among `others`.
    pub(super) const fn go_beyond(self, others: Self) -> bool {
        self.0 & !others.0 != 0
    }
}

/// A flow.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) service: ServiceId,
    pub(super) backend: BackendId,
    /// Not known of a flow that lived through a restart.
    pub(super) isn: Option<u32>,
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// Its SYN was counted as one that the back-end did not answer.
    pub(super) silent: bool,
    pub(super) state: FlowState,
    pub(super) timer: TimerId,
    pub(super) admitted_at: Time,
    /// When it came into its state.
    pub(super) changed_at: Time,
    /// When its request came.
    pub(super) arrived: Time,
    /// Its request came out of the queue.
    pub(super) has_waited: bool,
    /// How often its request has collided.
    pub(super) collisions: u8,
    pub(super) tried: Tried,
    /// Neighbours in the list of those that linger.
    pub(super) links: Links,
}

impl Flow {
    /// Whether it is known if the back-end answers its SYN.
    pub(super) const fn is_answer_known(&self) -> bool {
        self.silent || self.phase.has(Phase::ANSWERED)
    }
}

/// Places in the list of flows that linger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    pub(super) const NONE: Self = Self {
        previous: NONE,
        next: NONE,
    };
}

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    flows: Slab<Flow>,
    /// The next flow's, so that no two flows of one index share one until 2^32 others have been.
    generation: u32,
    lingering: Links,
}

impl Flows {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            flows: Slab::new(capacity),
            generation: 1,
            lingering: Links::NONE,
        }
    }

    pub(super) const fn len(&self) -> u32 {
        self.flows.len()
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.flows.capacity()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.flows.is_full()
    }

    /// The identity of the flow at an index.
    pub(super) fn id(&self, index: u32) -> FlowId {
        FlowId {
            index,
            generation: self.flows[index].generation,
        }
    }

    /// The identity that the next flow will get.
    pub(super) fn next_id(&self) -> FlowId {
        FlowId {
            index: self.flows.next_index(),
            generation: self.generation,
        }
    }

    /// Adds a flow, whose identity [`Self::next_id`] told; gives it back when the table is full.
    pub(super) fn insert(&mut self, flow: Flow) -> Result<u32, Flow> {
        debug_assert_eq!(
            flow.generation, self.generation,
            "the flow was told its identity"
        );
        let index = self.flows.insert(flow)?;
        self.pass_generation(self.generation);
        Ok(index)
    }

    /// Adds a flow that lived through a restart; gives it back when its index is taken.
    pub(super) fn insert_at(&mut self, index: u32, flow: Flow) -> Result<(), Flow> {
        let generation = flow.generation;
        self.flows.insert_at(index, flow)?;
        if generation >= self.generation {
            self.pass_generation(generation);
        }
        Ok(())
    }

    fn pass_generation(&mut self, generation: u32) {
        self.generation = generation.wrapping_add(1).max(1);
    }

    /// The flow, unless another one has its index now.
    pub(super) fn find(&mut self, id: FlowId) -> Option<&mut Flow> {
        let flow = self.flows.get_mut(id.index)?;
        (flow.generation == id.generation).then_some(flow)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Flow> {
        self.flows.get(index)
    }

    pub(super) fn at(&self, index: u32) -> &Flow {
        &self.flows[index]
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, index: u32) -> Option<Flow> {
        if self.flows.get(index)?.state == FlowState::Lingering {
            self.unlink(index);
        }
        self.flows.remove(index)
    }

    /// Puts a flow that has just ended at the end of the list of those that linger.
    pub(super) fn linger(&mut self, index: u32) {
        let last = self.lingering.previous;
        self.flows[index].links = Links {
            previous: last,
            next: NONE,
        };
        match last {
            NONE => self.lingering.next = index,
            last => self.flows[last].links.next = index,
        }
        self.lingering.previous = index;
    }

    /// The flow that has lingered longest.
    pub(super) fn lingered_longest(&self) -> Option<u32> {
        (self.lingering.next != NONE).then_some(self.lingering.next)
    }

    /// Indexes and flows, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.iter()
    }

    fn unlink(&mut self, index: u32) {
        let Links { previous, next } = self.flows[index].links;
        match previous {
            NONE => self.lingering.next = next,
            previous => self.flows[previous].links.next = next,
        }
        match next {
            NONE => self.lingering.previous = previous,
            next => self.flows[next].links.previous = previous,
        }
    }
}
