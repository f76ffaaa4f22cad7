//! Lives: agent, user space, on the telemetry thread and whichever asks for counters.
//! Called by: `events`, for the tables of merged decisions; `counters`.
//! May touch: the map it is given: reads entries, many with one call; removes those of a table it is to empty.
//! Never: is told to empty a table that a program still writes to; loses an entry it has removed.
#![expect(unsafe_code, reason = "aya has no batch operations; the one call is below")]

use std::{
    borrow::Borrow,
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::{
    maps::{HashMap, IterableMap as _, MapData, MapError, PerCpuArray},
    sys::SyscallError,
    util::nr_cpus,
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
        let mut room = Room { keys: &mut keys, values: &mut values, most: ENTRIES };
        let Taken { count, next } = call(Call::Empty, table.map().fd().as_fd(), place, &mut room)
            .map_err(|io_error| SyscallError { call: "bpf_map_lookup_and_delete_batch", io_error })?;
        keys.iter().zip(&values).take(count).for_each(|(key, value)| sink(key, value));
        if next.is_none() {
            return Ok(());
        }
        place = next;
    }
}

/// The first `most` entries of an array of counters, summed over the CPUs. A call for each of more than a thousand was most of what a quiet host's
/// telemetry did.
///
/// # Errors
/// The kernel refuses.
pub fn sums<T: Borrow<MapData>>(counters: &PerCpuArray<T, u64>, most: usize) -> Result<Vec<u64>, MapError> {
    let cpus = nr_cpus().map_err(|(_, io_error)| io_error)?;
    let (mut keys, mut values) = (vec![0u32; most], vec![0u64; most * cpus]);
    let mut sums = Vec::with_capacity(most);
    let mut place = None;
    while sums.len() < most {
        let mut room = Room { keys: &mut keys, values: &mut values, most };
        let Taken { count, next } = call(Call::Read, counters.map().fd().as_fd(), place, &mut room)
            .map_err(|io_error| SyscallError { call: "bpf_map_lookup_batch", io_error })?;
        // An array's entries come in order.
        sums.extend(values.chunks_exact(cpus).take(count).map(|cell| cell.iter().sum::<u64>()));
        if next.is_none() {
            break;
        }
        place = next;
    }
    sums.resize(most, 0);
    Ok(sums)
}

#[derive(Clone, Copy)]
enum Call {
    Empty,
    Read,
}

/// Where the kernel writes what it finds: room for `most` keys, and for as many values of the map's size.
struct Room<'r, K, V> {
    keys: &'r mut [K],
    values: &'r mut [V],
    most: usize,
}

/// What one call found.
struct Taken {
    count: usize,
    /// Where to go on; `None` at the end.
    next: Option<u32>,
}

fn call<K, V>(what: Call, map: BorrowedFd<'_>, place: Option<u32>, room: &mut Room<'_, K, V>) -> io::Result<Taken> {
    let (begin, mut next) = (place.unwrap_or_default(), 0u32);
    // SAFETY: integers all through, for which zero is a value.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.batch.in_batch = if place.is_some() { &raw const begin as u64 } else { 0 };
    attr.batch.out_batch = &raw mut next as u64;
    attr.batch.keys = room.keys.as_mut_ptr() as u64;
    attr.batch.values = room.values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(room.most).unwrap_or(0);
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    let command = match what {
        Call::Empty => bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH,
        Call::Read => bpf_cmd::BPF_MAP_LOOKUP_BATCH,
    };
    // SAFETY: the kernel reads a place of four bytes and writes another (a hash map's bucket, an array's key), and at most `most` keys and
    // values; both callers make room for as many of the map's sizes, which aya has compared with the map's. All of it lives on.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut attr, size_of::<bpf_attr>()) };
    let error = (done < 0).then(io::Error::last_os_error);
    // SAFETY: the member of the union that was written.
    let count = unsafe { attr.batch.count } as usize;
    match error {
        None => Ok(Taken { count, next: Some(next) }),
        // The end, with what there was until there.
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(Taken { count, next: None }),
        Some(error) => Err(error),
    }
}
