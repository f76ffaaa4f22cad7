//! Lives: weir-agent, control.
//! Called by: `actor`, for Apply and Delete; `store`, at start.
//! May touch: the state of `Control`, in one place: [`Control::put_in_force`].
//! Never: changes anything when there is a fault, on a dry run, or when the kernel refuses.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use weir_common::addr::Addr;
use weir_policy::{
    Change, Compiler, Context, Edit, Fault, Resource, ResourceId, Resources, Timestamp, parse_all, warnings_about,
};

use super::{
    Control, ControlError,
    change::{Action, Applied, Apply, ChangeSet, Changed},
    timing::Phase,
};
use crate::{datapath::Datapath, telemetry::clock};

impl<D: Datapath> Control<D> {
    /// Applies sources: all of them or none.
    ///
    /// # Errors
    /// The kernel refused; the generation before stays in force.
    pub fn apply(&mut self, request: &Apply) -> Result<Applied, ControlError> {
        let begin = Instant::now();
        let ended = self.apply_sources(request);
        if !request.dry_run {
            self.timing.request(&ended, begin);
        }
        ended
    }

    fn apply_sources(&mut self, request: &Apply) -> Result<Applied, ControlError> {
        let texts = request.sources.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let begin = Instant::now();
        let parsed = parse_all(texts);
        if !request.dry_run {
            self.timing.phase(Phase::Parse, begin);
        }
        let parsed = match parsed {
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
        let kept = if request.replace_all { Resources::default() } else { self.force.resources.clone() };
        let parsed = self.pods.place_all(parsed, &kept);
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
        let begin = Instant::now();
        let ended = self.delete_ids(ids, dry_run);
        if !dry_run {
            self.timing.request(&ended, begin);
        }
        ended
    }

    fn delete_ids(&mut self, ids: &[ResourceId], dry_run: bool) -> Result<Applied, ControlError> {
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
            let mut warnings = odd(&self.force.resources, &changes, self.force.context.now);
            if !dry_run {
                warnings.extend(self.save_again());
            }
            return Ok(Applied { generation: self.generation(), changes, warnings, ..Applied::default() });
        }
        if !dry_run {
            // What was due is told as what it is, in a generation before this one.
            self.expire();
        }
        let now = self.now();
        let mut warnings = odd(&candidate, &changes, now);
        warnings.extend(self.pods.warnings(&candidate));
        let edits = edits(&candidate, &changes);
        let mut applied = Applied::default();
        if dry_run {
            let mut compiler = self.force.compiler.clone();
            compiler.apply_at(now, edits).map_err(ControlError::Faulty)?;
            let (doomed, count, unknown) = self.doomed(compiler.compiled(), &candidate);
            (applied.doomed, applied.doomed_count) = (doomed, count);
            warnings.extend(unknown);
        } else {
            let begin = Instant::now();
            let touched = self.force.compiler.apply_at(now, edits).map_err(ControlError::Faulty)?;
            self.timing.phase(Phase::Compile, begin);
            tracing::debug!(?touched, "compiled");
            self.put_in_force()?;
            self.remember(&changes);
            let gone = changes.iter().filter(|change| change.action == Action::Deleted).map(|change| &change.id);
            self.forget_sets(&gone.collect::<Vec<_>>());
            self.tell(&changes);
            warnings.extend(self.save());
            self.delete_gone_sets();
            self.reconcile();
        }
        Ok(Applied { generation: self.generation(), changes, warnings, ..applied })
    }

    /// The one place where the policy changes: what the compiler has made goes into the kernel first, then it is what we say is
    /// in force. If the kernel refuses, the compiler goes back to what the kernel has.
    pub(super) fn put_in_force(&mut self) -> Result<(), ControlError> {
        let compiled = self.force.compiler.compiled();
        let generation = compiled.generation;
        self.settings.names.publish(&compiled);
        let begin = Instant::now();
        let installed = self.datapath.install(&compiled, &self.loaded);
        self.timing.phase(Phase::Install, begin);
        if let Err(source) = installed {
            self.settings.names.retract(generation);
            tracing::error!(generation, error = %source, "the kernel did not take the generation over");
            let context = self.force.context.clone();
            let before = self.force.compiler.again(&self.force.resources, context.clone());
            // It was compiled before, so it can be.
            self.force.compiler = before.unwrap_or_else(|_| Compiler::new(context));
            return Err(ControlError::Install { generation, source });
        }
        // Before any of them is attached: its first event may be read before `reconcile` returns.
        self.settings.names.number(&self.datapath.numbers());
        self.force.resources = self.force.compiler.resources().clone();
        self.force.context = self.force.compiler.context().clone();
        self.force.next_expiry = self.force.compiler.next_expiry();
        self.force.compiled = Arc::new(compiled);
        self.force.time_ns = clock::wall_now();
        tracing::info!(generation, resources = self.force.resources.len(), "generation in force");
        Ok(())
    }

    /// Notes which resources this generation has changed.
    pub(super) fn remember(&mut self, changes: &[Changed]) {
        self.pods.note(changes, &self.force.resources);
        let generation = self.generation();
        for change in changes {
            match change.action {
                Action::Created | Action::Changed | Action::Expired => {
                    self.force.changed_in.insert(change.id.clone(), generation);
                }
                Action::Deleted => drop(self.force.changed_in.remove(&change.id)),
                Action::Unchanged => {}
            }
        }
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
        let context = Context { host_addresses, generation: self.generation() + 1, ..self.force.context.clone() };
        match self.force.compiler.again(&self.force.resources, context) {
            Ok(compiler) => {
                self.force.compiler = compiler;
                // A failure is logged where it happens, as is one to save; both are tried again.
                if self.put_in_force().is_ok() {
                    let _ = self.save();
                }
            }
            Err(faults) => tracing::error!(faults = faults.len(), "the policy does not fit the host's new addresses"),
        }
    }

    /// Lets time pass for the policy. `true` if that is in force.
    pub(super) fn advance(&mut self, now: Timestamp) -> bool {
        if let Err(faults) = self.force.compiler.advance(now) {
            tracing::error!(faults = faults.len(), "what is left of the policy cannot be in force");
            return false;
        }
        let taken_over = self.put_in_force().is_ok();
        if taken_over {
            let _ = self.save();
        }
        taken_over
    }
}

/// What the compiler has to be told.
fn edits(candidate: &Resources, changes: &[Changed]) -> Vec<Edit> {
    let effective = changes.iter().filter(|change| change.action != Action::Unchanged);
    let edit = |change: &Changed| match candidate.get(&change.id) {
        Some(resource) => Edit::Put(resource.clone()),
        None => Edit::Remove(change.id.clone()),
    };
    effective.map(edit).collect()
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
