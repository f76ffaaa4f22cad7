//! Lives: host.
//! Called by: `compiler`, whenever the address blocks that policies in force name have changed.
//! May touch: nothing.
//! Never: lets a block of one family hold an address of the other, though IPv4 lies inside the IPv6 numbers.
//!
//! ```text
//! prefixes   |------------- ::/0 -------------|     Each prefix is a piece, less the pieces inside it. Pieces that the same
//!                |-- 10/8 ---|                      blocks hold are one region: to policies, all of their addresses are alike.
//!                   |-10.1-|
//! starts     ^   ^  ^      ^ ^
//! ```

use std::collections::{BTreeMap, BTreeSet};

use weir_common::{addr::Addr, image::reserved};

use super::parts::{Group, Parts, Rekeyed};
use crate::{
    evaluate::loopback,
    model::{Entity, IpBlock, Prefix},
};

/// The region of addresses in no block.
pub const OPEN: u32 = 0;

/// The address space as blocks split it.
#[derive(Clone, Debug)]
pub struct Space {
    pieces: Vec<Piece>,
    /// Where a piece begins or goes on, ascending.
    starts: Vec<(u128, usize)>,
    /// Regions; their keys are the blocks that hold them, by number of the block's term.
    pub regions: Parts<Vec<u32>>,
    /// An address of each region.
    samples: BTreeMap<u32, Addr>,
}

/// What is left of a prefix when the prefixes inside it are taken away.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The prefix.
    pub prefix: Prefix,
    /// An address of it.
    pub address: Addr,
    /// What addresses of it are that nobody has.
    pub entity: Entity,
    /// Its region.
    pub region: u32,
    blocks: Vec<u32>,
}

impl Space {
    pub fn new() -> Self {
        let mut regions = Parts::from(1);
        regions.pin(OPEN, Vec::new());
        Self { pieces: Vec::new(), starts: Vec::new(), regions, samples: BTreeMap::new() }
    }

    /// Splits the space anew. `addresses` are those in use, each with its region so far; a region that all of its addresses
    /// share goes on as it is, whatever blocks hold it now.
    pub fn split(
        &mut self,
        blocks: &BTreeMap<u32, &IpBlock>,
        pod_ranges: &BTreeSet<Prefix>,
        addresses: impl Iterator<Item = (Addr, Option<u32>)>,
    ) -> Rekeyed {
        let (mut pieces, starts) = pieces(blocks, pod_ranges);
        let mut groups: BTreeMap<(Option<u32>, &Vec<u32>), usize> = BTreeMap::new();
        for (address, region) in addresses {
            if let Some(piece) = piece_of(&starts, &address).and_then(|piece| pieces.get(piece)) {
                *groups.entry((region, &piece.blocks)).or_default() += 1;
            }
        }
        let old: BTreeMap<Prefix, u32> = self.pieces.iter().map(|piece| (piece.prefix, piece.region)).collect();
        for piece in &pieces {
            *groups.entry((old.get(&piece.prefix).copied(), &piece.blocks)).or_default() += 1;
        }
        let kept: BTreeSet<Prefix> = pieces.iter().map(|piece| piece.prefix).collect();
        let gone = old.iter().filter(|(prefix, _)| !kept.contains(prefix));
        let gone = gone.map(|(_, region)| Group { from: Some(*region), key: None, size: 1 });
        let changed = groups.into_iter().map(|((from, key), size)| Group { from, key: Some(key.clone()), size });
        let rekeyed = self.regions.rekey(changed.chain(gone).collect());
        self.samples.clear();
        for piece in &mut pieces {
            piece.region = self.regions.find(&piece.blocks).unwrap_or(OPEN);
            self.samples.entry(piece.region).or_insert(piece.address);
        }
        (self.pieces, self.starts) = (pieces, starts);
        rekeyed
    }

    /// The region of an address.
    pub fn region(&self, address: &Addr) -> u32 {
        self.piece(address).map_or(OPEN, |piece| piece.region)
    }

    /// What an address is that nobody has.
    pub fn entity(&self, address: &Addr) -> Entity {
        self.piece(address).map_or(Entity::World, |piece| piece.entity)
    }

    fn piece(&self, address: &Addr) -> Option<&Piece> {
        piece_of(&self.starts, address).and_then(|piece| self.pieces.get(piece))
    }

    /// An address of a region; none of those in no block, as rules can tell nothing by it.
    pub fn sample(&self, region: u32) -> Option<Addr> {
        self.samples.get(&region).copied().filter(|_| region != OPEN)
    }

