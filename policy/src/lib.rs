//! Lives: host. The policy engine: model, parsing, reference evaluator, compiler to the tables of `weir_common::image`.
//! Called by: the agent (parse, store, compile), `weirctl` (parse, explain), the tests.
//! May touch: nothing but its arguments.
//! Never: does I/O, knows a clock, depends on the order in which resources arrived.
//!
//! ```text
//! text ─ parse ─► Resource ─ insert ─► Resources ─ compile ─► Compiled ─ (weir_common::decide) ─► verdict
//!                                          └────── evaluate ──────────────────────────────────► Explanation
//! ```
//!
//! [`reach`] asks the evaluator about all ends at once, and `weirctl policy` shows the answers.
//!
//! [`evaluate`] gives documents their meaning; [`compile`] asks it once per cell of its tables, so the two cannot differ in
//! what a rule means, and property tests show that they do not differ in what the tables say.

pub mod cases;
mod compile;
mod evaluate;
mod fault;
mod id;
mod model;
mod parse;
pub mod reach;
pub mod sets;
mod warn;

pub use compile::{
    Compiled, CompiledSet, CompiledWorkload, Compiler, Edit, Endpoints, LimitInfo, OwnAnswers, OwnTables, RuleInfo,
    ServiceNames, Sizes, Touched, compile,
};
pub use evaluate::{Answer, End, Explanation, NoSuchWorkload, Question, Staged, evaluate, evaluate_service};
pub use fault::{Fault, Place};
pub use id::{Kind, NoResourceId, ResourceId, UnknownKind};
pub use model::{
    Action, AddressSet, Change, Client, ContainerPort, Endpoint, EndpointPort, EndpointSlice, Entity, IpBlock, Labels,
    Mode, NAMESPACE_LABEL, Node, OnChange, Operator, Origin, PROTOCOLS, Peer, Policy, PolicyType, PortMatch, PortName,
    Prefix, Rate, RateLimit, Rates, Remark, Requirement, Resource, Resources, Rule, Selector, Service, ServicePort,
    ServiceRef, Socket, Spec, SynProtection, TargetPort, Tier, Timestamp, V4_BITS, Workload, addr, icmp_types, ip,
    protocol_name,
};
pub use parse::{Documents, Expectation, OtherKinds, PolicyTest, Written, parse, parse_all, parse_documents};
pub use warn::{Warning, warnings, warnings_about};

use weir_common::{addr::Addr, verdict::Verdict};

/// What the node adds to the resources.
#[derive(Clone, Debug)]
pub struct Context {
    /// Number of the generation that is compiled.
    pub generation: u64,
    /// Verdict on local workloads nobody described.
    pub unknown: Verdict,
    /// Verdict on what workloads open, or have opened to them, that no policy in force selects.
    pub unselected: Verdict,
    /// The host's own addresses, which are entity `host`.
    pub host_addresses: Vec<Addr>,
    /// Length of the kernel's tick; 0 when the coarse clock must not be used.
    pub tick_ns: u64,
    /// The time, for what expires.
    pub now: Timestamp,
}
