//! Lives: host.
//! Called by: `compile`, last.
//! May touch: nothing.
//! Never: places a word anywhere but where `weir_common::image` says.

use weir_common::{
    image::{
        Cell, FLAG_BLOCKED, FLAG_LIMITS, FLAG_QUIET, Identity, MAGIC, PAGE_WORDS, Page, Section, header, reserved,
    },
    verdict::Reason,
};

use super::{
    atoms::Atoms,
    cells::Cells,
    classes::Classes,
    identities::Identities,
    limits::{Limits, Services},
    subjects::Subjects,
};
use crate::Context;

/// What the stages before have found out.
pub struct Image<'i, 'a> {
    pub context: &'i Context,
    pub identities: &'i Identities,
    pub subjects: &'i Subjects<'a>,
    pub classes: &'i Classes,
    pub cells: &'i Cells,
}

/// One section: how many entries, in which words.
struct Words {
    entries: usize,
    words: Vec<u64>,
}

impl Image<'_, '_> {
    /// The image: the header's page, then each section from a page of its own.
    pub fn pages(&self, atoms: &Atoms, limits: &Limits<'_>, services: &Services, blocked: bool) -> Vec<Page> {
        let any_limit = limits.entries.len() > 1;
        let quiet = self.cells.cells.iter().any(|cell| cell.is_quiet());
        let flags = if any_limit { FLAG_LIMITS } else { 0 }
            | if blocked { FLAG_BLOCKED } else { 0 }
            | if quiet { FLAG_QUIET } else { 0 };
        let unknown = Cell::new(self.context.unknown, Reason::UnknownWorkload, 0);
        let mut front = vec![0; PAGE_WORDS];
        let mut body = Vec::new();
        for section in Section::ALL {
            let Words { entries, words } = self.section(section, atoms, limits, services);
            let place = (1 + body.len()) as u64 | (entries as u64) << 32;
            set(&mut front, header::SECTIONS + section as u32, place);
            body.extend(words.chunks(PAGE_WORDS).map(page));
        }
        set(&mut front, header::MAGIC, MAGIC);
        set(&mut front, header::GENERATION, self.context.generation);
        set(&mut front, header::FLAGS, flags);
        set(&mut front, header::UNKNOWN, u64::from(unknown.0));
        set(&mut front, header::ATOMS, atoms.len() as u64);
        body.insert(0, page(&front));
        body
    }

    fn section(&self, section: Section, atoms: &Atoms, limits: &Limits<'_>, services: &Services) -> Words {
        match section {
            Section::Identities => self.identity_words(services),
            Section::Ports => packed(atoms.by_port.iter().map(|atom| u64::from(*atom)), 16),
            Section::PortRows => packed(self.cells.port_rows.iter().map(|class| u64::from(*class)), 16),
            Section::Sets => wide(self.cells.sets.iter().map(|set| set.to_words())),
            Section::Cells => packed(self.cells.cells.iter().map(|cell| u64::from(cell.0)), 32),
            Section::Services => Words { entries: services.words.len(), words: services.words.clone() },
            Section::Limits => wide(limits.entries.iter().map(|limit| limit.to_words())),
            // The agent's to fill: only it knows which numbers the workloads have on this node.
            Section::Workloads => Words { entries: 0, words: Vec::new() },
        }
    }

    /// By identity number; numbers nobody has mean set 0 and class 0, the world's.
    fn identity_words(&self, services: &Services) -> Words {
        let last = self.identities.list.last().map_or(reserved::WORLD, |identity| identity.number);
        let mut words = vec![0; last as usize + 1];
        let with_classes = self.identities.list.iter().zip(&self.classes.of_identity).zip(&services.of_identity);
        for ((identity, peer_class), service_class) in with_classes {
            let set_number =
                identity.subject().and_then(|subject| self.subjects.set_of.get(subject)).copied().unwrap_or(0);
            // More sets than 16 bits number were refused.
            let set_number = u16::try_from(set_number).unwrap_or(0);
            let word = Identity { set: set_number, peer_class: *peer_class, service_class: *service_class }.to_word();
            set(&mut words, identity.number, word);
        }
        Words { entries: words.len(), words }
    }
}

fn set(words: &mut [u64], index: u32, value: u64) {
    if let Some(word) = words.get_mut(index as usize) {
        *word = value;
    }
}

/// Entries of `bits` bits, packed into words from the low end.
fn packed(entries: impl ExactSizeIterator<Item = u64>, bits: usize) -> Words {
    let per_word = 64 / bits;
    let count = entries.len();
    let mut words = vec![0; count.div_ceil(per_word)];
    for (index, entry) in entries.enumerate() {
        if let Some(word) = words.get_mut(index / per_word) {
            *word |= entry << (index % per_word * bits);
        }
    }
    Words { entries: count, words }
}

/// Entries of several words.
fn wide<const N: usize>(entries: impl ExactSizeIterator<Item = [u64; N]>) -> Words {
    Words { entries: entries.len(), words: entries.flatten().collect() }
}

fn page(words: &[u64]) -> Page {
    let mut page = Page::zeroed();
    for (slot, word) in page.words.iter_mut().zip(words) {
        *slot = *word;
    }
    page
}
