//! Lives: host.
//! Called by: `parse`, for documents of kind Policy.
//! May touch: the list of faults.
//! Never: leaves a default to the reader of the model.

use std::collections::BTreeSet;

use weir_common::{addr::Protocol, verdict::Direction};

use super::{
    fields::{Faults, Field, Fields},
    scalars,
    selector::selector,
};
use crate::model::{
    Action, Entity, IpBlock, Mode, Peer, Policy, PolicyType, PortMatch, Rule, Selector, Socket, Tier, protocol_name,
};

const FIELDS: [&str; 8] =
    ["workloadSelector", "priority", "policyTypes", "mode", "defaultAction", "sockets", "ingress", "egress"];

/// The spec of a policy.
pub fn policy(field: &Field<'_>, faults: &mut Faults) -> Option<Policy> {
    let fields = field.fields(faults, &FIELDS)?;
    let workload_selector =
        fields.get("workloadSelector").map_or(Some(Selector::default()), |field| selector(&field, faults));
    let priority = fields
        .get("priority")
        .map_or(Some(u64::from(Policy::DEFAULT_PRIORITY)), |field| field.integer(faults, 0, 1000));
    let ingress = rules(&fields, Direction::Ingress, faults);
    let egress = rules(&fields, Direction::Egress, faults);
    Some(Policy {
        tier: Tier::Namespace,
        namespaces: None,
        policy_types: policy_types(&fields, !egress.is_empty(), faults),
        expires_at: None,
        mode: word(&fields, "mode", Mode::WORDS, Mode::Enforce, faults),
        default_action: word(&fields, "defaultAction", Action::OF_NAMESPACES, Action::Deny, faults),
        sockets: words(&fields, "sockets", Socket::WORDS, faults),
        workload_selector: workload_selector?,
        priority: u16::try_from(priority?).unwrap_or(Policy::DEFAULT_PRIORITY),
        ingress,
        egress,
    })
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

fn rules(fields: &Fields<'_>, direction: Direction, faults: &mut Faults) -> Vec<Rule> {
    let items = fields.get(direction.name()).map(|list| list.list(faults)).unwrap_or_default();
    items.iter().filter_map(|item| rule(item, direction, faults)).collect()
}

fn rule(field: &Field<'_>, direction: Direction, faults: &mut Faults) -> Option<Rule> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let fields = field.fields(faults, &["name", "action", side, "ports"])?;
    let name = fields.get("name").and_then(|name| scalars::label(&name, faults));
    let action = word(&fields, "action", Action::OF_NAMESPACES, Action::Allow, faults);
    let peers = fields.get(side).map(|list| list.list(faults)).unwrap_or_default();
    let peers = peers.iter().filter_map(|item| peer(item, faults)).collect();
    Some(Rule { name, peers, ports: ports(&fields, faults), ..Rule::of(action) })
}

fn peer(field: &Field<'_>, faults: &mut Faults) -> Option<Peer> {
    let fields = field.fields(faults, &["workloadSelector", "namespaceSelector", "ipBlock", "entity"])?;
    let workloads = fields.get("workloadSelector");
    let namespaces = fields.get("namespaceSelector");
    let (block, entity) = (fields.get("ipBlock"), fields.get("entity"));
    match (workloads.is_some() || namespaces.is_some(), block, entity) {
        (true, None, None) => Some(Peer::Workloads {
            workload_selector: optional(workloads, faults)?,
            namespace_selector: optional(namespaces, faults)?,
        }),
        (false, Some(block), None) => Some(Peer::IpBlock { ip_block: ip_block(&block, faults)? }),
        (false, None, Some(entity)) => Some(Peer::Entity { entity: entity.word(faults, Entity::WORDS)? }),
        (false, None, None) => {
            let remedy =
                "name a workloadSelector, namespaceSelector, ipBlock or entity; for any peer leave out the whole list";
            field.fault(faults, "a peer that says nothing", remedy);
            None
        }
        (_, _, _) => {
            field.fault(faults, "selectors, ipBlock and entity exclude each other", "make them separate list items");
            None
        }
    }
}

/// `None` when the selector is faulty, `Some(None)` when there is none.
fn optional(field: Option<Field<'_>>, faults: &mut Faults) -> Option<Option<Selector>> {
    field.map_or(Some(None), |field| selector(&field, faults).map(Some))
}

fn ip_block(field: &Field<'_>, faults: &mut Faults) -> Option<IpBlock> {
    let fields = field.fields(faults, &["cidr", "except"])?;
    let cidr = fields.require(faults, "cidr", "write a prefix such as 10.0.0.0/8");
    let cidr = cidr.and_then(|cidr| scalars::prefix(&cidr, faults, false));
    let mut except = BTreeSet::new();
    for item in fields.get("except").map(|list| list.list(faults)).unwrap_or_default() {
        let Some(inner) = scalars::prefix(&item, faults, false) else { continue };
        let inside =
            cidr.is_none_or(|outer| outer.bits < inner.bits && outer.is_v4() == inner.is_v4() && outer.covers(&inner));
        if !inside {
            item.fault(faults, "not inside the cidr", "write a smaller prefix inside the cidr, or remove it");
        }
        except.insert(inner);
    }
    Some(IpBlock { cidr: cidr?, except })
}

/// The `ports` of a rule or rate limit.
pub fn ports(fields: &Fields<'_>, faults: &mut Faults) -> Vec<PortMatch> {
    let items = fields.get("ports").map(|list| list.list(faults)).unwrap_or_default();
    items.iter().filter_map(|item| port(item, faults)).collect()
}

fn port(field: &Field<'_>, faults: &mut Faults) -> Option<PortMatch> {
    let fields = field.fields(faults, &["protocol", "port", "endPort"])?;
    let protocol = fields.get("protocol").map_or(Some(Protocol::TCP), |word| scalars::protocol(&word, faults))?;
    let (first, last) = (fields.get("port"), fields.get("endPort"));
    let Some(first) = first else {
        if let Some(last) = last {
            last.fault(faults, "endPort without port", "add port, the first port of the range");
        }
        return Some(PortMatch { protocol, ports: None });
    };
    if !matches!(protocol, Protocol::TCP | Protocol::UDP) {
        let problem = format!("ports are told apart for TCP and UDP only, not for {}", protocol_name(protocol));
        first.fault(faults, problem, "remove port and endPort to mean the whole protocol");
        return None;
    }
    let number =
        |field: &Field<'_>, faults: &mut Faults| field.integer(faults, 1, 65_535).and_then(|n| u16::try_from(n).ok());
    let low = number(&first, faults)?;
    let Some(last) = last else { return Some(PortMatch { protocol, ports: Some((low, low)) }) };
    let high = number(&last, faults)?;
    if high < low {
        last.fault(faults, "endPort is below port", format!("write a port from {low} to 65535, or swap the two"));
        return None;
    }
    Some(PortMatch { protocol, ports: Some((low, high)) })
}
