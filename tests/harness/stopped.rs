//! One thread of another process, stopped as if it were stuck; the others go on.

use std::fs;

use anyhow::{Result, bail, ensure};
use libc::{PTRACE_DETACH, PTRACE_INTERRUPT, PTRACE_SEIZE, c_uint, pid_t};
use nix::unistd::Pid;

/// Goes on when this is dropped, on the thread that stopped it.
#[derive(Debug)]
pub struct StoppedThread(pid_t);

impl StoppedThread {
    /// Stops the thread of this name.
    pub fn stop(process: Pid, name: &str) -> Result<Self> {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim_end() != name {
                continue;
            }
            let thread = task.file_name().to_string_lossy().parse()?;
            request(PTRACE_SEIZE, thread)?;
            let stopped = Self(thread);
            request(PTRACE_INTERRUPT, thread)?;
            let mut status = 0;
            // SAFETY: `status` is a place for one status, ours for as long as the call takes.
            let waited = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
            ensure!(
                waited == thread && libc::WIFSTOPPED(status),
                "thread {name} did not stop: {waited}, status {status:#x}"
            );
            return Ok(stopped);
        }
        bail!("process {process} has no thread {name}")
    }

    /// Takes notice of its end, without which the kernel keeps its process for whoever traces it.
    pub fn let_go(&self) {
        let mut status = 0;
        // SAFETY: `status` is a place for one status, ours for as long as the call takes.
        unsafe { libc::waitpid(self.0, &mut status, libc::__WALL | libc::WNOHANG) };
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // It can only fail when the thread has ended.
        let _ = request(PTRACE_DETACH, self.0);
    }
}

fn request(request: c_uint, thread: pid_t) -> Result<()> {
    // SAFETY: none of the three requests reads or writes memory of ours; address and data are 0.
    let done = unsafe { libc::ptrace(request, thread, 0_usize, 0_usize) };
    ensure!(done == 0, std::io::Error::last_os_error());
    Ok(())
}
