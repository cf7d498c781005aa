//! A headless Chromium inside a namespace, driven over its pipe by the DevTools protocol.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::daemon::wait_until;
use crate::netns::Namespace;
use crate::scratch::{Scratch, unique};
use crate::{PATIENCE, POLL};

/// How long the browser may take to answer, its start included.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Moves the pipes of standard input and output to where the browser wants them.
const MOVE_PIPES: &str = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null";

/// Nothing that it would do of its own accord: there is no network to do it in.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A browser with one page; it ends when the handle is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    complaints: VecDeque<String>,
    _profile: Scratch,
}

impl Browser {
    /// Starts it with an empty page.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let profile = Scratch::new("browser")?;
        let directory: PathBuf = profile.path(unique("profile"));
        let mut command = namespace.command("sh");
        command
            .args(["-c", MOVE_PIPES, "sh", "chromium"])
            .args(ARGUMENTS)
            .arg(format!("--user-data-dir={}", directory.display()))
            .arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // It complains of what a machine without a desktop lacks.
        let mut process = command.stderr(Stdio::null()).spawn().context("chromium")?;
        let commands = process.stdin.take();
        let from = process.stdout.take().context("no pipe from chromium")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for message in messages(from) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            commands,
            answers,
            session: None,
            sent: 0,
            complaints: VecDeque::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.call(domain, &json!({}))?;
        }
        Ok(browser)
    }

    /// Gives a command and waits for the answer to it.
    fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.sent += 1;
        let mut command = json!({ "id": self.sent, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let pipe = self.commands.as_mut().context("the browser has ended")?;
        pipe.write_all(command.to_string().as_bytes())?;
        pipe.write_all(&[0])?;
        loop {
            let received = self.answers.recv_timeout(ANSWER_TIME_MAX);
            let mut answer = received.with_context(|| format!("no answer to {method}"))?;
            if answer["id"] == self.sent {
                if let Some(error) = answer.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(answer["result"].take());
            }
            self.notice(&answer);
        }
    }

    /// Errors of scripts, and what was refused by the page's policy or did not load.
    fn notice(&mut self, event: &Value) {
        let text = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") => &event["params"]["entry"]["text"],
            _ => return,
        };
        self.complaints.push_back(text.to_string());
    }

    /// Goes to an address; what is there loads meanwhile.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", &json!({ "url": url }))?;
        match answer.get("errorText") {
            Some(error) => bail!("{url}: {error}"),
            None => Ok(()),
        }
    }

    /// The value of an expression in the page; `null` where it has none.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let question = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &question)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true; panics with `what` and the page's text when it is not
    /// within `patience`.
    #[track_caller]
    pub fn wait_for(&mut self, patience: Duration, what: &str, expression: &str) {
        let end = std::time::Instant::now() + patience;
        while self.value(expression).ok() != Some(Value::Bool(true)) {
            if std::time::Instant::now() > end {
                let text = self.value("document.body.innerText");
                panic!("not within {patience:?}: {what}; the page says {text:?}");
            }
            thread::sleep(POLL * 10);
        }
    }

    /// Shows the page in a window of this size, in a dark or a light scheme.
    pub fn show_as(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &size)?;
        let scheme = if dark { "dark" } else { "light" };
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        let scheme = json!({ "features": [scheme] });
        self.call("Emulation.setEmulatedMedia", &scheme)?;
        Ok(())
    }

    /// What the window shows, as a PNG.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        let answer = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let encoded = answer["data"].as_str().context("no picture")?;
        BASE64_STANDARD.decode(encoded).context("no base64")
    }

    /// What went wrong in the page since this was last asked.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // What was said before is read with the answer.
        self.value("0")?;
        Ok(self.complaints.drain(..).collect())
    }
}

/// Each message ends with a zero byte.
fn messages(from: impl Read) -> impl Iterator<Item = Value> {
    let mut from = BufReader::new(from);
    std::iter::from_fn(move || {
        let mut message = Vec::new();
        from.read_until(0, &mut message).ok()?;
        message.pop()?;
        serde_json::from_slice(&message).ok()
    })
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        let _ = self.call("Browser.close", &json!({}));
        // It ends with its pipe too.
        self.commands = None;
        if !matches!(wait_until(&mut self.process, PATIENCE), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
