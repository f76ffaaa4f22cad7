//! Lives: host.
//! Called by: `policies`, for the rules of a direction that count.
//! May touch: nothing.
//! Never: looks at other policies; `shadow` does.

use weir_common::verdict::Direction;

use super::{Found, crowd::Crowd};
use crate::{
    evaluate::{RulePlace, rule_name},
    model::{Peer, Policy, Resource, Rule, Timestamp, protocol_name},
};

pub fn check(
    crowd: &Crowd<'_>,
    resource: &Resource,
    policy: &Policy,
    direction: Direction,
    now: Timestamp,
    found: &mut Found,
) {
    for (index, rule) in policy.rules(direction).iter().enumerate() {
        let field = format!("spec.{}[{index}]", direction.name());
        let name = rule_name(policy, direction, RulePlace::At(index));
        if let Some(end) = rule.expires_at.filter(|_| !rule.in_force(now)) {
            let text = format!("its rule {name} expired at {end} and does nothing any more; delete it");
            found.note(format!("{field}.expiresAt"), text);
            continue;
        }
        if !crowd.is_unknown() {
            leads_nowhere(crowd, &resource.id().namespace, rule, direction, (&field, &name), found);
        }
        if !rule.log && rule.action.denies() {
            let text = format!("what its rule {name} denies makes no record: nobody will see why it does not arrive");
            found.note(format!("{field}.log"), text);
        }
    }
    split(policy, direction, found);
}

/// Peers and ports' names that match nothing there is.
fn leads_nowhere(
    crowd: &Crowd<'_>,
    namespace: &str,
    rule: &Rule,
    direction: Direction,
    (field, name): (&str, &str),
    found: &mut Found,
) {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    for (index, peer) in rule.peers.iter().enumerate() {
        if let Some(text) = nobody(crowd, namespace, peer) {
            found.note(format!("{field}.{side}[{index}]"), format!("{side}[{index}] of its rule {name} {text}"));
        }
    }
    for port in rule.named_ports.iter().filter(|port| !crowd.names_port(port)) {
        let protocol = port.protocol.map_or_else(String::new, |protocol| format!("/{}", protocol_name(protocol)));
        let text = format!("its rule {name} names port {}{protocol}, which no workload has", port.name);
        found.note(format!("{field}.ports"), text);
    }
}

/// Why a peer matches nothing, if it does not. Networks and entities are not looked at: the world is not described.
fn nobody(crowd: &Crowd<'_>, namespace: &str, peer: &Peer) -> Option<String> {
    match peer {
        Peer::Workloads { workload_selector, namespace_selector } => {
            let all = crate::model::Selector::default();
            let workloads = workload_selector.as_ref().unwrap_or(&all);
            let somebody = match namespace_selector {
                Some(namespaces) => crowd.has_among(namespaces, workloads),
                None => crowd.has(namespace, workloads),
            };
            (!somebody).then(|| "matches no workload".to_owned())
        }
        Peer::Nodes { node_selector } => {
            (!crowd.has_node(node_selector)).then(|| "matches no node that is described".to_owned())
        }
        Peer::Service { service } => match crowd.is_served(service) {
            Some(true) => None,
            Some(false) => Some(format!("matches nothing: service {} has nothing behind it", service.id())),
            None => Some(format!("matches nothing: there is no {}", service.id())),
        },
        Peer::IpBlock { .. } | Peer::Entity { .. } | Peer::Unknown => None,
    }
}

/// A rule with only peers beside one with only ports: a dash too many makes two rules of one, and each opens more.
fn split(policy: &Policy, direction: Direction, found: &mut Found) {
    let only_peers = |rule: &Rule| !rule.peers.is_empty() && rule.ports.is_empty() && rule.named_ports.is_empty();
    let only_ports = |rule: &Rule| rule.peers.is_empty() && !(rule.ports.is_empty() && rule.named_ports.is_empty());
    let rules = policy.rules(direction);
    for (index, (first, second)) in rules.iter().zip(rules.iter().skip(1)).enumerate() {
        let apart = (only_peers(first) && only_ports(second)) || (only_ports(first) && only_peers(second));
        if apart && first.action == second.action && second.name.is_none() {
            let [one, other] = [index, index + 1].map(|index| rule_name(policy, direction, RulePlace::At(index)));
            let text = format!(
                "{one} and {other} are two rules, one about peers at any port, one about ports for everybody; if those \
                 ports for those peers are meant, make them one item: remove the second dash"
            );
            found.note(format!("spec.{}[{}]", direction.name(), index + 1), text);
        }
    }
}
