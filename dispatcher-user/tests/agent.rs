//! Agents asked over real connections on loopback: what they send, and what is made of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dispatcher_user::admission::BackendId;
use dispatcher_user::agent::{AgentError, AgentTarget, Agents, BODY_BYTES_MAX, Fault};
use dispatcher_user::ceiling::{AgentReport, AgentState, REPORT_LEN_MAX};
use dispatcher_user::config::{Agent, AgentKind, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Time that an agent on loopback never takes, unless it means to.
const AMPLE: Duration = Duration::from_secs(60);

fn tcp(send: &str) -> AgentKind {
    AgentKind::Tcp {
        send: send.to_owned(),
    }
}

fn http(path: &str) -> AgentKind {
    AgentKind::Http {
        path: path.to_owned(),
    }
}

fn target(address: SocketAddr, kind: AgentKind, timeout: Duration) -> AgentTarget {
    AgentTarget {
        backend: BackendId(7),
        name: "web/web-1".into(),
        address,
        agent: Agent {
            kind,
            port: None,
            interval: 2 * timeout,
            timeout,
        },
    }
}

/// An agent: serves each connection in turn.
async fn listen<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    });
    address
}

/// An agent that sends this and closes.
async fn saying(what: impl Into<Vec<u8>>) -> SocketAddr {
    let what = what.into();
    listen(move |mut stream| {
        let what = what.clone();
        async move {
            // Who has read enough may be gone.
            let _ = stream.write_all(&what).await;
        }
    })
    .await
}

/// Reads up to this ending.
async fn read_to(stream: &mut TcpStream, ending: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(ending) {
        read.push(stream.read_u8().await.unwrap().into());
    }
    read
}

/// The first answer of an agent.
async fn first(target: AgentTarget) -> Result<AgentReport, AgentError> {
    let (sender, mut answers) = mpsc::channel(1);
    let mut agents = Agents::new(sender);
    assert_eq!(agents.set(vec![target]).await, []);
    let (backend, answer) = answers.recv().await.unwrap();
    assert_eq!(backend, BackendId(7));
    answer
}

async fn first_fault(target: AgentTarget) -> Fault {
    first(target).await.unwrap_err().fault
}

fn report(words: &str) -> AgentReport {
    AgentReport::parse_text(words).unwrap()
}

