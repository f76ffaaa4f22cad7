//! Lives: weir-conformance. What the words `from` and `to` stand for.
//! Called by: check.
//! May touch: nothing.
//! Never: makes up an address: an end without one of the family is a fault of the case.

use std::net::IpAddr;

use weir_common::addr::{Addr, Protocol};
use weir_policy::{End, Kind, PROTOCOLS, ResourceId, addr};

use crate::case::{Expected, State};

/// The end that is called.
pub enum To {
    End(End),
    Service(ResourceId),
}

/// The end that opens.
pub fn from(state: &State, expected: &Expected) -> Result<End, String> {
    match end(state, &expected.from, expected)? {
        To::End(end) => Ok(end),
        To::Service(id) => Err(format!("{id} opens no connections")),
    }
}

/// The end that is called.
pub fn to(state: &State, expected: &Expected) -> Result<To, String> {
    end(state, &expected.to, expected)
}

/// The protocol by its name.
pub fn protocol(expected: &Expected) -> Result<Protocol, String> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == expected.protocol);
    known.map(|(_, protocol)| *protocol).ok_or_else(|| format!("there is no protocol {}", expected.protocol))
}

fn end(state: &State, word: &str, expected: &Expected) -> Result<To, String> {
    let unknown = || format!("{word} is not in the case");
    let ips = if let Some(name) = word.strip_prefix("node:") {
        state.nodes.iter().find(|node| node.name == name).map(|node| &node.ips).ok_or_else(unknown)?
    } else if let Some(name) = word.strip_prefix("ext:") {
        state.externals.iter().find(|external| external.name == name).map(|end| &end.ips).ok_or_else(unknown)?
    } else if let Some(path) = word.strip_prefix("svc:") {
        let (namespace, name) = path.split_once('/').ok_or_else(unknown)?;
        return Ok(To::Service(ResourceId::new(Kind::Service, namespace, name)));
    } else {
        let (namespace, name) = word.split_once('/').ok_or_else(unknown)?;
        let found = state.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name);
        let pod = found.ok_or_else(unknown)?;
        if pod.ips.is_empty() {
            return Ok(To::End(End::Workload(ResourceId::new(Kind::Pod, namespace, name))));
        }
        &pod.ips
    };
    let v6 = expected.family.as_deref() == Some("ipv6");
    let address = address(ips, v6).ok_or_else(|| format!("{word} has no address of the family"))?;
    Ok(To::End(End::Address(address)))
}

/// The first address of the family.
pub fn address(ips: &[String], v6: bool) -> Option<Addr> {
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    parsed.into_iter().find(|ip| ip.is_ipv6() == v6).map(addr)
}
