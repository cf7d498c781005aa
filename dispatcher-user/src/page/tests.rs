//! What is served to a browser, what is chosen to be shown, and what is told of it when.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{
    BACKENDS_SHOWN_MAX, News, PAGE, POLICY, SERVICES_SHOWN_MAX, STREAMS_MAX, View, element,
};
use crate::admin::Control;
use crate::admin::fake::{self, Fake};
use crate::history::History;
use crate::status::{BackendState, Status};
use crate::telemetry::MetricsServer;

/// So many services of so many back-ends each, all with room.
fn crowd(services: usize, backends: usize) -> Status {
    let mut status = fake::status();
    let mut service = status.services.remove(0);
    let mut backend = service.backends.remove(0);
    backend.active = 0;
    backend.half_open = 0;
    for at in 0..backends {
        backend.name = format!("b-{at}");
        service.backends.push(backend.clone());
    }
    for at in 0..services {
        service.name = format!("s-{at}");
        status.services.push(service.clone());
    }
    status
}

fn news(view: &mut View, history: &History) -> News {
    view.news(&history.follow().borrow()).unwrap()
}

fn names(news: &News) -> Vec<(&str, Vec<&str>)> {
    let services = news.status.services.iter();
    let of = services.map(|one| {
        let backends = one.backends.iter().map(|one| one.name.as_str());
        (one.name.as_str(), backends.collect())
    });
    of.collect()
}

fn first(status: Status, filter: &str) -> News {
    let history = History::default();
    history.take(Arc::new(status));
    news(&mut View::new(filter), &history)
}

#[test]
fn the_document_needs_nothing_from_outside() {
    for word in [
        "http://",
        "https://",
        "src=",
        "@import",
        "url(",
        "innerHTML",
        "eval(",
    ] {
        let said = PAGE.replace("http://www.w3.org/2000/svg", "");
        assert!(!said.contains(word), "{word}");
    }
    assert!(PAGE.len() < 32 << 10, "{} bytes", PAGE.len());
    for name in ["style", "script"] {
        assert!(!element(name).is_empty(), "{name}");
        assert_eq!(PAGE.matches(&format!("<{name}")).count(), 1, "{name}");
    }
    // Of "abc", by FIPS 180.
    let abc = "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='";
    assert_eq!(super::hash("abc"), abc);
    assert_eq!(POLICY.matches("'sha256-").count(), 2);
}

#[test]
fn a_few_are_all_shown_in_their_order() {
    let told = first(crowd(2, 3), "");
    let all = vec!["b-0", "b-1", "b-2"];
    assert_eq!(names(&told), [("s-0", all.clone()), ("s-1", all)]);
    assert_eq!((told.matching, told.all[0].backends), (2, 3));
}

#[test]
fn of_many_those_with_the_greatest_trouble_are_shown() {
    let mut status = crowd(SERVICES_SHOWN_MAX + 1, 100);
    let last = &mut status.services[SERVICES_SHOWN_MAX];
    last.queue.depth = last.queue.capacity;
    last.backends[70].active = 32;
    last.backends[90].state = BackendState::Down;
    let told = first(status, "");
    let shown = names(&told);
    assert_eq!(shown.len(), SERVICES_SHOWN_MAX);
    assert_eq!(told.matching, SERVICES_SHOWN_MAX + 1);
    let share = BACKENDS_SHOWN_MAX / SERVICES_SHOWN_MAX;
    assert!(shown.iter().all(|(_, backends)| backends.len() == share));
    let (name, backends) = shown.last().unwrap();
    assert_eq!(*name, "s-24");
    assert_eq!(*backends, ["b-0", "b-1", "b-70", "b-90"]);
    let all = told.all.last().unwrap();
    assert_eq!(
        (all.backends, all.up, all.held, all.ceiling),
        (100, 99, 32, 3200)
    );
    let bytes = serde_json::to_vec(&told).unwrap().len();
    assert!(bytes < 128 << 10, "{bytes} bytes");
}

#[test]
fn a_filter_names_services_backends_or_addresses() {
    let status = || {
        let mut status = crowd(2, 2);
        status.services[1].backends[1].address = "10.9.9.9:1".parse().unwrap();
        status
    };
    assert_eq!(
        names(&first(status(), "S-1")),
        [("s-1", vec!["b-0", "b-1"])]
    );
    let both = [("s-0", vec!["b-1"]), ("s-1", vec!["b-1"])];
    assert_eq!(names(&first(status(), "b-1")), both);
    assert_eq!(names(&first(status(), "10.9")), [("s-1", vec!["b-1"])]);
    assert!(names(&first(status(), "nobody")).is_empty());
}

