//! Lives: every Weir process that carries records.
//! Called by: the `rpc` modules of the collector, for each batch that came packed, and of the agent, for one it gives up.
//! May touch: its arguments.
//! Never: trusts an index, a length or a count; makes more records than [`MAX_RECORDS`], or more than [`MAX_BYTES`] of
//!   them, of one batch.

use std::slice::Iter;

use prost::Message;

use crate::v1::{Endpoint, FlowRecord, PackedRecords};

/// Most records in one batch.
pub const MAX_RECORDS: usize = 65_536;
/// Most bytes that the records of one batch come to one by one: each repeats what the batch tells once. Of 1,024 records, as agents pack
/// them, each may have 64 KiB.
pub const MAX_BYTES: usize = 64 << 20;

/// Bits of `PackedRecords.present`: which lists have a value for the record.
pub mod present {
    /// `lasted`.
    pub const LASTED: u32 = 1;
    /// `age`.
    pub const AGE: u32 = 1 << 1;
    /// `process`.
    pub const PROCESS: u32 = 1 << 2;
    /// `cgroup`.
    pub const CGROUP: u32 = 1 << 3;
    /// `cookie`.
    pub const COOKIE: u32 = 1 << 4;
    /// `count`.
    pub const COUNT: u32 = 1 << 5;
    /// Six of `traffic`.
    pub const TRAFFIC: u32 = 1 << 6;
    /// Every bit there is.
    pub const ALL: u32 = (1 << 7) - 1;
}

/// Why packed records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is no protobuf message.
    Message,
    /// More than [`MAX_RECORDS`].
    TooMany,
    /// Its records come to more than [`MAX_BYTES`].
    TooLarge,
    /// A list has fewer or more values than the records need.
    Length(&'static str),
    /// An index points beyond its list.
    Index(&'static str),
    /// `present` has a bit that means nothing.
    Present,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message => f.write_str("packed records are no PackedRecords message"),
            Self::TooMany => write!(f, "a batch has more than {MAX_RECORDS} records"),
            Self::TooLarge => write!(f, "the records of a batch come to more than {MAX_BYTES} bytes"),
            Self::Length(list) => write!(f, "packed records have too few or too many values in `{list}`"),
            Self::Index(list) => write!(f, "packed records name an entry of `{list}` that is not there"),
            Self::Present => f.write_str("packed records have a bit in `present` that this version does not know"),
        }
    }
}

impl std::error::Error for Malformed {}

/// The records of an encoded `PackedRecords`, in order.
///
/// # Errors
/// The bytes are not what `PackedRecords` documents.
pub fn unpack(bytes: &[u8]) -> Result<Vec<FlowRecord>, Malformed> {
    let packed = PackedRecords::decode(bytes).map_err(|_| Malformed::Message)?;
    if packed.present.len() > MAX_RECORDS {
        return Err(Malformed::TooMany);
    }
    let mut columns = Columns::of(&packed);
    let mut room = MAX_BYTES;
    let mut fits = |record: FlowRecord| {
        room = room.checked_sub(record.encoded_len()).ok_or(Malformed::TooLarge)?;
        Ok(record)
    };
    let records = packed.present.iter().map(|present| columns.record(*present).and_then(&mut fits));
    let records = records.collect::<Result<_, _>>()?;
    columns.end()?;
    Ok(records)
}

