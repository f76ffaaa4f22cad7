//! Lives: host.
//! Called by: `parse`, which makes resources; the agent, which stores them and gives them back as YAML.
//! May touch: nothing.
//! Never: writes YAML that `parse` would read as something else (tested for every case in the tables).

use std::sync::Arc;

use serde::Serialize;

use crate::{
    fault::Place,
    id::{Kind, ResourceId},
    model::{AddressSet, EndpointSlice, Labels, Node, Peer, Policy, PortMatch, RateLimit, Rule, Service, Workload},
};

/// The `apiVersion` of the native kinds.
pub const API_VERSION: &str = "weir.dev/v1alpha1";

/// One document.
#[derive(Clone, Debug)]
pub struct Resource {
    id: ResourceId,
    origin: Origin,
    labels: Labels,
    spec: Spec,
    /// The document of a kind that is not ours, to give it back as it came.
    text: Option<Arc<str>>,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Of a `Workload` or `Pod`.
    Workload(Workload),
    /// Of a `Policy`, or a policy of Kubernetes.
    Policy(Policy),
    /// Of a `RateLimit`.
    RateLimit(RateLimit),
    /// Of an `AddressSet`.
    AddressSet(AddressSet),
    /// Of a `Namespace`, which has nothing but labels.
    Namespace,
    /// Of a `Node`.
    Node(Node),
    /// Of a `Service`.
    Service(Service),
    /// Of an `EndpointSlice`.
    EndpointSlice(EndpointSlice),
}

/// Where a document was read, for faults that show only when it meets others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// File name, or "-".
    pub source: String,
    /// Where the document starts.
    pub place: Place,
}

/// Resources are equal when they say the same, wherever they were read.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.labels == other.labels && self.spec == other.spec
    }
}

impl Eq for Resource {}

impl Resource {
    /// A resource; its kind is that of `spec`.
    #[must_use]
    pub fn new(namespace: &str, name: &str, labels: Labels, spec: Spec, origin: Origin) -> Self {
        let namespace = if spec.kind().namespaced() { namespace } else { "" };
        Self { id: ResourceId::new(spec.kind(), namespace, name), origin, labels, spec, text: None }
    }

    /// A resource of another project's kind, which keeps its `text`.
    #[must_use]
    pub fn foreign(id: ResourceId, labels: Labels, spec: Spec, origin: Origin, text: &str) -> Self {
        Self { id, origin, labels, spec, text: Some(text.into()) }
    }

    /// The same pod or workload, running here in this cgroup. Documents of pods do not say so; the node knows.
    #[must_use]
    pub fn running_in(mut self, cgroup: &str) -> Self {
        if let Spec::Workload(workload) = &mut self.spec {
            workload.cgroup = Some(cgroup.to_owned());
        }
        self
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &ResourceId {
        &self.id
    }

    /// Its labels.
    #[must_use]
    pub const fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What it says.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it was read.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The document in canonical form: defaults written out, keys in a fixed order.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        if let Some(text) = &self.text {
            return text.to_string();
        }
        let spec = match &self.spec {
            Spec::Workload(workload) => SpecOut::Workload(workload),
            Spec::Policy(policy) => SpecOut::Policy(PolicyOut::new(policy)),
            Spec::RateLimit(limit) => SpecOut::RateLimit(limit),
            Spec::AddressSet(set) => SpecOut::AddressSet(set),
            // Always foreign, so they have their text.
            Spec::Namespace | Spec::Node(_) | Spec::Service(_) | Spec::EndpointSlice(_) => return String::new(),
        };
        let metadata = Metadata { name: &self.id.name, namespace: &self.id.namespace, labels: &self.labels };
        let document = Document { api_version: API_VERSION, kind: self.id.kind.name(), metadata, spec };
        // Writing into a string fails only for types YAML has no form for, and there are none above.
        serde_saphyr::to_string(&document).unwrap_or_default()
    }
}

impl Spec {
    /// The kind it belongs to.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Workload(_) => Kind::Workload,
            Self::Policy(_) => Kind::Policy,
            Self::RateLimit(_) => Kind::RateLimit,
            Self::AddressSet(_) => Kind::AddressSet,
            Self::Namespace => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    spec: SpecOut<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SpecOut<'a> {
    Workload(&'a Workload),
    Policy(PolicyOut<'a>),
    RateLimit(&'a RateLimit),
    AddressSet(&'a AddressSet),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyOut<'a> {
    workload_selector: &'a crate::model::Selector,
    priority: u16,
    policy_types: Vec<&'static str>,
    mode: &'static str,
    default_action: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sockets: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<RuleOut<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress: Vec<RuleOut<'a>>,
}

impl<'a> PolicyOut<'a> {
    fn new(policy: &'a Policy) -> Self {
        let out = |rule: &'a Rule, from, to| RuleOut {
            name: rule.name.as_deref(),
            action: rule.action.name(),
            from,
            to,
            ports: &rule.ports,
        };
        Self {
            workload_selector: &policy.workload_selector,
            priority: policy.priority,
            policy_types: policy.policy_types.iter().map(|kind| kind.name()).collect(),
            mode: policy.mode.name(),
            default_action: policy.default_action.name(),
            sockets: policy.sockets.iter().map(|socket| socket.name()).collect(),
            ingress: policy.ingress.iter().map(|rule| out(rule, &rule.peers, &[])).collect(),
            egress: policy.egress.iter().map(|rule| out(rule, &[], &rule.peers)).collect(),
        }
    }
}

#[derive(Serialize)]
struct RuleOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    action: &'static str,
    #[serde(skip_serializing_if = "<[Peer]>::is_empty")]
    from: &'a [Peer],
    #[serde(skip_serializing_if = "<[Peer]>::is_empty")]
    to: &'a [Peer],
    #[serde(skip_serializing_if = "<[PortMatch]>::is_empty")]
    ports: &'a [PortMatch],
}
