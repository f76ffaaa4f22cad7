//! Lives: host.
//! Called by: `kube`, for EndpointSlice (discovery.k8s.io/v1): what is behind services, by hand or by the cluster.
//! May touch: the list of faults.
//! Never: takes an endpoint that is not ready for one that takes connections.

use weir_common::addr::Addr;

use super::{
    super::{faults::Faults, fields::Fields, scalars::address},
    context::{inner, items, owned, transport},
    parts::{bounded, number},
};
use crate::{
    id::{Kind, ResourceId},
    model::{Endpoint, EndpointPort, EndpointSlice, ServiceRef},
};

/// Most endpoints in a slice.
const MOST_ENDPOINTS: usize = 1000;

/// The label that names the service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A slice. Its fields stand beside `metadata`; there is no `spec`.
pub fn endpoint_slice(top: &Fields<'_>, faults: &mut Faults) -> Option<EndpointSlice> {
    let kinds = [("IPv4", Some(true)), ("IPv6", Some(false)), ("FQDN", None)];
    let v4 = top.require(faults, "addressType", "write IPv4 or IPv6").and_then(|kind| kind.word(faults, &kinds))?;
    let listed = bounded(top.get("endpoints"), 0, MOST_ENDPOINTS, faults);
    let listed: Vec<_> = listed.iter().filter_map(|item| item.lenient(faults)).collect();
    if v4.is_none() {
        faults.remark("addressType", "its endpoints are host names, which nothing here resolves: it leads nowhere");
    }
    let endpoints =
        v4.map(|v4| listed.iter().filter_map(|item| endpoint(item, v4, faults)).collect()).unwrap_or_default();
    let ports = items(top, "ports", faults);
    let ports = ports.iter().filter_map(|port| endpoint_port(port, faults)).collect();
    Some(EndpointSlice { service: service(top, faults), endpoints, ports })
}

/// By its label; the namespace is the slice's own.
fn service(top: &Fields<'_>, faults: &mut Faults) -> Option<ServiceRef> {
    let metadata = inner(top, "metadata", faults)?;
    let name = owned(inner(&metadata, "labels", faults)?.get(SERVICE_NAME)?);
    let namespace = metadata.get("namespace").map_or_else(|| "default".to_owned(), owned);
    (!name.is_empty()).then_some(ServiceRef { namespace, name })
}

/// `None` when it takes no connections; without a word about it, it does.
fn endpoint(fields: &Fields<'_>, v4: bool, faults: &mut Faults) -> Option<Endpoint> {
    let conditions = inner(fields, "conditions", faults);
    let ready = conditions.and_then(|conditions| conditions.get("ready"));
    let ready = match ready {
        Some(field) => field.truth(faults)?,
        None => true,
    };
    let listed = bounded(fields.require(faults, "addresses", "list the endpoint's addresses"), 1, 100, faults);
    let mut addresses: Vec<Addr> = Vec::new();
    for field in listed {
        let found = address(&field, faults);
        if found.is_some_and(|found| found.as_v4().is_some() != v4) {
            field.fault(faults, "not of the slice's addressType", "make a slice for each of IPv4 and IPv6");
        }
        addresses.extend(found);
    }
    let pod = inner(fields, "targetRef", faults).and_then(|target| pod(&target));
    ready.then_some(Endpoint { addresses, pod })
}

fn pod(target: &Fields<'_>) -> Option<ResourceId> {
    let word = |name| target.get(name).map(owned).filter(|word| !word.is_empty());
    (word("kind")? == Kind::Pod.name()).then_some(ResourceId::new(Kind::Pod, word("namespace")?, word("name")?))
}

/// Without a number it is every port.
fn endpoint_port(fields: &Fields<'_>, faults: &mut Faults) -> Option<EndpointPort> {
    let port = match fields.get("port") {
        Some(field) => Some(number(&field, faults)?),
        None => None,
    };
    Some(EndpointPort {
        name: fields.get("name").map(owned).unwrap_or_default(),
        protocol: transport(fields, faults)?,
        port,
    })
}
