//! What is kept of a status, for how long, and what is told of it.

use std::sync::Arc;

use super::{BackendHistory, History, HistoryList, SAMPLES_MAX, ServiceHistory};
use crate::admin::fake;
use crate::status::Status;

/// The `n`th sample: so many seconds after the start, with a ceiling of so much.
fn sample(n: u64) -> Status {
    let mut status = fake::status();
    status.uptime_seconds = n as f64;
    status.services[0].backends[0].ceiling = n;
    status
}

fn taken(statuses: impl IntoIterator<Item = Status>) -> History {
    let history = History::default();
    for status in statuses {
        history.take(Arc::new(status));
    }
    history
}

fn ceilings(list: &HistoryList, backend: &str) -> Vec<u32> {
    let mut backends = list.services[0].backends.iter();
    let found = backends.find(|one| one.name == backend).unwrap();
    assert_eq!(found.ceiling.len(), found.held.len());
    found.ceiling.clone()
}

#[test]
fn a_sample_is_what_the_status_told() {
    let mut status = fake::status();
    let mut second = status.services[0].backends[0].clone();
    second.name = "web-2".to_owned();
    second.rate.connections = Some(50.25);
    second.response_ms.p99 = Some(31.5);
    status.services[0].backends.push(second);
    let backend = |name: &str| BackendHistory {
        name: name.to_owned(),
        ceiling: vec![32],
        held: vec![32],
    };
    let expected = HistoryList {
        last: 1,
        seconds: vec![12.5],
        services: vec![ServiceHistory {
            name: "web".to_owned(),
            queue: vec![3],
            connections: vec![Some(950.3)],
            requests: vec![None],
            p99_ms: vec![Some(31.5)],
            backends: vec![backend("web-1"), backend("web-2")],
        }],
    };
    assert_eq!(taken([status]).list(0), expected);
}

#[test]
fn nothing_is_told_before_the_first_sample() {
    assert_eq!(History::default().list(0), HistoryList::default());
    assert!(History::default().follow().borrow().latest().is_none());
}

#[test]
fn the_oldest_samples_go() {
    let most = SAMPLES_MAX as u64;
    let list = taken((1..=most + 5).map(sample)).list(0);
    assert_eq!(list.last, most + 5);
    assert_eq!(list.seconds.len(), SAMPLES_MAX);
    assert_eq!(list.seconds[0], 6.0);
    let told = ceilings(&list, "web-1");
    assert_eq!((told.len(), told[0]), (SAMPLES_MAX, 6));
    assert_eq!(list.services[0].queue.len(), SAMPLES_MAX);
}

#[test]
fn only_what_is_new_is_told_of_who_asks_again() {
    let history = taken((1..=5).map(sample));
    let list = history.list(3);
    assert_eq!((list.last, ceilings(&list, "web-1")), (5, vec![4, 5]));
    assert_eq!(list.seconds, [4.0, 5.0]);
    assert_eq!(list.services[0].connections.len(), 2);
    assert!(ceilings(&history.list(5), "web-1").is_empty());
    // Of an earlier daemon.
    assert_eq!(ceilings(&history.list(6), "web-1").len(), 5);
}

#[test]
fn a_backend_that_joins_has_a_shorter_history_and_one_that_goes_has_none() {
    let mut joined = sample(3);
    let mut second = joined.services[0].backends[0].clone();
    second.name = "web-2".to_owned();
    joined.services[0].backends.insert(0, second);
    let mut left = joined.clone();
    left.uptime_seconds = 4.0;
    left.services[0].backends.remove(1);

    let history = taken([sample(1), sample(2), joined.clone()]);
    let list = history.list(0);
    assert_eq!(ceilings(&list, "web-1"), [1, 2, 3]);
    assert_eq!(ceilings(&list, "web-2"), [3]);

    history.take(Arc::new(left));
    let list = history.list(0);
    assert_eq!(list.services[0].backends.len(), 1);
    assert_eq!(ceilings(&list, "web-2"), [3, 3]);

    // What comes back begins anew.
    history.take(Arc::new(joined));
    assert_eq!(ceilings(&history.list(0), "web-1"), [3]);
    let mut none = sample(6);
    none.services.clear();
    history.take(Arc::new(none));
    assert!(history.list(0).services.is_empty());
}
