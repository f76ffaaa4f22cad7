//! Lives: weir-bench. The handful of policies that an administrator has for the whole cluster.
//! Called by: `policies`.
//! May touch: nothing.
//! Never: depends on the cluster's size: there are as many in a large cluster as in a small one.

use serde_json::{Value, json};

use super::Document;

/// Four of the admin tier and two of the baseline.
pub fn make() -> Vec<Document> {
    let all = json!({"namespaces": {}});
    let prod = json!({"namespaces": {"matchLabels": {"stage": "prod"}}});
    let not_prod = json!({"namespaces": {"matchLabels": {"stage": "dev"}}});
    let system = json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}});
    let dns = json!({"udp": {"destinationPort": {"number": 53}}});
    vec![
        policy(
            "monitoring",
            "Admin",
            10,
            &all,
            &json!({"ingress": [
                {"name": "scrape", "action": "Accept", "from": [system], "protocols": [{"destinationNamedPort": "metrics"}]},
            ]}),
        ),
        policy(
            "metadata-service",
            "Admin",
            20,
            &all,
            &json!({"egress": [
                {"name": "credentials", "action": "Deny", "to": [{"networks": ["169.254.169.254/32", "fd00:ec2::254/128"]}]},
                {"name": "dns", "action": "Accept", "to": [system], "protocols": [dns]},
            ]}),
        ),
        policy(
            "prod-from-dev",
            "Admin",
            30,
            &prod,
            &json!({"ingress": [
                {"name": "dev", "action": "Deny", "from": [not_prod]},
                {"name": "others", "action": "Pass", "from": [all]},
            ]}),
        ),
        policy(
            "node-ports",
            "Admin",
            40,
            &prod,
            &json!({"egress": [
                {"name": "nodes", "action": "Deny", "to": [{"nodes": {"matchLabels": {"pool": "worker"}}}],
                 "protocols": [{"tcp": {"destinationPort": {"range": {"start": 10250, "end": 10259}}}}]},
            ]}),
        ),
        policy(
            "databases",
            "Baseline",
            10,
            &json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "db"}}}}),
            &json!({"ingress": [
                {"action": "Accept", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "api"}}}}]},
                {"action": "Deny", "from": [all]},
            ]}),
        ),
        policy(
            "egress",
            "Baseline",
            20,
            &prod,
            &json!({"egress": [
                {"action": "Deny", "to": [{"networks": ["10.96.0.0/12"]}]},
            ]}),
        ),
    ]
}

fn policy(name: &str, tier: &str, priority: u16, subject: &Value, rules: &Value) -> Document {
    let mut spec = json!({"tier": tier, "priority": priority, "subject": subject});
    if let (Some(spec), Some(rules)) = (spec.as_object_mut(), rules.as_object()) {
        spec.extend(rules.clone());
    }
    Document(json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }))
}
