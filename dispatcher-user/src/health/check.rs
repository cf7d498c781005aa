//! One check of one back-end: a connection from this host's own address, and over HTTP a `GET`.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use humantime::format_duration;
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Target;
use crate::config::HealthKind;
use crate::exchange::{self, BODY_BYTES_MAX, shortened};

/// Why a check was not passed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// Not all of the answer came in time.
    #[error("no answer within {}", format_duration(*.0))]
    Late(Duration),
    /// It answered with an RST, or what is on the way did.
    #[error("it refused the connection")]
    Refused,
    /// It closed the connection first.
    #[error("it closed the connection before it had answered")]
    Closed,
    /// What else the system said of the connection.
    #[error("{0}")]
    Connection(String),
    /// It answered over HTTP, but with another status.
    #[error("HTTP status {got}; it must be {}", shown(.wanted))]
    Status {
        /// What it answered.
        got: u16,
        /// What is good.
        wanted: RangeInclusive<u16>,
    },
    /// It answered, but not over HTTP.
    #[error("its answer does not read: {0}")]
    Unreadable(String),
    /// This host could not ask, which says nothing of the back-end.
    #[error("it could not be asked: {0}")]
    NotMade(String),
}

impl Fault {
    /// The label of a check that was passed.
    pub const PASSED: &'static str = "passed";

    /// One of a few, for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Late(_) => "timeout",
            Self::Refused => "refused",
            Self::Closed | Self::Connection(_) => "connection",
            Self::Status { .. } => "status",
            Self::Unreadable(_) => "unreadable",
            Self::NotMade(_) => "not_made",
        }
    }
}

fn shown(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last {
        return first.to_string();
    }
    format!("{first} to {last}")
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if is_ours(error) => Self::NotMade(error.to_string()),
            _ => Self::Connection(error.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            return Self::Closed;
        }
        match exchange::cause(&error) {
            Some(cause) => cause.into(),
            None => Self::Unreadable(shortened(&error.to_string())),
        }
    }
}

impl From<axum::http::Error> for Fault {
    fn from(error: axum::http::Error) -> Self {
        Self::NotMade(error.to_string())
    }
}

/// Whether an error is for want of something on this host: descriptors, memory, ports, the
/// configured address, leave.
fn is_ours(error: &io::Error) -> bool {
    let own = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EPERM,
        libc::EACCES,
    ];
    error
        .raw_os_error()
        .is_some_and(|number| own.contains(&number))
}

/// Checks once.
pub(super) async fn check(target: &Target) -> Result<(), Fault> {
    let within = target.health.timeout;
    let checked = timeout(within, exchange(target)).await;
    checked.unwrap_or(Err(Fault::Late(within)))
}

async fn exchange(target: &Target) -> Result<(), Fault> {
    let stream = connect(target).await?;
    match &target.health.kind {
        HealthKind::Off | HealthKind::Tcp => Ok(()),
        HealthKind::Http { path, host, status } => {
            let own = target.address.to_string();
            let host = host.as_deref().unwrap_or(&own);
            get(stream, host, path, status).await
        }
    }
}

async fn connect(target: &Target) -> Result<TcpStream, Fault> {
    let socket = match target.address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = target.health.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket.connect(target.address).await?)
}

/// The status decides. As much of the body as is read at most is waited for: a server that is cut
/// off in the middle of each answer would say so in its log.
async fn get(
    stream: TcpStream,
    host: &str,
    path: &str,
    wanted: &RangeInclusive<u16>,
) -> Result<(), Fault> {
    exchange::get(stream, host, path, async |response| {
        let (head, body) = response.into_parts();
        let got = head.status.as_u16();
        if !wanted.contains(&got) {
            let wanted = wanted.clone();
            return Err(Fault::Status { got, wanted });
        }
        match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(_) => Ok(()),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err((*error).into()),
                // It is longer than what is read.
                Err(_) => Ok(()),
            },
        }
    })
    .await
}
