//! Places at which a test has the daemon killed, as a crash there would: what it leaves behind is
//! for the next start to put right. Only debug builds have them.

/// Names the point, and after a colon the pass at which it kills, from 1: `flow-installed:3`.
pub const VARIABLE: &str = "DISPATCHER_FAULT";

macro_rules! points {
    ($($(#[doc = $doc:literal])* $variant:ident = $label:literal;)*) => {
        /// A place between two steps that belong together.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Point { $($(#[doc = $doc])* $variant,)* }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As [`VARIABLE`] names it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

points! {
    /// All maps are made and pinned, the program is not loaded.
    MapsPinned = "maps-pinned";
    /// The program's maps say what the daemon wants, nobody reads them yet.
    ControlTold = "control-told";
    /// The program is on one more interface, and would leave it with the daemon.
    LinkAttached = "link-attached";
    /// The link to one more interface is pinned.
    LinkPinned = "link-pinned";
    /// The program is in the place of an earlier one on one more interface.
    LinkUpdated = "link-updated";
    /// One more half of a flow was removed.
    HalfRemoved = "half-removed";
    /// One more flow of an earlier daemon is about to be counted.
    AdoptingFlow = "adopting-flow";
    /// A request has a slot and an entry in user space's table, none in the kernel's.
    SlotTaken = "slot-taken";
    /// The reply entry of a flow is installed, the forward entry is not.
    FirstEntryInstalled = "first-entry-installed";
    /// Both are, and the SYN waits.
    FlowInstalled = "flow-installed";
    /// The SYN is in the transmit ring; the kernel does not know.
    SynQueued = "syn-queued";
    /// Events are out of the ring; what they free is not given to anybody.
    EventsTaken = "events-taken";
    /// The entries of some flows are removed; others may have been admitted in their place.
    EntriesRemoved = "entries-removed";
    /// It is noted in the kernel that a connection ends; neither end hears of it.
    FlowCut = "flow-cut";
    /// Both ends of a connection are to hear of its end; it still counts.
    ResetQueued = "reset-queued";
    /// They have heard of it; late packets are still translated.
    ResetsSent = "resets-sent";
    /// It is known what another configuration changes.
    ChangePlanned = "change-planned";
    /// Who goes is gone, who comes is not there.
    OldRemoved = "old-removed";
    /// One more new back-end has nothing counted under its number.
    CountsForgotten = "counts-forgotten";
    /// Services that went are gone from the program's table, others are not in it.
    ServicesGone = "services-gone";
    /// One more link is no longer pinned.
    LinkUnpinned = "link-unpinned";
    /// One more map is no longer pinned.
    MapUnpinned = "map-unpinned";
}

/// Passes a point, and does not come back if that is the one to die at.
#[inline(always)]
pub fn point(point: Point) {
    #[cfg(debug_assertions)]
    armed::pass(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::{Point, VARIABLE};

    struct Fault {
        at: Point,
        /// Until it kills.
        left: AtomicU32,
    }

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (label, pass) = text.split_once(':')?;
        Some(Fault {
            at: *Point::ALL.iter().find(|point| point.label() == label)?,
            left: AtomicU32::new(pass.parse().ok()?),
        })
    });

    pub(super) fn pass(point: Point) {
        let Some(fault) = FAULT.as_ref().filter(|fault| fault.at == point) else {
            return;
        };
        if fault.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nothing is tidied up, as nothing is after a crash.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }
}
