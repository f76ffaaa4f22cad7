//! Lives: host.
//! Called by: `rule` and the other kinds of ours, for their `ports`.
//! May touch: the list of faults.
//! Never: gives a port to a protocol that has none, or a type to one that has ports.

use weir_common::addr::Protocol;

use super::super::{
    faults::Faults,
    fields::{Field, Fields},
    kube::{is_number, port_name},
    scalars,
};
use crate::model::{ContainerPort, PortMatch, PortName, icmp_types, protocol_name};

/// The `ports` of a rule: those by number, and those by the name that the called workload gives them.
pub fn ports(fields: &Fields<'_>, faults: &mut Faults) -> (Vec<PortMatch>, Vec<PortName>) {
    let (mut by_number, mut by_name) = (Vec::new(), Vec::new());
    for item in fields.get("ports").map(|list| list.list(faults)).unwrap_or_default() {
        match port(&item, faults) {
            Some(Port::Number(entry)) => by_number.push(entry),
            Some(Port::Name(entry)) => by_name.push(entry),
            None => {}
        }
    }
    (by_number, by_name)
}

/// The `ports` of a rate limit. Limits are charged before a packet has an owner who could name its ports, and where ports of
/// TCP and UDP only are looked at.
pub fn numbered_ports(fields: &Fields<'_>, of: &str, faults: &mut Faults) -> Vec<PortMatch> {
    let items = fields.get("ports").map(|list| list.list(faults)).unwrap_or_default();
    let mut entries = Vec::new();
    for item in items {
        match port(&item, faults) {
            Some(Port::Name(_)) => {
                item.fault(faults, format!("{of} do not know ports by name"), "write the port's number");
            }
            Some(Port::Number(PortMatch { protocol, ports: Some(_) }))
                if !matches!(protocol, Protocol::TCP | Protocol::UDP) =>
            {
                let problem =
                    format!("{of} tell ports apart for TCP and UDP only, not for {}", protocol_name(protocol));
                item.fault(faults, problem, "write the protocol alone, to mean all of it");
            }
            Some(Port::Number(entry)) => entries.push(entry),
            None => {}
        }
    }
    entries
}

/// The `ports` of a workload: what it calls them.
pub fn named_ports(fields: &Fields<'_>, faults: &mut Faults) -> Vec<ContainerPort> {
    let items = fields.get("ports").map(|list| list.list(faults)).unwrap_or_default();
    let mut ports: Vec<ContainerPort> = Vec::new();
    for item in items {
        let Some(found) = named_port(&item, faults) else { continue };
        if ports.iter().any(|port| port.name == found.name && port.protocol == found.protocol) {
            item.fault(faults, "a name that an earlier port of this protocol has", "give each port a name of its own");
        }
        ports.push(found);
    }
    ports.sort();
    ports
}

fn named_port(field: &Field<'_>, faults: &mut Faults) -> Option<ContainerPort> {
    let fields = field.fields(faults, &["name", "protocol", "port"])?;
    let name = fields.require(faults, "name", "name the port").and_then(|name| port_name(&name, faults));
    let protocol = protocol(&fields, faults)?;
    let port = fields.require(faults, "port", "write the port's number").and_then(|field| number(&field, faults));
    has_ports(&fields, protocol, faults)?;
    Some(ContainerPort { name: name?, protocol, port: port? })
}

enum Port {
    Number(PortMatch),
    Name(PortName),
}

fn port(field: &Field<'_>, faults: &mut Faults) -> Option<Port> {
    let fields = field.fields(faults, &["protocol", "port", "endPort", "type"])?;
    let protocol = protocol(&fields, faults)?;
    let whole = Port::Number(PortMatch { protocol, ports: None });
    if let Some(kind) = fields.get("type") {
        let number = icmp_type(&kind, protocol, faults)?;
        has_ports(&fields, protocol, faults)?;
        return Some(Port::Number(PortMatch { protocol, ports: Some((number, number)) }));
    }
    has_ports(&fields, protocol, faults)?;
    match (fields.get("port"), fields.get("endPort")) {
        (None, None) => Some(whole),
        (None, Some(last)) => {
            last.fault(faults, "endPort without port", "add port, the first port of the range");
            Some(whole)
        }
        (Some(first), Some(last)) if !is_number(&first) => {
            last.fault(faults, "endPort with a named port", "write port as a number, or remove endPort");
            None
        }
        (Some(first), None) if !is_number(&first) => {
            Some(Port::Name(PortName { name: port_name(&first, faults)?, protocol: Some(protocol) }))
        }
        (Some(first), last) => range(&first, last, protocol, faults).map(Port::Number),
    }
}

fn range(first: &Field<'_>, last: Option<Field<'_>>, protocol: Protocol, faults: &mut Faults) -> Option<PortMatch> {
    let low = number(first, faults)?;
    let Some(last) = last else { return Some(PortMatch { protocol, ports: Some((low, low)) }) };
    let high = number(&last, faults)?;
    if high < low {
        last.fault(faults, "endPort is below port", format!("write a port from {low} to 65535, or swap the two"));
        return None;
    }
    Some(PortMatch { protocol, ports: Some((low, high)) })
}

/// `None`, with a fault, when a port is written for a protocol that has none.
fn has_ports(fields: &Fields<'_>, protocol: Protocol, faults: &mut Faults) -> Option<()> {
    let Some(port) = fields.get("port").or_else(|| fields.get("endPort")) else { return Some(()) };
    if matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
        return Some(());
    }
    let remedy = match icmp_types(protocol) {
        Some(_) => "write type, such as echo-request, or nothing to mean the whole protocol",
        None => "remove port and endPort to mean the whole protocol",
    };
    port.fault(faults, format!("{} has no ports", protocol_name(protocol)), remedy);
    None
}

/// A type of ICMP or ICMPv6, by its name or number.
fn icmp_type(field: &Field<'_>, protocol: Protocol, faults: &mut Faults) -> Option<u16> {
    let Some(words) = icmp_types(protocol) else {
        let problem = format!("{} has no types", protocol_name(protocol));
        field.fault(faults, problem, "remove it, or write protocol: ICMP or ICMPv6");
        return None;
    };
    if is_number(field) {
        return field.integer(faults, 0, 255).and_then(|number| u16::try_from(number).ok());
    }
    field.word(faults, words)
}

fn protocol(fields: &Fields<'_>, faults: &mut Faults) -> Option<Protocol> {
    fields.get("protocol").map_or(Some(Protocol::TCP), |word| scalars::protocol(&word, faults))
}

fn number(field: &Field<'_>, faults: &mut Faults) -> Option<u16> {
    field.integer(faults, 1, 65_535).and_then(|number| u16::try_from(number).ok())
}
