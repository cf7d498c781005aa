//! Requests that wait: a first-in-first-out list for each service through one table. Whether a
//! request may wait, and what becomes of it, is decided elsewhere.

use core::time::Duration;

use dispatcher_common::flow::FlowKey;

use super::command::ServiceId;
use super::flows::Tried;
use super::request::Request;
use super::slab::{NONE, Slab};
use super::time::Time;
use super::timer::TimerId;

/// How late a retransmission may be.
pub(super) const RETRANSMISSION_MARGIN: Duration = Duration::from_millis(500);
/// Longest that a stack waits before its first retransmission (RFC 1122 4.2.3.1; RFC 6298 has 1 s).
pub(super) const RETRANSMISSION_FIRST: Duration = Duration::from_secs(3);
/// Least that a client is given between two: a segment that the network doubled is no pace.
pub(super) const RETRANSMISSION_GAP_MIN: Duration = Duration::from_secs(1);

/// A request that waits.
///
/// With a request of 120 bytes it is 208; its timer (24) and its share of the key index (at most
/// 22) keep it below 256. Where requests of one source are bounded, a source that waits costs up to
/// 58 bytes more, for its count.
#[derive(Clone, Debug)]
pub(super) struct Queued<R> {
    pub(super) key: FlowKey,
    /// Back-ends that it was put back from.
    pub(super) tried: Tried,
    /// Milliseconds after `enqueued_at` until which it is kept from these.
    tried_until_ms: u32,
    pub(super) isn: u32,
    /// When it came.
    pub(super) enqueued_at: Time,
    /// Milliseconds after `enqueued_at` at which the SYN was last seen.
    seen_after_ms: u32,
    /// Milliseconds between the last two sightings.
    gap_ms: u32,
    previous: u32,
    next: u32,
    pub(super) timer: TimerId,
    /// A [`ServiceId`], of which there are few.
    service: u16,
    /// Sightings but the first; saturates.
    pub(super) retransmissions: u16,
    pub(super) request: R,
}

const _: () = assert!(dispatcher_common::maps::SERVICES_MAX <= 1 << u16::BITS);

impl<R> Queued<R> {
    pub(super) fn new(request: Request<R>, timer: TimerId) -> Self {
        Self {
            key: request.key,
            tried: request.tried,
            tried_until_ms: 0,
            isn: request.isn,
            enqueued_at: request.arrived,
            seen_after_ms: 0,
            gap_ms: 0,
            previous: NONE,
            next: NONE,
            timer,
            service: request.service.0 as u16,
            retransmissions: 0,
            request: request.request,
        }
    }

    /// It was with a back-end, and what its client sent meanwhile went there. A client that doubles
    /// its gaps shows itself again within as long as it has been there, and a second.
    pub(super) fn put_back(&mut self, now: Time, tried_until: Time) {
        self.tried_until_ms = millis(tried_until.since(self.enqueued_at));
        self.seen_after_ms = millis(now.since(self.enqueued_at));
        self.gap_ms = self.seen_after_ms;
    }

    /// Until when it is kept from back-ends that it was put back from, if it is.
    pub(super) fn tried_until(&self) -> Option<Time> {
        let until = self.enqueued_at + Duration::from_millis(self.tried_until_ms.into());
        (!self.tried.is_empty()).then_some(until)
    }

    /// It may go to any back-end.
    pub(super) const fn forget_tried(&mut self) {
        self.tried = Tried::NONE;
    }

    pub(super) fn service(&self) -> ServiceId {
        ServiceId(self.service.into())
    }

    pub(super) fn last_seen(&self) -> Time {
        self.enqueued_at + Duration::from_millis(self.seen_after_ms.into())
    }

    /// The same SYN was seen again.
    pub(super) fn see(&mut self, now: Time) {
        self.gap_ms = millis(now.since(self.last_seen()));
        self.seen_after_ms = millis(now.since(self.enqueued_at));
        self.retransmissions = self.retransmissions.saturating_add(1);
    }

    /// Another request of the same client has taken this one's place.
    pub(super) fn renew(&mut self, isn: u32, request: R, now: Time) -> R {
        self.isn = isn;
        self.enqueued_at = now;
        (self.seen_after_ms, self.gap_ms, self.retransmissions) = (0, 0, 0);
        self.forget_tried();
        core::mem::replace(&mut self.request, request)
    }

