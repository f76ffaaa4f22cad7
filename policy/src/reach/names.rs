//! Lives: host.
//! Called by: `grouping` and `changes`.
//! May touch: nothing.
//! Never: gives two different sets of ends one name, or says of ends what is not true of each of them.

use std::collections::BTreeMap;

use super::parties::{Party, Who};
use crate::{id::Kind, model::Prefix};

/// Names of a set of ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// For a heading: `shop/app=web (12)`.
    pub short: String,
    /// For a sentence: `12 pods of shop with app=web`.
    pub long: String,
}

/// Labels that say best what something is, best first.
const TELLING: [&str; 6] =
    ["app.kubernetes.io/name", "app", "k8s-app", "name", "app.kubernetes.io/component", "component"];

/// Labels that machines write for machines.
const MECHANICAL: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
];

/// How many names a list shows.
const SHOWN: usize = 3;

/// What names must tell apart.
pub struct Names<'p> {
    parties: &'p [Party],
    /// How many workloads a namespace has, and how many of them each label.
    sizes: BTreeMap<&'p str, usize>,
    labels: BTreeMap<(&'p str, &'p str, &'p str), usize>,
    nodes: usize,
}

impl<'p> Names<'p> {
    pub fn of(parties: &'p [Party]) -> Self {
        let mut names = Self { parties, sizes: BTreeMap::new(), labels: BTreeMap::new(), nodes: 0 };
        for party in parties {
            match &party.who {
                Who::Workload(id) => {
                    *names.sizes.entry(&id.namespace).or_default() += 1;
                    for (key, value) in &party.labels {
                        *names.labels.entry((&id.namespace, key, value)).or_default() += 1;
                    }
                }
                Who::Node(_) => names.nodes += 1,
                Who::Host | Who::Outside(_) => {}
            }
        }
        names
    }

    /// Names of these ends, by their places among the parties.
    pub fn name(&self, members: &[usize]) -> Named {
        let mut by_namespace: BTreeMap<&str, Vec<&Party>> = BTreeMap::new();
        let (mut nodes, mut outside, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for party in members.iter().filter_map(|member| self.parties.get(*member)) {
            match &party.who {
                Who::Workload(id) => by_namespace.entry(&id.namespace).or_default().push(party),
                Who::Node(name) => nodes.push(name.as_str()),
                Who::Host => parts.push(both("this host".to_owned())),
                Who::Outside(prefix) => outside.push(*prefix),
            }
        }
        let spaces: Vec<_> = by_namespace.keys().copied().collect();
        let workloads: Vec<_> = by_namespace.values().flatten().copied().collect();
        if workloads.len() > 1 && workloads.len() == self.sizes.values().sum::<usize>() {
            let count = workloads.len();
            parts.push(Named { short: format!("* ({count})"), long: format!("all {count} {}", noun(&workloads)) });
        } else if spaces.len() > SHOWN {
            parts.push(self.in_many(&spaces, &workloads));
        } else {
            parts.extend(by_namespace.iter().map(|(namespace, members)| self.in_namespace(namespace, members)));
        }
        if !nodes.is_empty() {
            parts.push(self.of_nodes(&nodes));
        }
        if !outside.is_empty() {
            parts.push(both(of_outside(&outside)));
        }
        Named {
            short: parts.iter().map(|part| part.short.as_str()).collect::<Vec<_>>().join(", "),
            long: sentence(&parts.iter().map(|part| part.long.as_str()).collect::<Vec<_>>()),
        }
    }

    fn in_many(&self, spaces: &[&str], members: &[&Party]) -> Named {
        let (count, listed) = (members.len(), listed(spaces, ", "));
        let whole = spaces.iter().filter_map(|space| self.sizes.get(space)).sum::<usize>() == count;
        let (all, star) = if whole { ("all ", "/*") } else { ("", "") };
        Named {
            short: format!("{listed}{star} ({count})"),
            long: format!("{all}{count} {} of the namespaces {listed}", noun(members)),
        }
    }

    fn in_namespace(&self, namespace: &str, members: &[&Party]) -> Named {
        let names: Vec<_> = members.iter().filter_map(|party| name_of(party)).collect();
        if let [name] = names.as_slice() {
            return both(format!("{namespace}/{name}"));
        }
        let (count, what) = (members.len(), noun(members));
        if let Some((key, value)) = self.telling_label(namespace, members) {
            let short_key = key.rsplit('/').next().unwrap_or(key);
            let short = match short_key {
                "app" | "name" | "k8s-app" => format!("{namespace}/{value} ({count})"),
                _ => format!("{namespace}/{short_key}={value} ({count})"),
            };
            return Named { short, long: format!("{count} {what} of {namespace} with {key}={value}") };
        }
        if self.sizes.get(namespace) == Some(&count) {
            return Named {
                short: format!("{namespace}/* ({count})"),
                long: format!("all {count} {what} of {namespace}"),
            };
        }
        let names = listed(&names, ", ");
        Named { short: format!("{namespace}/{names}"), long: format!("{count} {what} of {namespace} ({names})") }
    }

    /// A label that these workloads of the namespace have, and no others of it.
    fn telling_label<'l>(&self, namespace: &str, members: &[&'l Party]) -> Option<(&'l str, &'l str)> {
        let own = |key: &str, value: &str| self.labels.get(&(namespace, key, value)) == Some(&members.len());
        let (first, rest) = members.split_first()?;
        let shared =
            |(key, value): &(&String, &String)| rest.iter().all(|party| party.labels.get(*key) == Some(*value));
        let telling = first.labels.iter().filter(shared).filter(|(key, value)| own(key, value));
        let rank = |key: &str| TELLING.iter().position(|known| *known == key).unwrap_or(TELLING.len());
        let best = telling.min_by_key(|(key, _)| (MECHANICAL.contains(&key.as_str()), rank(key)))?;
        // A hash says nothing to people; a list of names does.
        (!MECHANICAL.contains(&best.0.as_str())).then_some((best.0.as_str(), best.1.as_str()))
    }

    fn of_nodes(&self, nodes: &[&str]) -> Named {
        let count = nodes.len();
        match nodes {
            [node] => both(format!("node:{node}")),
            _ if count == self.nodes => {
                Named { short: format!("node:* ({count})"), long: format!("all {count} nodes") }
            }
            _ => {
                let names = listed(nodes, ", ");
                Named { short: format!("node:{names}"), long: format!("{count} nodes ({names})") }
            }
        }
    }
}

