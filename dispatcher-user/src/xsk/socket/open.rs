//! Opening a socket: its memory, its binding to a queue, and what an error of the kernel means.
//! Moves no frame but the first ones.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{FrameDesc, Socket, Umem};

use super::XskSocket;
use crate::xsk::frames::FramePool;
use crate::xsk::{XskConfig, XskError, XskMode, driver_name, receive_queues, transmit_queues};

/// Tries to bind a queue that is busy. The kernel releases a queue some time after its socket was
/// closed, so that the queue of a daemon that just ended is busy for a moment.
const BIND_ATTEMPTS_MAX: u32 = 25;
/// Pause between two of them.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// The kernel's own ENOTSUPP, which some drivers let through.
const ENOTSUPP: i32 = 524;

impl XskSocket {
    /// Opens a socket on `queue` of `interface`, in the network namespace of the calling thread,
    /// and gives the kernel all receive frames.
    ///
    /// No XDP program is loaded or attached: frames arrive when the caller's program redirects
    /// them, by an XSKMAP that has [`Self::fd`]. A queue that is busy is tried again for a quarter
    /// of a second, the only time that this sleeps.
    ///
    /// # Errors
    ///
    /// Each for one line to the operator; see [`XskError`].
    pub fn open(interface: &str, queue: u32, config: &XskConfig) -> Result<Self, XskError> {
        config.validate()?;
        if_nametoindex(interface).map_err(|_| XskError::NoInterface {
            interface: interface.to_owned(),
        })?;
        match config.mode {
            XskMode::Copy => Self::open_in_mode(interface, queue, config, false),
            XskMode::ZeroCopy => Self::open_in_mode(interface, queue, config, true),
            XskMode::Auto => {
                let known = driver_name(interface).is_ok_and(|name| XskMode::is_known_good(&name));
                match Self::open_in_mode(interface, queue, config, known) {
                    Err(XskError::NoZeroCopy { .. }) => {
                        Self::open_in_mode(interface, queue, config, false)
                    }
                    result => result,
                }
            }
        }
    }

    fn open_in_mode(
        interface: &str,
        queue: u32,
        config: &XskConfig,
        zero_copy: bool,
    ) -> Result<Self, XskError> {
        let attempt = Attempt {
            interface,
            queue,
            config,
            zero_copy,
        };
        let mut tries = 1;
        loop {
            match attempt.bind() {
                Err((Stage::Bind, error))
                    if error.raw_os_error() == Some(libc::EBUSY) && tries < BIND_ATTEMPTS_MAX =>
                {
                    tries += 1;
                    std::thread::sleep(BIND_PAUSE);
                }
                Err((stage, error)) => return Err(attempt.explain(stage, error)),
                Ok(socket) => return Ok(socket),
            }
        }
    }
}

/// How far opening came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Making and registering the memory.
    Memory,
    /// Binding to the queue.
    Bind,
}

/// One way of opening a socket.
struct Attempt<'a> {
    interface: &'a str,
    queue: u32,
    config: &'a XskConfig,
    zero_copy: bool,
}

