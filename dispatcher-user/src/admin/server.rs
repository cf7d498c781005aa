//! The endpoints of the admin socket. Every answer is JSON, errors too.

use std::path::Path;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::socket::{SocketFile, listen_at};
use super::{
    BackendDone, BackendOrder, CeilingDone, CeilingOrder, Control, ErrorBody, FlowFilter,
    FlowQuery, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, QueueFilter, QueueQuery, Suggestion,
    SuggestionQuery, serve,
};
use crate::config::ConfigError;
use crate::history::{HistoryList, HistoryQuery};
use crate::status::{BackendStatus, FlowList, QueueList, Status};

/// The admin socket, bound.
#[derive(Debug)]
pub struct AdminServer {
    listener: UnixListener,
    _file: SocketFile,
}

impl AdminServer {
    /// Binds to `socket` with mode 0660; a stale file is replaced.
    ///
    /// # Errors
    /// A daemon answers there already, the file is no socket, or the system refuses.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(socket: &Path) -> anyhow::Result<Self> {
        let (listener, file) = listen_at(socket)?;
        Ok(Self {
            listener,
            _file: file,
        })
    }

    /// Serves until it is dropped; then the socket's file is removed.
    pub async fn serve<C: Control>(self, control: C) {
        serve(self.listener, router(control)).await;
    }
}

fn router<C: Control>(control: C) -> Router {
    Router::new()
        .route("/v1/status", get(status::<C>))
        .route("/v1/flows", get(flows::<C>))
        .route("/v1/queue", get(queue::<C>))
        .route("/v1/suggestion", get(suggestion::<C>))
        .route("/v1/ceiling", post(ceiling::<C>))
        .route("/v1/history", get(history::<C>))
        .route("/v1/backend", post(backend::<C>))
        .route("/v1/reload", post(reload::<C>))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .with_state(control)
}

struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody::from(self.1))).into_response()
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

async fn not_found() -> Failure {
    let error = "nothing here; there are /v1/status, /v1/flows, /v1/queue, /v1/suggestion, \
                 /v1/ceiling, /v1/history, /v1/backend and /v1/reload";
    Failure(StatusCode::NOT_FOUND, error.to_owned())
}

async fn not_allowed() -> Failure {
    let error = "use GET; POST for /v1/ceiling, /v1/backend and /v1/reload";
    Failure(StatusCode::METHOD_NOT_ALLOWED, error.to_owned())
}

async fn status<C: Control>(State(control): State<C>) -> Result<Response, Failure> {
    Ok(Json(&*control.status().await?).into_response())
}

