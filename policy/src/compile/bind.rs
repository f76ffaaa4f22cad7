//! Lives: host. One change: which policies are in force here, and what they ask about.
//! Called by: `update`, after the documents are taken over.
//! May touch: the bindings of local workloads, sets, terms, port rows, numbers of rules, rate limits.
//! Never: asks a policy that has not changed about a workload that has not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    compiler::Compiler,
    faults::Problems,
    limits::LooksAt,
    parts::Group,
    port_rows::TooManyPorts,
    tables::{KINDS, SetKey},
    terms::{Asked, Term},
    update::Work,
    workloads::Placed,
};
use crate::{
    evaluate::Trial,
    id::ResourceId,
    model::{ContainerPort, IpBlock, Mode, Peer},
};

impl Compiler {
    /// Finds the policies that select each local workload, and the workloads that are judged alike.
    pub(super) fn bind(&mut self, work: &mut Work) {
        if work.policies.is_empty() && work.namespaces.is_empty() && work.names.is_empty() && !self.moves_here(work) {
            return;
        }
        let resources = &self.resources;
        let mut concerned: BTreeSet<u32> = BTreeSet::new();
        let all_local: Vec<u32> = self.workloads.local().collect();
        for number in all_local {
            let Some(placed) = self.workloads.get(number) else { continue };
            let Some(member) = placed.member(resources) else { continue };
            let anew = work.moved.workloads.contains(&number) || work.namespaces.contains(member.namespace);
            let in_force =
                |number: &u32| self.policies.get(*number).is_some_and(|bound| bound.policy.in_force(self.context.now));
            let bound: BTreeSet<u32> = if anew {
                self.policies.selecting(&member).into_iter().filter(in_force).collect()
            } else {
                let others = placed.bound.difference(&work.policies).copied();
                let asked = work.policies.iter().copied();
                let found = asked.filter(|policy| self.policies.selects(*policy, &member)).filter(in_force);
                others.chain(found).collect()
            };
            if anew || bound != placed.bound || !bound.is_disjoint(&work.policies) {
                concerned.insert(number);
            }
            if let Some(placed) = self.workloads.get_mut(number) {
                placed.bound = bound;
            }
        }
        // What has ceased to run here is judged here no more.
        let strayed = work.moved.workloads.iter().copied();
        let strayed = strayed.filter(|number| self.workloads.get(*number).is_some_and(|placed| !placed.is_local()));
        concerned.extend(strayed);
        self.sort_into_sets(&concerned, work);
    }

    /// Whether a workload that runs here, or did, is among those that have changed.
    fn moves_here(&self, work: &Work) -> bool {
        let here = |placed: &Placed| placed.set.is_some() || placed.is_local();
        let moved = work.moved.workloads.iter().filter_map(|number| self.workloads.get(*number));
        moved.chain(&work.moved.gone).any(here)
    }

    fn sort_into_sets(&mut self, concerned: &BTreeSet<u32>, work: &mut Work) {
        let mut groups: BTreeMap<(Option<u32>, Option<SetKey>), Vec<u32>> = BTreeMap::new();
        for number in concerned {
            let Some(placed) = self.workloads.get(*number) else { continue };
            let key = placed.is_local().then(|| self.set_key(placed));
            if placed.set.is_some() || key.is_some() {
                groups.entry((placed.set, key)).or_default().push(*number);
            }
        }
        for gone in &work.moved.gone {
            if let Some(set) = gone.set {
                groups.entry((Some(set), None)).or_default().push(u32::MAX);
            }
        }
        let (keys, members): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let sized = keys.iter().zip(&members);
        let rekeyed = self.sets.rekey(
            sized.map(|((from, key), members)| Group { from: *from, key: key.clone(), size: members.len() }).collect(),
        );
        for (members, set) in members.iter().zip(&rekeyed.parts) {
            for number in members {
                let Some(placed) = self.workloads.get_mut(*number).filter(|placed| placed.set != *set) else {
                    continue;
                };
                placed.set = *set;
                work.placed.insert(*number);
            }
        }
        let left = keys.iter().filter_map(|(from, _)| *from).filter(|set| self.sets.key(*set).is_none());
        work.sets.extend(left.chain(rekeyed.changed));
        let asked = |key: &SetKey| key.bound.iter().any(|policy| work.policies.contains(policy));
        work.sets.extend(self.sets.iter().filter(|(_, key)| asked(key)).map(|(set, _)| set).collect::<Vec<_>>());
        work.sets.extend(self.tables.asking(&work.names));
    }

