//! Lives: host.
//! Called by: everything in this crate.
//! May touch: nothing.
//! Never: parses, judges or compiles; it is the meaning of the documents, and nothing else.

mod index;
mod lookups;
mod others;
mod peer;
mod policy;
mod ports;
mod prefix;
mod resource;
mod selector;
mod service;
mod state;
mod time;
mod words;
mod yaml;

pub use others::{AddressSet, Client, Node, Rate, RateLimit, Rates, SetAction, Workload};
pub use peer::{IpBlock, Peer};
pub use policy::{Policy, Rule};
pub use ports::{ContainerPort, PROTOCOLS, PortMatch, PortName, icmp_types, protocol_name};
pub use prefix::{Prefix, V4_BITS, addr, ip};
pub use resource::{API_VERSION, Origin, Remark, Resource, Spec};
pub use selector::{Labels, NAMESPACE_LABEL, Operator, Requirement, Selector};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Service, ServicePort, ServiceRef, TargetPort};
pub use state::{Change, Resources};
pub use time::Timestamp;
pub use words::{Action, Entity, Mode, OnChange, PolicyType, Socket, SynProtection, Tier};
