//! Health checks over real connections on loopback: what they ask, what is made of the answer, and
//! how many are made at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dispatcher_user::admission::{BackendId, ServiceId};
use dispatcher_user::config::{Config, Health, HealthKind, OnDown};
use dispatcher_user::health::{Checked, Checks, FIRST_WITHIN, Fault, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Time that a server on loopback never takes, unless it means to.
const AMPLE: Duration = Duration::from_secs(60);

fn http() -> HealthKind {
    HealthKind::Http {
        path: "/up?full".to_owned(),
        host: None,
        status: 200..=399,
    }
}

fn health(kind: HealthKind, timeout: Duration) -> Health {
    Health {
        kind,
        port: None,
        source: None,
        // So the first check is soon.
        interval: Duration::from_millis(100),
        timeout,
        rise: 2,
        fall: 3,
        passive: 0,
        on_down: OnDown::Keep,
    }
}

fn target(address: SocketAddr, kind: HealthKind, timeout: Duration) -> Target {
    Target {
        service: ServiceId(3),
        backend: BackendId(7),
        address,
        health: health(kind, timeout),
    }
}

/// A server: serves each connection beside the others.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    at: IpAddr,
    serve: impl Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, peer));
        }
    });
    address
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    head
}

/// A server that answers every request with this.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into().into();
    listen(LOOPBACK, move |mut stream, _| {
        let answer = Arc::clone(&answer);
        async move {
            head_of(&mut stream).await;
            // Who has read enough may be gone.
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// What came of the first check.
async fn first(target: Target) -> Checked {
    let (sender, mut checked) = mpsc::channel(1);
    let mut checks = Checks::new(sender, 1);
    assert_eq!(checks.set(vec![target]).await, []);
    let checked = checked.recv().await.unwrap();
    assert_eq!(
        (checked.service, checked.backend),
        (ServiceId(3), BackendId(7))
    );
    checked
}

async fn fault(target: Target) -> Fault {
    first(target).await.result.unwrap_err()
}

#[test]
fn a_target_is_made_of_service_and_back_end() {
    let made = |health: &str| {
        let text = format!(
            "dataplane.interfaces = [\"e\"]\n[[service]]\nname = \"web\"\n\
             address = \"[2001:db8::1]:80\"\nhealth = {health}\n[[service.backend]]\n\
             name = \"web-1\"\naddress = \"[2001:db8::2]:8080\"\ncapacity = 9\n"
        );
        let config = Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap();
        let service = &config.services[0];
        Target::new(ServiceId(1), BackendId(3), service, &service.backends[0])
    };
    for (keys, address) in [
        ("{}", "[2001:db8::2]:8080"),
        (r#"{ kind = "http", port = 81 }"#, "[2001:db8::2]:81"),
    ] {
        let target = made(keys).unwrap();
        assert_eq!(
            (target.service, target.backend),
            (ServiceId(1), BackendId(3))
        );
        assert_eq!(target.address, address.parse().unwrap(), "{keys}");
    }
    assert_eq!(made(r#"{ kind = "off", passive = 3 }"#), None);
}

#[tokio::test]
async fn who_accepts_a_connection_passes() {
    for at in [LOOPBACK, Ipv6Addr::LOCALHOST.into()] {
        let address = listen(at, async |stream, _| drop(stream)).await;
        let checked = first(target(address, HealthKind::Tcp, AMPLE)).await;
        assert_eq!(checked.result, Ok(()), "{address}");
        assert!(checked.took < AMPLE);
    }
}

#[tokio::test]
async fn nobody_there_refuses() {
    // Bound and not listening: nobody else gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((LOOPBACK, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    for kind in [HealthKind::Tcp, http()] {
        let fault = fault(target(address, kind, AMPLE)).await;
        assert_eq!(fault, Fault::Refused);
        assert_eq!(fault.label(), "refused");
    }
}

#[tokio::test]
async fn good_statuses_pass_and_others_do_not() {
    let status = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
    for (given, wanted, passes) in [
        (200, 200..=399, true),
        (302, 200..=399, true),
        (404, 200..=399, false),
        (503, 200..=399, false),
        (503, 503..=503, true),
        (200, 204..=204, false),
    ] {
        let address = answering(status(given)).await;
        let kind = HealthKind::Http {
            path: "/".to_owned(),
            host: None,
            status: wanted.clone(),
        };
        let result = first(target(address, kind, AMPLE)).await.result;
        let expected = if passes {
            Ok(())
        } else {
            Err(Fault::Status { got: given, wanted })
        };
        assert_eq!(result, expected);
    }
    let told = |wanted| Fault::Status { got: 503, wanted }.to_string();
    assert_eq!(told(200..=399), "HTTP status 503; it must be 200 to 399");
    assert_eq!(told(204..=204), "HTTP status 503; it must be 204");
}

#[tokio::test]
async fn the_request_is_the_one_that_is_configured() {
    let (sender, mut heads) = mpsc::channel(9);
    let address = listen(LOOPBACK, move |mut stream, _| {
        let sender = sender.clone();
        async move {
            sender.send(head_of(&mut stream).await).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
        }
    })
    .await;
    let own = address.to_string();
    for (host, shown) in [(None, own.as_str()), (Some("web.example"), "web.example")] {
        let kind = HealthKind::Http {
            path: "/up?full".to_owned(),
            host: host.map(str::to_owned),
            status: 200..=399,
        };
        assert_eq!(first(target(address, kind, AMPLE)).await.result, Ok(()));
        let head = heads.recv().await.unwrap();
        let expected =
            format!("GET /up?full HTTP/1.1\r\nhost: {shown}\r\nconnection: close\r\n\r\n");
        assert_eq!(head, expected);
    }
}

#[tokio::test]
async fn what_is_no_answer_over_http_is_told() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    for (sent, label) in [
        ("", "connection"),
        ("HTTP/1.1 200", "connection"),
        ("220 smtp ready\r\n\r\n", "unreadable"),
        (&endless, "unreadable"),
        (broken, "connection"),
    ] {
        let fault = fault(target(answering(sent).await, http(), AMPLE)).await;
        assert_eq!(fault.label(), label, "{sent:?}: {fault}");
    }
}

/// A body that is longer than what is read says nothing against a server.
#[tokio::test]
async fn a_long_body_passes() {
    let body = "x".repeat(1 << 20);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        1 << 20
    );
    let address = answering(answer).await;
    assert_eq!(first(target(address, http(), AMPLE)).await.result, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_waited_for_no_longer_than_configured() {
    let silent = listen(LOOPBACK, async |stream, _| {
        sleep(AMPLE).await;
        drop(stream);
    });
    // Its body does not end.
    let slow = listen(LOOPBACK, async |mut stream, _| {
        head_of(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx";
        stream.write_all(head).await.unwrap();
        sleep(AMPLE).await;
    });
    for address in [silent.await, slow.await] {
        let checked = first(target(address, http(), Duration::from_secs(1))).await;
        let late = Fault::Late(Duration::from_secs(1));
        assert_eq!(late.to_string(), "no answer within 1s");
        assert_eq!(checked.result, Err(late));
        assert_eq!(checked.took.as_secs(), 1);
    }
}

#[tokio::test]
async fn checks_come_from_the_address_that_is_configured() {
    let (sender, mut peers) = mpsc::channel(9);
    let address = listen(LOOPBACK, move |_, peer| {
        let sender = sender.clone();
        async move { sender.send(peer).await.unwrap() }
    })
    .await;
    let mut from = target(address, HealthKind::Tcp, AMPLE);
    from.health.source = Some("127.0.0.9".parse().unwrap());
    assert_eq!(first(from.clone()).await.result, Ok(()));
    let peer = peers.recv().await.unwrap();
    assert_eq!(Some(peer.ip()), from.health.source);

    // This machine does not have it: that is not the back-end's fault.
    from.health.source = Some("192.0.2.77".parse().unwrap());
    let fault = fault(from).await;
    assert_eq!(fault.label(), "not_made");
    let told = "it could not be asked: Cannot assign requested address (os error 99)";
    assert_eq!(fault.to_string(), told);
}

#[tokio::test(start_paused = true)]
async fn checks_go_on_at_their_interval() {
    let address = listen(LOOPBACK, async |stream, _| drop(stream)).await;
    let (sender, mut checked) = mpsc::channel(1);
    let mut checks = Checks::new(sender, 1);
    let began = Instant::now();
    let mut target = target(address, HealthKind::Tcp, Duration::from_secs(1));
    target.health.interval = AMPLE;
    checks.set(vec![target]).await;
    for count in 0..50 {
        checked.recv().await.unwrap();
        let passed = began.elapsed();
        let (least, most) = (AMPLE * count * 9 / 10, AMPLE * count * 11 / 10);
        assert!(
            passed >= least && passed <= most + FIRST_WITHIN + Duration::from_secs(1),
            "check {count} after {passed:?}"
        );
    }
}

#[tokio::test]
async fn who_is_checked_in_the_same_way_keeps_its_turn_and_others_are_told_of() {
    let address = listen(LOOPBACK, async |stream, _| drop(stream)).await;
    let (sender, mut checked) = mpsc::channel(9);
    let mut checks = Checks::new(sender, 4);
    let one = |id: u32, kind: HealthKind| {
        let mut target = target(address, kind, AMPLE);
        target.backend = BackendId(id);
        target.health.interval = 100 * AMPLE;
        target
    };
    let tcp = || HealthKind::Tcp;
    assert_eq!(checks.set(vec![one(1, tcp()), one(2, tcp())]).await, []);
    for _ in 0..2 {
        checked.recv().await.unwrap().result.unwrap();
    }
    // The first is checked otherwise, and at once; the second goes on, and is not due for long.
    let dropped = checks.set(vec![one(1, http()), one(2, tcp())]).await;
    assert_eq!(dropped, [BackendId(1)]);
    let next = checked.recv().await.unwrap();
    assert_eq!((next.backend, next.result.is_err()), (BackendId(1), true));
    assert_eq!(checks.set(Vec::new()).await.len(), 2);
    assert_eq!(checks.running(), 0);
    assert!(checked.try_recv().is_err());
}

/// As many back-ends as there may be, all silent: no more checks are made at once than may be, the
/// others wait, all are checked, and nobody is charged with the wait.
#[tokio::test(start_paused = true)]
async fn no_more_checks_are_made_at_once_than_may_be() {
    const BACKENDS: u32 = 4096;
    const AT_ONCE: usize = 64;
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let address = listen(LOOPBACK, async |mut stream, _| {
        let open = OPEN.fetch_add(1, Ordering::SeqCst) + 1;
        MOST.fetch_max(open, Ordering::SeqCst);
        // Until it is given up.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        OPEN.fetch_sub(1, Ordering::SeqCst);
    })
    .await;
    let (sender, mut checked) = mpsc::channel(1);
    let mut checks = Checks::new(sender, AT_ONCE);
    let targets = (0..BACKENDS).map(|id| Target {
        backend: BackendId(id),
        ..target(address, http(), Duration::from_secs(1))
    });
    checks.set(targets.collect()).await;
    let mut seen = vec![false; BACKENDS as usize];
    let mut missing = BACKENDS;
    while missing > 0 {
        let checked = checked.recv().await.unwrap();
        assert_eq!(checked.took.as_secs(), 1);
        assert!(checks.running() <= AT_ONCE);
        let place = checked.backend.0 as usize;
        missing -= u32::from(!std::mem::replace(&mut seen[place], true));
    }
    // One may still be closing while the next is open.
    let most = MOST.load(Ordering::SeqCst);
    assert!((AT_ONCE..=2 * AT_ONCE).contains(&most), "{most} at once");
    assert!(checks.waited() > 0);
}

/// A result that finds no room holds up the next check, and nothing piles up.
#[tokio::test(start_paused = true)]
async fn a_check_whose_result_finds_no_room_is_followed_by_the_next_one_later() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let address = listen(LOOPBACK, async |stream, _| {
        MADE.fetch_add(1, Ordering::SeqCst);
        drop(stream);
    });
    let address = address.await;
    let (sender, mut checked) = mpsc::channel(1);
    let mut checks = Checks::new(sender, 4);
    let target = target(address, HealthKind::Tcp, Duration::from_secs(1));
    checks.set(vec![target]).await;
    // Time goes on by itself while all wait, so for hundreds of intervals.
    sleep(AMPLE).await;
    assert_eq!(MADE.load(Ordering::SeqCst), 2, "one result waits, one lies");
    assert_eq!(checks.running(), 0, "who waits for that holds no place");
    for _ in 0..5 {
        checked.recv().await.unwrap().result.unwrap();
    }
    let made = MADE.load(Ordering::SeqCst);
    assert!((5..=7).contains(&made), "none is caught up on: {made}");
}
