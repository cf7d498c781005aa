//! What the admin socket is sent: it answers with JSON or ends the connection, and serves the next.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use dispatcher_user::admin::{
    AdminServer, BackendAction, BackendDone, BackendOrder, CeilingDone, CeilingOrder, Control,
    FlowFilter, LIST_LIMIT_MAX, QueueFilter, ReloadDone,
};
use dispatcher_user::history::History;
use dispatcher_user::status::{
    AttachMode, BackendState, BackendStatus, ChecksStatus, FloodStatus, FlowRow, FlowState,
    FlowTableStatus, FrameStatus, QueueRow, QueueStatus, Rate, Requests, ServiceStatus, Status,
    SuggestedCeiling, TimesBySize, TimesMs, Totals,
};
use serde_json::Value;

/// Services, with the names of their back-ends; one name in both.
const SERVICES: [(&str, &[&str]); 2] = [("web", &["web-1", "web-2"]), ("db", &["db-1", "web-1"])];
const CEILING_INITIAL: u64 = 8;
const CEILING_MIN: u64 = 2;
const CEILING_MAX: u64 = 64;
/// Of each back-end, and that wait for each service.
const ROWS: u16 = 3;

/// A daemon that has services and does what it is told, as far as it can be asked for later.
#[derive(Clone)]
struct World {
    status: Arc<Mutex<Status>>,
    history: History,
    /// Orders that should not have come so far, in words.
    wrong: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let status = status();
        let history = History::default();
        history.take(Arc::new(status.clone()));
        Self {
            status: Arc::new(Mutex::new(status)),
            history,
            wrong: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("nobody panics with it")
    }

    /// Does it to the back-end, which the server has found to be there.
    fn order<T>(
        &self,
        service: &str,
        backend: &str,
        act: impl FnOnce(&mut BackendStatus) -> T,
    ) -> anyhow::Result<T> {
        let mut status = self.lock();
        let services = status.services.iter_mut();
        let mut backends = services
            .filter(|one| one.name == service)
            .flat_map(|one| &mut one.backends);
        let found = backends.find(|one| one.name == backend);
        if found.is_none() {
            self.complain(format!("{service}/{backend} is not there"));
        }
        found.map(act).ok_or_else(|| anyhow::anyhow!("not there"))
    }

    fn complain(&self, what: String) {
        self.wrong.lock().expect("nobody panics with it").push(what);
    }

    fn judge_names(&self, service: Option<&str>, backend: Option<&str>) {
        let there = SERVICES.iter().any(|(name, backends)| {
            service.is_none_or(|service| service == *name)
                && backend.is_none_or(|backend| backends.contains(&backend))
        });
        if !there {
            self.complain(format!("{service:?} and {backend:?} are listed"));
        }
    }

    fn judge_limit(&self, limit: usize) {
        // One more than is shown.
        if !(2..=LIST_LIMIT_MAX + 1).contains(&limit) {
            self.complain(format!("{limit} rows are listed"));
        }
    }
}

impl Control for World {
    async fn status(&self) -> anyhow::Result<Arc<Status>> {
        Ok(Arc::new(self.lock().clone()))
    }

    async fn flows(&self, filter: FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
        self.judge_names(filter.service.as_deref(), filter.backend.as_deref());
        self.judge_limit(filter.limit);
        let backends = SERVICES
            .iter()
            .flat_map(|(service, backends)| backends.iter().map(move |backend| (service, backend)));
        let wanted = backends.filter(|(service, backend)| {
            let is = |wanted: &Option<String>, name: &str| {
                wanted.as_ref().is_none_or(|wanted| wanted == name)
            };
            is(&filter.service, service) && is(&filter.backend, backend)
        });
        let rows =
            wanted.flat_map(|(service, backend)| (0..ROWS).map(|n| flow(service, backend, n)));
        let of_client = rows.filter(|row| filter.client.is_none_or(|ip| ip == row.client.ip()));
        Ok(of_client.take(filter.limit).collect())
    }

    async fn queue(&self, filter: QueueFilter) -> anyhow::Result<Vec<QueueRow>> {
        self.judge_names(filter.service.as_deref(), None);
        self.judge_limit(filter.limit);
        let services = SERVICES.iter().map(|(name, _)| *name);
        let wanted = services.filter(|name| filter.service.as_ref().is_none_or(|it| it == name));
        let rows = wanted.flat_map(|service| (0..ROWS).map(|n| queued(service, n)));
        Ok(rows.take(filter.limit).collect())
    }

    async fn set_ceiling(&self, order: CeilingOrder) -> anyhow::Result<CeilingDone> {
        let ceiling = order.ceiling.map_or(CEILING_INITIAL, u64::from);
        if !(CEILING_MIN..=CEILING_MAX).contains(&ceiling) {
            self.complain(format!("{order:?} came so far"));
        }
        let pinned = order.ceiling.is_some();
        self.order(&order.service, &order.backend, |backend| {
            (backend.ceiling, backend.pinned) = (ceiling, pinned);
        })?;
        Ok(CeilingDone {
            ceiling: ceiling as u32,
            pinned,
            service: order.service,
            backend: order.backend,
            policy: "gradient".to_owned(),
        })
    }

    fn history(&self) -> &History {
        &self.history
    }

