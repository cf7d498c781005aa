//! A minute of kills under load.

use std::time::Duration;

/// How long, seconds; another number by [`SECONDS_VARIABLE`].
const SECONDS_DEFAULT: u64 = 60;
/// Names another duration.
const SECONDS_VARIABLE: &str = "SOAK_SECONDS";

#[test]
fn a_kill_every_two_seconds_for_a_minute_is_noticed_by_no_client() {
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("SOAK_SECONDS is a number of seconds")
    });
    dispatcher_tests::restarts::restart_under_load(Duration::from_secs(seconds));
}
