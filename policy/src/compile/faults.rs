//! Lives: host.
//! Called by: every stage of the compiler.
//! May touch: the list of problems.
//! Never: names a problem without the document it can be mended in, when there is one.

use crate::{
    fault::{Fault, Place, shown},
    model::Resource,
};

/// Why the resources cannot be in force together.
#[derive(Default)]
pub struct Problems {
    list: Vec<Fault>,
}

impl Problems {
    /// Notes a problem of one document.
    pub fn of(&mut self, resource: &Resource, field: &str, value: &str, problem: String, remedy: &str) {
        let origin = resource.origin();
        self.add(&origin.source, origin.place, field, value, format!("{}: {problem}", resource.id()), remedy);
    }

    /// Notes a problem of all documents together.
    pub fn of_all(&mut self, problem: String, remedy: &str) {
        self.add("", Place::default(), "", "", problem, remedy);
    }

    fn add(&mut self, source: &str, place: Place, field: &str, value: &str, problem: String, remedy: &str) {
        self.list.push(Fault {
            source: source.to_owned(),
            line: place.line,
            column: place.column,
            field: field.to_owned(),
            value: shown(value),
            problem,
            remedy: remedy.to_owned(),
        });
    }

    /// Fails when there is a problem.
    pub fn none(self) -> Result<(), Vec<Fault>> {
        if self.list.is_empty() { Ok(()) } else { Err(self.list) }
    }
}