    async fn set_backend(&self, order: BackendOrder) -> anyhow::Result<BackendDone> {
        let (state, connections) = self.order(&order.service, &order.backend, |backend| {
            backend.state = match order.action {
                BackendAction::Drain => BackendState::Draining,
                BackendAction::Resume => BackendState::Up,
                BackendAction::Disable => BackendState::Disabled,
            };
            (backend.state, backend.active)
        })?;
        Ok(BackendDone {
            state,
            connections,
            service: order.service,
            backend: order.backend,
        })
    }

    async fn reload(&self) -> anyhow::Result<ReloadDone> {
        // As if the file were as it was when the daemon started.
        *self.lock() = status();
        Ok(ReloadDone::default())
    }
}

fn status() -> Status {
    Status {
        version: "0".to_owned(),
        uptime_seconds: 0.0,
        attach_mode: AttachMode::Native,
        flows: FlowTableStatus {
            used: 12,
            capacity: 1024,
        },
        frames: FrameStatus::default(),
        checks: ChecksStatus::default(),
        dropped: BTreeMap::new(),
        handled: BTreeMap::new(),
        groups: Vec::new(),
        services: SERVICES
            .map(|(name, backends)| ServiceStatus {
                name: name.to_owned(),
                address: SocketAddr::from(([192, 0, 2, 10], 80)),
                queue: QueueStatus::default(),
                requests: Requests::default(),
                flood: FloodStatus::default(),
                backends: backends.iter().map(|name| backend(name)).collect(),
            })
            .into(),
        interfaces: Vec::new(),
    }
}

fn backend(name: &str) -> BackendStatus {
    BackendStatus {
        name: name.to_owned(),
        address: SocketAddr::from(([10, 0, 0, 11], 8080)),
        state: BackendState::Up,
        health: None,
        active: 3,
        half_open: 0,
        active_max: 3,
        ceiling: CEILING_INITIAL,
        ceiling_min: CEILING_MIN,
        ceiling_max: CEILING_MAX,
        capacity: CEILING_MAX,
        weight: 1,
        group: None,
        policy: "gradient".to_owned(),
        pinned: false,
        moved: None,
        moves: BTreeMap::new(),
        suggested: Some(SuggestedCeiling {
            ceiling: 9,
            why: "best there".to_owned(),
        }),
        response_ms: TimesMs::default(),
        connect_ms: TimesMs::default(),
        response_sizes: TimesBySize::default(),
        connect_sizes: TimesBySize::default(),
        rate: Rate::default(),
        total: Totals::default(),
    }
}

/// Of clients 192.0.2.1 and on.
fn client(n: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, 2, 1 + n as u8]), 40_000)
}

fn flow(service: &str, backend: &str, n: u16) -> FlowRow {
    FlowRow {
        service: service.to_owned(),
        backend: backend.to_owned(),
        client: client(n),
        state: FlowState::HalfOpen,
        packets_in: 1,
        packets_out: 1,
        bytes_in: 60,
        bytes_out: 60,
        age_seconds: 1.0,
        idle_seconds: 1.0,
    }
}

fn queued(service: &str, n: u16) -> QueueRow {
    QueueRow {
        service: service.to_owned(),
        client: client(n),
        position: 1 + u64::from(n),
        waited_ms: 10,
        retransmissions: 0,
    }
}

/// A server that runs until the process ends.
struct Server {
    socket: PathBuf,
    world: World,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let name = format!("dispatcher-hostile-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime starts");
        let server = runtime.block_on(async { AdminServer::bind(&socket) });
        let server = server.expect("the directory for temporary files is writable");
        let world = World::new();
        let control = world.clone();
        std::thread::spawn(move || runtime.block_on(server.serve(control)));
        Server { socket, world }
    })
}

/// Sends the bytes, and then a request that must be answered. Orders that cannot be carried out
/// come no further than the server.
pub fn serve(bytes: &[u8]) {
    let world = &server().world;
    *world.lock() = status();
    let answer = exchange(bytes, true);
    judge(&answer);
    let before = serde_json::to_value(&*world.lock()).expect("names are strings");
    let answer = exchange(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", false);
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "it serves no more");
    assert_eq!(judge(&answer), Some(before));
    let wrong = std::mem::take(&mut *world.wrong.lock().expect("nobody panics with it"));
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What an answer tells, if it is one with a body.
fn judge(answer: &[u8]) -> Option<Value> {
    let text = || String::from_utf8_lossy(answer);
    if answer.is_empty() {
        return None;
    }
    // HTTP/1.0 is answered as such.
    let is_answer = answer.starts_with(b"HTTP/1.") && answer.len() > 16;
    assert!(is_answer, "{:?}", text());
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("its head has no end: {:?}", text()));
    let (head, body) = answer.split_at(end + 4);
    let head = head.to_ascii_lowercase();
    let has = |field: &[u8]| head.windows(field.len()).any(|bytes| bytes == field);
    // HEAD is answered without a body; what is no HTTP, by hyper and without words.
    if body.is_empty() || has(b"transfer-encoding") {
        return None;
    }
    assert!(has(b"content-type: application/json"), "{:?}", text());
    let told = serde_json::from_slice(body);
    Some(told.unwrap_or_else(|error| panic!("{error}: {:?}", text())))
}

/// What is answered, if anything: a server need not answer who has closed, which is `closes`.
fn exchange(bytes: &[u8], closes: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(&server().socket).expect("it accepts");
    let time = Some(Duration::from_secs(20));
    stream.set_read_timeout(time).expect("not zero");
    stream.set_write_timeout(time).expect("not zero");
    // It may have heard enough before the end, and have closed.
    let _ = stream.write_all(bytes);
    if closes {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it neither answers nor closes: {error}"),
    }
    answer
}
