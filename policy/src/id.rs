//! Lives: host.
//! Called by: everything that names a resource.
//! May touch: nothing.
//! Never: lets two resources share a name; the order of ids is the order in which everything is numbered.

use std::{fmt, str::FromStr};

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Something that runs: labels, a cgroup, addresses.
    Workload,
    /// Who may talk to whom.
    Policy,
    /// How much a client may send.
    RateLimit,
    /// Addresses that are treated alike.
    AddressSet,
    /// Kubernetes: who may talk to the pods of a namespace.
    NetworkPolicy,
    /// Kubernetes: what the administrator says before or after the namespaces' own policies.
    ClusterNetworkPolicy,
    /// Kubernetes: the older form of an admin tier's policy.
    AdminNetworkPolicy,
    /// Kubernetes: the older form of a baseline tier's policy.
    BaselineAdminNetworkPolicy,
    /// Kubernetes: labels of a namespace.
    Namespace,
    /// Kubernetes: a machine with its labels and addresses.
    Node,
    /// Kubernetes: something that runs.
    Pod,
    /// Kubernetes: a name and address in front of pods.
    Service,
    /// Kubernetes: addresses behind a service, by hand or by the cluster.
    EndpointSlice,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Workload,
        Self::Policy,
        Self::RateLimit,
        Self::AddressSet,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// The kinds of our own.
    pub const NATIVE: [Self; 4] = [Self::Workload, Self::Policy, Self::RateLimit, Self::AddressSet];

    /// The word in `kind:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Policy => "Policy",
            Self::RateLimit => "RateLimit",
            Self::AddressSet => "AddressSet",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Whether resources of the kind live in a namespace.
    #[must_use]
    pub const fn namespaced(self) -> bool {
        match self {
            Self::Workload
            | Self::Policy
            | Self::RateLimit
            | Self::NetworkPolicy
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice => true,
            Self::AddressSet
            | Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::Namespace
            | Self::Node => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a kind; there are Workload, Policy, RateLimit and AddressSet, and of Kubernetes NetworkPolicy, \
     ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy, Namespace, Node, Pod, Service and EndpointSlice"
)]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Takes the word in any case, singular or plural.
    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let asked = word.to_ascii_lowercase();
        let named = |kind: &Self| {
            let singular = kind.name().to_ascii_lowercase();
            let plural = match singular.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None => format!("{singular}s"),
            };
            asked == singular || asked == plural
        };
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// The name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without one.
    pub namespace: String,
    /// Its name, unique among the kind's in the namespace.
    pub name: String,
}

impl ResourceId {
    /// The id of `kind`, `namespace` and `name`.
    #[must_use]
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A text that is no resource's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a resource; write Kind/namespace/name, or Kind/name for kinds without a namespace")]
pub struct NoResourceId(pub String);

impl FromStr for ResourceId {
    type Err = NoResourceId;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, NoResourceId> {
        let wrong = || NoResourceId(text.to_owned());
        let (kind, rest) = text.split_once('/').ok_or_else(wrong)?;
        let kind: Kind = kind.parse().map_err(|_| wrong())?;
        match rest.split_once('/') {
            Some((namespace, name)) if kind.namespaced() => Ok(Self::new(kind, namespace, name)),
            None if !kind.namespaced() => Ok(Self::new(kind, "", rest)),
            Some(_) | None => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_any_usual_spelling() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        assert_eq!("policies".parse(), Ok(Kind::Policy));
        assert_eq!("networkpolicies".parse(), Ok(Kind::NetworkPolicy));
        assert_eq!("Ingress".parse::<Kind>(), Err(UnknownKind("Ingress".into())));
    }

    #[test]
    fn an_id_is_read_back_as_it_is_written() {
        for text in ["Policy/shop/api", "AddressSet/bad", "ClusterNetworkPolicy/deny"] {
            assert_eq!(text.parse::<ResourceId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["Policy/api", "AddressSet/shop/bad", "Policy", "Thing/shop/api", ""] {
            assert_eq!(text.parse::<ResourceId>(), Err(NoResourceId(text.to_owned())));
        }
    }

    #[test]
    fn an_id_without_a_namespace_is_shown_without_one() {
        assert_eq!(ResourceId::new(Kind::Policy, "shop", "api").to_string(), "Policy/shop/api");
        assert_eq!(ResourceId::new(Kind::AddressSet, "", "bad").to_string(), "AddressSet/bad");
    }
}
