//! Serves HTTP/1.1 within bounds: connections at once, size and time of a request. One request a
//! connection, so that a connection's time is bounded too.
//!
//! Whoever asks nothing keeps nobody out: while others wait, it gives way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use axum::{BoxError, Json, Router};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::debug;

use super::ErrorBody;
use crate::admission::Time;
use crate::engine::clock;

/// Most connections of one listener that are served at once; more wait in the kernel's backlog.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Most bytes of a request's head; a longer one is answered 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header fields of a request; more are answered 431.
const HEADERS_MAX: usize = 64;
/// Most bytes of a request's body; a longer one is answered 413.
const BODY_BYTES_MAX: usize = 16 << 10;
/// How long a request's head may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take, the answer's way included.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a request may take to come while others wait.
const REQUEST_TURN: Duration = Duration::from_millis(100);
/// How long a connection may take while others wait.
const CONNECTION_TURN: Duration = Duration::from_secs(5);

/// Serves until it is dropped, and then cuts what is open.
pub(crate) async fn serve<L: Listener>(mut listener: L, router: Router) {
    let mut connections = Connections::default();
    loop {
        let (io, _) = listener.accept().await;
        connections.make_room().await;
        connections.open::<L>(io, router.clone());
    }
}

/// Those that are served.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    since: Time,
    /// All of its request has come.
    asked: Arc<AtomicBool>,
}

impl Connection {
    /// When its turn is over, if others wait.
    fn gives_way_at(&self) -> Time {
        self.since
            + if self.asked.load(Ordering::Relaxed) {
                CONNECTION_TURN
            } else {
                REQUEST_TURN
            }
    }
}

impl Connections {
    /// Returns when there is room for one more.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|one| !one.task.is_finished());
            if self.tasks.len() < CONNECTIONS_MAX {
                return;
            }
            let first = self.open.iter().min_by_key(|one| one.gives_way_at());
            let left = first.map_or(Duration::ZERO, |one| one.gives_way_at().since(clock::now()));
            if left > Duration::ZERO {
                // A request that comes meanwhile prolongs a turn, so it is looked at again.
                let _ = timeout(left, self.tasks.join_next()).await;
                continue;
            }
            if let Some(first) = first {
                debug!("a connection gave way to one that waited");
                first.task.abort();
            }
            self.tasks.join_next().await;
        }
    }

    fn open<L: Listener>(&mut self, io: L::Io, router: Router) {
        let asked = Arc::new(AtomicBool::new(false));
        self.open.push(Connection {
            task: self.tasks.spawn(talk::<L>(io, router, Arc::clone(&asked))),
            since: clock::now(),
            asked,
        });
    }
}

async fn talk<L: Listener>(io: L::Io, router: Router, asked: Arc<AtomicBool>) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| answer(request, router.clone(), &asked));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service);
    match timeout(CONNECTION_TIME_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection ended early: {error}"),
        Err(_) => debug!("a connection was cut after {CONNECTION_TIME_MAX:?}"),
    }
}

async fn answer(
    request: Request<Incoming>,
    router: TowerToHyperService<Router>,
    asked: &AtomicBool,
) -> Result<Response, BoxError> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Err(error) if error.is::<LengthLimitError>() => {
            let error = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            let told = Json(ErrorBody::from(error));
            return Ok((StatusCode::PAYLOAD_TOO_LARGE, told).into_response());
        }
        body => body?.to_bytes(),
    };
    asked.store(true, Ordering::Relaxed);
    let request = Request::from_parts(head, Full::new(body));
    router.call(request).await.map_err(Into::into)
}
