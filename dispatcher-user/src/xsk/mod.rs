//! AF_XDP: the door between the XDP program and user space. Frames that the program punts come in
//! here, frames that the engine makes go out here; nothing here knows what is in them.
//!
//! One [`XskSocket`] is one receive queue of one interface, with memory of its own (a UMEM): no
//! two sockets share frames, so their modes and their lives are independent. A request is copied
//! out of its frame at once, so a frame never outlives the call that shows it.
//!
//! A frame is always in one of four places, and [`FrameCounts`] says how many are where:
//!
//! ```text
//! receive:   the kernel's (fill ring → driver → receive ring) ⇄ held, while it is being read
//! transmit:  free, on the free list                           ⇄ in flight (transmit → completion)
//! ```
//!
//! # Threads
//!
//! A socket belongs to one thread at a time: every operation takes `&mut self`, there is no lock,
//! and the rings have one user-space end each. It is `Send`, so it may be opened in one thread and
//! used in another; it is not `Sync`. Different sockets may be used by different threads.
//!
//! A descriptor registered with `poll` or `epoll` is no second user, but in copy mode polling it
//! makes the kernel transmit what is queued, like [`XskSocket::flush`].
//!
//! This module is the only one that names `xsk_rs`.

mod config;
mod error;
mod frames;
mod queues;
mod socket;

pub use config::{
    FRAME_SIZE_DEFAULT, FRAME_SIZE_JUMBO, RECEIVE_RING_DEFAULT, RING_MAX, TRANSMIT_RING_DEFAULT,
    XskConfig, XskMode, ZERO_COPY_DRIVERS, frame_size_for_mtu,
};
pub use error::{SendError, XskError};
pub use frames::FrameCounts;
pub use queues::{driver_name, receive_queues, transmit_queues};
pub use socket::{FRAME_LEN_MIN, XskSocket, XskStatistics};
