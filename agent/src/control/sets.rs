//! Lives: weir-agent, control.
//! Called by: `actor`, for what is asked of address sets; `tick`, for entries that have ended; `apply`, for sets that are gone.
//! May touch: what was loaded into address sets, in the kernel and on disk.
//! Never: keeps a change that the kernel did not take over; says what a set does, which is its document's to say.

use weir_policy::{
    CompiledSet, Kind, Prefix, ResourceId,
    sets::{Entries, Expiry, NEVER},
};

use super::{Control, ControlError, set_store};
use crate::datapath::{Datapath, DatapathError, SetCount};

/// Entries that one set may have been loaded with.
pub const MOST_ENTRIES: usize = 4_000_000;
/// Ended entries that are taken out one by one; with more, a new image is faster.
const FEW: usize = 1000;

/// Why what was loaded into a set could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// It was not there to take out.
    #[error(
        "{prefix} was not loaded into AddressSet/{set}, nothing was changed; weirctl set show {set} lists what is there"
    )]
    NotThere {
        /// The set.
        set: String,
        /// The entry.
        prefix: Prefix,
    },
    /// More than one set may have.
    #[error(
        "AddressSet/{set} would have {count} entries, nothing was changed; load at most {MOST_ENTRIES} into one set"
    )]
    TooMany {
        /// The set.
        set: String,
        /// How many there would be.
        count: usize,
    },
    /// The kernel did not take it over.
    #[error(
        "the kernel did not take over what was loaded into AddressSet/{set}, what was there stays in force: {source}"
    )]
    Kernel {
        /// The set.
        set: String,
        /// Why.
        source: DatapathError,
    },
}

/// Single entries to add and to take out.
#[derive(Clone, Debug, Default)]
pub struct SetChange {
    /// The set.
    pub name: String,
    /// To add.
    pub add: Vec<Prefix>,
    /// To take out.
    pub remove: Vec<Prefix>,
    /// How long those added are in force, in nanoseconds; 0: until they are taken out.
    pub expires_in: u64,
}

/// What became of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChanged {
    /// Entries that are there now and were not, or that have another end.
    pub added: usize,
    /// Entries that are there no more.
    pub removed: usize,
    /// What went wrong without undoing it.
    pub warnings: Vec<String>,
}

/// An address set as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetView {
    /// Its name.
    pub name: String,
    /// Whether it blocks what it holds.
    pub blocks: bool,
    /// Entries of its document.
    pub listed: usize,
    /// Entries that were loaded.
    pub loaded: usize,
    /// When the next of those ends.
    pub next_expiry: Option<Expiry>,
    /// What it refused.
    pub count: SetCount,
}

/// An entry, when it ends, and whether the document lists it.
pub type SetEntry = (Prefix, Expiry, bool);

impl<D: Datapath> Control<D> {
    /// Puts entries in place of all that were loaded into a set.
    ///
    /// # Errors
    /// There is no such set, there are too many entries, or the kernel refused; nothing was changed.
    pub fn load_set(&mut self, name: &str, prefixes: Vec<Prefix>, expires_in: u64) -> Result<SetChanged, ControlError> {
        self.known_set(name)?;
        let ends = self.ends(expires_in);
        let entries: Entries = prefixes.into_iter().map(|prefix| (prefix, ends)).collect();
        let count = entries.len();
        if count > MOST_ENTRIES {
            return Err(SetError::TooMany { set: name.to_owned(), count }.into());
        }
        let before = self.loaded.get_mut(name).map(std::mem::take).unwrap_or_default();
        let removed = before.len();
        self.loaded.put(name, entries);
        self.reload_or(name, |control| control.loaded.put(name, before))?;
        let warnings = self.save_set(name);
        tracing::info!(entries = count, "an address set was loaded");
        Ok(SetChanged { added: count, removed, warnings })
    }

