//! A minute of reloads under load.

use std::time::Duration;

#[test]
fn ten_reloads_a_second_for_a_minute_are_noticed_by_no_client() {
    dispatcher_tests::churn::reload_under_load(Duration::from_secs(60));
}