#[test]
fn each_sample_is_told_once_and_all_of_what_comes_into_view() {
    let history = History::default();
    // More than are shown; the last one is in trouble later.
    let quiet = crowd(1, BACKENDS_SHOWN_MAX + 1);
    let mut busy = quiet.clone();
    busy.services[0].backends[BACKENDS_SHOWN_MAX].active = 32;
    let mut view = View::new("");
    history.take(Arc::new(quiet.clone()));
    history.take(Arc::new(quiet.clone()));
    let told = news(&mut view, &history);
    assert!(told.whole);
    assert_eq!(told.history.seconds.len(), 2);
    assert_eq!(told.history.services[0].backends.len(), BACKENDS_SHOWN_MAX);

    history.take(Arc::new(quiet));
    let told = news(&mut view, &history);
    assert!(!told.whole);
    let service = &told.history.services[0];
    assert_eq!(
        (service.queue.len(), service.backends[0].held.len()),
        (1, 1)
    );

    history.take(Arc::new(busy));
    let told = news(&mut view, &history);
    let service = &told.history.services[0];
    let last = service.backends.last().unwrap();
    assert_eq!(last.name, format!("b-{BACKENDS_SHOWN_MAX}"));
    assert_eq!(last.held, [0, 0, 0, 32]);
    assert_eq!(
        (service.queue.len(), service.backends[0].held.len()),
        (1, 1)
    );
}

/// A listener, and the history that its pages follow.
async fn serving() -> (std::net::SocketAddr, History) {
    let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap());
    let server = server.await.unwrap();
    let address = server.local_addr().unwrap();
    let control = Fake::new();
    let history = control.history().clone();
    tokio::spawn(server.serve(control));
    (address, history)
}

async fn get(address: std::net::SocketAddr, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: d\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    BufReader::new(stream)
}

/// The head of the answer, lower case.
async fn head(answer: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        answer.read_line(&mut head).await.unwrap();
    }
    head.to_lowercase()
}

#[tokio::test]
async fn the_document_is_served_with_strict_headers() {
    let (address, _) = serving().await;
    let mut answer = get(address, "/").await;
    let head = head(&mut answer).await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    for line in [
        "content-type: text/html; charset=utf-8",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.lines().any(|one| one == line), "lacks {line}:\n{head}");
    }
    let policy = head
        .lines()
        .find(|line| line.starts_with("content-security-policy: "));
    let policy = policy.unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let mut body = String::new();
    answer.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, PAGE);
}

/// Reads until an event's data came.
async fn event(answer: &mut BufReader<TcpStream>) -> serde_json::Value {
    loop {
        let mut line = String::new();
        assert_ne!(
            answer.read_line(&mut line).await.unwrap(),
            0,
            "the stream ended"
        );
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_tells_what_is_known_and_then_what_is_new() {
    let (address, history) = serving().await;
    let mut answer = get(address, "/events").await;
    let head = head(&mut answer).await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let told = event(&mut answer).await;
    assert_eq!(told["whole"], true);
    assert_eq!(
        told["status"]["services"][0]["backends"][0]["name"],
        "web-1"
    );
    assert_eq!(told["history"]["last"], 1);

    let mut next = fake::status();
    next.services[0].queue.depth = 77;
    history.take(Arc::new(next));
    let told = event(&mut answer).await;
    assert_eq!(told["whole"], false);
    assert_eq!(
        told["history"]["services"][0]["queue"],
        serde_json::json!([77])
    );
}

#[tokio::test]
async fn streams_are_few_and_scrapes_go_on_beside_them() {
    let (address, _) = serving().await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut answer = get(address, "/events").await;
        event(&mut answer).await;
        open.push(answer);
    }
    let refused = head(&mut get(address, "/events").await).await;
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    let scraped = head(&mut get(address, "/metrics").await).await;
    assert!(scraped.starts_with("http/1.1 200"), "{scraped}");

    open.pop();
    // The place is free when the listener has seen that the page is gone.
    for _ in 0..500 {
        let answer = head(&mut get(address, "/events").await).await;
        if answer.starts_with("http/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place became free");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_before_its_connection_is_cut() {
    let (address, _) = serving().await;
    let mut answer = get(address, "/events").await;
    head(&mut answer).await;
    event(&mut answer).await;
    let mut rest = String::new();
    // Ended as a body ends, which a cut would not do.
    answer.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
}
