//! What admission measures over a window of time: averages that are exact, because whatever is
//! counted changes here, and greatest values. A window of a service ends when it is taken, and the
//! next begins.

use core::hash::BuildHasher;
use core::time::Duration;

use super::command::{BackendId, ServiceId};
use super::{Admission, Time};

/// Of a service, since the last one was taken. The first begins when its first back-end is added,
/// or a request waits for one.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceWindow {
    /// How long it was.
    pub length: Duration,
    /// Requests that waited, averaged over time; in a window of no length, those that wait now.
    pub queue_mean: f64,
    /// Most requests that waited at once.
    pub queue_max: u32,
    /// Of its back-ends, removed ones with flows included.
    pub backends: Vec<BackendWindow>,
}

/// Of a back-end. One that came after the window began held nothing until then.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BackendWindow {
    /// Its number.
    pub id: BackendId,
    /// Slots held, averaged over time; in a window of no length, those that are held now.
    pub held_mean: f64,
    /// Most slots held at once.
    pub held_max: u32,
    /// At some moment all slots under its own ceiling were held, whatever its group had.
    pub reached: bool,
    /// Connections given to it.
    pub admitted: u64,
    /// Connections that were established and have ended.
    pub ended: u64,
    /// Connections that are over and never were established: reset before, or given up.
    pub failed: u64,
    /// Those that it refused.
    pub refused: u64,
    /// Those that it did not answer in time.
    pub silent: u64,
}

/// A count, its greatest value in a window, and its integral over time. That takes 32 bits of value
/// and 64 of nanoseconds, and so has room for all time.
#[derive(Clone, Debug)]
pub(super) struct Level {
    value: u32,
    max: u32,
    since: Time,
    area: u128,
}

impl Level {
    /// Of a count that is 0.
    pub(super) const fn new(now: Time) -> Self {
        Self {
            value: 0,
            max: 0,
            since: now,
            area: 0,
        }
    }

    /// The count changes.
    pub(super) fn set(&mut self, now: Time, value: u32) {
        let nanos = now.0.saturating_sub(self.since.0);
        self.area += u128::from(self.value) * u128::from(nanos);
        self.since = now;
        self.value = value;
        self.max = self.max.max(value);
    }

    /// The average and the greatest value of a window that ends now. The next begins.
    pub(super) fn take(&mut self, now: Time, length: Duration) -> (f64, u32) {
        self.set(now, self.value);
        let mean = if length.is_zero() {
            f64::from(self.value)
        } else {
            self.area as f64 / length.as_nanos() as f64
        };
        let max = self.max;
        (self.area, self.max) = (0, self.value);
        (mean, max)
    }
}

/// What became of the connections of a back-end since it was added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackendCounters {
    pub(super) admitted: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) silent: u64,
}

impl BackendCounters {
    /// What came since it was last told. A connection that was told, and then taken back because it
    /// could not be installed, is made up for by the next.
    pub(super) const fn since(&self, told: &mut Self) -> Self {
        let since = Self {
            admitted: self.admitted.saturating_sub(told.admitted),
            ended: self.ended - told.ended,
            failed: self.failed - told.failed,
            refused: self.refused - told.refused,
            silent: self.silent - told.silent,
        };
        *told = Self {
            admitted: told.admitted + since.admitted,
            ..*self
        };
        since
    }
}

impl<R, S: BuildHasher + Clone> Admission<R, S> {
    /// Ends a service's window and tells what it measured.
    pub fn take_window(&mut self, now: Time, id: ServiceId) -> Option<ServiceWindow> {
        let service = self.services.get_mut(id.0)?;
        let begun = service.window_begun.replace(now).unwrap_or(now);
        let length = now.since(begun);
        let (queue_mean, queue_max) = service.queue_level.take(now, length);
        let mut backends = Vec::with_capacity(service.members.len());
        for &id in service.members.iter().flatten() {
            let backend = &mut self.backends[id.0];
            let (held_mean, held_max, reached) = backend.limiter.take_window(now, length);
            let counters = backend.counters.since(&mut backend.told);
            backends.push(BackendWindow {
                id,
                held_mean,
                held_max,
                reached,
                admitted: counters.admitted,
                ended: counters.ended,
                failed: counters.failed,
                refused: counters.refused,
                silent: counters.silent,
            });
        }
        Some(ServiceWindow {
            length,
            queue_mean,
            queue_max,
            backends,
        })
    }
}
