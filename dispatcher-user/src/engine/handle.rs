//! How the rest of the daemon talks to the admission thread: messages in, answers by channel. The
//! thread itself never waits for anyone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use dispatcher_common::control::TICK_MS;
use dispatcher_common::flow::{FlowEntry, FlowKey};
use dispatcher_common::tcp::Phase;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{oneshot, watch};

use super::clock;
use super::configure::Roster;
use super::plan::NoRoom;
use super::sockets::InterfaceNow;
use crate::admin::{FlowFilter, QueueFilter};
use crate::admission::{BackendId, BackendState, ServiceId, ServiceWindow};
use crate::config::Config;
use crate::datapath::FlowTable;
use crate::network::NetworkView;
use crate::status::{FlowRow, FlowState, QueueRow, Status};
use crate::xsk::XskSocket;

/// Messages that may wait for the thread; it takes all of them each turn.
const MESSAGES_MAX: usize = 256;

/// When a message that found no room is sent again.
const RETRY: Duration = Duration::from_millis(10);

const STOPPING: &str = "the daemon is stopping";

/// What the thread can be asked.
pub(super) enum Message {
    Network(Arc<NetworkView>),
    Status(oneshot::Sender<Status>),
    Queue(QueueFilter, oneshot::Sender<Vec<QueueRow>>),
    Window(ServiceId, oneshot::Sender<Option<ServiceWindow>>),
    Adjust(Vec<Adjustment>),
    Configure(Arc<Config>, oneshot::Sender<Result<Roster, NoRoom>>),
    Alive(oneshot::Sender<()>),
    Stop,
    Interface(InterfaceNow, oneshot::Sender<Vec<XskSocket>>),
}

/// What is to change of a back-end; what is not given stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adjustment {
    /// The back-end.
    pub backend: BackendId,
    /// Its ceiling.
    pub ceiling: Option<u32>,
    /// Whether it takes new flows.
    pub state: Option<BackendState>,
    /// How long its responses took; within, nothing where there were none: it is not known to be
    /// slow, then.
    pub response_time: Option<Option<Duration>>,
    /// Whether the connections that it has are to be reset.
    pub reset: Option<bool>,
}

impl Adjustment {
    /// Nothing is to change.
    #[must_use]
    pub const fn of(backend: BackendId) -> Self {
        Self {
            backend,
            ceiling: None,
            state: None,
            response_time: None,
            reset: None,
        }
    }
}

/// The thread's end.
pub(super) struct Inbox {
    messages: Receiver<Message>,
    waker: Arc<EventFd>,
}

