//! Puts the daemon together, waits for the signal to stop, and takes it apart.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dispatcher_common::service::{Service, ServiceKey};
use dispatcher_common::verdict::{DropReason, Handled};
use foldhash::quality::RandomState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::adopt::Legacy;
use super::handle::{self, Message, Names};
use super::host_stack::HostStack;
use super::report::Meters;
use super::sockets::Sockets;
use super::waits::Waits;
use super::{BackendInfo, BackendWay, Engine, Handle, ServiceInfo, clock, first_control, way_to};
use crate::admin::AdminServer;
use crate::admission::{Admission, BackendSettings, Balance, Ceiling, Overflow, ServiceSettings};
use crate::config::{self, Config, OnExit};
use crate::datapath::{self, Datapath, DatapathConfig};
use crate::network::{Network, NetworkView};
use crate::telemetry::{MetricsServer, Telemetry};
use crate::xsk::XskMode;

/// How long a start waits for the ways to all back-ends. A back-end whose way is not known by then
/// is reached through the host's stack until it is.
const FIRST_WAYS: Duration = Duration::from_millis(500);

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
    let (engine, handle, network, views) = start(&config, &telemetry).await?;
    let attached = engine.attached.label();
    let (running, ended) = oneshot::channel::<()>();
    let thread = thread::Builder::new()
        .name("admission".into())
        .spawn(move || {
            // Dropped with the thread, however that ends.
            let _running = running;
            engine.run()
        })
        .context("cannot start the admission thread")?;
    tokio::spawn(follow(views, handle.clone()));
    let served = tokio::spawn(admin.serve(handle.clone()));
    tokio::spawn(telemetry.clone().keep_up());
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.serve(telemetry, handle.clone()));
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(
        interfaces = config.dataplane.interfaces.join(","),
        mode = attached,
        services = config.services.len(),
        backends = config.backends_len(),
        "ready"
    );

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // A daemon that admits nobody must not look alive.
        _ = ended => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // A thread that has ended has nobody to stop.
    let _ = handle.tell(Message::Stop).await;
    let engine = tokio::task::spawn_blocking(move || thread.join())
        .await?
        .map_err(|_| anyhow!("the admission thread panicked"))?;
    network.stop().await;
    // Dropping the server removes its socket's file.
    served.abort();
    let _ = served.await;
    leave(&config, engine)
}

/// The program stays or goes, as configured.
fn leave(config: &Config, engine: Engine) -> Result<()> {
    let flows = engine.admission.flow_count();
    drop(engine);
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
        if handle.tell(Message::Network(view)).await.is_err() {
            return;
        }
    }
}

type Views = watch::Receiver<Arc<NetworkView>>;

/// Opens everything and attaches last. What a failed start has pinned is removed.
async fn start(config: &Config, telemetry: &Telemetry) -> Result<(Engine, Handle, Network, Views)> {
    let dataplane = &config.dataplane;
    // First, because another dispatcher on the same interfaces shows here.
    let sockets = Sockets::open(&dataplane.interfaces, xsk_mode(dataplane.xsk_mode))?;
    let datapath = Datapath::open(&DatapathConfig {
        pin_path: dataplane.pin_path.clone(),
        flow_capacity: dataplane.flow_capacity,
    })?;
    let adopted = datapath.is_adopted();
    match assemble(config, telemetry, sockets, datapath).await {
        Ok(started) => Ok(started),
        Err(error) => {
            if !adopted {
                let _ = datapath::unload(&dataplane.pin_path);
            }
            Err(error)
        }
    }
}

async fn assemble(
    config: &Config,
    telemetry: &Telemetry,
    sockets: Sockets,
    mut datapath: Datapath,
) -> Result<(Engine, Handle, Network, Views)> {
    let last_generation = if datapath.is_adopted() {
        datapath.network_generation()
    } else {
        0
    };
    let interfaces = &config.dataplane.interfaces;
    let (network, mut views) = Network::start(interfaces, last_generation).await?;
    let targets = config.services.iter().flat_map(|service| &service.backends);
    network.set_targets(targets.map(|backend| backend.address.ip()));
    // A timeout is no failure: the host's stack reaches what is not resolved yet.
    let all_known = views.wait_for(|view| all_resolved(view, config));
    let _ = tokio::time::timeout(FIRST_WAYS, all_known).await;
    let view = Arc::clone(&views.borrow_and_update());

    let now = clock::now();
    let control = first_control(view.generation, config.dataplane.unattended, now);
    datapath.set_control(&control)?;
    let (handle, inbox) = handle::channel(names(config), config.dataplane.pin_path.clone())?;
    let mut engine = Engine {
        admission: Admission::new(config.dataplane.flow_capacity, RandomState::default()),
        host_stack: HostStack::open()?,
        inbox,
        services: Vec::new(),
        by_key: std::collections::HashMap::default(),
        backends: Vec::new(),
        control,
        install_refused: None,
        dropped: [0; DropReason::ALL.len()],
        events_lost: datapath.handled(Handled::EventLost),
        to_reconcile: Vec::new(),
        started: now,
        measured: now,
        attached: datapath::AttachedMode::Native,
        stopping: false,
        network: view,
        sockets,
        datapath,
    };
    let mut legacy = Legacy::default();
    if engine.datapath.is_adopted() {
        legacy = Legacy::read(engine.datapath.flows()).context("cannot read the flow table")?;
    }
    engine.configure(config, telemetry, &mut legacy)?;
    if engine.datapath.is_adopted() {
        let adopted = engine.adopt(now, legacy);
        tracing::info!(
            adopted.flows,
            adopted.removed,
            "took over from an earlier daemon"
        );
    }
    engine
        .datapath
        .set_links(&engine.sockets.links(&engine.network))?;
    engine.sockets.register(&mut engine.datapath)?;
    engine.attached = engine.datapath.attach(interfaces, attach_mode(config))?;
    Ok((engine, handle, network, views))
}

