//! Lives: weir-conformance. The format of a case file.
//! Called by: files, which reads it; everything that checks it.
//! May touch: nothing.
//! Never: gives a key a meaning that the format's README does not, or overlooks one that it does not know: a misspelt
//! `then` would be a state that nobody asks about.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

/// A cluster, what is expected of it, and later states.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Written")]
pub struct Case {
    pub name: String,
    pub state: State,
    pub expected: Vec<Expected>,
    pub then: Vec<Step>,
}

/// A case as it is written. Fields that begin with an underscore are for people.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, rename = "format")]
    _format: Option<IgnoredAny>,
    name: String,
    #[serde(default, rename = "summary")]
    _summary: Option<IgnoredAny>,
    #[serde(default, rename = "tags")]
    _tags: Option<IgnoredAny>,
    #[serde(default, rename = "notes")]
    _notes: Option<IgnoredAny>,
    #[serde(default, rename = "origin")]
    _origin: Option<IgnoredAny>,
    #[serde(default, rename = "strength")]
    _strength: Option<IgnoredAny>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    pods: Vec<Pod>,
    #[serde(default)]
    externals: Vec<External>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    policies: Vec<String>,
    expected: Vec<Expected>,
    #[serde(default, rename = "unspecified")]
    _unspecified: Option<IgnoredAny>,
    #[serde(default)]
    then: Vec<Step>,
}

impl From<Written> for Case {
    fn from(written: Written) -> Self {
        let Written { name, nodes, namespaces, pods, externals, services, policies, expected, then, .. } = written;
        Self { name, state: State { nodes, namespaces, pods, externals, services, policies }, expected, then }
    }
}

/// A cluster.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub nodes: Vec<Node>,
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    pub externals: Vec<External>,
    pub services: Vec<Service>,
    pub policies: Vec<String>,
}

/// A later state: a key given replaces the earlier value, a key left out stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub change: String,
    #[serde(default, rename = "notes")]
    _notes: Option<IgnoredAny>,
    #[serde(default, rename = "unspecified")]
    _unspecified: Option<IgnoredAny>,
    nodes: Option<Vec<Node>>,
    namespaces: Option<Vec<Namespace>>,
    pods: Option<Vec<Pod>>,
    externals: Option<Vec<External>>,
    services: Option<Vec<Service>>,
    policies: Option<Vec<String>>,
    pub expected: Vec<Expected>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub ips: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub node: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub ips: Vec<String>,
    #[serde(default)]
    pub ports: Vec<Port>,
    #[serde(default)]
    pub host_network: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub name: Option<String>,
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    pub name: String,
    pub ips: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub cluster_ips: Vec<String>,
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    pub port: u16,
    pub target_port: Option<serde_json::Value>,
    #[serde(default = "tcp")]
    pub protocol: String,
}

/// One opening and whether it may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub from: String,
    pub to: String,
    #[serde(default)]
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
    pub allowed: bool,
    #[serde(default, rename = "by")]
    _by: Option<IgnoredAny>,
    pub family: Option<String>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl State {
    /// The state after a step.
    pub fn after(&self, step: &Step) -> Self {
        Self {
            nodes: step.nodes.clone().unwrap_or_else(|| self.nodes.clone()),
            namespaces: step.namespaces.clone().unwrap_or_else(|| self.namespaces.clone()),
            pods: step.pods.clone().unwrap_or_else(|| self.pods.clone()),
            externals: step.externals.clone().unwrap_or_else(|| self.externals.clone()),
            services: step.services.clone().unwrap_or_else(|| self.services.clone()),
            policies: step.policies.clone().unwrap_or_else(|| self.policies.clone()),
        }
    }
}
