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

/// A policy of our own kind, of any tier.
pub fn policy(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let tier = *bytes.choose(&["namespace", "namespace", "admin", "baseline"])?;
    let types = if tier == "namespace" { *bytes.choose(&TYPES)? } else { TYPES[2] };
    let mut spec = json!({
        "tier": tier,
        "workloadSelector": selector(bytes)?,
        "priority": bytes.int_in_range(0..=2)?,
        "mode": bytes.choose(&["enforce", "enforce", "audit", "staged"])?,
    });
    if tier == "namespace" {
        spec["policyTypes"] = json!(types);
        spec["defaultAction"] = json!(bytes.choose(&["allow", "deny"])?);
    } else if bytes.arbitrary()? {
        spec["namespaceSelector"] = selector(bytes)?;
    }
    expiry(&mut spec, bytes)?;
    for (kind, direction, side) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        if types.contains(&kind) {
            spec[direction] = json!(some(bytes, 3, |bytes| rule(bytes, side, tier))?);
        }
    }
    Ok(json!({"apiVersion": "weir.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": format!("w{number}"), "namespace": bytes.choose(&NAMESPACES)?}, "spec": spec}))
}

/// Now and then something expires, before the moment that is asked about or after it.
fn expiry(of: &mut Value, bytes: &mut Unstructured<'_>) -> Result<()> {
    if bytes.ratio(1, 5)? {
        of["expiresAt"] = json!(bytes.choose(&["2026-01-01T00:00:00Z", "2030-01-01T00:00:00+02:00"])?);
    }
    Ok(())
}

fn rule(bytes: &mut Unstructured<'_>, side: &str, tier: &str) -> Result<Value> {
    let actions: &[&str] = if tier == "namespace" { &["allow", "deny"] } else { &["allow", "deny", "pass"] };
    let mut rule = json!({"action": bytes.choose(actions)?, "log": bytes.arbitrary::<bool>()?});
    expiry(&mut rule, bytes)?;
    if bytes.arbitrary()? {
        rule[side] = json!(few(bytes, 2, peer)?);
    }
    if bytes.arbitrary()? {
        rule["ports"] = json!(few(bytes, 2, port)?);
    }
    Ok(rule)
}

fn peer(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=5)? {
        0 => json!({"workloadSelector": selector(bytes)?}),
        1 => json!({"namespaceSelector": selector(bytes)?}),
        2 => json!({"workloadSelector": selector(bytes)?, "namespaceSelector": selector(bytes)?}),
        3 => json!({"entity": bytes.choose(&["world", "host", "loopback", "node", "unknown"])?}),
        4 => {
            json!({"service": {"name": bytes.choose(&["s0", "s1", "gone"])?, "namespace": bytes.choose(&NAMESPACES)?}})
        }
        _ => json!({"ipBlock": block(bytes)?}),
    })
}

fn port(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=5)? {
        0 => json!({"protocol": bytes.choose(&["TCP", "UDP", "ICMP"])?}),
        1 => json!({"protocol": 47}),
        4 => json!({"protocol": "ICMP", "type": bytes.choose(&[0, 8])?}),
        5 => json!({"protocol": bytes.choose(&["TCP", "UDP", "SCTP"])?, "port": bytes.choose(&["web", "dns"])?}),
        2 => json!({"protocol": "TCP", "port": bytes.choose(&PORTS)?}),
        _ => {
            let (first, last) = ends(bytes)?;
            json!({"protocol": bytes.choose(&["TCP", "UDP", "SCTP"])?, "port": first, "endPort": last})
        }
    })
}
