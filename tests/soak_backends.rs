//! A minute of back-ends that are killed and started again under load.

use std::time::Duration;

use dispatcher_tests::outages;

/// How long, seconds; another number by [`SECONDS_VARIABLE`].
const SECONDS_DEFAULT: u64 = 60;
/// Names another duration.
const SECONDS_VARIABLE: &str = "SOAK_SECONDS";

#[test]
fn back_ends_that_fail_at_random_refuse_no_client_while_one_lives() {
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("SOAK_SECONDS is a number of seconds")
    });
    outages::fail_under_load(Duration::from_secs(seconds), 2);
}