    /// When a client that is still there has shown itself again: after the wait of a cautious
    /// stack at first, later after twice the last gap, since clients double it.
    pub(super) fn owed_by(&self) -> Time {
        let first = self.enqueued_at + RETRANSMISSION_FIRST;
        let gap = Duration::from_millis(u64::from(self.gap_ms) * 2).max(RETRANSMISSION_GAP_MIN);
        first.max(self.last_seen() + gap) + RETRANSMISSION_MARGIN
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Most of those that were put back before that are passed to find the place of one that is.
const PASSED_MAX: u32 = 64;

/// Ends of one service's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
    /// The last of those that were put back, which stand before all others.
    last_put_back: u32,
    len: u32,
}

impl Queue {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        last_put_back: NONE,
        len: 0,
    };

    /// Number of the request that has waited longest.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Number of the request that came last.
    pub(super) fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// All requests that wait.
#[derive(Clone, Debug)]
pub(super) struct Backlog<R> {
    requests: Slab<Queued<R>>,
}

impl<R> Backlog<R> {
    pub(super) fn new() -> Self {
        Self {
            requests: Slab::new(0),
        }
    }

    /// Changes how many requests may wait over all services.
    pub(super) fn set_capacity(&mut self, capacity: u32) {
        self.requests.set_capacity(capacity);
    }

    pub(super) const fn len(&self) -> u32 {
        self.requests.len()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.requests.is_full()
    }

    pub(super) fn get(&self, index: u32) -> &Queued<R> {
        &self.requests[index]
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Queued<R> {
        &mut self.requests[index]
    }

    /// The number that [`Self::push`] will give.
    pub(super) fn next_index(&self) -> u32 {
        self.requests.next_index()
    }

    /// Puts a request at the end; gives it back when all places are taken.
    pub(super) fn push(&mut self, queue: &mut Queue, request: Queued<R>) -> Result<u32, Queued<R>> {
        self.insert(queue, queue.last, request)
    }

    /// Puts a request back before all that were not; among those that were, in the order in which
    /// they came, as far as that is found by passing a few. Gives it back when all places are
    /// taken.
    pub(super) fn push_front(
        &mut self,
        queue: &mut Queue,
        request: Queued<R>,
    ) -> Result<u32, Queued<R>> {
        let mut before = queue.last_put_back;
        for _ in 0..PASSED_MAX {
            let Some(passed) = self.requests.get(before) else {
                break;
            };
            if passed.enqueued_at <= request.enqueued_at {
                break;
            }
            before = passed.previous;
        }
        let is_last = before == queue.last_put_back;
        let index = self.insert(queue, before, request)?;
        if is_last {
            queue.last_put_back = index;
        }
        Ok(index)
    }

    /// Puts a request behind another, or, if that is none, before all.
    fn insert(
        &mut self,
        queue: &mut Queue,
        previous: u32,
        request: Queued<R>,
    ) -> Result<u32, Queued<R>> {
        let next = self
            .requests
            .get(previous)
            .map_or(queue.first, |before| before.next);
        let index = self.requests.insert(Queued {
            previous,
            next,
            ..request
        })?;
        if previous == NONE {
            queue.first = index;
        } else {
            self.requests[previous].next = index;
        }
        if next == NONE {
            queue.last = index;
        } else {
            self.requests[next].previous = index;
        }
        queue.len += 1;
        Ok(index)
    }

    /// Takes a request out, wherever it stands.
    pub(super) fn remove(&mut self, queue: &mut Queue, index: u32) -> Option<Queued<R>> {
        let request = self.requests.remove(index)?;
        if queue.last_put_back == index {
            queue.last_put_back = request.previous;
        }
        if request.previous == NONE {
            queue.first = request.next;
        } else {
            self.requests[request.previous].next = request.next;
        }
        if request.next == NONE {
            queue.last = request.previous;
        } else {
            self.requests[request.next].previous = request.previous;
        }
        queue.len -= 1;
        Some(request)
    }

    /// The requests of a list with their numbers, the one that waited longest first.
    pub(super) fn iter(&self, queue: &Queue) -> impl Iterator<Item = (u32, &Queued<R>)> {
        let mut next = queue.first;
        core::iter::from_fn(move || {
            let index = next;
            let request = self.requests.get(index)?;
            next = request.next;
            Some((index, request))
        })
    }
}
