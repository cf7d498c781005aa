//! The daemon: puts its parts together, waits for the signal to stop, and takes them apart.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{AdminServer, CeilingDone, CeilingOrder, Control, FlowFilter, QueueFilter};
use crate::config::{Config, OnExit};
use crate::datapath;
use crate::engine::{self, Handle, Started};
use crate::governor::{self, Desk};
use crate::network::NetworkView;
use crate::status::{FlowRow, QueueRow, Status};
use crate::telemetry::{MetricsServer, Telemetry};
use crate::watchdog;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot start; nothing is attached then that was not before.
pub async fn run(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    // The socket of a daemon that runs already is found here, before anything is touched.
    let admin = AdminServer::bind(&config.admin.socket)?;
    let metrics = match &config.metrics {
        Some(metrics) => Some(MetricsServer::bind(metrics.listen).await?),
        None => None,
    };
    let telemetry = Telemetry::new().context("metrics")?;
    let Started {
        mut running,
        handle,
        network,
        views,
        meters,
    } = engine::start(&config, &telemetry).await?;
    tokio::spawn(follow(views, handle.clone()));
    let governor = governor::start(&config, &running.services, meters, handle.clone());
    let front = Front {
        engine: handle.clone(),
        governor,
    };
    let served = tokio::spawn(admin.serve(front.clone()));
    tokio::spawn(telemetry.clone().keep_up());
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.serve(telemetry, front));
    }
    tokio::spawn(watchdog::feed(handle.clone()));
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(
        interfaces = config.dataplane.interfaces.join(","),
        mode = running.attached.label(),
        services = config.services.len(),
        backends = config.backends_len(),
        "ready"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // A daemon that admits nobody must not look alive.
        _ = &mut running.ended => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let flows = running.stop(&handle).await?;
    network.stop().await;
    // Dropping the server removes its socket's file.
    served.abort();
    let _ = served.await;
    leave(&config, flows)
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
}
