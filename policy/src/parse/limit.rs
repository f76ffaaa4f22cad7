//! Lives: host.
//! Called by: `parse`, for documents of the kind RateLimit.
//! May touch: the list of faults.
//! Never: leaves a default to the reader of the model.

use std::collections::BTreeSet;

use super::{
    faults::Faults,
    fields::{Field, Fields},
    policy::{numbered_ports, word},
    scalars,
    selector::{label_key, selector},
};
use weir_common::addr::Protocol;

use crate::model::{Client, Mode, PortMatch, Prefix, Rate, RateLimit, Rates, SynProtection};

const KINDS: [&str; 3] = ["packets", "bytes", "connections"];

/// The spec of a rate limit.
pub fn rate_limit(field: &Field<'_>, faults: &mut Faults) -> Option<RateLimit> {
    let fields = field.fields(
        faults,
        &[
            "interfaces",
            "workloadSelector",
            "addresses",
            "ports",
            "client",
            "packets",
            "bytes",
            "connections",
            "aggregate",
            "synProtection",
            "synThreshold",
            "mode",
        ],
    )?;
    let workload_selector = match fields.get("workloadSelector") {
        Some(field) => Some(selector(&field, faults)?),
        None => None,
    };
    if !KINDS.iter().chain(&["aggregate", "synProtection"]).any(|kind| fields.get(kind).is_some()) {
        let remedy = "add packets, bytes or connections with perSecond, for each client or under aggregate";
        field.fault(faults, "a rate limit that limits nothing", remedy);
    }
    let ports = numbered_ports(&fields, "rate limits", faults);
    let mode = word(&fields, "mode", Mode::OF_LIMITS, Mode::Enforce, faults);
    let (syn_protection, syn_threshold) = syn(&fields, &ports, mode, faults);
    Some(RateLimit {
        interfaces: interfaces(&fields, faults),
        workload_selector,
        addresses: addresses(&fields, faults),
        ports,
        client: client(&fields, faults),
        rates: rates(&fields, faults),
        aggregate: aggregate(&fields, faults),
        syn_protection,
        syn_threshold,
        mode,
    })
}

/// New connections a second above which `auto` acts, unless it is written: before it does, no more forged openings than that are in a
/// listener's queue, a quarter of what Linux has room for by default (`net.core.somaxconn`).
const SYN_THRESHOLD: u64 = 1000;
/// A node does not take more.
const MOST_SYNS: u64 = 100_000_000;

/// When connections are opened by SYN cookies, and the threshold.
fn syn(fields: &Fields<'_>, ports: &[PortMatch], mode: Mode, faults: &mut Faults) -> (SynProtection, Option<u64>) {
    let protection = word(fields, "synProtection", SynProtection::WORDS, SynProtection::Off, faults);
    if let Some(field) = fields.get("synProtection").filter(|_| !protection.is_off()) {
        if !ports.is_empty() && ports.iter().all(|port| port.protocol != Protocol::TCP) {
            field.fault(faults, "no TCP among the ports", "add a TCP port, or remove synProtection");
        }
        if mode == Mode::Audit {
            let remedy = "remove synProtection, or mode: audit; a limit of its own may protect the same destinations";
            field.fault(faults, "it answers SYNs, and audit only watches", remedy);
        }
    }
    let written = fields.get("synThreshold");
    let threshold = written.as_ref().and_then(|field| field.integer(faults, 1, MOST_SYNS));
    match (protection, written) {
        (SynProtection::Auto, _) => (protection, Some(threshold.unwrap_or(SYN_THRESHOLD))),
        (SynProtection::Always | SynProtection::Off, Some(field)) => {
            field.fault(faults, "a threshold that nothing asks for", "write synProtection: auto, or remove it");
            (protection, None)
        }
        (SynProtection::Always | SynProtection::Off, None) => (protection, None),
    }
}

/// Linux: fewer than 16 bytes.
const INTERFACE_NAME: usize = 15;

/// Names or patterns of interfaces.
fn interfaces(fields: &Fields<'_>, faults: &mut Faults) -> BTreeSet<String> {
    let mut interfaces = BTreeSet::new();
    for item in items(fields, "interfaces", "name interfaces that the agent manages, or remove the line", faults) {
        let Some(text) = item.text(faults) else { continue };
        let odd = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '[' | ']');
        if text.is_empty() || text.len() > INTERFACE_NAME || text.contains(odd) {
            let remedy =
                "write the name of an interface that the agent manages, such as eth0, or a pattern, such as bond*";
            item.fault(faults, "not the name of an interface, nor a pattern with * and ?", remedy);
        } else if !interfaces.insert(text.to_owned()) {
            item.fault(faults, "listed twice", "remove one of the two");
        }
    }
    interfaces
}

