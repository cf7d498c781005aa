//! What was measured of a back-end.

use core::time::Duration;

use super::curve::within;

/// What was measured of one back-end over one window.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Window {
    /// How long it was.
    pub length: Duration,
    /// Slots held, averaged over time.
    pub held_mean: f64,
    /// Most slots held at once.
    pub held_max: u32,
    /// Whether all slots under the ceiling were held at some time in the window.
    pub reached: bool,
    /// Requests that waited in the service's queue, averaged over time.
    pub queue_mean: f64,
    /// Connections given to the back-end.
    pub admitted: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections that ended while a request on them had no answer, or never finished their
    /// handshake.
    pub unanswered: u64,
    /// From a request's first byte to the first byte of its response; how many is the number of
    /// requests answered.
    pub response: Times,
    /// From SYN to SYN-ACK.
    pub connect: Times,
    /// Packets to and from the back-end.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// How long something took; all zero when `count` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// How often it was measured.
    pub count: u64,
    /// Mean.
    pub mean: Duration,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of a hundred took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Window {
    /// Requests that were served: answered, or, where requests cannot be told, connections that
    /// came to a good end.
    #[must_use]
    pub const fn served(&self) -> u64 {
        let ended_well = self.ended.saturating_sub(self.unanswered);
        if self.response.count > ended_well {
            self.response.count
        } else {
            ended_well
        }
    }

    /// Means that are no numbers are 0, and none is beyond what can be counted.
    pub(super) fn sane(self) -> Self {
        let sane = |mean| within(0.0, f64::from(u32::MAX), mean);
        Self {
            held_mean: sane(self.held_mean),
            queue_mean: sane(self.queue_mean),
            ..self
        }
    }

    /// Both windows as one. Medians are averaged by their counts, as means are; p99 is the greater.
    pub(super) fn and(self, other: &Self) -> Self {
        let (ours, theirs) = (self.length.as_secs_f64(), other.length.as_secs_f64());
        let part = if ours + theirs > 0.0 {
            theirs / (ours + theirs)
        } else {
            0.5
        };
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Self {
            length: self.length.saturating_add(other.length),
            held_mean: mix(self.held_mean, other.held_mean),
            held_max: self.held_max.max(other.held_max),
            reached: self.reached || other.reached,
            queue_mean: mix(self.queue_mean, other.queue_mean),
            admitted: self.admitted.saturating_add(other.admitted),
            ended: self.ended.saturating_add(other.ended),
            unanswered: self.unanswered.saturating_add(other.unanswered),
            response: self.response.and(&other.response),
            connect: self.connect.and(&other.connect),
            packets: self.packets.saturating_add(other.packets),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl Times {
    fn and(self, other: &Self) -> Self {
        let count = self.count.saturating_add(other.count);
        let part = if count == 0 {
            0.0
        } else {
            other.count as f64 / count as f64
        };
        let mix = |ours: Duration, theirs: Duration| {
            let mixed = ours.as_secs_f64() * (1.0 - part) + theirs.as_secs_f64() * part;
            Duration::try_from_secs_f64(mixed).unwrap_or(Duration::MAX)
        };
        Self {
            count,
            mean: mix(self.mean, other.mean),
            p50: mix(self.p50, other.p50),
            p99: self.p99.max(other.p99),
            max: self.max.max(other.max),
        }
    }
}
