//! Lives: agent, user space.
//! Called by: `generation`, on the idle slot.
//! May touch: the inner maps of one slot.
//! Never: believes what a slot holds after an error: it then gets maps of its own again, written from nothing.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use weir_common::{
    addr::Addr,
    event::Endpoint,
    image::{PAGE_WORDS, Page},
    maps,
};
use weir_policy::Prefix;

use super::{
    content::{Changes, Content, Prefixes, prefixes_since},
    error::{self, KernelError},
};

pub(super) type Pages = Array<MapData, [u64; PAGE_WORDS]>;
/// Identity and owner: `weir_common::event::Endpoint` as the map's type.
pub(super) type Endpoints = HashMap<MapData, [u8; 16], [u32; 2]>;
pub(super) type Tries = LpmTrie<MapData, [u8; 16], u32>;

/// `BPF_F_INNER_MAP`: inner arrays may differ in length. The same flag stands in the kernel programs' template.
const BPF_F_INNER_MAP: u32 = 1 << 12;
/// `BPF_F_NO_PREALLOC`.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The inner maps of a slot, and what they hold.
pub(super) struct Slot {
    pub(super) tables: Pages,
    pub(super) endpoints: Endpoints,
    pub(super) cidrs: Tries,
    held: Content,
}

/// Entries that an install wrote or removed, by map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Pages of the image, 4 KiB each.
    pub pages: usize,
    /// Addresses.
    pub endpoints: usize,
    /// Prefixes of peers.
    pub cidrs: usize,
    /// Images of the address sets that were made.
    pub sets: usize,
    /// Whether the slot got new maps, into which everything is written.
    pub whole: bool,
}

impl Slot {
    /// New maps, with room for the image of `content` and some growth.
    pub(super) fn create(content: &Content) -> Result<Self, KernelError> {
        error::map_point("install.maps").map_err(error::map(maps::TABLES))?;
        let pages = content.pages.len() as u32;
        let endpoints = Endpoints::create(maps::MAX_ENDPOINTS, BPF_F_NO_PREALLOC);
        Ok(Self {
            tables: Pages::create(pages + pages / 4 + 8, BPF_F_INNER_MAP).map_err(error::map(maps::TABLES))?,
            endpoints: endpoints.map_err(error::map(maps::ENDPOINTS))?,
            cidrs: Tries::create(maps::MAX_CIDRS, BPF_F_NO_PREALLOC).map_err(error::map(maps::CIDRS))?,
            held: Content::none(),
        })
    }

    /// Addresses and prefixes that it holds.
    pub(super) fn entries(&self) -> (usize, usize) {
        (self.held.addresses(), self.held.cidrs.len())
    }

    /// Whether the image of `content` fits into the maps there are. The others have the largest size from the start.
    pub(super) fn fits(&self, content: &Content) -> bool {
        content.pages.len() <= self.tables.len() as usize
    }

    /// Writes what differs from what is there. On an error the slot is not to be used any more.
    pub(super) fn write(&mut self, content: Content) -> Result<Written, KernelError> {
        let written = Written {
            pages: write_pages(&mut self.tables, &content, &self.held).map_err(error::map(maps::TABLES))?,
            endpoints: write_endpoints(&mut self.endpoints, content.endpoints_since(&self.held))
                .map_err(error::map(maps::ENDPOINTS))?,
            cidrs: write_trie(&mut self.cidrs, &content.cidrs, &self.held.cidrs).map_err(error::map(maps::CIDRS))?,
            sets: 0,
            whole: false,
        };
        self.held = content;
        Ok(written)
    }
}

fn write_pages(map: &mut Pages, content: &Content, held: &Content) -> Result<usize, MapError> {
    let mut count = 0;
    for (index, page) in content.pages_since(held) {
        error::map_point("install.page")?;
        map.set(index, page.words, 0)?;
        count += 1;
    }
    Ok(count)
}

fn write_endpoints(map: &mut Endpoints, changes: Changes<Addr, Endpoint>) -> Result<usize, MapError> {
    let count = changes.gone.len() + changes.set.len();
    for addr in changes.gone {
        error::map_point("install.address")?;
        map.remove(&addr.0)?;
    }
    for (addr, Endpoint { identity, owner }) in changes.set {
        error::map_point("install.address")?;
        map.insert(addr.0, [identity, owner], 0)?;
    }
    Ok(count)
}

fn write_trie(map: &mut Tries, new: &Prefixes, old: &Prefixes) -> Result<usize, MapError> {
    let key = |prefix: Prefix| Key::new(u32::from(prefix.bits), prefix.addr.0);
    let changes = prefixes_since(new, old);
    let count = changes.gone.len() + changes.set.len();
    for prefix in changes.gone {
        error::map_point("install.prefix")?;
        map.remove(&key(prefix))?;
    }
    for (prefix, value) in changes.set {
        error::map_point("install.prefix")?;
        map.insert(&key(prefix), value, 0)?;
    }
    Ok(count)
}

/// Everything a slot's maps hold, read back from the kernel: for tests, which compare one way of writing with another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Pages, without empty ones at the end.
    pub pages: Vec<Page>,
    /// Identity and owner by address.
    pub endpoints: BTreeMap<[u8; 16], [u32; 2]>,
    /// Identity by prefix.
    pub cidrs: BTreeMap<(u32, [u8; 16]), u32>,
    /// The content of the address sets' images, as a number.
    pub sets: u64,
}

impl ReadBack {
    pub(super) fn of(tables: &Pages, endpoints: &Endpoints, cidrs: &Tries, sets: u64) -> Result<Self, KernelError> {
        let pages = (0..tables.len()).map(|index| tables.get(&index, 0).map(|words| Page { words }));
        let mut pages: Vec<Page> = pages.collect::<Result<_, _>>().map_err(error::map(maps::TABLES))?;
        let used = pages.iter().rposition(|page| *page != Page::zeroed()).map_or(0, |last| last + 1);
        pages.truncate(used);
        let endpoints = endpoints.iter().collect::<Result<_, _>>().map_err(error::map(maps::ENDPOINTS))?;
        let entries = |trie: &Tries| {
            let entry = |entry: Result<(Key<[u8; 16]>, u32), MapError>| {
                entry.map(|(key, value)| ((key.prefix_len(), key.data()), value))
            };
            trie.iter().map(entry).collect::<Result<_, _>>()
        };
        Ok(Self { pages, endpoints, cidrs: entries(cidrs).map_err(error::map(maps::CIDRS))?, sets })
    }
}
