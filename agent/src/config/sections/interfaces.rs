//! Lives: weir-agent, configuration.
//! Called by: `sections`.
//! May touch: its list in the file and the flags.
//! Never: takes an entry that it understands half.

use std::str::FromStr;

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
    let known: Vec<&str> = REFUSALS.iter().map(|(known, _)| *known).collect();
    let refused: Vec<Refusal> = reader.list(&section, "refuse", &known.join(" or ")).unwrap_or_default();
    Some(InterfaceOption { name: name?, refuses: refused.iter().fold(0, |all, Refusal(bit)| all | bit) })
}

/// What an interface may refuse, by its word.
struct Refusal(u32);

impl FromStr for Refusal {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        REFUSALS.iter().find(|(known, _)| *known == word).map(|(_, bit)| Self(*bit)).ok_or(())
    }
}
