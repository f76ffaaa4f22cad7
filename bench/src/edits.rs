//! Lives: weir-bench. What happens in a cluster all day.
//! Called by: the measurements, tests.
//! May touch: the cluster it is handed.
//! Never: leaves the cluster in a state that its API server would refuse.

use anyhow::{Context, Result, anyhow};
use fastrand::Rng;
use serde_json::json;
use weir_policy::{Kind, Resource, ResourceId};

use crate::cluster::{Cluster, Document, Pod, apps::App, others, pods, policies::Target};

/// Kinds of edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kinds {
    /// One more replica elsewhere: its labels are known.
    PodAdded,
    /// One more replica on this node.
    PodAddedHere,
    /// A pod whose labels nobody has yet.
    PodOfNewApp,
    /// A pod goes, and one of another app gets its address at once.
    AddressReused,
    /// A policy in force here gets another port.
    PortChanged,
    /// A policy in force here selects another app.
    SelectorChanged,
    /// A policy in force here gets one more peer.
    PeerAdded,
    /// A policy that selects nobody here gets another port.
    PolicyElsewhere,
    /// A new policy about an app that runs here.
    PolicyAdded,
    /// A policy goes.
    PolicyRemoved,
    /// A namespace moves to another team.
    NamespaceRelabelled,
}

impl Kinds {
    /// Every kind, with the words for it.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::PodAdded, "pod added elsewhere, labels known"),
        (Self::PodAddedHere, "pod added here, labels known"),
        (Self::PodOfNewApp, "pod added elsewhere, labels new"),
        (Self::AddressReused, "pod removed, its address reused"),
        (Self::PortChanged, "policy: a port changed"),
        (Self::SelectorChanged, "policy: its selector changed"),
        (Self::PeerAdded, "policy: a peer added"),
        (Self::PolicyElsewhere, "policy elsewhere: a port changed"),
        (Self::PolicyAdded, "policy added"),
        (Self::PolicyRemoved, "policy removed"),
        (Self::NamespaceRelabelled, "namespace relabelled"),
    ];

    /// Whether it is about one pod.
    #[must_use]
    pub const fn is_of_a_pod(self) -> bool {
        matches!(self, Self::PodAdded | Self::PodAddedHere | Self::PodOfNewApp | Self::AddressReused)
    }

    /// Whether it is about one policy.
    #[must_use]
    pub const fn is_of_a_policy(self) -> bool {
        !self.is_of_a_pod() && !matches!(self, Self::NamespaceRelabelled)
    }
}

/// What an edit hands to the policy engine at once.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What goes, before anything comes.
    pub removed: Vec<ResourceId>,
    /// What comes, or changes.
    pub put: Vec<Resource>,
}

/// Edits of one cluster, the same for the same seed.
pub struct Editor {
    cluster: Cluster,
    rng: Rng,
    made: u32,
}

/// Where the addresses of pods that are added begin on their node, above all that were there first.
const FIRST_ADDED: u32 = 600;

