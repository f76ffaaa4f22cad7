//! Lives: host.
//! Called by: `kube`, for AdminNetworkPolicy and BaselineAdminNetworkPolicy (policy.networking.k8s.io/v1alpha1).
//! May touch: the list of faults.
//! Never: gives the older words a meaning of their own: they are translated to what ClusterNetworkPolicy says.

use weir_common::addr::Protocol;

use super::{
    super::{
        faults::Faults,
        fields::{Field, Fields},
    },
    cluster::{Dialect, Port, policy},
    parts::{TRANSPORTS, any_port_name, number, one_of, priority, range},
};
use crate::model::{Action, Policy, PortMatch, PortName, Tier};

const ADMIN: Dialect = Dialect {
    actions: &[("Allow", Action::Allow), ("Deny", Action::Deny), ("Pass", Action::Pass)],
    most_rules: 100,
    most_items: 100,
    ports: "ports",
    port,
};

const BASELINE: Dialect = Dialect { actions: &[("Allow", Action::Allow), ("Deny", Action::Deny)], ..ADMIN };

/// The spec of an AdminNetworkPolicy: the admin tier.
pub fn admin_policy(field: &Field<'_>, faults: &mut Faults) -> Option<Policy> {
    let fields = field.fields(faults, &["priority", "subject", "ingress", "egress"])?;
    let priority = priority(&fields, faults);
    let policy = policy(&fields, &ADMIN, faults);
    Some(Policy { tier: Tier::Admin, priority: priority?, ..policy? })
}

/// A BaselineAdminNetworkPolicy: the baseline tier. There is one, called default, and it has no priority.
pub fn baseline_policy(top: &Fields<'_>, faults: &mut Faults) -> Option<Policy> {
    if let Some(name) = top.get("metadata").and_then(|field| field.lenient(faults)?.get("name")) {
        name.word(faults, &[("default", ())]);
    }
    let field = top.require(faults, "spec", "write what the policy is about under spec:")?;
    let fields = field.fields(faults, &["subject", "ingress", "egress"])?;
    policy(&fields, &BASELINE, faults).map(|policy| Policy { tier: Tier::Baseline, ..policy })
}

/// One item of `ports`.
fn port(field: &Field<'_>, faults: &mut Faults) -> Option<Port> {
    let (place, value) = one_of(field, &["portNumber", "portRange", "namedPort"], "a port", faults)?;
    match place {
        0 => {
            let fields = value.fields(faults, &["protocol", "port"])?;
            let protocol = transport(&fields, faults)?;
            let number = number(&fields.require(faults, "port", "write the port's number")?, faults)?;
            Some(Port::Number(PortMatch { protocol, ports: Some((number, number)) }))
        }
        1 => {
            let protocol = transport(&value.lenient(faults)?, faults)?;
            range(&value, protocol, true, faults).map(Port::Number)
        }
        _ => any_port_name(&value, faults).map(|name| Port::Name(PortName { name, protocol: None })),
    }
}

fn transport(fields: &Fields<'_>, faults: &mut Faults) -> Option<Protocol> {
    fields.get("protocol").map_or(Some(Protocol::TCP), |word| word.word(faults, &TRANSPORTS))
}
