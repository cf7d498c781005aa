//! The client of the admin socket: one request, one answer, both bounded.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Request, StatusCode, header, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{
    BackendDone, BackendOrder, CeilingDone, CeilingOrder, ErrorBody, FlowQuery, QueueQuery,
    ReloadDone, Suggestion, SuggestionQuery,
};
use crate::history::{HistoryList, HistoryQuery};

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// Time between two tries while too many others wait.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);
/// Most bytes of an answer: [`LIST_LIMIT_MAX`](super::LIST_LIMIT_MAX) rows of the longest names.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens, or the socket may not be used.
    #[error("no daemon answers at {}: {}; {}", .socket.display(), plain(.cause), hint(.cause))]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Connected, but no proper answer came.
    #[error("the daemon at {} did not answer properly: {reason}", .socket.display())]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The daemon said no.
    #[error("{reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the daemon said.
        reason: String,
    },
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "use it as root or as a member of its group"
    } else {
        "start one with `dispatcher run`, or name its socket with --socket"
    }
}

/// An answer: what the daemon sent, and what it means.
#[derive(Debug)]
pub struct Answer<T> {
    /// The body as it came, for `--json`.
    pub json: String,
    /// The body read.
    pub value: T,
}

/// Talks to the daemon at a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Most bytes of an answer.
    most: usize,
}

impl Client {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
            most: ANSWER_BYTES_MAX,
        }
    }

    /// The same for answers of no more bytes than these.
    #[cfg(test)]
    pub(super) fn reading(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// `GET /v1/status`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self) -> Result<Answer<crate::status::Status>, ClientError> {
        self.get("/v1/status", &()).await
    }

    /// `GET /v1/flows`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn flows(
        &self,
        query: &FlowQuery,
    ) -> Result<Answer<crate::status::FlowList>, ClientError> {
        self.get("/v1/flows", query).await
    }

    /// `GET /v1/queue`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn queue(
        &self,
        query: &QueueQuery,
    ) -> Result<Answer<crate::status::QueueList>, ClientError> {
        self.get("/v1/queue", query).await
    }

    /// `GET /v1/suggestion`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn suggestion(
        &self,
        service: &str,
        backend: &str,
    ) -> Result<Answer<Suggestion>, ClientError> {
        let query = SuggestionQuery {
            service: service.to_owned(),
            backend: backend.to_owned(),
        };
        self.get("/v1/suggestion", &query).await
    }

    /// `POST /v1/ceiling`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_ceiling(
        &self,
        order: &CeilingOrder,
    ) -> Result<Answer<CeilingDone>, ClientError> {
        self.post("/v1/ceiling", order).await
    }

    /// `POST /v1/backend`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_backend(
        &self,
        order: &BackendOrder,
    ) -> Result<Answer<BackendDone>, ClientError> {
        self.post("/v1/backend", order).await
    }

    /// `POST /v1/reload`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn reload(&self) -> Result<Answer<ReloadDone>, ClientError> {
        self.ask(Request::post("/v1/reload"), Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        let body = serde_json::to_vec(order).map_err(|error| self.no_answer(&error))?;
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.ask(request, body.into()).await
    }

    /// `GET /v1/history`
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn history(&self, since: u64) -> Result<Answer<HistoryList>, ClientError> {
        let since = Some(since);
        self.get("/v1/history", &HistoryQuery { since }).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.no_answer(&error))?;
        let uri = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        self.ask(Request::get(uri), Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Answer<T>, ClientError> {
        let (status, body) = timeout(ANSWER_TIME_MAX, self.exchange(request, body))
            .await
            .map_err(|_| self.no_answer(&format!("nothing within {ANSWER_TIME_MAX:?}")))??;
        if status != StatusCode::OK {
            let said = serde_json::from_slice::<ErrorBody>(&body);
            return Err(ClientError::Refused {
                status: status.as_u16(),
                reason: said.map_or_else(|_| status.to_string(), |body| body.error),
            });
        }
        let value = serde_json::from_slice(&body).map_err(|error| self.no_answer(&error))?;
        let json = String::from_utf8(body.into()).map_err(|error| self.no_answer(&error))?;
        Ok(Answer { json, value })
    }

    async fn exchange(
        &self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self
            .connect()
            .await
            .map_err(|cause| ClientError::NoDaemon {
                socket: self.socket.clone(),
                cause,
            })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.no_answer(&error))?;
        // What goes wrong with the connection is told where the answer is awaited.
        let driver = tokio::spawn(connection);
        let request = request
            .header(header::HOST, "dispatcher")
            .body(Full::new(body))
            .map_err(|error| self.no_answer(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), self.most)
            .collect()
            .await
            .map_err(|error| self.no_answer(&error))?;
        driver.abort();
        Ok((status, body.to_bytes()))
    }

    /// While the daemon's backlog is full, it is tried again.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(BACKLOG_PAUSE).await;
                }
                connected => return connected,
            }
        }
    }

    fn no_answer(&self, reason: &dyn ToString) -> ClientError {
        ClientError::NoAnswer {
            socket: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}
