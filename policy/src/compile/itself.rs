//! Lives: host. One change: what pods that run here are answered when they call themselves by a service.
//! Called by: `fill`, once it is known what each port leads to and the rules have their numbers.
//! May touch: the answers; the mark beside a port that there are some.
//! Never: keeps an answer that every workload of the pod's set gets anyway: who is never judged otherwise costs nothing.
//!
//! Rows are about classes, and no class is "whoever asks". So such an answer is no cell of a table but an entry of its own: by the
//! key of the service's port and the pod's number (`Addr::called_by`), which only the agent knows. The kernel looks for it where
//! the port's own entry says that some pod has one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rpds::RedBlackTreeMapSync;
use weir_common::{
    addr::Addr,
    event::{Endpoint, ITSELF},
    image::Cell,
    maps::MAX_ENDPOINTS,
    verdict::Direction,
};

use super::{
    classes::{Behind, Reclassed},
    compiler::Compiler,
    faults::Problems,
    fronts::Call,
    tables::{Set, Source},
    update::Work,
    workloads::Placed,
};
use crate::{
    evaluate::{End, Trial},
    id::{Kind, ResourceId},
    model::Mode,
};

/// Answers by pod, then by the key of the port they are about.
pub type OwnAnswers = RedBlackTreeMapSync<ResourceId, Arc<BTreeMap<Addr, Endpoint>>>;

/// The answers, and what they follow from.
#[derive(Clone, Debug, Default)]
pub struct Themselves {
    /// The addresses of services that pods which run here are behind.
    fronts: BTreeMap<Addr, Known>,
    pub answers: OwnAnswers,
    /// How many answers there are.
    pub size: usize,
}

/// What replicas have in common: their set, the ends behind a port, and which of those they are themselves.
type Alike = (u32, Vec<(Behind, bool)>);

/// What is known of one of them.
#[derive(Clone, Debug, Default)]
struct Known {
    /// By whom those pods are judged.
    sets: BTreeSet<u32>,
    /// Of what classes everybody behind it is.
    classes: BTreeSet<u32>,
    answers: BTreeMap<(ResourceId, Addr), Endpoint>,
}

/// Ends behind a port that can be told apart, and how many there are of each.
type Ends = BTreeMap<Behind, usize>;

impl Compiler {
    /// Finds the answers that the change concerns.
    pub(super) fn answer_themselves(
        &mut self,
        samples: &[Option<u32>],
        work: &mut Work,
        reclassed: &Reclassed,
        problems: &mut Problems,
    ) {
        let mut concerned = std::mem::take(&mut work.settled);
        let known = self.themselves.fronts.iter();
        let judged_anew = known
            .filter(|(_, known)| !known.sets.is_disjoint(&work.sets) || !known.classes.is_disjoint(&reclassed.classes));
        concerned.extend(judged_anew.map(|(address, _)| *address));
        for address in concerned {
            let known = self.known(&address, &self.source(samples));
            self.mark(&address, &known);
            work.touched.addresses += self.themselves.put(address, known);
        }
        let size = self.endpoints.size() + self.themselves.size;
        if size > MAX_ENDPOINTS as usize {
            let problem = format!("{size} addresses; the kernel's tables have room for {MAX_ENDPOINTS}");
            problems.of_all(problem, "use fewer distinct labels and prefixes in policies, or fewer workloads");
        }
    }

    /// Looks who is behind an address of a service, and what those who run here are answered.
    fn known(&self, address: &Addr, source: &Source<'_>) -> Known {
        let mut known = Known::default();
        let Some(front) = self.fronts.get(address) else { return known };
        for ((protocol, port), call) in front.calls.iter().filter(|(_, call)| call.leads_to.is_some()) {
            let behind = |identity, port| Behind { class: self.classes.of(identity), protocol: *protocol, port };
            let (mut all, mut own): (Ends, BTreeMap<(&ResourceId, u32), Ends>) = Default::default();
            for (end, port) in &call.ends {
                let Some(identity) = self.identity_of(end) else { continue };
                let behind = behind(identity, *port);
                *all.entry(behind).or_default() += 1;
                if let Some(pod) = self.pod_here(end) {
                    *own.entry(pod).or_default().entry(behind).or_default() += 1;
                }
            }
            if own.is_empty() {
                continue;
            }
            known.classes.extend(all.keys().map(|behind| behind.class));
            known.sets.extend(own.keys().map(|(_, set)| *set));
            let key = Addr::of_call(front.number, *protocol, *port);
            for (id, answer) in self.answers(&all, own, source) {
                known.answers.insert((id.clone(), key), answer);
            }
        }
        known
    }

