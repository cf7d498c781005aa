//! The bounds of the configuration.

use dispatcher_user::config::{
    BACKENDS_MAX, BACKENDS_PER_SERVICE_MAX, CAPACITY_MAX, FILE_BYTES_MAX, FLOW_CAPACITY_MAX,
    GROUPS_MAX, GROUPS_PER_SERVICE_MAX, INTERFACES_MAX, QUEUE_CAPACITY_MAX, SERVICES_MAX,
    WEIGHT_MAX,
};

/// A row for each.
pub fn reference() -> String {
    let mut text = "| what | most |\n| --- | --- |\n".to_owned();
    for (what, most) in [
        ("interfaces", INTERFACES_MAX),
        ("services", SERVICES_MAX),
        ("back-ends of a service", BACKENDS_PER_SERVICE_MAX),
        ("back-ends of all services together", BACKENDS_MAX),
        ("groups", GROUPS_MAX),
        (
            "different groups of one service's back-ends",
            GROUPS_PER_SERVICE_MAX,
        ),
        ("weight of a back-end", WEIGHT_MAX as usize),
        ("capacity of a back-end", CAPACITY_MAX as usize),
        (
            "requests that wait for a service",
            QUEUE_CAPACITY_MAX as usize,
        ),
        ("connections in the flow table", FLOW_CAPACITY_MAX as usize),
        ("bytes of a configuration file", FILE_BYTES_MAX),
    ] {
        text.push_str(&format!("| {what} | {most} |\n"));
    }
    text
}
