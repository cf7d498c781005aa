//! What keys and answers make of the model, and how that looks.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use tokio::sync::mpsc;

use super::draw::draw;
use super::model::{Answer, Change, Effect, Event, Mode, Model, Order};
use super::{EVENTS_MAX, read_keys};
use crate::admin::{BackendAction, fake};
use crate::history::{BackendHistory, HistoryList, ServiceHistory};
use crate::status::{BackendState, Status};

const START: Duration = Duration::ZERO;

/// Back-ends that differ in all that can be sorted by.
fn status() -> Status {
    let mut status = fake::status();
    let service = &mut status.services[0];
    let first = service.backends.remove(0);
    for (name, active, ceiling, rate, p99) in [
        ("web-c", 30, 32, 900.0, Some(9.0)),
        ("web-a", 40, 80, 100.5, None),
        ("web-b", 10, 8, 20.0, Some(1234.5)),
    ] {
        let mut backend = first.clone();
        backend.name = name.to_owned();
        (backend.active, backend.half_open) = (active, 0);
        backend.ceiling = ceiling;
        backend.rate.connections = Some(rate);
        backend.response_ms.p99 = p99;
        service.backends.push(backend);
    }
    service.backends[2].state = BackendState::Draining;
    service.backends[1].pinned = true;
    status
}

/// Samples up to number `last`, of which `new` are told.
fn history(last: u64, new: u32) -> HistoryList {
    let numbers = || (1..=new).collect::<Vec<_>>();
    let backend = |name: &str| BackendHistory {
        name: name.to_owned(),
        ceiling: numbers().iter().map(|n| n.max(&6) + 2).collect(),
        held: numbers(),
    };
    HistoryList {
        last,
        seconds: numbers().into_iter().map(f64::from).collect(),
        services: vec![ServiceHistory {
            name: "web".to_owned(),
            queue: numbers(),
            backends: ["web-c", "web-a", "web-b"].map(backend).into(),
            ..ServiceHistory::default()
        }],
    }
}

fn answered(since: u64, history: HistoryList) -> Event {
    Event::Answered(Ok(Box::new(Answer {
        since,
        status: status(),
        history,
    })))
}

fn live() -> Model {
    let mut model = Model::new(true);
    assert!(model.update(answered(0, history(8, 8)), START).is_empty());
    model
}

fn press(model: &mut Model, code: KeyCode) -> Vec<Effect> {
    model.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)), START)
}

fn typed(model: &mut Model, keys: &str) -> Vec<Effect> {
    keys.chars()
        .flat_map(|key| press(model, KeyCode::Char(key)))
        .collect()
}

fn drawn(model: &mut Model, width: u16, height: u16, now: Duration) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, now)).unwrap();
    terminal
}

fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(buffer.area.width));
    rows.map(|row| {
        let line: String = row.iter().map(Cell::symbol).collect();
        line.trim_end().to_owned()
    })
    .collect()
}

fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    lines(&drawn(model, width, height, START))
}

