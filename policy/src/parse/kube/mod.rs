//! Lives: host.
//! Called by: `parse`, for documents of the API versions of Kubernetes.
//! May touch: the list of faults.
//! Never: ignores a field of a policy it does not know. Of pods and other context it reads what policies look at.

mod admin;
mod cluster;
mod cluster_peer;
mod context;
mod netpol;
mod parts;
mod slices;

pub use parts::{is_number, port_name};

use super::{
    faults::Faults,
    fields::{Field, Fields},
    keys::check_keys,
    nulls::drop_nulls,
    scalars, selector,
    text::text,
    yaml::{Key, Node, Value},
};
use crate::{
    id::{Kind, ResourceId},
    model::{Labels, OnChange, Origin, Policy, Resource, Spec},
};

/// The kinds that are read, each with its API version.
const KINDS: [(&str, Kind); 9] = [
    ("networking.k8s.io/v1", Kind::NetworkPolicy),
    ("policy.networking.k8s.io/v1alpha2", Kind::ClusterNetworkPolicy),
    ("policy.networking.k8s.io/v1alpha1", Kind::AdminNetworkPolicy),
    ("policy.networking.k8s.io/v1alpha1", Kind::BaselineAdminNetworkPolicy),
    ("v1", Kind::Namespace),
    ("v1", Kind::Node),
    ("v1", Kind::Pod),
    ("v1", Kind::Service),
    ("discovery.k8s.io/v1", Kind::EndpointSlice),
];

/// Fields that every kind has; `status` is the cluster's to write.
const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// Annotation of a policy that says what becomes of living connections it forbids: `cut` or `drain`.
const ON_CHANGE: &str = "weir.dev/on-change";

/// What the API knows of `metadata`.
const METADATA: [&str; 16] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
    "clusterName",
];

/// Whether a document says that it is of an API version of Kubernetes. A kind of ours has just the wrong version.
pub fn is_kube(node: &Node) -> bool {
    let ours = word(node, "kind").is_some_and(|kind| Kind::NATIVE.iter().any(|known| known.name() == kind));
    !ours && word(node, "apiVersion").is_some_and(|version| KINDS.iter().any(|(known, _)| *known == version))
}

/// Reads one document, which may be a list of others.
pub fn read(source: &str, mut node: Node, faults: &mut Faults) -> Vec<Resource> {
    check_keys(&node, faults);
    drop_nulls(&mut node);
    items(source, &node, String::new(), faults)
}

fn items(source: &str, node: &Node, path: String, faults: &mut Faults) -> Vec<Resource> {
    let list = word(node, "kind").and_then(|kind| kind.strip_suffix("List"));
    match list {
        None => document(source, &Field { node, path }, None, faults).into_iter().collect(),
        Some(of) => {
            let field = Field { node, path };
            let absent = KINDS.iter().map(|(_, kind)| *kind).find(|kind| kind.name() == of);
            if !of.is_empty() && absent.is_none() {
                field.fault(faults, "not a list of a kind that is known here", "use kind: List");
                return Vec::new();
            }
            let Some(fields) = field.fields(faults, &["apiVersion", "kind", "metadata", "items"]) else {
                return Vec::new();
            };
            let members = fields.get("items").map(|items| items.list(faults)).unwrap_or_default();
            members.iter().filter_map(|member| document(source, member, absent, faults)).collect()
        }
    }
}

/// Reads one object; `absent` is its kind when it does not say, as inside of a list of that kind.
fn document(source: &str, field: &Field<'_>, absent: Option<Kind>, faults: &mut Faults) -> Option<Resource> {
    let before = faults.len();
    let kind = kind(field, absent, faults)?;
    let top = if is_policy(kind) { field.fields(faults, &TOP)? } else { field.lenient(faults)? };
    let metadata = top.require(faults, "metadata", "write metadata: {name: ...}");
    let metadata = metadata.and_then(|field| metadata_of(&field, kind, faults));
    let spec = spec(kind, &top, faults).map(|spec| with_annotations(spec, &top, faults));
    let (id, mut labels) = metadata?;
    if kind == Kind::Namespace {
        labels.insert(crate::model::NAMESPACE_LABEL.to_owned(), id.name.clone());
    }
    let origin = Origin { source: source.to_owned(), place: field.node.place };
    let resource = Resource::foreign(id, labels, spec?, origin, &text(&complete(field.node, kind)));
    let resource = resource.with_remarks(faults.take_remarks());
    (faults.len() == before).then_some(resource)
}

