//! Tells the log of requests that are turned away: of the first at once, then at most one line for
//! each interval, with how many there were. Counting costs a request a lookup; nothing else is
//! done for it.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::admission::{RefuseReason, ServiceId, Time};

/// Time between two lines about the same service and reason.
const INTERVAL: Duration = Duration::from_secs(10);

/// Of one kind of event, those that were not told yet.
#[derive(Default)]
pub(super) struct Notice {
    untold: u64,
    told: Option<Time>,
}

impl Notice {
    /// It happened.
    pub(super) fn note(&mut self) {
        self.untold += 1;
    }

    /// How often it happened since that was last told, when it is time to tell again.
    pub(super) fn due(&mut self, now: Time) -> Option<u64> {
        let early = self.told.is_some_and(|told| now.since(told) < INTERVAL);
        if self.untold == 0 || early {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// What was turned away: there are no more kinds of it than services times reasons.
#[derive(Default)]
pub(super) struct Refusals(HashMap<(ServiceId, RefuseReason), Notice, RandomState>);

impl Refusals {
    pub(super) fn note(&mut self, service: ServiceId, reason: RefuseReason) {
        self.0.entry((service, reason)).or_default().note();
    }

    /// What is to be told now, with how many there were.
    pub(super) fn due(
        &mut self,
        now: Time,
    ) -> impl Iterator<Item = (ServiceId, RefuseReason, u64)> {
        self.0
            .iter_mut()
            .filter_map(move |(&(service, reason), notice)| {
                notice.due(now).map(|count| (service, reason, count))
            })
    }
}

/// Why, in the words of the log.
pub(super) const fn why(reason: RefuseReason) -> &'static str {
    match reason {
        RefuseReason::QueueFull => "the queue is full",
        RefuseReason::PerSource => "as many of one client's wait as may (queue.per_source)",
        RefuseReason::TableFull => "the flow table is full (dataplane.flow_capacity)",
        RefuseReason::Collision => "its addresses and ports are taken at every back-end",
        RefuseReason::Expired => "they waited as long as they may (queue.timeout)",
        RefuseReason::ServiceRemoved => "the service was removed",
        RefuseReason::BackendsRefused => "every back-end refused them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceId = ServiceId(0);

    fn after(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_together() {
        let mut notice = Notice::default();
        assert_eq!(notice.due(after(0)), None);
        notice.note();
        assert_eq!(notice.due(after(0)), Some(1));
        for _ in 0..1000 {
            notice.note();
        }
        assert_eq!(notice.due(after(9)), None);
        assert_eq!(notice.due(after(10)), Some(1000));
        assert_eq!(notice.due(after(30)), None, "nothing happened since");
        notice.note();
        assert_eq!(notice.due(after(30)), Some(1));
    }

    #[test]
    fn services_and_reasons_are_told_apart() {
        let mut refusals = Refusals::default();
        refusals.note(SERVICE, RefuseReason::QueueFull);
        refusals.note(SERVICE, RefuseReason::QueueFull);
        refusals.note(SERVICE, RefuseReason::TableFull);
        refusals.note(ServiceId(1), RefuseReason::QueueFull);
        let mut told: Vec<_> = refusals.due(after(1)).collect();
        told.sort_by_key(|(service, reason, _)| (service.0, *reason as u8));
        assert_eq!(
            told,
            [
                (SERVICE, RefuseReason::QueueFull, 2),
                (SERVICE, RefuseReason::TableFull, 1),
                (ServiceId(1), RefuseReason::QueueFull, 1),
            ]
        );
        assert_eq!(refusals.due(after(2)).count(), 0);
    }
}
