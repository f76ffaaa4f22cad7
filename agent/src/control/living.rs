//! Lives: weir-agent, control.
//! Called by: `mod`, after each change of policy or attachments; `apply`, for a dry run.
//! May touch: nothing; it describes what is in force, or would be, to the revoker.
//! Never: cuts anything itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_common::maps::MAX_WORKLOADS;
use weir_policy::{Compiled, CompiledWorkload, ResourceId, Resources};

use super::{Control, change::Doomed};
use crate::{
    datapath::{AttachState, Datapath, WorkloadState},
    revoke::{
        report,
        sweep::Target,
        view::{Local, View},
    },
};

/// Connections that a dry run lists at most; it counts them all.
const LISTED: usize = 1000;

impl<D: Datapath> Control<D> {
    /// What living connections are to be judged by.
    pub(super) fn living_view(&self, compiled: &Arc<Compiled>, resources: &Resources) -> View {
        // Sockets may outlive their cgroup; its programs stay with them.
        let number = |workload: &WorkloadState| match workload.state {
            AttachState::Attached => workload.number,
            AttachState::Waiting | AttachState::Remote | AttachState::Failed => workload.lingering,
        };
        let judged = self.observed.workloads.iter().filter(|workload| number(workload) != 0);
        let here: BTreeMap<&ResourceId, (u32, u64)> =
            judged.map(|workload| (&workload.id, (number(workload), workload.cgroup_id))).collect();
        let local = |workload: Arc<CompiledWorkload>| {
            let (number, cgroup_id) = *here.get(&workload.id)?;
            let path = self.settings.cgroup_root.join(workload.cgroup.as_ref()?);
            Some((number, Local { workload, path, cgroup_id }))
        };
        let locals = compiled.local().into_iter().filter_map(local).collect();
        View { compiled: Arc::clone(compiled), resources: resources.clone(), locals, own: self.observed.own.clone() }
    }

    /// The same for a generation that is not in force: what it would attach has a number of its own too.
    fn imagined_view(&self, compiled: &Arc<Compiled>, resources: &Resources) -> View {
        let mut view = self.living_view(compiled, resources);
        let attached: BTreeSet<ResourceId> = view.locals.values().map(|local| local.workload.id.clone()).collect();
        let new = compiled.local().into_iter().filter(|workload| !attached.contains(&workload.id));
        for (number, workload) in (MAX_WORKLOADS..).zip(new) {
            let Some(path) = workload.cgroup.as_ref().map(|cgroup| self.settings.cgroup_root.join(cgroup)) else {
                continue;
            };
            view.locals.insert(number, Local { workload, path, cgroup_id: 0 });
        }
        view
    }

    /// The living connections that a generation would cut, and how many there are; or why that is not known.
    pub(super) fn doomed(&self, compiled: Compiled, resources: &Resources) -> (Vec<Doomed>, usize, Option<String>) {
        let view = self.imagined_view(&Arc::new(compiled), resources);
        match self.settings.revoker.would_cut(&view, self.settings.cgroup_root.clone()) {
            Ok(swept) => {
                let all = swept.forbidden.len();
                let unseen = (swept.failed > 0).then(|| {
                    format!(
                        "{} network namespaces could not be looked into: their connections are not listed",
                        swept.failed
                    )
                });
                (swept.forbidden.iter().take(LISTED).map(|target| doomed(&view, target)).collect(), all, unseen)
            }
            Err(error) => (Vec::new(), 0, Some(format!("living connections could not be listed: {error}"))),
        }
    }
}

fn doomed(view: &View, target: &Target) -> Doomed {
    let (policy, rule) = view.rule_of(&target.decision);
    Doomed {
        workload: report::workload(view, target.connection.workload),
        connection: report::shown(&target.connection),
        direction: target.direction,
        reason: target.decision.reason,
        policy: policy.to_owned(),
        rule: rule.to_owned(),
    }
}
