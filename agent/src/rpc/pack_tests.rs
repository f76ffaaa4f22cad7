//! Lives: weir-agent, tests of how batches are packed.
//! Called by: `cargo test`.
//! May touch: memory.
//! Never: takes what was packed for right because packing it again gives the same: each record is compared with its parts.

use std::{collections::BTreeMap, time::Duration};

use weir_common::{addr::Addr, verdict::Direction};

use super::*;
use crate::{
    exporter::{Queue, spooler},
    spool::{Limits, Spool},
    telemetry::clock,
    telemetry::record::{About, RuleName, Staged, WorkloadName},
};

/// A record as it travels unpacked.
fn plain(record: &Record) -> v1::FlowRecord {
    let about = &record.about;
    let end = |end: &End, port: u16| {
        (*end != End::default() || port != 0).then(|| v1::Endpoint {
            address: records::address(&end.addr),
            port: u32::from(port),
            ..records::whose(end)
        })
    };
    let traffic = record.traffic;
    v1::FlowRecord {
        time_ns: record.time_ns,
        end_ns: record.end_ns,
        start_ns: record.start_ns,
        local: end(&about.local, record.local_port),
        remote: end(&about.remote, record.remote_port),
        process: about.process.as_deref().map(records::process),
        cgroup: about.cgroup.as_deref().map(str::to_owned).unwrap_or_default(),
        container: owner(about.cgroup.as_deref().unwrap_or_default()).container.to_owned(),
        unit: owner(about.cgroup.as_deref().unwrap_or_default()).unit.to_owned(),
        cookie: record.cookie,
        packet: record.packet.as_deref().map(<[u8]>::to_vec).unwrap_or_default(),
        bytes_sent: traffic.bytes_sent,
        bytes_received: traffic.bytes_received,
        packets_sent: traffic.packets_sent,
        packets_received: traffic.packets_received,
        rtt_us: traffic.rtt_us,
        retransmits: traffic.retransmits,
        ..records::judgement(record, record.count)
    }
}

fn choice<'a, T>(random: &mut fastrand::Rng, of: &'a [T]) -> Option<&'a T> {
    of.get(random.usize(..of.len()))
}

/// What a node's records are made of.
struct Cast {
    workloads: Vec<Arc<WorkloadName>>,
    rules: Vec<Arc<RuleName>>,
    processes: Vec<Arc<ProcessInfo>>,
    words: Vec<Arc<str>>,
}

impl Cast {
    fn new(size: usize) -> Self {
        let workload = |n: usize| {
            let labels = vec![format!("app=service-{n}"), "pod-template-hash=5f6d8c7b9".into(), "tier=backend".into()];
            let cgroup = Some(
                format!("kubepods.slice/kubepods-burstable.slice/pod{n:08x}/cri-containerd-{n:064x}.scope").into(),
            );
            Arc::new(WorkloadName { name: format!("shop/service-{n}-5f6d8c7b9-abcde"), labels, cgroup })
        };
        let rule = |n: usize| {
            Arc::new(RuleName { policy: format!("NetworkPolicy/shop/allow-{n}"), rule: format!("ingress[{n}]") })
        };
        let process = |n: usize| {
            Arc::new(ProcessInfo {
                pid: 1000 + u32::try_from(n).unwrap(),
                uid: 1000,
                command: format!("service-{n}"),
                executable: format!("/usr/local/bin/service-{n}"),
                start_ticks: 12_345 + n as u64,
                command_line_hash: (!n.is_multiple_of(4)).then(|| 0x0123_4567_89ab_cdef << n),
            })
        };
        Self {
            workloads: (0..size).map(workload).collect(),
            rules: (0..size).map(rule).collect(),
            processes: (0..size).map(process).collect(),
            words: (0..size)
                .map(|n| {
                    Arc::from(
                        [format!("word-{n}"), format!("docker/{n:064x}"), format!("a.slice/{n}.service")][n % 3]
                            .as_str(),
                    )
                })
                .collect(),
        }
    }

