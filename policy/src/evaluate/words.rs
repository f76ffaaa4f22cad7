//! Lives: host.
//! Called by: `explain`; `compile`, for the names of rules.
//! May touch: nothing.
//! Never: decides anything; it says what was decided.

use weir_common::verdict::{Direction, Verdict};

use super::{
    explain::Asked,
    outcome::{Beyond, Deciding, Outcome, RulePlace},
    resolve::Resolved,
    subject::Bound,
};
use crate::{
    id::ResourceId,
    model::{Mode, Policy, Tier, icmp_types, ip, protocol_name},
};

/// How a rule is called in records: "ingress[0] name" or "default ingress".
pub fn rule_name(policy: &Policy, direction: Direction, place: RulePlace) -> String {
    match place {
        RulePlace::Default => format!("default {}", direction.name()),
        RulePlace::At(index) => match policy.rules(direction).get(index).and_then(|rule| rule.name.as_ref()) {
            Some(name) => format!("{}[{index}] {name}", direction.name()),
            None => format!("{}[{index}]", direction.name()),
        },
    }
}

/// Policy and rule in words; empty for none.
pub fn names(deciding: Option<Deciding<'_>>, direction: Direction) -> (String, String) {
    deciding.map_or_else(Default::default, |deciding| {
        (deciding.bound.id.to_string(), rule_name(deciding.bound.policy, direction, deciding.place))
    })
}

/// Who was asked before the rule that decided, and what they said, in the order of asking.
pub fn passed(outcome: &Outcome<'_>, bound: &[Bound<'_>], direction: Direction) -> Vec<String> {
    if matches!(outcome.beyond, Some(Beyond::Address | Beyond::Node)) {
        return Vec::new();
    }
    let last = outcome.deciding.map(|deciding| (deciding.bound.policy.tier, deciding.bound.policy.priority));
    let before = |bound: &&Bound<'_>| {
        let (tier, priority) = (bound.policy.tier, bound.policy.priority);
        let asked = tier != Tier::Namespace && !bound.policy.rules(direction).is_empty();
        let sooner =
            outcome.passed.is_none_or(|by| by.bound.policy.tier != tier || priority < by.bound.policy.priority);
        asked && sooner && bound.policy.mode == Mode::Enforce && last.is_none_or(|last| (tier, priority) < last)
    };
    let mut said = Vec::new();
    for tier in [Tier::Admin, Tier::Baseline] {
        let silent: Vec<_> = bound.iter().filter(before).filter(|bound| bound.policy.tier == tier).collect();
        said.extend(silence(tier, &silent));
        if let Some(by) = outcome.passed.filter(|by| by.bound.policy.tier == tier) {
            let rule = rule_name(by.bound.policy, direction, by.place);
            said.push(format!("{} passes it on by its rule {rule}", by.bound.id));
        }
    }
    said
}

/// Policies that were asked and have no rule for it.
fn silence(tier: Tier, silent: &[&Bound<'_>]) -> Option<String> {
    const SHOWN: usize = 3;
    let names: Vec<_> = silent.iter().take(SHOWN).map(|bound| bound.id.to_string()).collect();
    let more = match silent.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("in the {} tier no rule of {}{more} matches", tier.name(), names.join(", ")))
}

