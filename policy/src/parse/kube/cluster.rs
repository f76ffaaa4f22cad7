//! Lives: host.
//! Called by: `kube`, for documents of kind ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2); `admin`.
//! May touch: the list of faults.
//! Never: lets a peer it does not know open anything.

use std::collections::BTreeSet;

use weir_common::{addr::Protocol, verdict::Direction};

use super::{
    super::{
        faults::Faults,
        fields::{Field, Fields},
    },
    cluster_peer::{members, peer},
    parts::{any_port_name, bounded, number, one_of, priority, range, rule_name},
};
use crate::model::{Action, Mode, OnChange, Peer, Policy, PortMatch, PortName, Rule, Tier};

/// What differs between the versions of the API.
pub struct Dialect {
    /// The words for what rules do.
    pub actions: &'static [(&'static str, Action)],
    /// Most rules in a direction.
    pub most_rules: usize,
    /// Most peers and ports in a rule.
    pub most_items: usize,
    /// The field with protocols and ports.
    pub ports: &'static str,
    /// Reads one of its items.
    pub port: fn(&Field<'_>, &mut Faults) -> Option<Port>,
}

/// One entry of a rule's protocols or ports.
pub enum Port {
    /// By number.
    Number(PortMatch),
    /// By the name that the called pod gives it.
    Name(PortName),
}

const V1ALPHA2: Dialect = Dialect {
    actions: &[("Accept", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    most_rules: 25,
    most_items: 25,
    ports: "protocols",
    port: protocol,
};

/// The spec of a ClusterNetworkPolicy.
pub fn cluster_policy(field: &Field<'_>, faults: &mut Faults) -> Option<Policy> {
    let fields = field.fields(faults, &["tier", "priority", "subject", "ingress", "egress"])?;
    let tier = fields
        .require(faults, "tier", "write tier: Admin or Baseline")
        .and_then(|tier| tier.word(faults, &[("Admin", Tier::Admin), ("Baseline", Tier::Baseline)]));
    let priority = priority(&fields, faults);
    let policy = policy(&fields, &V1ALPHA2, faults);
    Some(Policy { tier: tier?, priority: priority?, ..policy? })
}

/// Subject and rules, which all versions share.
pub fn policy(fields: &Fields<'_>, dialect: &Dialect, faults: &mut Faults) -> Option<Policy> {
    let subject = fields.require(faults, "subject", "write subject: {namespaces: {}} for all pods");
    let subject = subject.and_then(|field| {
        let (place, field) = one_of(&field, &["namespaces", "pods"], "a subject", faults)?;
        members(place, &field, faults)
    });
    let ingress = rules(fields, Direction::Ingress, dialect, faults);
    let egress = rules(fields, Direction::Egress, dialect, faults);
    let (namespaces, workload_selector) = subject?;
    Some(Policy {
        tier: Tier::Admin,
        namespaces: Some(namespaces),
        workload_selector: workload_selector.unwrap_or_default(),
        priority: 0,
        policy_types: BTreeSet::new(),
        mode: Mode::Enforce,
        on_change: OnChange::Cut,
        expires_at: None,
        default_action: Action::Pass,
        sockets: BTreeSet::new(),
        ingress,
        egress,
    })
}

fn rules(fields: &Fields<'_>, direction: Direction, dialect: &Dialect, faults: &mut Faults) -> Vec<Rule> {
    let items = bounded(fields.get(direction.name()), 0, dialect.most_rules, faults);
    items.iter().filter_map(|item| rule(item, direction, dialect, faults)).collect()
}

fn rule(field: &Field<'_>, direction: Direction, dialect: &Dialect, faults: &mut Faults) -> Option<Rule> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let fields = field.fields(faults, &["name", "action", side, dialect.ports])?;
    let name = rule_name(&fields, faults);
    let action = fields.require(faults, "action", "say what the rule does");
    let action = action.and_then(|action| action.word(faults, dialect.actions));
    let list = fields.require(faults, side, "list at least one peer");
    let items = bounded(list, 1, dialect.most_items, faults);
    let peers: Vec<_> = items.iter().flat_map(|item| peer(item, direction, faults)).collect();
    let mut rule = Rule { name, peers, ..Rule::of(action?) };
    for item in bounded(fields.get(dialect.ports), 1, dialect.most_items, faults) {
        match (dialect.port)(&item, faults) {
            Some(Port::Number(entry)) => rule.ports.push(entry),
            Some(Port::Name(entry)) => rule.named_ports.push(entry),
            None => {}
        }
    }
    let nameless = |peer: &Peer| matches!(peer, Peer::IpBlock { .. } | Peer::Nodes { .. });
    if !rule.named_ports.is_empty() && rule.peers.iter().any(nameless) {
        field.fault(faults, "a named port with nodes or networks, which name no ports", "write the port's number");
    }
    names_only_accept(&items, &rule, faults);
    if rule.peers.contains(&Peer::Unknown) {
        let text = match rule.action {
            Action::Allow => "has a peer that nothing here can find: the rule matches nothing",
            Action::Deny | Action::Refuse | Action::Pass => "has a peer of an unknown kind: the rule denies everything",
        };
        faults.remark(&field.path, format!("{} {text}", field.path));
    }
    Some(closed(rule))
}

/// Whether an address belongs to a name can be known too late: by then a denial has let something pass.
fn names_only_accept(peers: &[Field<'_>], rule: &Rule, faults: &mut Faults) {
    let names = peers.iter().filter_map(|peer| peer.entry("domainNames"));
    for field in names.filter(|_| rule.action != Action::Allow) {
        field.fault(faults, "domainNames in a rule that does not accept", "write action: Accept, or name networks");
    }
}

/// A peer of a kind that is unknown here: an Accept rule then matches nothing, a Deny or Pass rule denies all.
fn closed(rule: Rule) -> Rule {
    if !rule.peers.contains(&Peer::Unknown) {
        return rule;
    }
    match rule.action {
        Action::Allow => Rule { peers: vec![Peer::Unknown], ..rule },
        Action::Deny | Action::Refuse | Action::Pass => {
            let (peers, ports, named_ports) = (Vec::new(), Vec::new(), Vec::new());
            Rule { action: Action::Deny, peers, ports, named_ports, ..rule }
        }
    }
}

/// One item of `protocols`.
fn protocol(field: &Field<'_>, faults: &mut Faults) -> Option<Port> {
    let known = ["tcp", "udp", "sctp", "destinationNamedPort"];
    let (place, field) = one_of(field, &known, "a protocol", faults)?;
    let protocol = match place {
        0 => Protocol::TCP,
        1 => Protocol::UDP,
        2 => Protocol::SCTP,
        _ => return any_port_name(&field, faults).map(|name| Port::Name(PortName { name, protocol: None })),
    };
    let (_, port) = one_of(&field, &["destinationPort"], "a protocol's filter", faults)?;
    let (place, value) = one_of(&port, &["number", "range"], "a destinationPort", faults)?;
    let entry = match place {
        0 => number(&value, faults).map(|number| PortMatch { protocol, ports: Some((number, number)) }),
        _ => range(&value, protocol, false, faults),
    };
    entry.map(Port::Number)
}