/// Destination addresses.
fn addresses(fields: &Fields<'_>, faults: &mut Faults) -> BTreeSet<Prefix> {
    let mut addresses = BTreeSet::new();
    for item in items(fields, "addresses", "list addresses or prefixes, or remove the line", faults) {
        let Some(prefix) = scalars::prefix(&item, faults, true) else { continue };
        if !addresses.insert(prefix) {
            item.fault(faults, "listed twice", "remove one of the two");
        }
    }
    addresses
}

/// The items of a list that has some, where it is written at all: an empty one reads like "none", and would be "all".
fn items<'n>(fields: &Fields<'n>, name: &str, remedy: &str, faults: &mut Faults) -> Vec<Field<'n>> {
    let Some(list) = fields.get(name) else { return Vec::new() };
    if list.item_count() == Some(0) {
        list.fault(faults, "an empty list", remedy);
    }
    list.list(faults)
}

fn client(fields: &Fields<'_>, faults: &mut Faults) -> Client {
    let absent = Client::default();
    let known = ["prefixLengthIPv4", "prefixLengthIPv6", "workloadLabels"];
    let Some(client) = fields.get("client").and_then(|field| field.fields(faults, &known)) else {
        return absent;
    };
    let mut bits = |name, most: u8, absent| {
        let number = client.get(name).and_then(|field| field.integer(faults, 0, most.into()));
        number.and_then(|number| u8::try_from(number).ok()).unwrap_or(absent)
    };
    let (prefix_v4, prefix_v6) =
        (bits("prefixLengthIPv4", 32, absent.prefix_v4), bits("prefixLengthIPv6", 128, absent.prefix_v6));
    let mut labels = BTreeSet::new();
    let remedy = "list the labels whose values together name a client, such as [app], or remove the line";
    for item in items(&client, "workloadLabels", remedy, faults) {
        let Some(key) = label_key(&item, faults) else { continue };
        if !labels.insert(key) {
            item.fault(faults, "listed twice", "remove one of the two");
        }
    }
    Client { prefix_v4, prefix_v6, labels }
}

/// Bytes of the largest IP packet: a smaller burst by default would refuse it whatever the rate.
const LARGEST_PACKET: u64 = 65_535;
/// Highest rate and burst.
const MOST: u64 = 1 << 63;
/// A burst may be worth an hour of the rate, which is what the kernel's arithmetic keeps.
const MAX_BURST_SECONDS: u64 = 3600;

fn rates(fields: &Fields<'_>, faults: &mut Faults) -> Rates {
    Rates {
        packets: rate(fields, "packets", 1, faults),
        bytes: rate(fields, "bytes", LARGEST_PACKET, faults),
        connections: rate(fields, "connections", 1, faults),
    }
}

fn aggregate(fields: &Fields<'_>, faults: &mut Faults) -> Option<Rates> {
    let field = fields.get("aggregate")?;
    let fields = field.fields(faults, &KINDS)?;
    if field.entry_count() == 0 {
        field.fault(faults, "an aggregate that limits nothing", "add packets, bytes or connections with perSecond");
    }
    Some(rates(&fields, faults))
}

/// A rate; the burst is a tenth of a second's worth unless given, and at least `least`. A rate of 0 lets nothing pass.
fn rate(fields: &Fields<'_>, name: &str, least: u64, faults: &mut Faults) -> Option<Rate> {
    let fields = fields.get(name)?.fields(faults, &["perSecond", "burst"])?;
    let per_second = fields.require(faults, "perSecond", "write how many units a second may pass");
    let per_second = per_second.and_then(|field| field.integer(faults, 0, MOST))?;
    if per_second == 0 {
        let burst = fields.get("burst").and_then(|field| Some((field.integer(faults, 0, MOST)?, field)));
        if let Some((_, field)) = burst.filter(|(burst, _)| *burst != 0) {
            field.fault(
                faults,
                "a burst of a rate of 0",
                "remove burst: perSecond 0 lets nothing pass, or raise perSecond",
            );
        }
        return Some(Rate { per_second, burst: 0 });
    }
    let most = per_second.saturating_mul(MAX_BURST_SECONDS).max(least).min(MOST);
    let burst = match fields.get("burst") {
        Some(field) => field.integer(faults, 1, most)?,
        None => (per_second / 10).max(least),
    };
    Some(Rate { per_second, burst })
}
