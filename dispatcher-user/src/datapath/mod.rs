//! The kernel half as user space handles it: the program, its maps and its links, pinned so that
//! flows outlive the daemon. The only folder that names aya; nothing here decides anything.

pub mod flows;

mod counters;
mod events;
mod inspect;
mod link;
mod meters;
mod pins;
#[cfg(feature = "program-log")]
mod program_log;
mod syscall;
mod tables;

use std::io::ErrorKind;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap, RingBuf, XskMap};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use dispatcher_common::control::Control;
use dispatcher_common::link::Link;
use dispatcher_common::maps;
use dispatcher_common::measure::Histogram;
use dispatcher_common::service::{BackendCounters, Served, Service, ServiceKey};

use crate::fault::{self, Point};

pub use flows::{FlowTable, InstallError};
pub use inspect::{Pinned, XdpLink, pinned, probe, program_name, xdp_links};
pub use link::{AttachMode, AttachedMode, Attacher};
pub use meters::Meters;
pub use pins::{Unloaded, is_in_use, unload};

/// The program as it was built, with BTF.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("DISPATCHER_BPF_OBJECT"));

/// What can go wrong between user space and the kernel half.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The pin path cannot be used.
    #[error("cannot use pin path {path}: {source}{hint}")]
    PinPath {
        /// As configured.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Another daemon runs with the same pins.
    #[error(
        "another daemon uses the pins in {path}: stop it, or configure another dataplane.pin_path"
    )]
    InUse {
        /// As configured.
        path: PathBuf,
    },
    /// Maps of another layout or size are pinned.
    #[error(
        "{path} holds maps that this version cannot take over ({what}): let their flows end, then \
         run `dispatcher unload`"
    )]
    Incompatible {
        /// The pinned map.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The pinned flow table is of another size than configured.
    #[error(
        "{path} was made for a flow_capacity of {has}, and the configuration says {wants}: say \
         {has}, or let its flows end and run `dispatcher unload`"
    )]
    FlowCapacity {
        /// The pinned map.
        path: PathBuf,
        /// Connections that it holds.
        has: u32,
        /// Connections that it should hold.
        wants: u32,
    },
    /// The kernel refused the program or a map.
    #[error("the kernel refused {what}: {reason}")]
    Refused {
        /// What was tried.
        what: String,
        /// Why, on one line.
        reason: String,
    },
    /// The program cannot be attached.
    #[error("cannot attach to {interface}: {reason}")]
    Attach {
        /// Interface.
        interface: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl DatapathError {
    fn refused(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut reason = one_line(error);
        if is_not_permitted(error) {
            reason.push_str(
                "; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW",
            );
        }
        Self::Refused {
            what: what.into(),
            reason,
        }
    }
}

fn is_not_permitted(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// An error and its causes on one line, without the verifier's log.
fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    const LONGEST: usize = 300;
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        if !line.ends_with(first) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.extend(first.chars().take(LONGEST));
        }
        next = error.source();
    }
    line
}

/// How the kernel half is opened.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Folder on a bpffs for the pins.
    pub pin_path: PathBuf,
    /// Connections that the flow table holds.
    pub flow_capacity: u32,
}

/// The maps of the loaded program.
pub struct Datapath {
    pin_path: PathBuf,
    adopted: bool,
    flows: FlowTable,
    services: HashMap<MapData, ServiceKey, Service>,
    served: Array<MapData, Served>,
    links: HashMap<MapData, u32, Link>,
    control: Array<MapData, Control>,
    xsks: XskMap<MapData>,
    events: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    backends: PerCpuArray<MapData, BackendCounters>,
    times: PerCpuHashMap<MapData, u32, Histogram>,
    unproven: PerCpuArray<MapData, u64>,
    /// Two daemons with the same pins would detach each other's program.
    _in_use: pins::InUse,
}