/// Where each list is read next.
struct Columns<'a> {
    packed: &'a PackedRecords,
    judgement: Iter<'a, u32>,
    time: Iter<'a, i64>,
    local: [Iter<'a, u32>; 3],
    remote: [Iter<'a, u32>; 3],
    lasted: Iter<'a, i64>,
    age: Iter<'a, i64>,
    process: Iter<'a, u32>,
    cgroup: Iter<'a, u32>,
    cookie: Iter<'a, i64>,
    count: Iter<'a, u64>,
    traffic: Iter<'a, u64>,
    /// Of the record before.
    time_ns: u64,
    /// Of the last record that has one.
    last_cookie: u64,
}

impl<'a> Columns<'a> {
    fn of(packed: &'a PackedRecords) -> Self {
        Self {
            packed,
            judgement: packed.judgement.iter(),
            time: packed.time.iter(),
            local: [packed.local.iter(), packed.local_address.iter(), packed.local_port.iter()],
            remote: [packed.remote.iter(), packed.remote_address.iter(), packed.remote_port.iter()],
            lasted: packed.lasted.iter(),
            age: packed.age.iter(),
            process: packed.process.iter(),
            cgroup: packed.cgroup.iter(),
            cookie: packed.cookie.iter(),
            count: packed.count.iter(),
            traffic: packed.traffic.iter(),
            time_ns: packed.time_ns,
            last_cookie: 0,
        }
    }

    fn record(&mut self, present: u32) -> Result<FlowRecord, Malformed> {
        if present & !present::ALL != 0 {
            return Err(Malformed::Present);
        }
        let has = |bit: u32| present & bit != 0;
        let packed = self.packed;
        let judgement = entry(&packed.judgements, value(&mut self.judgement, "judgement")?, "judgements")?;
        let mut record = judgement.cloned().unwrap_or_default();
        self.time_ns = self.time_ns.wrapping_add_signed(value(&mut self.time, "time")?);
        record.time_ns = self.time_ns;
        record.local = end(packed, &mut self.local, "local")?;
        record.remote = end(packed, &mut self.remote, "remote")?;
        if has(present::LASTED) {
            record.end_ns = record.time_ns.wrapping_add_signed(value(&mut self.lasted, "lasted")?);
        }
        if has(present::AGE) {
            record.start_ns = record.time_ns.wrapping_sub_signed(value(&mut self.age, "age")?);
        }
        if has(present::PROCESS) {
            record.process = entry(&packed.processes, value(&mut self.process, "process")?, "processes")?.cloned();
        }
        if has(present::CGROUP) {
            let index = value(&mut self.cgroup, "cgroup")?;
            let cgroup = entry(&packed.cgroups, index, "cgroups")?;
            record.cgroup = cgroup.cloned().unwrap_or_default();
            if !packed.containers.is_empty() || !packed.units.is_empty() {
                record.container = entry(&packed.containers, index, "containers")?.cloned().unwrap_or_default();
                record.unit = entry(&packed.units, index, "units")?.cloned().unwrap_or_default();
            }
        }
        if has(present::COOKIE) {
            self.last_cookie = self.last_cookie.wrapping_add_signed(value(&mut self.cookie, "cookie")?);
            record.cookie = self.last_cookie;
        }
        if has(present::COUNT) {
            record.count = value(&mut self.count, "count")?;
        }
        if has(present::TRAFFIC) {
            let mut next = || value(&mut self.traffic, "traffic");
            record.bytes_sent = next()?;
            record.bytes_received = next()?;
            record.packets_sent = next()?;
            record.packets_received = next()?;
            record.rtt_us = u32::try_from(next()?).unwrap_or(u32::MAX);
            record.retransmits = u32::try_from(next()?).unwrap_or(u32::MAX);
        }
        Ok(record)
    }

    /// Nothing is left over.
    fn end(mut self) -> Result<(), Malformed> {
        let [local, local_address, local_port] = &mut self.local;
        let [remote, remote_address, remote_port] = &mut self.remote;
        let left = [
            (self.judgement.next().is_some(), "judgement"),
            (self.time.next().is_some(), "time"),
            (local.next().is_some() || local_address.next().is_some() || local_port.next().is_some(), "local"),
            (remote.next().is_some() || remote_address.next().is_some() || remote_port.next().is_some(), "remote"),
            (self.lasted.next().is_some(), "lasted"),
            (self.age.next().is_some(), "age"),
            (self.process.next().is_some(), "process"),
            (self.cgroup.next().is_some(), "cgroup"),
            (self.cookie.next().is_some(), "cookie"),
            (self.count.next().is_some(), "count"),
            (self.traffic.next().is_some(), "traffic"),
        ];
        left.into_iter().find(|(is_left, _)| *is_left).map_or(Ok(()), |(_, list)| Err(Malformed::Length(list)))
    }
}

fn end(
    packed: &PackedRecords,
    lists: &mut [Iter<'_, u32>; 3],
    list: &'static str,
) -> Result<Option<Endpoint>, Malformed> {
    let [ends, addresses, ports] = lists;
    let (index, address, port) = (value(ends, list)?, value(addresses, list)?, value(ports, list)?);
    let address = entry(&packed.addresses, address, "addresses")?;
    let found = entry(&packed.ends, index, "ends")?;
    Ok(found.map(|end| Endpoint { address: address.cloned().unwrap_or_default(), port, ..end.clone() }))
}

fn value<T: Copy>(list: &mut Iter<'_, T>, name: &'static str) -> Result<T, Malformed> {
    list.next().copied().ok_or(Malformed::Length(name))
}

/// The entry an index names; `None` for 0.
fn entry<'a, T>(list: &'a [T], index: u32, name: &'static str) -> Result<Option<&'a T>, Malformed> {
    let Some(place) = usize::try_from(index).ok().and_then(|index| index.checked_sub(1)) else { return Ok(None) };
    list.get(place).map(Some).ok_or(Malformed::Index(name))
}