    /// The pieces, outer before inner.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// The prefix table, less the entries that only repeat what the enclosing one says.
pub fn table(entries: impl Iterator<Item = (Prefix, u32)>) -> Vec<(Prefix, u32)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    let mut table = Vec::with_capacity(entries.len());
    let mut outer: Vec<(Prefix, u32)> = Vec::new();
    for (prefix, number) in entries {
        while outer.last().is_some_and(|(enclosing, _)| !enclosing.covers(&prefix)) {
            outer.pop();
        }
        if outer.last().map_or(reserved::WORLD, |(_, enclosing)| *enclosing) != number {
            table.push((prefix, number));
        }
        outer.push((prefix, number));
    }
    table
}

fn piece_of(starts: &[(u128, usize)], address: &Addr) -> Option<usize> {
    let number = u128::from_be_bytes(address.0);
    let after = starts.partition_point(|(start, _)| *start <= number);
    after.checked_sub(1).and_then(|index| starts.get(index)).map(|(_, piece)| *piece)
}

/// Every prefix at whose edge something changes, with the blocks that hold what is left of it; and where each begins.
fn pieces(blocks: &BTreeMap<u32, &IpBlock>, pod_ranges: &BTreeSet<Prefix>) -> (Vec<Piece>, Vec<(u128, usize)>) {
    let mut opening: BTreeMap<Prefix, Vec<u32>> = BTreeMap::new();
    let mut closing: BTreeMap<Prefix, BTreeSet<u32>> = BTreeMap::new();
    for (number, block) in blocks {
        opening.entry(block.cidr).or_default().push(*number);
        for except in &block.except {
            closing.entry(*except).or_default().insert(*number);
        }
    }
    let whole = Prefix::new(Addr::UNSPECIFIED, 0);
    let loopback = BTreeSet::from(loopback());
    let fixed = pod_ranges.iter().chain(&loopback).chain([&Prefix::V4, &whole]);
    let prefixes: BTreeSet<Prefix> = opening.keys().chain(closing.keys()).chain(fixed).copied().collect();
    let mut splitter = Splitter::default();
    for prefix in prefixes {
        let (mut held, mut entity) = splitter.enter(&prefix);
        if prefix == Prefix::V4 {
            held.clear();
            entity = Entity::World;
        }
        if loopback.contains(&prefix) {
            entity = Entity::Loopback;
        } else if entity == Entity::World && pod_ranges.contains(&prefix) {
            entity = Entity::Unknown;
        }
        if let Some(closing) = closing.get(&prefix) {
            held.retain(|block| !closing.contains(block));
        }
        held.extend(opening.get(&prefix).into_iter().flatten());
        held.sort_unstable();
        splitter.push(prefix, entity, held);
    }
    splitter.finish()
}

/// Walks prefixes in order, outer before inner, and keeps the ones it is inside of.
#[derive(Default)]
struct Splitter {
    pieces: Vec<Piece>,
    starts: Vec<(u128, usize)>,
    inside: Vec<(u128, usize)>,
}

impl Splitter {
    /// Leaves the prefixes that end before this one. What is around it: the blocks that hold it, and what it is.
    fn enter(&mut self, prefix: &Prefix) -> (Vec<u32>, Entity) {
        let (first, _) = prefix.range();
        while self.inside.last().is_some_and(|(last, _)| *last < first) {
            self.leave();
        }
        let around = self.inside.last().and_then(|(_, piece)| self.pieces.get(*piece));
        around.map_or((Vec::new(), Entity::World), |piece| (piece.blocks.clone(), piece.entity))
    }

    fn push(&mut self, prefix: Prefix, entity: Entity, blocks: Vec<u32>) {
        let (first, last) = prefix.range();
        self.begin(first, self.pieces.len());
        self.inside.push((last, self.pieces.len()));
        self.pieces.push(Piece { prefix, address: prefix.addr, entity, region: OPEN, blocks });
    }

    /// Leaves the innermost prefix: the one around it goes on.
    fn leave(&mut self) {
        let Some((last, _)) = self.inside.pop() else { return };
        if let (Some(next), Some((_, around))) = (last.checked_add(1), self.inside.last().copied()) {
            self.begin(next, around);
        }
    }

    fn begin(&mut self, at: u128, piece: usize) {
        // What begins in the same place hides what went before.
        while self.starts.last().is_some_and(|(start, _)| *start == at) {
            self.starts.pop();
        }
        self.starts.push((at, piece));
    }

