//! The least that AF_XDP can do with a frame: it is sent back from where it lies, with its
//! addresses exchanged. One socket, one thread, batches, no copy.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dispatcher_tests::bpf::{MapKind, Mode, attach_xdp, create_map, update};
use dispatcher_user::xsk::{RECEIVE_RING_DEFAULT, TRANSMIT_RING_DEFAULT};
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::programs;

/// Frames that are taken at once.
const BATCH: usize = 64;
/// How long to sleep for a frame, milliseconds.
const PATIENCE: i32 = 1;

struct Echo {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Frames that are on their way out.
    in_flight: usize,
}

/// Sends back what comes to a device of this thread's network namespace, until it is told to stop;
/// then tells how much of a processor that took.
pub fn run(device: &str, stop: &AtomicBool, ready: &AtomicBool) -> io::Result<Duration> {
    let mut echo = Echo::open(device)?;
    let sockets = create_map(MapKind::Sockets, 4, 4, 1)?;
    let socket = echo.rx.fd().as_raw_fd().to_ne_bytes();
    // SAFETY: keys and values are four bytes.
    unsafe { update(sockets.as_raw_fd(), &[0; 4], &socket) }?;
    let program = programs::punter(&sockets)?;
    let _link = attach_xdp(&program, if_nametoindex(device)?, Mode::Native)?;
    ready.store(true, Ordering::Release);
    while !stop.load(Ordering::Relaxed) {
        echo.turn()?;
    }
    let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(used.into())
}

impl Echo {
    fn open(device: &str) -> io::Result<Self> {
        // As the daemon's sockets are.
        let (receive, transmit) = (RECEIVE_RING_DEFAULT, TRANSMIT_RING_DEFAULT);
        let ring = |slots| QueueSize::new(slots).map_err(io::Error::other);
        let umem = UmemConfig::builder()
            .fill_queue_size(ring(receive)?)
            .comp_queue_size(ring(transmit)?)
            .build()
            .map_err(io::Error::other)?;
        let frames = receive.try_into().map_err(io::Error::other)?;
        let (umem, descs) = Umem::new(umem, frames, false).map_err(io::Error::other)?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring(receive)?)
            .tx_queue_size(ring(transmit)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let device: Interface = device.parse().map_err(io::Error::other)?;
        // SAFETY: the UMEM is new and not shared, so nothing is bound by it yet.
        let made = unsafe { Socket::new(config, &umem, &device, 0) };
        let (tx, rx, rings) = made.map_err(io::Error::other)?;
        let (mut fill, completion) = rings.ok_or_else(|| io::Error::other("no rings"))?;
        // SAFETY: the frames are of this UMEM and new.
        let filled = unsafe { fill.produce(&descs) };
        assert_eq!(filled, descs.len(), "the ring has a slot for each frame");
        Ok(Self {
            umem,
            rx,
            tx,
            fill,
            completion,
            in_flight: 0,
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut batch = [FrameDesc::default(); BATCH];
        // SAFETY: what is written to the descriptors is of this UMEM.
        let taken = unsafe { self.rx.poll_and_consume(&mut batch, PATIENCE)? };
        for desc in &mut batch[..taken] {
            // SAFETY: the frame has just come from the receive ring, and nobody else has it until
            // it is queued below.
            let mut data = unsafe { self.umem.data_mut(desc) };
            exchange(data.contents_mut());
        }
        let mut left = &batch[..taken];
        while !left.is_empty() {
            // SAFETY: the frames are of this UMEM, came from the receive ring and are touched no
            // more before they are back.
            let queued = unsafe { self.tx.produce(left) };
            self.in_flight += queued;
            left = &left[queued..];
            self.send()?;
        }
        // In copy mode the kernel takes 32 frames at a call.
        let mut calls = taken.div_ceil(32);
        while calls > 0 && self.in_flight > 0 {
            self.send()?;
            calls -= 1;
        }
        Ok(())
    }

    /// Has the kernel send, and gives it back the frames that were sent.
    fn send(&mut self) -> io::Result<()> {
        if self.tx.needs_wakeup() {
            self.tx.wakeup()?;
        }
        let mut batch = [FrameDesc::default(); BATCH];
        // SAFETY: what is written to the descriptors is of this UMEM.
        let sent = unsafe { self.completion.consume(&mut batch) };
        self.in_flight -= sent;
        // SAFETY: the frames are of this UMEM and came back from the completion ring.
        let filled = unsafe { self.fill.produce(&batch[..sent]) };
        assert_eq!(filled, sent, "the ring has a slot for each frame");
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.rx.fd_mut(), 0)?;
        }
        Ok(())
    }
}

/// Exchanges the Ethernet and IPv4 addresses of receiver and sender. No checksum changes by it.
fn exchange(frame: &mut [u8]) {
    let Some(head) = frame.first_chunk_mut::<34>() else {
        return;
    };
    let (receiver, sender) = head[..12].split_at_mut(6);
    receiver.swap_with_slice(sender);
    let (source, destination) = head[26..].split_at_mut(4);
    source.swap_with_slice(destination);
}