    /// What each of these pods is answered at one port, if it is another answer than its set's. Replicas get the same.
    fn answers<'i>(
        &self,
        all: &Ends,
        own: BTreeMap<(&'i ResourceId, u32), Ends>,
        source: &Source<'_>,
    ) -> Vec<(&'i ResourceId, Endpoint)> {
        let mut alike: BTreeMap<Alike, Option<Endpoint>> = BTreeMap::new();
        let mut answers = Vec::new();
        for ((id, set), own) in own {
            let others = all.iter().filter(|(behind, number)| own.get(behind).is_none_or(|own| own < *number));
            let others = others.map(|(behind, _)| (*behind, false));
            let ends = own.keys().map(|behind| (*behind, true)).chain(others).collect();
            let answer = alike.entry((set, ends));
            let answer = answer.or_insert_with_key(|(set, ends)| self.answer(*set, ends, source));
            answers.extend(answer.map(|answer| (id, answer)));
        }
        answers
    }

    /// What a workload of a set is answered that is some of these ends, if that is another answer than its set's.
    fn answer(&self, set: u32, ends: &[(Behind, bool)], source: &Source<'_>) -> Option<Endpoint> {
        let key = self.sets.key(set).filter(|key| !key.bound.is_empty())?;
        let bound = self.policies.list(&key.bound);
        let (unselected, now) = (self.context.unselected, self.context.now);
        let set = Set { number: set, key, bound: &bound, unselected, now };
        let cell = |trial, itself: bool| {
            let ends = ends.iter().map(|(behind, is_it)| (*behind, *is_it && itself));
            set.behind((trial, Direction::Egress), ends, source).unwrap_or(Cell::ABSENT)
        };
        let waits = bound.iter().any(|bound| bound.policy.mode == Mode::Staged);
        let cells = |itself| {
            let staged = if waits { cell(Trial::Staged, itself) } else { Cell::ABSENT };
            (cell(Trial::InForce, itself), staged)
        };
        let (in_force, staged) = cells(true);
        ((in_force, staged) != cells(false)).then(|| Endpoint::itself(in_force, staged))
    }

    /// The pod that an end is, and its set, if it runs here. Of several that share an address the one it is taken for.
    fn pod_here(&self, end: &End) -> Option<(&ResourceId, u32)> {
        let placed: &Placed = match end {
            End::Address(address) => self.workloads.owner(self.workloads.addresses.get(address)?)?,
            End::Workload(id) => self.workloads.by_id(id)?,
        };
        let id = placed.resource.id();
        (id.kind == Kind::Pod && placed.is_local()).then_some((id, placed.set?))
    }

    /// Says beside each port whether somebody has an answer of its own.
    fn mark(&mut self, address: &Addr, known: &Known) {
        let Some(front) = self.fronts.get(address) else { return };
        let number = front.number;
        let told: BTreeSet<&Addr> = known.answers.keys().map(|(_, key)| key).collect();
        let word = |((protocol, port), call): (&(_, u16), &Call)| {
            let key = Addr::of_call(number, *protocol, *port);
            let mark = if told.contains(&key) { ITSELF } else { 0 };
            call.leads_to.map(|(_, port)| (key, Endpoint::behind(port) | mark))
        };
        let words: Vec<(Addr, u32)> = front.calls.iter().filter_map(word).collect();
        for (key, word) in words {
            if self.fronts.words.get(&key) != Some(&word) {
                self.fronts.words.insert_mut(key, word);
            }
        }
    }
}

impl Themselves {
    /// Takes over what is known of an address now. Tells how many answers have changed.
    fn put(&mut self, address: Addr, known: Known) -> usize {
        let old = self.fronts.remove(&address).unwrap_or_default().answers;
        let gone = old.keys().filter(|key| !known.answers.contains_key(*key)).map(|key| (key, None));
        let new = known.answers.iter().filter(|(key, answer)| old.get(*key) != Some(answer));
        let changes: Vec<_> = gone.chain(new.map(|(key, answer)| (key, Some(*answer)))).collect();
        for ((id, key), answer) in &changes {
            let mut own = self.answers.get(id).map(|own| BTreeMap::clone(own)).unwrap_or_default();
            match answer {
                Some(answer) => own.insert(*key, *answer),
                None => own.remove(key),
            };
            if own.is_empty() {
                self.answers.remove_mut(id);
            } else {
                self.answers.insert_mut(id.clone(), Arc::new(own));
            }
        }
        let count = changes.len();
        self.size = self.size + known.answers.len() - old.len();
        if !known.sets.is_empty() {
            self.fronts.insert(address, known);
        }
        count
    }
}
