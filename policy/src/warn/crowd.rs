//! Lives: host. Everybody whom policies could be about.
//! Called by: the checks, to learn whether a selector, a port's name or a service leads to anybody.
//! May touch: its own lists, which are made when they are first needed.
//! Never: looks at a workload that cannot matter: with 30,000 of them and thousands of selectors that is what takes long.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap, HashSet},
};

use weir_common::addr::Protocol;

use crate::model::{Labels, PortName, Resource, Resources, Selector, ServiceRef, Workload};

/// The resources, with what is asked of them again and again.
pub struct Crowd<'a> {
    pub resources: &'a Resources,
    by_label: OnceCell<HashMap<(&'a str, &'a str), Vec<&'a Resource>>>,
    namespaces: OnceCell<BTreeSet<&'a str>>,
    port_names: OnceCell<HashSet<(&'a str, Protocol)>>,
    cgroups: OnceCell<BTreeSet<&'a str>>,
    wired: OnceCell<Vec<(&'a Resource, &'a Workload)>>,
}

impl<'a> Crowd<'a> {
    pub const fn of(resources: &'a Resources) -> Self {
        Self {
            resources,
            by_label: OnceCell::new(),
            namespaces: OnceCell::new(),
            port_names: OnceCell::new(),
            cgroups: OnceCell::new(),
            wired: OnceCell::new(),
        }
    }

    /// Whether nothing is known of who runs in the cluster, as when only policies are checked. Then nothing can be said about
    /// what a selector selects.
    pub fn is_unknown(&self) -> bool {
        self.resources.workloads().next().is_none()
    }

    /// Whether a selector selects a workload of a namespace.
    pub fn has(&self, namespace: &str, selector: &Selector) -> bool {
        self.resources.workloads_in(namespace).any(|(resource, _)| selector.matches(resource.labels()))
    }

    /// Whether a selector selects a workload of the namespaces that another selector selects.
    pub fn has_among(&self, namespaces: &Selector, selector: &Selector) -> bool {
        // One of the labels that must be there leads to the few who have it.
        if let Some(few) = self.fewest(&selector.match_labels) {
            return few.iter().any(|resource| {
                selector.matches(resource.labels()) && self.selects_namespace(namespaces, &resource.id().namespace)
            });
        }
        let all = self
            .namespaces
            .get_or_init(|| self.resources.workloads().map(|(resource, _)| resource.id().namespace.as_str()).collect());
        all.iter().any(|namespace| self.selects_namespace(namespaces, namespace) && self.has(namespace, selector))
    }

    /// Whether some workload names a port so.
    pub fn names_port(&self, port: &PortName) -> bool {
        let names = self.port_names.get_or_init(|| {
            let ports = self.resources.workloads().flat_map(|(_, workload)| &workload.ports);
            ports.map(|port| (port.name.as_str(), port.protocol)).collect()
        });
        let protocols = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].into_iter();
        let mut asked = protocols.filter(|protocol| port.protocol.is_none_or(|wanted| wanted == *protocol));
        asked.any(|protocol| names.contains(&(port.name.as_str(), protocol)))
    }

    /// Whether a node has these labels.
    pub fn has_node(&self, selector: &Selector) -> bool {
        self.resources.nodes().any(|(node, _)| selector.matches(node.labels()))
    }

    /// Whether something is behind a service; `None` when it is not there at all.
    pub fn is_served(&self, service: &ServiceRef) -> Option<bool> {
        Some(match &self.resources.service(&service.id())?.selector {
            Some(labels) => {
                let selector = Selector { match_labels: labels.clone(), match_expressions: Vec::new() };
                self.has(&service.namespace, &selector)
            }
            None => self.resources.slices_of(service).any(|slice| !slice.endpoints.is_empty()),
        })
    }

    /// The cgroup of another workload that one lies in.
    pub fn cgroup_around(&self, cgroup: &str) -> Option<&'a str> {
        let all = self.cgroups.get_or_init(|| {
            self.resources.workloads().filter_map(|(_, workload)| workload.cgroup.as_deref()).collect()
        });
        cgroup.match_indices('/').find_map(|(end, _)| all.get(cgroup.get(..end)?).copied())
    }

    /// Workloads whose packets are judged on an interface: those of one node, so few.
    pub fn wired(&self) -> &[(&'a Resource, &'a Workload)] {
        self.wired
            .get_or_init(|| self.resources.workloads().filter(|(_, workload)| workload.interface.is_some()).collect())
    }

    fn selects_namespace(&self, selector: &Selector, namespace: &str) -> bool {
        selector.matches_namespace(namespace, self.resources.namespace_labels(namespace))
    }

    /// The workloads that have one of these labels, by the rarest of them; `None` when there is no label to go by.
    fn fewest<'s>(&'s self, labels: &'s Labels) -> Option<&'s [&'s Resource]> {
        let by_label = self.by_label.get_or_init(|| {
            let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
            for (resource, _) in self.resources.workloads() {
                for (key, value) in resource.labels() {
                    by_label.entry((key.as_str(), value.as_str())).or_default().push(resource);
                }
            }
            by_label
        });
        let lists = labels.iter().map(|(key, value)| by_label.get(&(key.as_str(), value.as_str())));
        lists.map(|list| list.map_or(&[][..], Vec::as_slice)).min_by_key(|list| list.len())
    }
}
