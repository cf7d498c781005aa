//! The status page: one document without anything from outside, and the stream of events that it
//! draws. It only reads.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep};

use crate::history::{History, HistoryList, Ring};
use crate::status::{BackendState, BackendStatus, ServiceStatus, Status};

/// Most pages that are kept up to date at once; the others try again. There is room for scrapes
/// beside them.
const STREAMS_MAX: usize = 16;
/// How long a stream lasts: a little less than any connection to the listener. The browser then
/// opens the next one by itself.
const STREAM_TIME: Duration = Duration::from_secs(50);
/// When it does.
const RETRY: Duration = Duration::from_millis(500);
/// Most services that are shown at once: those with the greatest trouble.
const SERVICES_SHOWN_MAX: usize = 24;
/// Most back-ends that are shown at once, shared equally among the services shown: the same.
const BACKENDS_SHOWN_MAX: usize = 96;

/// The document.
const PAGE: &str = include_str!("page/page.html");

/// Nothing runs, looks or is fetched but what stands in the document.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(element("style")),
        hash(element("script")),
    )
});

/// What stands in the only element of this name.
fn element(name: &str) -> &'static str {
    let (_, from) = PAGE.split_once(&format!("<{name}>")).unwrap_or_default();
    let (text, _) = from.split_once(&format!("</{name}>")).unwrap_or_default();
    text
}

/// As a content security policy names it.
fn hash(text: &str) -> String {
    let digest = BASE64_STANDARD.encode(Sha256::digest(text));
    format!("'sha256-{digest}'")
}

/// `GET /` and `GET /events`, for any state.
pub fn router<S: Clone + Send + Sync + 'static>(history: History) -> Router<S> {
    let pages = Pages {
        history,
        places: Arc::new(Semaphore::new(STREAMS_MAX)),
    };
    Router::new()
        .route("/", get(document))
        .route("/events", get(events))
        .with_state(pages)
}

#[derive(Clone)]
struct Pages {
    history: History,
    places: Arc<Semaphore>,
}

const STRICT: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

async fn document() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
    ];
    (STRICT, headers, PAGE).into_response()
}

/// The parameters of `GET /events`.
#[derive(Default, Deserialize)]
struct Wanted {
    /// Part of the name of a service, or of the name or address of a back-end.
    #[serde(default)]
    filter: String,
}

async fn events(State(pages): State<Pages>, Query(wanted): Query<Wanted>) -> Response {
    let Ok(place) = pages.places.try_acquire_owned() else {
        let told = format!("{STREAMS_MAX} pages are open already\n");
        return (StatusCode::SERVICE_UNAVAILABLE, STRICT, told).into_response();
    };
    let mut news = pages.history.follow();
    // What is known already is told at once.
    news.mark_changed();
    let following = Following {
        news,
        view: View::new(&wanted.filter),
        end: Box::pin(sleep(STREAM_TIME)),
        _place: place,
    };
    let events = stream::unfold(following, |mut following| async {
        let event = following.next().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    (STRICT, Sse::new(events)).into_response()
}

/// One open page.
struct Following {
    news: watch::Receiver<Ring>,
    view: View,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Following {
    /// The next event; `None` when it is time for another stream, or the daemon stops. A page that
    /// is slow gets the newest, and all samples in it.
    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                () = &mut self.end => return None,
                changed = self.news.changed() => changed.ok()?,
            }
            let news = {
                let ring = self.news.borrow_and_update();
                self.view.news(&ring)
            };
            if let Some(news) = news {
                return Event::default().retry(RETRY).json_data(&news).ok();
            }
        }
    }
}

/// What one page shows, and what of it was told already.
struct View {
    filter: String,
    /// Number of the newest sample that was told of each service and, by both names, back-end.
    told: HashMap<(String, Option<String>), u64>,
}

/// One event, in the words of the admin socket. A page forgets what an event does not name.
#[derive(Serialize)]
struct News {
    /// The first of a stream: the page forgets what it knows.
    whole: bool,
    /// What is shown; everything else was left out.
    status: Status,
    /// Samples that were not told yet.
    history: HistoryList,
    /// Of each service in `status`, with the back-ends that are not shown.
    all: Vec<Sum>,
    /// Services that the filter lets through.
    matching: usize,
}

/// All back-ends of a service together.
#[derive(Serialize, PartialEq, Eq, Debug)]
struct Sum {
    /// How many.
    backends: usize,
    /// Those in state `up`.
    up: usize,
    /// Connections, half-open ones included.
    held: u64,
    /// Their ceilings together.
    ceiling: u64,
}

