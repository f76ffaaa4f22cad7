//! Lives: weir-agent, revocation.
//! Called by: `control`, which makes a view of each generation and for a dry run; `sweep` and `known`, which judge by it.
//! May touch: nothing but its arguments; pure.
//! Never: decides otherwise than the kernel would: it asks the same function over the same tables.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use weir_common::{
    addr::{Addr, Protocol},
    decide::{Decision, Image, Query},
    image::reserved,
    maps::AGENT,
    verdict::Direction,
};
use weir_policy::{Compiled, CompiledWorkload, OnChange, Resources, Spec};

/// What connections are judged by: one generation, and who runs here.
#[derive(Clone, Debug)]
pub struct View {
    /// The tables.
    pub compiled: Arc<Compiled>,
    /// The documents they were made from: a policy says what becomes of connections it forbids.
    pub resources: Resources,
    /// Workloads that are judged here, by their numbers.
    pub locals: BTreeMap<u32, Local>,
    /// The agent's own cgroup, if it is in the managed tree: nobody judges it.
    pub own: Option<PathBuf>,
}

/// A workload that is attached here, or whose deleted cgroup still has sockets.
#[derive(Clone, Debug)]
pub struct Local {
    /// As this view's generation knows it.
    pub workload: Arc<CompiledWorkload>,
    /// Its cgroup's directory.
    pub path: PathBuf,
    /// Id of the cgroup it is attached to, 0 for none: one that was deleted and made anew is another.
    pub cgroup_id: u64,
}

/// A living connection, as far as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Number of the local workload; 0 for none.
    pub workload: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who opened it, if that is known.
    pub direction: Option<Direction>,
    /// This side.
    pub local: (Addr, u16),
    /// The other side.
    pub remote: (Addr, u16),
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may go on: what allows it, where anything judges it.
    Stays(Option<(Direction, Decision)>),
    /// It is forbidden by a policy that lets living connections go on.
    Drains(Direction, Decision),
    /// It is forbidden, in this direction.
    Cut(Direction, Decision),
}

/// How a connection that is older than the programs stands by the generation in force.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// This side's identity.
    pub identity: u32,
    /// Who opened it.
    pub direction: Direction,
    /// What lets it go on, or would not any more.
    pub decision: Decision,
    /// The generation.
    pub generation: u64,
}

impl View {
    /// Judges a living connection.
    ///
    /// One whose direction is not known stays if either direction would be allowed: cutting what is allowed is the worse mistake.
    #[must_use]
    pub fn judge(&self, connection: &Connection) -> Fate {
        let local = self.locals.get(&connection.workload);
        if local.is_none() && connection.workload != 0 {
            // Detached meanwhile: nobody judges it any more.
            return Fate::Stays(None);
        }
        if local.is_some_and(|local| local.workload.addresses.contains(&connection.remote.0)) {
            return Fate::Stays(None);
        }
        let directions: &[Direction] = match connection.direction {
            Some(Direction::Ingress) => &[Direction::Ingress],
            Some(Direction::Egress) => &[Direction::Egress],
            None => &[Direction::Ingress, Direction::Egress],
        };
        let mut denied = None;
        for direction in directions {
            let Some(decision) = self.decide(local, *direction, connection) else { return Fate::Stays(None) };
            if decision.verdict.passes() {
                return Fate::Stays(Some((*direction, decision)));
            }
            denied = Some((*direction, decision));
        }
        match denied {
            Some((direction, decision)) if self.drains(&decision) => Fate::Drains(direction, decision),
            Some((direction, decision)) => Fate::Cut(direction, decision),
            None => Fate::Stays(None),
        }
    }

    /// How a connection of a workload's stands that was judged so; `None` where there is no such workload any more.
    #[must_use]
    pub fn standing(&self, workload: u32, direction: Direction, decision: Decision) -> Option<Standing> {
        let identity = self.locals.get(&workload)?.workload.identity;
        Some(Standing { identity, direction, decision, generation: self.compiled.generation })
    }

    /// `None` when the tables are unreadable, which is for the kernel to fail closed on, not for us to cut by.
    fn decide(&self, local: Option<&Local>, direction: Direction, connection: &Connection) -> Option<Decision> {
        let port = match direction {
            Direction::Ingress => connection.local.1,
            Direction::Egress => connection.remote.1,
        };
        let (remote, protocol) = (connection.remote.0, connection.protocol);
        match local {
            Some(local) => self.compiled.seen_by(&local.workload).decide(direction, remote, protocol, port),
            None => {
                let query = Query { local: reserved::UNKNOWN, direction, remote, protocol, port };
                Some(Image::open(&*self.compiled)?.decide(&query))
            }
        }
    }

    /// Whether the policy that denies lets living connections go on.
    fn drains(&self, decision: &Decision) -> bool {
        let rule = usize::try_from(decision.rule).ok().filter(|number| *number != 0);
        let Some(info) = rule.and_then(|number| self.compiled.rules.get(number)) else { return false };
        let Some(resource) = info.policy.parse().ok().and_then(|id| self.resources.get(&id)) else { return false };
        matches!(resource.spec(), Spec::Policy(policy) if policy.on_change == OnChange::Drain)
    }

