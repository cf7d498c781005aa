//! What the daemon may do: once its configuration is read no more than setting up takes, and once
//! everything is open no more than running takes. What is given up cannot be had back.
//!
//! Capabilities are each thread's own, and a new thread has those of the one that made it. So the
//! first step is taken before there are others, and the second by every thread for itself.

use std::fmt;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// What setting up takes, as the unit gives it: BPF and PERFMON load the program and make its maps.
/// NET_BIND_SERVICE is for metrics at a port below 1024, where it is there.
const SETTING_UP: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_NET_BIND_SERVICE,
];

/// What running takes: NET_ADMIN has the kernel keep neighbours, NET_RAW and IPC_LOCK open AF_XDP
/// sockets on an interface that comes back. Maps are read and written by descriptors, which take no
/// capability.
const RUNNING: [Capability; 3] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
];

/// The capabilities that a thread has kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept(Vec<Capability>);

impl fmt::Display for Kept {
    /// `NET_ADMIN, NET_RAW`, as the unit and the manual name them; `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(ToString::to_string);
        let names: Vec<_> = names
            .map(|name| name.trim_start_matches("CAP_").to_owned())
            .collect();
        if names.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&names.join(", "))
    }
}

/// Gives up what setting up does not take, and whatever a program that were executed could gain.
/// To be called while there is no other thread.
///
/// # Errors
///
/// When the kernel refuses, as where capset(2) is filtered.
pub fn begin() -> Result<Kept> {
    prctl::set_no_new_privs().context("cannot give up gaining privileges")?;
    let emptied = || {
        caps::clear(None, CapSet::Ambient)?;
        // Without SETPCAP, as under the unit, it stays as it was set there; nothing comes of it
        // after no_new_privs.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            caps::clear(None, CapSet::Bounding)?;
        }
        caps::clear(None, CapSet::Inheritable)
    };
    emptied().context(GIVING_UP)?;
    keep(&SETTING_UP)
}

/// Gives up, for this thread, what running does not take.
///
/// # Errors
///
/// As [`begin`].
pub fn settle() -> Result<Kept> {
    keep(&RUNNING)
}

/// As [`settle`], for a thread that has nobody to tell: it does not run with more.
pub fn settle_or_abort() {
    if let Err(error) = settle() {
        tracing::error!("{error:#}");
        std::process::abort();
    }
}

const GIVING_UP: &str = "cannot give up capabilities";

/// Those of `wanted` that the thread has, and no others.
fn keep(wanted: &[Capability]) -> Result<Kept> {
    let kept = || {
        let has = caps::read(None, CapSet::Permitted)?;
        let kept: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|one| has.contains(one))
            .collect();
        let set: CapsHashSet = kept.iter().copied().collect();
        // What is effective must be permitted at all times.
        caps::set(None, CapSet::Effective, &set)?;
        caps::set(None, CapSet::Permitted, &set)?;
        Ok::<_, caps::errors::CapsError>(Kept(kept))
    };
    kept().context(GIVING_UP)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn running_takes_nothing_that_setting_up_does_not() {
        assert!(RUNNING.iter().all(|one| SETTING_UP.contains(one)));
    }

    #[test]
    fn kept_ones_are_named_as_the_unit_names_them() {
        let kept = Kept(vec![Capability::CAP_NET_RAW, Capability::CAP_BPF]);
        assert_eq!(kept.to_string(), "NET_RAW, BPF");
        assert_eq!(Kept(Vec::new()).to_string(), "none");
    }

    #[test]
    fn what_a_thread_gives_up_it_has_no_more_and_others_keep() {
        let permitted = || caps::read(None, CapSet::Permitted).unwrap();
        let before = permitted();
        let gone = || {
            assert_eq!(keep(&[]).unwrap(), Kept(Vec::new()));
            assert!(permitted().is_empty());
            // Asking for more brings none back.
            assert_eq!(settle().unwrap(), Kept(Vec::new()));
            thread::spawn(move || assert!(permitted().is_empty()))
                .join()
                .unwrap();
        };
        thread::scope(|scope| scope.spawn(gone).join().unwrap());
        assert_eq!(permitted(), before);
    }
}