/// "a, b and c".
fn sentence(parts: &[&str]) -> String {
    match parts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => parts.concat(),
    }
}

fn both(name: String) -> Named {
    Named { short: name.clone(), long: name }
}

fn name_of(party: &Party) -> Option<&str> {
    match &party.who {
        Who::Workload(id) => Some(&id.name),
        Who::Node(_) | Who::Host | Who::Outside(_) => None,
    }
}

fn noun(members: &[&Party]) -> &'static str {
    let pod = |party: &&Party| matches!(&party.who, Who::Workload(id) if id.kind == Kind::Pod);
    if members.iter().all(pod) { "pods" } else { "workloads" }
}

fn listed(names: &[&str], separator: &str) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN).copied().collect();
    match names.len() - shown.len() {
        0 => shown.join(separator),
        more => format!("{}{separator}+{more}", shown.join(separator)),
    }
}

/// Prefixes that lie outside. What is left of everything is the world.
fn of_outside(prefixes: &[Prefix]) -> String {
    let any = |prefix: &&Prefix| prefix.addr.as_v4().is_none() && prefix.bits == 0;
    let (v4, v6) = (prefixes.contains(&Prefix::V4), prefixes.iter().any(|prefix| any(&prefix)));
    let world = match (v4, v6) {
        (true, true) => Some("world"),
        (true, false) => Some("world (IPv4)"),
        (false, true) => Some("world (IPv6)"),
        (false, false) => None,
    };
    // A prefix inside of one that is listed says nothing more.
    let inner = |prefix: &&Prefix| {
        let around = |other: &&Prefix| other != prefix && other.is_v4() == prefix.is_v4() && other.covers(prefix);
        prefixes.iter().any(|other| around(&other))
    };
    let listed_alone = |prefix: &&Prefix| **prefix != Prefix::V4 && !any(prefix) && !inner(prefix);
    let others = prefixes.iter().filter(listed_alone).map(ToString::to_string);
    let names: Vec<_> = world.map(str::to_owned).into_iter().chain(others).collect();
    listed(&names.iter().map(String::as_str).collect::<Vec<_>>(), ", ")
}
