//! What can go wrong with a socket, in words that say what to do. Decides nothing.

use std::io;

use super::config::{FRAME_SIZE_DEFAULT, FRAME_SIZE_JUMBO, RING_MAX};

/// Why a socket could not be opened, or is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// No such interface here.
    #[error("interface {interface} does not exist in this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The interface is down.
    #[error("interface {interface} is down: bring it up with `ip link set {interface} up`")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// The queue's number is too high.
    #[error("queue {queue} of {interface} does not exist: it has {queues}, numbered from 0")]
    NoQueue {
        /// Name of the interface.
        interface: String,
        /// The queue that was asked for.
        queue: u32,
        /// Queues that there are.
        queues: u32,
    },
    /// Another socket has the queue.
    #[error(
        "queue {queue} of {interface} already has an AF_XDP socket: is another dispatcher running?"
    )]
    Busy {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// Not allowed.
    #[error(
        "opening an AF_XDP socket on {interface} is not permitted: it needs root, or CAP_NET_RAW, \
         CAP_NET_ADMIN and CAP_BPF"
    )]
    NotPermitted {
        /// Name of the interface.
        interface: String,
    },
    /// The driver cannot do zero-copy, or not in this state.
    #[error(
        "driver {driver} of {interface} cannot do zero-copy ({source}); use xsk_mode = \"copy\""
    )]
    NoZeroCopy {
        /// Name of the interface.
        interface: String,
        /// Name of its driver.
        driver: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory cannot be had or not be locked.
    #[error(
        "no {bytes} bytes of locked memory for the AF_XDP socket on queue {queue} of {interface} \
         ({source}): raise the limit (`ulimit -l`, LimitMEMLOCK=) or give CAP_IPC_LOCK"
    )]
    NoMemory {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Bytes that were asked for.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")]
    NotSupported,
    /// A frame size that the kernel would not take.
    #[error(
        "a frame of {frame_size} bytes is not possible: {FRAME_SIZE_DEFAULT} or {FRAME_SIZE_JUMBO}"
    )]
    FrameSize {
        /// What was asked for.
        frame_size: u32,
    },
    /// A ring size that the kernel would not take.
    #[error("a {ring} ring of {slots} slots is not possible: a power of two, at most {RING_MAX}")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// What was asked for.
        slots: u32,
    },
    /// Anything else that the kernel said.
    #[error("{action} the AF_XDP socket on queue {queue} of {interface}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a frame was not queued for transmission. Nothing was written then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// All transmit frames are on their way. [`flush`](super::XskSocket::flush) and try again, or
    /// drop it and count it.
    #[error("all transmit frames are in flight")]
    Full,
    /// The frame is too short or too long.
    #[error("a frame of {len} bytes cannot be sent: {min} to {max}")]
    Length {
        /// Its length, bytes.
        len: usize,
        /// Shortest, bytes.
        min: usize,
        /// Longest, bytes.
        max: usize,
    },
    /// The interface has fewer transmit queues than receive queues, and this socket's is not among
    /// them: the kernel would keep the frame for ever. Send by the socket on queue 0.
    #[error("queue {queue} is a receive queue only")]
    NoTransmitQueue {
        /// The socket's queue.
        queue: u32,
    },
}