    /// A record of which everything is random.
    fn any(&self, random: &mut fastrand::Rng) -> Record {
        let maybe = |random: &mut fastrand::Rng| random.bool();
        let kinds =
            [RecordKind::Verdict, RecordKind::Close, RecordKind::Cut, RecordKind::Adopted, RecordKind::Progress];
        let mut kind = kinds[random.usize(..kinds.len())];
        if random.u8(..8) == 0 {
            kind = RecordKind::Loss(Cause::ALL[random.usize(..Cause::ALL.len())]);
        }
        let any = |random: &mut fastrand::Rng| if random.bool() { random.u64(..) >> random.u32(..64) } else { 0 };
        let staged = maybe(random)
            .then(|| Staged { verdict: Verdict::Deny, rule: maybe(random).then(|| Arc::clone(&self.rules[0])) });
        let about = About {
            verdict: Verdict::from_u8(random.u8(..5)),
            reason: Reason::from_u8(random.u8(..32)),
            hook: Hook::from_u8(random.u8(..16)),
            direction: Direction::from_u8(random.u8(..3)),
            rule: maybe(random).then(|| Arc::clone(choice(random, &self.rules).unwrap())),
            kernel_reason: maybe(random).then(|| Arc::clone(choice(random, &self.words).unwrap())),
            refusal: None,
            staged,
            generation: random.u64(..4),
            local: self.end(random),
            remote: self.end(random),
            protocol: random.u8(..),
            process: maybe(random).then(|| Arc::clone(choice(random, &self.processes).unwrap())),
            cgroup: maybe(random).then(|| Arc::clone(choice(random, &self.words).unwrap())),
            interface: maybe(random).then(|| Arc::clone(choice(random, &self.words).unwrap())),
        };
        Record {
            kind,
            time_ns: any(random),
            end_ns: any(random),
            start_ns: any(random),
            about: Arc::new(about),
            local_port: any(random) as u16,
            remote_port: any(random) as u16,
            tcp_flags: random.u32(..64),
            icmp_type: maybe(random).then(|| random.u8(..)),
            cookie: any(random),
            count: any(random),
            traffic: Traffic {
                bytes_sent: any(random),
                bytes_received: any(random),
                packets_sent: any(random),
                packets_received: any(random),
                rtt_us: random.u32(..3),
                retransmits: random.u32(..),
            },
            packet: maybe(random).then(|| vec![random.u8(..); random.usize(1..128)].into()),
        }
    }

    fn end(&self, random: &mut fastrand::Rng) -> End {
        let addr = [Addr::UNSPECIFIED, Addr::v4([10, 0, 0, random.u8(..)]), Addr([random.u8(..); 16])];
        End {
            workload: random.bool().then(|| Arc::clone(choice(random, &self.workloads).unwrap())),
            service: random.bool().then(|| Arc::clone(choice(random, &self.words).unwrap())),
            identity: random.u32(..3),
            addr: addr[random.usize(..3)],
        }
    }

    /// Verdict and close of a connection among services, as a busy node sees them.
    fn typical(&self, random: &mut fastrand::Rng, n: u64) -> [Record; 2] {
        let pick = |random: &mut fastrand::Rng| random.usize(..self.workloads.len());
        let (from, to) = (pick(random), pick(random));
        let end = |who: usize| End {
            workload: Some(Arc::clone(&self.workloads[who])),
            service: None,
            identity: 100 + u32::try_from(who).unwrap(),
            addr: Addr::v4([10, 1, 2, u8::try_from(who).unwrap()]),
        };
        let time_ns = 1_790_000_000_000_000_000 + n * 130_000;
        let about = About {
            verdict: Some(Verdict::Allow),
            reason: Some(Reason::Rule),
            hook: Some(Hook::SockOps),
            direction: Some(Direction::Egress),
            rule: Some(Arc::clone(&self.rules[to])),
            generation: 17,
            local: end(from),
            remote: end(to),
            protocol: 6,
            process: Some(Arc::clone(&self.processes[from])),
            cgroup: self.workloads[from].cgroup.clone(),
            ..About::default()
        };
        let opened = Record {
            time_ns,
            local_port: random.u16(32_768..),
            remote_port: 8080,
            cookie: 70_000 + n,
            count: 1,
            ..Record::of(Arc::new(about))
        };
        let closed = Record {
            kind: RecordKind::Close,
            time_ns: time_ns + 50_000,
            end_ns: time_ns + 50_000,
            start_ns: time_ns - random.u64(1_000_000..900_000_000),
            cookie: 70_000 + n - random.u64(..200),
            count: 0,
            traffic: Traffic {
                bytes_sent: random.u64(100..5_000),
                bytes_received: random.u64(100..100_000),
                packets_sent: random.u64(4..20),
                packets_received: random.u64(4..60),
                rtt_us: random.u32(50..900),
                retransmits: 0,
            },
            ..opened.clone()
        };
        [opened, closed]
    }
}

