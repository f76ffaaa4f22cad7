//! Lives: host.
//! Called by: `parse`, which builds these; `evaluate`, to find what is behind a service.
//! May touch: nothing.
//! Never: says what a service leads to; that takes all resources, and `evaluate` does it.

use serde::Serialize;
use weir_common::addr::{Addr, Protocol};

use super::Labels;
use crate::id::{Kind, ResourceId};

/// The name of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceRef {
    /// The id of the resource that describes it.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        ResourceId::new(Kind::Service, &self.namespace, &self.name)
    }
}

/// A name and addresses in front of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its addresses in the cluster.
    pub addresses: Vec<Addr>,
    /// The labels of the pods behind it, all of them; `None`: its endpoint slices say what is.
    pub selector: Option<Labels>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be empty.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that is called.
    pub port: u16,
    /// The pod's port.
    pub target: TargetPort,
}

/// A port of the pods behind a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name each pod gives it.
    Name(String),
}

/// Some of what is behind a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The service; `None`: the slice is nobody's.
    pub service: Option<ServiceRef>,
    /// The endpoints that take connections.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<EndpointPort>,
}

/// One thing behind a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses, which are one thing's.
    pub addresses: Vec<Addr>,
    /// The pod it is, if it is one.
    pub pod: Option<ResourceId>,
}

/// A port of the endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service's port that leads here; may be empty.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number; `None`: every port.
    pub port: Option<u16>,
}
