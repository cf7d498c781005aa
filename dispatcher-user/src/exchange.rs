//! What agents and health checks have in common: an HTTP/1.1 `GET` over a connection that is
//! there, within bounds, and a question to each of many back-ends that is asked again and again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::error::Error;
use std::future::pending;
use std::io;

use axum::http::{self, Request, Response, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use crate::admission::BackendId;

/// Most bytes of the body of an HTTP answer that are read.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Most bytes of an HTTP answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header fields of an HTTP answer.
const HEADERS_MAX: usize = 64;
/// Most characters that are repeated to people of what others said.
const SHOWN_CHARS_MAX: usize = 200;

/// Asks for the path, and has the answer read; the connection lives until that is done.
pub(crate) async fn get<S, T, E, F>(
    stream: S,
    host: &str,
    path: &str,
    read: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<hyper::Error> + From<http::Error>,
    F: Future<Output = Result<T, E>>,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async { read(sender.send_request(request).await?).await };
    // What goes wrong with the connection is told where the answer is awaited.
    let driver = async {
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        done = exchange => done,
        done = driver => done,
    }
}

/// What the system said of a connection, if that is what went wrong.
pub(crate) fn cause(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// As much of a text of others as is repeated to people, and nothing that moves a terminal.
pub(crate) fn shortened(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(SHOWN_CHARS_MAX).map(shown).collect()
}

/// The back-ends that are asked, each by a task of its own, for as long as this is not dropped.
pub(crate) struct Asked<T>(HashMap<BackendId, (T, JoinHandle<()>)>);

impl<T: Eq> Asked<T> {
    /// Nobody is asked yet.
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Has these asked from now on. Those that are asked in the same way already keep their turn;
    /// for the others a task is started, by the target, its place and how many there are. Returns
    /// whose task has ended.
    pub(crate) async fn set(
        &mut self,
        targets: Vec<(BackendId, T)>,
        mut start: impl FnMut(&T, u32, u32) -> JoinHandle<()>,
    ) -> Vec<BackendId> {
        let wanted: HashMap<_, _> = targets.iter().map(|(id, one)| (*id, one)).collect();
        let gone = self
            .0
            .extract_if(|id, (target, _)| wanted.get(id) != Some(&&*target));
        let mut dropped = Vec::new();
        for (backend, (_, task)) in gone.collect::<Vec<_>>() {
            task.abort();
            // That it was cancelled is no news.
            let _ = task.await;
            dropped.push(backend);
        }
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        for (place, (backend, target)) in (0..count).zip(targets) {
            if let Entry::Vacant(entry) = self.0.entry(backend) {
                let task = start(&target, place, count);
                entry.insert((target, task));
            }
        }
        dropped
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
    }
}
