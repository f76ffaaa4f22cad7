//! Lives: host.
//! Called by: `parse`, for documents of kind Policy.
//! May touch: the list of faults.
//! Never: leaves a default to the reader of the model; accepts a field that its tier gives no meaning.

mod peer;
mod ports;
mod rule;

use std::collections::BTreeSet;

use weir_common::verdict::Direction;

use super::{
    faults::Faults,
    fields::{Field, Fields},
    scalars,
    selector::selector,
};
use crate::model::{Action, Mode, OnChange, Policy, PolicyType, Selector, Socket, Tier};

pub use ports::{named_ports, numbered_ports};

const FIELDS: [&str; 12] = [
    "tier",
    "namespaceSelector",
    "workloadSelector",
    "priority",
    "policyTypes",
    "mode",
    "onChange",
    "defaultAction",
    "sockets",
    "ingress",
    "egress",
    "expiresAt",
];

/// The spec of a policy in `namespace`. Everything is read before anything is given up, so that every fault is told.
pub fn policy(field: &Field<'_>, namespace: &str, faults: &mut Faults) -> Option<Policy> {
    let fields = field.fields(faults, &FIELDS)?;
    let tier = fields.get("tier").map_or(Some(Tier::Namespace), |tier| tier.word(faults, Tier::WORDS));
    let namespaces = fields.get("namespaceSelector").map(|field| selector(&field, faults));
    let workload_selector =
        fields.get("workloadSelector").map_or(Some(Selector::default()), |field| selector(&field, faults));
    let priority = fields
        .get("priority")
        .map_or(Some(u64::from(Policy::DEFAULT_PRIORITY)), |field| field.integer(faults, 0, 1000));
    let mode = word(&fields, "mode", Mode::WORDS, Mode::Enforce, faults);
    let on_change = word(&fields, "onChange", OnChange::WORDS, OnChange::Cut, faults);
    let expires_at = scalars::expiry(&fields, faults);
    let default_action = word(&fields, "defaultAction", Action::OF_NAMESPACES, Action::Deny, faults);
    let sockets = words(&fields, "sockets", Socket::WORDS, faults);
    let mut rules = |direction| rule::rules(&fields, direction, tier, namespace, faults);
    let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
    let policy_types = policy_types(&fields, !egress.is_empty(), faults);
    let tier = tier?;
    no_effect(&fields, tier, faults);
    misplaced(&fields, tier, faults);
    let isolates = tier == Tier::Namespace;
    Some(Policy {
        tier,
        namespaces: match namespaces {
            Some(selector) => Some(selector?),
            None => None,
        },
        workload_selector: workload_selector?,
        priority: u16::try_from(priority?).unwrap_or(Policy::DEFAULT_PRIORITY),
        policy_types: if isolates { policy_types } else { BTreeSet::new() },
        mode,
        on_change,
        expires_at,
        default_action: if isolates { default_action } else { Action::Pass },
        sockets,
        ingress,
        egress,
    })
}

/// `egress: []` looks as if it closed egress.
fn no_effect(fields: &Fields<'_>, tier: Tier, faults: &mut Faults) {
    if tier == Tier::Namespace && fields.get("policyTypes").is_none() {
        egress_without_rules(fields, faults);
    }
}

/// Remarks on an empty list of egress rules beside no policyTypes.
pub fn egress_without_rules(fields: &Fields<'_>, faults: &mut Faults) {
    let Some(egress) = fields.get("egress").filter(|egress| egress.item_count() == Some(0)) else { return };
    let text = "its empty egress closes nothing, as without policyTypes only rules make a policy about egress; list \
                Egress in policyTypes to close it";
    faults.remark(&egress.path, text);
}

/// Notes fields that mean nothing in a tier: only the namespace tier isolates, and only the other two look beyond their own
/// namespace.
fn misplaced(fields: &Fields<'_>, tier: Tier, faults: &mut Faults) {
    let (names, problem, remedy): (&[&str], _, _) = match tier {
        Tier::Namespace => (
            &["namespaceSelector"],
            "a policy of the namespace tier is about its own namespace",
            "put the policy into the namespace it is about, or write tier: admin or tier: baseline",
        ),
        Tier::Admin | Tier::Baseline => (
            &["policyTypes", "defaultAction", "sockets"],
            "policies of the admin and baseline tiers isolate nothing",
            "remove it; what no rule matches goes on to the next tier, and a last rule without peers matches everything",
        ),
    };
    for field in names.iter().filter_map(|name| fields.get(name)) {
        field.fault(faults, problem, remedy);
    }
}

/// A word, or what its absence means.
pub fn word<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    words: &[(&'static str, T)],
    absent: T,
    faults: &mut Faults,
) -> T {
    fields.get(name).and_then(|field| field.word(faults, words)).unwrap_or(absent)
}

fn words<T: Copy + Ord>(
    fields: &Fields<'_>,
    name: &str,
    words: &[(&'static str, T)],
    faults: &mut Faults,
) -> BTreeSet<T> {
    let items = fields.get(name).map(|list| list.list(faults)).unwrap_or_default();
    items.iter().filter_map(|item| item.word(faults, words)).collect()
}

/// As Kubernetes: without any, ingress always and egress when it has a rule.
fn policy_types(fields: &Fields<'_>, egress: bool, faults: &mut Faults) -> BTreeSet<PolicyType> {
    let mut types = words(fields, "policyTypes", PolicyType::WORDS, faults);
    if types.is_empty() {
        types.insert(PolicyType::Ingress);
        types.extend(egress.then_some(PolicyType::Egress));
    }
    types
}