fn kind(field: &Field<'_>, absent: Option<Kind>, faults: &mut Faults) -> Option<Kind> {
    let top = field.lenient(faults)?;
    if let (Some(kind), None, None) = (absent, top.get("apiVersion"), top.get("kind")) {
        return Some(kind);
    }
    let version = top.require(faults, "apiVersion", "write the apiVersion of the object");
    let kind = top.require(faults, "kind", "write the kind of the object");
    let version = version.and_then(|version| version.word(faults, &KINDS.map(|(version, _)| (version, version))))?;
    let of_version: Vec<_> = KINDS.iter().filter(|(known, _)| *known == version).collect();
    kind?.word(faults, &of_version.iter().map(|(_, kind)| (kind.name(), *kind)).collect::<Vec<_>>())
}

const fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy
    )
}

fn metadata_of(field: &Field<'_>, kind: Kind, faults: &mut Faults) -> Option<(ResourceId, Labels)> {
    let fields = if is_policy(kind) { field.fields(faults, &METADATA)? } else { field.lenient(faults)? };
    let name = fields.require(faults, "name", "give it a name").and_then(|name| {
        // Namespaces and services become parts of host names, one part each.
        let one_part = matches!(kind, Kind::Namespace | Kind::Service);
        if one_part { scalars::label(&name, faults) } else { scalars::subdomain(&name, faults) }
    });
    if is_policy(kind) {
        fields.get("annotations").iter().for_each(|annotations| selector::annotations(annotations, faults));
    }
    let namespace = match fields.get("namespace") {
        Some(namespace) if !kind.namespaced() => {
            namespace.fault(faults, "this kind has no namespace", "remove the line");
            None
        }
        Some(namespace) => scalars::label(&namespace, faults),
        None if kind.namespaced() => Some(super::DEFAULT_NAMESPACE.to_owned()),
        None => Some(String::new()),
    };
    let labels = fields.get("labels").map(|labels| selector::labels(&labels, faults)).unwrap_or_default();
    Some((ResourceId::new(kind, namespace?, name?), labels))
}

fn spec(kind: Kind, top: &Fields<'_>, faults: &mut Faults) -> Option<Spec> {
    match kind {
        Kind::NetworkPolicy => netpol::network_policy(top.get("spec"), faults).map(Spec::Policy),
        Kind::ClusterNetworkPolicy => cluster::cluster_policy(&need_spec(top, faults)?, faults).map(Spec::Policy),
        Kind::AdminNetworkPolicy => admin::admin_policy(&need_spec(top, faults)?, faults).map(Spec::Policy),
        Kind::BaselineAdminNetworkPolicy => admin::baseline_policy(top, faults).map(Spec::Policy),
        Kind::Namespace => Some(Spec::Namespace),
        Kind::Node => context::node(top, faults).map(Spec::Node),
        Kind::Pod => context::pod(top, faults).map(Spec::Workload),
        Kind::Service => context::service(top, faults).map(Spec::Service),
        Kind::EndpointSlice => slices::endpoint_slice(top, faults).map(Spec::EndpointSlice),
        Kind::Workload | Kind::Policy | Kind::RateLimit | Kind::AddressSet => None,
    }
}

/// What a policy of Kubernetes can say to Weir alone: its API has no field for it.
fn with_annotations(spec: Spec, top: &Fields<'_>, faults: &mut Faults) -> Spec {
    let Spec::Policy(policy) = spec else { return spec };
    let annotations = top.get("metadata").and_then(|field| field.lenient(faults)).and_then(|fields| {
        let annotations = fields.get("annotations")?;
        annotations.lenient(faults)
    });
    let said =
        annotations.and_then(|fields| fields.get(ON_CHANGE)).and_then(|field| field.word(faults, OnChange::WORDS));
    Spec::Policy(Policy { on_change: said.unwrap_or(policy.on_change), ..policy })
}

fn need_spec<'n>(top: &Fields<'n>, faults: &mut Faults) -> Option<Field<'n>> {
    top.require(faults, "spec", "write what the policy is about under spec:")
}

/// The text of a top-level field.
fn word<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else { return None };
    match entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| &node.value) {
        Some(Value::Scalar { text, .. }) => Some(text),
        Some(Value::List(_) | Value::Map(_)) | None => None,
    }
}

/// The object with its kind, which members of typed lists leave out.
fn complete(node: &Node, kind: Kind) -> Node {
    let mut node = node.clone();
    let version = KINDS.iter().find(|(_, known)| *known == kind).map_or("v1", |(version, _)| *version);
    if let (None, Value::Map(entries)) = (word(&node.clone(), "kind"), &mut node.value) {
        for (name, value) in [("kind", kind.name()), ("apiVersion", version)] {
            let value = Value::Scalar { text: value.to_owned(), plain: false };
            let key = Key { place: node.place, text: name.to_owned(), plain: false };
            entries.insert(0, (key, Node { place: node.place, value }));
        }
    }
    node
}
