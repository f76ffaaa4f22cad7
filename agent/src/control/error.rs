//! Lives: weir-agent, control.
//! Called by: whoever asks control for something.
//! May touch: nothing.
//! Never: stands for faults of documents; those are part of an answer.

use std::{io, path::PathBuf};

use weir_policy::{Fault, ResourceId};

use crate::datapath::DatapathError;

/// Why control could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The kernel did not take a generation over; the one before stays in force.
    #[error("generation {generation} could not be installed, the one before stays in force: {source}")]
    Install {
        /// The generation.
        generation: u64,
        /// Why.
        source: DatapathError,
    },
    /// A policy without resources does not compile: a defect, or an impossible host.
    #[error("an empty policy does not compile: {}", list(.0))]
    Empty(Vec<Fault>),
    /// The resources do not compile once some are deleted.
    #[error("what would remain is faulty, nothing was changed: {}", list(.0))]
    Faulty(Vec<Fault>),
    /// Resources that are not there.
    #[error("not found, nothing was changed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<ResourceId>),
    /// The last good policy is not readable.
    #[error("the last good policy {} is faulty; correct it, or delete it to start without: {}", path.display(), list(faults))]
    Stored {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        faults: Vec<Fault>,
    },
    /// The last good policy is not as it was written.
    #[error(
        "the last good policy {} is damaged: it was cut off or changed since it was written. Put a copy of it back; or take its second \
         line out, to have it as it is; or delete it to start without. What is in force stays so until then",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The last good policy was written by a later version.
    #[error("the last good policy {} cannot be read", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which format.
        source: super::format::Newer,
    },
    /// A file of the policy or of the state directory is not readable.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The policy directory's files are faulty and nothing else is there to put in force.
    #[error("the policy directory is faulty and there is no last good policy: {}", list(.0))]
    PolicyDir(Vec<Fault>),
    /// An end of a question.
    #[error("{0}")]
    End(#[from] super::explain::EndError),
    /// What was loaded into an address set could not be changed.
    #[error(transparent)]
    Set(#[from] super::sets::SetError),
    /// The kernel's counters could not be read.
    #[error("the kernel's counters could not be read: {0}")]
    Counters(#[source] DatapathError),
    /// Too many commands wait already.
    #[error("the agent is busy with earlier requests; try again")]
    Busy,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}
