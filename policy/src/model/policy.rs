//! Lives: host.
//! Called by: `parse`, which builds it; `evaluate`, which gives it its meaning.
//! May touch: nothing.
//! Never: holds a value that the parser would refuse, or a default left to the reader: defaults are filled in.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use weir_common::{addr::Protocol, verdict::Direction};

use super::{Prefix, Selector, ServiceRef, Timestamp};

/// Who may talk to the selected workloads, and to whom they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When it is asked.
    pub tier: Tier,
    /// The namespaces it applies to; `None`: its own.
    pub namespaces: Option<Selector>,
    /// The workloads of those namespaces it applies to.
    pub workload_selector: Selector,
    /// 0 to 1000; lower is judged first.
    pub priority: u16,
    /// Directions it isolates, in the namespace tier only; rules of others are ignored there.
    pub policy_types: BTreeSet<PolicyType>,
    /// Whether its denials deny.
    pub mode: Mode,
    /// From when on it is as if it were not written.
    pub expires_at: Option<Timestamp>,
    /// What applies in its directions when no rule matches.
    pub default_action: Action,
    /// Socket kinds beside TCP and UDP that it lets its workloads open.
    pub sockets: BTreeSet<Socket>,
    /// Rules for connections opened to the workloads.
    pub ingress: Vec<Rule>,
    /// Rules for connections the workloads open.
    pub egress: Vec<Rule>,
}

impl Policy {
    /// The priority of a policy that names none.
    pub const DEFAULT_PRIORITY: u16 = 1000;

    /// Whether it still counts.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> bool {
        now.is_before(self.expires_at)
    }

    /// Whether it isolates the workloads it selects in this direction.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.policy_types.contains(&PolicyType::of(direction))
    }

    /// Its rules for a direction that count: those of another tier than the namespaces' never isolate, and always count.
    #[must_use]
    pub fn rules_in_force(&self, direction: Direction) -> &[Rule] {
        match self.tier {
            Tier::Namespace if !self.isolates(direction) => &[],
            Tier::Admin | Tier::Namespace | Tier::Baseline => self.rules(direction),
        }
    }

    /// Its rules for a direction as written, whether or not it isolates that direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// One rule of a direction: it matches when a peer matches and a port matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Shown in records.
    pub name: Option<String>,
    /// What it does.
    pub action: Action,
    /// The other ends it is about; empty: any.
    pub peers: Vec<Peer>,
    /// The protocols and ports it is about; with `named_ports` empty too: any.
    pub ports: Vec<PortMatch>,
    /// Ports by the name that the called pod gives them.
    pub named_ports: Vec<PortName>,
    /// From when on it is as if it were not written.
    pub expires_at: Option<Timestamp>,
    /// Whether the connections it decides make records; they are counted in any case.
    pub log: bool,
}

impl Rule {
    /// A rule about every peer and port, which does not expire and makes records.
    #[must_use]
    pub const fn of(action: Action) -> Self {
        Self {
            name: None,
            action,
            peers: Vec::new(),
            ports: Vec::new(),
            named_ports: Vec::new(),
            expires_at: None,
            log: true,
        }
    }

    /// Whether it still counts.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> bool {
        now.is_before(self.expires_at)
    }
}

/// A port by its name; what it is, each called pod says for itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// The name.
    pub name: String,
    /// The protocol that must go with it; `None`: whichever the pod names.
    pub protocol: Option<Protocol>,
}

/// A kind of other end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Peer {
    /// Workloads by their labels and namespace.
    #[serde(rename_all = "camelCase")]
    Workloads {
        /// Workloads; absent: all.
        #[serde(skip_serializing_if = "Option::is_none")]
        workload_selector: Option<Selector>,
        /// Namespaces; absent: the policy's own.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace_selector: Option<Selector>,
    },
    /// Addresses, of workloads and others.
    #[serde(rename_all = "camelCase")]
    IpBlock {
        /// The addresses.
        ip_block: IpBlock,
    },
    /// Everything of a kind that has no labels.
    Entity {
        /// The kind.
        entity: Entity,
    },
    /// Machines of the cluster, by their labels.
    #[serde(rename_all = "camelCase")]
    Nodes {
        /// Nodes.
        node_selector: Selector,
    },
    /// What is behind a service.
    Service {
        /// The service.
        service: ServiceRef,
    },
    /// Something this version does not know; it matches nothing.
    Unknown,
}

