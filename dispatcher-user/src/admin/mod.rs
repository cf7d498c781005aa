//! The admin socket: HTTP/1.1 with JSON on a Unix socket, and the client that the commands use.
//! What it tells comes from a [`Control`]; nothing is known here of how the daemon works.

mod client;
mod http;
mod server;
mod socket;
mod tables;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Problem};
use crate::history::History;
use crate::status::{BackendState, FlowRow, QueueRow, Status, SuggestedCeiling};

pub use client::{Client, ClientError};
pub use server::AdminServer;
pub use socket::{SocketState, socket_state};
pub use tables::{flow_table, queue_table, status_tables};

pub(crate) use http::serve;

/// Most rows of a listing unless the request says otherwise.
pub const LIST_LIMIT_DEFAULT: usize = 100_000;
/// Most rows of a listing, however much is asked for.
pub const LIST_LIMIT_MAX: usize = 1_000_000;

/// The running daemon, as the admin socket and the metrics see it.
pub trait Control: Clone + Send + Sync + 'static {
    /// The whole picture, now.
    fn status(&self) -> impl Future<Output = anyhow::Result<Arc<Status>>> + Send;

    /// Flows that the filter lets through, `filter.limit` at most.
    fn flows(
        &self,
        filter: FlowFilter,
    ) -> impl Future<Output = anyhow::Result<Vec<FlowRow>>> + Send;

    /// Waiting requests that the filter lets through, oldest first, `filter.limit` at most.
    fn queue(
        &self,
        filter: QueueFilter,
    ) -> impl Future<Output = anyhow::Result<Vec<QueueRow>>> + Send;

    /// Pins a ceiling, or gives it back to its policy; the names and the number were found right.
    fn set_ceiling(
        &self,
        order: CeilingOrder,
    ) -> impl Future<Output = anyhow::Result<CeilingDone>> + Send;

    /// The last minutes.
    fn history(&self) -> &History;

    /// Drains, resumes or disables a back-end; the names were found right.
    fn set_backend(
        &self,
        order: BackendOrder,
    ) -> impl Future<Output = anyhow::Result<BackendDone>> + Send;

    /// Reads the configuration again. An error that is a [`ConfigError`] says that it is wrong; any
    /// other, that it cannot be done while the daemon runs. Nothing has changed then.
    fn reload(&self) -> impl Future<Output = anyhow::Result<ReloadDone>> + Send;
}

/// The answer to `POST /v1/reload`: what has changed, a line each.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadDone {
    /// What is other than before.
    pub changes: Vec<String>,
    /// What is other in the file and makes no difference to what runs.
    pub notes: Vec<String>,
}

/// The body of `POST /v1/backend`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendOrder {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// What to do with it.
    pub action: BackendAction,
}

/// What an operator may do with a back-end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendAction {
    /// Admit no more; connections that it has go on.
    Drain,
    /// Undo that.
    Resume,
    /// Admit no more, and reset the connections that it has.
    Disable,
}

impl BackendAction {
    /// As JSON has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Disable => "disable",
        }
    }
}

/// The answer to it: how the back-end stands now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendDone {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// What operator and agent say of it together.
    pub state: BackendState,
    /// Connections that it had when the order came, half-open ones included.
    pub connections: u64,
}

/// The body of `POST /v1/ceiling`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CeilingOrder {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// Connections; `null` for what the policy says.
    pub ceiling: Option<u32>,
}

/// The answer to it: the ceiling in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CeilingDone {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// Connections.
    pub ceiling: u32,
    /// Whether it stays there.
    pub pinned: bool,
    /// Label of the policy.
    pub policy: String,
}

/// The parameters of `GET /v1/suggestion`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuggestionQuery {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
}

/// The answer to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suggestion {
    /// Name of the service.
    pub service: String,
    /// Name of the back-end.
    pub backend: String,
    /// Ceiling in force.
    pub ceiling: u64,
    /// What the measurements point to; `null` while they tell too little.
    pub suggested: Option<SuggestedCeiling>,
}

/// Which flows to list; nothing given, all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowFilter {
    /// Only of this service.
    pub service: Option<String>,
    /// Only at back-ends of this name.
    pub backend: Option<String>,
    /// Only of this client.
    pub client: Option<IpAddr>,
    /// Most rows.
    pub limit: usize,
}

/// Which waiting requests to list; nothing given, all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueFilter {
    /// Only of this service.
    pub service: Option<String>,
    /// Most rows.
    pub limit: usize,
}

/// The parameters of `GET /v1/flows`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Only of this service.
    pub service: Option<String>,
    /// Only at back-ends of this name.
    pub backend: Option<String>,
    /// Only of this client.
    pub client: Option<IpAddr>,
    /// Most rows; default [`LIST_LIMIT_DEFAULT`].
    pub limit: Option<usize>,
}

/// The parameters of `GET /v1/queue`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueQuery {
    /// Only of this service.
    pub service: Option<String>,
    /// Most rows; default [`LIST_LIMIT_DEFAULT`].
    pub limit: Option<usize>,
}

/// The body of every answer that is no success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, for people.
    pub error: String,
    /// What is wrong in the configuration that was to be reloaded, by line and column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl From<String> for ErrorBody {
    fn from(error: String) -> Self {
        Self {
            error,
            problems: Vec::new(),
        }
    }
}

impl From<&ConfigError> for ErrorBody {
    fn from(error: &ConfigError) -> Self {
        Self {
            error: error.to_string(),
            problems: match error {
                ConfigError::Unreadable { .. } => Vec::new(),
                ConfigError::Wrong { problems, .. } => problems.clone(),
            },
        }
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}
