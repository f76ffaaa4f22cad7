//! Lives: weir-agent, configuration.
//! Called by: the sections, each of which reads its own keys.
//! May touch: the tree of the file; the list of faults.
//! Never: stops at the first fault; knows what an option means.

use std::{path::PathBuf, str::FromStr};

use super::{
    Fault, options,
    tree::{Node, Value},
};

/// Collects faults while sections are read.
pub struct Reader {
    /// By the number that nodes carry; what has no place is a fault of the first.
    sources: Vec<String>,
    faults: Vec<Fault>,
}

/// One mapping of the file, or the place where it is absent.
#[derive(Clone)]
pub struct Section<'a> {
    path: String,
    entries: &'a [(Node, Node)],
}

impl Reader {
    pub fn new(sources: &[&str]) -> Self {
        Self { sources: sources.iter().map(|&source| source.to_owned()).collect(), faults: Vec::new() }
    }

    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Records a fault at `node`, or without a place.
    pub fn fault(&mut self, field: &str, node: Option<&Node>, problem: &str, remedy: &str) {
        let source = self.sources.get(node.map_or(0, |node| node.file));
        self.faults.push(Fault {
            source: source.cloned().unwrap_or_default(),
            line: node.map_or(0, |node| node.line),
            column: node.map_or(0, |node| node.column),
            field: field.to_owned(),
            value: node.map(Node::shown).unwrap_or_default(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// Opens the mapping at `path`, reporting what is not one, unknown keys and keys that stand twice.
    pub fn section<'a>(&mut self, path: &str, node: Option<&'a Node>) -> Section<'a> {
        let entries = match node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            None | Some(Value::Null) => &[],
            Some(Value::Scalar(_) | Value::List(_)) => {
                self.fault(path, node, "must be a mapping", "write keys below it, as in --print-sample-config");
                &[]
            }
        };
        self.check_keys(path, entries);
        Section { path: path.to_owned(), entries }
    }

    fn check_keys(&mut self, path: &str, entries: &[(Node, Node)]) {
        let known = options::keys_below(path);
        let mut seen: Vec<String> = Vec::new();
        for (key, _) in entries {
            let (name, field) = (key.shown(), join(path, &key.shown()));
            if !known.contains(&name.as_str()) {
                self.fault(&field, Some(key), "unknown key", &format!("known here: {}", known.join(", ")));
            } else if seen.contains(&name) {
                self.fault(&field, Some(key), "the key stands here twice", "keep one of them");
            }
            seen.push(name);
        }
    }

    /// A text.
    pub fn text(&mut self, section: &Section<'_>, key: &str) -> Option<String> {
        self.scalar(section, key, "must be a text").map(|(text, _)| text)
    }

    /// An absolute path.
    pub fn path(&mut self, section: &Section<'_>, key: &str) -> Option<PathBuf> {
        let (text, node) = self.scalar(section, key, "must be a path")?;
        if !text.starts_with('/') {
            self.fault(&section.field(key), Some(node), "must be an absolute path", "begin it with /");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// Anything that is parsed from a text.
    pub fn parsed<T: FromStr>(&mut self, section: &Section<'_>, key: &str, problem: &str, remedy: &str) -> Option<T> {
        let (text, node) = self.scalar(section, key, problem)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.fault(&section.field(key), Some(node), problem, remedy);
        }
        value
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, section: &Section<'_>, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let (text, node) = self.scalar(section, key, "must be a word")?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.fault(
                &section.field(key),
                Some(node),
                "is none of the choices",
                &format!("choose {}", words.join(", ")),
            );
        }
        found
    }

    /// A list of values that are parsed from texts.
    pub fn list<T: FromStr>(&mut self, section: &Section<'_>, key: &str, item: &str) -> Option<Vec<T>> {
        let (field, node) = (section.field(key), section.get(key)?);
        let Value::List(items) = &node.value else {
            self.fault(&field, Some(node), "must be a list", &format!("write [{item}, ...]"));
            return None;
        };
        let mut values = Vec::new();
        for (index, node) in items.iter().enumerate() {
            match plain_text(node).and_then(|text| text.parse().ok()) {
                Some(value) => values.push(value),
                None => self.fault(&format!("{field}[{index}]"), Some(node), "is not usable", &format!("write {item}")),
            }
        }
        Some(values)
    }

    fn scalar<'a>(&mut self, section: &Section<'a>, key: &str, problem: &str) -> Option<(String, &'a Node)> {
        let node = section.get(key)?;
        match plain_text(node) {
            Some(text) if !text.is_empty() => Some((text, node)),
            Some(_) => {
                self.fault(&section.field(key), Some(node), "is empty", "write a value, or leave the key out");
                None
            }
            None => {
                self.fault(&section.field(key), Some(node), problem, "write a single value");
                None
            }
        }
    }
}

impl<'a> Section<'a> {
    /// The value of `key`; a null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(k, _)| k.shown() == key)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The path of a key of this section.
    pub fn field(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

fn plain_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(text) => Some(text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
