//! Word that something about links changed, for who looks at them by itself. What changed is not
//! told: whoever looks at the state of things misses nothing, however many changes were lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// `RTMGRP_LINK` of `linux/rtnetlink.h`.
const LINKS: u32 = 1;

/// A socket that is readable after a link changed, appeared or went.
pub struct LinkEvents(Socket);

impl LinkEvents {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINKS))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes all that was told; returns whether anything was.
    pub fn drain(&self) -> bool {
        let mut told = false;
        let mut beginning = [0; 64];
        loop {
            match self.0.recv(&mut &mut beginning[..], 0) {
                Ok(_) => told = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return told,
                // More was told than there was room for, which is word enough.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => told = true,
                Err(_) => return told,
            }
        }
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
