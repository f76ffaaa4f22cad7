//! Lives: host.
//! Called by: `parse`, for the words it knows; everything that shows one.
//! May touch: nothing.
//! Never: two words for one value.

use serde::Serialize;
use weir_common::verdict::Direction;

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

words! {
    /// What becomes of living connections that a policy forbids from now on.
    OnChange {
        /// They are cut: both ends get an error at once.
        Cut => "cut",
        /// They go on until they close by themselves.
        Drain => "drain",
    }
}

words! {
    /// When new connections are opened by SYN cookies.
    SynProtection {
        /// While more come than a threshold.
        Auto => "auto",
        /// At all times.
        Always => "always",
        /// Never.
        Off => "off",
    }
}

impl SynProtection {
    /// Whether it never acts.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
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
        /// Refuses, in silence.
        Deny => "deny",
        /// Refuses, and has the kernel answer the caller where it can.
        Refuse => "refuse",
        /// Leaves it to the tiers below.
        Pass => "pass",
    }
}

impl Action {
    /// What rules of the namespace tier may do: below them is nothing to pass to but the baseline, which they replace.
    pub const OF_NAMESPACES: &'static [(&'static str, Self)] =
        &[("allow", Self::Allow), ("deny", Self::Deny), ("refuse", Self::Refuse)];

    /// Whether it lets nothing pass.
    #[must_use]
    pub const fn denies(self) -> bool {
        matches!(self, Self::Deny | Self::Refuse)
    }
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
