//! What the program tells of packets. Only with the feature `program-log`: the map that it goes
//! through is of the old kind, which bpftool does not load.

use aya::EbpfLoader;
use aya_log::{EbpfLogger, Level};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Datapath, DatapathError};

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

impl Datapath {
    /// Has what the program tells in the log from now on. Within tokio.
    ///
    /// # Errors
    ///
    /// When its ring cannot be read.
    pub fn follow_program_log(&mut self) -> Result<(), DatapathError> {
        let refused = |error: &(dyn std::error::Error + 'static)| {
            DatapathError::refused("to read what the program tells", error)
        };
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(|error| refused(&error))?;
        // SAFETY: the logger owns the ring's descriptor, which stays the same until it is dropped,
        // and it is owned by what is made of it here.
        let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = registered.map_err(|error| refused(&error))?;
        tokio::spawn(async move {
            while let Ok(mut told) = logger.readable_mut().await {
                told.get_inner_mut().flush();
                told.clear_ready();
            }
        });
        Ok(())
    }
}
