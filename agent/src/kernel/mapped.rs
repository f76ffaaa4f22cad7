//! Lives: agent, user space.
//! Called by: `sets`.
//! May touch: the values of one array map, mapped into this process.
//! Never: hands out a plain reference: the kernel reads while we write, so every word is an atomic.
#![expect(
    unsafe_code,
    reason = "a mapping is memory that the compiler knows nothing of; its two invariants are stated below"
)]

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, MapError};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use weir_common::sets::{Line, Lines};
use weir_policy::sets::Memory;

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP`, as in the kernel programs' templates.
const MMAPABLE: u32 = 1 << 10;
const INNER_MAP: u32 = 1 << 12;
const LINE_BYTES: usize = size_of::<Line>();

type Words = [AtomicU64; 8];

/// An image in two maps: the tables of fixed size, and the rest.
pub(super) struct Mapped {
    tables: Array,
    rest: Array,
}

/// An array map of lines.
pub(super) struct Array {
    data: MapData,
    lines: NonNull<Words>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone and is as good on one thread as on another.
unsafe impl Send for Array {}
// SAFETY: what is shared are atomics; the mapping ends with the value.
unsafe impl Sync for Array {}

impl Mapped {
    /// New maps that hold these lines. The first `tables` of them are there in every image of its kind.
    pub fn of(lines: &[Line], tables: u32) -> Result<Self, MapError> {
        let (tables, rest) = lines.split_at_checked(tables as usize).unwrap_or_default();
        Ok(Self { tables: Array::with(tables, MMAPABLE)?, rest: Array::of(rest)? })
    }

    /// The map of the tables.
    pub const fn tables(&self) -> &Array {
        &self.tables
    }

    /// The map of the rest.
    pub const fn rest(&self) -> &Array {
        &self.rest
    }

    /// How large they are.
    pub const fn bytes(&self) -> usize {
        self.tables.bytes() + self.rest.bytes()
    }

    /// Their content as a number.
    pub fn digest(&self) -> u64 {
        self.tables.digest().rotate_left(1) ^ self.rest.digest()
    }

    fn words(&self, index: u32) -> Option<&Words> {
        let index = index as usize;
        match index.checked_sub(self.tables.count) {
            None => self.tables.words().get(index),
            Some(beyond) => self.rest.words().get(beyond),
        }
    }
}

impl Array {
    /// A new map that holds these lines, of whatever length.
    pub fn of(lines: &[Line]) -> Result<Self, MapError> {
        Self::with(lines, MMAPABLE | INNER_MAP)
    }

    fn with(lines: &[Line], flags: u32) -> Result<Self, MapError> {
        let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let object = aya_obj::Map::new_from_params(ARRAY, size_of::<u32>() as u32, LINE_BYTES as u32, count, flags);
        let data = MapData::create(object, "address_sets", None)?;
        let bytes = NonZeroUsize::new(lines.len() * LINE_BYTES);
        let bytes = bytes.ok_or_else(|| MapError::IoError(io::ErrorKind::InvalidInput.into()))?;
        let (access, shared) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else is there.
        let start = unsafe { mmap(None, bytes, access, shared, data.fd().as_fd(), 0) };
        let start = start.map_err(|error| MapError::IoError(error.into()))?;
        let array = Self { data, lines: start.cast(), count: lines.len() };
        for (to, from) in array.words().iter().zip(lines).filter(|(_, from)| **from != [0; 8]) {
            to.iter().zip(from).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        }
        Ok(array)
    }

    /// The map.
    pub const fn data(&self) -> &MapData {
        &self.data
    }

    /// How large it is.
    pub const fn bytes(&self) -> usize {
        self.count * LINE_BYTES
    }

    /// Its content as a number.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (number, line) in self.words().iter().enumerate() {
            let line = line.each_ref().map(|word| word.load(Ordering::Relaxed));
            if line != [0; 8] {
                (number, line).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    const fn words(&self) -> &[Words] {
        // SAFETY: `count` lines are mapped, from a page's start on, for as long as this value lives; all bits are a valid word, and
        // whoever else writes them does so in whole words.
        unsafe { slice::from_raw_parts(self.lines.as_ptr(), self.count) }
    }
}

impl Lines for Mapped {
    type Line = Words;

    fn line(&self, index: u32) -> Option<&Words> {
        self.words(index)
    }

    fn table(&self, index: u32) -> Option<&Words> {
        self.words(index)
    }
}

impl Memory for Mapped {
    fn set(&mut self, line: u32, word: u32, value: u64) {
        let word = self.words(line).and_then(|line| line.get(word as usize & 7));
        if let Some(word) = word {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length, and nobody has a reference any more. It can only fail for another length.
        let _ = unsafe { munmap(self.lines.cast(), self.bytes()) };
    }
}
