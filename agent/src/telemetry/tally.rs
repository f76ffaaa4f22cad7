//! Lives: weir-agent, between telemetry and status.
//! Called by: `telemetry`, when it hands records to the exporter; `rpc` and `metrics`, when they show the counters.
//! May touch: its own numbers.
//! Never: counts a decision twice or a close at all; names more policies than [`MOST_POLICIES`].

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use weir_common::{
    counters::{self, CELLS},
    verdict::{Hook, Reason, Verdict},
};

use super::{
    JoinStats,
    peak::Peak,
    record::{About, Record, RecordKind},
};
use crate::datapath::Merged;

/// Policies that are told apart; decisions of those that come later are counted together.
const MOST_POLICIES: usize = 1000;
/// The name under which they are. No policy has it: names have slashes.
const OTHERS: &str = "others";
/// The name for decisions that no policy made.
const NONE: &str = "none";

/// What telemetry has counted.
#[derive(Debug)]
pub struct Tally {
    /// Decisions whose records were handed to the exporter, by the same cells as the kernel's counters.
    cells: Vec<AtomicU64>,
    /// The same by policy, if that is wanted.
    policies: Option<Mutex<Policies>>,
    /// Entries of the merge table and of the cells for drops at XDP when they were emptied.
    pub table: Peak,
    /// See `table`.
    pub drops: Peak,
    overflowed: AtomicU64,
    evicted: AtomicU64,
    missed_closes: AtomicU64,
    unreadable: AtomicU64,
}

/// Decisions by policy and verdict.
type Policies = BTreeMap<String, BTreeMap<&'static str, u64>>;

impl Default for Tally {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Tally {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(per_policy: bool) -> Self {
        Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            policies: per_policy.then(Mutex::default),
            table: Peak::default(),
            drops: Peak::default(),
            overflowed: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            missed_closes: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
        }
    }

    /// Counts the decisions of records.
    pub fn count(&self, records: &[Record]) {
        let decisions = || records.iter().filter(|record| record.kind == RecordKind::Verdict);
        for record in decisions() {
            let cell = cell_of(record).and_then(|cell| self.cells.get(usize::try_from(cell).ok()?));
            if let Some(counter) = cell {
                counter.fetch_add(record.count, Ordering::Relaxed);
            }
        }
        if let Some(policies) = &self.policies {
            let mut policies = policies.lock().unwrap_or_else(PoisonError::into_inner);
            decisions().for_each(|record| count_policy(&mut policies, record));
        }
    }

    /// Notes how full the merge tables were, and what found no room there.
    pub fn merged(&self, merged: &Merged) {
        self.table.note(merged.in_table);
        self.drops.note(merged.in_cells);
        let overflowed: u64 = merged.overflow.iter().map(|(_, _, _, count)| count).sum();
        self.overflowed.fetch_add(overflowed, Ordering::Relaxed);
    }

    /// Takes over how well records were joined with their processes and openings.
    pub fn joined(&self, stats: JoinStats) {
        self.evicted.store(stats.evicted, Ordering::Relaxed);
        self.missed_closes.store(stats.missed_closes, Ordering::Relaxed);
        self.unreadable.store(stats.unreadable, Ordering::Relaxed);
    }

    /// Decisions recorded in a cell.
    #[must_use]
    pub fn recorded(&self, hook: Hook, verdict: Verdict, reason: Reason) -> u64 {
        let index = usize::try_from(counters::cell(hook, verdict, reason)).ok();
        index.and_then(|index| self.cells.get(index)).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Decisions recorded, by policy and verdict; none unless that is wanted.
    #[must_use]
    pub fn by_policy(&self) -> Vec<(String, &'static str, u64)> {
        let Some(policies) = &self.policies else { return Vec::new() };
        let policies = policies.lock().unwrap_or_else(PoisonError::into_inner);
        let verdicts = policies.iter().flat_map(|(policy, verdicts)| verdicts.iter().map(move |one| (policy, one)));
        verdicts.map(|(policy, (verdict, count))| (policy.clone(), *verdict, *count)).collect()
    }

    /// Decisions that the merge tables had no room for: their records say hook, verdict and reason, and nothing else.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// How well records were joined.
    #[must_use]
    pub fn join_stats(&self) -> JoinStats {
        JoinStats {
            evicted: self.evicted.load(Ordering::Relaxed),
            missed_closes: self.missed_closes.load(Ordering::Relaxed),
            unreadable: self.unreadable.load(Ordering::Relaxed),
        }
    }
}

fn count_policy(policies: &mut Policies, record: &Record) {
    let policy = record.about.rule.as_ref().map_or("", |rule| rule.policy.as_str());
    let policy = if policy.is_empty() { NONE } else { policy };
    let policy = if policies.len() < MOST_POLICIES || policies.contains_key(policy) { policy } else { OTHERS };
    // Twice, because only a policy's first decision is to allocate.
    if !policies.contains_key(policy) {
        policies.insert(policy.to_owned(), BTreeMap::new());
    }
    if let (Some(verdicts), Some(verdict)) = (policies.get_mut(policy), record.about.verdict) {
        *verdicts.entry(verdict.name()).or_default() += record.count;
    }
}

/// The kernel's cell for the decision a record tells of.
#[must_use]
pub fn cell_of(record: &Record) -> Option<u32> {
    let About { hook, verdict, reason, .. } = *record.about;
    Some(counters::cell(hook?, verdict?, reason?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::record::RuleName;

    fn record(policy: &str, count: u64) -> Record {
        let rule = Arc::new(RuleName { policy: policy.to_owned(), rule: "r".to_owned() });
        let (hook, reason) = (Some(Hook::Connect), Some(Reason::Rule));
        let about = About { hook, reason, verdict: Some(Verdict::Deny), rule: Some(rule), ..About::default() };
        Record { count, ..Record::of(Arc::new(about)) }
    }

    #[test]
    fn decisions_by_policy_sum_up_to_those_by_reason_however_many_policies_there_are() {
        let tally = Tally::new(true);
        let policies: Vec<Record> = (0..1500).map(|n| record(&format!("Policy/shop/p{n}"), 2)).collect();
        tally.count(&policies);
        tally.count(&[record("", 5), Record { kind: RecordKind::Close, ..record("Policy/shop/p0", 7) }]);
        let found = tally.by_policy();
        let of = |name: &str| found.iter().find(|(policy, _, _)| policy == name).map(|(_, _, count)| *count);
        assert_eq!((of("Policy/shop/p0"), of("Policy/shop/p1499")), (Some(2), None));
        // Of the thousand that are told apart all are taken when the first without a policy comes.
        assert_eq!((of(OTHERS), of(NONE)), (Some(1005), None));
        let sum: u64 = found.iter().map(|(_, _, count)| count).sum();
        assert_eq!(sum, tally.recorded(Hook::Connect, Verdict::Deny, Reason::Rule));
        assert!(found.len() == MOST_POLICIES + 1 && found.iter().all(|(_, verdict, _)| *verdict == "deny"));
    }

    #[test]
    fn nobody_pays_for_policies_who_does_not_ask() {
        let tally = Tally::default();
        tally.count(&[record("Policy/shop/p", 1)]);
        assert_eq!(tally.by_policy(), []);
        assert_eq!(tally.recorded(Hook::Connect, Verdict::Deny, Reason::Rule), 1);
    }
}
