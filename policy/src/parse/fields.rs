//! Lives: host.
//! Called by: the parsers of the kinds, for every value they read.
//! May touch: the list of faults.
//! Never: stops at a fault; a reader that cannot give a value notes why and the others go on.

use super::{
    faults::{Faults, join, suggest},
    surprises::other_type,
    yaml::{Key, Node, Value},
};

/// A value and the path that leads to it.
#[derive(Clone)]
pub struct Field<'n> {
    pub node: &'n Node,
    pub path: String,
}

/// The entries of a map, each read by name.
pub struct Fields<'n> {
    map: Field<'n>,
    entries: &'n [(Key, Node)],
}

impl<'n> Field<'n> {
    pub fn fault(&self, faults: &mut Faults, problem: impl Into<String>, remedy: impl Into<String>) {
        let value = match &self.node.value {
            Value::Scalar { text, .. } => text.as_str(),
            Value::List(_) | Value::Map(_) => "",
        };
        faults.add(self.node.place, &self.path, value, problem, remedy);
    }

    /// The text, if it is one and no number, truth value or nothing at all.
    pub fn text(&self, faults: &mut Faults) -> Option<&'n str> {
        match &self.node.value {
            Value::List(_) | Value::Map(_) => self.wrong_type(faults, "a text"),
            Value::Scalar { .. } if self.node.is_null() => self.no_value(faults),
            Value::Scalar { text, plain: true } if other_type(text) => {
                self.fault(
                    faults,
                    "YAML reads this as a number or truth value, not as a text",
                    format!("quote it: \"{text}\""),
                );
                None
            }
            Value::Scalar { text, plain } => {
                if *plain && matches!(text.as_str(), "y" | "Y" | "n" | "N") {
                    let text =
                        format!("{text} without quotes is a truth value to older readers of YAML; write \"{text}\"");
                    faults.remark(&self.path, text);
                }
                Some(text)
            }
        }
    }

    /// A whole number between `least` and `most`.
    pub fn integer(&self, faults: &mut Faults, least: u64, most: u64) -> Option<u64> {
        let remedy = || format!("write a whole number from {least} to {most}");
        let Value::Scalar { text, plain } = &self.node.value else { return self.wrong_type(faults, "a whole number") };
        if self.node.is_null() {
            return self.no_value(faults);
        }
        if !plain {
            self.fault(faults, "a text where a whole number belongs", "remove the quotes");
            return None;
        }
        let decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        match text.parse::<u64>() {
            Ok(number) if decimal && (least..=most).contains(&number) => return Some(number),
            Ok(_) | Err(_) if decimal => self.fault(faults, "out of range", remedy()),
            Ok(_) | Err(_) => self.fault(faults, "not a whole number in plain decimal digits", remedy()),
        }
        None
    }

    /// True or false.
    pub fn truth(&self, faults: &mut Faults) -> Option<bool> {
        let found = match &self.node.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
        };
        if found.is_none() {
            self.fault(faults, "not a truth value", "write true or false, without quotes");
        }
        found
    }

    /// One of some words.
    pub fn word<T: Copy>(&self, faults: &mut Faults, words: &[(&'static str, T)]) -> Option<T> {
        let is = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        // Where only words are asked for, `off` is one, whatever else it is to readers of YAML.
        if let Value::Scalar { text, .. } = &self.node.value
            && let Some(found) = is(text)
        {
            return Some(found);
        }
        let text = self.text(faults)?;
        let found = is(text);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(faults, "not a word that is known here", suggest(text, &names));
        }
        found
    }

    /// The items of a list; none, with a fault, if it is not one.
    pub fn list(&self, faults: &mut Faults) -> Vec<Field<'n>> {
        if self.node.is_null() {
            return self.no_value(faults).unwrap_or_default();
        }
        let Value::List(items) = &self.node.value else { return self.wrong_type(faults, "a list").unwrap_or_default() };
        items.iter().enumerate().map(|(n, node)| Field { node, path: format!("{}[{n}]", self.path) }).collect()
    }

    /// Every entry of a map whose keys are the user's own.
    pub fn entries(&self, faults: &mut Faults) -> Vec<(&'n Key, Field<'n>)> {
        if self.node.is_null() {
            return self.no_value(faults).unwrap_or_default();
        }
        let Value::Map(entries) = &self.node.value else { return self.wrong_type(faults, "a map").unwrap_or_default() };
        let entry = |(key, node): &'n (Key, Node)| (key, Field { node, path: join(&self.path, &key.text) });
        entries.iter().map(entry).collect()
    }

    /// The entries of a map whose keys are `allowed`; notes every other one.
    pub fn fields(&self, faults: &mut Faults, allowed: &[&'static str]) -> Option<Fields<'n>> {
        if self.node.is_null() {
            return self.no_value(faults);
        }
        let Value::Map(entries) = &self.node.value else { return self.wrong_type(faults, "a map") };
        for (key, _) in entries.iter().filter(|(key, _)| !allowed.contains(&key.text.as_str())) {
            faults.add(key.place, &join(&self.path, &key.text), "", "unknown field", suggest(&key.text, allowed));
        }
        Some(Fields { map: self.clone(), entries })
    }

    /// The entries of a map of which only some are looked at.
    pub fn lenient(&self, faults: &mut Faults) -> Option<Fields<'n>> {
        match &self.node.value {
            Value::Map(entries) => Some(Fields { map: self.clone(), entries }),
            Value::Scalar { .. } | Value::List(_) => self.wrong_type(faults, "a map"),
        }
    }

    /// One entry of a map, whatever else stands there.
    pub fn entry(&self, name: &str) -> Option<Field<'n>> {
        let Value::Map(entries) = &self.node.value else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.text == name)?;
        Some(Field { node, path: join(&self.path, name) })
    }

    /// The text of a single value, whatever its type.
    pub fn word_as_written(&self) -> Option<&'n str> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// How many items a list has; `None` if it is none.
    pub fn item_count(&self) -> Option<usize> {
        match &self.node.value {
            Value::List(items) => Some(items.len()),
            Value::Scalar { .. } | Value::Map(_) => None,
        }
    }

    /// How many entries a map has.
    pub fn entry_count(&self) -> usize {
        match &self.node.value {
            Value::Map(entries) => entries.len(),
            Value::Scalar { .. } | Value::List(_) => 0,
        }
    }

    fn wrong_type<T>(&self, faults: &mut Faults, wanted: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        self.fault(faults, format!("{found} where {wanted} belongs"), format!("write {wanted} here"));
        None
    }

    fn no_value<T>(&self, faults: &mut Faults) -> Option<T> {
        self.fault(faults, "has no value", "write a value, or remove the line");
        None
    }
}

impl<'n> Fields<'n> {
    /// The value of a key, if it is there.
    pub fn get(&self, name: &str) -> Option<Field<'n>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        Some(Field { node, path: join(&self.map.path, name) })
    }

    /// The value of a key that must be there.
    pub fn require(&self, faults: &mut Faults, name: &str, remedy: &str) -> Option<Field<'n>> {
        let found = self.get(name);
        if found.is_none() {
            faults.add(self.map.node.place, &join(&self.map.path, name), "", "missing", remedy);
        }
        found
    }
}
