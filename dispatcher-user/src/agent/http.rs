//! An agent that answers `GET` over HTTP/1.1 with JSON or a line of words.

use std::error::Error;
use std::net::SocketAddr;

use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Fault, report_of_line};
use crate::ceiling::{AgentReport, AgentState, REPORT_LEN_MAX};
use crate::exchange::{self, BODY_BYTES_MAX, shortened};

/// Asks for the path, and reads the answer.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    host: SocketAddr,
    path: &str,
) -> Result<AgentReport, Fault> {
    exchange::get(stream, &host.to_string(), path, async |response| {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(Fault::Status(head.status.as_u16()));
        }
        let is_json = is_json(&head.headers)?;
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await?;
        let body = body.to_bytes();
        if is_json {
            return report_of_json(&body);
        }
        let end = body.iter().position(|byte| b"\r\n".contains(byte));
        report_of_line(&body[..end.unwrap_or(body.len())])
    })
    .await
}

/// Whether a body is JSON; else it is a line of words.
fn is_json(headers: &HeaderMap) -> Result<bool, Fault> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.map_or(&b""[..], |value| value.as_bytes());
    let essence = given.split(|byte| *byte == b';').next().unwrap_or(given);
    match essence.trim_ascii().to_ascii_lowercase().as_slice() {
        b"application/json" => Ok(true),
        b"text/plain" => Ok(false),
        _ => {
            let given = String::from_utf8_lossy(given);
            Err(Fault::ContentType(shortened(&given)))
        }
    }
}

/// The JSON form of a report; what else an agent tells is not ours to know.
#[derive(Deserialize)]
struct Json {
    ceiling: Option<u32>,
    share: Option<u32>,
    load: Option<f64>,
    state: Option<String>,
    message: Option<String>,
}

fn report_of_json(body: &[u8]) -> Result<AgentReport, Fault> {
    let json: Json = serde_json::from_slice(body).map_err(|error| Fault::unreadable(&error))?;
    let percent_of = |load| {
        let wrong = || Fault::unreadable(&format!("load is {load}; it must be 0 or more"));
        AgentReport::percent_of_load(load).ok_or_else(wrong)
    };
    let state_of = |word: String| {
        let wrong = || Fault::unreadable(&format!("state is {word:?}, which is none"));
        AgentState::from_word(&word).ok_or_else(wrong)
    };
    if let Some(length) = json.message.as_ref().map(String::len)
        && length > REPORT_LEN_MAX
    {
        let why = format!("message has {length} bytes; at most {REPORT_LEN_MAX} are read");
        return Err(Fault::unreadable(&why));
    }
    let report = AgentReport {
        ceiling: json.ceiling,
        share_percent: json.share,
        load_percent: json.load.map(percent_of).transpose()?,
        state: json.state.map(state_of).transpose()?,
        message: json.message,
    };
    if matches!(
        report,
        AgentReport {
            ceiling: None,
            share_percent: None,
            load_percent: None,
            state: None,
            ..
        }
    ) {
        return Err(Fault::unreadable(
            &"it has none of ceiling, share, load and state",
        ));
    }
    Ok(report)
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        if error.is_incomplete_message() {
            return Self::Closed;
        }
        match exchange::cause(&error) {
            Some(cause) => cause.into(),
            None => Self::unreadable(&error),
        }
    }
}

impl From<axum::http::Error> for Fault {
    fn from(error: axum::http::Error) -> Self {
        Self::unreadable(&error)
    }
}

impl From<Box<dyn Error + Send + Sync>> for Fault {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        if error.is::<LengthLimitError>() {
            return Self::TooLong(BODY_BYTES_MAX);
        }
        match error.downcast::<hyper::Error>() {
            Ok(error) => (*error).into(),
            Err(error) => Self::unreadable(&error),
        }
    }
}
