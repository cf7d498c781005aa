//! One AF_XDP socket: opening it, receiving, sending. All `unsafe` about rings and frames is here.
//! Knows nothing of what the frames mean.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::frames::FramePool;
use super::{
    FrameCounts, SendError, XskConfig, XskError, XskMode, driver_name, receive_queues,
    transmit_queues,
};

/// Shortest frame that can be sent, bytes: an Ethernet header.
pub const FRAME_LEN_MIN: usize = 14;

/// Frames that are taken from a ring at once.
const BATCH: usize = 64;

/// Wake-ups in a row by which the kernel took no frame, before a flush gives up and leaves the
/// rest to the next one.
const STALLED_WAKEUPS_MAX: u32 = 4;

/// Tries to bind a queue that is busy. The kernel releases a queue some time after its socket was
/// closed, so that the queue of a daemon that just ended is busy for a moment.
const BIND_ATTEMPTS_MAX: u32 = 25;
/// Pause between two of them.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// The kernel's own ENOTSUPP, which some drivers let through.
const ENOTSUPP: i32 = 524;

/// An AF_XDP socket on one queue of one interface, with its frames.
///
/// For one thread at a time. Dropping it gives the queue back; that waits for the driver and takes
/// milliseconds.
pub struct XskSocket {
    interface: String,
    queue: u32,
    frame_len_max: usize,
    transmit_ring: u32,
    zero_copy: bool,
    transmits: bool,
    /// By frame number, each pointing behind the headroom of its frame.
    descs: Box<[FrameDesc]>,
    receive_frames: FramePool,
    transmit_frames: FramePool,
    /// Within a packet of several frames, whose last one is still to come.
    in_multi_buffer: bool,
    multi_buffer: u64,
    strays: u64,
    // The queues hold the socket and it holds the UMEM: whatever the order of these fields, the
    // socket is closed with the last queue, and the memory goes after it.
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
}

/// What the kernel counted for a socket since it was opened, and two counts of our own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct XskStatistics {
    /// Packets dropped because no frame was there to put them in, or the packet did not fit.
    pub rx_dropped: u64,
    /// Packets dropped because the receive ring was full: user space was too slow.
    pub rx_ring_full: u64,
    /// Times that the fill ring was found empty.
    pub rx_fill_ring_empty: u64,
    /// Addresses on the fill ring that the kernel refused; never, unless there is a bug.
    pub rx_invalid: u64,
    /// Descriptors on the transmit ring that the kernel refused; never, unless there is a bug.
    pub tx_invalid: u64,
    /// Times that the transmit ring was found empty; the normal end of each wake-up.
    pub tx_ring_empty: u64,
    /// Packets in several frames, which are skipped: no connection request is that long.
    pub multi_buffer: u64,
    /// Addresses that the kernel returned without having had them; never, unless there is a bug.
    pub strays: u64,
}

