//! Lives: weir-agent, at its gRPC edge.
//! Called by: the spooler, once for each batch; the spool, for batches it gives up.
//! May touch: its arguments.
//! Never: tells the same thing twice in one batch; `weir_proto::packed` reads what this writes.

use std::{hash::Hash, sync::Arc};

use foldhash::HashMap;
use prost::Message;
use weir_common::{
    addr::Addr,
    counters,
    verdict::{Direction, Hook, Reason, Refusal, Verdict},
};
use weir_proto::{
    packed::{self, present},
    v1::{self, PackedRecords},
};

use super::records;
use crate::{
    spool::{Codec, Given, Packed},
    telemetry::{
        belongs::owner,
        record::{Cause, End, ProcessInfo, Record, RecordKind, Traffic},
    },
};

/// How batches are written and read by who keeps them.
pub const CODEC: Codec = Codec { pack, given_up };

/// Most bytes that a record has of its own where the batch tells none of it once: 21 numbers of up to ten bytes, and their tags.
const OWN: usize = 256;

/// Records as an encoded `PackedRecords`.
fn pack(records: &[Record]) -> Packed {
    let mut packer = Packer::new(records.first().map_or(0, |record| record.time_ns), records.len());
    records.iter().for_each(|record| packer.add(record));
    Packed { bytes: packer.packed.encode_to_vec(), plain: packer.plain }
}

/// What is lost with the records of a batch, by the kernel's cells.
fn given_up(packed: &[u8]) -> Given {
    let mut given = Given::default();
    let Ok(records) = packed::unpack(packed) else { return given };
    for record in records {
        let end = record.end_ns.max(record.time_ns);
        let cell = cell(&record);
        match record.r#type() {
            v1::RecordType::Verdict => given.add(cell, record.count, record.time_ns, end),
            v1::RecordType::Loss => {
                if let Some(cause) = Cause::ALL.iter().find(|cause| cause.name() == record.loss_cause) {
                    given.again(*cause, cell, record.count, record.time_ns, end);
                }
            }
            v1::RecordType::Close
            | v1::RecordType::Cut
            | v1::RecordType::Adopted
            | v1::RecordType::Progress
            | v1::RecordType::Unspecified => {
                given.other(1, record.time_ns, end);
            }
        }
    }
    given
}

fn cell(record: &v1::FlowRecord) -> Option<u32> {
    let hook = *Hook::ALL.iter().find(|hook| hook.name() == record.hook)?;
    let reason = *Reason::ALL.iter().find(|reason| reason.name() == record.reason)?;
    let verdict = match record.verdict() {
        v1::Verdict::Allow => Verdict::Allow,
        v1::Verdict::Deny => Verdict::Deny,
        v1::Verdict::Audit => Verdict::Audit,
        v1::Verdict::Unspecified => return None,
    };
    Some(counters::cell(hook, verdict, reason))
}

/// What makes two judgements one; shared names by where they lie, for the records keep those alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Judged {
    kind: RecordKind,
    verdict: Option<Verdict>,
    reason: Option<Reason>,
    hook: Option<Hook>,
    direction: Option<Direction>,
    refusal: Option<Refusal>,
    rule: usize,
    kernel_reason: usize,
    staged: Option<(Verdict, usize)>,
    interface: usize,
    generation: u64,
    packet: (u8, u32, Option<u8>),
}

/// Likewise two ends.
type Whose = (usize, usize, u32);

struct Packer<'a> {
    packed: PackedRecords,
    judgements: Told<Judged>,
    ends: Told<Whose>,
    addresses: Told<Addr>,
    processes: Told<Process<'a>>,
    cgroups: Told<&'a str>,
    /// Processes and cgroups by where they lie: most are shared, and those need not be compared by what they say.
    shared: Shared,
    /// Bytes that the records would take one by one, at most.
    plain: usize,
    time_ns: u64,
    cookie: u64,
}

/// What was told once, and where in its list. Neighbours are often alike, or alternate: those of the last two are found without hashing.
struct Told<K> {
    places: HashMap<K, Place>,
    last: [Option<(K, Place)>; 2],
}

/// The same by where it lies.
type Shared = HashMap<usize, Place>;

/// The index of something in its list, and how many bytes it takes.
#[derive(Clone, Copy)]
struct Place {
    index: u32,
    length: usize,
}

impl<K: Copy + Hash + Eq> Told<K> {
    fn new() -> Self {
        Self { places: HashMap::default(), last: [None, None] }
    }

    /// The place of a key; `tell` tells it the first time, and says how long it is.
    fn place(&mut self, key: K, tell: impl FnOnce() -> usize) -> Place {
        if let Some((_, place)) = self.last.iter().flatten().find(|(last, _)| *last == key) {
            return *place;
        }
        let index = number(self.places.len() + 1);
        let place = *self.places.entry(key).or_insert_with(|| Place { index, length: tell() });
        let [newer, _] = self.last;
        self.last = [Some((key, place)), newer];
        place
    }
}

/// By what it says, because each event makes its own.
type Process<'a> = (u32, u64, u32, &'a str, &'a str, Option<u64>);

impl<'a> Packer<'a> {
    fn new(time_ns: u64, records: usize) -> Self {
        let column = || Vec::with_capacity(records);
        let packed = PackedRecords {
            time_ns,
            present: column(),
            judgement: column(),
            time: Vec::with_capacity(records),
            local: column(),
            local_address: column(),
            local_port: column(),
            remote: column(),
            remote_address: column(),
            remote_port: column(),
            ..PackedRecords::default()
        };
        Self {
            packed,
            judgements: Told::new(),
            ends: Told::new(),
            addresses: Told::new(),
            processes: Told::new(),
            cgroups: Told::new(),
            shared: Shared::default(),
            plain: 0,
            time_ns,
            cookie: 0,
        }
    }

