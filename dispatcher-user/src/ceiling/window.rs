//! What was measured of a back-end.

use core::time::Duration;

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
