//! The admin socket from both ends: its file, its answers, its bounds, the client and the tables.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fake::{self, Fake};
use super::{
    AdminServer, BackendAction, BackendOrder, CeilingOrder, Client, ClientError, FlowQuery,
    QueueQuery, flow_table, http, queue_table, status_tables,
};
use crate::human::View;
use crate::status::{BackendState, Status, TimesBySize};

/// A directory of this test's own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dispatcher-admin-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("run/admin.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A running server; dropped, it stops.
struct Running {
    directory: Directory,
    server: JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        let directory = Directory::new();
        let server = AdminServer::bind(&directory.socket()).unwrap();
        Self {
            server: tokio::spawn(server.serve(Fake::new())),
            directory,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.directory.socket())
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.socket()).await.unwrap()
    }

    /// Status line, and the body read as JSON.
    async fn ask(&self, request: &str) -> (String, Value) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap().to_owned();
        (line, serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test]
async fn the_status_has_the_names_that_users_rely_on() {
    let running = Running::start();
    let (line, body) = running
        .ask("GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n")
        .await;
    let unknown = json!({ "mean": null, "p50": null, "p99": null, "max": null });
    let backend = json!({ "name": "web-1", "address": "10.0.0.11:8080", "state": "up",
    "health": { "kind": "http", "verdict": "up", "since_seconds": 60.0,
    "why": "checks in succession: 2",
    "last": { "result": "passed", "why": null, "took_ms": 1.5, "seconds_ago": 0.5 },
    "checks": { "passed": 20, "status": 3 } },
    "active": 30, "half_open": 2, "active_max": 32, "ceiling": 32,
    "ceiling_min": 1, "ceiling_max": 255, "capacity": 256, "weight": 1,
    "group": "db", "policy": "queue-depth", "pinned": false,
    "moved": { "from": 30, "to": 32, "reason": "raised_queue",
    "why": "queue 12.3 > 1", "seconds_ago": 3.0 },
    "moves": { "raised_queue": 11 },
    "suggested": { "ceiling": 28,
    "why": "best 950 requests/s at 28 connections" },
    "response_ms": { "mean": 4.1, "p50": 3.9, "p99": 9.0, "max": 12.0 },
    "connect_ms": unknown,
    "rate": { "connections": 900.0, "requests": null, "packets_in": null,
    "packets_out": null, "bytes_in": null, "bytes_out": null },
    "total": { "connections": 60, "requests": 58, "unanswered": 1,
    "packets_in": 5400,
    "packets_out": 5401, "bytes_in": 100_000, "bytes_out": 900_000,
    "refused": 4, "silent": 1 } });
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert_eq!(
        body,
        json!({ "version": "0.1.0", "uptime_seconds": 12.5, "attach_mode": "native",
          "flows": { "used": 12, "capacity": 262_144 },
          "frames": { "total": 4096, "home": 4090, "in_flight": 6 },
          "checks": { "running": 3, "most": 512, "waited": 9 },
          "dropped": { "no_flow": 7, "fragment": 0 },
          "handled": { "punted": 100, "event_lost": 2 },
          "groups": [ { "name": "db", "active": 32, "active_max": 40, "ceiling": 100 } ],
          "services": [ { "name": "web", "address": "192.0.2.10:80",
              "queue": { "depth": 3, "capacity": 1024, "oldest_wait_ms": 120,
                  "wait_ms": { "p50": 40, "p99": 180, "max": null } },
              "requests": { "received": 100, "admitted": 60, "queued": 3, "refused": 20,
                  "expired": 10, "abandoned": 7, "retransmitted": 11, "retried": 5 },
                  "flood": { "on": true, "since_seconds": 12.5, "count": 2, "unproven": 4_000_000 },
              "backends": [ backend ] } ],
          "interfaces": [
              { "name": "eth0", "state": "up", "attach_mode": "native", "queues": 4, "why": null },
              { "name": "eth1", "state": "missing", "attach_mode": null, "queues": 0,
                "why": null } ] })
    );
}