    /// The pieces that have addresses of their own.
    fn finish(mut self) -> (Vec<Piece>, Vec<(u128, usize)>) {
        while !self.inside.is_empty() {
            self.leave();
        }
        let mut own: BTreeMap<usize, u128> = BTreeMap::new();
        for (start, piece) in &self.starts {
            own.entry(*piece).or_insert(*start);
        }
        let numbers: BTreeMap<usize, usize> = own.keys().enumerate().map(|(new, old)| (*old, new)).collect();
        let with_address = self.pieces.into_iter().enumerate().filter_map(|(index, piece)| {
            own.get(&index).map(|start| Piece { address: Addr(start.to_be_bytes()), ..piece })
        });
        let starts = self.starts.iter().filter_map(|(at, piece)| numbers.get(piece).map(|piece| (*at, *piece)));
        (with_address.collect(), starts.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::view::NOBODY,
        evaluate::{PeerEnd, peer_matches},
        model::{Peer, V4_BITS},
    };

    fn v4(a: u8, b: u8, bits: u8) -> Prefix {
        Prefix::new(Addr::v4([a, b, 0, 0]), V4_BITS + bits)
    }

    fn block(cidr: Prefix, except: &[Prefix]) -> IpBlock {
        IpBlock { cidr, except: except.iter().copied().collect() }
    }

    fn blocks(list: &[IpBlock]) -> BTreeMap<u32, &IpBlock> {
        (0..).zip(list).collect()
    }

    fn split(space: &mut Space, list: &[IpBlock], addresses: &[(Addr, Option<u32>)]) -> Rekeyed {
        space.split(&blocks(list), &BTreeSet::new(), addresses.iter().copied())
    }

    #[test]
    fn every_region_is_held_by_exactly_its_blocks() {
        let all_v6 = Prefix::new(Addr::UNSPECIFIED, 0);
        let list = [
            block(v4(10, 0, 8), &[v4(10, 0, 9)]),
            block(v4(10, 0, 9), &[v4(10, 0, 16), v4(10, 1, 16)]),
            block(v4(0, 0, 0), &[v4(10, 0, 8)]),
            block(all_v6, &[Prefix::new(Addr::v6([0xfd; 16]), 8)]),
            block(v4(10, 128, 9), &[]),
        ];
        let mut space = Space::new();
        split(&mut space, &list, &[]);
        let odd = [[10, 0, 0, 1], [10, 1, 2, 3], [10, 2, 0, 0], [10, 127, 255, 255], [10, 128, 0, 0], [11, 0, 0, 0]];
        let odd = odd.map(Addr::v4).into_iter().chain([Addr::v6([0xfd; 16]), Addr::v6([1; 16]), Addr::UNSPECIFIED]);
        for address in odd.chain(space.pieces().iter().map(|piece| piece.address).collect::<Vec<_>>()) {
            let end = PeerEnd { address: Some(address), ..NOBODY };
            let holds = |block: &IpBlock| peer_matches(&Peer::IpBlock { ip_block: block.clone() }, "", &end);
            let holding: Vec<u32> = (0..).zip(&list).filter(|(_, block)| holds(block)).map(|(n, _)| n).collect();
            assert_eq!(**space.regions.key(space.region(&address)).unwrap(), holding, "{address:?}");
        }
        assert!(space.pieces().iter().all(|piece| piece.prefix != v4(10, 0, 8)), "both halves are taken");
    }

    #[test]
    fn a_block_around_every_address_in_use_moves_none_of_them() {
        let mut space = Space::new();
        let in_use = [1, 2].map(|last| Addr::v4([10, 3, 0, last]));
        split(&mut space, &[block(v4(10, 0, 8), &[])], &in_use.map(|address| (address, None)));
        let before = in_use.map(|address| (address, Some(space.region(&address))));
        let wider = [block(v4(10, 0, 8), &[]), block(v4(10, 3, 16), &[])];
        let rekeyed = split(&mut space, &wider, &before);
        let after = in_use.map(|address| (address, Some(space.region(&address))));
        assert!(rekeyed.changed.len() == 2 && before == after, "{rekeyed:?}");
    }

    #[test]
    fn the_table_leaves_out_what_the_enclosing_prefix_says() {
        let rows = [(v4(10, 0, 8), 5), (v4(10, 0, 16), 5), (v4(10, 1, 16), 6), (v4(11, 0, 8), reserved::WORLD)];
        assert_eq!(table(rows.into_iter()), vec![(v4(10, 0, 8), 5), (v4(10, 1, 16), 6)]);
    }
}