/// Names of the back-ends as they stand on the screen.
fn order(model: &mut Model) -> Vec<String> {
    let lines = screen(model, 80, 24);
    let names = lines[1..10]
        .iter()
        .filter_map(|line| line.strip_prefix("  "));
    names
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

#[test]
fn it_fits_a_terminal_of_80_by_24() {
    let expected = [
        "dispatcher 0.1.0 · up 12s · native · 12 of 262144 flows · eth1 is missing live",
        "back-end       state    of ceiling held/ceil   conn/s  p50 ms  p99 ms     held",
        "web            ▁▂▃▄▅▆▇█ 3/1024 FLOOD for 12s, 4000000 shed, waiting ≤120 ms, p50",
        "  web-c        up       ████████▍│     30/32    900.0     3.9     9.0 ▁▁▂▃▄▄▅▆",
        "  web-a        up       ████▌    │     40/80p   100.5     3.9       - ▁▁▂▃▄▄▅▆",
        "  web-b        draining ███████│██      10/8     20.0     3.9    1234 ▁▁▂▃▄▄▅▆",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        " web/web-c 10.0.0.11:8080 ──────────────────────────────────────────────────────",
        "    10                                                                  ▁▁▁▁▁▁─▃",
        "                                                                           ▁▄▆██",
        "     0                                                                  ▂▄▇█████",
        "bounds    queue-depth, 1 to 255 of 256; most held 32; - req/s; group db 32/100",
        "health    up for 1m00s, SYNs refused 4, unanswered 1: checks in succession: 2",
        "ceiling   30 to 32 3s ago: queue 12.3 > 1",
        "suggested 28: best 950 requests/s at 28 connections",
        "? help  s sort  / filter  p pause  c pin  a auto  q quit",
    ];
    let shown = screen(&mut live(), 80, 24);
    assert_eq!(shown, expected, "\n{}", shown.join("\n"));
}

#[test]
fn why_a_back_end_is_down_is_told_of_the_one_that_is_chosen() {
    let mut told = status();
    let backend = &mut told.services[0].backends[0];
    backend.state = BackendState::Down;
    let health = backend.health.as_mut().unwrap();
    health.verdict = "down".to_owned();
    health.why = Some("checks in succession: 3: it refused the connection".to_owned());
    let mut model = Model::new(true);
    let answer = Answer {
        since: 0,
        status: told,
        history: history(8, 8),
    };
    model.update(Event::Answered(Ok(Box::new(answer))), START);
    let shown = screen(&mut model, 80, 24);
    assert!(shown[3].starts_with("  web-c        down "), "{}", shown[3]);
    let line = "health    down for 1m00s, SYNs refused 4, unanswered 1: checks in succession: 3:";
    assert_eq!(shown[20], line, "\n{}", shown.join("\n"));
}

#[test]
fn it_grows_and_shrinks_with_the_terminal() {
    let mut model = live();
    let wide = screen(&mut model, 160, 50);
    assert!(wide[1].contains("req/s"), "{}", wide[1]);
    assert!(wide[2].contains("192.0.2.10:80"), "{}", wide[2]);
    assert!(wide[49].starts_with("? help"));
    let low = screen(&mut model, 80, 8);
    assert!(low[3].starts_with("  web-c"), "{low:?}");
    assert!(low[7].starts_with("? help"));
    for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 16), (500, 100)] {
        model.mode = Mode::Help;
        screen(&mut model, width, height);
        model.mode = Mode::Look;
        screen(&mut model, width, height);
    }
}

#[test]
fn every_line_that_matters_fits_80_columns() {
    let mut model = live();
    model.mode = Mode::Help;
    let shown = screen(&mut model, 80, 24);
    let cut: Vec<_> = shown.iter().filter(|line| line.starts_with('│')).collect();
    assert_eq!(cut.len(), 19, "{}", shown.join("\n"));
    assert!(
        cut.iter().all(|line| line.ends_with(" │")),
        "{}",
        shown.join("\n")
    );
    assert!(shown.iter().any(|line| line.contains("drain")));
}

#[test]
fn backends_are_sorted_and_reversed() {
    let mut model = live();
    let mut orders = Vec::new();
    for _ in 0..7 {
        orders.push(order(&mut model).join(" ").replace("web-", ""));
        press(&mut model, KeyCode::Char('s'));
    }
    // Configuration, name, fullness, connections, connections a second, response, and again.
    assert_eq!(
        orders,
        [
            "c a b", "a b c", "b c a", "a c b", "c a b", "b c a", "c a b"
        ]
    );
    // By name now.
    typed(&mut model, "r");
    assert_eq!(order(&mut model), ["web-c", "web-b", "web-a"]);
    let head = &screen(&mut model, 80, 24)[1];
    assert!(head.starts_with("back-end▲"), "{head}");
}

#[test]
fn a_filter_leaves_what_it_names() {
    let mut model = live();
    typed(&mut model, "/WEB-B");
    assert_eq!(order(&mut model), ["web-b"]);
    assert!(screen(&mut model, 80, 24)[23].starts_with("Filter: WEB-B"));
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.selected().unwrap().1.name, "web-b");
    // In the filter's line keys are letters.
    typed(&mut model, "/q");
    assert!(screen(&mut model, 80, 24)[2].starts_with("nothing matches \"WEB-Bq\""));
    press(&mut model, KeyCode::Backspace);
    assert_eq!(order(&mut model), ["web-b"]);
    press(&mut model, KeyCode::Esc);
    assert_eq!(order(&mut model).len(), 3);
}

