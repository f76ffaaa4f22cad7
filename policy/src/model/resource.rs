//! Lives: host.
//! Called by: `parse`, which makes resources; the agent, which stores them and gives them back as YAML.
//! May touch: nothing.
//! Never: forgets where a document was read; faults that show late need it.

use std::sync::Arc;

use weir_common::addr::Addr;

use crate::{
    fault::Place,
    id::{Kind, ResourceId},
    model::{AddressSet, EndpointSlice, Labels, Node, Policy, RateLimit, Service, Workload, yaml},
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
    remarks: Vec<Remark>,
}

/// What was odd about a document when it was read, and cannot be told from what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The field, as in faults.
    pub field: String,
    /// What is odd, as a sentence without its subject.
    pub text: String,
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
        Self {
            id: ResourceId::new(spec.kind(), namespace, name),
            origin,
            labels,
            spec,
            text: None,
            remarks: Vec::new(),
        }
    }

    /// A resource of another project's kind, which keeps its `text`.
    #[must_use]
    pub fn foreign(id: ResourceId, labels: Labels, spec: Spec, origin: Origin, text: &str) -> Self {
        Self { id, origin, labels, spec, text: Some(text.into()), remarks: Vec::new() }
    }

    /// The same pod or workload, running here in this cgroup. Documents of pods do not say so; the node knows.
    #[must_use]
    pub fn running_in(self, cgroup: &str) -> Self {
        self.placed(Some(cgroup))
    }

    /// The same pod or workload in this cgroup, or without one here. What it is given back as does not tell: a pod's document
    /// is its own text.
    #[must_use]
    pub fn placed(mut self, cgroup: Option<&str>) -> Self {
        if let Spec::Workload(workload) = &mut self.spec {
            workload.cgroup = cgroup.map(str::to_owned);
        }
        self
    }

    /// The same, with what was odd about it.
    #[must_use]
    pub fn with_remarks(self, remarks: Vec<Remark>) -> Self {
        Self { remarks, ..self }
    }

    /// What was odd about it.
    #[must_use]
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
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

    /// The workload it is, with addresses of its own. A pod in its host's network is none: it counts as its node.
    #[must_use]
    pub fn own_workload(&self) -> Option<&Workload> {
        let Spec::Workload(workload) = &self.spec else { return None };
        (!workload.host_network).then_some(workload)
    }

    /// The machine whose addresses it names, and the addresses: a node's own, or those of a pod in its network.
    #[must_use]
    pub fn machine(&self) -> Option<(&str, &[Addr])> {
        match &self.spec {
            Spec::Node(node) => Some((&self.id.name, &node.addresses)),
            Spec::Workload(workload) if workload.host_network => Some((workload.node.as_deref()?, &workload.addresses)),
            Spec::Workload(_)
            | Spec::Policy(_)
            | Spec::RateLimit(_)
            | Spec::AddressSet(_)
            | Spec::Namespace
            | Spec::Service(_)
            | Spec::EndpointSlice(_) => None,
        }
    }

    /// Where it was read.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The document in canonical form: defaults written out, keys in a fixed order. One of another project's kind is given back
    /// as it came.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        self.text.as_ref().map_or_else(|| yaml::text(self), ToString::to_string)
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
