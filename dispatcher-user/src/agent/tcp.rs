//! An agent that answers a connection with a line of words, as HAProxy's `agent-check` has it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Fault, report_of_line};
use crate::ceiling::{AgentReport, REPORT_LEN_MAX};

/// Sends what is to be sent, and reads up to the end of the line or of the connection.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    send: &str,
) -> Result<AgentReport, Fault> {
    stream.write_all(send.as_bytes()).await?;
    // The line and its end.
    let mut buffer = [0; REPORT_LEN_MAX + 1];
    let mut filled = 0;
    loop {
        let free = &mut buffer[filled..];
        if free.is_empty() {
            return Err(Fault::TooLong(REPORT_LEN_MAX));
        }
        let read = stream.read(free).await?;
        let line_end = free[..read].iter().position(|byte| b"\r\n".contains(byte));
        match (line_end, read) {
            (Some(end), _) => return report_of_line(&buffer[..filled + end]),
            (None, 0) if filled == 0 => return Err(Fault::Closed),
            (None, 0) => return report_of_line(&buffer[..filled]),
            (None, _) => filled += read,
        }
    }
}
