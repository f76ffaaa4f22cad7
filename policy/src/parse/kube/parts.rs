//! Lives: host.
//! Called by: the readers of Kubernetes' policies, for what they share.
//! May touch: the list of faults.
//! Never: accepts what the API server refuses.

use std::net::IpAddr;

use weir_common::addr::Protocol;

use super::super::{
    faults::Faults,
    fields::{Field, Fields},
    selector::selector,
    yaml::Value,
};
use crate::model::{PortMatch, Prefix, Selector, V4_BITS, addr};

/// The protocols whose ports Kubernetes knows; the words are case-sensitive.
pub const TRANSPORTS: [(&str, Protocol); 3] =
    [("TCP", Protocol::TCP), ("UDP", Protocol::UDP), ("SCTP", Protocol::SCTP)];

/// A selector that may be left out; `Some(None)` when it is, `None` when it is faulty.
pub fn optional(field: Option<Field<'_>>, faults: &mut Faults) -> Option<Option<Selector>> {
    field.map_or(Some(None), |field| selector(&field, faults).map(Some))
}

/// The items of a list that has `least` to `most` of them, if it is there.
pub fn bounded<'n>(field: Option<Field<'n>>, least: usize, most: usize, faults: &mut Faults) -> Vec<Field<'n>> {
    let Some(field) = field else { return Vec::new() };
    let items = field.list(faults);
    if items.len() < least {
        field.fault(faults, "an empty list", format!("list at least {least}, or leave the field out"));
    } else if items.len() > most {
        field.fault(faults, format!("{} items", items.len()), format!("list {most} at most, or use another policy"));
    }
    items
}

/// A priority, 0 to 1000.
pub fn priority(fields: &Fields<'_>, faults: &mut Faults) -> Option<u16> {
    let field = fields.require(faults, "priority", "write a whole number from 0 to 1000")?;
    field.integer(faults, 0, 1000).and_then(|number| u16::try_from(number).ok())
}

/// The name of a rule, at most 100 characters.
pub fn rule_name(fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let field = fields.get("name")?;
    let name = field.text(faults)?;
    if name.chars().count() > 100 {
        field.fault(faults, "longer than 100 characters", "shorten it");
    }
    (!name.is_empty()).then(|| name.to_owned())
}

/// A prefix as the API takes it: bits past its length may be set, and do not count.
pub fn cidr(field: &Field<'_>, faults: &mut Faults) -> Option<Prefix> {
    let text = field.text(faults)?;
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let decimal = length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let bits = length.parse::<u8>().ok().filter(|bits| decimal && *bits <= most)?;
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        (!mapped).then(|| Prefix::new(addr(address), bits + if address.is_ipv4() { V4_BITS } else { 0 }))
    });
    if parsed.is_none() {
        field.fault(faults, "not an address prefix", "write a prefix such as 10.0.0.0/8 or \"fd00::/8\"");
    }
    parsed
}

/// A port's number.
pub fn number(field: &Field<'_>, faults: &mut Faults) -> Option<u16> {
    field.integer(faults, 1, 65_535).and_then(|number| u16::try_from(number).ok())
}

/// A field that holds a number or a name, by how it is written.
pub fn is_number(field: &Field<'_>) -> bool {
    let Value::Scalar { text, plain: true } = &field.node.value else { return false };
    text.starts_with(|letter: char| letter.is_ascii_digit() || letter == '-' || letter == '+')
        && !text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// The name of a port (RFC 6335).
pub fn port_name(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let name = field.text(faults)?;
    if !is_port_name(name) {
        let remedy = "use at most 15 lower-case letters, digits and single hyphens, with at least one letter";
        field.fault(faults, "not the name of a port", remedy);
        return None;
    }
    Some(name.to_owned())
}

fn is_port_name(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    plain && letter && !hyphens && name.len() <= 15
}

/// A port's name as a cluster policy writes it: the API takes any text there, and one that no pod can name a port matches
/// nothing.
pub fn any_port_name(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let name = field.text(faults)?;
    if !is_port_name(name) {
        faults.remark(&field.path, format!("no pod can name a port {name:?}, so it matches nothing"));
    }
    Some(name.to_owned())
}

/// A range that has a start and a larger end (`equal`: or the same).
pub fn range(field: &Field<'_>, protocol: Protocol, equal: bool, faults: &mut Faults) -> Option<PortMatch> {
    let allowed: &[&str] = if equal { &["protocol", "start", "end"] } else { &["start", "end"] };
    let fields = field.fields(faults, allowed)?;
    let start = fields.require(faults, "start", "write the first port").and_then(|field| number(&field, faults));
    let end = fields.require(faults, "end", "write the last port").and_then(|field| number(&field, faults));
    let (start, end) = (start?, end?);
    if start > end || (start == end && !equal) {
        field.fault(faults, "the range's end is not above its start", "write a larger end");
        return None;
    }
    Some(PortMatch { protocol, ports: Some((start, end)) })
}

/// Exactly one of some fields, with its place among them.
pub fn one_of<'n>(
    field: &Field<'n>,
    names: &[&'static str],
    what: &str,
    faults: &mut Faults,
) -> Option<(usize, Field<'n>)> {
    let fields = field.fields(faults, names)?;
    let mut given = names.iter().enumerate().filter_map(|(place, name)| fields.get(name).map(|value| (place, value)));
    match (given.next(), given.next()) {
        (Some(only), None) => Some(only),
        // Of fields that are not known here, the fault is noted.
        (None, _) if field.entry_count() > 0 => None,
        (None, _) => {
            field.fault(faults, format!("{what} that says nothing"), format!("write one of {}", names.join(", ")));
            None
        }
        (Some(_), Some(_)) => {
            field.fault(faults, format!("{what} with several fields"), "make them separate list items");
            None
        }
    }
}
