//! Lives: agent, user space.
//! Called by: `generation`, for each generation it installs.
//! May touch: nothing.
//! Never: names aya; depends on how a compiled policy keeps its tables, but for the five functions at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use weir_common::{
    addr::Addr,
    event::{Endpoint, NATIVE, SHARED},
    image::{ADDRESSED, METERED, PAGE_WORDS, Page, Section, header},
};
use weir_policy::{Compiled, Kind, Prefix, ResourceId};

use super::limits;

/// What the maps of a slot are to hold for one generation.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// The image, with the section that says which identity each workload's number has.
    pub pages: Vec<Arc<Page>>,
    identities: Identities,
    /// The local workloads whose own address it is, and the marks of addresses that services have.
    owners: BTreeMap<Addr, u32>,
    /// What workloads are answered that call themselves by a service.
    themselves: BTreeMap<Addr, Endpoint>,
    /// Identity by prefix, in order of prefix.
    pub cidrs: Prefixes,
    /// What the active word says beside the install's number.
    pub marks: u64,
}

/// Identity by address.
type Identities = weir_policy::Endpoints;
/// Value by prefix, in order of prefix.
pub(super) type Prefixes = Arc<Vec<(Prefix, u32)>>;

/// What has to be done to a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changes<K, V> {
    /// Keys that must go; first, so that a full map has room.
    pub gone: Vec<K>,
    /// Entries that are new or have another value.
    pub set: Vec<(K, V)>,
}

static EMPTY_PAGE: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new(Page::zeroed()));

impl Content {
    /// What new maps hold.
    pub(super) fn none() -> Self {
        Self {
            pages: Vec::new(),
            identities: Identities::default(),
            owners: BTreeMap::new(),
            themselves: BTreeMap::new(),
            cidrs: Prefixes::default(),
            marks: 0,
        }
    }

    /// `present`: the interfaces that programs are attached to, by index.
    pub(super) fn of(
        compiled: &Compiled,
        numbers: &BTreeMap<ResourceId, u32>,
        present: &BTreeMap<u32, String>,
    ) -> Self {
        let metered = limits::metered(compiled, numbers);
        let mut pages = pages(compiled);
        append(&mut pages, Section::Workloads, &workloads(compiled, numbers, &metered));
        append(&mut pages, Section::Interfaces, &limits::interfaces(compiled, present));
        Self {
            pages,
            marks: limits::marks(compiled, &metered),
            identities: identities(compiled),
            owners: owners(compiled, numbers),
            themselves: themselves(compiled, numbers),
            cidrs: cidrs(compiled),
        }
    }

    /// The pages that differ from those of `old`, by number. Where one of them has no page, it is empty.
    pub(super) fn pages_since<'c>(&'c self, old: &'c Self) -> impl Iterator<Item = (u32, &'c Page)> {
        let all = 0..self.pages.len().max(old.pages.len());
        all.filter_map(move |index| {
            let page = |content: &'c Self| content.pages.get(index).unwrap_or(&EMPTY_PAGE);
            let (new, old) = (page(self), page(old));
            (!Arc::ptr_eq(new, old) && new != old).then_some((u32::try_from(index).ok()?, &**new))
        })
    }

    /// Entries of the table of addresses.
    pub(super) fn addresses(&self) -> usize {
        self.identities.size() + self.themselves.len()
    }

    /// What changes among addresses.
    pub(super) fn endpoints_since(&self, old: &Self) -> Changes<Addr, Endpoint> {
        let identities = changes(self.identities.iter(), old.identities.iter());
        let owners = changes(self.owners.iter(), old.owners.iter());
        // An address may change in either way, or both.
        let touched = identities.set.iter().chain(&owners.set).map(|(addr, _)| *addr).chain(owners.gone);
        let touched: BTreeSet<Addr> = touched.collect();
        let set = touched.into_iter().filter_map(|addr| Some((addr, self.endpoint(&addr)?)));
        // Under keys of their own.
        let themselves = changes(self.themselves.iter(), old.themselves.iter());
        Changes {
            gone: identities.gone.into_iter().chain(themselves.gone).collect(),
            set: set.chain(themselves.set).collect(),
        }
    }

    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        let identity = *self.identities.get(addr)?;
        Some(Endpoint { identity, owner: self.owners.get(addr).copied().unwrap_or(0) })
    }
}

