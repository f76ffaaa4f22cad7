//! Lives: ctl.
//! Called by: the verbs of policy that ask about two ends.
//! May touch: nothing.
//! Never: picks one of two things that a name may mean.

use std::fmt;
use std::net::IpAddr;

use weir_policy::{End, Kind, Resource, ResourceId, Resources, addr};

/// How an end is written, for help texts.
pub const VALUE: &str = "END";

/// What an end may be, for help texts.
pub const ENDS: &str = "Ends: NAMESPACE/NAME of a pod or workload (or pod/NAMESPACE/NAME, workload/NAMESPACE/NAME), an \
                        address, node:NAME, and as the end that is called svc:NAMESPACE/NAME. NAMESPACE/KEY=VALUE \
                        and NAMESPACE/* are every pod and workload of the namespace with that label, and every one.";

/// The namespace of a name that says none.
const DEFAULT_NAMESPACE: &str = "default";

/// How many names an answer suggests.
const SUGGESTED: usize = 5;

/// An end as a person means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// Something that opens or takes connections.
    End(End),
    /// A service; judged is what is behind it.
    Service(ResourceId),
}

/// An end that cannot be asked about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}: {problem}; {remedy}")]
pub struct BadEnd {
    /// As written.
    pub text: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// Finds everything that a text stands for: `NAMESPACE/KEY=VALUE` and `NAMESPACE/*` are several pods or workloads.
pub fn find_all(resources: &Resources, text: &str) -> Result<Vec<Named>, BadEnd> {
    let Some((namespace, wanted)) = text.split_once('/').filter(|(_, rest)| *rest == "*" || rest.contains('=')) else {
        return find(resources, text).map(|found| vec![found]);
    };
    let label = wanted.split_once('=');
    let meant = |resource: &Resource| {
        let labels = resource.labels();
        let by_label = label.is_none_or(|(key, value)| labels.get(key).is_some_and(|known| known == value));
        resource.id().namespace == namespace && by_label
    };
    let found: Vec<_> = resources
        .workloads()
        .filter(|(resource, _)| meant(resource))
        .map(|(resource, _)| Named::End(End::Workload(resource.id().clone())))
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => {
            let problem = match label {
                Some((key, value)) => format!("no pod or workload of {namespace} has the label {key}={value}"),
                None => format!("there is no pod or workload in {namespace}"),
            };
            Err(BadEnd {
                text: text.to_owned(),
                problem,
                remedy: known(resources, &[Kind::Pod, Kind::Workload], namespace),
            })
        }
    }
}

/// Finds the one thing that a text stands for.
pub fn find(resources: &Resources, text: &str) -> Result<Named, BadEnd> {
    let bad = |problem: String, remedy: String| BadEnd { text: text.to_owned(), problem, remedy };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Named::End(End::Address(addr(address))));
    }
    let prefixed = |words: [&str; 2]| {
        let (word, name) = text.split_once([':', '/', ' '])?;
        words.iter().any(|known| word.eq_ignore_ascii_case(known)).then(|| name.trim())
    };
    if let Some(name) = prefixed(["node", "nodes"]).filter(|name| !name.contains('/')) {
        return node(resources, name).map_err(|(problem, remedy)| bad(problem, remedy));
    }
    if let Some(name) = prefixed(["svc", "service"]) {
        let id = id(Kind::Service, name);
        return match resources.get(&id) {
            Some(_) => Ok(Named::Service(id)),
            None => Err(bad(format!("there is no {id}"), known(resources, &[Kind::Service], &id.namespace))),
        };
    }
    let kinds: &[Kind] = match (prefixed(["pod", "pods"]), prefixed(["workload", "workloads"])) {
        (Some(_), _) => &[Kind::Pod],
        (_, Some(_)) => &[Kind::Workload],
        (None, None) => &[Kind::Pod, Kind::Workload],
    };
    // A namespace may be called "pod": two parts are a namespace and a name.
    let parts = text.split([':', '/', ' ']).count();
    let (kinds, name) = match (kinds, text.split_once([':', '/', ' '])) {
        ([_], Some((_, rest))) if parts == 3 => (kinds, rest),
        _ => ([Kind::Pod, Kind::Workload].as_slice(), text),
    };
    let ids: Vec<_> = kinds.iter().map(|kind| id(*kind, name)).filter(|id| resources.get(id).is_some()).collect();
    match ids.as_slice() {
        [id] => Ok(Named::End(End::Workload(id.clone()))),
        [] => {
            let namespace = id(Kind::Pod, name).namespace;
            let problem = match kinds {
                [kind] => format!("there is no {}", id(*kind, name)),
                _ => format!("no pod or workload is called {}", name_of(&id(Kind::Pod, name))),
            };
            Err(bad(problem, known(resources, kinds, &namespace)))
        }
        _ => {
            let name = name_of(&id(Kind::Pod, name));
            let remedy = format!("write pod/{name} or workload/{name}");
            Err(bad("there is a pod and a workload of this name".to_owned(), remedy))
        }
    }
}

fn node(resources: &Resources, name: &str) -> Result<Named, (String, String)> {
    match resources.nodes().find(|(resource, _)| resource.id().name == name) {
        None => Err((format!("there is no Node/{name}"), known(resources, &[Kind::Node], ""))),
        Some((_, node)) => match node.addresses.first() {
            Some(address) => Ok(Named::End(End::Address(*address))),
            None => {
                Err((format!("Node/{name} has no address"), "add an InternalIP to its status.addresses".to_owned()))
            }
        },
    }
}

