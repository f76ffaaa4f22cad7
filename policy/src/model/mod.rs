//! Lives: host.
//! Called by: everything in this crate.
//! May touch: nothing.
//! Never: parses, judges or compiles; it is the meaning of the documents, and nothing else.

mod others;
mod policy;
mod prefix;
mod resource;
mod selector;
mod service;
mod state;
mod time;

pub use others::{AddressSet, Client, ContainerPort, Node, Rate, RateLimit, Workload};
pub use policy::{
    Action, Entity, IpBlock, Mode, PROTOCOLS, Peer, Policy, PolicyType, PortMatch, PortName, Rule, Socket, Tier,
    protocol_name,
};
pub use prefix::{Prefix, V4_BITS, addr, ip};
pub use resource::{API_VERSION, Origin, Resource, Spec};
pub use selector::{Labels, NAMESPACE_LABEL, Operator, Requirement, Selector};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Service, ServicePort, ServiceRef, TargetPort};
pub use state::{Change, Resources};
pub use time::Timestamp;
