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

/// What is told once of a record whose like the batch has: what it is about, and what of a packet it tells.
type Like = (usize, RecordKind, u32, Option<u8>);

/// Where that is.
#[derive(Clone, Copy)]
struct Parts {
    judgement: u32,
    local: (u32, u32),
    remote: (u32, u32),
    process: u32,
    cgroup: u32,
    /// Bytes that all of it takes.
    length: usize,
}

struct Packer<'a> {
    packed: PackedRecords,
    likes: Told<Like, Parts>,
    judgements: Told<Judged>,
    ends: Told<Whose>,
    addresses: Told<Addr>,
    processes: Told<Process<'a>>,
    cgroups: Told<&'a str>,
    /// Bytes that the records would take one by one, at most.
    plain: usize,
    time_ns: u64,
    cookie: u64,
}

/// What was told once, and where in its list. Neighbours are often alike, or alternate: those of the last two are found without hashing.
struct Told<K, P = Place> {
    places: HashMap<K, P>,
    last: [Option<(K, P)>; 2],
}

/// The index of something in its list, and how many bytes it takes.
#[derive(Clone, Copy)]
struct Place {
    index: u32,
    length: usize,
}

impl<K: Copy + Hash + Eq, P: Copy> Told<K, P> {
    fn new() -> Self {
        Self { places: HashMap::default(), last: [None, None] }
    }

    fn known(&mut self, key: K) -> Option<P> {
        if let Some((_, place)) = self.last.iter().flatten().find(|(last, _)| *last == key) {
            return Some(*place);
        }
        let place = *self.places.get(&key)?;
        self.last = [Some((key, place)), self.last[0]];
        Some(place)
    }

    fn note(&mut self, key: K, place: P) {
        self.places.insert(key, place);
        self.last = [Some((key, place)), self.last[0]];
    }
}

impl<K: Copy + Hash + Eq> Told<K> {
    /// The place of a key; `tell` tells it the first time, and says how long it is.
    fn place(&mut self, key: K, tell: impl FnOnce() -> usize) -> Place {
        self.known(key).unwrap_or_else(|| {
            let place = Place { index: number(self.places.len() + 1), length: tell() };
            self.note(key, place);
            place
        })
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
            likes: Told::new(),
            judgements: Told::new(),
            ends: Told::new(),
            addresses: Told::new(),
            processes: Told::new(),
            cgroups: Told::new(),
            plain: 0,
            time_ns,
            cookie: 0,
        }
    }

    fn add(&mut self, record: &'a Record) {
        let like = (Arc::as_ptr(&record.about).addr(), record.kind, record.tcp_flags, record.icmp_type);
        let parts = self.likes.known(like).unwrap_or_else(|| {
            let parts = self.tell(record);
            self.likes.note(like, parts);
            parts
        });
        self.plain += OWN + parts.length;
        let (local, local_address) = self.end(parts.local, record.local_port);
        let (remote, remote_address) = self.end(parts.remote, record.remote_port);
        let packed = &mut self.packed;
        packed.judgement.push(parts.judgement);
        packed.time.push(record.time_ns.wrapping_sub(self.time_ns).cast_signed());
        self.time_ns = record.time_ns;
        packed.local.push(local);
        packed.local_address.push(local_address);
        packed.local_port.push(u32::from(record.local_port));
        packed.remote.push(remote);
        packed.remote_address.push(remote_address);
        packed.remote_port.push(u32::from(record.remote_port));
        let present = self.optional(record, &parts);
        self.packed.present.push(present);
        if let Some(packet) = &record.packet {
            self.packed.packet_of.push(number(self.packed.present.len()));
            self.packed.packets.push(packet.to_vec());
            self.plain += packet.len();
        }
    }

    /// Tells what the batch has not told yet of a record that is the first of its like.
    fn tell(&mut self, record: &'a Record) -> Parts {
        let about = &*record.about;
        let judgement = self.judgements.place(judged(record), || {
            let judgement = records::judgement(record, usual_count(record.kind));
            push(&mut self.packed.judgements, judgement, Message::encoded_len)
        });
        let (local, local_length) = self.whose(&about.local);
        let (remote, remote_length) = self.whose(&about.remote);
        let process = about.process.as_deref().map(|process| {
            let tell = || push(&mut self.packed.processes, records::process(process), Message::encoded_len);
            self.processes.place(said(process), tell)
        });
        let cgroup = about.cgroup.as_deref().map(|cgroup| {
            self.cgroups.place(cgroup, || {
                let owner = owner(cgroup);
                self.packed.containers.push(owner.container.to_owned());
                self.packed.units.push(owner.unit.to_owned());
                let named = owner.container.len() + owner.unit.len();
                named + push(&mut self.packed.cgroups, cgroup.to_owned(), String::len)
            })
        });
        let index = |place: Option<Place>| place.map_or(0, |place| place.index);
        let length = |place: Option<Place>| place.map_or(0, |place| place.length);
        Parts {
            judgement: judgement.index,
            local,
            remote,
            process: index(process),
            cgroup: index(cgroup),
            length: judgement.length + local_length + remote_length + length(process) + length(cgroup),
        }
    }

    /// What not every record has; the bits that say what this one has.
    fn optional(&mut self, record: &Record, parts: &Parts) -> u32 {
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
        if parts.process != 0 {
            bits |= present::PROCESS;
            packed.process.push(parts.process);
        }
        if parts.cgroup != 0 {
            bits |= present::CGROUP;
            packed.cgroup.push(parts.cgroup);
        }
        if record.cookie != 0 {
            bits |= present::COOKIE;
            packed.cookie.push(record.cookie.wrapping_sub(self.cookie).cast_signed());
            self.cookie = record.cookie;
        }
        if record.count != usual_count(record.kind) {
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

    /// Indexes of an end and of its address, and how long the first is.
    fn whose(&mut self, end: &End) -> ((u32, u32), usize) {
        if *end == End::default() {
            return ((0, 0), 0);
        }
        let whose = (place(end.workload.as_ref()), place(end.service.as_ref()), end.identity);
        let place = self.ends.place(whose, || push(&mut self.packed.ends, records::whose(end), Message::encoded_len));
        let address = if end.addr == Addr::UNSPECIFIED {
            0
        } else {
            let tell = || push(&mut self.packed.addresses, records::address(&end.addr), Vec::len);
            self.addresses.place(end.addr, tell).index
        };
        ((place.index, address), place.length)
    }

    /// The end of a record: of an end that has only a port nothing else is told, but it is one.
    fn end(&mut self, end: (u32, u32), port: u16) -> (u32, u32) {
        if end != (0, 0) || port == 0 {
            return end;
        }
        let nobody = records::whose(&End::default());
        let place = self.ends.place((0, 0, 0), || push(&mut self.packed.ends, nobody, Message::encoded_len));
        (place.index, 0)
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
    let about = &*record.about;
    Judged {
        kind: record.kind,
        verdict: about.verdict,
        reason: about.reason,
        hook: about.hook,
        direction: about.direction,
        refusal: about.refusal,
        rule: place(about.rule.as_ref()),
        kernel_reason: place(about.kernel_reason.as_ref()),
        staged: about.staged.as_ref().map(|staged| (staged.verdict, place(staged.rule.as_ref()))),
        interface: place(about.interface.as_ref()),
        generation: about.generation,
        packet: (about.protocol, record.tcp_flags, record.icmp_type),
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
