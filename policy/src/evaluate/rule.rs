//! Lives: host. Whether a rule is about a connection.
//! Called by: `judge` for every rule; `compile`, to sort ports into classes.
//! May touch: nothing.
//! Never: lets a port of one protocol stand for that of another, or a name for a number that the called workload does not give it.

use weir_common::{addr::Protocol, verdict::Direction};

use super::peer::{PeerEnd, peer_matches};
use crate::model::{ContainerPort, PortMatch, PortName, Rule};

/// What a rule is asked about: the other end, and the port that is called.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'e> {
    pub end: &'e PeerEnd<'e>,
    /// The ports of the called workload that have a name; addresses without a workload name none.
    pub called: &'e [ContainerPort],
    pub protocol: Protocol,
    pub port: u16,
}

impl<'e> Opening<'e> {
    /// An opening as a workload sees it that names its ports so: the called end is itself for ingress, else the other.
    pub fn new(
        direction: Direction,
        own: &'e [ContainerPort],
        end: &'e PeerEnd<'e>,
        protocol: Protocol,
        port: u16,
    ) -> Self {
        let called = match direction {
            Direction::Ingress => own,
            Direction::Egress => end.member.map_or(&[][..], |member| member.ports),
        };
        Self { end, called, protocol, port }
    }
}

/// Whether a rule of a policy in `namespace` matches.
///
/// NetworkPolicy, ingress and egress rules: both parts must match, one of `from` (or `to`) and one of `ports`. A part that is
/// missing or empty restricts nothing.
///
/// ClusterNetworkPolicy: `from` and `to` cannot be empty, so there the first test never lets everybody in; `protocols` is what
/// `ports` is above.
pub fn rule_matches(rule: &Rule, namespace: &str, opening: &Opening<'_>) -> bool {
    let peer = rule.peers.is_empty() || rule.peers.iter().any(|peer| peer_matches(peer, namespace, opening.end));
    let any_port = rule.ports.is_empty() && rule.named_ports.is_empty();
    let by_number = || rule.ports.iter().any(|entry| port_matches(entry, opening.protocol, opening.port));
    let by_name = || rule.named_ports.iter().any(|entry| name_matches(entry, opening));
    peer && (any_port || by_number() || by_name())
}

/// Whether a port entry matches.
///
/// NetworkPolicy, `ports`: `protocol` must be the same (TCP where none is written, which the parser fills in). Without `port`
/// every port of it matches; with `endPort` every port from `port` to `endPort`, both included.
///
/// ClusterNetworkPolicy, `destinationPort`: one `number`, or a `range` with both ends.
///
/// Native: of ICMP and ICMPv6 the type stands in the port's place.
pub fn port_matches(entry: &PortMatch, protocol: Protocol, port: u16) -> bool {
    entry.protocol == protocol && entry.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
}

/// Whether a named port is the one that is called.
///
/// NetworkPolicy, `port` as a name: the called pod says which number the name is, each pod for itself, name and protocol
/// together. ClusterNetworkPolicy, `destinationNamedPort`: the same, with whichever protocol the pod names.
fn name_matches(entry: &PortName, opening: &Opening<'_>) -> bool {
    opening.called.iter().any(|known| {
        let named = known.name == entry.name && entry.protocol.is_none_or(|wanted| wanted == known.protocol);
        named && known.protocol == opening.protocol && known.port == opening.port
    })
}
