//! Ceilings that move, on real interfaces: what is measured, what moves them, and who may say so.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT, Service};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::netns::Namespace;
use dispatcher_tests::sampler::Sampler;
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, eventually};

/// Shorter than the default, so that the tests need not wait long.
const WINDOW: &str = "interval = \"100ms\"";

fn lab(backends: u8) -> Lab {
    let topology = Topology {
        backends,
        ..Topology::default()
    };
    topology.up().unwrap()
}

/// A service with one back-end whose ceiling `policy` moves from 2 on, up to 40.
fn moving(lab: &Lab, policy: &'static str, keys: &str) -> Config {
    let mut config = Config::new(lab, Family::V4, 2);
    let web = config.web();
    web.policy = policy;
    web.ceiling = format!("{WINDOW}\n{keys}");
    for backend in &mut web.backends {
        (backend.initial, backend.ceiling, backend.capacity) = (Some(2), 40, 64);
    }
    config
}

/// Clients that fetch one page after the other, each over a connection of its own, until dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn start(namespace: &Namespace, size: usize, service: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = || {
            let stop = Arc::clone(&stop);
            namespace.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client::fetch(service).expect("every request is served");
                }
            })
        };
        let threads = (0..size).map(|_| one()).collect();
        Self { stop, threads }
    }

    fn leave(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn text(daemon: &Daemon, pointer: &str) -> String {
    let status = daemon.status().0;
    let found = status.pointer(pointer).and_then(serde_json::Value::as_str);
    found
        .unwrap_or_else(|| panic!("no text at {pointer} in {status:#}"))
        .to_owned()
}

/// Milliseconds that the status tells of the first back-end.
fn milliseconds(daemon: &Daemon, pointer: &str) -> f64 {
    let status = daemon.status().0;
    let pointer = format!("/services/0/backends/0/{pointer}");
    let found = status.pointer(&pointer).and_then(serde_json::Value::as_f64);
    found.unwrap_or_else(|| panic!("nothing at {pointer} in {status:#}"))
}

/// Answers each line after as many milliseconds as it says, and notes how long that took.
fn punctual(
    took: Arc<Mutex<Vec<Duration>>>,
) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, _| {
        let mut line = [0; 4];
        while stream.read_exact(&mut line).is_ok() {
            let begin = Instant::now();
            let millis = str::from_utf8(&line)
                .ok()
                .and_then(|text| text.parse().ok());
            let millis = millis.ok_or(io::ErrorKind::InvalidData)?;
            thread::sleep(Duration::from_millis(millis));
            let mut all = took.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(begin.elapsed());
            drop(all);
            stream.write_all(&line)?;
        }
        Ok(())
    }
}

fn quantile(sorted: &[Duration], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.max(1) - 1].as_secs_f64() * 1000.0
}

/// A response lies between what its server took and what its client waited: so do the quantiles of
/// all responses, whatever else the machine does meanwhile.
#[test]
fn response_times_lie_between_what_servers_take_and_what_clients_wait() {
    const CONNECTIONS: usize = 8;
    const REQUESTS: u64 = 25;
    let lab = lab(1);
    let took = Arc::new(Mutex::new(Vec::new()));
    let _server = Server::start(lab.backend(0), BACKEND_PORT, punctual(Arc::clone(&took))).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 16)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);

    let waited = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let (lab, waited) = (&lab, &waited);
            scope.spawn(move || {
                let mut stream = lab.client(0).enter(|| client::connect(service)).unwrap();
                stream.set_nodelay(true).unwrap();
                for request in 0..REQUESTS {
                    // From 1 to 81 ms, and every request of all connections another time.
                    let millis = 1 + (request * 3 + connection as u64 * 7) % 81;
                    let line = format!("{millis:04}");
                    let begin = Instant::now();
                    client::exchange(&mut stream, line.as_bytes()).unwrap();
                    waited.lock().unwrap().push(begin.elapsed());
                }
            });
        }
    });

    let mut took = took.lock().unwrap().clone();
    let mut waited = waited.into_inner().unwrap();
    took.sort_unstable();
    waited.sort_unstable();
    let requests = CONNECTIONS as u64 * REQUESTS;
    assert_eq!(waited.len() as u64, requests);
    let status = daemon.status();
    assert_eq!(status.backend(0, "total/requests"), requests);
    assert_eq!(status.backend(0, "total/unanswered"), 0);
    let mean = |times: &[Duration]| {
        times.iter().sum::<Duration>().as_secs_f64() * 1000.0 / times.len() as f64
    };
    let unit = 0.002;
    for (name, low, high, error) in [
        ("mean", mean(&took), mean(&waited), 0.0),
        (
            "p50",
            quantile(&took, 0.5),
            quantile(&waited, 0.5),
            1.0 / 32.0,
        ),
        (
            "p99",
            quantile(&took, 0.99),
            quantile(&waited, 0.99),
            1.0 / 32.0,
        ),
        ("max", quantile(&took, 1.0), quantile(&waited, 1.0), 0.0),
    ] {
        let told = milliseconds(&daemon, &format!("response_ms/{name}"));
        let (low, high) = (low * (1.0 - error) - unit, high * (1.0 + error) + unit);
        assert!(
            (low..=high).contains(&told),
            "{name} is {told} ms, not {low} to {high}"
        );
    }
    let count = daemon
        .metric("dispatcher_backend_response_seconds_count", "web-1")
        .unwrap();
    assert_eq!(count, requests as f64);
    assert!(milliseconds(&daemon, "connect_ms/max") > 0.0);
    assert_settles(&daemon);
}

