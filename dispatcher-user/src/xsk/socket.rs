//! One AF_XDP socket in use: receiving, sending. Knows nothing of what the frames mean.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use super::frames::FramePool;
use super::{FrameCounts, SendError, XskError};

mod open;

/// Shortest frame that can be sent, bytes: an Ethernet header.
pub const FRAME_LEN_MIN: usize = 14;

/// Frames that are taken from a ring at once.
const BATCH: usize = 64;

/// Wake-ups in a row by which the kernel took no frame, before a flush gives up and leaves the
/// rest to the next one.
const STALLED_WAKEUPS_MAX: u32 = 4;

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
    /// Packets dropped because no frame was there to put them in: in copy mode, user space was too
    /// slow. Or the packet was too long for a frame.
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

impl XskStatistics {
    /// Packets that were for this socket and did not reach user space, whatever the reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full + self.multi_buffer
    }
}

/// A socket must be able to move to the engine's thread.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<XskSocket>();
};

impl XskSocket {
    /// The descriptor, for the XSKMAP and for `poll`: readable when frames wait. That the interface
    /// went away makes no event here; netlink tells, or the next [`Self::flush`].
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

    /// Takes up how many transmit queues the interface has now.
    pub fn set_transmit_queues(&mut self, queues: u32) {
        self.transmits = self.queue < queues;
    }

    /// Longest frame that can be sent, bytes.
    #[must_use]
    pub fn frame_len_max(&self) -> usize {
        self.frame_len_max
    }

    /// Shows each waiting frame to `each`, and gives its memory back to the kernel; takes at most
    /// `budget` of them, those included that cannot be shown (see [`XskStatistics`]). Returns how
    /// many were shown.
    ///
    /// If `each` panics, the rest of its batch is lost and the memory goes back with the next call.
    pub fn receive(&mut self, budget: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut shown = 0;
        let mut left = budget;
        let mut batch = [FrameDesc::default(); BATCH];
        while left > 0 {
            let most = BATCH.min(left);
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
            left -= taken;
            self.refill();
            if taken < most {
                break;
            }
        }
        // Frames may be held although none came: from a call that panicked, or because the kernel
        // had not yet said that it emptied a slot.
        self.refill();
        if self.fill.needs_wakeup() {
            // An error (a signal, no memory) leaves the flag standing, and the next call asks.
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
