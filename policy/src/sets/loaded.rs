//! Lives: host.
//! Called by: the agent's control, which owns it; the kernel side, which makes images of it.
//! May touch: nothing.
//! Never: says what a set does: its document does.

use std::collections::BTreeMap;

use super::Entries;

/// What was loaded into address sets beside their documents, by name of the set. Ends are by the wall clock.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    sets: BTreeMap<String, LoadedSet>,
    revisions: u64,
}

/// What was loaded into one set.
#[derive(Clone, Debug, Default)]
pub struct LoadedSet {
    /// The entries.
    pub entries: Entries,
    /// Differs from that of every other content that was ever put here as a whole.
    pub revision: u64,
}

impl Loaded {
    /// What was loaded into a set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&LoadedSet> {
        self.sets.get(name)
    }

    /// The same, to add or remove single entries, which the kernel side is to be told of one by one.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Entries> {
        self.sets.get_mut(name).map(|set| &mut set.entries)
    }

    /// Puts entries in place of all there were.
    pub fn put(&mut self, name: &str, entries: Entries) {
        self.revisions += 1;
        let set = LoadedSet { entries, revision: self.revisions };
        drop(self.sets.insert(name.to_owned(), set));
    }

    /// Says that the entries of a set have changed in a way that takes a new image.
    pub fn touch(&mut self, name: &str) {
        self.revisions += 1;
        if let Some(set) = self.sets.get_mut(name) {
            set.revision = self.revisions;
        }
    }

    /// Forgets a set; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.sets.remove(name).is_some()
    }

    /// All of them, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &LoadedSet)> {
        self.sets.iter().map(|(name, set)| (name.as_str(), set))
    }
}
