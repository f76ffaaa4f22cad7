//! Lives: host.
//! Called by: the stages of the compiler that fill a section of the image.
//! May touch: the pages of its section.
//! Never: copies a page that stays as it is: generations share what they have in common.

use std::{collections::BTreeSet, sync::Arc};

use weir_common::image::{PAGE_WORDS, Page, Section};

/// One section of the image.
#[derive(Clone, Debug)]
pub struct Words {
    section: Section,
    entries: usize,
    pages: Vec<Arc<Page>>,
    touched: BTreeSet<usize>,
    empty: Arc<Page>,
}

impl Words {
    pub fn of(section: Section) -> Self {
        let empty = Arc::new(Page::zeroed());
        Self { section, entries: 0, pages: Vec::new(), touched: BTreeSet::new(), empty }
    }

    /// How many entries there are.
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Makes room for at least so many entries; new ones are 0.
    pub fn reserve(&mut self, entries: usize) {
        self.entries = self.entries.max(entries);
        let words = (self.entries * self.bits()).div_ceil(64);
        while self.pages.len() < words.div_ceil(PAGE_WORDS) {
            self.touched.insert(self.pages.len());
            self.pages.push(Arc::clone(&self.empty));
        }
    }

    /// Writes an entry of up to 64 bits.
    pub fn set(&mut self, entry: usize, value: u64) {
        self.reserve(entry + 1);
        let bits = self.bits();
        let (word, shift) = (entry * bits / 64, entry * bits % 64);
        let mask = if bits >= 64 { u64::MAX } else { ((1 << bits) - 1) << shift };
        let old = self.word(word);
        self.put(word, old & !mask | value << shift & mask);
    }

    /// Writes the same 16-bit value to a run of entries, both ends included.
    pub fn fill(&mut self, first: usize, last: usize, value: u16) {
        self.reserve(last + 1);
        let (whole_from, whole_to) = (first.next_multiple_of(4), (last + 1) / 4 * 4);
        for entry in (first..=last).filter(|entry| !(whole_from..whole_to).contains(entry)) {
            self.set(entry, value.into());
        }
        for word in whole_from / 4..whole_to / 4 {
            self.put(word, u64::from(value) * 0x0001_0001_0001_0001);
        }
    }

    /// Writes an entry of several words.
    pub fn set_wide<const N: usize>(&mut self, entry: usize, words: [u64; N]) {
        self.reserve(entry + 1);
        for (index, value) in words.into_iter().enumerate() {
            self.put(entry * N + index, value);
        }
    }

    /// Ends the section after so many entries.
    pub fn truncate(&mut self, entries: usize) {
        for entry in entries..self.entries {
            let words = self.bits().div_ceil(64);
            for word in 0..words {
                if words > 1 { self.put(entry * words + word, 0) } else { self.set(entry, 0) }
            }
        }
        self.entries = entries;
    }

    /// The pages, with room to grow: a section that grows a little moves none of those after it.
    pub fn pages(&self) -> impl Iterator<Item = Arc<Page>> {
        let used = self.pages.len();
        let room = used.next_multiple_of((used / 8).next_power_of_two()) - used;
        self.pages.iter().cloned().chain((0..room).map(|_| Arc::clone(&self.empty)))
    }

    /// How many pages were written since it was last asked.
    pub fn take_touched(&mut self) -> usize {
        std::mem::take(&mut self.touched).len()
    }

    const fn bits(&self) -> usize {
        self.section.entry_bits() as usize
    }

    fn word(&self, word: usize) -> u64 {
        let page = self.pages.get(word / PAGE_WORDS);
        page.and_then(|page| page.words.get(word % PAGE_WORDS)).copied().unwrap_or(0)
    }

    fn put(&mut self, word: usize, value: u64) {
        if self.word(word) == value {
            return;
        }
        let index = word / PAGE_WORDS;
        let Some(page) = self.pages.get_mut(index) else { return };
        if let Some(slot) = Arc::make_mut(page).words.get_mut(word % PAGE_WORDS) {
            *slot = value;
            self.touched.insert(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_entries_share_words_and_wide_ones_take_several() {
        let mut ports = Words::of(Section::Ports);
        for (entry, value) in [(0, 1), (3, 0xffff), (4, 7), (3, 2)] {
            ports.set(entry, value);
        }
        assert_eq!((ports.word(0), ports.word(1), ports.entries()), (1 | 2 << 48, 7, 5));
        let mut sets = Words::of(Section::Sets);
        sets.set_wide(1, [5, 6]);
        assert_eq!([0, 1, 2, 3].map(|word| sets.word(word)), [0, 0, 5, 6]);
    }

    #[test]
    fn a_run_is_written_like_its_entries_one_by_one() {
        for (first, last) in [(0, 0), (0, 3), (1, 2), (3, 4), (2, 13), (4, 7), (5, 4099)] {
            let (mut run, mut each) = (Words::of(Section::Ports), Words::of(Section::Ports));
            run.fill(first, last, 0xabcd);
            (first..=last).for_each(|entry| each.set(entry, 0xabcd));
            assert_eq!(run.pages().collect::<Vec<_>>(), each.pages().collect::<Vec<_>>(), "{first} to {last}");
        }
    }

    #[test]
    fn only_what_differs_is_touched_and_copies_keep_what_they_had() {
        let mut words = Words::of(Section::Identities);
        words.set(PAGE_WORDS, 9);
        assert_eq!(words.take_touched(), 2);
        let before: Vec<_> = words.pages().collect();
        words.set(PAGE_WORDS, 9);
        assert_eq!(words.take_touched(), 0);
        words.set(PAGE_WORDS, 8);
        let after: Vec<_> = words.pages().collect();
        assert!(Arc::ptr_eq(&before[0], &after[0]) && before[1].word(0) == 9 && after[1].word(0) == 8);
        assert_eq!(words.take_touched(), 1);
    }
}