    /// The policy and the rule of a decision; empty when none decided.
    #[must_use]
    pub fn rule_of(&self, decision: &Decision) -> (&str, &str) {
        let rule = usize::try_from(decision.rule).ok().filter(|number| *number != 0);
        rule.and_then(|number| self.compiled.rules.get(number))
            .map_or(("", ""), |info| (info.policy.as_str(), info.rule.as_str()))
    }

    /// The workloads as `Namespaces::find` wants them.
    #[must_use]
    pub fn cgroups(&self) -> Vec<(u32, PathBuf)> {
        let own = self.own.iter().map(|path| (AGENT, path.clone()));
        self.locals.iter().map(|(number, local)| (*number, local.path.clone())).chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use weir_common::verdict::Verdict;
    use weir_policy::{Context, Resource, Timestamp};

    use super::*;

    const WORLD: &str = "
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.1]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {addresses: [10.0.0.2]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec:
  ON_CHANGE
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress, Egress]
  ingress:
  - {from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 80}], action: allow}
  egress:
  - {to: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}], action: allow}
";

    fn view(on_change: &str) -> View {
        view_of(&WORLD.replace("ON_CHANGE", on_change), |resource| resource)
    }

    fn view_of(text: &str, placed: fn(Resource) -> Resource) -> View {
        let resources: Resources = weir_policy::parse("t", text).unwrap().into_iter().map(placed).collect();
        let context = Context {
            generation: 7,
            unknown: Verdict::Deny,
            unselected: Verdict::Allow,
            host_addresses: Vec::new(),
            tick_ns: 0,
            now: Timestamp(0),
        };
        let compiled = Arc::new(weir_policy::compile(&resources, &context).unwrap());
        let local =
            compiled.local().into_iter().map(|workload| Local { path: PathBuf::from("/none"), cgroup_id: 5, workload });
        View { resources, locals: (3..).zip(local).collect(), compiled, own: None }
    }

    fn connection(workload: u32, direction: Option<Direction>, remote: u8, ports: (u16, u16)) -> Connection {
        Connection {
            workload,
            protocol: Protocol::TCP,
            direction,
            local: (Addr::v4([10, 0, 0, 1]), ports.0),
            remote: (Addr::v4([10, 0, 0, remote]), ports.1),
        }
    }

    #[test]
    fn a_living_connection_is_judged_as_an_opening_in_its_direction() {
        const IN: Option<Direction> = Some(Direction::Ingress);
        const OUT: Option<Direction> = Some(Direction::Egress);
        let view = view("priority: 5");
        let rows = [
            ("a rule lets it in", connection(3, IN, 2, (80, 40000)), true),
            ("another port", connection(3, IN, 2, (81, 40000)), false),
            ("another peer", connection(3, IN, 9, (80, 40000)), false),
            ("a rule lets it out", connection(3, OUT, 2, (40000, 5432)), true),
            ("out where only in is allowed", connection(3, OUT, 2, (80, 40000)), false),
            ("direction not known, allowed in", connection(3, None, 2, (80, 40000)), true),
            ("direction not known, allowed out", connection(3, None, 2, (40000, 5432)), true),
            ("direction not known, allowed neither way", connection(3, None, 2, (4000, 4001)), false),
            ("to itself", connection(3, OUT, 1, (40000, 9)), true),
            ("of no workload, where unknown ones are denied", connection(0, OUT, 2, (40000, 5432)), false),
            ("of a workload that is detached", connection(8, OUT, 9, (40000, 5432)), true),
        ];
        for (name, connection, stays) in rows {
            let fate = view.judge(&connection);
            assert_eq!(matches!(fate, Fate::Stays(_)), stays, "{name}: {fate:?}");
            assert_eq!(matches!(fate, Fate::Cut(..)), !stays, "{name}: {fate:?}");
        }
    }

    #[test]
    fn a_pod_that_calls_itself_by_a_service_keeps_its_connection_and_loses_others() {
        const PODS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {only: a}}, spec: {}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Service, metadata: {name: own, namespace: shop}, spec: {clusterIP: 10.0.0.8, selector: {only: a}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.0.0.9, selector: {only: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop, labels: {only: b}}, spec: {}, status: {podIP: 10.0.0.2}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"#;
        let view =
            view_of(PODS, |resource| if resource.id().name == "a" { resource.running_in("a") } else { resource });
        for (to, stays) in [(8, true), (9, false), (1, true), (2, false)] {
            let fate = view.judge(&connection(3, Some(Direction::Egress), to, (40000, 80)));
            assert_eq!(matches!(fate, Fate::Stays(_)), stays, "10.0.0.{to}: {fate:?}");
        }
    }

    #[test]
    fn the_policy_that_forbids_says_whether_living_connections_go_on() {
        let forbidden = connection(3, Some(Direction::Ingress), 9, (80, 40000));
        for (text, drains) in [("onChange: cut", false), ("onChange: drain", true)] {
            let view = view(text);
            let fate = view.judge(&forbidden);
            assert_eq!(matches!(fate, Fate::Drains(..)), drains, "{text}: {fate:?}");
            let (Fate::Drains(_, decision) | Fate::Cut(_, decision)) = fate else { panic!("{fate:?}") };
            assert_eq!(view.rule_of(&decision).0, "Policy/shop/api");
        }
    }
}
