//! Lives: weir-conformance, what a Service stands for.
//! Called by: probes. There is no proxy in the running cluster, so openings go to where a proxy would send them.
//! May touch: nothing.
//! Never: asks the policy crate, whose answer is what is tested.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_policy::ip;

use crate::case::{Pod, Service, State};
use crate::ends;

/// A pod behind a Service: its name as cases write it, its address, and the port the Service leads to.
pub type Backend = (String, IpAddr, u16);

/// Every pod behind a port of a Service, by its address of the family.
pub fn backends(state: &State, word: &str, (protocol, port): (&str, u16), v6: bool) -> Vec<Backend> {
    let path = word.strip_prefix("svc:").and_then(|path| path.split_once('/'));
    let is = |service: &&Service| path == Some((service.namespace.as_str(), service.name.as_str()));
    let Some(service) = state.services.iter().find(is) else { return Vec::new() };
    let Some(open) = service.ports.iter().find(|open| open.port == port && open.protocol == protocol) else {
        return Vec::new();
    };
    let chosen = |pod: &&Pod| pod.namespace == service.namespace && has(&pod.labels, &service.selector);
    let target = |pod: &Pod| match &open.target_port {
        None => Some(port),
        Some(target) => match target.as_str() {
            None => target.as_u64().and_then(|number| u16::try_from(number).ok()),
            Some(name) => {
                let mut named = pod.ports.iter();
                named.find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol).map(|port| port.port)
            }
        },
    };
    let backend = |pod: &Pod| {
        let word = format!("{}/{}", pod.namespace, pod.name);
        Some((word, ip(ends::address(&pod.ips, v6)?), target(pod)?))
    };
    state.pods.iter().filter(chosen).filter_map(backend).collect()
}

/// A Service without a selector chooses nobody.
fn has(labels: &BTreeMap<String, String>, selector: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