    /// Adds and takes out single entries, all or none.
    ///
    /// # Errors
    /// There is no such set, an entry to take out is not there, or the kernel refused; nothing was changed.
    pub fn change_set(&mut self, change: &SetChange) -> Result<SetChanged, ControlError> {
        let name = change.name.as_str();
        self.known_set(name)?;
        let loaded = self.loaded.get(name).map(|set| &set.entries);
        if let Some(prefix) = change.remove.iter().find(|prefix| loaded.is_none_or(|set| set.get(prefix).is_none())) {
            return Err(SetError::NotThere { set: name.to_owned(), prefix: *prefix }.into());
        }
        // One that is there already gets another end, and what goes makes room.
        let new = change.add.iter().filter(|prefix| loaded.is_none_or(|set| set.get(prefix).is_none()));
        let count = (loaded.map_or(0, Entries::len) + new.count()).saturating_sub(change.remove.len());
        if count > MOST_ENTRIES {
            return Err(SetError::TooMany { set: name.to_owned(), count }.into());
        }
        if loaded.is_none() {
            self.loaded.put(name, Entries::default());
        }
        let (ends, mut undo) = (self.ends(change.expires_in), Vec::new());
        for prefix in &change.remove {
            undo.push((*prefix, self.put_entry(name, *prefix, None)));
        }
        for prefix in &change.add {
            undo.push((*prefix, self.put_entry(name, *prefix, Some(ends))));
        }
        self.take_over(name, &undo)?;
        if ends != NEVER {
            self.next_set_expiry = Some(self.next_set_expiry.map_or(ends, |next| next.min(ends)));
        }
        let warnings = self.note_set(name, change, ends);
        Ok(SetChanged { added: change.add.len(), removed: change.remove.len(), warnings })
    }