/// What changes among prefixes.
pub(super) fn prefixes_since(new: &Prefixes, old: &Prefixes) -> Changes<Prefix, u32> {
    fn entries(prefixes: &Prefixes) -> impl Iterator<Item = (&Prefix, &u32)> {
        prefixes.iter().map(|(prefix, value)| (prefix, value))
    }
    changes(entries(new), entries(old))
}

/// The difference of two tables, both in order of their keys.
fn changes<'c, K, V>(
    new: impl Iterator<Item = (&'c K, &'c V)>,
    old: impl Iterator<Item = (&'c K, &'c V)>,
) -> Changes<K, V>
where
    K: Ord + Copy + 'c,
    V: PartialEq + Copy + 'c,
{
    let (mut new, mut old) = (new.peekable(), old.peekable());
    let mut changes = Changes { gone: Vec::new(), set: Vec::new() };
    while let Some((key, value)) = new.peek() {
        match old.peek() {
            Some((before, _)) if before < key => changes.gone.extend(old.next().map(|(key, _)| *key)),
            Some((before, was)) if before == key => {
                if was != value {
                    changes.set.push((**key, **value));
                }
                (_, _) = (new.next(), old.next());
            }
            Some(_) | None => changes.set.extend(new.next().map(|(key, value)| (*key, *value))),
        }
    }
    changes.gone.extend(old.map(|(key, _)| *key));
    changes
}

/// Which identity each workload number has in this generation, two to a word.
fn workloads(compiled: &Compiled, numbers: &BTreeMap<ResourceId, u32>, metered: &BTreeSet<u32>) -> Vec<u64> {
    let entries = numbers.values().max().map_or(0, |highest| highest + 1);
    let mut words = vec![0u64; (entries as usize).div_ceil(2)];
    for workload in compiled.workloads.values() {
        let Some(number) = numbers.get(&workload.id) else { continue };
        if let Some(word) = words.get_mut(*number as usize / 2) {
            let addressed = if workload.addresses.is_empty() { 0 } else { ADDRESSED };
            let metered = if metered.contains(number) { METERED } else { 0 };
            *word |= u64::from(workload.identity | addressed | metered) << (32 * (number & 1));
        }
    }
    words
}

/// Adds a section to the compiled image.
fn append(pages: &mut Vec<Arc<Page>>, section: Section, words: &[u64]) {
    let entries = words.len() as u64 * 64 / u64::from(section.entry_bits());
    let (first_page, place) = (pages.len() as u64, (header::SECTIONS + section as u32) as usize);
    if let Some(word) = pages.first_mut().and_then(|page| Arc::make_mut(page).words.get_mut(place)) {
        *word = first_page | entries << 32;
    }
    pages.extend(words.chunks(PAGE_WORDS).map(|chunk| {
        let mut page = Page::zeroed();
        page.words.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        Arc::new(page)
    }));
}

/// Whose own each address is. Pods reach theirs, whatever policies say; a native workload that isolates itself means it.
fn owners(compiled: &Compiled, numbers: &BTreeMap<ResourceId, u32>) -> BTreeMap<Addr, u32> {
    let described = numbers.iter().filter_map(|(id, number)| Some((compiled.workloads.get(id)?, *number)));
    let mut owners = BTreeMap::new();
    for (workload, number) in described {
        let owner = if workload.id.kind == Kind::Pod { number } else { number | NATIVE };
        for addr in &workload.addresses {
            // An address that two claim tells neither from the other.
            owners.entry(*addr).and_modify(|owner| *owner = SHARED).or_insert(owner);
        }
    }
    // What is called by a service's address is what is behind it, even if a pod claims the address too.
    owners.extend(services(compiled).iter().map(|(addr, mark)| (*addr, *mark)));
    owners
}

/// What those who run here are answered, by the numbers they have.
fn themselves(compiled: &Compiled, numbers: &BTreeMap<ResourceId, u32>) -> BTreeMap<Addr, Endpoint> {
    let own = compiled.themselves.keys().filter_map(|id| Some((id, *numbers.get(id)?)));
    own.flat_map(|(id, number)| compiled.own_answers(id, number)).collect()
}

/// The pages of the image.
fn pages(compiled: &Compiled) -> Vec<Arc<Page>> {
    compiled.pages.clone()
}

/// Identity by exact address.
fn identities(compiled: &Compiled) -> Identities {
    compiled.endpoints.clone()
}

/// The marks of addresses that services have, and of their ports.
const fn services(compiled: &Compiled) -> &Identities {
    &compiled.services
}

