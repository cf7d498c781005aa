//! What passed a wire while something else went on, and what can be told from it: checksums,
//! options, and how many connections there were at once.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dispatcher_common::header::TcpFlags;

use crate::netns::Namespace;
use crate::topology::ENDPOINT_DEVICE;
use crate::wire::{Frame, PacketSocket, Segment, verify_checksums};

/// A capture that runs, from [`Self::start`] on.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Vec<Frame>>>,
}

impl Capture {
    /// Starts to record every frame at an endpoint's device; returns when it records.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        Self::start_at(namespace, ENDPOINT_DEVICE)
    }

    /// As [`Self::start`], at any device. A tag of a frame that came in is not in its bytes: the
    /// kernel has taken it off by then.
    pub fn start_at(namespace: &Namespace, device: &str) -> Result<Self> {
        let socket = namespace.enter(|| PacketSocket::open(device))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || record(&socket, &stopped));
        Ok(Self { stop, reader })
    }

    /// Ends it. Fails when frames were lost, since nothing could be concluded then.
    pub fn stop(self) -> Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        let frames = self.reader.join();
        let frames = frames.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Recording { frames })
    }
}

/// Reads until told to stop, then what is left in the buffer.
fn record(socket: &PacketSocket, stop: &AtomicBool) -> Result<Vec<Frame>> {
    const PATIENCE: Duration = Duration::from_millis(20);
    let mut frames = Vec::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        match socket.receive(PATIENCE)? {
            Some(frame) => frames.push(frame),
            None if stopping => break,
            None => {}
        }
    }
    let lost = socket.lost()?;
    ensure!(
        lost == 0,
        "the capture lost {lost} frames after {}",
        frames.len()
    );
    Ok(frames)
}

/// The frames of a capture, in order.
#[derive(Clone, Debug)]
pub struct Recording {
    /// As they passed.
    pub frames: Vec<Frame>,
}

impl Recording {
    /// The TCP segments among them.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        self.frames
            .iter()
            .filter_map(|frame| Segment::parse(&frame.bytes))
    }

    /// Fails with the first frame whose checksums are wrong, and when there was no TCP at all.
    pub fn verify_checksums(&self) -> Result<()> {
        for (number, frame) in self.frames.iter().enumerate() {
            verify_checksums(&frame.bytes).with_context(|| {
                let way = if frame.outgoing { "out" } else { "in" };
                match Segment::parse(&frame.bytes) {
                    Some(segment) => format!("frame {number} ({way}): {segment:?}"),
                    None => format!("frame {number} ({way}): {:02x?}", frame.bytes),
                }
            })?;
        }
        ensure!(self.segments().next().is_some(), "no TCP segment was seen");
        Ok(())
    }

    /// Connection requests to `service`, in order.
    pub fn requests(&self, service: SocketAddr) -> impl Iterator<Item = Segment> {
        self.segments()
            .filter(move |segment| segment.destination == service)
            .filter(|segment| segment.flags.is_connection_request())
    }

    /// The most connections to `service` at once, as seen here.
    ///
    /// One begins with its SYN. It ends when both sides' FINs have passed, or an RST: a moment
    /// before the last acknowledgement, which may arrive after the SYN of a successor that was
    /// sent another way.
    #[must_use]
    pub fn most_connections(&self, service: SocketAddr) -> usize {
        let mut open: HashMap<SocketAddr, (bool, bool)> = HashMap::new();
        let mut most = 0;
        for segment in self.segments() {
            let inbound = segment.destination == service;
            if !inbound && segment.source != service {
                continue;
            }
            let client = if inbound {
                segment.source
            } else {
                segment.destination
            };
            if segment.flags.is_connection_request() {
                open.entry(client).or_default();
                most = most.max(open.len());
                continue;
            }
            let Some((client_fin, service_fin)) = open.get_mut(&client) else {
                continue;
            };
            let fin = segment.has(TcpFlags::FIN);
            *client_fin |= fin && inbound;
            *service_fin |= fin && !inbound;
            if (*client_fin && *service_fin) || segment.has(TcpFlags::RST) {
                open.remove(&client);
            }
        }
        most
    }

    /// The most handshakes that a service at this address had at once and that were not finished: a
    /// SYN went to it, and neither its client's next segment nor an RST of either side came after.
    #[must_use]
    pub fn most_half_open(&self, service: SocketAddr) -> usize {
        let mut open = HashSet::new();
        let mut most = 0;
        for segment in self.segments() {
            if segment.destination == service && segment.flags.is_connection_request() {
                open.insert(segment.source);
                most = most.max(open.len());
            } else if segment.destination == service {
                open.remove(&segment.source);
            } else if segment.source == service && segment.has(TcpFlags::RST) {
                open.remove(&segment.destination);
            }
        }
        most
    }
}