fn all_resolved(view: &NetworkView, config: &Config) -> bool {
    let mut backends = config.services.iter().flat_map(|service| &service.backends);
    backends.all(|backend| {
        matches!(
            view.way(backend.address.ip()),
            Some(crate::network::Way::Via(_) | crate::network::Way::HostStack { .. })
        )
    })
}

impl Engine {
    /// Makes services and back-ends of the configuration.
    fn configure(
        &mut self,
        config: &Config,
        telemetry: &Telemetry,
        legacy: &mut Legacy,
    ) -> Result<()> {
        let now = self.started;
        let mut keys = Vec::new();
        for service in &config.services {
            let id = self.admission.add_service(service_settings(service))?;
            let mut backends = Vec::new();
            for backend in &service.backends {
                let settings = backend_settings(backend);
                let number = legacy.number(service.address, backend.address);
                let id = self
                    .admission
                    .add_backend_as(now, id, settings, Some(number))?;
                let at = id.0 as usize;
                let len = self.backends.len().max(at + 1);
                self.backends.resize(len, BackendWay::UNUSED);
                self.backends[at] = BackendWay {
                    address: backend.address,
                    next_hop: way_to(&self.network, backend.address.ip()),
                    connections: 0,
                };
                backends.push(BackendInfo {
                    id,
                    name: backend.name.as_str().into(),
                    address: backend.address,
                    policy: service.ceiling.policy.label(),
                    meters: Meters::starting_at(self.datapath.backend(id.0)),
                });
            }
            // A number is given out in succession, and is the place in `services`.
            debug_assert_eq!(id.0 as usize, self.services.len());
            let key = ServiceKey::new(
                service.address.ip().into(),
                dispatcher_common::addr::Port::new(service.address.port()),
            );
            keys.push((key, Service { index: id.0 }));
            self.by_key.insert(key, id);
            self.services.push(ServiceInfo {
                id,
                name: service.name.as_str().into(),
                address: service.address,
                backends,
                waits: Waits::new(now),
                waits_metric: telemetry.queue_wait(&service.name),
            });
        }
        Ok(self.datapath.set_services(&keys)?)
    }
}

fn names(config: &Config) -> Names {
    let backends = |service: &config::Service| {
        let named = |one: &config::Backend| (one.address, Arc::from(one.name.as_str()));
        service.backends.iter().map(named).collect()
    };
    let named = |service: &config::Service| {
        (
            service.address,
            (Arc::from(service.name.as_str()), backends(service)),
        )
    };
    config.services.iter().map(named).collect()
}

fn service_settings(service: &config::Service) -> ServiceSettings {
    ServiceSettings {
        queue_capacity: service.queue.capacity,
        queue_timeout: service.queue.timeout,
        overflow: match service.queue.overflow {
            config::Overflow::Refuse => Overflow::Refuse,
            config::Overflow::Drop => Overflow::Drop,
        },
        per_source: service.queue.per_source,
        handshake: service.timeouts.handshake,
        idle: service.timeouts.idle,
        closing: service.timeouts.closing,
        balance: Balance::RoundRobin,
    }
}

fn backend_settings(backend: &config::Backend) -> BackendSettings {
    BackendSettings {
        addr: backend.address.ip().into(),
        port: dispatcher_common::addr::Port::new(backend.address.port()),
        ceiling: Ceiling {
            initial: backend.ceiling.initial,
            min: backend.ceiling.min,
            max: backend.ceiling.max,
        },
        capacity: backend.capacity,
        weight: backend.weight,
        group: None,
    }
}

fn xsk_mode(mode: config::XskMode) -> XskMode {
    match mode {
        config::XskMode::Auto => XskMode::Auto,
        config::XskMode::Copy => XskMode::Copy,
        config::XskMode::ZeroCopy => XskMode::ZeroCopy,
    }
}

fn attach_mode(config: &Config) -> datapath::AttachMode {
    match config.dataplane.attach_mode {
        config::AttachMode::Auto => datapath::AttachMode::Auto,
        config::AttachMode::Native => datapath::AttachMode::Native,
        config::AttachMode::Generic => datapath::AttachMode::Generic,
    }
}
