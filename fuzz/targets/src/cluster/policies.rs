//! Lives: fuzz targets.
//! Called by: `cluster`.
//! May touch: the bytes it is handed.
//! Never: names a field that its API version does not have.

use arbitrary::{Result, Unstructured};
use serde_json::{Value, json};

use super::{NAMESPACES, PORTS, few, native, selector, some};

/// A policy of some kind.
pub fn any(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    match bytes.int_in_range(0..=5)? {
        0..=2 => network_policy(number, bytes),
        3 => cluster_policy(number, bytes),
        4 => admin_policy(number, bytes),
        _ => native::policy(number, bytes),
    }
}

fn network_policy(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let mut spec = serde_json::Map::new();
    spec.insert("podSelector".to_owned(), selector(bytes)?);
    if let Some(types) =
        bytes.choose(&[None, Some(vec!["Ingress"]), Some(vec!["Egress"]), Some(vec!["Ingress", "Egress"])])?
    {
        spec.insert("policyTypes".to_owned(), json!(types));
    }
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        if bytes.arbitrary()? {
            let rules = some(bytes, 3, |bytes| {
                Ok(json!({side: some(bytes, 2, network_peer)?, "ports": some(bytes, 2, network_port)?}))
            })?;
            spec.insert(direction.to_owned(), json!(rules));
        }
    }
    Ok(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("n{number}"), "namespace": bytes.choose(&NAMESPACES)?}, "spec": spec}))
}

fn network_peer(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.int_in_range(0..=3)? {
        0 => json!({"podSelector": selector(bytes)?}),
        1 => json!({"namespaceSelector": selector(bytes)?}),
        2 => json!({"namespaceSelector": selector(bytes)?, "podSelector": selector(bytes)?}),
        _ => json!({"ipBlock": block(bytes)?}),
    })
}

/// Blocks inside blocks, and holes inside them.
pub fn block(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let v4 = [
        ("0.0.0.0/0", 0),
        ("10.0.0.0/8", 8),
        ("10.0.0.0/24", 24),
        ("10.0.0.0/29", 29),
        ("10.0.0.4/30", 30),
        ("10.0.0.4/32", 32),
    ];
    let v6 = [("::/0", 0), ("fd00::/8", 8), ("fd00::/125", 125), ("fd00::4/127", 127), ("2001:db8::1/128", 128)];
    let family: &[(&str, u8)] = if bytes.ratio(1, 4)? { &v6 } else { &v4 };
    let (cidr, bits) = *bytes.choose(family)?;
    // 2001:db8::1 is in ::/0 only; the others are each in the one before.
    let inside: Vec<_> =
        family.iter().filter(|(text, inner)| *inner > bits && (bits == 0 || !text.starts_with('2'))).collect();
    let except = if inside.is_empty() { Vec::new() } else { some(bytes, 2, |bytes| Ok(bytes.choose(&inside)?.0))? };
    Ok(json!({"cidr": cidr, "except": except}))
}

fn network_port(bytes: &mut Unstructured<'_>) -> Result<Value> {
    let protocol = bytes.choose(&["TCP", "UDP", "SCTP"])?;
    Ok(match bytes.int_in_range(0..=3)? {
        0 => json!({"protocol": protocol}),
        1 => json!({"protocol": protocol, "port": bytes.choose(&PORTS)?}),
        2 => {
            let (first, last) = ends(bytes)?;
            json!({"protocol": protocol, "port": first, "endPort": last})
        }
        _ => json!({"protocol": protocol, "port": bytes.choose(&["web", "dns", "none"])?}),
    })
}

/// Two ports, the second above the first.
pub fn ends(bytes: &mut Unstructured<'_>) -> Result<(u16, u16)> {
    let (one, other) = (*bytes.choose(&PORTS)?, *bytes.choose(&PORTS)?);
    Ok(match one.cmp(&other) {
        std::cmp::Ordering::Less => (one, other),
        std::cmp::Ordering::Greater => (other, one),
        std::cmp::Ordering::Equal => (1, one.max(2)),
    })
}

