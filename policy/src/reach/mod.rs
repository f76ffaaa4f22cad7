//! Lives: host. Who can reach whom, over all ends and all ports at once.
//! Called by: `weirctl policy matrix` and `policy diff`, the tests.
//! May touch: nothing but its arguments.
//! Never: judges; every answer is the evaluator's, asked once for all ends and ports that no policy tells apart.
//!
//! ```text
//! resources ─ parties ─► ends        policies ─ terms ─► peers and ports they name
//! ends ─ kinds ─► ends alike as seen (same terms) and as judged (same policies)
//! kinds x kinds ─ lines ─► for each direction, the answer at every slot (`slots`)
//! ```
//!
//! Two answers belong to single ends, not to kinds: a pod always reaches itself, and its own node always reaches it.
//! [`Reach::pair`] is about two ends neither of which is the other or its node.

mod changes;
mod grouping;
mod kinds;
mod lines;
mod names;
mod parties;
mod port_set;
mod regions;
mod slots;
mod terms;

pub use changes::{Change, Changes, Side, changes};
pub use grouping::{Cell, Group, GroupBy, groups};
pub use lines::{Cause, Run, Said};
pub use names::Named;
pub use parties::{Party, Who};
pub use port_set::{Part, PortSet};

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Verdict},
};

use crate::{
    Context,
    evaluate::{judge, judge_staged},
    model::{Prefix, Resources},
};
use kinds::Kinds;
use lines::{Judge, Line, Lines};

/// Who can reach whom.
#[derive(Debug)]
pub struct Reach {
    parties: Vec<Party>,
    kind_of: Vec<usize>,
    /// Of each pod with a node, that node.
    node_of: BTreeMap<usize, String>,
    /// Of each kind, its set of policies if it is a workload's.
    sets: Vec<Option<usize>>,
    lines: Lines,
}

/// What one end may open to another.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'r> {
    egress: Option<&'r Line>,
    ingress: Option<&'r Line>,
}

impl Reach {
    /// Asks the evaluator about every pair of ends.
    #[must_use]
    pub fn of(resources: &Resources, context: &Context) -> Self {
        Self::with(resources, context, &regions::boundaries(resources), judge)
    }

    /// The same as if staged policies were enforced.
    #[must_use]
    pub fn if_staged_were_enforced(resources: &Resources, context: &Context) -> Self {
        Self::with(resources, context, &regions::boundaries(resources), judge_staged)
    }

    /// The same with the outside divided at these prefixes: two states are comparable when both are divided alike.
    fn with(resources: &Resources, context: &Context, boundaries: &BTreeSet<Prefix>, judge: Judge) -> Self {
        let parties = parties::parties(resources, context, boundaries);
        let Kinds { kind_of, kinds } = Kinds::of(resources, context, &parties);
        let sets = kinds::sets(&kinds);
        let lines = Lines::of(&kinds, &sets, context, judge);
        let nodes = resources.workloads().map(|(_, workload)| workload.node.clone()).enumerate();
        let node_of = nodes.filter_map(|(index, node)| Some((index, node?))).collect();
        Self { parties, kind_of, node_of, sets: sets.of_kind, lines }
    }

    /// Every end: workloads and pods, then nodes, then what lies outside.
    #[must_use]
    pub fn parties(&self) -> &[Party] {
        &self.parties
    }

    /// How many ends policies tell apart.
    #[must_use]
    pub const fn kinds(&self) -> usize {
        self.sets.len()
    }

    /// The kind of an end, by its place among the parties: ends of one kind have the same answers.
    #[must_use]
    pub fn kind(&self, party: usize) -> usize {
        self.kind_of.get(party).copied().unwrap_or_default()
    }

    /// What one end may open to another, by their places among the parties.
    #[must_use]
    pub fn pair(&self, from: usize, to: usize) -> Pair<'_> {
        self.between(self.kind(from), self.kind(to))
    }

    /// What an end of one kind may open to another end of the same or another kind.
    #[must_use]
    pub fn between(&self, from: usize, to: usize) -> Pair<'_> {
        let set = |kind: usize| self.sets.get(kind).copied().flatten();
        let line = |local, direction, peer| set(local).and_then(|set| self.lines.line(set, direction, peer));
        Pair { egress: line(from, Direction::Egress, to), ingress: line(to, Direction::Ingress, from) }
    }

    /// How many pairs of different ends there are from these to those, less nodes that call their own pods.
    #[must_use]
    pub fn pairs(&self, from: &[usize], to: &[usize]) -> usize {
        let called: BTreeSet<_> = to.iter().collect();
        let themselves = from.iter().filter(|from| called.contains(from)).count();
        let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
        for node in to.iter().filter_map(|to| self.node_of.get(to)) {
            *on_node.entry(node).or_default() += 1;
        }
        let nodes = from.iter().filter_map(|from| match &self.parties.get(*from)?.who {
            Who::Node(name) => on_node.get(name.as_str()),
            Who::Workload(_) | Who::Host | Who::Outside(_) => None,
        });
        from.len() * to.len() - themselves - nodes.sum::<usize>()
    }

    /// What a run's cause stands for.
    #[must_use]
    pub fn cause(&self, said: Said) -> Option<&Cause> {
        self.lines.cause(said)
    }
}

impl<'r> Pair<'r> {
    /// Whether there is a workload at either end; without one no policy has a say.
    #[must_use]
    pub const fn is_judged(&self) -> bool {
        self.egress.is_some() || self.ingress.is_some()
    }

    /// The whole line of protocols and ports, in runs over which both ends say the same.
    pub fn runs(&self) -> impl Iterator<Item = Run> + use<'r> {
        lines::runs(self.egress, self.ingress)
    }

    /// What passes, be it by an audit policy's leave.
    #[must_use]
    pub fn passing(&self) -> PortSet {
        self.set(Verdict::passes)
    }

    /// What passes only because policies that would deny it are in audit mode.
    #[must_use]
    pub fn audited(&self) -> PortSet {
        self.set(|verdict| verdict == Verdict::Audit)
    }

    /// The verdict for one protocol and port.
    #[must_use]
    pub fn verdict(&self, protocol: Protocol, port: u16) -> Verdict {
        let slot = slots::slot(protocol, port);
        self.runs().find(|run| run.last >= slot).map_or(Verdict::Allow, |run| run.verdict())
    }

    fn set(&self, wanted: impl Fn(Verdict) -> bool) -> PortSet {
        let mut set = PortSet::default();
        self.runs().filter(|run| wanted(run.verdict())).for_each(|run| set.push(run.first, run.last));
        set
    }
}
