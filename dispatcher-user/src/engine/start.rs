//! Makes the admission thread: opens everything, takes over what an earlier daemon left, attaches
//! last.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dispatcher_common::service::{Service, ServiceKey};
use dispatcher_common::verdict::{DropReason, Handled};
use foldhash::quality::RandomState;
use tokio::sync::{oneshot, watch};

use super::adopt::Legacy;
use super::handle::{self, Message, Names};
use super::host_stack::HostStack;
use super::sockets::Sockets;
use super::waits::Waits;
use super::{
    BackendInfo, BackendWay, Engine, GroupInfo, Handle, ServiceInfo, clock, first_control, way_to,
};
use crate::admission::{
    Admission, BackendId, BackendSettings, Balance, Ceiling, GroupId, Overflow, ServiceId,
    ServiceSettings,
};
use crate::config::{self, Config};
use crate::datapath::{self, AttachedMode, Datapath, DatapathConfig, Meters};
use crate::network::{Network, NetworkView};
use crate::telemetry::Telemetry;
use crate::xsk::XskMode;

/// How long a start waits for the ways to all back-ends. A back-end whose way is not known by then
/// is reached through the host's stack until it is.
const FIRST_WAYS: Duration = Duration::from_millis(500);

/// The admission thread, running.
pub struct Running {
    thread: JoinHandle<Engine>,
    /// Resolves when the thread has ended, however it did.
    pub ended: oneshot::Receiver<()>,
    /// How the program is attached.
    pub attached: AttachedMode,
    /// The services of the configuration, in its order, each with its back-ends in their order.
    pub services: Vec<(ServiceId, Vec<BackendId>)>,
}

impl Running {
    /// Stops the thread and closes what it had open. Returns how many flows the program goes on
    /// with.
    ///
    /// # Errors
    ///
    /// When the thread has panicked.
    pub async fn stop(self, handle: &Handle) -> Result<u32> {
        // A thread that has ended has nobody to stop.
        let _ = handle.tell(Message::Stop).await;
        let engine = tokio::task::spawn_blocking(move || self.thread.join())
            .await?
            .map_err(|_| anyhow!("the admission thread panicked"))?;
        Ok(engine.admission.flow_count())
    }
}

/// What a start has made.
pub struct Started {
    /// The admission thread.
    pub running: Running,
    /// The way to talk to it.
    pub handle: Handle,
    /// The watch over the network, which runs until it is stopped.
    pub network: Network,
    /// Its views, the first one taken.
    pub views: Views,
    /// What the program measures of back-ends.
    pub meters: Meters,
}

type Views = watch::Receiver<Arc<NetworkView>>;

/// Opens everything, attaches, and starts the thread.
///
/// # Errors
///
/// When something of that fails; nothing is attached then that was not before.
pub async fn start(config: &Config, telemetry: &Telemetry) -> Result<Started> {
    let (engine, handle, network, views) = open(config, telemetry).await?;
    let (running, ended) = oneshot::channel::<()>();
    let attached = engine.attached;
    let services = engine.services.iter();
    let services = services
        .map(|service| {
            (
                service.id,
                service.backends.iter().map(|one| one.id).collect(),
            )
        })
        .collect();
    let meters = engine.datapath.meters()?;
    let thread = thread::Builder::new()
        .name("admission".into())
        .spawn(move || {
            // Dropped with the thread, however that ends.
            let _running = running;
            engine.run()
        })
        .context("cannot start the admission thread")?;
    let running = Running {
        thread,
        ended,
        attached,
        services,
    };
    Ok(Started {
        running,
        handle,
        network,
        views,
        meters,
    })
}

/// Opens everything and attaches last. What a failed start has pinned is removed.
async fn open(config: &Config, telemetry: &Telemetry) -> Result<(Engine, Handle, Network, Views)> {
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
        groups: Vec::new(),
        services: Vec::new(),
        by_key: std::collections::HashMap::default(),
        backends: Vec::new(),
        control,
        install_refused: None,
        install_refusals: Default::default(),
        refusals: Default::default(),
        dropped: [0; DropReason::ALL.len()],
        events_lost: datapath.handled(Handled::EventLost),
        to_reconcile: Vec::new(),
        started: now,
        attached: AttachedMode::Native,
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
        for group in &config.groups {
            self.groups.push(GroupInfo {
                id: self.admission.add_group(group.ceiling)?,
                name: group.name.as_str().into(),
            });
        }
        let mut keys = Vec::new();
        for service in &config.services {
            let id = self.admission.add_service(service_settings(service))?;
            let mut backends = Vec::new();
            for backend in &service.backends {
                let group = backend.group.and_then(|at| self.groups.get(at));
                let settings = backend_settings(backend, group.map(|group| group.id));
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
                };
                backends.push(BackendInfo {
                    id,
                    name: backend.name.as_str().into(),
                    address: backend.address,
                    policy: service.ceiling.policy.label(),
                    group: group.map(|group| Arc::clone(&group.name)),
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
        let backends = self.services.iter().flat_map(|service| &service.backends);
        let numbers: Vec<_> = backends.map(|backend| backend.id.0).collect();
        self.datapath.set_measured(&numbers)?;
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
        balance: match service.balance {
            config::Balance::RoundRobin => Balance::RoundRobin,
            config::Balance::LeastConnections => Balance::LeastConnections,
            config::Balance::LeastResponseTime => Balance::LeastResponseTime,
            config::Balance::SourceHash => Balance::SourceHash,
        },
    }
}

fn backend_settings(backend: &config::Backend, group: Option<GroupId>) -> BackendSettings {
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
        group,
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
