//! Lives: weir-agent, control.
//! Called by: `actor`, for Apply and Delete; `store`, at start.
//! May touch: the state of `Control`, in one place: [`Control::put_in_force`].
//! Never: changes anything when there is a fault, on a dry run, or when the kernel refuses.

use std::{collections::BTreeSet, sync::Arc};

use weir_common::addr::Addr;
use weir_policy::{
    Change, Compiled, Context, Fault, Kind, Resource, ResourceId, Resources, Timestamp, compile, parse_all,
    warnings_about,
};

use super::{
    Control, ControlError, InForce,
    change::{Action, Applied, Apply, ChangeSet, Changed},
    expiry::next_expiry,
};
use crate::{datapath::Datapath, telemetry::clock};

impl<D: Datapath> Control<D> {
    /// Applies sources: all of them or none.
    ///
    /// # Errors
    /// The kernel refused; the generation before stays in force.
    pub fn apply(&mut self, request: &Apply) -> Result<Applied, ControlError> {
        let texts = request.sources.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let parsed = match parse_all(texts) {
            Ok(parsed) => parsed,
            Err(faults) => return Ok(Applied { generation: self.generation(), faults, ..Applied::default() }),
        };
        if parsed.is_empty() {
            return Ok(Applied {
                generation: self.generation(),
                faults: vec![nothing_in(request)],
                ..Applied::default()
            });
        }
        let (candidate, changes) = self.candidate(parsed, request.replace_all);
        match self.change(candidate, changes, request.dry_run) {
            Err(ControlError::Faulty(faults)) => {
                Ok(Applied { generation: self.generation(), faults, ..Applied::default() })
            }
            other => other,
        }
    }

    /// Deletes resources: all of them or none.
    ///
    /// # Errors
    /// One is not there, what remains is faulty, or the kernel refused; nothing was changed then.
    pub fn delete(&mut self, ids: &[ResourceId], dry_run: bool) -> Result<Applied, ControlError> {
        let ids: BTreeSet<&ResourceId> = ids.iter().collect();
        let missing = |id: &&&ResourceId| self.force.resources.get(id).is_none();
        let missing: Vec<ResourceId> = ids.iter().filter(missing).map(|id| (*id).clone()).collect();
        if !missing.is_empty() {
            return Err(ControlError::NotFound(missing));
        }
        let mut candidate = self.force.resources.clone();
        let mut changes = Vec::new();
        for id in ids {
            candidate.remove(id);
            changes.push(Changed { action: Action::Deleted, id: id.clone() });
        }
        self.change(candidate, changes, dry_run)
    }

    /// The resources there would be, and how they differ.
    fn candidate(&self, parsed: Vec<Resource>, replace_all: bool) -> (Resources, Vec<Changed>) {
        let mut candidate = self.force.resources.clone();
        let mut changes = Vec::new();
        let mut named = BTreeSet::new();
        for resource in parsed {
            let id = resource.id().clone();
            let action = match candidate.insert(resource) {
                Change::Created => Action::Created,
                Change::Changed => Action::Changed,
                Change::Unchanged => Action::Unchanged,
            };
            named.insert(id.clone());
            changes.push(Changed { action, id });
        }
        if replace_all {
            let gone: Vec<ResourceId> =
                candidate.iter().map(|r| r.id().clone()).filter(|id| !named.contains(id)).collect();
            for id in gone {
                candidate.remove(&id);
                changes.push(Changed { action: Action::Deleted, id });
            }
        }
        (candidate, changes)
    }

    fn change(&mut self, candidate: Resources, changes: Vec<Changed>, dry_run: bool) -> Result<Applied, ControlError> {
        let effective = changes.iter().any(|change| change.action != Action::Unchanged);
        if !effective {
            let warnings = odd(&self.force.resources, &changes, self.force.context.now);
            return Ok(Applied { generation: self.generation(), changes, warnings, ..Applied::default() });
        }
        let (generation, now) = (self.generation() + 1, self.now());
        let context = Context { generation, now, ..self.force.context.clone() };
        let compiled = compile(&candidate, &context).map_err(ControlError::Faulty)?;
        let mut warnings = odd(&candidate, &changes, now);
        warnings.extend(unplaced_pods(&candidate));
        if !dry_run {
            self.put_in_force(candidate, compiled, context)?;
            self.tell(&changes);
            warnings.extend(self.save());
            self.reconcile();
        }
        Ok(Applied { generation: self.generation(), changes, warnings, ..Applied::default() })
    }