    /// The address sets, and the kernel's memory that they take.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn list_sets(&self) -> Result<(Vec<SetView>, usize), ControlError> {
        let counts = self.datapath.set_counts().map_err(ControlError::Counters)?;
        let view = |set: &CompiledSet| {
            let loaded = self.loaded.get(&set.name).map(|loaded| &loaded.entries);
            SetView {
                name: set.name.clone(),
                blocks: set.blocks,
                listed: set.entries.len(),
                loaded: loaded.map_or(0, Entries::len),
                next_expiry: loaded.and_then(Entries::next_expiry),
                count: counts.get(&set.name).copied().unwrap_or_default(),
            }
        };
        Ok((self.force.compiled.sets.iter().map(view).collect(), self.datapath.set_bytes()))
    }

    /// The entries of a set; of one address, those that hold it.
    ///
    /// # Errors
    /// There is no such set.
    pub fn show_set(&self, name: &str, address: Option<Prefix>) -> Result<Vec<SetEntry>, ControlError> {
        let set = self.known_set(name)?;
        let loaded = self.loaded.get(name).map(|set| &set.entries);
        let entries = |entries: &Entries, listed| {
            let all = entries.iter().map(|(prefix, ends)| (*prefix, *ends));
            let found: Vec<(Prefix, Expiry)> = match address {
                Some(address) => {
                    let own = entries.get(&address).map(|ends| (address, ends));
                    own.into_iter().chain(entries.around(address)).collect()
                }
                None => all.collect(),
            };
            found.into_iter().map(move |(prefix, ends)| (prefix, ends, listed))
        };
        let mut found: Vec<SetEntry> = entries(&set.entries, true).collect();
        found.extend(loaded.into_iter().flat_map(|loaded| entries(loaded, false)));
        found.sort_unstable();
        Ok(found)
    }

    /// Takes out entries that have ended. The kernel does not heed them any more; this gives their room back.
    pub(super) fn expire_sets(&mut self) {
        let now = self.now().0;
        if self.next_set_expiry.is_none_or(|due| now < due) {
            return;
        }
        let names: Vec<String> = self.loaded.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let ended = self.loaded.get_mut(&name).map(|entries| entries.expire(now)).unwrap_or_default();
            if ended.is_empty() {
                continue;
            }
            tracing::info!(entries = ended.len(), "entries of an address set have ended");
            let few = ended.len() <= FEW;
            if !(few && ended.iter().all(|prefix| self.datapath.change_sets(&self.loaded, *prefix))) {
                self.loaded.touch(&name);
                if let Err(error) = self.datapath.reload_sets(&self.force.compiled, &self.loaded) {
                    tracing::error!(error = %error, "the kernel keeps entries that have ended, and does not heed them");
                }
            }
        }
        self.next_set_expiry = self.next_of_sets();
    }

    /// What a set was loaded with goes when its document does.
    pub(super) fn forget_sets(&mut self, gone: &[&ResourceId]) {
        for id in gone.iter().filter(|id| id.kind == Kind::AddressSet) {
            if self.loaded.remove(&id.name) {
                self.unsaved_sets.remove(&id.name);
                self.gone_sets.insert(id.name.clone());
            }
        }
    }

    /// Deletes the files of sets that are gone, unless a restart would bring back a policy that has them.
    pub(super) fn delete_gone_sets(&mut self) {
        if self.unsaved {
            return;
        }
        for name in std::mem::take(&mut self.gone_sets) {
            // It may have come back, and been loaded again.
            if self.loaded.get(&name).is_none() {
                set_store::remove(&self.settings.state_dir, &name);
            }
        }
    }

    /// Tries again what could not be saved; it was told when it failed first.
    pub(super) fn save_sets_again(&mut self) {
        for name in self.unsaved_sets.clone() {
            drop(self.save_set(&name));
        }
        self.delete_gone_sets();
    }

    /// When the next entry of any set ends.
    pub(super) fn next_of_sets(&self) -> Option<Expiry> {
        self.loaded.iter().filter_map(|(_, set)| set.entries.next_expiry()).min()
    }

    fn known_set(&self, name: &str) -> Result<&CompiledSet, ControlError> {
        let missing = || ControlError::NotFound(vec![ResourceId::new(Kind::AddressSet, "", name)]);
        self.force.compiled.sets.iter().find(|set| set.name == name).ok_or_else(missing)
    }

    fn ends(&self, expires_in: u64) -> Expiry {
        if expires_in == 0 { NEVER } else { self.now().0.saturating_add(expires_in).max(1) }
    }

    /// Puts one entry, or takes it out; what it was before.
    fn put_entry(&mut self, name: &str, prefix: Prefix, ends: Option<Expiry>) -> Option<Expiry> {
        let entries = self.loaded.get_mut(name)?;
        match ends {
            Some(ends) => entries.insert(prefix, ends),
            None => entries.remove(&prefix),
        }
    }

    /// Tells the kernel of entries that are not what they were; if it refuses, they are again.
    fn take_over(&mut self, name: &str, undo: &[(Prefix, Option<Expiry>)]) -> Result<(), ControlError> {
        if undo.iter().all(|(prefix, _)| self.datapath.change_sets(&self.loaded, *prefix)) {
            return Ok(());
        }
        self.loaded.touch(name);
        self.reload_or(name, |control| {
            for (prefix, before) in undo.iter().rev() {
                control.put_entry(name, *prefix, *before);
            }
            // Those before the one that found no room are in the kernel's images already.
            for (prefix, _) in undo {
                if !control.datapath.change_sets(&control.loaded, *prefix) {
                    tracing::error!(set = name, %prefix, "an entry is not in force as it was; loading the set again mends it");
                }
            }
            control.loaded.touch(name);
        })
    }

    /// Makes new images; if the kernel refuses, `undo` brings back what there was, in images of its own.
    fn reload_or(&mut self, name: &str, undo: impl FnOnce(&mut Self)) -> Result<(), ControlError> {
        let result = self.datapath.reload_sets(&self.force.compiled, &self.loaded);
        if let Err(source) = result {
            undo(self);
            tracing::error!(error = %source, "the kernel did not take an address set over");
            return Err(SetError::Kernel { set: name.to_owned(), source }.into());
        }
        self.next_set_expiry = self.next_of_sets();
        Ok(())
    }

    fn save_set(&mut self, name: &str) -> Vec<String> {
        let Some(set) = self.loaded.get(name) else { return Vec::new() };
        let saved = set_store::save(&self.settings.state_dir, name, &set.entries, self.now().0);
        self.warned(name, saved)
    }

    /// Notes single entries in the set's journal; now and then the set is saved whole instead.
    fn note_set(&mut self, name: &str, change: &SetChange, ends: Expiry) -> Vec<String> {
        if self.unsaved_sets.contains(name) {
            // What is on disk lacks more than this change.
            return self.save_set(name);
        }
        match set_store::note(&self.settings.state_dir, name, &change.remove, &change.add, ends) {
            Ok(true) => Vec::new(),
            Ok(false) => self.save_set(name),
            Err(error) => self.warned(name, Err(error)),
        }
    }

    /// A warning for what could not be saved, which is tried again; said once in the log.
    fn warned(&mut self, name: &str, saved: std::io::Result<()>) -> Vec<String> {
        let Err(error) = saved else {
            if self.unsaved_sets.remove(name) {
                tracing::info!(set = name, "what was loaded into an address set is saved now");
            }
            return Vec::new();
        };
        if self.unsaved_sets.insert(name.to_owned()) {
            tracing::error!(set = name, error = %error, "what was loaded into an address set could not be saved");
        }
        let place = self.settings.state_dir.join("sets").display().to_string();
        vec![format!(
            "in force, but not saved in {place}: {error}; it is tried again every second, until then a restart would bring back what was \
             loaded before"
        )]
    }
}
