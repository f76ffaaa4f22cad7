//! Lives: host. Whether one thing matches all that another matches.
//! Called by: `shadow`.
//! May touch: nothing.
//! Never: says so when it is not sure: what is covered only by several others together, it does not see.

use crate::{
    evaluate::entity_matches,
    model::{IpBlock, Operator, Peer, PortMatch, PortName, Requirement, Rule, Selector},
};

/// Whether a rule of a policy in one namespace matches whatever another rule, of a policy in another namespace, matches.
pub fn rule(wide: (&str, &Rule), narrow: (&str, &Rule)) -> bool {
    let ((wide_in, wide), (narrow_in, narrow)) = (wide, narrow);
    let peer_covered = |narrow: &Peer| wide.peers.iter().any(|wide| peer((wide_in, wide), (narrow_in, narrow)));
    let peers = wide.peers.is_empty() || (!narrow.peers.is_empty() && narrow.peers.iter().all(peer_covered));
    let any_port = |rule: &Rule| rule.ports.is_empty() && rule.named_ports.is_empty();
    let port_covered = |narrow: &PortMatch| wide.ports.iter().any(|wide| port(wide, narrow));
    let name_covered = |narrow: &PortName| wide.named_ports.contains(narrow) || whole_protocol(wide, narrow);
    let ports = any_port(wide)
        || (!any_port(narrow) && narrow.ports.iter().all(port_covered) && narrow.named_ports.iter().all(name_covered));
    peers && ports
}

/// Whether a selector selects whatever another selects: each of its requirements follows from one of the other's.
pub fn selector(wide: &Selector, narrow: &Selector) -> bool {
    let label = |(key, value): (&String, &String)| {
        let is_value = |requirement: &&Requirement| {
            requirement.key == *key && requirement.operator == Operator::In && requirement.values.iter().eq([value])
        };
        narrow.match_labels.get(key) == Some(value) || narrow.match_expressions.iter().any(|own| is_value(&own))
    };
    wide.match_labels.iter().all(label) && wide.match_expressions.iter().all(|wanted| follows(wanted, narrow))
}

/// Whether a requirement holds for whatever a selector selects.
fn follows(wanted: &Requirement, from: &Selector) -> bool {
    if from.match_expressions.contains(wanted) {
        return true;
    }
    let value = from.match_labels.get(&wanted.key);
    let mut own = from.match_expressions.iter().filter(|own| own.key == wanted.key);
    match wanted.operator {
        Operator::In => {
            value.is_some_and(|value| wanted.values.contains(value))
                || own.any(|own| own.operator == Operator::In && own.values.is_subset(&wanted.values))
        }
        Operator::NotIn => {
            value.is_some_and(|value| !wanted.values.contains(value))
                || own.any(|own| match own.operator {
                    Operator::In => own.values.is_disjoint(&wanted.values),
                    Operator::NotIn => own.values.is_superset(&wanted.values),
                    Operator::Exists => false,
                    Operator::DoesNotExist => true,
                })
        }
        Operator::Exists => value.is_some() || own.any(|own| own.operator == Operator::In),
        Operator::DoesNotExist => false,
    }
}

/// Whether the namespaces of a peer or policy hold all of another's; no selector means the own one.
pub fn namespaces(wide: (&str, Option<&Selector>), narrow: (&str, Option<&Selector>)) -> bool {
    match (wide, narrow) {
        ((_, Some(wide)), (_, Some(narrow))) => selector(wide, narrow),
        ((wide, None), (narrow, None)) => wide == narrow,
        // What labels the own namespace has may change; all namespaces hold it in any case.
        ((_, Some(wide)), (_, None)) => *wide == Selector::default(),
        ((_, None), (_, Some(_))) => false,
    }
}

fn peer((wide_in, wide): (&str, &Peer), (narrow_in, narrow): (&str, &Peer)) -> bool {
    match (wide, narrow) {
        (
            Peer::Workloads { workload_selector, namespace_selector },
            Peer::Workloads { workload_selector: narrow_workloads, namespace_selector: narrow_namespaces },
        ) => {
            let all = Selector::default();
            let [wide, narrow] = [workload_selector, narrow_workloads].map(|given| given.as_ref().unwrap_or(&all));
            selector(wide, narrow)
                && namespaces((wide_in, namespace_selector.as_ref()), (narrow_in, narrow_namespaces.as_ref()))
        }
        (Peer::IpBlock { ip_block: wide }, Peer::IpBlock { ip_block: narrow }) => block(wide, narrow),
        (Peer::Entity { entity: wide }, Peer::Entity { entity: narrow }) => entity_matches(*wide, *narrow),
        (Peer::Nodes { node_selector: wide }, Peer::Nodes { node_selector: narrow }) => selector(wide, narrow),
        (Peer::Service { service: wide }, Peer::Service { service: narrow }) => wide == narrow,
        (_, _) => false,
    }
}

/// Each hole of the wide block lies outside of the narrow one, or inside of one of its own.
fn block(wide: &IpBlock, narrow: &IpBlock) -> bool {
    let same_family = wide.cidr.is_v4() == narrow.cidr.is_v4();
    let harmless = |hole: &crate::model::Prefix| {
        let outside = !hole.covers(&narrow.cidr) && !narrow.cidr.covers(hole);
        outside || narrow.except.iter().any(|own| own.covers(hole))
    };
    same_family && wide.cidr.covers(&narrow.cidr) && wide.except.iter().all(harmless)
}

fn port(wide: &PortMatch, narrow: &PortMatch) -> bool {
    wide.protocol == narrow.protocol
        && match (wide.ports, narrow.ports) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((first, last)), Some((from, to))) => first <= from && to <= last,
        }
}

fn whole_protocol(wide: &Rule, name: &PortName) -> bool {
    wide.ports.iter().any(|entry| entry.ports.is_none() && name.protocol == Some(entry.protocol))
}
