//! Lives: host.
//! Called by: `kube`, for documents of kind NetworkPolicy (networking.k8s.io/v1).
//! May touch: the list of faults.
//! Never: leaves a default to the reader of the model.

use std::collections::BTreeSet;

use weir_common::{addr::Protocol, verdict::Direction};

use super::{
    super::{
        faults::Faults,
        fields::{Field, Fields},
        policy::egress_without_rules,
    },
    parts::{TRANSPORTS, cidr, is_number, number, optional, port_name},
};
use crate::model::{
    Action, IpBlock, Mode, OnChange, Peer, Policy, PolicyType, PortMatch, PortName, Rule, Socket, Tier,
};

/// The spec; without one the policy selects every pod and isolates ingress.
pub fn network_policy(field: Option<Field<'_>>, faults: &mut Faults) -> Option<Policy> {
    let fields = match &field {
        Some(field) => Some(field.fields(faults, &["podSelector", "policyTypes", "ingress", "egress"])?),
        None => None,
    };
    let get = |name| fields.as_ref().and_then(|fields: &Fields<'_>| fields.get(name));
    let workload_selector = optional(get("podSelector"), faults);
    let ingress = rules(get("ingress"), Direction::Ingress, faults);
    let egress = rules(get("egress"), Direction::Egress, faults);
    if let (Some(fields), true) = (&fields, get("policyTypes").is_none_or(|types| types.item_count() == Some(0))) {
        egress_without_rules(fields, faults);
    }
    Some(Policy {
        tier: Tier::Namespace,
        namespaces: None,
        workload_selector: workload_selector?.unwrap_or_default(),
        priority: Policy::DEFAULT_PRIORITY,
        policy_types: types(get("policyTypes"), !egress.is_empty(), faults),
        mode: Mode::Enforce,
        on_change: OnChange::Cut,
        expires_at: None,
        default_action: Action::Deny,
        sockets: sockets(&egress),
        ingress,
        egress,
    })
}

/// Without any: ingress always, egress if there is a rule for it.
fn types(field: Option<Field<'_>>, egress: bool, faults: &mut Faults) -> BTreeSet<PolicyType> {
    let items = field.as_ref().map(|list| list.list(faults)).unwrap_or_default();
    if let (Some(field), true) = (&field, items.len() > 2) {
        field.fault(faults, "more than two policyTypes", "write Ingress, Egress or both");
    }
    let mut types: BTreeSet<_> = items.iter().filter_map(|item| item.word(faults, PolicyType::WORDS)).collect();
    if items.is_empty() {
        types.insert(PolicyType::Ingress);
        types.extend(egress.then_some(PolicyType::Egress));
    }
    types
}

/// Isolated pods may open SCTP sockets if some rule may let SCTP through: the rule then judges what they send.
fn sockets(egress: &[Rule]) -> BTreeSet<Socket> {
    let sctp = |rule: &Rule| {
        let named = rule.named_ports.iter().any(|port| port.protocol == Some(Protocol::SCTP));
        let all = rule.ports.is_empty() && rule.named_ports.is_empty();
        all || named || rule.ports.iter().any(|port| port.protocol == Protocol::SCTP)
    };
    egress.iter().any(sctp).then_some(Socket::Sctp).into_iter().collect()
}

fn rules(field: Option<Field<'_>>, direction: Direction, faults: &mut Faults) -> Vec<Rule> {
    let items = field.map(|list| list.list(faults)).unwrap_or_default();
    items.iter().filter_map(|item| rule(item, direction, faults)).collect()
}

fn rule(field: &Field<'_>, direction: Direction, faults: &mut Faults) -> Option<Rule> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let fields = field.fields(faults, &[side, "ports"])?;
    let peers = fields.get(side).map(|list| list.list(faults)).unwrap_or_default();
    let peers = peers.iter().filter_map(|item| peer(item, faults)).collect();
    let mut rule = Rule { peers, ..Rule::of(Action::Allow) };
    for item in fields.get("ports").map(|list| list.list(faults)).unwrap_or_default() {
        match port(&item, faults) {
            Some(Port::Number(entry)) => rule.ports.push(entry),
            Some(Port::Name(entry)) => rule.named_ports.push(entry),
            None => {}
        }
    }
    Some(rule)
}

/// A bare podSelector: pods of the policy's own namespace. A bare namespaceSelector: all pods there. Both: both must hold.
fn peer(field: &Field<'_>, faults: &mut Faults) -> Option<Peer> {
    let fields = field.fields(faults, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let (pods, namespaces) = (fields.get("podSelector"), fields.get("namespaceSelector"));
    match (pods.is_some() || namespaces.is_some(), fields.get("ipBlock")) {
        (true, None) => Some(Peer::Workloads {
            workload_selector: optional(pods, faults)?,
            namespace_selector: optional(namespaces, faults)?,
        }),
        (false, Some(block)) => ip_block(&block, faults).map(|ip_block| Peer::IpBlock { ip_block }),
        (false, None) => {
            let remedy = "write podSelector, namespaceSelector or ipBlock; for any peer leave out the whole list";
            field.fault(faults, "a peer must name something", remedy);
            None
        }
        (true, Some(_)) => {
            field.fault(faults, "ipBlock stands alone", "make ipBlock a list item of its own");
            None
        }
    }
}

fn ip_block(field: &Field<'_>, faults: &mut Faults) -> Option<IpBlock> {
    let fields = field.fields(faults, &["cidr", "except"])?;
    let outer = fields.require(faults, "cidr", "write a prefix such as 10.0.0.0/8");
    let outer = outer.and_then(|field| cidr(&field, faults));
    let mut except = BTreeSet::new();
    for item in fields.get("except").map(|list| list.list(faults)).unwrap_or_default() {
        let Some(inner) = cidr(&item, faults) else { continue };
        if !outer.is_none_or(|outer| outer.is_larger_than(&inner)) {
            item.fault(faults, "not a smaller prefix inside the cidr", "write a smaller prefix inside the cidr");
        }
        except.insert(inner);
    }
    Some(IpBlock { cidr: outer?, except })
}

enum Port {
    Number(PortMatch),
    Name(PortName),
}

fn port(field: &Field<'_>, faults: &mut Faults) -> Option<Port> {
    let fields = field.fields(faults, &["protocol", "port", "endPort"])?;
    // A faulty protocol hides no other fault.
    let protocol = fields.get("protocol").map_or(Some(Protocol::TCP), |word| word.word(faults, &TRANSPORTS));
    let last = fields.get("endPort");
    let Some(first) = fields.get("port") else {
        if let Some(last) = last {
            last.fault(faults, "endPort without port", "add port, the first port of the range");
        }
        return Some(Port::Number(PortMatch { protocol: protocol?, ports: None }));
    };
    if !is_number(&first) {
        if let Some(last) = last {
            last.fault(faults, "endPort with a named port", "write port as a number, or remove endPort");
        }
        return Some(Port::Name(PortName { name: port_name(&first, faults)?, protocol: Some(protocol?) }));
    }
    let low = number(&first, faults);
    let high = last.as_ref().map_or(low, |last| number(last, faults));
    let (low, high) = (low?, high?);
    if let (Some(last), true) = (last, high < low) {
        last.fault(faults, "endPort is below port", format!("write a port from {low} to 65535"));
        return None;
    }
    Some(Port::Number(PortMatch { protocol: protocol?, ports: Some((low, high)) }))
}
