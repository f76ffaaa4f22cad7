//! Lives: host.
//! Called by: `parse`, for documents of the kinds Workload and AddressSet.
//! May touch: the list of faults.
//! Never: leaves a default to the reader of the model.

use std::collections::BTreeSet;

use weir_common::addr::Protocol;

use super::{
    faults::Faults,
    fields::{Field, Fields},
    policy::{named_ports, numbered_ports},
    scalars,
};
use crate::model::{AddressSet, PortMatch, SetAction, Workload};

/// The spec of a workload.
pub fn workload(field: &Field<'_>, faults: &mut Faults) -> Option<Workload> {
    let fields = field.fields(faults, &["cgroup", "interface", "addresses", "ports"])?;
    let cgroup = fields.get("cgroup").and_then(|path| cgroup(&path, faults));
    let interface = fields.get("interface").and_then(|name| interface(&name, &fields, faults));
    let mut addresses = Vec::new();
    for item in fields.get("addresses").map(|list| list.list(faults)).unwrap_or_default() {
        let Some(address) = scalars::address(&item, faults) else { continue };
        if addresses.contains(&address) {
            item.fault(faults, "listed twice", "remove one of the two");
        }
        addresses.push(address);
    }
    Some(Workload { cgroup, interface, addresses, ports: named_ports(&fields, faults), ..Workload::default() })
}

fn cgroup(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    let remedy = "write a directory below the agent's cgroupRoot, such as shop/web";
    if text.starts_with('/') {
        field.fault(faults, "an absolute path", remedy);
    } else if text.contains('\0') || text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        field.fault(faults, "not a plain relative path", remedy);
    } else {
        return Some(text.to_owned());
    }
    None
}

/// Linux: fewer than 16 bytes, no slash, no blank, not `.` or `..` (dev_valid_name).
const INTERFACE_NAME: usize = 15;

fn interface(field: &Field<'_>, fields: &Fields<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text(faults)?;
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if matches!(text, "" | "." | "..") || text.len() > INTERFACE_NAME || text.contains(odd) {
        let remedy = "write the name of the node's end of the workload's interface, such as veth1a2b3c";
        field.fault(faults, "not the name of an interface", remedy);
        return None;
    }
    if fields.get("cgroup").is_none() {
        field.fault(faults, "an interface of a workload that runs elsewhere", "add cgroup, or remove interface");
        return None;
    }
    if fields.get("addresses").is_none() {
        let remedy = "list the workload's addresses: what comes from its interface is checked against them";
        field.fault(faults, "an interface without addresses", remedy);
        return None;
    }
    Some(text.to_owned())
}

/// The spec of an address set.
pub fn address_set(field: &Field<'_>, faults: &mut Faults) -> Option<AddressSet> {
    let fields = field.fields(faults, &["action", "ports", "addresses"])?;
    let action = fields.require(faults, "action", "write action: block, or allow");
    let action = action.and_then(|action| action.word(faults, &SetAction::WORDS));
    let ports = set_ports(&fields, faults);
    let items = fields.get("addresses").map(|list| list.list(faults)).unwrap_or_default();
    let mut addresses = BTreeSet::new();
    for item in items {
        let Some(prefix) = scalars::prefix(&item, faults, true) else { continue };
        if !addresses.insert(prefix) {
            item.fault(faults, "listed twice", "remove one of the two");
        }
    }
    Some(AddressSet { action: action?, ports, addresses })
}

/// The ports a set is asked about: XDP looks for those of TCP and UDP only.
fn set_ports(fields: &Fields<'_>, faults: &mut Faults) -> Vec<PortMatch> {
    let ports = numbered_ports(fields, "address sets", faults);
    if let Some(field) = fields.get("ports")
        && ports.iter().any(|entry| !matches!(entry.protocol, Protocol::TCP | Protocol::UDP))
    {
        let remedy = "name ports of TCP and UDP, or leave ports out: the set is then asked about every packet";
        field.fault(faults, "address sets know TCP and UDP only", remedy);
    }
    ports
}