impl Datapath {
    /// Loads the program, with the pinned maps of an earlier run when there are any whose program
    /// is still attached, else with new ones.
    ///
    /// # Errors
    ///
    /// When the pin path is no bpffs or another daemon's, when pinned maps differ in layout or
    /// size, or when the kernel refuses the program.
    pub fn open(config: &DatapathConfig) -> Result<(Self, Attacher), DatapathError> {
        pins::prepare(&config.pin_path)?;
        let in_use = pins::InUse::begin(&config.pin_path)?;
        let adopted = pins::adoptable(&config.pin_path, config.flow_capacity)?;
        Self::load(config, adopted, in_use).inspect_err(|_| {
            // Maps are pinned while they are made; without the program they are of no use.
            if !adopted {
                let _ = unload(&config.pin_path);
            }
        })
    }

    fn load(
        config: &DatapathConfig,
        adopted: bool,
        in_use: pins::InUse,
    ) -> Result<(Self, Attacher), DatapathError> {
        let mut ebpf = load_program(config)?;
        let datapath = Self {
            flows: FlowTable::new(take_map(&mut ebpf, maps::FLOWS.name)?)?,
            services: take(&mut ebpf, maps::SERVICES.name)?,
            served: take(&mut ebpf, maps::SERVED.name)?,
            links: take(&mut ebpf, maps::LINKS.name)?,
            control: take(&mut ebpf, maps::CONTROL.name)?,
            xsks: take(&mut ebpf, maps::XSKS.name)?,
            events: take(&mut ebpf, maps::EVENTS.name)?,
            counters: take(&mut ebpf, maps::COUNTERS.name)?,
            backends: take(&mut ebpf, maps::BACKENDS.name)?,
            times: take(&mut ebpf, maps::TIMES.name)?,
            unproven: take(&mut ebpf, maps::UNPROVEN.name)?,
            pin_path: config.pin_path.clone(),
            adopted,
            _in_use: in_use,
        };
        let spare = load_program(config)?;
        Ok((datapath, Attacher::new(ebpf, spare, config.clone())))
    }

    /// Whether the maps are those of an earlier run.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The flow table.
    pub fn flows(&mut self) -> &mut FlowTable {
        &mut self.flows
    }
}

/// Loads the program with the pinned maps, or makes and pins them.
fn load_program(config: &DatapathConfig) -> Result<Ebpf, DatapathError> {
    let entries = maps::flow_entries(config.flow_capacity);
    #[cfg(feature = "program-log")]
    let level = program_log::level();
    let mut loader = EbpfLoader::new();
    // What the verifier says against the program, and not how it went through it.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    #[cfg(feature = "program-log")]
    program_log::set_level(&mut loader, &level);
    loader.map_max_entries(maps::FLOWS.name, entries);
    for spec in maps::ALL {
        loader.map_pin_path(spec.name, config.pin_path.join(spec.name));
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|error| DatapathError::refused("the maps", &error))?;
    fault::point(Point::MapsPinned);
    load_at_last(link::program(&mut ebpf)?)
        .map_err(|error| DatapathError::refused("the program", &error))?;
    #[cfg(feature = "program-log")]
    program_log::follow(&mut ebpf)?;
    Ok(ebpf)
}

/// How often the program is given to a verifier that was interrupted; libbpf does it as often.
const LOADS_MAX: usize = 5;

/// Loads a program; again when a signal came to the thread, for which the verifier gives up with
/// `EAGAIN` (`do_check` in the kernel's `verifier.c`).
///
/// # Errors
///
/// As [`Xdp::load`], when it was refused, or interrupted time and again.
pub fn load_at_last(program: &mut Xdp) -> Result<(), ProgramError> {
    let is_interrupted = |loaded: &Result<(), ProgramError>| {
        let Err(ProgramError::LoadError { io_error, .. }) = loaded else {
            return false;
        };
        io_error.kind() == ErrorKind::WouldBlock
    };
    let mut loads = 1;
    loop {
        let loaded = program.load();
        if loads == LOADS_MAX || !is_interrupted(&loaded) {
            return loaded;
        }
        loads += 1;
    }
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Refused {
        what: format!("map {name}"),
        reason: "it is not in the object".to_owned(),
    })
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error: std::error::Error + 'static>,
{
    T::try_from(take_map(ebpf, name)?)
        .map_err(|error| DatapathError::refused(format!("map {name}"), &error))
}
