//! Lives: host.
//! Called by: `explain`, for both ends of a question.
//! May touch: nothing.
//! Never: takes a pod in its host's network for a pod: it counts as its node, and its address is nobody's.

use weir_common::addr::Addr;

use super::{
    entity::entity_of,
    peer::{Member, NodeEnd, PeerEnd},
    question::{End, NoSuchWorkload},
};
use crate::{
    Context,
    model::{Resource, Resources, Spec, Workload},
};

/// An end with all that is known of it.
pub struct Resolved<'a> {
    pub resource: Option<&'a Resource>,
    /// Of a pod, the node it runs on.
    pub node: Option<&'a str>,
    pub peer: PeerEnd<'a>,
}

/// Finds out what is known of an end.
pub fn resolve<'a>(resources: &'a Resources, context: &Context, end: &End) -> Result<Resolved<'a>, NoSuchWorkload> {
    let address = match end {
        End::Workload(id) => {
            let resource = resources.get(id).ok_or_else(|| NoSuchWorkload(id.clone()))?;
            let Spec::Workload(workload) = resource.spec() else { return Err(NoSuchWorkload(id.clone())) };
            if !workload.host_network {
                return Ok(of_workload(resources, resource, workload, workload.addresses.first().copied()));
            }
            workload.addresses.first().copied().ok_or_else(|| NoSuchWorkload(id.clone()))?
        }
        End::Address(address) => *address,
    };
    Ok(match resources.workload_at(&address) {
        Some((resource, workload)) => of_workload(resources, resource, workload, Some(address)),
        None => Resolved { resource: None, node: None, peer: of_address(resources, context, address) },
    })
}

fn of_workload<'a>(
    resources: &'a Resources,
    resource: &'a Resource,
    workload: &'a Workload,
    address: Option<Addr>,
) -> Resolved<'a> {
    let member = Some(Member::of(resources, resource, workload));
    let peer = PeerEnd { member, address, entity: None, node: None, services: &[], itself: None };
    Resolved { resource: Some(resource), node: workload.node.as_deref(), peer }
}

/// An address that is no workload's: this host's, a machine's of the cluster, or the world's.
fn of_address<'a>(resources: &'a Resources, context: &Context, address: Addr) -> PeerEnd<'a> {
    let entity = Some(entity_of(resources, context, &address));
    let node = resources.node_at(&address).map(|name| NodeEnd { name, labels: resources.node_labels(name) });
    PeerEnd { member: None, address: Some(address), entity, node, services: &[], itself: None }
}
