//! Reading the configuration again while the daemon runs: all of a new one takes effect, or nothing
//! of it, and then it is said why.

mod changes;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::admin::ReloadDone;
use crate::config::Config;
use crate::governor::Desk;
use crate::network::Network;

use changes::{Changes, changes};

/// Most changes of one reload that are logged; the rest are counted.
const LOGGED_MAX: usize = 100;

/// Keys that cannot change while the daemon runs.
#[derive(Debug)]
pub struct NeedsRestart {
    file: PathBuf,
    keys: Vec<String>,
}

impl fmt::Display for NeedsRestart {
    /// A line for each key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.keys.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}: {key}", self.file.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for NeedsRestart {}

/// Reads the configuration again when it is told to, one time after the other.
pub struct Reloader {
    file: PathBuf,
    running: Mutex<Running>,
    governor: Desk,
}

struct Running {
    config: Arc<Config>,
    /// None once the daemon is stopping.
    network: Option<Network>,
}

impl Reloader {
    /// `config` runs, and was read from `file`.
    #[must_use]
    pub fn new(file: PathBuf, config: Config, governor: Desk, network: Network) -> Self {
        Self {
            file,
            running: Mutex::new(Running {
                config: Arc::new(config),
                network: Some(network),
            }),
            governor,
        }
    }

    /// Reads the file and makes it what runs. Once begun it is carried through, whoever goes.
    /// Returns what has changed.
    ///
    /// # Errors
    ///
    /// When the file is wrong, or says what cannot be done while the daemon runs; then nothing has
    /// changed.
    pub async fn reload(self: Arc<Self>) -> Result<ReloadDone> {
        tokio::spawn(async move {
            let mut running = self.running.lock().await;
            tell_systemd_of_it();
            let done = self.try_reload(&mut running).await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            match &done {
                Ok(done) => log(done),
                Err(error) => tracing::error!("not reloaded, nothing has changed: {error:#}"),
            }
            done
        })
        .await
        .context("the reload was cut short")?
    }

    async fn try_reload(&self, running: &mut Running) -> Result<ReloadDone> {
        let file = self.file.clone();
        let config = spawn_blocking(move || Config::load(&file)).await??;
        let network = running.network.as_ref().context("the daemon is stopping")?;
        let compared = changes(&running.config, &config);
        let Changes { changes, notes } = compared.map_err(|keys| NeedsRestart {
            file: self.file.clone(),
            keys,
        })?;
        let config = Arc::new(config);
        let roster = self.governor.configure(Arc::clone(&config)).await?;
        // Also the ways to those that have connections left.
        let backends = roster.backends.iter().flatten();
        network.set_targets(backends.map(|one| one.address.ip()));
        running.config = config;
        Ok(ReloadDone { changes, notes })
    }

    /// Reloads no more, and no longer follows the network. Returns the configuration that ran last.
    pub async fn stop(&self) -> Arc<Config> {
        let mut running = self.running.lock().await;
        if let Some(network) = running.network.take() {
            network.stop().await;
        }
        Arc::clone(&running.config)
    }
}

/// Without systemd there is nobody to tell.
fn tell_systemd_of_it() {
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, now]);
    }
}

fn log(done: &ReloadDone) {
    let changes = done.changes.len();
    for change in done.changes.iter().take(LOGGED_MAX) {
        tracing::info!(change, "configuration");
    }
    for note in done.notes.iter().take(LOGGED_MAX) {
        tracing::info!(note, "configuration");
    }
    tracing::info!(changes, "reloaded");
}