impl Attempt<'_> {
    fn bind(&self) -> Result<XskSocket, (Stage, io::Error)> {
        let config = self.config;
        let n_receive = config.receive_frames(self.zero_copy);
        let total = n_receive + config.transmit_ring;
        let (umem, descs) = self
            .make_umem(n_receive, total)
            .map_err(|error| (Stage::Memory, error))?;
        let mode = if self.zero_copy {
            BindFlags::XDP_ZEROCOPY
        } else {
            BindFlags::XDP_COPY
        };
        let bind = |error| (Stage::Bind, error);
        let socket_config = SocketConfig::builder()
            .rx_queue_size(ring(config.receive_ring).map_err(bind)?)
            .tx_queue_size(ring(config.transmit_ring).map_err(bind)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = self
            .interface
            .parse()
            .map_err(|error| bind(io::Error::other(error)))?;
        // SAFETY: the UMEM is new and not shared, so nothing is bound by it yet; and no program is
        // loaded with the socket.
        let made = unsafe { Socket::new(socket_config, &umem, &name, self.queue) };
        let (tx, rx, rings) = made.map_err(|error| bind(cause(error)))?;
        let (fill, completion) =
            rings.ok_or_else(|| bind(io::Error::other("no fill and completion rings")))?;
        let zero_copy = is_zero_copy(rx.fd().as_raw_fd()).map_err(bind)?;
        let transmits = transmit_queues(self.interface).map_err(bind)? > self.queue;
        let mut socket = XskSocket {
            interface: self.interface.to_owned(),
            queue: self.queue,
            frame_len_max: config.frame_len_max(),
            transmit_ring: config.transmit_ring,
            zero_copy,
            transmits,
            descs: descs.into(),
            receive_frames: FramePool::new(0, n_receive, config.frame_size),
            transmit_frames: FramePool::new(n_receive, config.transmit_ring, config.frame_size),
            in_multi_buffer: false,
            multi_buffer: 0,
            strays: 0,
            rx,
            tx,
            fill,
            completion,
            umem,
        };
        socket.refill();
        Ok(socket)
    }

    fn make_umem(&self, fill_ring: u32, frames: u32) -> io::Result<(Umem, Vec<FrameDesc>)> {
        let frame_size = FrameSize::new(self.config.frame_size).map_err(io::Error::other)?;
        let config = UmemConfig::builder()
            .frame_size(frame_size)
            .fill_queue_size(ring(fill_ring)?)
            .comp_queue_size(ring(self.config.transmit_ring)?)
            .build()
            .map_err(io::Error::other)?;
        let frames = frames
            .try_into()
            .map_err(|_| io::Error::other("a UMEM without frames"))?;
        Umem::new(config, frames, false).map_err(cause)
    }

    /// Says what an error of the kernel means here.
    fn explain(&self, stage: Stage, source: io::Error) -> XskError {
        let interface = self.interface.to_owned();
        let queue = self.queue;
        let errno = source.raw_os_error().unwrap_or(0);
        match (stage, errno) {
            (_, libc::EPERM | libc::EACCES) => XskError::NotPermitted { interface },
            (_, libc::ENOMEM | libc::ENOBUFS) => XskError::NoMemory {
                interface,
                queue,
                bytes: self.config.memory_bytes(self.zero_copy),
                source,
            },
            (Stage::Memory, libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => XskError::NotSupported,
            (Stage::Bind, libc::EBUSY) => XskError::Busy { interface, queue },
            (Stage::Bind, libc::ENETDOWN) => XskError::InterfaceDown { interface },
            (Stage::Bind, libc::ENODEV) => XskError::NoInterface { interface },
            (Stage::Bind, libc::EINVAL) if queue >= self.queues() => XskError::NoQueue {
                queues: self.queues(),
                interface,
                queue,
            },
            (Stage::Bind, libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP) if self.zero_copy => {
                XskError::NoZeroCopy {
                    driver: driver_name(&interface).unwrap_or_else(|_| "unknown".to_owned()),
                    interface,
                    source,
                }
            }
            (Stage::Memory | Stage::Bind, _) => XskError::System {
                action: match stage {
                    Stage::Memory => "making the memory of",
                    Stage::Bind => "binding",
                },
                interface,
                queue,
                source,
            },
        }
    }

    /// Queues that the kernel lets a socket bind to: of either kind.
    fn queues(&self) -> u32 {
        let receive = receive_queues(self.interface).unwrap_or(0);
        receive.max(transmit_queues(self.interface).unwrap_or(0))
    }
}

fn ring(slots: u32) -> io::Result<QueueSize> {
    QueueSize::new(slots).map_err(io::Error::other)
}

/// The kernel's error within one of the library's.
fn cause(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let errno = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error);
    errno.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
}

fn is_zero_copy(socket: i32) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut len = size_of::<libc::xdp_options>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `options`, which is that long, and a number
    // to `len`; both are borrowed exclusively over the call.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            std::ptr::from_mut(&mut options).cast(),
            &raw mut len,
        )
    };
    Errno::result(result)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(stage: Stage, errno: i32, queue: u32, zero_copy: bool) -> String {
        let attempt = Attempt {
            interface: "lo",
            queue,
            config: &XskConfig::default(),
            zero_copy,
        };
        attempt
            .explain(stage, io::Error::from_raw_os_error(errno))
            .to_string()
    }

    #[test]
    fn what_the_kernel_refuses_is_said_in_one_line_with_what_to_do() {
        for (stage, errno, line) in [
            (
                Stage::Bind,
                libc::EBUSY,
                "queue 0 of lo already has an AF_XDP socket: is another dispatcher running?",
            ),
            (
                Stage::Memory,
                libc::EPERM,
                "opening an AF_XDP socket on lo is not permitted: it needs root, or CAP_NET_RAW, \
                 CAP_NET_ADMIN and CAP_BPF",
            ),
            (
                Stage::Bind,
                libc::ENETDOWN,
                "interface lo is down: bring it up with `ip link set lo up`",
            ),
            (
                Stage::Memory,
                libc::EAFNOSUPPORT,
                "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
            ),
            (
                Stage::Memory,
                libc::ENOBUFS,
                "no 6291456 bytes of locked memory for the AF_XDP socket on queue 0 of lo (No \
                 buffer space available (os error 105)): raise the limit (`ulimit -l`, \
                 LimitMEMLOCK=) or give CAP_IPC_LOCK",
            ),
            (
                Stage::Bind,
                libc::EIO,
                "binding the AF_XDP socket on queue 0 of lo: Input/output error (os error 5)",
            ),
        ] {
            assert_eq!(explained(stage, errno, 0, false), line);
        }
    }

    #[test]
    fn an_invalid_argument_is_a_missing_queue_or_missing_zero_copy() {
        assert_eq!(
            explained(Stage::Bind, libc::EINVAL, 7, true),
            "queue 7 of lo does not exist: it has 1, numbered from 0"
        );
        for errno in [libc::EINVAL, libc::EOPNOTSUPP, ENOTSUPP] {
            let line = explained(Stage::Bind, errno, 0, true);
            assert!(
                line.starts_with("driver unknown of lo cannot do zero-copy ("),
                "{line}"
            );
            assert!(line.ends_with("; use xsk_mode = \"copy\""), "{line}");
        }
    }

    #[test]
    fn an_interface_that_does_not_exist_is_named() {
        let error = XskSocket::open("no-such-if", 0, &XskConfig::default()).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "interface no-such-if does not exist in this network namespace"
        );
    }
}
