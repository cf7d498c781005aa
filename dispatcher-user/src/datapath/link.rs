//! Attaching the program: natively where the driver can, pinned so that it outlives the daemon,
//! and in place of an earlier program without a packet in between.

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use dispatcher_common::maps;
use nix::net::if_::if_nametoindex;

use super::pins::{self, LinkPin};
use super::{DatapathConfig, DatapathError, one_line, syscall};
use crate::fault::{self, Point};

/// How the program is to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// Natively, or generically with a warning where the driver cannot.
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the kernel's stack.
    Generic,
}

/// How the program was attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AttachedMode {
    /// By the driver.
    Native,
    /// By the kernel's stack.
    Generic,
}

impl AttachedMode {
    /// As in the configuration and in the status.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// An interface that the program is attached to, with a link to pin if it is not pinned yet.
struct Attached {
    pin: LinkPin,
    link: Option<FdLink>,
}

pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    let missing = || DatapathError::Refused {
        what: format!("program {}", maps::PROGRAM),
        reason: "it is not in the object".to_owned(),
    };
    let program = ebpf.program_mut(maps::PROGRAM).ok_or_else(missing)?;
    program.try_into().map_err(|_: ProgramError| missing())
}

/// The loaded program, to be attached. Apart from its maps, because a driver may take seconds to
/// attach it, in which requests are to be admitted.
pub struct Attacher {
    ebpf: Ebpf,
    /// The same again, to take its place where the driver must see another program; loaded from the
    /// start, because later the daemon may load nothing.
    spare: Ebpf,
    config: DatapathConfig,
}

impl Attacher {
    pub(super) const fn new(ebpf: Ebpf, spare: Ebpf, config: DatapathConfig) -> Self {
        Self {
            ebpf,
            spare,
            config,
        }
    }

    /// Attaches the program to every interface, or to none; returns how, in their order. From here
    /// on it forwards packets, and goes on doing so without the daemon. Where an earlier run was
    /// attached and this one is not, it is detached.
    ///
    /// # Errors
    ///
    /// When an interface does not exist, holds another program, or its driver cannot do what was
    /// asked; nothing that was not attached before is attached then.
    pub fn attach(
        &mut self,
        interfaces: &[String],
        mode: AttachMode,
    ) -> Result<Vec<AttachedMode>, DatapathError> {
        let mut attached = Vec::new();
        for interface in interfaces {
            // A link that is dropped without a pin detaches: on an error nothing new stays.
            attached.push(self.attach_one(interface, mode)?);
            fault::point(Point::LinkAttached);
        }
        let pins: Vec<LinkPin> = attached.iter().map(|one| one.pin.clone()).collect();
        for one in attached {
            self.pin(one)?;
        }
        self.remove_pins(|pin| !pins.contains(pin));
        Ok(pins.iter().map(|pin| pin.mode).collect())
    }

    /// Attaches the program to an interface that was made anew; returns how.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`]; the program is not attached there then.
    pub fn attach_anew(
        &mut self,
        interface: &str,
        mode: AttachMode,
    ) -> Result<AttachedMode, DatapathError> {
        let attached = self.attach_one(interface, mode)?;
        let pin = attached.pin.clone();
        self.pin(attached)?;
        self.remove_pins(|other| other.interface == interface && *other != pin);
        Ok(pin.mode)
    }

    /// Puts another copy of the program in its place on an interface that has more receive queues
    /// now. Drivers that change their queues while they run may not give the new ones the program
    /// (veth does not), and take no notice when they are given one that they have.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it; the earlier one stays then.
    pub fn renew(&mut self, interface: &str, mode: AttachedMode) -> Result<(), DatapathError> {
        let pin = LinkPin {
            interface: interface.to_owned(),
            mode,
        };
        let link = syscall::link_ifindex(&pin.path(&self.config.pin_path));
        let ifindex = link.map_err(|error| DatapathError::Attach {
            interface: interface.to_owned(),
            reason: format!("its pinned link cannot be read: {error}"),
        })?;
        std::mem::swap(&mut self.ebpf, &mut self.spare);
        let renewed = self.take_over(&pin, ifindex);
        if renewed.is_err() {
            std::mem::swap(&mut self.ebpf, &mut self.spare);
        }
        renewed.map(drop)
    }

    /// Detaches the program from an interface, or forgets one that is gone.
    pub fn detach(&self, interface: &str) {
        self.remove_pins(|pin| pin.interface == interface);
    }

    /// Whether the link that holds the program on the interface is still pinned.
    #[must_use]
    pub fn is_pinned(&self, interface: &str, mode: AttachedMode) -> bool {
        let interface = interface.to_owned();
        LinkPin { interface, mode }
            .path(&self.config.pin_path)
            .exists()
    }

