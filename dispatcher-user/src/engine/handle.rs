//! How the rest of the daemon talks to the admission thread: messages in, answers by channel. The
//! thread itself never waits for anyone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::clock;
use crate::datapath::FlowTable;
use crate::network::NetworkView;
use crate::status::{QueueList, Status};

/// Messages that may wait for the thread; it takes all of them each turn.
const MESSAGES_MAX: usize = 256;

/// What the thread can be asked.
pub(super) enum Message {
    Network(Arc<NetworkView>),
    Status(oneshot::Sender<Arc<Status>>),
    Queue { service: Option<String>, limit: usize, answer: oneshot::Sender<QueueList> },
    Stop,
}

/// The thread's end.
pub(super) struct Inbox {
    messages: Receiver<Message>,
    waker: Arc<EventFd>,
}

impl Inbox {
    /// The next message, if one waits.
    pub(super) fn next(&self) -> Option<Message> {
        let message = self.messages.try_recv().ok();
        if message.is_none() {
            // Nothing to read means that nobody woke the thread.
            let _ = self.waker.read();
            return self.messages.try_recv().ok();
        }
        message
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
    names: Arc<Names>,
    pin_path: PathBuf,
}

/// Both ends of the channel.
pub(super) fn channel(names: Names, pin_path: PathBuf) -> Result<(Handle, Inbox)> {
    let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .context("cannot make an eventfd")?;
    let waker = Arc::new(waker);
    let (sender, messages) = sync_channel(MESSAGES_MAX);
    let inbox = Inbox { messages, waker: Arc::clone(&waker) };
    Ok((Handle { messages: sender, waker, names: Arc::new(names), pin_path }, inbox))
}

impl Handle {
    pub(super) fn send(&self, message: Message) -> Result<()> {
        match self.messages.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => bail!("the daemon is busy with {MESSAGES_MAX} questions"),
            Err(TrySendError::Disconnected(_)) => bail!("the daemon is stopping"),
        }
        // It can only fail when the count is at its end, and then the thread is awake.
        let _ = self.waker.write(1);
        Ok(())
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(message(answer))?;
        answered.await.map_err(|_| anyhow!("the daemon is stopping"))
    }
}
