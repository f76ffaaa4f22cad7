//! Lives: host.
//! Called by: every reader.
//! May touch: nothing.
//! Never: says that a word is wrong without saying which one is right.

use super::yaml::Broken;
use crate::{
    fault::{Fault, Place, shown},
    model::Remark,
};

/// The faults of one text.
pub struct Faults {
    source: String,
    list: Vec<Fault>,
    remarks: Vec<Remark>,
}

impl Faults {
    pub fn new(source: &str) -> Self {
        Self { source: source.to_owned(), list: Vec::new(), remarks: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn into_list(self) -> Vec<Fault> {
        self.list
    }

    /// Notes something odd that is no fault.
    pub fn remark(&mut self, field: &str, text: impl Into<String>) {
        self.remarks.push(Remark { field: field.to_owned(), text: text.into() });
    }

    /// The remarks since the last time, which are the last document's.
    pub fn take_remarks(&mut self) -> Vec<Remark> {
        std::mem::take(&mut self.remarks)
    }

    pub fn broken(&mut self, broken: Broken) {
        self.add(broken.place, "", "", broken.problem, broken.remedy);
    }

    pub fn add(&mut self, at: Place, field: &str, value: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.list.push(Fault {
            source: self.source.clone(),
            line: at.line,
            column: at.column,
            field: field.to_owned(),
            value: shown(value),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }
}

/// Longest word that is compared with the known ones.
const LONGEST_WORD: usize = 64;

/// What to write instead of `word`: the nearest of `known`, or all of them.
pub fn suggest(word: &str, known: &[&'static str]) -> String {
    // Nobody mistypes a word of this length, and comparing long ones takes long.
    if word.len() > LONGEST_WORD {
        return format!("known here: {}", known.join(", "));
    }
    let lower = word.to_ascii_lowercase();
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase());
    match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + nearest.len() / 4 => format!("did you mean \"{nearest}\"?"),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// A path one step longer. Keys that are not plain words stand in brackets.
pub fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", shown(key)),
    }
}
