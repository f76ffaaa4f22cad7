//! Lives: weir-bench. A whole cluster, the same for the same size and seed.
//! Called by: the measurements, the edits, tests.
//! May touch: nothing.
//! Never: writes a document that the API server would refuse.
//!
//! Shapes follow what clusters have: a few large namespaces and many small ones, two pods of three alone in their label
//! set, labels that change with every replica and that no policy looks at, and policies that mostly open one way in.

pub mod apps;
mod cluster_policies;
pub mod document;
pub mod others;
pub mod pods;
pub mod policies;

use fastrand::Rng;
use weir_policy::{Fault, Resource, Resources};

pub use document::Document;
pub use pods::Pod;

use apps::App;
use policies::Target;

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pods.
    pub pods: usize,
    /// Policies of all kinds.
    pub policies: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Machines; the first is the one that is looked at.
    pub nodes: usize,
    /// Pods on the first machine.
    pub local: usize,
    /// Another seed, another cluster.
    pub seed: u64,
}

/// Policies that one namespace has on average.
const POLICIES_PER_NAMESPACE: usize = 25;
/// Pods that one node has on average: what Kubernetes allows by default.
const PODS_PER_NODE: usize = 110;
/// Apps are about two thirds of the pods; every tenth app has a service.
const PODS_PER_SERVICE: usize = 15;

impl Size {
    /// A size with as many namespaces and nodes as go with its pods and policies.
    #[must_use]
    pub fn of(pods: usize, policies: usize, local: usize) -> Self {
        let namespaces = (policies / POLICIES_PER_NAMESPACE).max(4);
        let nodes = 1 + pods.saturating_sub(local).div_ceil(PODS_PER_NODE).max(1);
        Self { pods, policies, namespaces, nodes, local: local.min(pods), seed: 1 }
    }
}

/// A cluster, in parts that edits can change.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How large it is.
    pub size: Size,
    /// Every namespace.
    pub namespaces: Vec<Document>,
    /// Every node.
    pub nodes: Vec<Document>,
    /// Every service.
    pub services: Vec<Document>,
    /// Every policy.
    pub policies: Vec<Document>,
    /// Every pod.
    pub pods: Vec<Pod>,
    /// What pods are made from.
    pub apps: Vec<App>,
}

impl Cluster {
    /// Makes it.
    #[must_use]
    pub fn generate(size: &Size) -> Self {
        let mut rng = Rng::with_seed(size.seed);
        let apps = apps::make(size, &mut rng);
        let pods = pods::make(size, &apps, &mut rng);
        let namespaces = (0..size.namespaces).map(others::namespace).collect();
        let nodes = (0..size.nodes).map(others::node).collect();
        let services = others::services(&apps, size.pods / PODS_PER_SERVICE);
        let policies = Target::new(size, &apps).all(&mut rng);
        Self { size: *size, namespaces, nodes, services, policies, pods, apps }
    }

    /// Every document, pods last.
    pub fn documents(&self) -> impl Iterator<Item = Document> {
        let others = [&self.namespaces, &self.nodes, &self.services, &self.policies];
        others.into_iter().flatten().cloned().chain(self.pods.iter().map(Pod::document))
    }

    /// Every resource as this node has it: the pods that run here know their cgroup.
    ///
    /// # Errors
    /// Never for a cluster that was generated; edits of a caller's own may be refused.
    pub fn resources(&self) -> Result<Resources, Vec<Fault>> {
        let mut all = Vec::new();
        for document in [&self.namespaces, &self.nodes, &self.services, &self.policies].into_iter().flatten() {
            all.extend(document.parse()?);
        }
        let pods = self.pods.iter().map(Pod::resource);
        Ok(all.into_iter().chain(pods).collect::<Vec<Resource>>().into_iter().collect())
    }
}
