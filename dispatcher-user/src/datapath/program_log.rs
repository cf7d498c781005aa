//! What the program tells of packets. Only with the feature `program-log`: the map that it goes
//! through is of the old kind, which bpftool does not load.

use std::os::fd::AsFd;
use std::thread;

use aya::{Ebpf, EbpfLoader};
use aya_log::{EbpfLogger, Level};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::DatapathError;

/// Below every [`Level`]: the verifier then removes all of it from the program.
const SILENT: u8 = 0;

/// Has the program tell what the log of this process would show, and no more.
pub(super) fn set_level<'a>(loader: &mut EbpfLoader<'a>, level: &'a u8) {
    loader.override_global(aya_log::LEVEL, level, true);
}

/// What the log of this process shows of the program.
pub(super) fn level() -> u8 {
    if tracing::enabled!(target: "dispatcher_ebpf", tracing::Level::DEBUG) {
        Level::Debug as u8
    } else {
        SILENT
    }
}

/// Has what the program tells in the log from now on.
///
/// # Errors
///
/// When its ring cannot be read.
pub(super) fn follow(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        DatapathError::refused("to read what the program tells", error)
    };
    let mut logger = EbpfLogger::init(ebpf).map_err(|error| refused(&error))?;
    let told = move || {
        while poll(
            &mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )
        .is_ok()
        {
            logger.flush();
        }
    };
    thread::Builder::new()
        .name("program-log".to_owned())
        .spawn(told)
        .map(drop)
        .map_err(|error| refused(&error))
}
