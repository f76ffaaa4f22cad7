//! Lives: host.
//! Called by: `parse`, which builds these; `evaluate`, which asks whether they match; whatever shows a protocol or port.
//! May touch: nothing.
//! Never: gives ports to a protocol that has none; of ICMP and ICMPv6 the type stands in their place.

use serde::{Serialize, Serializer, ser::SerializeMap};
use weir_common::addr::Protocol;

/// Protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMatch {
    /// The transport protocol.
    pub protocol: Protocol,
    /// First and last port, both included; of ICMP and ICMPv6, one type. `None`: the whole protocol.
    pub ports: Option<(u16, u16)>,
}

/// A port by its name; what it is, each called pod says for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// The name.
    pub name: String,
    /// The protocol that must go with it; `None`: whichever the pod names.
    pub protocol: Option<Protocol>,
}

/// A port as its pod names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// Protocols with a name in YAML.
pub const PROTOCOLS: [(&str, Protocol); 5] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("SCTP", Protocol::SCTP),
    ("ICMP", Protocol::ICMP),
    ("ICMPv6", Protocol::ICMPV6),
];

/// Types of ICMP with a name in YAML (the IANA registry's, in lower case).
pub const ICMP_TYPES: [(&str, u16); 10] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

/// Types of ICMPv6 with a name in YAML.
pub const ICMPV6_TYPES: [(&str, u16); 14] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("listener-query", 130),
    ("listener-report", 131),
    ("listener-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbor-solicitation", 135),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
];

/// The protocol's name, or its number.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> String {
    match PROTOCOLS.iter().find(|(_, known)| *known == protocol) {
        Some((name, _)) => (*name).to_owned(),
        None => protocol.0.to_string(),
    }
}

/// The named types of a protocol whose "ports" are types; `None` of all others.
#[must_use]
pub const fn icmp_types(protocol: Protocol) -> Option<&'static [(&'static str, u16)]> {
    match protocol {
        Protocol::ICMP => Some(&ICMP_TYPES),
        Protocol::ICMPV6 => Some(&ICMPV6_TYPES),
        _ => None,
    }
}

/// A protocol as it is written: a name, or a number for protocols without one.
struct Written(Protocol);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match PROTOCOLS.iter().find(|(_, known)| *known == self.0) {
            Some((name, _)) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0.0),
        }
    }
}

impl Serialize for PortMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("protocol", &Written(self.protocol))?;
        match (self.ports, icmp_types(self.protocol)) {
            (None, _) => {}
            (Some((number, _)), Some(_)) => map.serialize_entry("type", &number)?,
            (Some((first, last)), None) => {
                map.serialize_entry("port", &first)?;
                if last != first {
                    map.serialize_entry("endPort", &last)?;
                }
            }
        }
        map.end()
    }
}

impl Serialize for PortName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(protocol) = self.protocol {
            map.serialize_entry("protocol", &Written(protocol))?;
        }
        map.serialize_entry("port", &self.name)?;
        map.end()
    }
}

impl Serialize for ContainerPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("protocol", &Written(self.protocol))?;
        map.serialize_entry("port", &self.port)?;
        map.end()
    }
}