    fn add(&mut self, record: &'a Record) {
        let count = usual_count(record.kind);
        let judgement = self.judgements.place(judged(record), || {
            push(&mut self.packed.judgements, records::judgement(record, count), Message::encoded_len)
        });
        self.plain += OWN + judgement.length;
        let (local, local_address) = self.end(&record.local);
        let (remote, remote_address) = self.end(&record.remote);
        let packed = &mut self.packed;
        packed.judgement.push(judgement.index);
        packed.time.push(record.time_ns.wrapping_sub(self.time_ns).cast_signed());
        self.time_ns = record.time_ns;
        packed.local.push(local);
        packed.local_address.push(local_address);
        packed.local_port.push(u32::from(record.local.port));
        packed.remote.push(remote);
        packed.remote_address.push(remote_address);
        packed.remote_port.push(u32::from(record.remote.port));
        let present = self.optional(record, count);
        self.packed.present.push(present);
        if let Some(packet) = &record.packet {
            self.packed.packet_of.push(number(self.packed.present.len()));
            self.packed.packets.push(packet.to_vec());
            self.plain += packet.len();
        }
    }

    /// What not every record has; the bits that say what this one has.
    fn optional(&mut self, record: &'a Record, usual_count: u64) -> u32 {
        let packed = &mut self.packed;
        let mut bits = 0;
        if record.end_ns != 0 {
            bits |= present::LASTED;
            packed.lasted.push(record.end_ns.wrapping_sub(record.time_ns).cast_signed());
        }
        if record.start_ns != 0 {
            bits |= present::AGE;
            packed.age.push(record.time_ns.wrapping_sub(record.start_ns).cast_signed());
        }
        if let Some(process) = &record.process {
            bits |= present::PROCESS;
            let place = *self.shared.entry(place(Some(process))).or_insert_with(|| {
                let tell = || push(&mut packed.processes, records::process(process), Message::encoded_len);
                self.processes.place(said(process), tell)
            });
            packed.process.push(place.index);
            self.plain += place.length;
        }
        if let Some(cgroup) = &record.cgroup {
            bits |= present::CGROUP;
            let place = *self.shared.entry(place(Some(cgroup))).or_insert_with(|| {
                self.cgroups.place(cgroup, || {
                    let owner = owner(cgroup);
                    packed.containers.push(owner.container.to_owned());
                    packed.units.push(owner.unit.to_owned());
                    let named = owner.container.len() + owner.unit.len();
                    named + push(&mut packed.cgroups, cgroup.to_string(), String::len)
                })
            });
            packed.cgroup.push(place.index);
            self.plain += place.length;
        }
        if record.cookie != 0 {
            bits |= present::COOKIE;
            packed.cookie.push(record.cookie.wrapping_sub(self.cookie).cast_signed());
            self.cookie = record.cookie;
        }
        if record.count != usual_count {
            bits |= present::COUNT;
            packed.count.push(record.count);
        }
        if record.traffic != Traffic::default() {
            bits |= present::TRAFFIC;
            let Traffic { bytes_sent, bytes_received, packets_sent, packets_received, rtt_us, retransmits } =
                record.traffic;
            packed.traffic.extend([bytes_sent, bytes_received, packets_sent, packets_received]);
            packed.traffic.extend([u64::from(rtt_us), u64::from(retransmits)]);
        }
        bits
    }

    /// Indexes of an end and of its address.
    fn end(&mut self, end: &End) -> (u32, u32) {
        if *end == End::default() {
            return (0, 0);
        }
        let whose = (place(end.workload.as_ref()), place(end.service.as_ref()), end.identity);
        let place = self.ends.place(whose, || push(&mut self.packed.ends, records::whose(end), Message::encoded_len));
        self.plain += place.length;
        let address = if end.addr == Addr::UNSPECIFIED {
            0
        } else {
            let tell = || push(&mut self.packed.addresses, records::address(&end.addr), Vec::len);
            self.addresses.place(end.addr, tell).index
        };
        (place.index, address)
    }
}

/// Tells something; how long it is.
fn push<T>(list: &mut Vec<T>, what: T, length: impl FnOnce(&T) -> usize) -> usize {
    let length = length(&what);
    list.push(what);
    length
}

const fn usual_count(kind: RecordKind) -> u64 {
    match kind {
        RecordKind::Verdict => 1,
        RecordKind::Close | RecordKind::Cut | RecordKind::Adopted | RecordKind::Progress | RecordKind::Loss(_) => 0,
    }
}

fn said(process: &ProcessInfo) -> Process<'_> {
    let ProcessInfo { pid, uid, command, executable, start_ticks, command_line_hash } = process;
    (*pid, *start_ticks, *uid, command, executable, *command_line_hash)
}

fn judged(record: &Record) -> Judged {
    Judged {
        kind: record.kind,
        verdict: record.verdict,
        reason: record.reason,
        hook: record.hook,
        direction: record.direction,
        refusal: record.refusal,
        rule: place(record.rule.as_ref()),
        kernel_reason: place(record.kernel_reason.as_ref()),
        staged: record.staged.as_ref().map(|staged| (staged.verdict, place(staged.rule.as_ref()))),
        interface: place(record.interface.as_ref()),
        generation: record.generation,
        packet: (record.protocol, record.tcp_flags, record.icmp_type),
    }
}

/// Where a shared value lies; 0 for none.
fn place<T: ?Sized>(shared: Option<&Arc<T>>) -> usize {
    shared.map_or(0, |shared| Arc::as_ptr(shared).cast::<()>().addr())
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
