//! Lives: host.
//! Called by: `parse`, which builds it; `evaluate`, which gives it its meaning.
//! May touch: nothing.
//! Never: holds a value that the parser would refuse, or a default left to the reader: defaults are filled in.

use std::collections::BTreeSet;

use weir_common::verdict::Direction;

use super::{Action, Mode, OnChange, Peer, PolicyType, PortMatch, PortName, Selector, Socket, Tier, Timestamp};

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
    /// What becomes of living connections that it forbids.
    pub on_change: OnChange,
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

    /// When it, or some of its rules, expires.
    pub fn expiries(&self) -> impl Iterator<Item = Timestamp> {
        let rules = self.ingress.iter().chain(&self.egress);
        self.expires_at.into_iter().chain(rules.filter_map(|rule| rule.expires_at))
    }

    /// Whether it isolates the workloads it selects in this direction.
    #[must_use]
    pub fn isolates(&self, direction: Direction) -> bool {
        self.policy_types.contains(&PolicyType::of(direction))
    }

    /// Whether it denies something with an answer to the caller: only connections opened to its workloads can be answered.
    #[must_use]
    pub fn refuses(&self) -> bool {
        let by_rule = self.rules_in_force(Direction::Ingress).iter().any(|rule| rule.action == Action::Refuse);
        by_rule || (self.isolates(Direction::Ingress) && self.default_action == Action::Refuse)
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
