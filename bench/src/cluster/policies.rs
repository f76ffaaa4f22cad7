//! Lives: weir-bench. The policies that teams write for their namespaces.
//! Called by: `cluster`, `edits`.
//! May touch: nothing.
//! Never: gives two policies of one namespace one name.
//!
//! Of a hundred: seventy-six open one way in to one app, to one peer; fourteen let an app out to name resolution and some
//! addresses; ten are longer. Each namespace also has a default denial.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    Document, Size,
    apps::{App, TIERS, skewed},
    cluster_policies,
    others::{STAGES, namespace_name, team},
};

/// What policies are written about.
pub struct Target<'a> {
    size: &'a Size,
    apps: &'a [App],
    fellows: BTreeMap<&'a str, Vec<&'a App>>,
}

impl<'a> Target<'a> {
    /// The apps of a cluster of this size.
    #[must_use]
    pub fn new(size: &'a Size, apps: &'a [App]) -> Self {
        let mut fellows: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for app in apps {
            fellows.entry(app.namespace.as_str()).or_default().push(app);
        }
        Self { size, apps, fellows }
    }

    /// As many as the size says: the administrator's, a default denial per namespace, and then the teams' own.
    pub fn all(&self, rng: &mut Rng) -> Vec<Document> {
        let mut all = cluster_policies::make();
        all.extend((0..self.size.namespaces).map(denial));
        all.truncate(self.size.policies);
        let rest = all.len()..self.size.policies;
        all.extend(rest.map(|number| self.one(number, rng)));
        all
    }

    /// One that a team wrote.
    pub fn one(&self, number: usize, rng: &mut Rng) -> Document {
        let Some(app) = rng.choice(self.apps) else { return denial(0) };
        let name = format!("{}-{number}", app.name);
        let spec = match rng.u8(0..100) {
            0..76 => self.one_way_in(app, rng),
            76..90 => outward(app, rng),
            _ => self.both_ways(app, rng),
        };
        document(&app.namespace, &name, &spec)
    }

    fn one_way_in(&self, app: &App, rng: &mut Rng) -> Value {
        json!({
            "podSelector": subject(app, rng),
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [self.peer(app, rng)], "ports": ports(app, rng)}],
        })
    }

    fn both_ways(&self, app: &App, rng: &mut Rng) -> Value {
        let (from, more, to) = (self.peer(app, rng), self.peer(app, rng), self.peer(app, rng));
        json!({
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": [app.name]}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [from, more], "ports": [{"port": app.port}, {"port": "metrics"}]}, {"from": [block(rng)]}],
            "egress": [name_resolution(), {"to": [to]}],
        })
    }

    /// A peer: in the same namespace, or another namespace with all its pods or some.
    fn peer(&self, app: &App, rng: &mut Rng) -> Value {
        let other = skewed(self.size.namespaces, rng);
        let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace_name(other)}});
        match rng.u8(0..100) {
            0..45 => json!({"podSelector": {"matchLabels": {"app": self.neighbour(app, rng)}}}),
            45..60 => json!({"podSelector": {"matchLabels": {"tier": tier(rng)}}}),
            60..80 => json!({"namespaceSelector": by_name}),
            80..90 => json!({"namespaceSelector": {"matchLabels": {"team": team(other)}}}),
            90..95 => json!({"namespaceSelector": {"matchLabels": {"stage": rng.choice(&STAGES)}}}),
            _ => json!({"namespaceSelector": by_name, "podSelector": {"matchLabels": {"tier": tier(rng)}}}),
        }
    }

    /// Another app of the namespace; some references lead nowhere, as they do in life.
    fn neighbour(&self, app: &App, rng: &mut Rng) -> String {
        if rng.u8(0..100) == 0 {
            return "gone".to_owned();
        }
        let fellows = self.fellows.get(app.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        rng.choice(fellows).map_or_else(|| app.name.clone(), |other| other.name.clone())
    }
}

/// A policy of a namespace.
pub fn document(namespace: &str, name: &str, spec: &Value) -> Document {
    Document(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }))
}

/// Every third namespace is closed both ways, the others on the way in.
fn denial(namespace: usize) -> Document {
    let spec = if namespace.is_multiple_of(3) {
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [name_resolution()]})
    } else {
        json!({"podSelector": {}, "policyTypes": ["Ingress"]})
    };
    document(&namespace_name(namespace), "default-deny", &spec)
}

/// Mostly one app, now and then a tier of the namespace or all of it.
fn subject(app: &App, rng: &mut Rng) -> Value {
    match rng.u8(0..100) {
        0..80 => json!({"matchLabels": {"app": app.name}}),
        80..90 => json!({"matchLabels": {"tier": app.tier}}),
        _ => json!({}),
    }
}

fn ports(app: &App, rng: &mut Rng) -> Value {
    match rng.u8(0..100) {
        0..60 => json!([{"protocol": "TCP", "port": app.port}]),
        60..75 => json!([{"port": if app.stateful { "sql" } else { "http" }}]),
        75..80 => json!([{"port": 8000, "endPort": 8000 + 10 * rng.u16(1..20)}]),
        80..83 => json!([{"protocol": "UDP", "port": rng.u16(5000..5020)}]),
        _ => json!([]),
    }
}

fn outward(app: &App, rng: &mut Rng) -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": app.name}},
        "policyTypes": ["Egress"],
        "egress": [name_resolution(), {"to": [block(rng)], "ports": [{"port": 443}]}],
    })
}

fn name_resolution() -> Value {
    json!({
        "to": [{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"app": "api-1"}},
        }],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    })
}

/// Everything but what is private, or some provider's addresses but for a part of them.
fn block(rng: &mut Rng) -> Value {
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
    match rng.u8(0..10) {
        0..3 => json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": private}}),
        3 => json!({"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}),
        _ => {
            let (second, third) = (rng.u8(..), 16 * rng.u8(0..16));
            let except = format!("52.{second}.{}.0/24", third + rng.u8(0..16));
            json!({"ipBlock": {"cidr": format!("52.{second}.{third}.0/20"), "except": [except]}})
        }
    }
}

fn tier(rng: &mut Rng) -> &'static str {
    rng.choice(TIERS).unwrap_or("web")
}
