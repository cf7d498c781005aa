//! An agent that answers `GET` over HTTP/1.1 with JSON or a line of words.

use std::error::Error;
use std::future::pending;
use std::io;
use std::net::SocketAddr;

use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{BODY_BYTES_MAX, Fault, report_of_line};
use crate::ceiling::agent::AgentReport;

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header fields of an answer.
const HEADERS_MAX: usize = 64;
/// Most characters of a content type that a message repeats.
const SHOWN_CHARS_MAX: usize = 80;

/// Asks for the path, and reads the answer.
pub(super) async fn ask(
    stream: TcpStream,
    host: SocketAddr,
    path: &str,
) -> Result<AgentReport, Fault> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = Request::get(path)
        .header(header::HOST, host.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Fault::Unreadable(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(Fault::Status(head.status.as_u16()));
        }
        let read = reader(&head.headers)?;
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await?;
        read(&body.to_bytes())
    };
    // What goes wrong with the connection is told where the answer is awaited.
    let driver = async {
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        report = exchange => report,
        report = driver => report,
    }
}

/// How a body of this type is read.
fn reader(headers: &HeaderMap) -> Result<fn(&[u8]) -> Result<AgentReport, Fault>, Fault> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.map_or(&b""[..], |value| value.as_bytes());
    let essence = given.split(|byte| *byte == b';').next().unwrap_or(given);
    match essence.trim_ascii().to_ascii_lowercase().as_slice() {
        b"application/json" => Ok(report_of_json),
        b"text/plain" => Ok(|body| {
            let line = body.split(|byte| b"\r\n".contains(byte)).next();
            report_of_line(line.unwrap_or(body))
        }),
        _ => {
            let shown = String::from_utf8_lossy(given);
            Err(Fault::ContentType(shown.chars().take(SHOWN_CHARS_MAX).collect()))
        }
    }
}

fn report_of_json(body: &[u8]) -> Result<AgentReport, Fault> {
    todo!()
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            return Self::Closed;
        }
        if error.is_parse_too_large() {
            return Self::TooLong(HEAD_BYTES_MAX);
        }
        match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
            Some(cause) => Self::Connection(cause.to_string()),
            None => Self::Unreadable(error.to_string()),
        }
    }
}

impl From<Box<dyn Error + Send + Sync>> for Fault {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        if error.is::<LengthLimitError>() {
            return Self::TooLong(BODY_BYTES_MAX);
        }
        match error.downcast::<hyper::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}
