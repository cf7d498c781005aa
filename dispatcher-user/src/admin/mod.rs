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

use crate::history::History;
use crate::status::{FlowRow, QueueRow, Status, SuggestedCeiling};

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
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}
