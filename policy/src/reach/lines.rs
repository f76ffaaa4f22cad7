//! Lives: host.
//! Called by: `reach`.
//! May touch: nothing.
//! Never: asks about one slot of a run on which some rule has an edge, and answers for all of it.

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{
    addr::Protocol,
    verdict::{Direction, Verdict},
};

use super::{
    kinds::{Kind, Sets},
    slots::{SLOTS, Slot, edges, of_slot},
    terms::{Bits, common},
};
use crate::{
    Context,
    evaluate::{Bound, Local, Outcome, PeerEnd, RulePlace, rule_name},
    id::ResourceId,
    model::{ContainerPort, PortMatch, Tier, Timestamp},
};

/// The answers of one direction along the whole line: the first slot of each run, and what is said from there on.
pub type Line = Vec<(Slot, Said)>;

/// What one end's policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// The verdict.
    pub verdict: Verdict,
    /// Number of the cause; `None`: no policy has a say.
    cause: Option<usize>,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// Whose rule it is.
    pub policy: ResourceId,
    /// Its tier.
    pub tier: Tier,
    /// `ingress[0] name` or `default ingress`.
    pub rule: String,
    /// Whether it is the policy's default rather than a rule.
    pub default: bool,
}

/// A run of slots over which both ends say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub(super) first: Slot,
    pub(super) last: Slot,
    /// What the opening end's policies say; `None`: it is no workload.
    pub egress: Option<Said>,
    /// What the called end's policies say; `None`: it is no workload.
    pub ingress: Option<Said>,
}

impl Run {
    /// Denied if either end denies; else audit if either end says so.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let said = |verdict| [self.egress, self.ingress].iter().flatten().any(|said| said.verdict == verdict);
        let severe = [Verdict::Deny, Verdict::Audit].into_iter().find(|verdict| said(*verdict));
        severe.unwrap_or(Verdict::Allow)
    }
}

/// The lines of every set, direction and kind of peer.
#[derive(Debug, Default)]
pub struct Lines {
    /// By set: of ingress and of egress the line for each kind of peer.
    of_set: Vec<[Vec<usize>; 2]>,
    lines: Vec<Line>,
    causes: Vec<Cause>,
}

/// How one question is judged.
pub type Judge = for<'a> fn(Local<'_, 'a>, Direction, &PeerEnd<'_>, Protocol, u16) -> Outcome<'a>;

/// Fills the lines.
struct Drawing<'a> {
    judge: Judge,
    now: Timestamp,
    unselected: Verdict,
    done: Lines,
    numbers: BTreeMap<(&'a ResourceId, Direction, Option<usize>), usize>,
}

impl Lines {
    pub fn of(kinds: &[Kind<'_>], sets: &Sets, context: &Context, judge: Judge) -> Self {
        let Context { now, unselected, .. } = *context;
        let mut drawing = Drawing { judge, now, unselected, done: Self::default(), numbers: BTreeMap::new() };
        for local in sets.stands_for.iter().filter_map(|kind| kinds.get(*kind)) {
            let toward = [Direction::Ingress, Direction::Egress];
            let of_set = toward.map(|direction| drawing.toward_all(local, direction, kinds));
            drawing.done.of_set.push(of_set);
        }
        drawing.done
    }

    /// The line of a set toward a kind of peer.
    pub fn line(&self, set: usize, direction: Direction, peer: usize) -> Option<&Line> {
        let [ingress, egress] = self.of_set.get(set)?;
        let of_peers = match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        };
        self.lines.get(*of_peers.get(peer)?)
    }

    pub fn cause(&self, said: Said) -> Option<&Cause> {
        self.causes.get(said.cause?)
    }
}

