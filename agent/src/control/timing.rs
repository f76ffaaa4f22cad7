//! Lives: weir-agent, control.
//! Called by: `apply`, as it goes; `view`, which shows what was measured.
//! May touch: its own numbers.
//! Never: measures a dry run, which changes nothing.

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;

use super::{Applied, ControlError};

/// Upper ends in seconds: a small change takes some ten milliseconds, most of them a grace period; everything from scratch seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What part of a change took the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the documents.
    Parse,
    /// Making the tables of the change.
    Compile,
    /// Writing them and switching, until nothing judges by the generation before; also for generations that nobody asked for.
    Install,
    /// A whole request that changed something, with saving it and attaching.
    Whole,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In force.
    Applied,
    /// It says what is in force already.
    Unchanged,
    /// Its documents are faulty, or name what is not there.
    Refused,
    /// The kernel did not take it over.
    Failed,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Parse, Self::Compile, Self::Install, Self::Whole];

    /// The word in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Compile => "compile",
            Self::Install => "install",
            Self::Whole => "whole",
        }
    }
}

impl Outcome {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Applied, Self::Unchanged, Self::Refused, Self::Failed];

    /// The word in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn of(ended: &Result<Applied, ControlError>) -> Self {
        match ended {
            Ok(applied) if !applied.faults.is_empty() => Self::Refused,
            Ok(applied) if applied.changes.iter().all(|change| change.action == super::Action::Unchanged) => {
                Self::Unchanged
            }
            Ok(_) => Self::Applied,
            Err(ControlError::Faulty(_) | ControlError::NotFound(_)) => Self::Refused,
            Err(
                ControlError::Install { .. }
                | ControlError::Empty(_)
                | ControlError::Stored { .. }
                | ControlError::Damaged { .. }
                | ControlError::Newer { .. }
                | ControlError::Read { .. }
                | ControlError::PolicyDir(_)
                | ControlError::End(_)
                | ControlError::Set(_)
                | ControlError::Counters(_)
                | ControlError::Busy
                | ControlError::Stopping,
            ) => Self::Failed,
        }
    }
}

/// How changes of the policy went, since the start.
#[derive(Clone, Debug)]
pub struct Timing {
    phases: [Histogram; Phase::ALL.len()],
    outcomes: [u64; Outcome::ALL.len()],
}

impl Default for Timing {
    fn default() -> Self {
        Self { phases: Phase::ALL.map(|_| Histogram::new(BUCKETS)), outcomes: [0; Outcome::ALL.len()] }
    }
}

impl Timing {
    /// Notes how long a phase took that began then.
    pub fn phase(&self, phase: Phase, begin: Instant) {
        let [parse, compile, install, whole] = &self.phases;
        let histogram = match phase {
            Phase::Parse => parse,
            Phase::Compile => compile,
            Phase::Install => install,
            Phase::Whole => whole,
        };
        histogram.observe(begin.elapsed().as_secs_f64());
    }

    /// Notes how a request ended that began then.
    pub fn request(&mut self, ended: &Result<Applied, ControlError>, begin: Instant) {
        let outcome = Outcome::of(ended);
        if outcome == Outcome::Applied {
            self.phase(Phase::Whole, begin);
        }
        if let Some(count) = self.outcomes.get_mut(outcome as usize) {
            *count += 1;
        }
    }

    /// How long each phase took.
    pub fn phases(&self) -> impl Iterator<Item = (Phase, &Histogram)> {
        Phase::ALL.into_iter().zip(&self.phases)
    }

    /// How requests ended.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::ALL.into_iter().zip(self.outcomes)
    }
}
