//! The dispatcher's commands in a terminal, as a person runs them.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::PATIENCE;
use crate::daemon::{binary, wait_until};
use crate::netns::Namespace;

/// A command in a terminal of 80 by 24; both end when the handle is dropped.
#[derive(Debug)]
pub struct Terminal {
    process: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the dispatcher with these arguments, which hold nothing that a shell would change.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Result<Self> {
        let binary = binary()?;
        let line = format!(
            "stty rows 24 columns 80; {} {}",
            binary.display(),
            arguments.join(" ")
        );
        // It makes the terminal, and passes on what is typed here.
        let mut command = namespace.command("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot run script")?;
        let keys = process.stdin.take().context("it was piped")?;
        let mut screen = process.stdout.take().context("it was piped")?;
        let shown = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&shown);
        thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut some) {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend_from_slice(&some[..n]);
            }
        });
        Ok(Self {
            process,
            keys,
            shown,
        })
    }

    /// Whether this was ever written to the terminal in one piece.
    #[must_use]
    pub fn shows(&self, text: &str) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).contains(text)
    }

    /// Types these keys.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Waits for the end of the command, which has been told to.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait_until(&mut self.process, PATIENCE)?.context("it goes on")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The command is hung up on with its terminal.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