#[test]
fn the_selection_stays_with_its_backend() {
    let mut model = live();
    let name = |model: &Model| model.selected().unwrap().1.name.clone();
    assert_eq!(name(&model), "web-c");
    typed(&mut model, "jjj");
    assert_eq!(name(&model), "web-b");
    typed(&mut model, "s");
    assert_eq!(name(&model), "web-b");
    press(&mut model, KeyCode::Home);
    assert_eq!(name(&model), "web-a");
    press(&mut model, KeyCode::End);
    press(&mut model, KeyCode::Up);
    assert_eq!(name(&model), "web-b");
    // It goes: another is selected.
    let mut without = status();
    without.services[0].backends.remove(2);
    let answer = Answer {
        since: 8,
        status: without,
        history: history(9, 1),
    };
    model.update(Event::Answered(Ok(Box::new(answer))), START);
    assert_eq!(name(&model), "web-a");
}

#[test]
fn the_list_scrolls_to_what_is_selected() {
    let mut model = live();
    let mut crowd = status();
    let one = crowd.services[0].backends[0].clone();
    let many = (0..100).map(|at| {
        let mut backend = one.clone();
        backend.name = format!("b-{at}");
        backend
    });
    crowd.services[0].backends = many.collect();
    let answer = Answer {
        since: 8,
        status: crowd,
        history: history(9, 1),
    };
    model.update(Event::Answered(Ok(Box::new(answer))), START);
    screen(&mut model, 80, 24);
    press(&mut model, KeyCode::End);
    let shown = screen(&mut model, 80, 24);
    assert!(shown[14].starts_with("  b-99"), "{}", shown.join("\n"));
    press(&mut model, KeyCode::PageUp);
    let shown = screen(&mut model, 80, 24);
    assert!(
        shown.iter().any(|line| line.starts_with("  b-86")),
        "{}",
        shown.join("\n")
    );
    press(&mut model, KeyCode::Home);
    assert!(screen(&mut model, 80, 24)[2].starts_with("web "));
}

#[test]
fn a_ceiling_is_pinned_after_a_yes_and_only_then() {
    let mut model = live();
    typed(&mut model, "jc1x2");
    let shown = screen(&mut model, 80, 24);
    let asked = "Pin the ceiling of web/web-a, 1 to 255 at: 12▏ (Esc: no)";
    assert_eq!(shown[23], asked);
    assert!(press(&mut model, KeyCode::Enter).is_empty());
    assert_eq!(
        screen(&mut model, 80, 24)[23],
        "Pin the ceiling of web/web-a at 12? y/n"
    );
    // Anything but a yes is a no.
    assert!(press(&mut model, KeyCode::Enter).is_empty());
    assert_eq!(model.mode, Mode::Look);

    typed(&mut model, "c12");
    press(&mut model, KeyCode::Enter);
    let order = |change| {
        vec![Effect::Order(Order {
            service: "web".to_owned(),
            backend: "web-a".to_owned(),
            change,
        })]
    };
    assert_eq!(typed(&mut model, "y"), order(Change::Ceiling(Some(12))));
    assert_eq!(typed(&mut model, "ay"), order(Change::Ceiling(None)));

    let done = Event::Done(Ok("web/web-a is pinned at 12".to_owned()));
    assert_eq!(model.update(done, START), [Effect::Ask { since: 8 }]);
    assert_eq!(screen(&mut model, 80, 24)[23], "web/web-a is pinned at 12");
    let later = lines(&drawn(&mut model, 80, 24, Duration::from_secs(8)));
    assert!(later[23].starts_with("? help"));
}

#[test]
fn an_order_about_nothing_is_not_given() {
    let mut model = Model::new(true);
    for keys in ["c", "a", "d"] {
        assert!(typed(&mut model, keys).is_empty());
        assert_eq!(model.mode, Mode::Look);
    }
}

#[test]
fn states_are_changed_after_a_yes() {
    let mut model = live();
    for (key, action) in [
        ("d", BackendAction::Drain),
        ("u", BackendAction::Resume),
        ("x", BackendAction::Disable),
    ] {
        assert!(typed(&mut model, key).is_empty());
        let asked = screen(&mut model, 80, 24)[23].clone();
        assert!(
            asked.contains("web/web-c") && asked.ends_with("? y/n"),
            "{asked}"
        );
        let given = typed(&mut model, "y");
        let [Effect::Order(order)] = &given[..] else {
            panic!("{given:?}");
        };
        assert_eq!(order.change, Change::State(action));
    }
}