/// Why an end's policies answer as they do, as a sentence: who passed it on, and who decided.
pub fn why(
    outcome: &Outcome<'_>,
    bound: &[Bound<'_>],
    workload: &ResourceId,
    direction: Direction,
    question: &Asked,
) -> String {
    let mut parts = passed(outcome, bound, direction);
    parts.push(last_word(outcome, workload, direction, question));
    parts.join("; ")
}

/// What the tier says that decided.
fn last_word(outcome: &Outcome<'_>, workload: &ResourceId, direction: Direction, question: &Asked) -> String {
    match outcome.beyond {
        Some(Beyond::Address) => return format!("{workload} always reaches its own address"),
        Some(Beyond::Node) => return format!("the node of {workload} always reaches it"),
        Some(Beyond::Service) => {
            return format!("{workload} reaches itself through a Service, which policies of its namespace leave open");
        }
        None => {}
    }
    let Some(deciding) = outcome.deciding else {
        return match outcome.verdict {
            Verdict::Deny => format!(
                "no policy in force selects {workload}, and this node is configured to deny what such workloads open and accept"
            ),
            Verdict::Allow | Verdict::Audit => {
                format!("no policy in force isolates {workload} for {}", direction.name())
            }
        };
    };
    let does = match outcome.verdict {
        Verdict::Allow => "allows it",
        Verdict::Deny if outcome.refuses(direction) => "refuses it",
        Verdict::Deny => "denies it",
        Verdict::Audit => "would deny it if every audit policy were enforced",
    };
    let (id, policy) = (deciding.bound.id, deciding.bound.policy);
    let who = format!("{id} ({} tier, priority {}) {does}", policy.tier.name(), policy.priority);
    let until = until(&deciding, direction);
    match deciding.place {
        RulePlace::At(_) => {
            let rule = rule_name(policy, direction, deciding.place);
            format!("{who} by its rule {rule}, the first that matches{until}")
        }
        RulePlace::Default => {
            format!("{who} by its default, as no rule matches the peer and {}{until}", called(question))
        }
    }
}

/// An end behind a Service, with the port it is called at.
pub fn end_in_words(end: &Resolved<'_>, asked: &Asked) -> String {
    let address = end.peer.address.map(|address| ip(address).to_string());
    let who = match (end.resource, address) {
        (Some(resource), Some(address)) => format!("{} ({address})", resource.id()),
        (Some(resource), None) => resource.id().to_string(),
        (None, address) => address.unwrap_or_default(),
    };
    format!("{who} at {}", called(asked))
}

/// Why a Service's port is judged as it is: by the end behind it that is most closed.
pub fn of_backend(service: &ResourceId, behind: &[String], by: usize, why: &str) -> String {
    const SHOWN: usize = 3;
    let decides = behind.get(by).map_or("", String::as_str);
    let others: Vec<&str> = (0..).zip(behind).filter(|(index, _)| *index != by).map(|(_, end)| end.as_str()).collect();
    let more = match others.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let others = match others.get(..others.len().min(SHOWN)).unwrap_or_default().join(", ") {
        none if none.is_empty() => String::new(),
        some => format!(", which decides for {some}{more} too"),
    };
    format!("{service} leads to {decides}{others}: {why}")
}

/// Why a workload is kept from calling itself by what it lets in.
pub fn of_itself(workload: &ResourceId, why: &str) -> String {
    format!("{workload} calls itself, so what it lets in counts already as it calls: {why}")
}

/// Why a Service's address is judged like any other.
pub fn of_address(service: &ResourceId, asked: &Asked, why: &str) -> String {
    format!("nothing is behind {service} at {}, so its address counts like any other: {why}", called(asked))
}

/// What is called, in words.
fn called(question: &Asked) -> String {
    let protocol = protocol_name(question.protocol);
    match icmp_types(question.protocol) {
        Some(types) => {
            let name = types.iter().find(|(_, number)| *number == question.port);
            name.map_or_else(|| format!("{protocol} type {}", question.port), |(name, _)| format!("{protocol} {name}"))
        }
        None => format!("{}/{protocol}", question.port),
    }
}

/// When what decided ends.
fn until(deciding: &Deciding<'_>, direction: Direction) -> String {
    let policy = deciding.bound.policy;
    let rule = match deciding.place {
        RulePlace::At(index) => policy.rules(direction).get(index).and_then(|rule| rule.expires_at),
        RulePlace::Default => None,
    };
    let end = policy.expires_at.into_iter().chain(rule).min();
    end.map_or_else(String::new, |end| format!(" (until {end}, when it expires)"))
}