/// Identity by prefix.
fn cidrs(compiled: &Compiled) -> Prefixes {
    Arc::clone(&compiled.cidrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u8, u32)]) -> BTreeMap<u8, u32> {
        entries.iter().copied().collect()
    }

    #[test]
    fn a_difference_names_what_goes_and_what_is_new_or_different_and_nothing_else() {
        type Row<'a> = (&'a [(u8, u32)], &'a [(u8, u32)], &'a [u8], &'a [(u8, u32)]);
        let rows: [Row<'_>; 7] = [
            (&[], &[], &[], &[]),
            (&[], &[(1, 1)], &[], &[(1, 1)]),
            (&[(1, 1), (2, 2)], &[], &[1, 2], &[]),
            (&[(1, 1), (3, 3)], &[(1, 1), (3, 3)], &[], &[]),
            (&[(1, 1), (3, 3)], &[(1, 1), (2, 2), (3, 4)], &[], &[(2, 2), (3, 4)]),
            (&[(1, 1), (2, 2), (9, 9)], &[(2, 2), (5, 5)], &[1, 9], &[(5, 5)]),
            (&[(5, 5)], &[(1, 1), (9, 9)], &[5], &[(1, 1), (9, 9)]),
        ];
        for (old, new, gone, set) in rows {
            let (old, new) = (table(old), table(new));
            let expected = Changes { gone: gone.to_vec(), set: set.to_vec() };
            assert_eq!(changes(new.iter(), old.iter()), expected, "{old:?} to {new:?}");
        }
    }

    fn content(pages: &[u64], identities: &'static [(u8, u32)], owners: &'static [(u8, u32)]) -> Content {
        let page = |first: &u64| {
            let mut page = Page::zeroed();
            page.words[0] = *first;
            Arc::new(page)
        };
        let by_addr = |entries: &'static [(u8, u32)]| entries.iter().map(|(last, value)| (host(*last), *value));
        let pages = pages.iter().map(page).collect();
        let (identities, owners) = (by_addr(identities).collect(), by_addr(owners).collect());
        Content { pages, identities, owners, ..Content::none() }
    }

    #[test]
    fn an_answer_of_ones_own_is_written_and_removed_with_the_others() {
        let endpoint = |identity| Endpoint { identity, owner: 1 << 30 };
        let own = |entries: &[(u8, u32)]| Content {
            themselves: entries.iter().map(|(last, identity)| (host(*last), endpoint(*identity))).collect(),
            ..content(&[], &[(1, 16)], &[])
        };
        let (old, new) = (own(&[(7, 1), (8, 1), (9, 1)]), own(&[(8, 1), (9, 2)]));
        let expected = Changes { gone: vec![host(7)], set: vec![(host(9), endpoint(2))] };
        assert_eq!(new.endpoints_since(&old), expected);
    }

    fn host(last: u8) -> Addr {
        Addr::v4([10, 0, 0, last])
    }

    #[test]
    fn an_address_is_written_when_its_identity_or_its_owner_changes() {
        let old = content(&[], &[(1, 16), (2, 16), (3, 17), (4, 17)], &[(1, 1), (2, 2)]);
        let new = content(&[], &[(1, 16), (2, 16), (3, 18), (4, 17)], &[(1, 1), (4, 2)]);
        let endpoint = |identity, owner| Endpoint { identity, owner };
        let expected = Changes {
            gone: vec![],
            set: vec![(host(2), endpoint(16, 0)), (host(3), endpoint(18, 0)), (host(4), endpoint(17, 2))],
        };
        assert_eq!(new.endpoints_since(&old), expected);
        let none = content(&[], &[(1, 16)], &[(1, 1)]);
        assert_eq!(none.endpoints_since(&old).gone, [host(2), host(3), host(4)]);
        assert_eq!(none.endpoints_since(&old).set, []);
    }

    #[test]
    fn pages_that_went_are_emptied() {
        let (old, new) = (content(&[1, 2, 0, 4], &[], &[]), content(&[1, 3], &[], &[]));
        let since =
            |new: &Content, old: &Content| new.pages_since(old).map(|(n, page)| (n, page.words[0])).collect::<Vec<_>>();
        assert_eq!(since(&new, &old), [(1, 3), (3, 0)]);
        assert_eq!(since(&old, &new), [(1, 2), (3, 4)]);
        assert_eq!(since(&old, &Content::none()), [(0, 1), (1, 2), (3, 4)]);
        assert_eq!(since(&old, &old), []);
        let equal = content(&[1, 2, 0, 4], &[], &[]);
        assert_eq!(since(&equal, &old), [], "equal pages need not be the same");
    }
}