impl View {
    fn new(filter: &str) -> Self {
        Self {
            filter: filter.to_lowercase(),
            told: HashMap::new(),
        }
    }

    fn news(&mut self, ring: &Ring) -> Option<News> {
        let latest = ring.latest()?;
        let (services, matching) = chosen(latest, &self.filter);
        let all = services.iter().map(|(service, _)| Sum::of(service));
        let all = all.collect();
        let services = services.into_iter().map(|(service, backends)| {
            let backends = backends.into_iter().cloned().collect();
            ServiceStatus {
                backends,
                ..without_backends(service)
            }
        });
        let status = Status {
            version: latest.version.clone(),
            dropped: latest.dropped.clone(),
            handled: latest.handled.clone(),
            interfaces: latest.interfaces.clone(),
            groups: latest.groups.clone(),
            services: services.collect(),
            ..**latest
        };
        let before = std::mem::take(&mut self.told);
        for service in &status.services {
            let names = service.backends.iter().map(|one| Some(one.name.clone()));
            for name in names.chain([None]) {
                self.told.insert((service.name.clone(), name), ring.last());
            }
        }
        let history = ring.list(|service, backend| {
            let key = (service.to_owned(), backend.map(str::to_owned));
            self.told.get(&key)?;
            Some(before.get(&key).copied().unwrap_or(0))
        });
        Some(News {
            whole: before.is_empty(),
            status,
            history,
            all,
            matching,
        })
    }
}

fn without_backends(service: &ServiceStatus) -> ServiceStatus {
    ServiceStatus {
        name: service.name.clone(),
        address: service.address,
        queue: service.queue.clone(),
        requests: service.requests,
        flood: service.flood,
        backends: Vec::new(),
    }
}

impl Sum {
    fn of(service: &ServiceStatus) -> Self {
        let backends = || service.backends.iter();
        Self {
            backends: service.backends.len(),
            up: backends()
                .filter(|one| one.state == BackendState::Up)
                .count(),
            held: backends().map(held).sum(),
            ceiling: backends().map(|one| one.ceiling).sum(),
        }
    }
}

fn held(backend: &BackendStatus) -> u64 {
    backend.active + backend.half_open
}

/// A service and those of its back-ends that are shown.
type Shown<'a> = (&'a ServiceStatus, Vec<&'a BackendStatus>);

/// What is shown, in the order of the configuration, and how many services the filter lets
/// through. A filter that names a service lets all of its back-ends through.
fn chosen<'a>(status: &'a Status, filter: &str) -> (Vec<Shown<'a>>, usize) {
    let says = |text: &str| text.to_lowercase().contains(filter);
    let mut services: Vec<Shown<'a>> = Vec::new();
    for service in &status.services {
        let whole = says(&service.name);
        let backends = service.backends.iter();
        let backends = backends
            .filter(|one| whole || says(&one.name) || says(&one.address.to_string()))
            .collect::<Vec<_>>();
        if whole || !backends.is_empty() {
            services.push((service, backends));
        }
    }
    let matching = services.len();
    worst(&mut services, SERVICES_SHOWN_MAX, |(service, _)| {
        service_trouble(service)
    });
    let share = BACKENDS_SHOWN_MAX / services.len().max(1);
    for (_, backends) in &mut services {
        worst(backends, share, |backend| backend_trouble(backend));
    }
    (services, matching)
}

/// Leaves `most` of them, those with the greatest trouble; the order stays.
fn worst<T, K: Ord>(all: &mut Vec<T>, most: usize, trouble: impl Fn(&T) -> K) {
    if all.len() <= most {
        return;
    }
    let mut ranked: Vec<_> = (0..all.len()).collect();
    ranked.sort_by_key(|at| Reverse(trouble(&all[*at])));
    let mut stays = vec![false; all.len()];
    for at in &ranked[..most] {
        stays[*at] = true;
    }
    let mut stays = stays.into_iter();
    all.retain(|_| stays.next().unwrap_or(false));
}

/// Coarse, so that what is shown does not change with every connection: eighths of the ceiling.
fn backend_trouble(backend: &BackendStatus) -> (bool, u64) {
    let down = backend.state == BackendState::Down;
    (down, held(backend) * 8 / backend.ceiling.max(1))
}

fn service_trouble(service: &ServiceStatus) -> (bool, u64, bool, u64) {
    let sum = Sum::of(service);
    (
        service.flood.on,
        service.queue.depth * 8 / service.queue.capacity.max(1),
        sum.up < sum.backends,
        sum.held * 8 / sum.ceiling.max(1),
    )
}