    /// What workloads must have in common to be judged alike.
    fn set_key(&self, placed: &Placed) -> SetKey {
        if placed.bound.is_empty() && self.context.unselected.passes() {
            return SetKey::default();
        }
        let policies = placed.bound.iter().filter_map(|number| self.policies.get(*number));
        let rules = policies.flat_map(|bound| &bound.policy.ingress);
        let names: BTreeSet<&String> = rules.flat_map(|rule| &rule.named_ports).map(|port| &port.name).collect();
        let workload = placed.workload();
        let ports = workload.map(|workload| workload.ports.as_slice()).unwrap_or_default();
        let ports: Vec<ContainerPort> = ports.iter().filter(|port| names.contains(&port.name)).cloned().collect();
        SetKey {
            bound: placed.bound.iter().copied().collect(),
            ports,
            node: workload.and_then(|workload| workload.node.clone()),
        }
    }

    /// Learns what the sets that have changed ask about, and numbers the rules of their policies.
    pub(super) fn ask(&mut self, work: &mut Work) -> Result<(), TooManyPorts> {
        if !work.sets.is_empty() {
            self.number_rules(&work.policies);
        }
        for set in &work.sets {
            let asked = self.sets.key(*set).map(|key| {
                let bound = self.policies.list(&key.bound);
                let staged = bound.iter().any(|bound| bound.policy.mode == Mode::Staged);
                let kinds = KINDS.into_iter().filter(|(trial, _)| staged || *trial == Trial::InForce);
                kinds.map(|kind| (kind, Asked::of(&bound, kind, self.context.now, &key.ports, &self.named))).collect()
            });
            self.tables.ask(*set, asked.unwrap_or_default(), &mut self.terms, &mut self.ports)?;
        }
        Ok(())
    }

    fn number_rules(&mut self, changed: &BTreeSet<u32>) {
        let bound: BTreeSet<u32> = self.sets.iter().flat_map(|(_, key)| &key.bound).copied().collect();
        let now: BTreeMap<u32, ResourceId> =
            bound.iter().filter_map(|number| Some((*number, self.policies.get(*number)?.id.clone()))).collect();
        for (number, id) in &self.in_force {
            if now.get(number) != Some(id) {
                self.rules.remove(id);
            }
        }
        for (number, id) in &now {
            if (changed.contains(number) || self.in_force.get(number) != Some(id))
                && let Some(bound) = self.policies.get(*number)
            {
                self.rules.put_policy(id, bound.policy);
            }
        }
        self.in_force = now;
    }

    /// Takes the rate limits over: the labels, addresses and ports they look at count like those of policies.
    pub(super) fn limit(&mut self, work: &mut Work, problems: &mut Problems) {
        if !work.limits {
            return;
        }
        let old = self.limits.looks_at();
        let list = self.rate_limits.values().cloned().collect();
        self.limits.replace(list, &self.context, &mut self.rules, &mut self.ports, problems);
        let new = self.limits.looks_at();
        for (looks_at, more) in [(&new, true), (&old, false)] {
            looks_at.selectors.iter().for_each(|selector| self.terms.relevant.workloads(selector, more));
            looks_at.labels.iter().for_each(|label| self.terms.relevant.label(label, more));
        }
        let held = looks_at_terms(&new).map(|term| self.terms.hold(term)).collect();
        for term in std::mem::replace(&mut self.limits.held, held) {
            self.terms.release(term);
        }
    }
}

/// The addresses that limits name are told apart as if a rule named them.
fn looks_at_terms(looks_at: &LooksAt) -> impl Iterator<Item = Term> {
    looks_at.addresses.iter().map(|prefix| {
        let ip_block = IpBlock { cidr: *prefix, except: BTreeSet::new() };
        Term { namespace: String::new(), peer: Peer::IpBlock { ip_block } }
    })
}
