//! Ctrl-C and SIGTERM as a flag that loops look at, so that everything is taken down in order.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on both signals only set the flag.
pub fn catch() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { sigaction(signal, &action) }.context("cannot catch signals")?;
    }
    Ok(())
}

/// Whether one of them came.
#[must_use]
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Says that it was heeded; the exit code of a program that a Ctrl-C has ended.
#[must_use]
pub fn heeded() -> ExitCode {
    const SIGINT_EXIT: u8 = 130;
    println!("\ninterrupted; everything was removed");
    ExitCode::from(SIGINT_EXIT)
}

/// Sleeps until `end` or a signal; whether it was no signal.
#[must_use]
pub fn sleep_until(end: Instant) -> bool {
    const LOOK: Duration = Duration::from_millis(20);
    while !requested() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(LOOK));
    }
    false
}