#[test]
fn a_target_is_made_of_service_and_back_end() {
    let made = |ceiling: &str| {
        let text = format!(
            "dataplane.interfaces = [\"e\"]\n[[service]]\nname = \"web\"\n\
             address = \"[2001:db8::1]:80\"\nceiling = {ceiling}\n[[service.backend]]\n\
             name = \"web-1\"\naddress = \"[2001:db8::2]:8080\"\ncapacity = 9\n"
        );
        let config = Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap();
        let service = &config.services[0];
        AgentTarget::new(BackendId(3), service, &service.backends[0])
    };
    for (keys, address) in [
        (r#"kind = "http""#, "[2001:db8::2]:8080"),
        (r#"kind = "http", port = 81"#, "[2001:db8::2]:81"),
        (r#"kind = "tcp", port = 9000"#, "[2001:db8::2]:9000"),
    ] {
        let target = made(&format!("{{ policy = \"agent\", agent = {{ {keys} }} }}")).unwrap();
        assert_eq!(target.backend, BackendId(3));
        assert_eq!(&*target.name, "web/web-1");
        assert_eq!(target.address, address.parse().unwrap(), "{keys}");
        assert_eq!(target.agent.interval, Duration::from_secs(2));
    }
    assert!(made("{ policy = \"fixed\" }").is_none());
}

#[tokio::test]
async fn a_line_of_words_is_a_report() {
    let longest = format!("up{}\n", " ".repeat(REPORT_LEN_MAX - 2));
    for (sent, words) in [
        ("75%\n", "75%"),
        ("maxconn:30\n", "maxconn:30"),
        ("drain\n", "drain"),
        ("up\r\n", "up"),
        ("down\n", "down"),
        ("up 75% maxconn:30\nand more\n", "up 75% maxconn:30"),
        // It closes instead of ending the line.
        ("75%", "75%"),
        (&longest, "up"),
    ] {
        let address = saying(sent).await;
        let answer = first(target(address, tcp(""), AMPLE)).await;
        assert_eq!(answer, Ok(report(words)), "{sent:?}");
    }
}

#[tokio::test]
async fn what_is_no_line_of_words_is_told() {
    let unread = |why: &str| Fault::Unreadable(why.to_owned());
    let word = |word: &str| AgentReport::parse_text(word).unwrap_err().to_string();
    let too_long = format!("up{}\n", " ".repeat(REPORT_LEN_MAX - 1));
    for (sent, fault) in [
        (&b""[..], Fault::Closed),
        (b"<html>\n", unread(&word("<html>"))),
        (b"\xff%\n", unread("not UTF-8 text")),
        (
            b"\x1b[2J\n",
            unread(&word("\x1b[2J").replace('\x1b', "\u{fffd}")),
        ),
        (too_long.as_bytes(), Fault::TooLong(REPORT_LEN_MAX)),
    ] {
        let address = saying(sent).await;
        let found = first_fault(target(address, tcp(""), AMPLE)).await;
        assert_eq!(found, fault, "{sent:?}");
    }
}

#[tokio::test]
async fn what_is_to_be_sent_is_sent_first() {
    let address = listen(async |mut stream| {
        let asked = read_to(&mut stream, "\n").await;
        stream.write_all(asked.as_bytes()).await.unwrap();
    });
    let answer = first(target(address.await, tcp("maxconn:12\n"), AMPLE)).await;
    assert_eq!(answer, Ok(report("maxconn:12")));
}

#[tokio::test]
async fn nobody_there_is_told_with_name_and_address() {
    // Bound and not listening: nobody else gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let error = first(target(address, tcp(""), AMPLE)).await.unwrap_err();
    let told = format!("agent of web/web-1 at {address}: Connection refused (os error 111)");
    assert_eq!(error.to_string(), told);
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_waited_for_no_longer_than_configured() {
    let address = listen(async |stream| {
        sleep(AMPLE).await;
        drop(stream);
    });
    let address = address.await;
    for kind in [tcp(""), http("/")] {
        let asked = Instant::now();
        let error = first(target(address, kind, Duration::from_secs(1)))
            .await
            .unwrap_err();
        assert_eq!(asked.elapsed().as_secs(), 1);
        let told = format!("agent of web/web-1 at {address}: no answer within 1s");
        assert_eq!(error.to_string(), told);
    }
}

/// Each byte comes in time; the answer does not.
#[tokio::test(start_paused = true)]
async fn a_byte_a_second_is_no_answer() {
    let address = listen(async |mut stream| {
        for byte in "HTTP/1.1 200 OK".repeat(9).bytes() {
            sleep(Duration::from_secs(1)).await;
            if stream.write_u8(byte).await.is_err() {
                return;
            }
        }
    });
    let address = address.await;
    let timeout = Duration::from_millis(5500);
    for kind in [tcp(""), http("/")] {
        let asked = Instant::now();
        let fault = first_fault(target(address, kind, timeout)).await;
        assert_eq!(fault, Fault::Late(timeout));
        assert_eq!(asked.elapsed().as_secs(), 5);
    }
}

/// An agent over HTTP that answers every request with this.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    listen(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_to(&mut stream, "\r\n\r\n").await;
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// A whole answer.
fn ok(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn json_and_text_over_http_are_reports() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\
                   \r\n3\r\nup \r\n4\r\n75%\n\r\n0\r\n\r\n";
    let to_the_end = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n75%";
    for (sent, words) in [
        (ok("text/plain", "up 75%\n"), "up 75%"),
        (ok("Text/Plain; charset=utf-8", "drain\r\nmore"), "drain"),
        (chunked.to_owned(), "up 75%"),
        (to_the_end.to_owned(), "75%"),
    ] {
        let address = answering(sent.as_str()).await;
        let answer = first(target(address, http("/"), AMPLE)).await;
        assert_eq!(answer, Ok(report(words)), "{sent:?}");
    }
    let all = r#"{ "ceiling": 30, "share": 75, "load": 0.805, "state": "DRAIN", "message": "hi",
                   "more": [] }"#;
    let everything = AgentReport {
        ceiling: Some(30),
        share_percent: Some(75),
        load_percent: Some(81),
        state: Some(AgentState::Drain),
        message: Some("hi".to_owned()),
    };
    for (body, expected) in [
        (all, everything),
        (r#"{"ceiling": 30}"#, report("maxconn:30")),
        (r#"{"share": 75, "state": null}"#, report("75%")),
    ] {
        let address = answering(ok("application/json", body)).await;
        let answer = first(target(address, http("/"), AMPLE)).await;
        assert_eq!(answer, Ok(expected), "{body}");
    }
}

#[tokio::test]
async fn json_that_is_no_report_is_told() {
    let long = format!(
        r#"{{"state": "up", "message": "{}"}}"#,
        "x".repeat(REPORT_LEN_MAX + 1)
    );
    let number = format!(r#"{{"ceiling": "{}"}}"#, "9".repeat(9999));
    for (body, says) in [
        (r#"{"ceiling": "#, "EOF while parsing"),
        ("", "EOF while parsing"),
        ("30", "expected struct"),
        (r#"{"ceiling": -1}"#, "expected u32"),
        (r#"{"ceiling": 4294967296}"#, "expected u32"),
        (&number, "invalid type: string \"999"),
        (r#"{"load": -0.1}"#, "load is -0.1; it must be 0 or more"),
        (r#"{"load": 1e999}"#, "number out of range"),
        (r#"{"state": "gone"}"#, "state is \"gone\", which is none"),
        (
            r#"{"message": "hi"}"#,
            "none of ceiling, share, load and state",
        ),
        ("{}", "none of ceiling, share, load and state"),
        (&long, "message has 1025 bytes; at most 1024 are read"),
    ] {
        let address = answering(ok("application/json", body)).await;
        let fault = first_fault(target(address, http("/"), AMPLE)).await;
        let Fault::Unreadable(told) = &fault else {
            panic!("{body:.80}: {fault}");
        };
        assert!(
            told.contains(says) && told.len() <= 200,
            "{body:.80}: {told}"
        );
    }
}

#[tokio::test]
async fn what_is_no_answer_over_http_is_told() {
    let full = "x".repeat(BODY_BYTES_MAX + 1);
    let endless = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{full}\r\n",
        full.len()
    );
    let large = format!("HTTP/1.1 200 OK\r\nX: {full}\r\n\r\n");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(65));
    let unread = |why: &str| Fault::Unreadable(why.to_owned());
    let mut cut = ok("text/plain", "up 75%\n");
    cut.truncate(cut.len() - 3);
    let content_type = |given: &str| Fault::ContentType(given.to_owned());
    for (sent, fault) in [
        (String::new(), Fault::Closed),
        (
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Fault::Status(503),
        ),
        ("HTTP/1.1 204 No\r\n\r\n".to_owned(), Fault::Status(204)),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n75%".to_owned(),
            content_type(""),
        ),
        (ok("text/html", "<html>"), content_type("text/html")),
        (
            ok("application/json", &full),
            Fault::TooLong(BODY_BYTES_MAX),
        ),
        (endless, Fault::TooLong(BODY_BYTES_MAX)),
        (cut, Fault::Closed),
        ("75%\n".to_owned(), unread("invalid HTTP version parsed")),
        (large, unread("message head is too large")),
        (many, unread("message head is too large")),
    ] {
        let address = answering(sent.as_str()).await;
        let found = first_fault(target(address, http("/"), AMPLE)).await;
        assert_eq!(found, fault, "{sent:.80?}");
    }
}

#[tokio::test]
async fn the_request_names_path_and_host() {
    let (sender, mut requests) = mpsc::channel(1);
    let address = listen(move |mut stream| {
        let sender = sender.clone();
        async move {
            let request = read_to(&mut stream, "\r\n\r\n").await;
            stream
                .write_all(ok("text/plain", "up").as_bytes())
                .await
                .unwrap();
            let _ = sender.send(request).await;
        }
    });
    let address = address.await;
    let answer = first(target(address, http("/load?of=web"), AMPLE)).await;
    assert_eq!(answer, Ok(report("up")));
    let request = requests.recv().await.unwrap();
    let mut lines: Vec<_> = request.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    let host = format!("host: {address}");
    assert_eq!(
        lines,
        ["GET /load?of=web HTTP/1.1", "connection: close", &host]
    );
}

/// None of four answers: each is told once an interval, and the intervals are apart by a quarter.
#[tokio::test(start_paused = true)]
async fn each_agent_is_asked_once_an_interval_and_all_at_their_own_time() {
    let address = listen(async |stream| {
        sleep(AMPLE).await;
        drop(stream);
    });
    let address = address.await;
    let targets = (0..4).map(|i| AgentTarget {
        backend: BackendId(i),
        ..target(address, tcp(""), Duration::from_secs(2))
    });
    let (sender, mut answers) = mpsc::channel(1);
    let asked = Instant::now();
    let mut agents = Agents::new(sender);
    agents.set(targets.collect()).await;
    for round in 0..3 {
        for i in 0..4 {
            let (backend, answer) = answers.recv().await.unwrap();
            assert_eq!(backend, BackendId(i));
            assert_eq!(
                answer.unwrap_err().fault,
                Fault::Late(Duration::from_secs(2))
            );
            let seconds = u64::from(i) + 4 * round + 2;
            assert_eq!(asked.elapsed().as_secs(), seconds);
        }
    }
    // Whoever is not there any more has no more questions asked.
    drop(agents);
    assert!(answers.recv().await.is_none());
}

/// As at every reload: who stays is asked in turn, who goes no more, whoever comes from then on.
#[tokio::test(start_paused = true)]
async fn others_may_be_asked_from_now_on() {
    let address = listen(async |stream| {
        sleep(AMPLE).await;
        drop(stream);
    });
    let address = address.await;
    let of = |i: u32| AgentTarget {
        backend: BackendId(i),
        ..target(address, tcp(""), Duration::from_secs(2))
    };
    let (sender, mut answers) = mpsc::channel(8);
    let mut agents = Agents::new(sender);
    agents.set(vec![of(0), of(1)]).await;
    let asked = Instant::now();
    assert_eq!(answers.recv().await.unwrap().0, BackendId(0));
    assert_eq!(agents.set(vec![of(0), of(2)]).await, [BackendId(1)]);
    let mut heard = Vec::new();
    while asked.elapsed() < Duration::from_secs(9) {
        heard.push(answers.recv().await.unwrap().0);
    }
    assert!(!heard.contains(&BackendId(1)));
    assert!(heard.contains(&BackendId(0)) && heard.contains(&BackendId(2)));
    let renamed = AgentTarget {
        name: "web/new".into(),
        ..of(0)
    };
    assert_eq!(agents.set(vec![renamed, of(2)]).await, [BackendId(0)]);
}

/// An answer that finds no room holds up the next question, and nothing piles up.
#[tokio::test(start_paused = true)]
async fn an_agent_whose_answer_finds_no_room_is_asked_later() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let address = listen(async |stream| {
        ASKED.fetch_add(1, Ordering::SeqCst);
        drop(stream);
    });
    let address = address.await;
    let (sender, mut answers) = mpsc::channel(1);
    let mut agents = Agents::new(sender);
    agents
        .set(vec![target(address, tcp(""), Duration::from_secs(2))])
        .await;
    sleep(AMPLE).await;
    assert_eq!(ASKED.load(Ordering::SeqCst), 2, "one waits, one lies");
    for _ in 0..5 {
        assert!(answers.recv().await.unwrap().1.is_err());
    }
    let asked = ASKED.load(Ordering::SeqCst);
    assert!((5..=7).contains(&asked), "none is caught up on: {asked}");
}
