//! Lives: host.
//! Called by: the parsers of the kinds.
//! May touch: the list of faults.
//! Never: repairs a value; where the repair is plain, the remedy spells it.

use std::net::IpAddr;

use weir_common::addr::{Addr, Protocol};

use super::{
    faults::Faults,
    fields::{Field, Fields},
};
use crate::model::{PROTOCOLS, Prefix, Timestamp, V4_BITS, addr, ip};

/// RFC 1123 label: the longest name part of the domain name system.
const LABEL: usize = 63;
/// RFC 1123 subdomain: labels joined by dots.
const SUBDOMAIN: usize = 253;

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|byte| alphanumeric(*byte)));
    ends && text.len() <= LABEL && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN && text.split('.').all(is_label)
}

/// The name part of a label key, and a label value that is not empty.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ends && text.len() <= LABEL && bytes.iter().all(inner)
}

/// An RFC 1123 label.
pub fn label(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    if !is_label(text) {
        field.fault(
            faults,
            "not a name (RFC 1123 label)",
            "use at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends",
        );
        return None;
    }
    Some(text.to_owned())
}

/// An RFC 1123 subdomain.
pub fn subdomain(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    if !is_subdomain(text) {
        field.fault(
            faults,
            "not a name (RFC 1123 subdomain)",
            "use at most 253 lower-case letters, digits, hyphens and dots, with a letter or digit at both ends of each part",
        );
        return None;
    }
    Some(text.to_owned())
}

/// Whether the text is a label key: an optional DNS prefix with a slash, and a name.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// What to do about a key that is none.
pub const LABEL_KEY_REMEDY: &str = "use an optional DNS prefix and slash, then at most 63 letters, digits, \"-\", \"_\" or \".\", with a letter or digit at both ends";

/// A label value; may be empty.
pub fn label_value(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    if !text.is_empty() && !is_qualified(text) {
        field.fault(
            faults,
            "not a label value",
            "use at most 63 letters, digits, \"-\", \"_\" or \".\", with a letter or digit at both ends",
        );
        return None;
    }
    Some(text.to_owned())
}

/// One address.
pub fn address(field: &Field<'_>, faults: &mut Faults) -> Option<Addr> {
    let text = field.text(faults)?;
    match text.parse::<IpAddr>() {
        Ok(address) => not_mapped(field, address, faults).map(addr),
        Err(_) => {
            field.fault(faults, "not an IP address", "write an address such as 10.0.0.2 or \"fd00::2\"");
            None
        }
    }
}

/// A prefix such as 10.0.0.0/8; with `bare`, also a single address.
pub fn prefix(field: &Field<'_>, faults: &mut Faults, bare: bool) -> Option<Prefix> {
    let text = field.text(faults)?;
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(parsed) = address.parse::<IpAddr>() else {
        field.fault(faults, "not an address prefix", "write a prefix such as 10.0.0.0/8 or \"fd00::/8\"");
        return None;
    };
    let parsed = not_mapped(field, parsed, faults)?;
    let most: u8 = if parsed.is_ipv4() { 32 } else { 128 };
    let bits = match length {
        None if bare => most,
        None => {
            field.fault(
                faults,
                "an address where a prefix belongs",
                format!("write {text}/{most} for this one address"),
            );
            return None;
        }
        Some(length) => prefix_length(length, most).or_else(|| {
            field.fault(
                faults,
                "not a prefix length",
                format!("write a whole number from 0 to {most} after the slash"),
            );
            None
        })?,
    };
    let written = addr(parsed);
    let prefix = Prefix::new(written, bits + if parsed.is_ipv4() { V4_BITS } else { 0 });
    if prefix.addr != written {
        let remedy = format!("write {prefix}, or {}/{most} for this one address", ip(written));
        field.fault(faults, "the address has bits set past the prefix length", remedy);
        return None;
    }
    Some(prefix)
}

/// A prefix length, written as people write it: no sign, no leading zero.
pub fn prefix_length(text: &str, most: u8) -> Option<u8> {
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|bits| decimal && *bits <= most)
}

/// Refuses `::ffff:a.b.c.d`: whoever writes it means IPv4, and a prefix length would count other bits.
fn not_mapped(field: &Field<'_>, address: IpAddr, faults: &mut Faults) -> Option<IpAddr> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        field.fault(faults, "a v4-mapped IPv6 address", format!("write the IPv4 address: {v4}"));
        return None;
    }
    Some(address)
}

/// `expiresAt`, if it is there.
pub fn expiry(fields: &Fields<'_>, faults: &mut Faults) -> Option<Timestamp> {
    let field = fields.get("expiresAt")?;
    let time = field.text(faults)?.parse();
    if time.is_err() {
        field.fault(
            faults,
            "not a date and time with an offset (RFC 3339)",
            "write one such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00",
        );
    }
    time.ok()
}

/// A protocol by name or number.
pub fn protocol(field: &Field<'_>, faults: &mut Faults) -> Option<Protocol> {
    let super::yaml::Value::Scalar { text, plain: true } = &field.node.value else {
        return field.word(faults, &PROTOCOLS);
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = field.integer(faults, 0, 255)?;
        return u8::try_from(number).ok().map(Protocol);
    }
    field.word(faults, &PROTOCOLS)
}