impl Inbox {
    /// The next message, if one waits.
    pub(super) fn next(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Takes note that the thread was woken for messages, before it looks for them.
    pub(super) fn woken(&self) {
        // Nothing to read means that somebody else's message was taken along.
        let _ = self.waker.read();
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

/// Names by address, for flows that are read from the map.
pub(super) type Names = HashMap<SocketAddr, (Arc<str>, HashMap<SocketAddr, Arc<str>>)>;

/// Talks to the admission thread; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    messages: SyncSender<Message>,
    waker: Arc<EventFd>,
    names: watch::Receiver<Arc<Names>>,
    pin_path: PathBuf,
}

/// Both ends of the channel, and where the thread tells the names.
pub(super) fn channel(pin_path: PathBuf) -> Result<(Handle, Inbox, watch::Sender<Arc<Names>>)> {
    let (named, names) = watch::channel(Arc::default());
    let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .context("cannot make an eventfd")?;
    let waker = Arc::new(waker);
    let (sender, messages) = sync_channel(MESSAGES_MAX);
    let inbox = Inbox {
        messages,
        waker: Arc::clone(&waker),
    };
    Ok((
        Handle {
            messages: sender,
            waker,
            names,
            pin_path,
        },
        inbox,
        named,
    ))
}

impl Handle {
    /// Sends what must not be lost: while there is no room, it waits.
    pub(super) async fn tell(&self, mut message: Message) -> Result<()> {
        loop {
            match self.send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => bail!(STOPPING),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        self.messages.try_send(message)?;
        // It can only fail when the count is at its end, and then the thread is awake.
        let _ = self.waker.write(1);
        Ok(())
    }

    /// Asks, and waits for room to do so.
    async fn insist<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.tell(message(answer)).await?;
        answered.await.map_err(|_| anyhow!(STOPPING))
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        match self.send(message(answer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                bail!("{MESSAGES_MAX} questions wait already; ask again later")
            }
            Err(TrySendError::Disconnected(_)) => bail!(STOPPING),
        }
        answered.await.map_err(|_| anyhow!(STOPPING))
    }

    /// The whole picture, without what is measured elsewhere.
    ///
    /// # Errors
    ///
    /// When the thread is stopping, or too many ask.
    pub async fn status(&self) -> Result<Status> {
        self.ask(Message::Status).await
    }

    /// Flows that the filter lets through. Reads the table beside the thread, which has no time
    /// for a million rows.
    ///
    /// # Errors
    ///
    /// When the table cannot be read.
    pub async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowRow>> {
        let Self {
            names, pin_path, ..
        } = self.clone();
        let names = Arc::clone(&names.borrow());
        tokio::task::spawn_blocking(move || flows(&names, &pin_path, &filter)).await?
    }

    /// Requests that wait and that the filter lets through, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Self::status`].
    pub async fn queue(&self, filter: QueueFilter) -> Result<Vec<QueueRow>> {
        self.ask(|answer| Message::Queue(filter, answer)).await
    }

    /// What admission measured of a service since this was last asked. While too many ask, it
    /// waits: ceilings must go on being moved.
    ///
    /// # Errors
    ///
    /// When the thread is stopping.
    pub async fn window(&self, service: ServiceId) -> Result<Option<ServiceWindow>> {
        self.insist(|answer| Message::Window(service, answer)).await
    }

    /// Returns when the thread has answered, which costs it nothing. While too many ask, it waits.
    ///
    /// # Errors
    ///
    /// When the thread is stopping.
    pub async fn answers(&self) -> Result<()> {
        self.insist(Message::Alive).await
    }

    /// Changes back-ends.
    ///
    /// # Errors
    ///
    /// When the thread is stopping.
    pub async fn adjust(&self, adjustments: Vec<Adjustment>) -> Result<()> {
        self.tell(Message::Adjust(adjustments)).await
    }

    /// Makes the services and back-ends those of the configuration, all of them between two
    /// requests.
    ///
    /// # Errors
    ///
    /// When there is no room for them, or as [`Self::status`]; then nothing has changed.
    pub async fn configure(&self, config: Arc<Config>) -> Result<Roster> {
        let configured = self.ask(|answer| Message::Configure(config, answer));
        Ok(configured.await??)
    }

    /// Tells the thread what has become of an interface; returns the sockets that it has no more
    /// use for. Blocks until then, for a thread that may.
    ///
    /// # Errors
    ///
    /// When the thread is stopping.
    pub(super) fn change_interface(&self, now: InterfaceNow) -> Result<Vec<XskSocket>> {
        let (answer, answered) = oneshot::channel();
        let mut message = Message::Interface(now, answer);
        loop {
            match self.send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => bail!(STOPPING),
            }
            std::thread::sleep(RETRY);
        }
        answered.blocking_recv().map_err(|_| anyhow!(STOPPING))
    }

    /// Gives the thread a new view of the network.
    ///
    /// # Errors
    ///
    /// When the thread is stopping.
    pub async fn set_network(&self, view: Arc<NetworkView>) -> Result<()> {
        self.tell(Message::Network(view)).await
    }
}

fn flows(names: &Names, pin_path: &Path, filter: &FlowFilter) -> Result<Vec<FlowRow>> {
    let now = clock::ticks(clock::now());
    let table = FlowTable::open_pinned(pin_path)?;
    let mut found = Vec::new();
    table.for_each_forward(|key, entry| {
        if found.len() < filter.limit {
            found.extend(row(names, filter, now, key, entry));
        }
    })?;
    // Counts of the other direction are in the other entry.
    for (key, row) in &mut found {
        if let Some(pair) = table.get(key) {
            row.packets_out = pair.reply.packets;
            row.bytes_out = pair.reply.bytes;
            let last_seen = pair.forward.last_seen.max(pair.reply.last_seen);
            row.idle_seconds = seconds_since(last_seen, now);
        }
    }
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

fn row(
    names: &Names,
    filter: &FlowFilter,
    now: u32,
    key: &FlowKey,
    entry: &FlowEntry,
) -> Option<(FlowKey, FlowRow)> {
    let (service, backends) = names.get(&(key.dst.ip(), key.dst_port.number()).into())?;
    let to = entry.translation;
    let backend = backends.get(&(to.addr.ip(), to.port.number()).into())?;
    let phase = Phase(entry.phase);
    let wanted = filter
        .service
        .as_ref()
        .is_none_or(|name| **name == **service)
        && filter
            .backend
            .as_ref()
            .is_none_or(|name| **name == **backend)
        && filter.client.is_none_or(|client| client == key.src.ip());
    let row = FlowRow {
        service: service.to_string(),
        backend: backend.to_string(),
        client: (key.src.ip(), key.src_port.number()).into(),
        state: match phase {
            _ if phase.is_ended() => FlowState::Ended,
            _ if phase.is_closing() => FlowState::Closing,
            _ if phase.is_established() => FlowState::Active,
            _ => FlowState::HalfOpen,
        },
        packets_in: entry.packets,
        packets_out: 0,
        bytes_in: entry.bytes,
        bytes_out: 0,
        age_seconds: seconds_since(entry.installed, now),
        idle_seconds: seconds_since(entry.last_seen, now),
    };
    wanted.then_some((*key, row))
}

fn seconds_since(then: u32, now: u32) -> f64 {
    f64::from(now.saturating_sub(then)) * TICK_MS as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_question_too_many_is_refused_and_what_must_not_be_lost_waits() {
        let (handle, inbox, _named) = channel(PathBuf::new()).unwrap();
        let mut waiting: Vec<_> = (0..MESSAGES_MAX)
            .map(|_| Box::pin(handle.status()))
            .collect();
        for question in &mut waiting {
            assert!(question.now_or_never().is_none(), "nobody answers yet");
        }
        let refused = handle.status().now_or_never().unwrap().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "256 questions wait already; ask again later"
        );

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let told = tokio::spawn({
                let handle = handle.clone();
                async move { handle.adjust(Vec::new()).await }
            });
            tokio::time::sleep(100 * RETRY).await;
            assert!(!told.is_finished(), "there is no room");
            assert!(matches!(inbox.next(), Some(Message::Status(_))));
            told.await.unwrap().unwrap();
        });
        let rest: Vec<_> = std::iter::from_fn(|| inbox.next()).collect();
        assert_eq!(rest.len(), MESSAGES_MAX);
        assert!(matches!(rest.last(), Some(Message::Adjust(_))));
    }
}
