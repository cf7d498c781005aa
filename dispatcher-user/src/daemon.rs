//! The daemon: puts its parts together, waits for the signal to stop, and takes them apart.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{
    AdminServer, BackendDone, BackendOrder, CeilingDone, CeilingOrder, Control, FlowFilter,
    QueueFilter, ReloadDone,
};
use crate::config::{Config, OnExit};
use crate::datapath;
use crate::engine::{self, Handle, Started};
use crate::governor::{self, Desk};
use crate::history::History;
use crate::network::NetworkView;
use crate::reload::Reloader;
use crate::status::{FlowRow, QueueRow, Status};
use crate::telemetry::MetricsServer;
use crate::watchdog;

/// Runs the daemon until SIGTERM or SIGINT with the configuration that was read from `file`; SIGHUP
/// has it read again.
///
/// # Errors
///
/// When it cannot start; nothing is attached then that was not before.
pub async fn run(file: PathBuf, config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    // The socket of a daemon that runs already is found here, before anything is touched.
    let admin = AdminServer::bind(&config.admin.socket)?;
    let metrics = match &config.metrics {
        Some(metrics) => Some(MetricsServer::bind(metrics.listen).await?),
        None => None,
    };
    let Started {
        mut running,
        handle,
        network,
        views,
        meters,
    } = engine::start(&config).await?;
    tokio::spawn(follow(views, handle.clone()));
    let before = running.before.take();
    let roster = &running.roster;
    let governor = governor::start(&config, roster, before.as_ref(), meters, handle.clone()).await;
    let (interfaces, services, backends) = (
        config.dataplane.interfaces.join(","),
        config.services.len(),
        config.backends_len(),
    );
    let reloader = Arc::new(Reloader::new(file, config, governor.clone(), network));
    let front = Front {
        engine: handle.clone(),
        governor,
        history: History::default(),
        reloader: Arc::clone(&reloader),
    };
    tokio::spawn(front.history.clone().keep(front.clone()));
    let served = tokio::spawn(admin.serve(front.clone()));
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.serve(front));
    }
    tokio::spawn(watchdog::feed(handle.clone()));
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(
        interfaces,
        mode = running.attached.label(),
        services,
        backends,
        "ready"
    );

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // A daemon that admits nobody must not look alive.
            _ = &mut running.ended => break,
            Some(()) = hangup.recv() => {
                // What came of it is logged.
                tokio::spawn(Arc::clone(&reloader).reload());
            }
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let flows = running.stop(&handle).await?;
    let config = reloader.stop().await;
    let left = leave(&config, flows);
    // Dropping the server removes its socket's file. Last, because the next daemon may start then.
    served.abort();
    let _ = served.await;
    left
}

/// The program stays or goes, as configured.
fn leave(config: &Config, flows: u32) -> Result<()> {
    match config.dataplane.on_exit {
        OnExit::Keep => tracing::info!(flows, "stopped; the program goes on with these flows"),
        OnExit::Detach => {
            datapath::unload(&config.dataplane.pin_path).context("cannot remove the pins")?;
            tracing::info!(flows, "stopped and detached; these flows are over");
        }
    }
    Ok(())
}

/// Gives every new view of the network to the admission thread.
async fn follow(mut views: watch::Receiver<Arc<NetworkView>>, handle: Handle) {
    while views.changed().await.is_ok() {
        let view = Arc::clone(&views.borrow_and_update());
        if handle.set_network(view).await.is_err() {
            return;
        }
    }
}

/// The daemon as the admin socket and the metrics see it: what the admission thread knows and what
/// the governor knows, put together.
#[derive(Clone)]
struct Front {
    engine: Handle,
    governor: Desk,
    history: History,
    reloader: Arc<Reloader>,
}

impl Control for Front {
    async fn status(&self) -> Result<Arc<Status>> {
        let status = self.engine.status().await?;
        Ok(Arc::new(self.governor.fill_in(status).await?))
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>> {
        self.engine.flows(filter).await
    }

    async fn queue(&self, filter: QueueFilter) -> Result<Vec<QueueRow>> {
        self.engine.queue(filter).await
    }

    async fn set_ceiling(&self, order: CeilingOrder) -> Result<CeilingDone> {
        self.governor.set_ceiling(order).await
    }

    fn history(&self) -> &History {
        &self.history
    }

    async fn set_backend(&self, order: BackendOrder) -> Result<BackendDone> {
        let BackendOrder {
            service, backend, ..
        } = order.clone();
        let status = self.engine.status().await?;
        let state = self.governor.set_backend(order).await?;
        let found = status.backend(&service, &backend);
        Ok(BackendDone {
            state: state.into(),
            connections: found.map_or(0, |one| one.active + one.half_open),
            service,
            backend,
        })
    }

    async fn reload(&self) -> Result<ReloadDone> {
        Arc::clone(&self.reloader).reload().await
    }
}
