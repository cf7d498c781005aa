//! Slow start: a back-end that came up is given its ceiling little by little.

use core::time::Duration;

/// A ceiling after `elapsed` of `whole`: in proportion, by whole percents, and at least 1, as
/// HAProxy does it.
pub(super) fn ceiling(target: u32, elapsed: Duration, whole: Duration) -> (u32, u32) {
    if elapsed >= whole {
        return (target, 100);
    }
    let percent = (elapsed.as_nanos() * 100 / whole.as_nanos()) as u32;
    let part = u64::from(target) * u64::from(percent) / 100;
    ((part as u32).max(1), percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HAProxy `srv_dynamic_maxconn`: `max(1, m * pct / 100)`.
    #[test]
    fn a_ceiling_grows_as_haproxy_lets_it() {
        let at = |target, seconds| {
            ceiling(
                target,
                Duration::from_secs(seconds),
                Duration::from_secs(20),
            )
            .0
        };
        let grown: Vec<_> = (0..=20).step_by(5).map(|seconds| at(40, seconds)).collect();
        assert_eq!(grown, [1, 10, 20, 30, 40]);
        // 3 * 30 / 100 is nothing, so it is 1.
        assert_eq!((at(3, 6), at(3, 7), at(3, 14), at(3, 25)), (1, 1, 2, 3));
        assert_eq!(at(u32::MAX, 10), u32::MAX / 2);
        assert_eq!(ceiling(7, Duration::ZERO, Duration::ZERO), (7, 100));
    }
}