#[test]
fn a_queue_raises_the_ceiling_and_everything_says_why() {
    let lab = lab(1);
    let _server = on_all(&lab, || server::http(Duration::from_millis(20)));
    let sampler = Sampler::start(lab.backend(0), BACKEND_PORT);
    let daemon = Daemon::start(&lab, &moving(&lab, "queue-depth", "")).unwrap();
    assert_eq!(daemon.status().backend(0, "ceiling"), 2);
    let crowd = Crowd::start(lab.client(0), 40, lab.service(Family::V4, SERVICE_PORT));

    eventually(PATIENCE, "the ceiling is raised", || {
        daemon.status().backend(0, "ceiling") >= 8
    });
    let why = text(&daemon, "/services/0/backends/0/moved/why");
    let reason = text(&daemon, "/services/0/backends/0/moved/reason");
    assert!(!why.is_empty() && !reason.is_empty());
    let counted = daemon
        .metric("dispatcher_backend_ceiling_moves_total", "web-1")
        .unwrap();
    assert!(counted >= 1.0, "{counted} moves are counted");
    assert!(daemon.log().contains("ceiling moved"), "{}", daemon.log());

    crowd.leave();
    let status = daemon.status();
    assert!(sampler.most() <= 40, "{} at the back-end", sampler.most());
    assert!(status.backend(0, "active_max") <= 40);
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn a_pinned_ceiling_stays_until_it_is_given_back() {
    let lab = lab(1);
    let _server = on_all(&lab, || server::http(Duration::from_millis(20)));
    let daemon = Daemon::start(&lab, &moving(&lab, "queue-depth", "")).unwrap();
    let said = daemon.ask(&["ceiling", "web/web-1", "3"]).unwrap();
    assert_eq!(said, "web/web-1: ceiling 3, pinned\n");
    let crowd = Crowd::start(lab.client(0), 40, lab.service(Family::V4, SERVICE_PORT));
    // Twenty windows with a long queue.
    eventually(PATIENCE, "many are served", || {
        daemon.status().requests("admitted") > 200
    });
    let status = daemon.status();
    assert_eq!(status.backend(0, "ceiling"), 3);
    assert_eq!(status.backend(0, "active_max"), 3);
    let pinned = |value: f64| {
        daemon
            .metric("dispatcher_backend_ceiling_pinned", "web-1")
            .unwrap()
            == value
    };
    assert!(pinned(1.0));

    let said = daemon.ask(&["ceiling", "web/web-1", "auto"]).unwrap();
    assert!(said.contains("moved by policy queue-depth again"), "{said}");
    eventually(PATIENCE, "the policy raises it", || {
        daemon.status().backend(0, "ceiling") > 4
    });
    assert!(pinned(0.0));
    crowd.leave();

    let error = daemon.ask(&["ceiling", "web/web-1", "41"]).unwrap_err();
    assert!(error.to_string().contains("must be 1 to 40"), "{error:#}");
    let error = daemon.ask(&["ceiling", "web/web-9", "4"]).unwrap_err();
    assert!(error.to_string().contains("there are web-1"), "{error:#}");
}

/// An agent at the back-end that says what it is told to say.
fn agent(lab: &Lab, port: u16) -> (Server, Arc<Mutex<String>>) {
    let word = Arc::new(Mutex::new(String::new()));
    let says = Arc::clone(&word);
    let talk = move |stream: &mut TcpStream, _: &Count| {
        let word = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.write_all(format!("{word}\n").as_bytes())
    };
    (Server::start(lab.backend(0), port, talk).unwrap(), word)
}

#[test]
fn an_agent_moves_the_ceiling_drains_and_comes_back_slowly() {
    const AGENT_PORT: u16 = 9000;
    let lab = lab(1);
    let _server = on_all(&lab, || server::echo);
    let (_agent, word) = agent(&lab, AGENT_PORT);
    let say = |words: &str| *word.lock().unwrap() = words.to_owned();
    say("up maxconn:12");
    let keys = "slow_start = \"2s\"\nagent = { kind = \"tcp\", port = 9000, interval = \"100ms\", \
                timeout = \"100ms\" }";
    let daemon = Daemon::start(&lab, &moving(&lab, "agent", keys)).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let ceiling = || daemon.status().backend(0, "ceiling");
    eventually(PATIENCE, "the ceiling is what the agent says", || {
        ceiling() == 12
    });

    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    say("drain");
    eventually(PATIENCE, "it drains", || {
        text(&daemon, "/services/0/backends/0/state") == "draining"
    });
    assert_eq!(
        client::exchange(&mut held, b"still here").unwrap(),
        b"still here"
    );
    let waiting = lab
        .client(0)
        .spawn(move || client::connect(service).map(drop));
    eventually(PATIENCE, "a new one waits", || {
        daemon.status().queued() == 1
    });

    say("up maxconn:30");
    eventually(PATIENCE, "it is up", || {
        text(&daemon, "/services/0/backends/0/state") == "up"
    });
    let at_first = ceiling();
    assert!(at_first < 30, "it starts with {at_first}");
    eventually(PATIENCE, "it has all of its ceiling", || ceiling() == 30);
    waiting.join().unwrap().unwrap();
    drop(held);
    assert_settles(&daemon);
}

#[test]
fn an_agent_that_falls_silent_is_told_once() {
    let lab = lab(1);
    let _server = on_all(&lab, || server::echo);
    let keys = "agent = { kind = \"tcp\", port = 9000, interval = \"100ms\", timeout = \"100ms\" }";
    let daemon = Daemon::start(&lab, &moving(&lab, "agent", keys)).unwrap();
    let told = || daemon.log().matches("agent of web/web-1 at").count();
    eventually(PATIENCE, "nobody answers there", || told() > 0);
    let (_agent, word) = agent(&lab, 9000);
    *word.lock().unwrap() = "50%".to_owned();
    eventually(PATIENCE, "it reports", || {
        daemon.log().contains("its agent reports again")
    });
    assert_eq!(told(), 1, "{}", daemon.log());
    eventually(PATIENCE, "half of the greatest ceiling", || {
        daemon.status().backend(0, "ceiling") == 20
    });
}

/// Answers after a while, and counts how many it serves at once, together with others.
fn counted(
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, _| {
        let count = now.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(count, Ordering::SeqCst);
        let head = server::read_head(stream);
        thread::sleep(Duration::from_millis(5));
        // Counted before the answer, so that a successor is never counted beside it.
        now.fetch_sub(1, Ordering::SeqCst);
        head?;
        server::respond(stream)
    }
}

#[test]
fn a_group_of_two_services_never_has_more_than_its_ceiling() {
    const SHARED: usize = 5;
    let lab = lab(2);
    let (now, most) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let _servers = on_all(&lab, || counted(Arc::clone(&now), Arc::clone(&most)));
    let mut config = Config::new(&lab, Family::V4, 4);
    for backend in &mut config.web().backends {
        backend.group = Some("db");
    }
    let mut other = Service::new(&lab, Family::V4, 4);
    "other".clone_into(&mut other.name);
    other.address.set_port(81);
    for backend in &mut other.backends {
        backend.group = Some("db");
    }
    config.services.push(other);
    config.extra = format!("[[group]]\nname = \"db\"\nceiling = {SHARED}\n");
    let daemon = Daemon::start(&lab, &config).unwrap();

    thread::scope(|scope| {
        for i in 0..60_u16 {
            let service = lab.service(Family::V4, SERVICE_PORT + i % 2);
            let lab = &lab;
            scope.spawn(move || lab.client(0).enter(|| client::fetch(service)).unwrap());
        }
    });
    assert!(
        (2..=SHARED).contains(&most.load(Ordering::SeqCst)),
        "{most:?} at once"
    );
    let status = daemon.status().0;
    assert_eq!(status["groups"][0]["name"], "db");
    assert_eq!(status["groups"][0]["active_max"], SHARED);
    for service in 0..2 {
        assert_eq!(status["services"][service]["requests"]["admitted"], 30);
    }
    let ceiling = daemon.metric("dispatcher_group_ceiling", "db").unwrap();
    assert_eq!(ceiling, SHARED as f64);
    assert_settles(&daemon);
}

/// How many connections each back-end has had.
fn shares(servers: &[Server]) -> Vec<usize> {
    servers
        .iter()
        .map(|server| server.count().peers().len())
        .collect()
}

#[test]
fn weights_share_the_connections_out() {
    let lab = lab(2);
    let servers = on_all(&lab, || server::http(Duration::ZERO));
    let mut config = Config::new(&lab, Family::V4, 8);
    config.web().backends[0].weight = 3;
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    for _ in 0..20 {
        lab.client(0).enter(|| client::fetch(service)).unwrap();
    }
    assert_eq!(shares(&servers), [15, 5]);
    assert_settles(&daemon);
}

#[test]
fn least_connections_goes_where_fewest_are() {
    let lab = lab(2);
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 16);
    config.web().balance = "least-connections";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let connect = || {
        let mut stream = lab.client(0).enter(|| client::connect(service)).unwrap();
        client::exchange(&mut stream, b"here").unwrap();
        stream
    };
    let mut held: Vec<_> = (0..8).map(|_| connect()).collect();
    assert_eq!(shares(&servers), [4, 4]);
    // All of the first back-end's leave.
    let of_first = servers[0].count().peers();
    held.retain(|stream| !of_first.contains(&stream.local_addr().unwrap()));
    eventually(PATIENCE, "they have left", || {
        daemon.status().backend(0, "active") == 0
    });
    held.extend((0..4).map(|_| connect()));
    assert_eq!(shares(&servers), [8, 4], "all four went where nobody was");
}

