//! Lives: weir-tests, the reports of a process as answers.
//! Called by: harness, live tests, the demo.
//! May touch: the process it consumes.
//! Never: makes up a report that did not come.

use std::time::Duration;

use super::{Running, SOON};
use crate::report::{Attempt, Report, Sent, Served, Withdrawn};
use crate::world::WorldError;

impl Running {
    /// The one attempt of a client, after its end.
    ///
    /// # Errors
    /// When it reported none.
    pub fn attempt(mut self) -> Result<Attempt, WorldError> {
        self.wait(Duration::from_secs(60))?;
        self.attempts().pop().ok_or_else(|| self.fault("ended without reporting an attempt".to_owned()))
    }

    /// Every attempt reported until now.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        let found = self
            .reports()
            .into_iter()
            .filter_map(|report| if let Report::Attempt(attempt) = report { Some(attempt) } else { None });
        found.collect()
    }

    /// What a sender did, after its end.
    ///
    /// # Errors
    /// When it did not say.
    pub fn sent(mut self) -> Result<Sent, WorldError> {
        self.wait(Duration::from_secs(120))?;
        let found = self
            .reports()
            .into_iter()
            .find_map(|report| if let Report::Sent(sent) = report { Some(sent) } else { None });
        found.ok_or_else(|| self.fault("ended without reporting what it sent".to_owned()))
    }

    /// Stops a server and takes its summary.
    ///
    /// # Errors
    /// When it does not stop or does not say.
    pub fn served(mut self) -> Result<Served, WorldError> {
        self.stop(SOON)?;
        let found = self
            .reports()
            .into_iter()
            .find_map(|report| if let Report::Served(served) = report { Some(served) } else { None });
        found.ok_or_else(|| self.fault("ended without reporting what it served".to_owned()))
    }

    /// Waits until it holds its connections.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn holds(&mut self) -> Result<(), WorldError> {
        self.wait_for(Duration::from_secs(60), |reports| {
            reports.iter().find(|report| matches!(report, Report::Holding { .. })).map(|_| ())
        })
    }

    /// Stops whoever holds connections and takes its summary. One whose connections have all ended has ended itself.
    ///
    /// # Errors
    /// When it does not stop or does not say.
    pub fn withdrawn(mut self) -> Result<Withdrawn, WorldError> {
        self.stop(SOON)?;
        let found = self
            .reports()
            .into_iter()
            .find_map(|report| if let Report::Withdrawn(withdrawn) = report { Some(withdrawn) } else { None });
        found.ok_or_else(|| self.fault("ended without reporting what became of its connections".to_owned()))
    }
}
