//! Serves HTTP/1.1 within bounds: connections at once, size and time of a request. One request a
//! connection, so that a connection's time is bounded too.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

/// Most connections of one listener at once; more wait in the kernel's backlog.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Most bytes of a request's head; a longer one is answered 431.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header fields of a request; more are answered 431.
const HEADERS_MAX: usize = 64;
/// How long a request's head may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take, the answer's way included.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// Serves until it is dropped, and then cuts what is open.
pub(crate) async fn serve<L: Listener>(mut listener: L, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (io, _) = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        connections.spawn(async move {
            connection::<L>(io, router).await;
            drop(place);
        });
    }
}

async fn connection<L: Listener>(io: L::Io, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIME_MAX, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection ended early: {error}"),
        Err(_) => debug!("a connection was cut after {CONNECTION_TIME_MAX:?}"),
    }
}
