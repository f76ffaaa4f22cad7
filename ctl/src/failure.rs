//! Lives: ctl.
//! Called by: everything that can fail; `main` turns it into an exit code.
//! May touch: nothing.
//! Never: gives one code two meanings. The table is printed by `weirctl --help`.

use std::io;

use weir_transport::TransportError;

/// How a run ended, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done. For explain and policy eval: allowed. For policy diff: nothing changes.
    Done,
    /// Explain, policy eval: denied.
    Denied,
    /// The output names what is wrong: policy check found faults, a policy test failed, the doctor found what prevents enforcement.
    Faulty,
    /// Policy diff: something changes.
    Changed,
}

/// Why a run did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The service understood and said no.
    #[error("{0}")]
    Refused(String),
    /// What was asked makes no sense, or names a file that cannot be read.
    #[error("{0}")]
    Usage(String),
    /// The service cannot be reached.
    #[error("cannot reach {service} at {endpoint}: {why}")]
    Unreachable {
        /// Who.
        service: &'static str,
        /// Where.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// Certificates or addresses given on the command line cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// Output cannot be encoded.
    #[error("cannot write the output as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Outcome {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Faulty => 1,
            Self::Denied => 4,
            Self::Changed => 5,
        }
    }
}

impl Failure {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Output(_) | Self::Json(_) => 1,
            Self::Usage(_) | Self::Transport(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }

    /// Whether the reader of our output has gone away, which is its right.
    pub fn is_broken_pipe(&self) -> bool {
        let kind = match self {
            Self::Output(error) => Some(error.kind()),
            Self::Json(error) => error.io_error_kind(),
            Self::Refused(_) | Self::Usage(_) | Self::Unreachable { .. } | Self::Transport(_) => None,
        };
        kind == Some(io::ErrorKind::BrokenPipe)
    }
}
