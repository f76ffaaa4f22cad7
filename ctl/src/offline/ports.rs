//! Lives: ctl.
//! Called by: the verbs of policy.
//! May touch: nothing.
//! Never: reads `icmp` as a type that nobody asks about: without a type it means a ping.

use std::fmt;
use std::str::FromStr;

use weir_common::addr::Protocol;
use weir_policy::protocol_name;

use crate::protocol::{self, BadPort};

/// Echo requests: what is meant by ICMP and ICMPv6 without a type.
const PINGS: [(Protocol, u16); 2] = [(Protocol::ICMP, 8), (Protocol::ICMPV6, 128)];

/// A protocol and port, or type of ICMP: `443/tcp`, `443`, `icmp` (a ping), `3/icmp`, `47/47`, `0/gre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub protocol: Protocol,
    pub port: u16,
}

impl FromStr for Port {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        let read: protocol::Port = text.parse()?;
        let protocol = Protocol(read.protocol);
        let ping = PINGS.iter().find(|(known, _)| *known == protocol && !text.contains('/'));
        Ok(Self { protocol, port: ping.map_or(read.port, |(_, kind)| *kind) })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = protocol_name(self.protocol).to_lowercase();
        match protocol::has_ports(self.protocol.0) {
            true => write!(f, "{}/{name}", self.port),
            false if PINGS.contains(&(self.protocol, self.port)) => write!(f, "{name} echo-request"),
            false if PINGS.iter().any(|(known, _)| *known == self.protocol) => write!(f, "{name} type {}", self.port),
            false => f.write_str(&name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_without_a_type_is_a_ping() {
        for (text, port, shown) in [
            ("443/tcp", (Protocol::TCP, 443), "443/tcp"),
            ("53/udp", (Protocol::UDP, 53), "53/udp"),
            ("icmp", (Protocol::ICMP, 8), "icmp echo-request"),
            ("icmpv6", (Protocol::ICMPV6, 128), "icmpv6 echo-request"),
            ("3/icmp", (Protocol::ICMP, 3), "icmp type 3"),
            ("0/icmp", (Protocol::ICMP, 0), "icmp type 0"),
            ("0/47", (Protocol(47), 0), "47"),
        ] {
            let read: Port = text.parse().unwrap();
            assert_eq!(((read.protocol, read.port), read.to_string().as_str()), (port, shown), "{text}");
        }
    }
}