fn cluster_policy(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let rule = |bytes: &mut Unstructured<'_>, egress: bool| {
        let protocols = few(bytes, 2, |bytes| {
            let protocol = *bytes.choose(&["tcp", "udp", "sctp"])?;
            let (start, end) = ends(bytes)?;
            let by_number = json!({protocol: {"destinationPort": {"number": start}}});
            Ok(if bytes.arbitrary()? {
                by_number
            } else {
                json!({protocol: {"destinationPort": {"range": {"start": start, "end": end}}}})
            })
        })?;
        let (peers, numbers_only) = peers(bytes, egress)?;
        let mut rule = json!({"action": bytes.choose(&["Accept", "Deny", "Pass"])?, side(egress): peers});
        match bytes.int_in_range(0..=2)? {
            0 => rule["protocols"] = json!(protocols),
            1 if !numbers_only => rule["protocols"] = json!([{"destinationNamedPort": bytes.choose(&["web", "dns"])?}]),
            _ => {}
        }
        Ok(rule)
    };
    let tier = bytes.choose(&["Admin", "Baseline"])?;
    Ok(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("c{number}")},
        "spec": {"tier": tier, "priority": bytes.int_in_range(0..=2)?, "subject": subject(bytes)?,
            "ingress": some(bytes, 3, |bytes| rule(bytes, false))?, "egress": some(bytes, 3, |bytes| rule(bytes, true))?}}))
}

fn admin_policy(number: usize, bytes: &mut Unstructured<'_>) -> Result<Value> {
    let rule = |bytes: &mut Unstructured<'_>, egress: bool| {
        let protocol = *bytes.choose(&["TCP", "UDP", "SCTP"])?;
        let (start, end) = ends(bytes)?;
        let ports = match bytes.int_in_range(0..=1)? {
            0 => json!([{"portNumber": {"protocol": protocol, "port": start}}]),
            _ => json!([{"portRange": {"protocol": protocol, "start": start, "end": end}}]),
        };
        let (peers, _) = peers(bytes, egress)?;
        let mut rule = json!({"action": bytes.choose(&["Allow", "Deny", "Pass"])?, side(egress): peers});
        if bytes.arbitrary()? {
            rule["ports"] = ports;
        }
        Ok(rule)
    };
    Ok(json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": {"name": format!("m{number}")},
        "spec": {"priority": bytes.int_in_range(0..=2)?, "subject": subject(bytes)?,
            "ingress": some(bytes, 3, |bytes| rule(bytes, false))?, "egress": some(bytes, 3, |bytes| rule(bytes, true))?}}))
}

const fn side(egress: bool) -> &'static str {
    if egress { "to" } else { "from" }
}

fn subject(bytes: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match bytes.arbitrary()? {
        true => json!({"namespaces": selector(bytes)?}),
        false => json!({"pods": {"namespaceSelector": selector(bytes)?, "podSelector": selector(bytes)?}}),
    })
}

/// Peers, and whether one of them names no ports.
fn peers(bytes: &mut Unstructured<'_>, egress: bool) -> Result<(Vec<Value>, bool)> {
    let mut numbers_only = false;
    let peers = few(bytes, 2, |bytes| {
        let kind = bytes.int_in_range(0..=if egress { 3 } else { 1 })?;
        numbers_only |= kind > 1;
        Ok(match kind {
            0 => json!({"namespaces": selector(bytes)?}),
            1 => json!({"pods": {"namespaceSelector": selector(bytes)?, "podSelector": selector(bytes)?}}),
            2 => json!({"nodes": selector(bytes)?}),
            _ => {
                // The API takes no network twice.
                let mut networks = few(bytes, 2, |bytes| Ok(block(bytes)?["cidr"].clone()))?;
                networks.dedup();
                json!({"networks": networks})
            }
        })
    })?;
    Ok((peers, numbers_only))
}
