//! Lives: host.
//! Called by: `explain`; `compile`, for the names of rules.
//! May touch: nothing.
//! Never: decides anything; it says what was decided.

use weir_common::verdict::{Direction, Verdict};

use super::{
    explain::Asked,
    judge::{Beyond, Deciding, Outcome, RulePlace},
};
use crate::{
    id::ResourceId,
    model::{Policy, protocol_name},
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

/// Why an end's policies answer as they do, as a sentence.
pub fn why(outcome: &Outcome<'_>, workload: &ResourceId, direction: Direction, rule: &str, question: &Asked) -> String {
    let passed = outcome.passed.map_or_else(String::new, |passed| {
        let rule = rule_name(passed.bound.policy, direction, passed.place);
        format!("{} passes it on by its rule {rule}; ", passed.bound.id)
    });
    passed + &last_word(outcome, workload, direction, rule, question)
}

/// What the tier says that decided.
fn last_word(
    outcome: &Outcome<'_>,
    workload: &ResourceId,
    direction: Direction,
    rule: &str,
    question: &Asked,
) -> String {
    match outcome.beyond {
        Some(Beyond::Address) => return format!("{workload} always reaches its own address"),
        Some(Beyond::Node) => return format!("the node of {workload} always reaches it"),
        Some(Beyond::Service) => {
            return format!("{workload} reaches itself through a Service, which policies of its namespace leave open");
        }
        None => {}
    }
    let Some(Deciding { bound, place }) = outcome.deciding else {
        return format!("no policy in force isolates {workload} for {}", direction.name());
    };
    let does = match outcome.verdict {
        Verdict::Allow => "allows it",
        Verdict::Deny => "denies it",
        Verdict::Audit => "would deny it if every audit policy were enforced",
    };
    let (id, priority) = (bound.id, bound.policy.priority);
    match place {
        RulePlace::At(_) => format!("{id} (priority {priority}) {does} by its rule {rule}, the first that matches"),
        RulePlace::Default => {
            let asked = format!("{}/{}", question.port, protocol_name(question.protocol));
            format!("{id} (priority {priority}) {does} by its default, as no rule matches the peer and {asked}")
        }
    }
}
