//! Lives: host.
//! Called by: `resource`, for documents of our own kinds.
//! May touch: nothing.
//! Never: writes YAML that `parse` would read as something else (tested for every case in the tables).

use serde::{Serialize, Serializer, ser::SerializeSeq};
use weir_common::verdict::Direction;

use super::{
    API_VERSION, AddressSet, Labels, Peer, Policy, PolicyType, RateLimit, Resource, Rule, Selector, Socket, Spec, Tier,
    Timestamp, Workload,
};

/// The document of a resource; nothing for kinds that are not ours, which keep their own text.
pub fn text(resource: &Resource) -> String {
    let spec = match resource.spec() {
        Spec::Workload(workload) => SpecOut::Workload(workload),
        Spec::Policy(policy) => SpecOut::Policy(PolicyOut::new(policy)),
        Spec::RateLimit(limit) => SpecOut::RateLimit(limit),
        Spec::AddressSet(set) => SpecOut::AddressSet(set),
        Spec::Namespace | Spec::Node(_) | Spec::Service(_) | Spec::EndpointSlice(_) => return String::new(),
    };
    let id = resource.id();
    let metadata = Metadata { name: &id.name, namespace: &id.namespace, labels: resource.labels() };
    let document = Document { api_version: API_VERSION, kind: id.kind.name(), metadata, spec };
    // Writing into a string fails only for types YAML has no form for, and there are none here.
    serde_saphyr::to_string(&document).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    spec: SpecOut<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SpecOut<'a> {
    Workload(&'a Workload),
    Policy(PolicyOut<'a>),
    RateLimit(&'a RateLimit),
    AddressSet(&'a AddressSet),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyOut<'a> {
    tier: Tier,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_selector: Option<&'a Selector>,
    workload_selector: &'a Selector,
    priority: u16,
    mode: super::Mode,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_change: Option<super::OnChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(flatten)]
    isolation: Option<Isolation<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<RuleOut<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress: Vec<RuleOut<'a>>,
}

/// What only policies of the namespace tier say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Isolation<'a> {
    policy_types: Vec<PolicyType>,
    default_action: super::Action,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sockets: Vec<&'a Socket>,
}

impl<'a> PolicyOut<'a> {
    fn new(policy: &'a Policy) -> Self {
        let isolation = || Isolation {
            policy_types: policy.policy_types.iter().copied().collect(),
            default_action: policy.default_action,
            sockets: policy.sockets.iter().collect(),
        };
        let rules = |direction| policy.rules(direction).iter().map(|rule| RuleOut::new(rule, direction)).collect();
        Self {
            tier: policy.tier,
            namespace_selector: policy.namespaces.as_ref(),
            workload_selector: &policy.workload_selector,
            priority: policy.priority,
            mode: policy.mode,
            // Cutting is the usual way, and says nothing about it.
            on_change: (policy.on_change != super::OnChange::Cut).then_some(policy.on_change),
            expires_at: policy.expires_at,
            isolation: (policy.tier == Tier::Namespace).then(isolation),
            ingress: rules(Direction::Ingress),
            egress: rules(Direction::Egress),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    action: super::Action,
    #[serde(skip_serializing_if = "<[Peer]>::is_empty")]
    from: &'a [Peer],
    #[serde(skip_serializing_if = "<[Peer]>::is_empty")]
    to: &'a [Peer],
    #[serde(skip_serializing_if = "PortsOut::is_empty")]
    ports: PortsOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<bool>,
}

impl<'a> RuleOut<'a> {
    fn new(rule: &'a Rule, direction: Direction) -> Self {
        let (from, to): (&[Peer], &[Peer]) = match direction {
            Direction::Ingress => (&rule.peers, &[]),
            Direction::Egress => (&[], &rule.peers),
        };
        Self {
            name: rule.name.as_deref(),
            action: rule.action,
            from,
            to,
            ports: PortsOut(rule),
            expires_at: rule.expires_at,
            // A rule that makes records is the usual one, and says nothing about it.
            log: (!rule.log).then_some(false),
        }
    }
}

/// Ports by number, then ports by name, in one list.
struct PortsOut<'a>(&'a Rule);

impl PortsOut<'_> {
    fn is_empty(&self) -> bool {
        self.0.ports.is_empty() && self.0.named_ports.is_empty()
    }
}

impl Serialize for PortsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for port in &self.0.ports {
            list.serialize_element(port)?;
        }
        for port in &self.0.named_ports {
            list.serialize_element(port)?;
        }
        list.end()
    }
}
