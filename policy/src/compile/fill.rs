//! Lives: host. One change, from the identities it concerns to the words of the image.
//! Called by: `update`, last.
//! May touch: classes, tables and the sections of the image.
//! Never: writes tables that are larger than the kernel's; says so instead.

use std::collections::BTreeSet;

use weir_common::{
    image::{FIRST_IDENTITY, Identity, MAX_IDENTITIES},
    maps::{MAX_CIDRS, MAX_ENDPOINTS},
};

use super::{
    address_sets,
    classes::Reclassed,
    compiler::{Compiler, Touched},
    faults::Problems,
    identities::Owner,
    tables::{Set, Source},
    update::Work,
    view::View,
};
use crate::fault::Fault;

impl Compiler {
    /// Classes the identities and fills what follows from them.
    pub(super) fn fill(&mut self, mut work: Work) -> Result<Touched, Vec<Fault>> {
        let mut problems = Problems::default();
        self.rules.check(&mut problems);
        let touched = self.touched(&work);
        let view = View {
            resources: &self.resources,
            subjects: &self.subjects,
            space: &self.space,
            identities: &self.identities,
        };
        let mut reclassed = self.classes.update(view, &self.terms, &touched, &self.here);
        self.terms.touched.clear();
        self.settle(&mut work, &mut reclassed);
        self.check_sizes(&mut problems);
        if u16::try_from(self.classes.parts.end()).is_err() {
            let remedy = "use fewer distinct peers in policies";
            problems.of_all("peers fall into more than 65535 classes".to_owned(), remedy);
        }
        problems.none()?;
        let mut problems = Problems::default();
        // A region may go on under other blocks.
        let all = work.limits || (work.split && self.limits.names_addresses());
        self.write_identities(&touched, &reclassed, all);
        match self.ports.write() {
            Ok(renewed) => self.limits.write(renewed, &self.ports, &mut problems),
            Err(error) => error.note(&mut problems),
        }
        if work.address_sets {
            self.compiled_sets = address_sets::compiled(&self.address_sets, &mut self.rules, &mut problems).into();
        }
        self.fill_tables(&mut work, &reclassed, &mut problems);
        problems.none()?;
        work.touched.identities = touched.len();
        work.touched.classes = reclassed.classes.len();
        work.touched.pages = 1 + self.take_touched();
        Ok(work.touched)
    }

    /// The identities of which rules may tell something else now.
    fn touched(&mut self, work: &Work) -> BTreeSet<u32> {
        let mut touched = std::mem::take(&mut self.identities.touched);
        let renamed = work.subjects.iter().filter_map(|subject| self.identities.of_subject.get(subject));
        touched.extend(renamed.flatten());
        if !work.nodes.is_empty() {
            let machines = self.identities.parts.iter().filter(|(_, key)| match &key.owner {
                Owner::Node { name, .. } => work.nodes.contains(name),
                Owner::Entity(_) | Owner::Workload { .. } | Owner::Behind { .. } => false,
            });
            touched.extend(machines.map(|(identity, _)| identity));
        }
        touched
    }

    fn check_sizes(&self, problems: &mut Problems) {
        let sizes = [
            ("identities", self.identities.parts.end(), MAX_IDENTITIES as usize),
            ("addresses", self.endpoints.size(), MAX_ENDPOINTS as usize),
            ("prefixes", self.cidrs.len(), MAX_CIDRS as usize),
        ];
        for (what, given, most) in sizes.into_iter().filter(|(_, given, most)| given > most) {
            let problem = format!("{given} {what}; the kernel's tables have room for {most}");
            problems.of_all(problem, "use fewer distinct labels and prefixes in policies, or fewer workloads");
        }
        if u16::try_from(self.sets.end()).is_err() {
            let problem = "workloads fall into more than 65535 policy sets".to_owned();
            problems.of_all(problem, "use fewer distinct selectors");
        }
    }

    fn write_identities(&mut self, touched: &BTreeSet<u32>, reclassed: &Reclassed, all: bool) {
        let mut numbers: BTreeSet<u32> = touched.union(&reclassed.identities).copied().collect();
        if all {
            numbers.extend(self.identities.parts.iter().map(|(number, _)| number));
        }
        let view = View {
            resources: &self.resources,
            subjects: &self.subjects,
            space: &self.space,
            identities: &self.identities,
        };
        self.identity_words.reserve(FIRST_IDENTITY as usize);
        for number in numbers {
            let word = self.identities.parts.key(number).map_or(0, |key| {
                let set = match key.owner {
                    Owner::Workload { set, .. } => set,
                    Owner::Entity(_) | Owner::Node { .. } | Owner::Behind { .. } => 0,
                };
                let end = view.end(number);
                self.limits.write_clients(number, end.and_then(|end| end.member));
                let service_class = self.limits.class(end);
                // More than 16 bits number were refused.
                let small = |number| u16::try_from(number).unwrap_or_default();
                Identity { set: small(set), peer_class: small(self.classes.of(number)), service_class }.to_word()
            });
            if self.identities.parts.key(number).is_none() {
                self.limits.write_clients(number, None);
            }
            self.identity_words.set(number as usize, word);
        }
    }

    fn fill_tables(&mut self, work: &mut Work, reclassed: &Reclassed, problems: &mut Problems) {
        let all = self.tables.make_room(self.classes.parts.end());
        let samples = self.classes.samples();
        self.answer_themselves(&samples, work, reclassed, problems);
        // Not by `source`: the tables are written meanwhile.
        let view = View {
            resources: &self.resources,
            subjects: &self.subjects,
            space: &self.space,
            identities: &self.identities,
        };
        let source = Source { classes: &self.classes, samples: &samples, view, rules: &self.rules };
        for (number, key) in self.sets.iter() {
            let anew = all || work.sets.contains(&number);
            if !anew && reclassed.classes.is_empty() {
                continue;
            }
            work.touched.sets += usize::from(anew);
            let bound = self.policies.list(&key.bound);
            let unselected = self.context.unselected;
            let set = Set { number, key, bound: &bound, unselected, now: self.context.now };
            let only = (!anew).then_some(&reclassed.classes);
            work.touched.cells += self.tables.fill(&set, only, &source, problems);
        }
        self.tables.write_sets(self.sets.end(), &self.ports);
    }

    /// What answers of the evaluator are made from.
    pub(super) fn source<'s>(&'s self, samples: &'s [Option<u32>]) -> Source<'s> {
        let Self { resources, subjects, space, identities, classes, rules, .. } = self;
        Source { classes, samples, view: View { resources, subjects, space, identities }, rules }
    }

    fn take_touched(&mut self) -> usize {
        let sections = [
            &mut self.identity_words,
            &mut self.ports.ports,
            &mut self.ports.words,
            &mut self.tables.sets,
            &mut self.tables.staged_sets,
            &mut self.tables.cells,
            &mut self.limits.services,
            &mut self.limits.entries,
            &mut self.limits.clients,
        ];
        sections.into_iter().map(|words| words.take_touched()).sum()
    }
}