async fn flows<C: Control>(
    State(control): State<C>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<FlowList>, Failure> {
    let Query(query) = query?;
    let limit = limit(query.limit)?;
    let status = control.status().await?;
    known_service(&status, query.service.as_deref())?;
    known_backend(&status, query.service.as_deref(), query.backend.as_deref())?;
    let filter = FlowFilter {
        service: query.service,
        backend: query.backend,
        client: query.client,
        limit: limit + 1,
    };
    let mut flows = control.flows(filter).await?;
    let truncated = cut(&mut flows, limit);
    Ok(Json(FlowList { flows, truncated }))
}

async fn queue<C: Control>(
    State(control): State<C>,
    query: Result<Query<QueueQuery>, QueryRejection>,
) -> Result<Json<QueueList>, Failure> {
    let Query(query) = query?;
    let limit = limit(query.limit)?;
    known_service(&*control.status().await?, query.service.as_deref())?;
    let filter = QueueFilter {
        service: query.service,
        limit: limit + 1,
    };
    let mut queue = control.queue(filter).await?;
    let truncated = cut(&mut queue, limit);
    Ok(Json(QueueList { queue, truncated }))
}

async fn suggestion<C: Control>(
    State(control): State<C>,
    query: Result<Query<SuggestionQuery>, QueryRejection>,
) -> Result<Json<Suggestion>, Failure> {
    let Query(SuggestionQuery { service, backend }) = query?;
    let status = control.status().await?;
    let found = the_backend(&status, &service, &backend)?;
    Ok(Json(Suggestion {
        ceiling: found.ceiling,
        suggested: found.suggested.clone(),
        service,
        backend,
    }))
}

async fn ceiling<C: Control>(
    State(control): State<C>,
    order: Result<Json<CeilingOrder>, JsonRejection>,
) -> Result<Json<CeilingDone>, Failure> {
    let Json(order) = order?;
    let status = control.status().await?;
    let backend = the_backend(&status, &order.service, &order.backend)?;
    let (min, max) = (backend.ceiling_min, backend.ceiling_max);
    if let Some(ceiling) = order.ceiling
        && !(min..=max).contains(&u64::from(ceiling))
    {
        let error = format!(
            "ceiling is {ceiling}; that of {}/{} must be {min} to {max}",
            order.service, order.backend
        );
        return Err(Failure(StatusCode::BAD_REQUEST, error));
    }
    Ok(Json(control.set_ceiling(order).await?))
}

async fn history<C: Control>(
    State(control): State<C>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<HistoryList>, Failure> {
    let Query(query) = query?;
    Ok(Json(control.history().list(query.since.unwrap_or(0))))
}

async fn backend<C: Control>(
    State(control): State<C>,
    order: Result<Json<BackendOrder>, JsonRejection>,
) -> Result<Json<BackendDone>, Failure> {
    let Json(order) = order?;
    the_backend(&*control.status().await?, &order.service, &order.backend)?;
    Ok(Json(control.set_backend(order).await?))
}

async fn reload<C: Control>(State(control): State<C>) -> Response {
    match control.reload().await {
        Ok(done) => Json(done).into_response(),
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(wrong) => {
                let body = Json(ErrorBody::from(wrong));
                (StatusCode::UNPROCESSABLE_ENTITY, body).into_response()
            }
            None => Failure(StatusCode::CONFLICT, format!("{error:#}")).into_response(),
        },
    }
}

fn the_backend<'a>(
    status: &'a Status,
    service: &str,
    backend: &str,
) -> Result<&'a BackendStatus, Failure> {
    known_service(status, Some(service))?;
    known_backend(status, Some(service), Some(backend))?;
    status
        .backend(service, backend)
        .ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("no {service}/{backend}")))
}

/// One row more than shown is asked for, which tells whether there are more.
fn cut<T>(rows: &mut Vec<T>, limit: usize) -> bool {
    let truncated = rows.len() > limit;
    rows.truncate(limit);
    truncated
}

fn limit(asked: Option<usize>) -> Result<usize, Failure> {
    let limit = asked.unwrap_or(LIST_LIMIT_DEFAULT);
    if (1..=LIST_LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    let error = format!("limit is {limit}; it must be 1 to {LIST_LIMIT_MAX}");
    Err(Failure(StatusCode::BAD_REQUEST, error))
}

fn known_service(status: &Status, name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    known(
        "service",
        name,
        status.services.iter().map(|s| s.name.as_str()),
    )
}

fn known_backend(
    status: &Status,
    service: Option<&str>,
    name: Option<&str>,
) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    let services = status.services.iter();
    let backends = services
        .filter(|s| service.is_none_or(|service| s.name == service))
        .flat_map(|s| &s.backends);
    known("back-end", name, backends.map(|b| b.name.as_str()))
}

/// A name that exists; the message lists so many of those that do.
const NAMES_SHOWN_MAX: usize = 8;

fn known<'a>(
    kind: &str,
    name: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Failure> {
    if names.clone().any(|known| known == name) {
        return Ok(());
    }
    let shown: Vec<_> = names.clone().take(NAMES_SHOWN_MAX).collect();
    let more = if names.count() > shown.len() {
        ", ..."
    } else {
        ""
    };
    let error = format!("no {kind} {name:?}; there are {}{more}", shown.join(", "));
    Err(Failure(StatusCode::NOT_FOUND, error))
}
