//! Makes the admission thread: opens everything, takes over what an earlier daemon left, attaches
//! last.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dispatcher_common::verdict::{DropReason, Handled};
use foldhash::quality::RandomState;
use tokio::sync::{oneshot, watch};

use super::configure::Roster;
use super::handle::{self, Message};
use super::host_stack::HostStack;
use super::interfaces::Follower;
use super::removed::Removed;
use super::resets::Resets;
use super::retry::Kept;
use super::sockets::Sockets;
use super::{Engine, Handle, clock, first_control, wakeups};
use crate::admission::Admission;
use crate::config::{self, Config};
use crate::datapath::{self, AttachedMode, Attacher, Datapath, DatapathConfig, Meters};
use crate::fault::{self, Point};
use crate::network::{Network, NetworkView};
use crate::privileges;
use crate::xsk::{XskConfig, XskMode};

/// How long a start waits for the ways to all back-ends. A back-end whose way is not known by then
/// is reached through the host's stack until it is.
const FIRST_WAYS: Duration = Duration::from_millis(500);

/// The admission thread, running.
pub struct Running {
    thread: JoinHandle<Engine>,
    interfaces: Follower,
    /// Resolves when the thread has ended, however it did.
    pub ended: oneshot::Receiver<()>,
    /// How the program is attached.
    pub attached: AttachedMode,
    /// Who is there.
    pub roster: Roster,
    /// Who was there before, when an earlier daemon left flows of services or back-ends that the
    /// configuration does not know: a configuration that does, and its roster. They are removed
    /// since then, as by a reload.
    pub before: Option<(Config, Roster)>,
}

impl Running {
    /// Stops the thread and closes what it had open. Returns how many flows the program goes on
    /// with.
    ///
    /// # Errors
    ///
    /// When the thread has panicked.
    pub async fn stop(self, handle: &Handle) -> Result<u32> {
        // While the other thread answers: it may be asked something.
        tokio::task::spawn_blocking(move || self.interfaces.stop()).await?;
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
pub async fn start(config: &Config) -> Result<Started> {
    let Opened {
        engine,
        roster,
        before,
        handle,
        network,
        views,
        attacher,
    } = open(config).await?;
    let (running, ended) = oneshot::channel::<()>();
    let attached = engine.attached.context("nothing is attached")?;
    let meters = engine.datapath.meters()?;
    // All is open; the threads that this one starts begin with what it has.
    let kept = privileges::settle()?;
    tracing::info!(%kept, "gave up all capabilities but these");
    let interfaces = Follower::start(
        &engine.sockets,
        attacher,
        attach_mode(config),
        xsk_config(config),
        handle.clone(),
    )?;
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
        interfaces,
        ended,
        attached,
        roster,
        before,
    };
    Ok(Started {
        running,
        handle,
        network,
        views,
        meters,
    })
}

/// Everything, before the thread runs.
struct Opened {
    engine: Engine,
    roster: Roster,
    before: Option<(Config, Roster)>,
    handle: Handle,
    network: Network,
    views: Views,
    attacher: Attacher,
}

/// Opens everything and attaches last. What a failed start has pinned is removed.
async fn open(config: &Config) -> Result<Opened> {
    let dataplane = &config.dataplane;
    // First, because another dispatcher on the same interfaces shows here.
    let sockets = Sockets::open(&dataplane.interfaces, &xsk_config(config))?;
    let (datapath, attacher) = Datapath::open(&DatapathConfig {
        pin_path: dataplane.pin_path.clone(),
        flow_capacity: dataplane.flow_capacity,
    })?;
    let adopted = datapath.is_adopted();
    match assemble(config, sockets, datapath, attacher).await {
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
    sockets: Sockets,
    mut datapath: Datapath,
    mut attacher: Attacher,
) -> Result<Opened> {
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
    fault::point(Point::ControlTold);
    let (handle, inbox, names) = handle::channel(config.dataplane.pin_path.clone())?;
    let wakeups = wakeups(&inbox, &datapath, &sockets).context("cannot make an epoll")?;
    let mut engine = Engine {
        admission: Admission::new(config.dataplane.flow_capacity, RandomState::default()),
        host_stack: HostStack::open()?,
        inbox,
        groups: Vec::new(),
        services: Vec::new(),
        by_key: std::collections::HashMap::default(),
        places: Vec::new(),
        backends: Vec::new(),
        any_leaving: false,
        names,
        control,
        install_refused: None,
        install_refusals: Default::default(),
        refusals: Default::default(),
        dropped: [0; DropReason::ALL.len()],
        events_lost: datapath.handled(Handled::EventLost),
        to_reconcile: Vec::new(),
        resets: Resets::default(),
        kept: Kept::default(),
        admitted: Vec::new(),
        removed: Removed::default(),
        in_table: 0,
        floods: Default::default(),
        started: now,
        busy_poll: config.dataplane.busy_poll,
        attached: None,
        stopping: false,
        network: view,
        sockets,
        wakeups,
        datapath,
    };
    let (roster, before) = if engine.datapath.is_adopted() {
        engine.take_over(now, config)?
    } else {
        let roster = engine.configure(now, config, |_, _| None)?;
        (roster, None)
    };
    engine
        .datapath
        .set_links(&engine.sockets.links(&engine.network))?;
    engine.sockets.register(&mut engine.datapath)?;
    let modes = attacher.attach(interfaces, attach_mode(config))?;
    engine.sockets.set_modes(&modes);
    engine.attached = engine.sockets.attached();
    Ok(Opened {
        engine,
        roster,
        before,
        handle,
        network,
        views,
        attacher,
    })
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

fn xsk_config(config: &Config) -> XskConfig {
    let mode = match config.dataplane.xsk_mode {
        config::XskMode::Auto => XskMode::Auto,
        config::XskMode::Copy => XskMode::Copy,
        config::XskMode::ZeroCopy => XskMode::ZeroCopy,
    };
    XskConfig {
        mode,
        ..XskConfig::default()
    }
}

fn attach_mode(config: &Config) -> datapath::AttachMode {
    match config.dataplane.attach_mode {
        config::AttachMode::Auto => datapath::AttachMode::Auto,
        config::AttachMode::Native => datapath::AttachMode::Native,
        config::AttachMode::Generic => datapath::AttachMode::Generic,
    }
}
