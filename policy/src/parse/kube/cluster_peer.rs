//! Lives: host.
//! Called by: `cluster`, for the subject and the peers of cluster policies of all versions.
//! May touch: the list of faults.
//! Never: lets a peer it does not know open anything.

use std::collections::BTreeSet;

use weir_common::verdict::Direction;

use super::{
    super::{faults::Faults, fields::Field, selector::selector},
    parts::{bounded, cidr, one_of},
};
use crate::model::{IpBlock, Peer, Selector};

/// Most networks or names in a peer, in all versions.
const MOST_NETWORKS: usize = 25;

/// `namespaces`: all pods there; `pods`: the pods there that a second selector selects.
pub fn members(place: usize, field: &Field<'_>, faults: &mut Faults) -> Option<(Selector, Option<Selector>)> {
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

/// One item of `from` or `to`; each network is a peer of its own. One without fields is of a later version's kind.
pub fn peer(field: &Field<'_>, direction: Direction, faults: &mut Faults) -> Vec<Peer> {
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
