//! Asks the agents of back-ends what those can take, over TCP or HTTP. What an answer means for a
//! ceiling is decided elsewhere.

mod http;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::admission::BackendId;
use crate::ceiling::AgentReport;
use crate::config::{self, AgentKind};
use crate::exchange::{Asked, shortened};

pub use crate::exchange::BODY_BYTES_MAX;

/// An agent to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentTarget {
    /// Whose it is.
    pub backend: BackendId,
    /// The same for people: `web/web-1`.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is asked.
    pub agent: config::Agent,
}

impl AgentTarget {
    /// The agent of a back-end of this service, if the service's policy asks agents.
    #[must_use]
    pub fn new(
        id: BackendId,
        service: &config::Service,
        backend: &config::Backend,
    ) -> Option<Self> {
        let agent = service.agent.clone()?;
        let mut address = backend.address;
        if let Some(port) = agent.port {
            address.set_port(port.get());
        }
        Some(Self {
            backend: id,
            name: format!("{}/{}", service.name, backend.name).into(),
            address,
            agent,
        })
    }
}

/// What came of asking once.
pub type Answer = (BackendId, Result<AgentReport, AgentError>);

/// Why an agent gave no report, for people: whose, where and why.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("agent of {name} at {address}: {fault}")]
pub struct AgentError {
    /// Service and back-end.
    pub name: Arc<str>,
    /// Where it was asked.
    pub address: SocketAddr,
    /// What went wrong.
    pub fault: Fault,
}

/// What went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// Not all of the answer came in time.
    #[error("no answer within {}", format_duration(*.0))]
    Late(Duration),
    /// What the system said of the connection.
    #[error("{0}")]
    Connection(String),
    /// It closed the connection first.
    #[error("it closed the connection before it had answered")]
    Closed,
    /// It sent more than is read.
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
    /// It answered over HTTP, but not 200.
    #[error("HTTP status {0}; it must be 200")]
    Status(u16),
    /// It answered over HTTP with what is not read.
    #[error("content type {0:?}; it must be application/json or text/plain")]
    ContentType(String),
    /// It answered, but that is no report.
    #[error("its answer does not read: {0}")]
    Unreadable(String),
}

impl Fault {
    /// Says why an answer does not read, in as many words as are good to read.
    fn unreadable(why: &dyn ToString) -> Self {
        Self::Unreadable(shortened(&why.to_string()))
    }
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Connection(error.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

/// Asks each agent once an interval, and sends what came of it, for as long as it is not dropped.
///
/// A receiver that is slow delays the questions; none is caught up on.
pub struct Agents {
    answers: mpsc::Sender<Answer>,
    asked: Asked<AgentTarget>,
}

impl Agents {
    /// Nobody is asked yet.
    #[must_use]
    pub fn new(answers: mpsc::Sender<Answer>) -> Self {
        Self {
            answers,
            asked: Asked::new(),
        }
    }

    /// Has these asked from now on. Those that are asked in the same way already keep their turn.
    /// Returns whose agents are asked no more, or in another way: no answer of these comes any
    /// more, but for those that came already.
    pub async fn set(&mut self, targets: Vec<AgentTarget>) -> Vec<BackendId> {
        let targets = targets.into_iter().map(|one| (one.backend, one)).collect();
        let start = |target: &AgentTarget, place, count| {
            // So that they are not all asked at the same moment.
            let phase = target.agent.interval / count * place;
            tokio::spawn(keep_asking(target.clone(), phase, self.answers.clone()))
        };
        self.asked.set(targets, start).await
    }
}

async fn keep_asking(target: AgentTarget, phase: Duration, answers: mpsc::Sender<Answer>) {
    sleep(phase).await;
    let mut ticks = interval(target.agent.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let answer = ask(&target).await;
        if answers.send((target.backend, answer)).await.is_err() {
            return;
        }
    }
}

/// Asks once.
async fn ask(target: &AgentTarget) -> Result<AgentReport, AgentError> {
    let within = target.agent.timeout;
    let answer = timeout(within, exchange(target)).await;
    answer
        .unwrap_or(Err(Fault::Late(within)))
        .map_err(|fault| AgentError {
            name: Arc::clone(&target.name),
            address: target.address,
            fault,
        })
}

async fn exchange(target: &AgentTarget) -> Result<AgentReport, Fault> {
    let stream = TcpStream::connect(target.address).await?;
    ask_over(stream, target.address, &target.agent.kind).await
}

/// Asks once, over a stream to the agent at `host`, and reads the answer. It takes as long as the
/// agent takes: see to a timeout.
///
/// # Errors
/// The stream's, or why the answer is no report.
pub async fn ask_over<S>(
    stream: S,
    host: SocketAddr,
    kind: &AgentKind,
) -> Result<AgentReport, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match kind {
        AgentKind::Tcp { send } => tcp::ask(stream, send).await,
        AgentKind::Http { path } => http::ask(stream, host, path).await,
    }
}

/// Reads a line of words.
fn report_of_line(line: &[u8]) -> Result<AgentReport, Fault> {
    let text = str::from_utf8(line).map_err(|_| Fault::unreadable(&"not UTF-8 text"))?;
    AgentReport::parse_text(text).map_err(|error| Fault::unreadable(&error))
}
