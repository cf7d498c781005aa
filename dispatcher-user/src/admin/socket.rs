//! The file of the admin socket: made with its mode, never taken from a running daemon, removed at
//! the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::UnixListener;

/// Root and the group of the socket's owner.
const SOCKET_MODE: u32 = 0o660;
/// Of a directory that has to be made for it.
const DIRECTORY_MODE: u32 = 0o750;
/// Connections that wait to be accepted: who comes when it is full is told so at once, and the
/// commands try again.
const BACKLOG: i32 = 1024;

/// Removes the file when the daemon stops, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours {
            // Nothing can be done about a failure; the next start copes with a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds to `path`, and makes its directory if need be.
pub(super) fn listen_at(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    let shown = path.display();
    if let Some(directory) = path.parent() {
        let mut make = DirBuilder::new();
        make.recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .with_context(|| format!("cannot make directory {}", directory.display()))?;
    }
    remove_stale(path)?;
    let listener = bound(path).with_context(|| format!("cannot bind admin socket {shown}"))?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    let inode = fs::symlink_metadata(path)
        .with_context(|| format!("cannot look at {shown}"))?
        .ino();
    let file = SocketFile {
        path: path.to_path_buf(),
        inode,
    };
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, file))
}

/// The mode is set before the file exists too, so that it is never wider than meant.
fn bound(path: &Path) -> nix::Result<StdListener> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(StdListener::from(socket))
}

/// Removes the socket of a daemon that is gone.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
    };
    if !file.file_type().is_socket() {
        bail!("admin socket {shown} exists and is no socket; remove it or configure another path");
    }
    match probed(path) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path)
            .with_context(|| format!("cannot remove stale admin socket {shown}")),
        Ok(()) | Err(Errno::EAGAIN) => {
            bail!("another daemon answers at {shown}; stop it or configure another admin.socket")
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot tell whether a daemon answers at {shown}"))
        }
    }
}

/// What is at the path of an admin socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SocketState {
    /// Nothing, or the socket of a daemon that is gone.
    #[default]
    Free,
    /// A daemon, which answers.
    Answers,
    /// Something that is no socket.
    NotASocket,
    /// It cannot be told, or no directory can be made for it; why.
    Unusable(String),
}

/// Looks at the path of an admin socket, and touches nothing.
#[must_use]
pub fn socket_state(path: &Path) -> SocketState {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return SocketState::Free,
        Err(error) => return SocketState::Unusable(error.to_string()),
    };
    if !file.file_type().is_socket() {
        return SocketState::NotASocket;
    }
    match probed(path) {
        Err(Errno::ECONNREFUSED) => SocketState::Free,
        Ok(()) | Err(Errno::EAGAIN) => SocketState::Answers,
        Err(error) => SocketState::Unusable(error.desc().to_owned()),
    }
}

/// Connects without waiting: a daemon whose backlog is full is a daemon too, by `EAGAIN`.
fn probed(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
}