/// A socket must be able to move to the engine's thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<XskSocket>();
};

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

    /// The descriptor, for the XSKMAP and for `poll`: readable when frames wait.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open until the last of the queues is dropped, and they live as
        // long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// The interface it is on.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The queue it is on.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the driver uses the socket's memory directly, as the kernel says.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether the queue is a transmit queue too.
    #[must_use]
    pub fn can_transmit(&self) -> bool {
        self.transmits
    }

    /// Longest frame that can be sent, bytes.
    #[must_use]
    pub fn frame_len_max(&self) -> usize {
        self.frame_len_max
    }

    /// Shows each waiting frame to `each`, at most `budget` of them, and gives its memory back to
    /// the kernel. Returns how many were shown.
    ///
    /// Less than `budget` means that no more were waiting. If `each` panics, the frames of its
    /// batch go back with the next call.
    pub fn receive(&mut self, budget: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut shown = 0;
        let mut batch = [FrameDesc::default(); BATCH];
        while shown < budget {
            let most = BATCH.min(budget - shown);
            // SAFETY: the descriptors are only written to, and those written are of this socket's
            // UMEM, the only one that its queue knows.
            let taken = unsafe { self.rx.consume(&mut batch[..most]) };
            let readable = self.take_back(&mut batch[..taken]);
            for desc in &batch[..readable] {
                // SAFETY: `take_back` left only descriptors whose bytes lie within one frame of
                // this UMEM that has just come back: the kernel does not have it, the fill ring
                // gets it below, after the borrow ended, and `&mut self` keeps others away.
                let data = unsafe { self.umem.data(desc) };
                each(data.contents());
            }
            shown += readable;
            self.refill();
            if taken < most {
                break;
            }
        }
        // Frames may be held although none came: from a call that panicked.
        self.refill();
        if self.fill.needs_wakeup() {
            // An error (a signal, no memory) leaves the flag standing, and the next call asks again.
            let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
        }
        shown
    }

    /// Writes a frame of `len` bytes by `write`, into zeros, and queues it for transmission; it
    /// leaves with the next [`Self::flush`].
    ///
    /// # Errors
    ///
    /// See [`SendError`]; `write` has not been called then.
    pub fn send(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Result<(), SendError> {
        if !self.transmits {
            return Err(SendError::NoTransmitQueue { queue: self.queue });
        }
        if !(FRAME_LEN_MIN..=self.frame_len_max).contains(&len) {
            return Err(SendError::Length {
                len,
                min: FRAME_LEN_MIN,
                max: self.frame_len_max,
            });
        }
        if self.transmit_frames.idle() == 0 {
            self.reap();
        }
        // A frame may be back before its slot of the transmit ring is.
        if self.tx.nb_free(1) == 0 {
            return Err(SendError::Full);
        }
        let Self {
            transmit_frames,
            descs,
            umem,
            tx,
            ..
        } = self;
        let queued = transmit_frames.lend(|frame| {
            let desc = &mut descs[frame.index()];
            // SAFETY: the descriptor is of this UMEM and of a frame on the free list: neither the
            // kernel nor anyone else has it until it is queued, after this borrow.
            let mut data = unsafe { umem.data_mut(desc) };
            data.cursor().set_pos(len);
            let bytes = data.contents_mut();
            bytes.fill(0);
            write(bytes);
            // SAFETY: the frame is of this UMEM and free, and `lend` marks it as the kernel's if
            // it was taken, so that it is not touched before its completion.
            unsafe { tx.produce_one(desc) == 1 }
        });
        if queued { Ok(()) } else { Err(SendError::Full) }
    }

    /// Makes the kernel take what is queued, and takes back the frames that left. Returns how many
    /// are still queued; they go with the next call.
    ///
    /// In copy mode the kernel takes at most 32 frames for each call, and none when the interface
    /// is down or its queue is full: it is asked until nothing is queued, or until four calls in a
    /// row changed nothing. In zero-copy mode it is asked once and the driver goes on by itself.
    ///
    /// # Errors
    ///
    /// The socket is of no more use: its interface is gone.
    pub fn flush(&mut self) -> Result<u32, XskError> {
        let mut stalled = 0;
        let mut queued = self.queued();
        while queued > 0 && stalled < STALLED_WAKEUPS_MAX && self.tx.needs_wakeup() {
            self.tx.wakeup().map_err(|source| XskError::System {
                action: "transmitting by",
                interface: self.interface.clone(),
                queue: self.queue,
                source,
            })?;
            self.reap();
            let before = std::mem::replace(&mut queued, self.queued());
            if self.zero_copy {
                break;
            }
            if queued == before {
                stalled += 1;
            } else {
                stalled = 0;
            }
        }
        self.reap();
        Ok(queued)
    }

    /// Where the frames are, as of the last call that moved any.
    #[must_use]
    pub fn frames(&self) -> FrameCounts {
        FrameCounts {
            total: self.descs.len() as u32,
            receive_home: self.receive_frames.lent(),
            receive_held: self.receive_frames.idle(),
            transmit_free: self.transmit_frames.idle(),
            transmit_in_flight: self.transmit_frames.lent(),
        }
    }

    /// What was counted since the socket was opened.
    ///
    /// # Errors
    ///
    /// What the kernel said to the question.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        let kernel = self.rx.fd().xdp_statistics()?;
        Ok(XskStatistics {
            rx_dropped: kernel.rx_dropped(),
            rx_ring_full: kernel.rx_ring_full(),
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
            rx_invalid: kernel.rx_invalid_descs(),
            tx_invalid: kernel.tx_invalid_descs(),
            tx_ring_empty: kernel.tx_ring_empty_descs(),
            multi_buffer: self.multi_buffer,
            strays: self.strays,
        })
    }

    /// Takes the received frames of `batch` from the kernel, and moves those that may be read to
    /// its front. Returns how many these are.
    fn take_back(&mut self, batch: &mut [FrameDesc]) -> usize {
        let mut readable = 0;
        for place in 0..batch.len() {
            let desc = batch[place];
            let back = self
                .receive_frames
                .take_back(desc.addr(), desc.lengths().data());
            let last = !desc.has_more_frames();
            let whole = last && !self.in_multi_buffer;
            self.multi_buffer += u64::from(last && self.in_multi_buffer);
            self.in_multi_buffer = !last;
            if back.is_err() {
                self.strays += 1;
            } else if whole {
                batch[readable] = desc;
                readable += 1;
            }
        }
        readable
    }

    /// Gives the kernel every receive frame that is here.
    fn refill(&mut self) {
        let Self {
            receive_frames,
            fill,
            descs,
            ..
        } = self;
        // SAFETY: the frame is of this UMEM and nobody's: it came back from the receive ring (or
        // is new), nothing borrows its bytes, and `lend` marks it as the kernel's if it was taken.
        while receive_frames.lend(|frame| unsafe { fill.produce_one(&descs[frame.index()]) == 1 }) {
        }
    }

    /// Takes back the frames that were sent.
    fn reap(&mut self) {
        let mut batch = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: the descriptors are only written to, and those written are of this socket's
            // UMEM, the only one that its queue knows.
            let taken = unsafe { self.completion.consume(&mut batch) };
            for desc in &batch[..taken] {
                let back = self.transmit_frames.take_back(desc.addr(), 0);
                self.strays += u64::from(back.is_err());
            }
            if taken < BATCH {
                return;
            }
        }
    }

    /// Frames on the transmit ring that the kernel did not take yet.
    fn queued(&mut self) -> u32 {
        self.transmit_ring.saturating_sub(self.tx.nb_free_exact())
    }
}

impl fmt::Debug for XskSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XskSocket")
            .field("interface", &self.interface)
            .field("queue", &self.queue)
            .field("zero_copy", &self.zero_copy)
            .field("frames", &self.frames())
            .finish_non_exhaustive()
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
