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
        selector::selector,
    },
    parts::{any_port_name, bounded, cidr, number, one_of, priority, range, rule_name},
};
use crate::model::{Action, IpBlock, Mode, Peer, Policy, PortMatch, PortName, Rule, Selector, Tier};

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

/// Most networks in a peer, in all versions.
const MOST_NETWORKS: usize = 25;

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
        expires_at: None,
        default_action: Action::Pass,
        sockets: BTreeSet::new(),
        ingress,
        egress,
    })
}

/// `namespaces`: all pods there; `pods`: the pods there that a second selector selects.
fn members(place: usize, field: &Field<'_>, faults: &mut Faults) -> Option<(Selector, Option<Selector>)> {
    if place == 0 {
        return Some((selector(field, faults)?, None));
    }
    let fields = field.fields(faults, &["namespaceSelector", "podSelector"])?;
    let namespaces = match fields.get("namespaceSelector") {
        Some(namespaces) => selector(&namespaces, faults),
        None => Some(Selector::default()),
    };
    let pods = fields.require(faults, "podSelector", "write podSelector: {} for all pods");
    let pods = pods.and_then(|pods| selector(&pods, faults));
    Some((namespaces?, Some(pods?)))
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
            Action::Deny | Action::Pass => "has a peer of an unknown kind: the rule denies everything",
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
        Action::Deny | Action::Pass => {
            let (peers, ports, named_ports) = (Vec::new(), Vec::new(), Vec::new());
            Rule { action: Action::Deny, peers, ports, named_ports, ..rule }
        }
    }
}

/// One item of `from` or `to`; each network is a peer of its own. One without fields is of a later version's kind.
fn peer(field: &Field<'_>, direction: Direction, faults: &mut Faults) -> Vec<Peer> {
    let known: &[&'static str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
    };
    if field.entry_count() == 0 && field.lenient(faults).is_some() {
        return vec![Peer::Unknown];
    }
    let Some((place, field)) = one_of(field, known, "a peer", faults) else { return Vec::new() };
    match place {
        0 | 1 => members(place, &field, faults).map_or_else(Vec::new, |(namespaces, workload_selector)| {
            vec![Peer::Workloads { workload_selector, namespace_selector: Some(namespaces) }]
        }),
        2 => selector(&field, faults).map(|node_selector| Peer::Nodes { node_selector }).into_iter().collect(),
        3 => {
            let items = bounded(Some(field), 1, MOST_NETWORKS, faults);
            each_once(&items, faults);
            let blocks = items.iter().filter_map(|item| cidr(item, faults));
            let block = |cidr| Peer::IpBlock { ip_block: IpBlock { cidr, except: BTreeSet::new() } };
            blocks.map(block).collect()
        }
        _ => {
            let items = bounded(Some(field), 1, MOST_NETWORKS, faults);
            each_once(&items, faults);
            items.iter().for_each(|item| domain_name(item, faults));
            vec![Peer::Unknown]
        }
    }
}

/// The API's sets compare what is written.
fn each_once(items: &[Field<'_>], faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for item in items {
        if let Some(text) = item.word_as_written().filter(|text| !seen.insert(*text)) {
            item.fault(faults, format!("{text} is listed twice"), "remove one of the two");
        }
    }
}

/// A name such as `example.com` or `*.example.com`.
fn domain_name(field: &Field<'_>, faults: &mut Faults) {
    let Some(text) = field.text(faults) else { return };
    let parts = text.strip_prefix("*.").unwrap_or(text);
    let parts: Vec<_> = parts.strip_suffix('.').unwrap_or(parts).split('.').collect();
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_part = |part: &&str| edge(part.bytes().next()) && edge(part.bytes().next_back()) && part.bytes().all(inner);
    if parts.len() < 2 || !parts.iter().all(is_part) {
        field.fault(faults, "not a domain name", "write a name such as example.com or \"*.example.com\"");
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