/// The status without what JSON does not tell.
fn as_told() -> Status {
    let mut status = fake::status();
    let service = &mut status.services[0];
    service.queue.wait_sizes = TimesBySize::default();
    service.requests.admitted_max = 0;
    let backend = &mut service.backends[0];
    backend.response_sizes = TimesBySize::default();
    backend.connect_sizes = TimesBySize::default();
    status
}

#[tokio::test]
async fn the_client_reads_what_the_server_tells() {
    let running = Running::start();
    let client = running.client();
    let status = client.status().await.unwrap();
    assert_eq!(status.value, as_told());
    assert_eq!(
        serde_json::from_str::<Value>(&status.json).unwrap()["version"],
        "0.1.0"
    );
    let flows = client.flows(&FlowQuery::default()).await.unwrap().value;
    assert_eq!(
        flows.flows,
        (1..=fake::FLOWS).map(fake::flow).collect::<Vec<_>>()
    );
    assert!(!flows.truncated);
    let queue = client.queue(&QueueQuery::default()).await.unwrap().value;
    assert_eq!(
        queue.queue,
        (1..=fake::QUEUED).map(fake::queued).collect::<Vec<_>>()
    );
    assert!(!queue.truncated);
}

#[tokio::test]
async fn listings_are_filtered_and_cut() {
    let running = Running::start();
    let client = running.client();
    let query = FlowQuery {
        service: Some("web".to_owned()),
        backend: Some("web-1".to_owned()),
        client: Some("198.51.100.3".parse().unwrap()),
        limit: None,
    };
    let flows = client.flows(&query).await.unwrap().value;
    assert_eq!((flows.flows, flows.truncated), (vec![fake::flow(3)], false));
    for (limit, truncated) in [(fake::FLOWS - 1, true), (fake::FLOWS, false)] {
        let query = FlowQuery {
            limit: Some(limit),
            ..FlowQuery::default()
        };
        let flows = client.flows(&query).await.unwrap().value;
        assert_eq!((flows.flows.len(), flows.truncated), (limit, truncated));
    }
    let query = QueueQuery {
        service: None,
        limit: Some(1),
    };
    let queue = client.queue(&query).await.unwrap().value;
    assert_eq!(
        (queue.queue, queue.truncated),
        (vec![fake::queued(1)], true)
    );
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let running = Running::start();
    for (request, status, error) in [
        (
            "GET /v1/flows?service=wob",
            "404",
            "no service \"wob\"; there are web",
        ),
        (
            "GET /v1/queue?service=wob",
            "404",
            "no service \"wob\"; there are web",
        ),
        (
            "GET /v1/flows?backend=b%20c",
            "404",
            "no back-end \"b c\"; there are web-1",
        ),
        (
            "GET /v1/flows?limit=0",
            "400",
            "limit is 0; it must be 1 to 1000000",
        ),
        (
            "GET /v1/queue?limit=1000001",
            "400",
            "limit is 1000001; it must be 1 to 1000000",
        ),
        (
            "GET /v1/flows?client=me",
            "400",
            "client: invalid IP address syntax",
        ),
        ("GET /v1/queue?backend=b", "400", "unknown field `backend`"),
        (
            "GET /v2/status",
            "404",
            "there are /v1/status, /v1/flows, /v1/queue, /v1/suggestion, /v1/ceiling, \
             /v1/history, /v1/backend and /v1/reload",
        ),
        (
            "GET /v1/suggestion?service=web&backend=w",
            "404",
            "no back-end \"w\"; there are web-1",
        ),
        ("GET /v1/ceiling", "405", "use GET; POST for /v1/ceiling"),
        ("GET /v1/reload", "405", "and /v1/reload"),
        ("POST /v1/ceiling", "415", "Content-Type: application/json"),
        ("DELETE /v1/status", "405", "use GET"),
    ] {
        let (line, body) = running
            .ask(&format!("{request} HTTP/1.1\r\nhost: d\r\n\r\n"))
            .await;
        assert_eq!(line.split(' ').nth(1), Some(status), "{request}");
        let told = body["error"].as_str().unwrap_or_default();
        assert!(told.contains(error), "{request}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_is_drained_disabled_and_resumed() {
    let running = Running::start();
    for (action, state) in [
        (BackendAction::Drain, BackendState::Draining),
        (BackendAction::Disable, BackendState::Disabled),
        (BackendAction::Resume, BackendState::Up),
    ] {
        let order = BackendOrder {
            service: "web".to_owned(),
            backend: "web-1".to_owned(),
            action,
        };
        let done = running.client().set_backend(&order).await.unwrap().value;
        assert_eq!((done.state, done.connections), (state, 32));
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_told_by_line_and_column() {
    let running = Running::start();
    let request = "POST /v1/reload HTTP/1.1\r\nhost: d\r\ncontent-length: 0\r\n\r\n";
    let (line, told) = running.ask(request).await;
    assert_eq!(line.split(' ').nth(1), Some("422"), "{told}");
    let places = told["problems"].as_array().unwrap().iter();
    let places: Vec<_> = places
        .map(|one| (one["line"].as_u64(), one["column"].as_u64()))
        .collect();
    assert!(places.contains(&(Some(2), Some(17))), "{told}");
    let error = running.client().reload().await.unwrap_err();
    assert!(error.to_string().contains("f.toml:2:17: "), "{error}");
}

#[tokio::test]
async fn a_ceiling_is_pinned_and_given_back() {
    let running = Running::start();
    let client = running.client();
    let mut order = CeilingOrder {
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
        ceiling: Some(24),
    };
    let done = client.set_ceiling(&order).await.unwrap().value;
    assert_eq!((done.ceiling, done.pinned), (24, true));
    order.ceiling = None;
    let done = client.set_ceiling(&order).await.unwrap().value;
    assert!(!done.pinned);
    order.ceiling = Some(256);
    let error = client.set_ceiling(&order).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "ceiling is 256; that of web/web-1 must be 1 to 255"
    );
    order.service = "wob".to_owned();
    let error = client.set_ceiling(&order).await.unwrap_err();
    assert_eq!(error.to_string(), "no service \"wob\"; there are web");
}

#[tokio::test]
async fn an_order_that_is_none_is_told_what_is_wrong() {
    let running = Running::start();
    for (body, status, error) in [
        ("{}".to_owned(), "422", "missing field `service`"),
        (r#"{"ceiling":"#.to_owned(), "400", "EOF"),
        (
            r#"{"service":"web","backend":"web-1","ceiling":-1}"#.to_owned(),
            "422",
            "invalid value",
        ),
        (format!("{:20000}", ""), "413", "longer than 16384 bytes"),
    ] {
        let request = format!(
            "POST /v1/ceiling HTTP/1.1\r\nhost: d\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (line, told) = running.ask(&request).await;
        assert_eq!(line.split(' ').nth(1), Some(status), "{told}");
        let told = told["error"].as_str().unwrap_or_default();
        assert!(told.contains(error), "{body:.40}: {told}");
    }
}

#[tokio::test]
async fn a_suggestion_says_why() {
    let running = Running::start();
    let told = running.client().suggestion("web", "web-1").await.unwrap();
    let suggested = told.value.suggested.unwrap();
    assert_eq!((told.value.ceiling, suggested.ceiling), (32, 28));
    assert_eq!(suggested.why, "best 950 requests/s at 28 connections");
}

#[tokio::test]
async fn the_history_is_told_from_where_the_client_knows_it() {
    let running = Running::start();
    let all = running.client().history(0).await.unwrap();
    assert_eq!((all.value.last, all.value.seconds.len()), (1, 1));
    let told = r#"{"name":"web-1","ceiling":[32],"held":[32]}"#;
    assert!(all.json.contains(told), "{}", all.json);
    let new = running.client().history(1).await.unwrap().value;
    assert_eq!((new.last, new.seconds.len()), (1, 0));
    assert!(new.services[0].backends[0].held.is_empty());
    let (line, _) = running
        .ask("GET /v1/history?since=x HTTP/1.1\r\nhost: d\r\n\r\n")
        .await;
    assert!(line.contains("400"), "{line}");
}

#[tokio::test]
async fn the_client_passes_on_what_the_daemon_refused() {
    let running = Running::start();
    let query = QueueQuery {
        service: Some("a&b=c".to_owned()),
        limit: None,
    };
    let error = running.client().queue(&query).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Refused { status: 404, .. }),
        "{error:?}"
    );
    assert_eq!(error.to_string(), "no service \"a&b=c\"; there are web");
}

#[tokio::test]
async fn a_request_without_end_is_refused() {
    let running = Running::start();
    let long = format!(
        "GET /v1/status HTTP/1.1\r\nlong: {}\r\n\r\n",
        "x".repeat(20 << 10)
    );
    // Most of it stays unread, so the answer may be lost by the reset that follows it.
    let mut stream = running.connect().await;
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let (line, _) = running.ask(&many).await;
    assert!(line.starts_with("HTTP/1.1 431"), "{line}");
}

#[tokio::test]
async fn who_asks_nothing_gives_way_to_who_waits() {
    let running = Running::start();
    let mut silent = Vec::new();
    // All places twice over.
    for i in 0..2 * http::CONNECTIONS_MAX {
        let mut stream = running.connect().await;
        if i % 2 == 0 {
            // Half a request is none.
            let head = b"POST /v1/ceiling HTTP/1.1\r\nhost: d\r\ncontent-length: 9\r\n\r\n";
            stream.write_all(head).await.unwrap();
        }
        silent.push(stream);
    }
    let status = timeout(Duration::from_secs(5), running.client().status()).await;
    assert_eq!(status.unwrap().unwrap().value, as_told());
    // The first were cut; the last are still listened to.
    assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0);
    let last = silent.last_mut().unwrap();
    let request = b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n";
    last.write_all(request).await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn without_a_daemon_the_client_says_so_in_one_line() {
    let directory = Directory::new();
    let nothing = directory.0.join("none.sock");
    let error = Client::new(&nothing).status().await.unwrap_err();
    let hint = "start one with `dispatcher run`, or name its socket with --socket";
    assert_eq!(
        error.to_string(),
        format!(
            "no daemon answers at {}: no such socket; {hint}",
            nothing.display()
        )
    );
    let stale = directory.0.join("stale.sock");
    drop(StdListener::bind(&stale).unwrap());
    let error = Client::new(&stale).status().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no daemon answers at {}: connection refused; {hint}",
            stale.display()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_or_never_comes_is_given_up() {
    let directory = Directory::new();
    let path = directory.0.join("endless.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        while stream
            .write_all(b"10\r\n{               \r\n")
            .await
            .is_ok()
        {}
        listener.accept().await.unwrap()
    });
    let client = Client::new(&path).reading(1000);
    let error = client.status().await.unwrap_err().to_string();
    assert!(error.contains("length limit exceeded"), "{error}");
    let error = client.status().await.unwrap_err().to_string();
    assert!(error.contains("nothing within 60s"), "{error}");
    drop(endless.await.unwrap());
}

#[tokio::test]
async fn an_answer_that_is_none_is_told() {
    let directory = Directory::new();
    let path = directory.0.join("odd.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let odd = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .await
            .unwrap();
    });
    let error = Client::new(&path).status().await.unwrap_err();
    odd.await.unwrap();
    let told = error.to_string();
    assert!(
        told.contains("did not answer properly: missing field `version`"),
        "{told}"
    );
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_socket_comes_with_its_directory_and_mode_and_goes_with_the_server() {
    let directory = Directory::new();
    let socket = directory.socket();
    let server = AdminServer::bind(&socket).unwrap();
    assert_eq!(mode(&socket), 0o660);
    drop(server);
    assert!(!socket.exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced() {
    let directory = Directory::new();
    let path = directory.0.join("stale.sock");
    drop(StdListener::bind(&path).unwrap());
    let _server = AdminServer::bind(&path).unwrap();
    assert_eq!(mode(&path), 0o660);
}

#[tokio::test]
async fn the_socket_of_a_running_daemon_is_left_alone() {
    let running = Running::start();
    let socket = running.directory.socket();
    let error = AdminServer::bind(&socket).unwrap_err().to_string();
    assert!(error.starts_with("another daemon answers at"), "{error}");
    running.client().status().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    let path = directory.0.join("notes.txt");
    fs::write(&path, "keep").unwrap();
    let error = AdminServer::bind(&path).unwrap_err().to_string();
    assert!(error.contains("exists and is no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "keep");
}

#[tokio::test]
async fn a_socket_that_another_put_in_its_place_is_left_alone() {
    let directory = Directory::new();
    let path = directory.0.join("admin.sock");
    let server = AdminServer::bind(&path).unwrap();
    // Moved, not removed: its inode stays in use and cannot be given to the other.
    fs::rename(&path, directory.0.join("moved.sock")).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

#[test]
fn tables_are_aligned() {
    let view = View::default();
    assert_eq!(
        status_tables(&fake::status(), view),
        "\
dispatcher 0.1.0, up 12 s, attached native, flows 12 of 262144
dropped: no_flow 7
interface eth1 is missing
group db: 32 of 100 connections, most 40

web  192.0.2.10:80
  queue     3 of 1024, oldest 120 ms; waited p50 40 ms, p99 180 ms, max -
  requests  100 received: 60 admitted, 20 refused, 10 expired, 7 abandoned, 3 queued
  flood     on for 12 s: 4000000 requests dropped that had not proved alive
  back-end  address         state  active  half-open  most  ceiling  capacity  conn/s     p50     \
p99
  web-1     10.0.0.11:8080  up         30          2    32       32       256   900.0  3.9 ms  \
9.0 ms
  web-1: ceiling 30 to 32 3.0 s ago: queue 12.3 > 1; suggested 28
"
    );
    assert_eq!(
        flow_table(&[fake::flow(1)], view),
        "\
service  back-end  client              state      pkts in  pkts out  bytes in  bytes out    age    \
idle
web      web-1     198.51.100.1:40000  half_open       10        20    1000 B   19.5 KiB  1m15s  \
250 ms
"
    );
    assert_eq!(
        queue_table(&[fake::queued(1)], view),
        "\
service  position  client               waited  retransmissions
web             1  [2001:db8::1]:40000   1.5 s                1
"
    );
}

fn within(width: usize) -> View {
    View {
        width: Some(width),
        colour: false,
    }
}

#[test]
fn tables_fit_the_terminal_and_cut_no_number() {
    let mut status = fake::status();
    let backend = &mut status.services[0].backends[0];
    backend.name = "web-with-a-name-of-many-characters".to_owned();
    backend.active = 123_456;
    let table = |width| {
        let text = status_tables(&status, within(width));
        let lines = text
            .lines()
            .skip_while(|line| !line.starts_with("  back-end"));
        lines.take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    for width in 45..140 {
        let lines = table(width);
        for line in &lines {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
        for told in ["up", "123456", "32"] {
            assert!(lines[1].contains(told), "{width}: {}", lines[1]);
        }
    }
    assert_eq!(
        table(50),
        [
            "  back-end              state  active  ceiling",
            "  web-with-a-name-of-…  up     123456       32",
        ]
        .map(str::to_owned)
    );
    let narrow = flow_table(&[fake::flow(1)], within(60));
    assert_eq!(
        narrow,
        "\
service  back-end  client              state        age
web      web-1     198.51.100.1:40000  half_open  1m15s
"
    );
}

#[test]
fn colour_tells_states_full_back_ends_and_drops() {
    let mut status = fake::status();
    let view = View {
        width: None,
        colour: true,
    };
    let text = status_tables(&status, view);
    for coloured in [
        "\x1b[33mdropped: no_flow 7\x1b[0m",
        "\x1b[32mup\x1b[0m",
        "\x1b[33m32\x1b[0m",
    ] {
        assert!(text.contains(coloured), "{text:?}");
    }
    status.services[0].backends[0].state = BackendState::Down;
    let text = status_tables(&status, view);
    assert!(text.contains("\x1b[1;31mdown\x1b[0m"), "{text:?}");
}
