//! Lives: host. One change: what can be told of workloads and addresses.
//! Called by: `update`, once it is known what the policies in force here look at.
//! May touch: subjects and regions, and where workloads and addresses are among them.
//! Never: looks at all workloads unless a label, a name of a port or a namespace begins or ceases to matter.

use std::collections::{BTreeMap, BTreeSet};

use super::{compiler::Compiler, identities::Subject, parts::Group, update::Work, workloads::Placed};
use crate::model::{IpBlock, Peer, Prefix};

impl Compiler {
    /// Finds what selectors can tell of each workload that is new, or of which they look at something else now.
    pub(super) fn describe(&mut self, work: &mut Work) {
        let mut concerned = work.moved.workloads.clone();
        for namespace in &work.namespaces {
            concerned.extend(self.workloads.of_namespace(namespace));
        }
        let relevant = &mut self.terms.relevant;
        let labels = std::mem::take(&mut relevant.changed_labels);
        let names = std::mem::take(&mut relevant.changed_names);
        let all = std::mem::take(&mut relevant.changed_namespaces);
        if all || !labels.is_empty() || !names.is_empty() {
            let has = |placed: &Placed| {
                let ports = placed.workload().map(|workload| workload.ports.as_slice()).unwrap_or_default();
                labels.iter().any(|key| placed.resource.labels().contains_key(key))
                    || ports.iter().any(|port| names.contains(&port.name))
            };
            let seen = self.workloads.iter().filter(|(_, placed)| all || has(placed));
            concerned.extend(seen.map(|(number, _)| number));
        }
        work.touched.workloads = concerned.len();
        let mut groups: BTreeMap<(Option<u32>, Option<Subject>), Vec<u32>> = BTreeMap::new();
        for number in concerned {
            let Some(placed) = self.workloads.get(number) else { continue };
            let Some(member) = placed.member(&self.resources) else { continue };
            let subject = Subject::of(&member, &self.terms.relevant);
            groups.entry((placed.subject, Some(subject))).or_default().push(number);
        }
        for gone in &work.moved.gone {
            if let Some(subject) = gone.subject {
                groups.entry((Some(subject), None)).or_default().push(u32::MAX);
            }
        }
        let (keys, members): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let sized = keys.into_iter().zip(&members);
        let groups = sized.map(|((from, key), members)| Group { from, key, size: members.len() }).collect();
        let rekeyed = self.subjects.rekey(groups);
        work.subjects = rekeyed.changed;
        for (members, subject) in members.iter().zip(rekeyed.parts) {
            for number in members {
                let Some(placed) = self.workloads.get_mut(*number) else { continue };
                if placed.subject != subject {
                    placed.subject = subject;
                    work.placed.insert(*number);
                }
            }
        }
    }

    /// Splits the address space anew, if the blocks that rules name or the ranges of pods have changed.
    pub(super) fn split(&mut self, work: &mut Work) -> bool {
        if !std::mem::take(&mut self.terms.changed_blocks) && !work.ranges {
            return false;
        }
        let blocks: BTreeMap<u32, &IpBlock> = (self.terms.parts.iter())
            .filter_map(|(number, term)| {
                let Peer::IpBlock { ip_block } = &term.peer else { return None };
                Some((number, ip_block))
            })
            .collect();
        let ranges: BTreeSet<Prefix> = self.pod_ranges.keys().copied().collect();
        let used = self.workloads.addresses.iter().filter(|(_, holder)| holder.region.is_some());
        self.space.split(&blocks, &ranges, used.map(|(address, holder)| (*address, holder.region)));
        let mut region_of = self.space.in_order();
        for (address, holder) in &mut self.workloads.addresses {
            let Some(old) = holder.region else { continue };
            let region = region_of(address);
            let renamed = holder.machine().is_none() && holder.workloads().is_empty();
            if old != region || (work.ranges && renamed) {
                holder.region = Some(region);
                work.moved.addresses.insert(*address);
            }
        }
        true
    }
}