impl Editor {
    /// An editor of this cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let rng = Rng::with_seed(cluster.size.seed + 1);
        Self { cluster, rng, made: 0 }
    }

    /// The cluster after all edits so far.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The next edit of a kind.
    ///
    /// # Errors
    /// The cluster is too small to have what the edit is about.
    pub fn next(&mut self, kind: Kinds) -> Result<Step> {
        self.made += 1;
        match kind {
            Kinds::PodAdded => self.pod_added(1, false),
            Kinds::PodAddedHere => self.pod_added(0, false),
            Kinds::PodOfNewApp => self.pod_added(1, true),
            Kinds::AddressReused => self.address_reused(),
            Kinds::PortChanged => self.policy(true, |policy, number, _| {
                policy.set("/spec/ingress/0/ports", json!([{"port": 20_000 + number}]))
            }),
            Kinds::PolicyElsewhere => self.policy(false, |policy, number, _| {
                policy.set("/spec/ingress/0/ports", json!([{"port": 20_000 + number}]))
            }),
            Kinds::SelectorChanged => self.policy(true, |policy, _, app| {
                policy.set("/spec/podSelector", json!({"matchLabels": {"app": app.name}}))
            }),
            Kinds::PeerAdded => self.policy(true, |policy, _, app| {
                policy.push("/spec/ingress/0/from", json!({"podSelector": {"matchLabels": {"app": app.name}}}))
            }),
            Kinds::PolicyAdded => self.policy_added(),
            Kinds::PolicyRemoved => self.policy_removed(),
            Kinds::NamespaceRelabelled => self.namespace_relabelled(),
        }
    }

    fn pod_added(&mut self, node: usize, new: bool) -> Result<Step> {
        let mut app = self.rng.choice(&self.cluster.apps).context("there is no app")?.clone();
        if new {
            app.name = format!("new-{}", self.made);
        }
        let number = 100 + self.made as usize;
        let addresses = pods::addresses(node, FIRST_ADDED + self.made);
        let pod = Pod::of(&app, number, node, addresses, &mut self.rng);
        let put = vec![pod.resource()];
        self.cluster.pods.push(pod);
        Ok(Step { put, ..Step::default() })
    }

    fn address_reused(&mut self) -> Result<Step> {
        let elsewhere: Vec<usize> = (0..self.cluster.pods.len()).filter(|place| self.node_of(*place) != 0).collect();
        let place = *self.rng.choice(&elsewhere).context("every pod is here")?;
        let app = self.rng.choice(&self.cluster.apps).context("there is no app")?;
        let gone = self.cluster.pods.get_mut(place).context("there is no pod")?;
        let pod = Pod::of(app, 100 + self.made as usize, gone.node, gone.addresses, &mut self.rng);
        let step = Step { removed: vec![gone.id()], put: vec![pod.resource()] };
        *gone = pod;
        Ok(step)
    }

    fn node_of(&self, place: usize) -> usize {
        self.cluster.pods.get(place).map_or(0, |pod| pod.node)
    }

    /// Changes a policy with one ingress rule with peers, about an app that runs here, or about one that does not.
    fn policy(&mut self, here: bool, change: impl Fn(&mut Document, u32, &App) -> bool) -> Result<Step> {
        let candidates: Vec<usize> = self.policies_about(here);
        let place = *self.rng.choice(&candidates).context("no policy is of the kind that is to be changed")?;
        let policy = self.cluster.policies.get_mut(place).context("there is no such policy")?;
        let namespace = word(policy, "/metadata/namespace");
        let fellows: Vec<_> = self.cluster.apps.iter().filter(|app| app.namespace == namespace).collect();
        let app = self.rng.choice(&fellows).context("the namespace has no app")?;
        if !change(policy, self.made, app) {
            return Err(anyhow!("a policy has not the shape that the edit expects: {}", policy.json()));
        }
        Ok(Step { put: parsed(policy)?, ..Step::default() })
    }

    /// Policies with one peer in one ingress rule, of the apps that run here, or of those that do not.
    fn policies_about(&self, here: bool) -> Vec<usize> {
        let apps = self.apps_here();
        let about = |policy: &Document| {
            let app = (word(policy, "/metadata/namespace"), word(policy, "/spec/podSelector/matchLabels/app"));
            !app.1.is_empty() && policy.0.pointer("/spec/ingress/0/from/0").is_some() && apps.contains(&app) == here
        };
        let found = self.cluster.policies.iter().enumerate().filter(|(_, policy)| about(policy));
        found.map(|(place, _)| place).collect()
    }

    fn apps_here(&self) -> std::collections::BTreeSet<(&str, &str)> {
        let here = self.cluster.pods.iter().filter(|pod| pod.node == 0);
        here.filter_map(|pod| Some((pod.namespace.as_str(), pod.labels.get("app")?.as_str()))).collect()
    }

    fn policy_added(&mut self) -> Result<Step> {
        let here = self.apps_here();
        let apps = self.cluster.apps.iter().filter(|app| here.contains(&(app.namespace.as_str(), app.name.as_str())));
        let apps: Vec<App> = apps.cloned().collect();
        let target = Target::new(&self.cluster.size, &apps);
        let policy = target.one(self.cluster.size.policies + self.made as usize, &mut self.rng);
        let put = parsed(&policy)?;
        self.cluster.policies.push(policy);
        Ok(Step { put, ..Step::default() })
    }

    fn policy_removed(&mut self) -> Result<Step> {
        let candidates = self.policies_about(true);
        let place = *self.rng.choice(&candidates).context("no policy is about an app that runs here")?;
        let policy = self.cluster.policies.remove(place);
        let (namespace, name) = (word(&policy, "/metadata/namespace"), word(&policy, "/metadata/name"));
        Ok(Step { removed: vec![ResourceId::new(Kind::NetworkPolicy, namespace, name)], put: Vec::new() })
    }

    fn namespace_relabelled(&mut self) -> Result<Step> {
        let last = self.cluster.namespaces.len().checked_sub(1).context("there is no namespace")?;
        let place = self.rng.usize(0..=last);
        let team = others::team(self.rng.usize(0..=last));
        let namespace = self.cluster.namespaces.get_mut(place).context("there is no namespace")?;
        namespace.set("/metadata/labels/team", json!(format!("{team}-{}", self.made % 2)));
        Ok(Step { put: parsed(namespace)?, ..Step::default() })
    }
}

fn word<'d>(document: &'d Document, pointer: &str) -> &'d str {
    document.0.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default()
}

fn parsed(document: &Document) -> Result<Vec<Resource>> {
    document.parse().map_err(|faults| crate::measure::compile::refused(&faults))
}