/// A prefix less some prefixes inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct IpBlock {
    /// The addresses it is about.
    pub cidr: Prefix,
    /// The ones among them it is not about.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<Prefix>,
}

/// Protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMatch {
    /// The transport protocol.
    pub protocol: Protocol,
    /// First and last port, both included; of ICMP and ICMPv6, types. `None`: the whole protocol.
    pub ports: Option<(u16, u16)>,
}

/// Protocols with a name in YAML.
pub const PROTOCOLS: [(&str, Protocol); 5] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("SCTP", Protocol::SCTP),
    ("ICMP", Protocol::ICMP),
    ("ICMPv6", Protocol::ICMPV6),
];

/// The protocol's name, or its number.
#[must_use]
pub fn protocol_name(protocol: Protocol) -> String {
    match PROTOCOLS.iter().find(|(_, known)| *known == protocol) {
        Some((name, _)) => (*name).to_owned(),
        None => protocol.0.to_string(),
    }
}

impl Serialize for PortMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// A name, or a number for protocols without one.
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Word {
            Name(&'static str),
            Number(u8),
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            protocol: Word,
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            end_port: Option<u16>,
        }
        let known = PROTOCOLS.iter().find(|(_, known)| *known == self.protocol);
        let protocol = known.map_or(Word::Number(self.protocol.0), |(name, _)| Word::Name(name));
        let end_port = self.ports.and_then(|(first, last)| (first != last).then_some(last));
        Fields { protocol, port: self.ports.map(|(first, _)| first), end_port }.serialize(serializer)
    }
}

/// Declares an enum whose values are words in YAML.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every value with its word.
            pub const WORDS: &'static [(&'static str, Self)] = &[$(($text, Self::$variant),)+];

            /// The word in YAML.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

words! {
    /// A direction a policy isolates.
    PolicyType {
        /// Connections opened to the workload.
        Ingress => "Ingress",
        /// Connections the workload opens.
        Egress => "Egress",
    }
}

impl PolicyType {
    /// The type that is about a direction.
    #[must_use]
    pub const fn of(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

words! {
    /// Whether denials deny.
    Mode {
        /// They do.
        Enforce => "enforce",
        /// The traffic passes and is recorded as one that would be denied.
        Audit => "audit",
        /// Never in force: what it would change is told beside each answer.
        Staged => "staged",
    }
}

impl Mode {
    /// The modes of rate limits, which have no answers to compare.
    pub const OF_LIMITS: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("audit", Self::Audit)];
}

words! {
    /// What a rule or default does.
    Action {
        /// Lets pass.
        Allow => "allow",
        /// Refuses.
        Deny => "deny",
        /// Leaves it to the tiers below.
        Pass => "pass",
    }
}

impl Action {
    /// What rules of the namespace tier may do: below them is nothing to pass to but the baseline, which they replace.
    pub const OF_NAMESPACES: &'static [(&'static str, Self)] = &[("allow", Self::Allow), ("deny", Self::Deny)];
}

words! {
    /// When a policy is asked: the admin tier first, then the namespaces' own policies, then the baseline.
    Tier {
        /// Before the namespaces' own.
        Admin => "admin",
        /// The namespaces' own.
        Namespace => "namespace",
        /// Where no policy of the namespace isolates.
        Baseline => "baseline",
    }
}

words! {
    /// Socket kinds that isolated workloads are refused unless a policy allows them.
    Socket {
        /// Raw IP sockets.
        Raw => "raw",
        /// SCTP sockets.
        Sctp => "sctp",
        /// Multipath TCP sockets.
        Mptcp => "mptcp",
    }
}

words! {
    /// Other ends without labels.
    Entity {
        /// Any address that is no workload's and none of the other entities.
        World => "world",
        /// This host's own addresses.
        Host => "host",
        /// Loopback and unspecified addresses.
        Loopback => "loopback",
        /// Addresses of the machines of the cluster, this host's among them.
        Node => "node",
        /// An address for pods (inside some node's `spec.podCIDRs`) that no known workload has.
        Unknown => "unknown",
    }
}