#[test]
fn what_was_packed_is_unpacked_as_it_was() {
    let cast = Cast::new(5);
    let mut random = fastrand::Rng::with_seed(7);
    for size in [0, 1, 2, 3, 50, 1024, 3000] {
        let records: Vec<Record> = (0..size).map(|_| cast.any(&mut random)).collect();
        let packed = pack(&records);
        let unpacked = packed::unpack(&packed.bytes).unwrap();
        assert_eq!(unpacked.len(), records.len());
        let plain_bytes: usize = unpacked.iter().map(Message::encoded_len).sum();
        assert!(plain_bytes <= packed.plain, "{plain_bytes} of {}", packed.plain);
        for (record, unpacked) in records.iter().zip(unpacked) {
            assert_eq!(unpacked, plain(record));
        }
    }
}

/// DESIGN's figure for a typical flow.
#[test]
fn a_full_batch_of_typical_records_takes_less_than_48_bytes_for_each() {
    let cast = Cast::new(40);
    let mut random = fastrand::Rng::with_seed(7);
    let records: Vec<Record> = (0..512).flat_map(|n| cast.typical(&mut random, n)).collect();
    let packed = pack(&records).bytes.len();
    let plain: usize = records.iter().map(|record| plain(record).encoded_len()).sum();
    println!("{} bytes a record packed, {} one by one", packed / records.len(), plain / records.len());
    assert!(packed <= 48 * records.len(), "{} bytes a record", packed / records.len());
}

#[test]
fn what_is_given_up_with_a_batch_is_counted_by_cell() {
    let cell = counters::cell(Hook::Connect, Verdict::Deny, Reason::Default);
    let about = Arc::new(About {
        hook: Some(Hook::Connect),
        verdict: Some(Verdict::Deny),
        reason: Some(Reason::Default),
        ..About::default()
    });
    let deny = |count, time_ns| Record { count, time_ns, ..Record::of(Arc::clone(&about)) };
    let close = Record { kind: RecordKind::Close, time_ns: 9, ..Record::default() };
    let loss = |cause, count| Record { kind: RecordKind::Loss(cause), ..deny(count, 20) };
    let others = Record { kind: RecordKind::Loss(Cause::QuotaClose), count: 3, time_ns: 40, ..Record::default() };
    let given = given_up(&pack(&[deny(5, 10), deny(2, 30), close, loss(Cause::RingFull, 7), others]).bytes);
    let expected = Given {
        cells: BTreeMap::from([(Some(cell), 7)]),
        others: 1,
        again: BTreeMap::from([((Cause::RingFull, Some(cell)), 7), ((Cause::QuotaClose, None), 3)]),
        first_ns: 9,
        last_ns: 40,
    };
    assert_eq!(given, expected);
    assert_eq!(given_up(b"nonsense"), Given::default());
}

#[test]
fn bytes_that_are_no_records_are_refused_and_never_panic() {
    let cast = Cast::new(3);
    let mut random = fastrand::Rng::with_seed(3);
    let records: Vec<Record> = (0..20).map(|_| cast.any(&mut random)).collect();
    let good = pack(&records).bytes;
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..bad.len());
            bad[place] = random.u8(..);
        }
        refused += u32::from(packed::unpack(&bad).is_err());
    }
    assert!(refused > 1000, "{refused}");
}