fn id(kind: Kind, name: &str) -> ResourceId {
    let (namespace, name) = name.split_once('/').unwrap_or((DEFAULT_NAMESPACE, name));
    ResourceId::new(kind, namespace, name)
}

fn name_of(id: &ResourceId) -> String {
    format!("{}/{}", id.namespace, id.name)
}

/// A remedy that names what there is.
fn known(resources: &Resources, kinds: &[Kind], namespace: &str) -> String {
    let of_kind = || resources.iter().map(|resource| resource.id()).filter(|id| kinds.contains(&id.kind));
    let mut here: Vec<_> = of_kind().filter(|id| id.namespace == namespace).map(|id| id.name.as_str()).collect();
    here.sort_unstable();
    here.dedup();
    let (names, place) = match here.is_empty() {
        false => (here, if namespace.is_empty() { String::new() } else { format!(" in {namespace}") }),
        true => {
            let mut spaces: Vec<_> = of_kind().map(|id| id.namespace.as_str()).collect();
            spaces.sort_unstable();
            spaces.dedup();
            (spaces, " in the namespaces".to_owned())
        }
    };
    if names.is_empty() {
        return format!("the files describe no {}", kinds.first().map_or("pod", |kind| kind.name()));
    }
    let more = names.len().saturating_sub(SUGGESTED);
    let listed = names.iter().take(SUGGESTED).copied().collect::<Vec<_>>().join(", ");
    format!("known{place}: {listed}{}", if more > 0 { format!(" and {more} more") } else { String::new() })
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(End::Workload(id)) => write!(f, "{}", name_of(id)),
            Self::End(end) => write!(f, "{end}"),
            Self::Service(id) => write!(f, "svc:{}", name_of(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, \
                    labels: {app.kubernetes.io/name: web}}}\n---\n\
                    {apiVersion: v1, kind: Pod, metadata: {name: both, namespace: shop}}\n---\n\
                    {apiVersion: weir.dev/v1alpha1, kind: Workload, metadata: {name: both, namespace: shop}}\n---\n\
                    {apiVersion: v1, kind: Pod, metadata: {name: x, namespace: pod}}\n---\n\
                    {apiVersion: v1, kind: Pod, metadata: {name: lone}}\n---\n\
                    {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}\n---\n\
                    {apiVersion: v1, kind: Node, metadata: {name: bare}}\n---\n\
                    {apiVersion: v1, kind: Node, metadata: {name: n1}, \
                    status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n";
        weir_policy::parse("t", text).unwrap().into_iter().collect()
    }

    #[test]
    fn every_way_to_name_an_end_is_understood() {
        let pod = |namespace: &str, name: &str| Named::End(End::Workload(ResourceId::new(Kind::Pod, namespace, name)));
        let address = |text: &str| Named::End(End::Address(addr(text.parse().unwrap())));
        for (text, expected) in [
            ("shop/web", pod("shop", "web")),
            ("pod/shop/web", pod("shop", "web")),
            ("pod shop/web", pod("shop", "web")),
            ("Pod/shop/both", pod("shop", "both")),
            ("pod/x", pod("pod", "x")),
            ("lone", pod("default", "lone")),
            ("workload/shop/both", Named::End(End::Workload(ResourceId::new(Kind::Workload, "shop", "both")))),
            ("10.0.0.1", address("10.0.0.1")),
            ("2001:db8::1", address("2001:db8::1")),
            ("node:n1", address("192.0.2.1")),
            ("Node/n1", address("192.0.2.1")),
            ("svc:shop/web", Named::Service(ResourceId::new(Kind::Service, "shop", "web"))),
        ] {
            assert_eq!(find(&resources(), text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn labels_stand_for_all_that_have_them() {
        let count = |text: &str| find_all(&resources(), text).map_err(|bad| bad.to_string()).map(|found| found.len());
        assert_eq!(count("shop/*"), Ok(3));
        assert_eq!(count("shop/app.kubernetes.io/name=web"), Ok(1));
        assert_eq!(count("shop/web"), Ok(1));
        assert!(count("shop/app=web").unwrap_err().contains("no pod or workload of shop has the label app=web"));
        assert!(count("none/*").unwrap_err().contains("there is no pod or workload in none; known in the namespaces"));
    }

    #[test]
    fn what_cannot_be_found_names_what_can() {
        for (text, message) in [
            ("shop/wbe", "shop/wbe: no pod or workload is called shop/wbe; known in shop: both, web"),
            ("nowhere/web", "known in the namespaces: default, pod, shop"),
            ("shop/both", "there is a pod and a workload of this name; write pod/shop/both or workload/shop/both"),
            ("pod/shop/x", "there is no Pod/shop/x"),
            ("node:n2", "there is no Node/n2; known: bare, n1"),
            ("node:bare", "Node/bare has no address; add an InternalIP"),
            ("svc:shop/db", "there is no Service/shop/db; known in shop: web"),
        ] {
            let fault = find(&resources(), text).unwrap_err().to_string();
            assert!(fault.contains(message), "{text}: {fault}");
        }
    }
}
