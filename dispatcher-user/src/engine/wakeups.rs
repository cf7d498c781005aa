//! What wakes the admission thread: messages, connection requests, and events that the program does
//! not leave for later. By epoll, since poll(2) would look at every descriptor each time.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The thread sleeps on this.
pub(super) struct Wakeups(Epoll);

const MESSAGE: u64 = 0;
const PACKET: u64 = 1;

impl Wakeups {
    /// By messages in `inbox`, and by whatever `others` have to read.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn by<'fd>(
        inbox: impl AsFd,
        others: impl Iterator<Item = BorrowedFd<'fd>>,
    ) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(inbox, EpollEvent::new(EpollFlags::EPOLLIN, MESSAGE))?;
        for fd in others {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, PACKET))?;
        }
        Ok(Self(epoll))
    }

    /// Sleeps, and tells whether there are messages.
    pub(super) fn wait(&self, timeout: EpollTimeout) -> bool {
        let mut ready = [EpollEvent::empty(); 8];
        // An interruption is one more reason to look.
        let count = self.0.wait(&mut ready, timeout).unwrap_or(0);
        ready[..count].iter().any(|one| one.data() == MESSAGE)
    }
}
