//! Lives: host.
//! Called by: `rule`, for each item of `from` and `to`.
//! May touch: the list of faults.
//! Never: reads a peer that names nothing as one that names everything.

use std::collections::BTreeSet;

use super::super::{faults::Faults, fields::Field, scalars, selector::selector};
use crate::model::{Entity, IpBlock, Peer, Selector, ServiceRef};

/// One peer of a policy in `namespace`.
pub fn peer(field: &Field<'_>, namespace: &str, faults: &mut Faults) -> Option<Peer> {
    let fields = field.fields(faults, &["workloadSelector", "namespaceSelector", "ipBlock", "entity", "service"])?;
    let (workloads, namespaces) = (fields.get("workloadSelector"), fields.get("namespaceSelector"));
    let (block, entity, service) = (fields.get("ipBlock"), fields.get("entity"), fields.get("service"));
    match (workloads.is_some() || namespaces.is_some(), block, entity, service) {
        (true, None, None, None) => Some(Peer::Workloads {
            workload_selector: optional(workloads, faults)?,
            namespace_selector: optional(namespaces, faults)?,
        }),
        (false, Some(block), None, None) => Some(Peer::IpBlock { ip_block: ip_block(&block, faults)? }),
        (false, None, Some(entity), None) => Some(Peer::Entity { entity: entity.word(faults, Entity::WORDS)? }),
        (false, None, None, Some(service)) => {
            Some(Peer::Service { service: service_ref(&service, namespace, faults)? })
        }
        (false, None, None, None) => {
            let remedy = "name a workloadSelector, namespaceSelector, ipBlock, entity or service; for any peer leave out the \
                          whole list";
            field.fault(faults, "a peer that says nothing", remedy);
            None
        }
        (_, _, _, _) => {
            let problem = "selectors, ipBlock, entity and service exclude each other";
            field.fault(faults, problem, "make them separate list items");
            None
        }
    }
}

/// `None` when the selector is faulty, `Some(None)` when there is none.
fn optional(field: Option<Field<'_>>, faults: &mut Faults) -> Option<Option<Selector>> {
    field.map_or(Some(None), |field| selector(&field, faults).map(Some))
}

/// A service; of the policy's own namespace unless it names one.
fn service_ref(field: &Field<'_>, namespace: &str, faults: &mut Faults) -> Option<ServiceRef> {
    let fields = field.fields(faults, &["name", "namespace"])?;
    let name = fields.require(faults, "name", "name the service").and_then(|name| scalars::label(&name, faults));
    let namespace = match fields.get("namespace") {
        Some(namespace) => scalars::label(&namespace, faults),
        None => Some(namespace.to_owned()),
    };
    Some(ServiceRef { namespace: namespace?, name: name? })
}

fn ip_block(field: &Field<'_>, faults: &mut Faults) -> Option<IpBlock> {
    let fields = field.fields(faults, &["cidr", "except"])?;
    let cidr = fields.require(faults, "cidr", "write a prefix such as 10.0.0.0/8");
    let cidr = cidr.and_then(|cidr| scalars::prefix(&cidr, faults, false));
    let mut except = BTreeSet::new();
    for item in fields.get("except").map(|list| list.list(faults)).unwrap_or_default() {
        let Some(inner) = scalars::prefix(&item, faults, false) else { continue };
        if !cidr.is_none_or(|outer| outer.is_larger_than(&inner)) {
            item.fault(faults, "not inside the cidr", "write a smaller prefix inside the cidr, or remove it");
        }
        except.insert(inner);
    }
    Some(IpBlock { cidr: cidr?, except })
}