    /// The one place where the policy changes: first in the kernel, then here.
    fn put_in_force(&mut self, resources: Resources, compiled: Compiled, context: Context) -> Result<(), ControlError> {
        let generation = compiled.generation;
        self.settings.names.publish(&compiled);
        if let Err(source) = self.datapath.install(&compiled) {
            self.settings.names.retract(generation);
            tracing::error!(generation, error = %source, "the kernel did not take the generation over");
            return Err(ControlError::Install { generation, source });
        }
        let changed_in = resources
            .iter()
            .map(|resource| {
                let same = self.force.resources.get(resource.id()) == Some(resource);
                let before = self.force.changed_in.get(resource.id()).filter(|_| same);
                (resource.id().clone(), before.copied().unwrap_or(generation))
            })
            .collect();
        let time_ns = clock::wall_now();
        let next_expiry = next_expiry(&resources, context.now);
        self.force = InForce { resources, changed_in, compiled: Arc::new(compiled), context, next_expiry, time_ns };
        tracing::info!(generation, resources = self.force.resources.len(), "generation in force");
        Ok(())
    }

    pub(super) fn tell(&self, changes: &[Changed]) {
        let effective = changes.iter().filter(|change| change.action != Action::Unchanged);
        let changes = effective.map(|change| (change.clone(), self.force.resources.get(&change.id).cloned())).collect();
        // Nobody watching is no error.
        let _ = self.changes.send(Arc::new(ChangeSet { generation: self.generation(), changes }));
    }

    /// Takes over a change of the host's own addresses, if it changes the tables.
    pub(super) fn follow_host_addresses(&mut self, host_addresses: Vec<Addr>) {
        if host_addresses == self.force.context.host_addresses {
            return;
        }
        self.follow(Context { host_addresses, ..self.force.context.clone() });
    }

    /// Takes over what changed around the policy: the host's addresses, the time. `true` if that made a new generation, which it
    /// does only where it changes the tables.
    pub(super) fn follow(&mut self, same_number: Context) -> bool {
        match compile(&self.force.resources, &same_number) {
            Ok(compiled) if compiled == *self.force.compiled => {
                self.force.next_expiry = next_expiry(&self.force.resources, same_number.now);
                self.force.context = same_number;
                false
            }
            Ok(_) => {
                let context = Context { generation: self.generation() + 1, ..same_number };
                let Ok(compiled) = compile(&self.force.resources, &context) else { return false };
                // A failure is logged where it happens, as is one to save; both are tried again.
                let taken_over = self.put_in_force(self.force.resources.clone(), compiled, context).is_ok();
                if taken_over {
                    let _ = self.save();
                }
                taken_over
            }
            Err(faults) => {
                tracing::error!(faults = faults.len(), "the policy does not fit the host's new addresses, or the time");
                false
            }
        }
    }
}

/// Sources without a document are a mistake upstream (a generator that failed, a wrong file); with `replace_all` they would
/// delete everything.
fn nothing_in(request: &Apply) -> Fault {
    let source = request.sources.first().map_or_else(String::new, |(name, _)| name.clone());
    Fault {
        source,
        line: 0,
        column: 0,
        field: String::new(),
        value: String::new(),
        problem: "there is no document to apply".to_owned(),
        remedy: "name a file that has one; to remove resources, delete them by name".to_owned(),
    }
}

/// What is odd about the resources that a request names, whether it changes them or not.
fn odd(resources: &Resources, changes: &[Changed], now: Timestamp) -> Vec<String> {
    let ids: Vec<_> = changes.iter().map(|change| change.id.clone()).collect();
    warnings_about(resources, &ids, now).iter().map(ToString::to_string).collect()
}

/// Pods are peers by their addresses; nobody tells this agent their cgroups yet, and a policy that is not enforced must say so.
fn unplaced_pods(resources: &Resources) -> Option<String> {
    let pods = resources.iter().filter(|resource| resource.id().kind == Kind::Pod).count();
    (pods > 0).then(|| {
        format!(
            "{pods} of the resources are Pods, known by their addresses only: policies that select them are not enforced on \
             this node; describe what runs here as Workload with its cgroup"
        )
    })
}