/// A record that is some four kilobytes long.
fn long(pid: u32) -> Record {
    let executable = format!("/{pid}{}", "x".repeat(4080));
    let process = ProcessInfo { pid, uid: 0, command: "x".into(), executable, start_ticks: 1, command_line_hash: None };
    let about = About { process: Some(Arc::new(process)), ..About::default() };
    Record { count: 1, time_ns: clock::wall_now(), ..Record::of(Arc::new(about)) }
}

/// What this run counts must agree with its own counters.
#[test]
fn losses_that_an_earlier_run_was_to_tell_are_told_as_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 70_000, age: Duration::from_secs(3600) };
    let run = |boot: &str, start, records: u32, lost| {
        let queue = Queue::new(10_000, Spool::open(dir.path(), limits, boot, start).unwrap().0, true);
        if lost > 0 {
            queue.lost(Cause::RingFull, Some(counters::cell(Hook::Connect, Verdict::Deny, Reason::Rule)), lost, 1, 2);
            queue.lost(Cause::RingFullClose, None, lost, 1, 2);
        }
        queue.push((0..records).map(long).collect());
        queue.close();
        spooler::run(&queue, CODEC);
        queue
    };
    drop(run("a", 1, 10, 7));
    let queue = run("b", 2, 400, 0);
    let mut told = BTreeMap::new();
    while let Some(parcel) = queue.next_parcel() {
        assert_eq!(&*parcel.boot, "b");
        for record in packed::unpack(&parcel.packed).unwrap().into_iter().filter(|record| !record.loss_cause.is_empty())
        {
            *told.entry(record.loss_cause).or_insert(0) += record.count;
        }
    }
    // Of its own some had to go as well.
    told.retain(|cause, _| cause != Cause::SpoolFull.name());
    let expected = [("earlier_run", 17), ("earlier_run_close", 7)];
    assert_eq!(told, expected.map(|(cause, count)| (cause.to_owned(), count)).into());
}

/// Each process with a path of its own, as long as paths may be: one batch of them would be larger than a message may be.
#[test]
fn records_with_long_names_travel_in_smaller_batches_and_none_is_lost() {
    let queue = Queue::new(10_000, Spool::in_memory("boot", String::new()), true);
    queue.push((0..1500).map(long).collect());
    queue.close();
    spooler::run(&queue, CODEC);
    let (mut pids, mut largest) = (Vec::new(), 0);
    while let Some(parcel) = queue.next_parcel() {
        largest = largest.max(parcel.packed.len());
        let records = packed::unpack(&parcel.packed).unwrap();
        pids.extend(records.into_iter().map(|record| record.process.unwrap().pid));
    }
    assert_eq!(pids, (0..1500).collect::<Vec<_>>());
    assert!(largest <= spooler::BATCH_BYTES && largest > spooler::BATCH_BYTES / 4, "{largest}");
}

/// Each record repeats the labels of its ends, which a batch tells once: what is small on the wire may be more than a collector takes.
#[test]
fn records_of_workloads_with_many_labels_travel_in_batches_that_a_collector_takes() {
    assert_eq!(spooler::PLAIN_BYTES * 2, packed::MAX_BYTES);
    let labels = (0..200).map(|n| format!("{n}={}", "x".repeat(63))).collect();
    let workload = Arc::new(WorkloadName { name: "shop/web".to_owned(), labels, cgroup: None });
    let end = End { workload: Some(workload), ..End::default() };
    let about = Arc::new(About { local: end.clone(), remote: end, ..About::default() });
    let record = |time_ns| Record { time_ns, ..Record::of(Arc::clone(&about)) };
    let queue = Queue::new(10_000, Spool::in_memory("boot", String::new()), true);
    queue.push((0..4096).map(record).collect());
    queue.close();
    spooler::run(&queue, CODEC);
    let batches = std::iter::from_fn(|| queue.next_parcel()).map(|parcel| packed::unpack(&parcel.packed).unwrap());
    let sizes: Vec<usize> = batches.map(|records| records.len()).collect();
    assert_eq!((sizes.iter().sum(), sizes.len()), (4096, 4), "{sizes:?}");
}
