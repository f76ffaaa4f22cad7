//! Lives: weir-tests, BPF object files that are written here and not compiled.
//! Called by: the benchmarks (programs that do nothing, and `code`), live tests (a translator, somebody else's XDP program), in-kernel tests (one that takes long).
//! May touch: nothing but its own bytes.
//! Never: part of anything that ships; so that no test needs a second build.

use object::write::{Object, Relocation, Result, SectionId, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Kinds of maps (enum `bpf_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Values by number.
    Array = 2,
    /// Values by key; what was not used of late makes room for what is new.
    LruHash = 9,
    /// Values by the longest prefix.
    Trie = 11,
}

/// An object file as a compiler would write it.
#[derive(Debug)]
pub struct Assembled {
    object: Object<'static>,
}

impl Default for Assembled {
    fn default() -> Assembled {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
        object.append_section_data(license, b"Dual MIT/GPL\0", 1);
        Assembled { object }
    }
}

impl Assembled {
    /// Adds a program; `section` says of what kind it is (`cgroup/connect4`), in libbpf's words.
    pub fn program(&mut self, name: &str, section: &str, code: &[u8]) -> SectionId {
        let section = self.object.add_section(Vec::new(), section.into(), SectionKind::Text);
        self.object.append_section_data(section, code, 8);
        self.symbol(name, SymbolKind::Text, section, code.len());
        section
    }

    /// Adds an array of `entries` values of `size` bytes.
    pub fn array(&mut self, name: &str, size: u32, entries: u32) -> SymbolId {
        self.map(name, MapKind::Array, [4, size], entries)
    }

    /// Adds a map with keys and values of these sizes.
    pub fn map(&mut self, name: &str, kind: MapKind, [key, value]: [u32; 2], entries: u32) -> SymbolId {
        let section = self.object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
        // BPF_F_NO_PREALLOC, which a trie demands.
        let flags = u32::from(kind == MapKind::Trie);
        // Type, sizes of key and value, entries, then flags, id and pinning.
        let definition: [u32; 7] = [kind as u32, key, value, entries, flags, 0, 0];
        let bytes: Vec<u8> = definition.into_iter().flat_map(u32::to_le_bytes).collect();
        self.object.append_section_data(section, &bytes, 8);
        self.symbol(name, SymbolKind::Data, section, bytes.len())
    }

    /// Says that the instruction at `offset` of a program loads this map.
    ///
    /// # Errors
    /// The format knows no such reference.
    pub fn refer(&mut self, program: SectionId, offset: u64, map: SymbolId) -> Result<()> {
        // R_BPF_64_64
        let flags = RelocationFlags::Elf { r_type: 1 };
        self.object.add_relocation(program, Relocation { offset, symbol: map, addend: 0, flags })
    }

    /// The file.
    ///
    /// # Errors
    /// What was added makes no object file.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.object.write()
    }

    fn symbol(&mut self, name: &str, kind: SymbolKind, section: SectionId, size: usize) -> SymbolId {
        let (scope, section) = (SymbolScope::Dynamic, SymbolSection::Section(section));
        let (name, size) = (name.into(), size as u64);
        self.object.add_symbol(Symbol {
            name,
            value: 0,
            size,
            kind,
            scope,
            weak: false,
            section,
            flags: SymbolFlags::None,
        })
    }
}