    fn pin(&self, Attached { pin, link }: Attached) -> Result<(), DatapathError> {
        let taken_over = link.is_none();
        if let Some(link) = link {
            let path = pin.path(&self.config.pin_path);
            let _ = std::fs::remove_file(&path);
            link.pin(&path).map_err(|error| DatapathError::Attach {
                interface: pin.interface.clone(),
                reason: format!("its link cannot be pinned: {}", one_line(&error)),
            })?;
            fault::point(Point::LinkPinned);
        }
        tracing::info!(
            interface = pin.interface,
            mode = pin.mode.label(),
            taken_over,
            "attached"
        );
        Ok(())
    }

    fn attach_one(&mut self, interface: &str, mode: AttachMode) -> Result<Attached, DatapathError> {
        let fail = |reason: String| DatapathError::Attach {
            interface: interface.into(),
            reason,
        };
        let ifindex = if_nametoindex(interface)
            .map_err(|_| fail("there is no such interface; `ip link` lists them".into()))?;
        let modes: &[AttachedMode] = match mode {
            AttachMode::Auto => &[AttachedMode::Native, AttachedMode::Generic],
            AttachMode::Native => &[AttachedMode::Native],
            AttachMode::Generic => &[AttachedMode::Generic],
        };
        for &mode in modes {
            let pin = LinkPin {
                interface: interface.into(),
                mode,
            };
            if self.take_over(&pin, ifindex)? {
                return Ok(Attached { pin, link: None });
            }
        }
        let mut refusal = String::new();
        for &mode in modes {
            let xdp_mode = match mode {
                AttachedMode::Native => XdpMode::Driver,
                AttachedMode::Generic => XdpMode::Skb,
            };
            let program = program(&mut self.ebpf)?;
            match program.attach_to_if_index(ifindex, xdp_mode) {
                Ok(id) => {
                    let link = fd_link(program, id).ok_or_else(|| fail(NO_LINK.into()))?;
                    let pin = LinkPin {
                        interface: interface.into(),
                        mode,
                    };
                    return Ok(Attached {
                        pin,
                        link: Some(link),
                    });
                }
                Err(error) if mode == AttachedMode::Native && cannot_native(&error) => {
                    refusal = "its driver has no native XDP, or not at this MTU or with so few \
                               queues; use attach_mode = \"generic\""
                        .to_owned();
                    if modes.len() > 1 {
                        tracing::warn!(interface, "no native XDP here: attaching generically");
                    }
                }
                Err(error) => return Err(fail(explain(&error))),
            }
        }
        Err(fail(refusal))
    }

    /// Puts this program in the place of the one that a pinned link holds on the same interface;
    /// no packet passes in between.
    fn take_over(&mut self, pin: &LinkPin, ifindex: u32) -> Result<bool, DatapathError> {
        let path = pin.path(&self.config.pin_path);
        // Another index: the interface was removed and made anew, the link is attached to nothing.
        if syscall::link_ifindex(&path).ok() != Some(ifindex) {
            return Ok(false);
        }
        let failed = |error: &(dyn std::error::Error + 'static)| DatapathError::Attach {
            interface: pin.interface.clone(),
            reason: format!(
                "the earlier program cannot be replaced: {}",
                one_line(error)
            ),
        };
        let link = FdLink::from(PinnedLink::from_pin(&path).map_err(|error| failed(&error))?);
        let link = XdpLink::try_from(link).map_err(|error| failed(&error))?;
        let program = program(&mut self.ebpf)?;
        let id = program
            .attach_to_link(link)
            .map_err(|error| failed(&error))?;
        // The pin alone holds it, as it holds a new one: else `unload` would not detach.
        drop(program.take_link(id).map_err(|error| failed(&error))?);
        fault::point(Point::LinkUpdated);
        Ok(true)
    }

    fn remove_pins(&self, which: impl Fn(&LinkPin) -> bool) {
        for pin in pins::links(&self.config.pin_path).unwrap_or_default() {
            if which(&pin) {
                let _ = std::fs::remove_file(pin.path(&self.config.pin_path));
            }
        }
    }
}

const NO_LINK: &str = "the kernel gave no BPF link; it must be 5.9 or newer";

fn fd_link(program: &mut Xdp, id: XdpLinkId) -> Option<FdLink> {
    program.take_link(id).ok()?.try_into().ok()
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// The driver has no native XDP (EOPNOTSUPP), or not with this MTU or these features (ERANGE,
/// EINVAL), or not with so few receive queues (ENOSPC: veth, when the peer sends on more).
fn cannot_native(error: &ProgramError) -> bool {
    matches!(
        errno(error),
        Some(libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL | libc::ENOSPC)
    )
}

fn explain(error: &ProgramError) -> String {
    match errno(error) {
        Some(libc::EBUSY | libc::EEXIST) => {
            "it has another XDP program; `bpftool net` shows which; `dispatcher unload` removes \
             one of ours"
                .to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => "run as root".to_owned(),
        _ => one_line(error),
    }
}
