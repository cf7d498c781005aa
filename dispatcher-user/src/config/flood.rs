//! `[service.flood]`: keys, bounds and defaults.

use std::time::Duration;

use super::reader::Table;
use super::scalar::{choice, duration, duration_in, integer, percent};
use super::{DURATION_MAX, FLOOD_HANDSHAKE_MIN, FLOOD_RATE_MAX, FLOOD_RATE_MIN};
use super::{Flood, FloodMode};

/// Beyond what the queue holds: what every service is trusted to get from clients alone.
const RATE_BEYOND_QUEUE: u32 = 1000;
const HOLD_DEFAULT: Duration = Duration::from_secs(10);
const HALF_OPEN_DEFAULT: u32 = 50;
const HANDSHAKE_DEFAULT: Duration = Duration::from_secs(2);

pub(super) fn flood(mut table: Table<'_>, queue_capacity: u32) -> Flood {
    let modes = [
        ("auto", FloodMode::Auto),
        ("on", FloodMode::On),
        ("off", FloodMode::Off),
    ];
    let mode = table.value("mode", FloodMode::Auto, choice(&modes));
    let rate = table.value(
        "rate",
        queue_capacity + RATE_BEYOND_QUEUE,
        integer(FLOOD_RATE_MIN..=FLOOD_RATE_MAX, ""),
    );
    let hold = table.value("hold", HOLD_DEFAULT, duration);
    let half_open = table.value("half_open", HALF_OPEN_DEFAULT, percent(1..=100, ""));
    let why = ": a client that lost an answer gets it again after a second";
    let handshake = table.value(
        "handshake",
        HANDSHAKE_DEFAULT,
        duration_in(FLOOD_HANDSHAKE_MIN..=DURATION_MAX, why),
    );
    table.finish();
    Flood {
        mode,
        rate,
        hold,
        half_open,
        handshake,
    }
}
