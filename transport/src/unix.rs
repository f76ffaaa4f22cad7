//! Lives: transport.
//! Called by: `incoming`, to open a Unix socket and to judge who connects.
//! May touch: the socket file and the directory it lies in.
//! Never: removes what is not a socket, or a socket somebody answers on.
//!
//! The kernel's word for the caller (`SO_PEERCRED`) is what decides; the file mode only keeps others from knocking. With
//! root alone allowed it is 0600. With other users listed it is 0666, since they need write permission to connect and
//! need not share a group.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::net::UnixListener;

use crate::TransportError;

/// A socket file of ours, removed when dropped unless somebody else has put another in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

/// Whether a user may use a socket with this list. Root and the service's own user always may: both could reach into the
/// service by other means anyway.
#[must_use]
pub fn is_allowed(uid: u32, allowed_uids: &[u32]) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw() || allowed_uids.contains(&uid)
}

/// Opens the socket, in place of a stale one.
pub(crate) fn bind(path: &Path, allowed_uids: &[u32]) -> Result<(UnixListener, SocketFile), TransportError> {
    let listen = |source| TransportError::Listen { address: path.display().to_string(), source };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(listen)?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(listen)?;
    let own = nix::unistd::geteuid().as_raw();
    let mode = if allowed_uids.iter().all(|uid| *uid == 0 || *uid == own) { 0o600 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(listen)?;
    let meta = fs::symlink_metadata(path).map_err(listen)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode: (meta.dev(), meta.ino()) }))
}

fn remove_stale(path: &Path) -> Result<(), TransportError> {
    let listen = |source| TransportError::Listen { address: path.display().to_string(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(listen(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(TransportError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match probe(path) {
        Err(Errno::ECONNREFUSED) => {
            tracing::info!(path = %path.display(), "replacing a stale socket file");
            fs::remove_file(path).map_err(listen)
        }
        Err(Errno::ENOENT) => Ok(()),
        // EAGAIN is a listener whose queue is full: alive.
        Ok(()) | Err(Errno::EAGAIN) => Err(TransportError::Live { path: path.to_owned() }),
        Err(errno) => Err(listen(errno.into())),
    }
}

/// Knocks without waiting.
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let knock = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(knock.as_raw_fd(), &UnixAddr::new(path)?)
}