impl<'a> Drawing<'a> {
    /// One line for all peers that match the same of the terms this set names (and, called, have the same named ports).
    fn toward_all(&mut self, local: &Kind<'a>, direction: Direction, kinds: &[Kind<'_>]) -> Vec<usize> {
        let no_ports = Vec::new();
        let mut known: BTreeMap<(Bits, &Vec<ContainerPort>), usize> = BTreeMap::new();
        let mut of_peers = Vec::new();
        for peer in kinds {
            let called = if direction == Direction::Egress { &peer.ports } else { &no_ports };
            let key = (common(&peer.matches, &local.named), called);
            let line = match known.get(&key) {
                Some(line) => *line,
                None => {
                    let line = self.toward(local, direction, peer);
                    self.done.lines.push(line);
                    known.insert(key, self.done.lines.len() - 1);
                    self.done.lines.len() - 1
                }
            };
            of_peers.push(line);
        }
        of_peers
    }

    fn toward(&mut self, local: &Kind<'a>, direction: Direction, peer: &Kind<'_>) -> Line {
        let bound = local.bound.as_deref().unwrap_or_default();
        let called = if direction == Direction::Egress { &peer.ports } else { &local.ports };
        // Without its node: what a pod's own node may is not about kinds.
        let unselected = if local.bound.is_some() { self.unselected } else { Verdict::Allow };
        let asked = Local { bound, ports: &local.ports, node: None, unselected, now: self.now };
        let mut line = Line::new();
        for slot in starts(bound, direction, called) {
            let (protocol, port) = of_slot(slot);
            let said = self.said(&(self.judge)(asked, direction, &peer.end(), protocol, port), direction);
            if line.last().is_none_or(|(_, before)| *before != said) {
                line.push((slot, said));
            }
        }
        line
    }

    fn said(&mut self, outcome: &Outcome<'a>, direction: Direction) -> Said {
        let cause = outcome.deciding.map(|deciding| {
            let index = match deciding.place {
                RulePlace::At(index) => Some(index),
                RulePlace::Default => None,
            };
            let next = self.done.causes.len();
            let number = *self.numbers.entry((deciding.bound.id, direction, index)).or_insert(next);
            if number == next {
                self.done.causes.push(Cause {
                    policy: deciding.bound.id.clone(),
                    tier: deciding.bound.policy.tier,
                    rule: rule_name(deciding.bound.policy, direction, deciding.place),
                    default: index.is_none(),
                });
            }
            number
        });
        Said { verdict: outcome.verdict, cause }
    }
}

/// The slots at which some rule of a direction begins or ends to match.
fn starts(bound: &[Bound<'_>], direction: Direction, called: &[ContainerPort]) -> BTreeSet<Slot> {
    let mut starts = BTreeSet::from([0]);
    let mut add = |entry: &PortMatch| {
        let (first, after) = edges(entry);
        starts.extend([first, after].into_iter().filter(|slot| *slot < SLOTS));
    };
    for rule in bound.iter().flat_map(|bound| bound.policy.rules(direction)) {
        rule.ports.iter().for_each(&mut add);
        let named = called.iter().filter(|port| rule.named_ports.iter().any(|wanted| wanted.name == port.name));
        named.for_each(|port| add(&PortMatch { protocol: port.protocol, ports: Some((port.port, port.port)) }));
    }
    starts
}

/// Both directions' lines as one.
pub fn runs<'l>(egress: Option<&'l Line>, ingress: Option<&'l Line>) -> impl Iterator<Item = Run> + use<'l> {
    let (mut egress, mut ingress) = (Walk::new(egress), Walk::new(ingress));
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let first = next?;
        let after = egress.end().min(ingress.end());
        let run = Run { first, last: after - 1, egress: egress.said(), ingress: ingress.said() };
        egress.advance(after);
        ingress.advance(after);
        next = (after < SLOTS).then_some(after);
        Some(run)
    })
}

/// A line being walked along.
struct Walk<'l> {
    rest: &'l [(Slot, Said)],
}

impl<'l> Walk<'l> {
    fn new(line: Option<&'l Line>) -> Self {
        Self { rest: line.map(Vec::as_slice).unwrap_or_default() }
    }

    fn said(&self) -> Option<Said> {
        self.rest.first().map(|(_, said)| *said)
    }

    /// The slot after the present run.
    fn end(&self) -> Slot {
        self.rest.get(1).map_or(SLOTS, |(slot, _)| *slot)
    }

    fn advance(&mut self, to: Slot) {
        if self.end() == to {
            self.rest = self.rest.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(self.rest);
        }
    }
}
