//! Lives: host.
//! Called by: the builders.
//! May touch: nothing.
//! Never: looks at an item twice.

use super::{
    entries::{Entries, Source},
    records::Holder,
};
use crate::model::Prefix;

/// One entry of one set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub prefix: Prefix,
    /// Bits of the entry: a half of `::/0` is still less than an entry of its length.
    pub bits: u8,
    pub holder: Holder,
}

impl Item {
    pub fn of(source: &Source<'_>, (prefix, expires): (Prefix, u64)) -> Self {
        let Source { set, blocks, plain, .. } = *source;
        Self { prefix, bits: prefix.bits, holder: Holder { set, blocks, plain, ends: source.ends(expires) } }
    }
}

/// Puts items in the order of the sweep: a prefix before those inside it; of the same prefix the set with the lower number last, so
/// that it is the first to be named.
pub(super) fn order(items: &mut [Item]) {
    items.sort_unstable_by_key(|item| (item.prefix, item.bits, u32::MAX - item.holder.set, item.holder.ends));
}

/// All items of one family, in order.
pub(super) fn items(sources: &[Source<'_>], v4: bool) -> Vec<Item> {
    let of = |source: &Source<'_>, entries: &Entries| {
        let own = entries.iter().filter(|(prefix, _)| prefix.is_v4() == v4);
        own.map(|(prefix, expires)| Item::of(source, (*prefix, *expires))).collect::<Vec<_>>()
    };
    let mut items: Vec<Item> = sources.iter().flat_map(|source| of(source, source.entries)).collect();
    order(&mut items);
    items
}

/// Walks over items in order, and tells for each range of addresses that one of them holds which ones do, the longest first.
pub(super) fn ranges(items: &[Item], mut tell: impl FnMut(u128, u128, &[Holder])) {
    // Innermost first, so that it can be handed on as it is.
    let mut open: Vec<(u128, Holder)> = Vec::new();
    let mut holders: Vec<Holder> = Vec::new();
    let mut from = 0u128;
    let mut close =
        |open: &mut Vec<(u128, Holder)>, holders: &mut Vec<Holder>, from: &mut u128, before: Option<u128>| {
            while let Some((end, _)) = open.last().copied().filter(|(end, _)| before.is_none_or(|before| *end < before))
            {
                if *from <= end {
                    told(open, holders);
                    tell(*from, end, holders);
                }
                // The last address of all is followed by none, and nothing is open then.
                *from = end.saturating_add(1);
                open.pop();
            }
            if let Some(before) = before.filter(|before| !open.is_empty() && *from < *before) {
                told(open, holders);
                tell(*from, before - 1, holders);
            }
        };
    for item in items {
        let (first, last) = item.prefix.range();
        close(&mut open, &mut holders, &mut from, Some(first));
        from = first;
        open.push((last, item.holder));
    }
    close(&mut open, &mut holders, &mut from, None);
}

fn told(open: &[(u128, Holder)], holders: &mut Vec<Holder>) {
    holders.clear();
    holders.extend(open.iter().rev().map(|(_, holder)| *holder));
}

/// Walks over items in order, and tells for each prefix which ones hold it, the longest first.
pub(super) fn prefixes(items: &[Item], mut tell: impl FnMut(Prefix, &[Holder])) {
    let mut open: Vec<(u128, Holder)> = Vec::new();
    let mut holders: Vec<Holder> = Vec::new();
    for same in items.chunk_by(|one, other| one.prefix == other.prefix) {
        let Some(prefix) = same.first().map(|item| item.prefix) else { continue };
        let (first, last) = prefix.range();
        while open.last().is_some_and(|(end, _)| *end < first) {
            open.pop();
        }
        open.extend(same.iter().map(|item| (last, item.holder)));
        told(&open, &mut holders);
        tell(prefix, &holders);
    }
}
