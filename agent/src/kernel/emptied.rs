//! Lives: agent, user space, on the telemetry thread.
//! Called by: `events`, for the tables of merged decisions.
//! May touch: the table it is given: reads and removes its entries, many with one call.
//! Never: is given a table that a program still writes to; loses an entry it has removed.
#![expect(unsafe_code, reason = "aya has no batch operations; the one call is below")]

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{
    maps::{HashMap, IterableMap as _, MapData, MapError},
    sys::SyscallError,
};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use nix::libc;

/// Entries taken with one call. Far more than one bucket of a hash map holds: the kernel takes whole buckets.
const ENTRIES: usize = 2048;

type Map<const KEY: usize, const VALUE: usize> = HashMap<MapData, [u8; KEY], [u8; VALUE]>;

/// Removes every entry and shows it to `sink`. Three calls for each entry, as by next key, lookup and removal, were half of what telemetry
/// took for merged decisions.
///
/// # Errors
/// The kernel refuses. What `sink` was shown until then is removed.
pub fn empty<const KEY: usize, const VALUE: usize>(
    table: &mut Map<KEY, VALUE>,
    mut sink: impl FnMut(&[u8; KEY], &[u8; VALUE]),
) -> Result<(), MapError> {
    let (mut keys, mut values) = (vec![[0; KEY]; ENTRIES], vec![[0; VALUE]; ENTRIES]);
    // Where the kernel goes on: a bucket's number.
    let mut place = None;
    loop {
        let Taken { count, next } = take(table, place, &mut keys, &mut values)
            .map_err(|io_error| SyscallError { call: "bpf_map_lookup_and_delete_batch", io_error })?;
        keys.iter().zip(&values).take(count).for_each(|(key, value)| sink(key, value));
        if next.is_none() {
            return Ok(());
        }
        place = next;
    }
}

/// What one call removed.
struct Taken {
    count: usize,
    /// Where to go on; `None` at the end.
    next: Option<u32>,
}

fn take<const KEY: usize, const VALUE: usize>(
    table: &mut Map<KEY, VALUE>,
    place: Option<u32>,
    keys: &mut [[u8; KEY]],
    values: &mut [[u8; VALUE]],
) -> io::Result<Taken> {
    let (begin, mut next) = (place.unwrap_or_default(), 0u32);
    // SAFETY: integers all through, for which zero is a value.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.batch.in_batch = if place.is_some() { &raw const begin as u64 } else { 0 };
    attr.batch.out_batch = &raw mut next as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(keys.len().min(values.len())).unwrap_or(0);
    attr.batch.map_fd = table.map().fd().as_fd().as_raw_fd().cast_unsigned();
    let (command, size) = (bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH as libc::c_int, size_of::<bpf_attr>());
    // SAFETY: the kernel reads a place of four bytes and writes another (a hash map's), and at most `count` keys and values of the sizes that
    // aya has compared with the map's; all live on.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size) };
    let error = (done < 0).then(io::Error::last_os_error);
    // SAFETY: the member of the union that was written.
    let count = unsafe { attr.batch.count } as usize;
    match error {
        None => Ok(Taken { count, next: Some(next) }),
        // The end of the table, with what there was until there.
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken { count, next: None }),
        Some(error) => Err(error),
    }
}
