//! Lives: weir-conformance. The format of a case file.
//! Called by: files, which reads it; everything that checks it.
//! May touch: nothing.
//! Never: gives a key a meaning that the format's README does not.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A cluster, what is expected of it, and later states.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    pub name: String,
    #[serde(flatten)]
    pub state: State,
    pub expected: Vec<Expected>,
    #[serde(default)]
    pub then: Vec<Step>,
}

/// A cluster.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct State {
    #[serde(default)]
    pub nodes: Vec<Node>,
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    #[serde(default)]
    pub pods: Vec<Pod>,
    #[serde(default)]
    pub externals: Vec<External>,
    #[serde(default)]
    pub services: Vec<Service>,
    #[serde(default)]
    pub policies: Vec<String>,
}

/// A later state: a key given replaces the earlier value, a key left out stays.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    #[serde(default)]
    pub change: String,
    nodes: Option<Vec<Node>>,
    namespaces: Option<Vec<Namespace>>,
    pods: Option<Vec<Pod>>,
    externals: Option<Vec<External>>,
    services: Option<Vec<Service>>,
    policies: Option<Vec<String>>,
    pub expected: Vec<Expected>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub ips: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
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
pub struct Port {
    pub name: Option<String>,
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct External {
    pub name: String,
    pub ips: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
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
pub struct ServicePort {
    pub port: u16,
    pub target_port: Option<serde_json::Value>,
    #[serde(default = "tcp")]
    pub protocol: String,
}

/// One opening and whether it may be.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    pub from: String,
    pub to: String,
    #[serde(default)]
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
    pub allowed: bool,
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
