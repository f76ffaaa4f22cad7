//! Lives: weir-tests, the errors of building and running a world.
//! Called by: world, process, harness.
//! May touch: nothing.
//! Never: hides what was tried, on which object, or what to look at.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// Why a world could not be built, used or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A file operation failed.
    #[error("{action} {path}")]
    File {
        /// What was tried, as "creating".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A system call on a namespace or process failed.
    #[error("{action} for {object} (namespaces need root with CAP_SYS_ADMIN and CAP_NET_ADMIN)")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// The system's answer.
        source: Errno,
    },
    /// A netlink request failed.
    #[error("{action} for {object}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// On which interface or namespace.
        object: String,
        /// The kernel's answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A link that was just made is not there.
    #[error("interface {0} is not there after it was made")]
    NoLink(String),
    /// A program could not be started.
    #[error("starting {program} (is it built? `cargo xtask build`)")]
    Start {
        /// Which program.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No cgroup2 mount.
    #[error("no cgroup2 is mounted (/proc/self/mountinfo): mount one with `mount -t cgroup2 none DIR`")]
    NoCgroup2,
    /// A link stayed down.
    #[error("interface {0} does not carry packets 10 s after it was raised")]
    NotInService(String),
    /// A thread that worked inside a namespace ended by a panic.
    #[error("the thread working in namespace {0} panicked")]
    Thread(String),
    /// Processes of a world survived being killed.
    #[error("processes in {0} are still there 5 s after SIGKILL; see its cgroup.procs")]
    Survivors(PathBuf),
    /// A helper process did not do what it must in time, or ended wrongly.
    #[error("{name}: {problem}; its output: {log}")]
    Process {
        /// Which process.
        name: String,
        /// What went wrong.
        problem: String,
        /// Where its output is.
        log: PathBuf,
    },
}

/// Adds the action and path to an I/O error.
pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> WorldError {
    let path = path.into();
    move |source| WorldError::File { action, path, source }
}

/// Adds the action and object to an errno.
pub(crate) fn system(action: &'static str, object: impl Into<String>) -> impl FnOnce(Errno) -> WorldError {
    let object = object.into();
    move |source| WorldError::System { action, object, source }
}

/// The error and all that is underneath, in one line.
pub(crate) fn chain(error: &WorldError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