#[test]
fn the_backend_that_answers_sooner_gets_most() {
    let lab = lab(2);
    let serve = |i: usize, millis| {
        let talk = server::http(Duration::from_millis(millis));
        Server::start(lab.backend(i), BACKEND_PORT, talk).unwrap()
    };
    let servers = [serve(0, 60), serve(1, 2)];
    let mut config = Config::new(&lab, Family::V4, 16);
    config.web().balance = "least-response-time";
    WINDOW.clone_into(&mut config.web().ceiling);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let crowd = Crowd::start(lab.client(0), 6, lab.service(Family::V4, SERVICE_PORT));
    eventually(PATIENCE, "many are served", || {
        daemon.status().requests("admitted") > 300
    });
    crowd.leave();
    let [slow, fast] = [0, 1].map(|i| servers[i].count().peers().len());
    // By turns both would have had as many.
    assert!(
        fast > 3 * slow,
        "{fast} at the fast one, {slow} at the slow one"
    );
    assert_settles(&daemon);
}

#[test]
fn a_client_stays_at_the_backend_that_its_address_hashes_to_while_that_has_room() {
    let topology = Topology {
        clients: 2,
        backends: 2,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let servers = on_all(&lab, || server::echo);
    let mut config = Config::new(&lab, Family::V4, 4);
    config.web().balance = "source-hash";
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = Vec::new();
    for node in lab.clients() {
        for _ in 0..2 {
            let mut stream = node.enter(|| client::connect(service)).unwrap();
            client::exchange(&mut stream, b"here").unwrap();
            held.push(stream);
        }
        let own = held.last().unwrap().local_addr().unwrap().ip();
        let at: Vec<_> = servers
            .iter()
            .map(|server| {
                server
                    .count()
                    .peers()
                    .iter()
                    .filter(|peer| peer.ip() == own)
                    .count()
            })
            .collect();
        assert!(at.contains(&2), "{own} is at {at:?}");
    }
    // More than its own back-end takes go to the other one rather than wait.
    for _ in 0..4 {
        held.push(lab.client(0).enter(|| client::connect(service)).unwrap());
    }
    assert_eq!(daemon.status().active(), 8);
    assert_eq!(daemon.status().queued(), 0);
}

#[test]
fn a_suggestion_comes_with_what_was_measured() {
    let lab = lab(1);
    let _server = on_all(&lab, || server::http(Duration::from_millis(20)));
    let daemon = Daemon::start(&lab, &moving(&lab, "queue-depth", "")).unwrap();
    let said = daemon.ask(&["suggest", "web/web-1"]).unwrap();
    assert!(said.contains("too little was measured yet"), "{said}");
    let crowd = Crowd::start(lab.client(0), 30, lab.service(Family::V4, SERVICE_PORT));
    eventually(2 * PATIENCE, "enough was measured", || {
        let said = daemon.ask(&["suggest", "web/web-1"]).unwrap();
        said.contains("requests/s")
    });
    crowd.leave();
}