#[test]
fn one_question_waits_at_a_time_and_only_new_samples_are_asked_for() {
    let mut model = Model::new(true);
    assert_eq!(model.update(Event::Tick, START), [Effect::Ask { since: 0 }]);
    assert!(model.update(Event::Tick, START).is_empty());
    model.update(answered(0, history(8, 8)), START);
    assert_eq!(model.update(Event::Tick, START), [Effect::Ask { since: 8 }]);
    model.update(answered(8, history(10, 2)), START);
    let held = |model: &Model| model.past["web"].backends["web-a"].held.clone();
    assert_eq!(held(&model), [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]);
    // Another daemon, which has taken fewer samples.
    model.update(answered(10, history(3, 3)), START);
    assert_eq!(held(&model), [1, 2, 3]);
    model.update(answered(3, history(400, 300)), START);
    assert_eq!(held(&model), (1..=300).collect::<Vec<_>>());
}

#[test]
fn a_daemon_that_goes_away_and_comes_back_is_told() {
    let mut model = live();
    let gone = || Event::Answered(Err("no daemon answers at /s: connection refused".to_owned()));
    model.update(gone(), Duration::from_secs(10));
    model.update(gone(), Duration::from_secs(12));
    let terminal = drawn(&mut model, 80, 24, Duration::from_secs(73));
    let shown = lines(&terminal);
    assert!(shown[0].ends_with(" NO DAEMON for 1m03s"), "{}", shown[0]);
    let told = "no daemon answers at /s: connection refused; trying again";
    assert_eq!(shown[23], told);
    assert!(shown[3].starts_with("  web-c"), "what was known stays");
    // All samples are asked for: the next daemon may be another.
    assert_eq!(model.update(Event::Tick, START), [Effect::Ask { since: 0 }]);
    model.update(answered(0, history(2, 2)), START);
    assert!(screen(&mut model, 80, 24)[0].ends_with(" live"));
    assert_eq!(model.past["web"].queue, [1, 2]);
}

#[test]
fn without_a_daemon_from_the_start_the_reason_is_in_the_middle() {
    let mut model = Model::new(true);
    assert!(screen(&mut model, 80, 24)[2].starts_with("asking the daemon"));
    model.update(Event::Answered(Err("nobody there".to_owned())), START);
    assert!(screen(&mut model, 80, 24)[2].starts_with("nobody there"));
}

#[test]
fn a_pause_holds_the_picture_and_loses_no_samples() {
    let mut model = live();
    typed(&mut model, "p");
    assert!(screen(&mut model, 80, 24)[0].ends_with(" PAUSED"));
    model.update(answered(8, history(9, 1)), START);
    assert_eq!(model.past["web"].queue.len(), 8);
    typed(&mut model, " ");
    assert_eq!(model.update(Event::Tick, START), [Effect::Ask { since: 8 }]);
}

#[test]
fn without_colour_nothing_is_coloured() {
    let coloured = |model: &mut Model| {
        let terminal = drawn(model, 80, 24, START);
        let content = terminal.backend().buffer().content();
        content
            .iter()
            .filter(|cell| cell.fg != Color::Reset)
            .count()
    };
    let mut model = live();
    assert!(coloured(&mut model) > 0);
    model.colour = false;
    assert_eq!(coloured(&mut model), 0);
    let shown = screen(&mut live(), 80, 24);
    assert_eq!(screen(&mut model, 80, 24), shown);
}

#[test]
fn it_ends_by_q_and_by_ctrl_c() {
    let mut model = live();
    assert_eq!(typed(&mut model, "q"), [Effect::Quit]);
    for mode in [
        Mode::Look,
        Mode::Help,
        Mode::Filter,
        Mode::Ceiling(String::new()),
    ] {
        model.mode = mode;
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(model.update(Event::Key(key), START), [Effect::Quit]);
    }
    assert_eq!(model.update(Event::Quit, START), [Effect::Quit]);
}

#[test]
fn what_is_typed_faster_than_it_is_drawn_stays_in_the_terminal() {
    const TYPED: usize = 4 * EVENTS_MAX;
    let read = AtomicUsize::new(0);
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            let events = sender;
            read_keys(&events, || {
                if read.fetch_add(1, Ordering::SeqCst) < TYPED {
                    return Ok(event::Event::Key(KeyCode::Down.into()));
                }
                Err(io::Error::other("it is gone"))
            });
        });
        // One more is in the hand of who reads.
        while read.load(Ordering::SeqCst) <= EVENTS_MAX {
            thread::yield_now();
        }
        for taken in 1..=TYPED {
            assert!(read.load(Ordering::SeqCst) <= taken + EVENTS_MAX);
            assert!(matches!(events.blocking_recv(), Some(Event::Key(_))));
        }
        assert!(matches!(events.blocking_recv(), Some(Event::Quit)));
        assert!(events.blocking_recv().is_none());
    });
}
