//! Lives: weir-tests, what can go wrong around the running programs.
//! Called by: harness.
//! May touch: nothing.
//! Never: leaves out what the program itself said.

use crate::world::WorldError;

/// Why the harness could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// The world or one of its processes.
    #[error(transparent)]
    World(#[from] WorldError),
    /// Something did not come about in time.
    #[error("waited too long for {what}\n{logs}")]
    Waited {
        /// What was awaited.
        what: String,
        /// Ends of the logs.
        logs: String,
    },
    /// A file of ours.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// weirctl failed where it must not.
    #[error("weirctl {arguments}: {status}\n{said}")]
    Ctl {
        /// How it was called.
        arguments: String,
        /// Its exit status.
        status: String,
        /// Its output.
        said: String,
    },
    /// weirctl could not be started.
    #[error("starting {program} (is it built? `cargo xtask build`)")]
    Start {
        /// Which program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The output of weirctl is not what it promises.
    #[error("output of weirctl {arguments}:\n{said}")]
    Output {
        /// How it was called.
        arguments: String,
        /// What does not fit.
        source: serde_json::Error,
        /// Its output.
        said: String,
    },
}
