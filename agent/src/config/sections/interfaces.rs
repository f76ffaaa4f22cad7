//! Lives: weir-agent, configuration.
//! Called by: `sections`.
//! May touch: its list in the file and the flags.
//! Never: takes an entry that it understands half.

use crate::{
    config::{
        InterfaceOption,
        reader::{Reader, Section},
        tree::{Node, Value},
    },
    kernel::REFUSALS,
};

/// `interfaces`: names, or names with what is refused there.
pub fn interfaces(reader: &mut Reader, section: &Section<'_>) -> Option<Vec<InterfaceOption>> {
    let node = section.get("interfaces")?;
    let Value::List(entries) = &node.value else {
        reader.fault("interfaces", Some(node), "must be a list", "write [eth0, ...]");
        return None;
    };
    let read = |(index, entry)| one(reader, &format!("interfaces[{index}]"), entry);
    Some(entries.iter().enumerate().filter_map(read).collect())
}

fn one(reader: &mut Reader, path: &str, entry: &Node) -> Option<InterfaceOption> {
    match &entry.value {
        Value::Scalar(name) if !name.is_empty() => Some(InterfaceOption { name: name.clone(), refuses: 0 }),
        Value::Map(_) => with_refusals(reader, path, entry),
        Value::Scalar(_) | Value::Null | Value::List(_) => {
            reader.fault(path, Some(entry), "is not usable", "write eth0, or {name: eth0, refuse: [martian]}");
            None
        }
    }
}

fn with_refusals(reader: &mut Reader, path: &str, entry: &Node) -> Option<InterfaceOption> {
    let section = reader.section(path, Some(entry));
    let name = reader.text(&section, "name");
    if section.get("name").is_none() {
        reader.fault(&section.field("name"), Some(entry), "is missing", "name the interface, or write a pattern");
    }
    let words: Vec<String> = reader.list(&section, "refuse", "martian").unwrap_or_default();
    let mut refuses = 0;
    for word in words {
        match REFUSALS.iter().find(|(known, _)| *known == word) {
            Some((_, bit)) => refuses |= bit,
            None => {
                let known: Vec<&str> = REFUSALS.iter().map(|(known, _)| *known).collect();
                let remedy = format!("choose from {}", known.join(", "));
                reader.fault(&section.field("refuse"), section.get("refuse"), "names what cannot be refused", &remedy);
            }
        }
    }
    Some(InterfaceOption { name: name?, refuses })
}
