//! Lives: fuzz targets.
//! Called by: `policies`.
//! May touch: the bytes it is handed.
//! Never: writes what the native kind's documentation does not allow.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

use super::{
    NAMESPACES, PORTS, few,
    policies::{block, ends},
    selector, some,
};

const TYPES: [&[&str]; 3] = [&["Ingress"], &["Egress"], &["Ingress", "Egress"]];

/// A policy of our own kind, of the namespaces' tier.
pub fn policy(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let types = *bytes.choose(&TYPES)?;
    let mut spec = json!({
        "workloadSelector": selector(bytes)?,
        "priority": bytes.int_in_range(0..=2)?,
        "policyTypes": types,
        "mode": bytes.choose(&["enforce", "enforce", "audit"])?,
        "defaultAction": bytes.choose(&["allow", "deny"])?,
    });
    for (kind, direction, side) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        if types.contains(&kind) {
            spec[direction] = json!(some(bytes, 3, |bytes| rule(bytes, side))?);
        }
    }
    Ok(json!({"apiVersion": "weir.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": format!("w{number}"), "namespace": bytes.choose(&NAMESPACES)?}, "spec": spec}))
}

fn rule(bytes: &mut Unstructured<'_>, side: &str) -> Result<Value> {
    let mut rule = json!({"action": bytes.choose(&["allow", "deny"])?});
    if bytes.arbitrary()? {
        rule[side] = json!(few(bytes, 2, peer)?);
    }
    if bytes.arbitrary()? {
        rule["ports"] = json!(few(bytes, 2, port)?);
    }
    Ok(rule)
}

fn peer(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=4)? {
        0 => json!({"workloadSelector": selector(bytes)?}),
        1 => json!({"namespaceSelector": selector(bytes)?}),
        2 => json!({"workloadSelector": selector(bytes)?, "namespaceSelector": selector(bytes)?}),
        3 => json!({"entity": bytes.choose(&["world", "host", "loopback"])?}),
        _ => json!({"ipBlock": block(bytes)?}),
    })
}

fn port(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=3)? {
        0 => json!({"protocol": bytes.choose(&["TCP", "UDP", "ICMP"])?}),
        1 => json!({"protocol": 47}),
        2 => json!({"protocol": "TCP", "port": bytes.choose(&PORTS)?}),
        _ => {
            let (first, last) = ends(bytes)?;
            json!({"protocol": bytes.choose(&["TCP", "UDP"])?, "port": first, "endPort": last})
        }
    })
}
