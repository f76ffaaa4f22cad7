//! Lives: weir-agent, between its logic and the kernel side.
//! Called by: `control` and `telemetry`, through the traits.
//! May touch: the kernel side's own functions, nothing behind them.
//! Never: adds behaviour; what is decided is decided on either side of here.

use std::sync::Arc;

use std::{collections::BTreeMap, io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use weir_common::event::{DropBytes, Event, LimitStats};
use weir_policy::{Compiled, CompiledWorkload, Prefix, ResourceId, sets::Loaded};

use crate::{
    datapath::{
        Adopted, CounterCell, Datapath, DatapathError, DropReasons, EventSource, Fill, InterfaceSeen, LimitTable,
        Merged, Observed, OthersLost, ProgramRuns, SetCount, Shield,
    },
    kernel::{self, Events, Kernel},
};

impl Datapath for Kernel {
    fn install(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), DatapathError> {
        Self::install_with(self, compiled, loaded)?;
        Ok(())
    }

    fn numbers(&self) -> BTreeMap<ResourceId, u32> {
        Self::numbers(self).clone()
    }

    fn reload_sets(&mut self, compiled: &Compiled, loaded: &Loaded) -> Result<(), DatapathError> {
        Ok(Self::reload_sets(self, compiled, loaded)?)
    }

    fn change_sets(&mut self, loaded: &Loaded, prefix: Prefix) -> bool {
        Self::change_sets(self, loaded, prefix)
    }

    fn set_counts(&self) -> Result<BTreeMap<String, SetCount>, DatapathError> {
        Ok(Self::set_counts(self)?)
    }

    fn set_bytes(&self) -> usize {
        Self::set_bytes(self)
    }

    fn reconcile(&mut self, workloads: &[Arc<CompiledWorkload>]) -> Observed {
        Self::reconcile(self, workloads)
    }

    fn counters(&self) -> Result<Vec<CounterCell>, DatapathError> {
        Ok(Self::counters(self)?)
    }

    fn others_lost(&self) -> Result<OthersLost, DatapathError> {
        Ok(Self::others_lost(self)?)
    }

    fn limit_stats(&self, limits: usize) -> Result<Vec<LimitStats>, DatapathError> {
        Ok(Self::limit_stats(self, limits)?)
    }

    fn limit_table(&self) -> Result<LimitTable, DatapathError> {
        Ok(Self::limit_table(self)?)
    }

    fn shields(&self) -> Result<Vec<Shield>, DatapathError> {
        Ok(Self::shields(self)?)
    }

    fn seen(&self) -> Result<Vec<InterfaceSeen>, DatapathError> {
        Ok(Self::seen(self)?)
    }

    fn fill(&self) -> Result<Vec<Fill>, DatapathError> {
        Ok(Self::fill(self)?)
    }

    fn runs(&self) -> Result<Vec<ProgramRuns>, DatapathError> {
        Ok(Self::runs(self)?)
    }

    fn tick_ns(&self) -> u64 {
        kernel::tick_ns()
    }
}

impl EventSource for Events {
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], timeout) {
            // A signal is no reason to stop reading.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(&Event)) -> usize {
        Self::drain(self, limit, sink)
    }

    fn take_merged(&mut self) -> Result<Merged, DatapathError> {
        Ok(Self::take_merged(self)?)
    }

    fn shows(&self) -> bool {
        Self::shows(self)
    }

    fn drop_reasons(&self) -> DropReasons {
        Self::drop_reasons(self).clone()
    }

    fn take_adopted(&mut self) -> Option<Adopted> {
        Self::take_adopted(self)
    }

    fn take_shown(&mut self) -> Vec<DropBytes> {
        Self::take_shown(self)
    }
}
