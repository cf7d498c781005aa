//! Stories of what a window measures.

use super::*;

fn backend(window: &ServiceWindow, number: u32) -> BackendWindow {
    let of_it = |backend: &&BackendWindow| backend.id == BackendId(number);
    *window.backends.iter().find(of_it).unwrap()
}

#[test]
fn averages_are_over_time() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    bench.syn(100, 'a');
    bench.syn(200, 'b');
    bench.syn(300, 'c');
    bench.phase(600, 'a', RESET);
    bench.phase(900, 'b', RESET);
    let window = bench.window(1000);
    assert_eq!(window.length, Duration::from_secs(1));
    // One from 100 to 200, two until 900, then one.
    let measured = backend(&window, 0);
    assert_eq!((measured.held_mean, measured.held_max), (1.6, 2));
    assert_eq!((window.queue_mean, window.queue_max), (0.3, 1));

    let window = bench.window(1500);
    let measured = backend(&window, 0);
    assert_eq!(window.length, Duration::from_millis(500));
    assert_eq!((measured.held_mean, measured.held_max), (1.0, 1));
    assert_eq!((window.queue_mean, window.queue_max), (0.0, 0));
}

#[test]
fn connections_are_told_apart_by_how_they_end() {
    let mut bench = Bench::new(SETTINGS, &[9]);
    for (at, client) in (0..).zip("abcdef".chars()) {
        bench.syn(at, client);
    }
    bench.phase(10, 'a', Phase::RESET);
    bench.phase(10, 'b', ESTABLISHED);
    bench.phase(11, 'b', CLOSING);
    bench.phase(12, 'b', ENDED);
    bench.phase(12, 'c', RESET);
    bench.install_failed(13, 'd', InstallFailure::TableFull);
    bench.phase(14, 'e', ESTABLISHED);
    let measured = backend(&bench.window(20), 0);
    let counts = |measured: BackendWindow| (measured.admitted, measured.ended, measured.failed);
    assert_eq!(
        counts(measured),
        (5, 2, 1),
        "one that was reset at once was established"
    );

    bench.pass(5005);
    bench.failed(5005, 'f', ConnectFailure::Silent);
    let flow = bench.flows[&'e'];
    bench.admission.remove_flow(ms(5006), flow);
    let measured = backend(&bench.window(5010), 0);
    assert_eq!(
        counts(measured),
        (0, 1, 1),
        "one was removed, one never answered"
    );
    let view = bench.backend(0);
    assert_eq!((view.admitted, view.ended, view.failed), (5, 3, 2));
}

#[test]
fn a_connection_that_could_not_be_installed_is_made_up_for() {
    let mut bench = Bench::new(SETTINGS, &[9]);
    bench.syn(0, 'a');
    assert_eq!(backend(&bench.window(1), 0).admitted, 1);
    bench.install_failed(2, 'a', InstallFailure::TableFull);
    assert_eq!(backend(&bench.window(3), 0).admitted, 0);
    bench.syn(4, 'b');
    bench.syn(4, 'c');
    assert_eq!(backend(&bench.window(5), 0).admitted, 1);
    assert_eq!(bench.backend(0).admitted, 2);
}

#[test]
fn a_ceiling_is_reached_if_it_was_at_any_moment() {
    let reached = |bench: &mut Bench, at| backend(&bench.window(at), 0).reached;
    let mut bench = Bench::new(SETTINGS, &[2]);
    bench.syn(0, 'a');
    assert!(!reached(&mut bench, 10));
    bench.syn(11, 'b');
    bench.phase(12, 'b', RESET);
    assert!(reached(&mut bench, 20));
    assert!(!reached(&mut bench, 30), "it was not since");
    bench.set_ceiling(31, 0, 1);
    bench.set_ceiling(32, 0, 5);
    assert!(reached(&mut bench, 40), "a lowered one was");
    bench.set_ceiling(41, 0, 1);
    assert!(reached(&mut bench, 50));
    assert!(reached(&mut bench, 60), "and still is");
    bench.set_ceiling(61, 0, 2);
    assert!(reached(&mut bench, 70), "it was when the window began");
    assert!(!reached(&mut bench, 80));
}

#[test]
fn a_full_group_reaches_no_back_ends_ceiling() {
    let mut bench = Bench::grouped(64, SETTINGS, &[(2, Some(0))], &[1]);
    bench.syn(0, 'a');
    bench.syn(1, 'b');
    let window = bench.window(11);
    assert!(!backend(&window, 0).reached);
    assert_eq!(backend(&window, 0).held_max, 1);
    assert_eq!(window.queue_max, 1);
}

#[test]
fn a_window_of_no_length_shows_what_is_there() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    for (at, client) in (0..).zip("abc".chars()) {
        bench.syn(at, client);
    }
    bench.window(10);
    let window = bench.window(10);
    assert_eq!((window.length, window.queue_mean), (Duration::ZERO, 1.0));
    assert_eq!(backend(&window, 0).held_mean, 2.0);
    assert_eq!(backend(&window, 0).admitted, 0);
}

#[test]
fn back_ends_come_and_go_within_a_window() {
    let mut bench = Bench::new(SETTINGS, &[1]);
    bench.window(0);
    bench.syn(0, 'a');
    let settings = backend_settings(1);
    bench
        .admission
        .add_backend(ms(50), bench.service, settings)
        .unwrap();
    bench.syn(75, 'b');
    bench.admission.remove_backend(ms(80), BackendId(0));
    let window = bench.window(100);
    assert_eq!(backend(&window, 0).held_mean, 1.0, "its flow goes on");
    assert_eq!(
        backend(&window, 1).held_mean,
        0.25,
        "it held nothing before it came"
    );
    bench.phase(150, 'a', ENDED);
    let window = bench.window(200);
    assert_eq!(backend(&window, 0).held_mean, 0.5);
    bench.pass(1200);
    assert_eq!(bench.window(1300).backends.len(), 1);
}

#[test]
fn the_first_window_begins_with_the_first_back_end() {
    let mut admission = Admission::<Ask, _>::new(8, Hasher::default());
    let service = admission.add_service(SETTINGS).unwrap();
    admission
        .add_backend(ms(500), service, backend_settings(1))
        .unwrap();
    admission.handle_syn(ms(500), service, key('a'), 1, ('a', 1));
    let window = admission.take_window(ms(700), service).unwrap();
    assert_eq!(window.length, Duration::from_millis(200));
    assert_eq!(backend(&window, 0).held_mean, 1.0);
    assert_eq!(admission.take_window(ms(700), ServiceId(7)), None);
}

#[test]
fn a_window_may_be_as_long_as_time() {
    let mut bench = Bench::new(SETTINGS, &[2]);
    bench.syn(0, 'a');
    bench.syn(0, 'b');
    let end = Time(u64::MAX);
    let window = bench.admission.take_window(end, bench.service).unwrap();
    assert_eq!(backend(&window, 0).held_mean, 2.0);
}
