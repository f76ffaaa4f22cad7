//! Lives: host.
//! Called by: the agent on every apply and for its policy directory; `weirctl`; the tests.
//! May touch: the text it is handed.
//! Never: accepts a document it does not fully understand; stops at the first fault.

mod faults;
mod fields;
mod keys;
mod kube;
mod limit;
mod nulls;
mod offline;
mod policy;
pub(crate) mod scalars;
mod selector;
mod small;
mod surprises;
mod text;
mod yaml;

pub use offline::{Documents, Expectation, OtherKinds, PolicyTest, Written, parse_documents};

use std::collections::BTreeMap;

use faults::Faults;
use fields::Field;
use keys::check_keys;
use yaml::Node;

use crate::{
    fault::{Fault, Place},
    id::{Kind, ResourceId},
    model::{API_VERSION, Labels, Origin, Resource, Spec},
};

/// The namespace of documents that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads every document of a text; `source` names it in faults.
///
/// # Errors
/// Every fault found, in order of its place; then nothing of the text may be used.
pub fn parse(source: &str, text: &str) -> Result<Vec<Resource>, Vec<Fault>> {
    parse_all([(source, text)])
}

/// Reads several texts that are applied together: no two documents of all of them may name the same resource.
///
/// # Errors
/// Every fault found, text by text; then nothing of any of the texts may be used.
pub fn parse_all<'t>(texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Result<Vec<Resource>, Vec<Fault>> {
    documents_of(texts, &mut |_, _, _| false)
}

/// Reads several texts; `aside` may take a document that is no resource, or note its faults, and says so.
fn documents_of<'t>(
    texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    aside: &mut dyn FnMut(&str, &mut Node, &mut Faults) -> bool,
) -> Result<Vec<Resource>, Vec<Fault>> {
    let mut resources: Vec<Resource> = Vec::new();
    let mut seen: BTreeMap<ResourceId, Origin> = BTreeMap::new();
    let mut all = Vec::new();
    for (source, text) in texts {
        let mut faults = Faults::new(source);
        for mut document in yaml::documents(text) {
            if document.as_mut().is_ok_and(|node| aside(source, node, &mut faults)) {
                continue;
            }
            let found = match document {
                Ok(node) if kube::is_kube(&node) => kube::read(source, node, &mut faults),
                Ok(node) => read(source, &node, &mut faults).into_iter().collect(),
                Err(broken) => {
                    faults.broken(broken);
                    continue;
                }
            };
            for resource in found {
                match seen.get(resource.id()) {
                    Some(first) => twice(&resource, first, &mut faults),
                    None => {
                        seen.insert(resource.id().clone(), resource.origin().clone());
                        resources.push(resource);
                    }
                }
            }
        }
        all.append(&mut in_order(source, faults.into_list()));
    }
    if all.is_empty() { Ok(resources) } else { Err(all) }
}

/// Most faults told of one text: whoever has more has one mistake in a generator, or no good intent.
const MOST_FAULTS: usize = 1000;

/// Faults in order of their places, and how many there are beyond what is told.
fn in_order(source: &str, mut found: Vec<Fault>) -> Vec<Fault> {
    found.sort_by_key(|fault| (fault.line, fault.column));
    let more = found.len().saturating_sub(MOST_FAULTS);
    if more > 0 {
        found.truncate(MOST_FAULTS);
        let mut rest = Faults::new(source);
        let place = found.last().map_or_else(Place::default, |last| Place { line: last.line, column: last.column });
        rest.add(place, "", "", format!("{more} more faults are not told"), "correct the ones above first");
        found.append(&mut rest.into_list());
    }
    found
}

fn twice(resource: &Resource, first: &Origin, faults: &mut Faults) {
    let problem = format!("{} is already described at {}:{}", resource.id(), first.source, first.place.line);
    faults.add(resource.origin().place, "metadata.name", &resource.id().name, problem, "keep one of the two documents");
}

/// Reads one document; `None` when it had any fault.
fn read(source: &str, node: &Node, faults: &mut Faults) -> Option<Resource> {
    let before = faults.len();
    let document = Field { node, path: String::new() };
    check_keys(node, faults);
    let top = document.fields(faults, &["apiVersion", "kind", "metadata", "spec"])?;
    if let Some(version) = top.require(faults, "apiVersion", "write apiVersion: weir.dev/v1alpha1") {
        version.word(faults, &[(API_VERSION, ())]);
    }
    let kinds = Kind::NATIVE.map(|kind| (kind.name(), kind));
    let kind = top
        .require(faults, "kind", "write kind: Workload, Policy, RateLimit or AddressSet")
        .and_then(|kind| kind.word(faults, &kinds));
    let metadata =
        top.require(faults, "metadata", "write metadata: {name: ...}").and_then(|field| metadata(&field, kind, faults));
    let namespace = metadata.as_ref().map_or(DEFAULT_NAMESPACE, |metadata| metadata.namespace.as_str());
    let spec = kind.and_then(|kind| spec(kind, namespace, &top, faults));
    let (metadata, spec) = (metadata?, spec?);
    let origin = Origin { source: source.to_owned(), place: node.place };
    let resource = Resource::new(&metadata.namespace, &metadata.name, metadata.labels, spec, origin);
    let resource = resource.with_remarks(faults.take_remarks());
    (faults.len() == before).then_some(resource)
}

fn spec(kind: Kind, namespace: &str, top: &fields::Fields<'_>, faults: &mut Faults) -> Option<Spec> {
    if kind == Kind::Workload && top.get("spec").is_none() {
        return Some(Spec::Workload(crate::model::Workload::default()));
    }
    let field = top.require(faults, "spec", "write what the document is about under spec:")?;
    match kind {
        Kind::Workload => small::workload(&field, faults).map(Spec::Workload),
        Kind::Policy => policy::policy(&field, namespace, faults).map(Spec::Policy),
        Kind::RateLimit => limit::rate_limit(&field, faults).map(Spec::RateLimit),
        Kind::AddressSet => small::address_set(&field, faults).map(Spec::AddressSet),
        // Of other API versions, which `kube` reads.
        Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy
        | Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::Service
        | Kind::EndpointSlice => None,
    }
}

struct Metadata {
    name: String,
    namespace: String,
    labels: Labels,
}

fn metadata(field: &Field<'_>, kind: Option<Kind>, faults: &mut Faults) -> Option<Metadata> {
    let allowed: &[&str] = match kind {
        Some(kind) if !kind.namespaced() => &["name", "labels"],
        _ => &["name", "namespace", "labels"],
    };
    let fields = field.fields(faults, allowed)?;
    let name = fields.require(faults, "name", "give it a name").and_then(|name| scalars::subdomain(&name, faults));
    let namespace = match fields.get("namespace") {
        Some(namespace) => scalars::label(&namespace, faults),
        None => Some(DEFAULT_NAMESPACE.to_owned()),
    };
    let labels = fields.get("labels").map(|labels| selector::labels(&labels, faults)).unwrap_or_default();
    Some(Metadata { name: name?, namespace: namespace?, labels })
}
