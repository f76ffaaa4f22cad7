//! Lives: weir-agent, metrics.
//! Called by: `text`, at each scrape.
//! May touch: what status knows, and through `process` what `/proc/self` says; read only.
//! Never: a label whose values come from traffic: whoever wants addresses reads the records. Most values has `policy`, which the tally
//!   bounds.

use std::collections::BTreeMap;

use prometheus_client::metrics::histogram::Histogram;
use weir_common::{event::LimitStats, maps};

use crate::{
    control::view::Status,
    datapath::{AttachState, CounterCell, Fill, LimitTable, ProgramRuns},
    exporter::QueueStatus,
    metrics::process,
    revoke::{known::CAPACITY, report::Report},
    rpc::Info,
};

/// What is known at one moment.
pub struct Now<'a> {
    pub status: &'a Status,
    pub info: &'a Info,
    pub connections: Report,
    pub records: QueueStatus,
}

impl<'a> Now<'a> {
    /// What belongs together is read once, so that a page agrees with itself.
    pub fn of(status: &'a Status, info: &'a Info) -> Self {
        Self { status, info, connections: info.revoker.report(), records: info.queue.status() }
    }
}

/// What a value is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows, from the start of the agent on; its name ends with `_total`.
    Counter,
    Gauge,
    /// Times, in buckets; its name ends with `_bucket`, `_sum` or `_count`.
    Histogram,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    Count(u64),
    Number(f64),
    Times(Histogram),
}

/// A value and those of its family's labels, in their order.
pub type Sample = (Vec<String>, Value);

/// One metric.
pub struct Family {
    /// Without the `_total` of a counter, which the format adds.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Type,
    pub labels: &'static [&'static str],
    pub read: fn(&Now<'_>) -> Vec<Sample>,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Now<'_>) -> Vec<Sample>,
) -> Family {
    Family { name, help, kind: Type::Counter, labels, read }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Now<'_>) -> Vec<Sample>,
) -> Family {
    Family { name, help, kind: Type::Gauge, labels, read }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Now<'_>) -> Vec<Sample>,
) -> Family {
    Family { name, help, kind: Type::Histogram, labels, read }
}

const DECISION: &[&str] = &["hook", "verdict", "reason"];
const LIMIT: &[&str] = &["limit", "outcome"];
const TABLE: &[&str] = &["table"];
const PROGRAM: &[&str] = &["program"];
const INTERFACE: &[&str] = &["interface", "outcome"];

/// Every metric of the agent, in the order of the page. `docs/metrics.md` is this table.
pub const FAMILIES: &[Family] = &[
    gauge("weir_build_info", &["version", "abi"], "Always 1; which agent this is", |_| {
        vec![(vec![env!("CARGO_PKG_VERSION").to_owned(), weir_common::ABI_VERSION.to_string()], Value::Count(1))]
    }),
    gauge("weir_start_time_seconds", &[], "When the agent started, Unix time", |now| one(seconds(now.status.start_ns))),
    gauge("weir_enforcing", &[], "1 when a generation is in force and everything that exists is attached", |now| {
        one(Value::Count(now.status.observed.enforcing.into()))
    }),
    gauge("weir_pinned", &[], "1 when what is attached stays in force without the agent", |now| {
        one(Value::Count(now.status.observed.pinned.into()))
    }),
    counter("weir_repairs", &[], "Attachments that somebody took away and the agent put back", |now| {
        one(Value::Count(now.status.observed.repairs))
    }),
    gauge("weir_sealed", &[], "1 when the agent can load or execute programs no more", |now| {
        one(Value::Count(now.info.sealed.into()))
    }),
    gauge(
        "weir_landlock",
        &[],
        "1 when Landlock closes all files, ports and processes that are not the agent's",
        |now| one(Value::Count((now.info.landlock == "full").into())),
    ),
    gauge("weir_policy_generation", &[], "The generation in force", |now| one(Value::Count(now.status.generation))),
    gauge("weir_policy_generation_time_seconds", &[], "Since when it is in force, Unix time", |now| {
        one(seconds(now.status.generation_time_ns))
    }),
    gauge("weir_policy_resources", &["kind"], "Resources in force", |now| {
        let of_kind = |(kind, count): (&weir_policy::Kind, &u64)| (vec![kind.name().to_owned()], Value::Count(*count));
        now.status.resources.iter().map(of_kind).collect()
    }),
    counter("weir_decisions", DECISION, "Decisions of the kernel programs", |now| cells(now, |cell| cell.decided)),
    counter("weir_decisions_recorded", DECISION, "Of these, decisions that are in records", |now| {
        let recorded = |cell: &CounterCell| now.info.tally.recorded(cell.hook, cell.verdict, cell.reason);
        cells(now, recorded)
    }),
    counter("weir_decisions_quiet", DECISION, "Of these, decisions by rules that want no record", |now| {
        cells(now, |cell| cell.quiet)
    }),
    counter("weir_decisions_lost", DECISION, "Of these, decisions whose event found the ring full", |now| {
        cells(now, |cell| cell.lost)
    }),
    counter("weir_limit_packets", LIMIT, "Packets charged against a rate limit: passed or exceeded", |now| {
        limits(now, |stats| (stats.passed_packets, stats.exceeded_packets))
    }),
    counter("weir_limit_bytes", LIMIT, "Their bytes", |now| {
        limits(now, |stats| (stats.passed_bytes, stats.exceeded_bytes))
    }),
    gauge("weir_limit_table_slots", &[], "Places of the table of clients; no value while there is no limit", |now| {
        now.status.limit_table.map(|table| one(Value::Count(table.slots))).unwrap_or_default()
    }),
    gauge("weir_limit_table_busy_ratio", &[], "Share of these places that are in use, by a sample", |now| {
        let busy = |table: LimitTable| one(Value::Number(f64::from(table.busy_permille) / 1000.0));
        now.status.limit_table.map(busy).unwrap_or_default()
    }),
    gauge("weir_limit_table_crowded_ratio", &[], "Share of clients whose places are all in use by others", |now| {
        let crowded = |table: LimitTable| one(Value::Number(f64::from(table.crowded_permille()) / 1000.0));
        now.status.limit_table.map(crowded).unwrap_or_default()
    }),
    gauge("weir_interface_attached", &["interface", "mode"], "1 where the XDP program is attached", |now| {
        let attached = |mode: &str| matches!(mode, "native" | "generic");
        let shown = now.status.observed.interfaces.iter();
        let sample =
            shown.map(|one| (vec![one.name.clone(), one.mode.to_owned()], Value::Count(attached(one.mode).into())));
        sample.collect()
    }),
    counter("weir_interface_packets", INTERFACE, "Frames the XDP program saw: passed or dropped", |now| {
        let named = now.status.observed.interfaces.iter().filter(|interface| interface.index != 0);
        let seen = named.filter_map(|one| Some((one, now.status.seen.iter().find(|seen| seen.index == one.index)?)));
        seen.flat_map(|(one, seen)| {
            two(&one.name, "passed", seen.passed, "dropped", seen.seen.saturating_sub(seen.passed))
        })
        .collect()
    }),
    gauge("weir_workloads", &["state"], "Local workloads by what became of attaching to them", |now| {
        let count = |state| now.status.observed.workloads.iter().filter(|workload| workload.state == state).count();
        let states =
            [("attached", AttachState::Attached), ("waiting", AttachState::Waiting), ("failed", AttachState::Failed)];
        states.map(|(word, state)| (vec![word.to_owned()], number(count(state)))).to_vec()
    }),
    gauge("weir_workloads_uncovered", &[], "Workloads with traffic that no hook in place sees", |now| {
        one(number(now.status.observed.workloads.iter().filter(|workload| !workload.uncovered.is_empty()).count()))
    }),
    gauge("weir_connections_known", &[], "Living connections that events have told of", |now| {
        one(number(now.connections.known))
    }),
    gauge("weir_connections_draining", &[], "Forbidden connections that go on because their policy drains", |now| {
        one(number(now.connections.draining))
    }),
    gauge(
        "weir_connections_blocked",
        &[],
        "Forbidden connections that wait for a lock that their process holds",
        |now| one(number(now.connections.blocked.len())),
    ),
    counter("weir_connections_cut", &[], "Connections cut because a generation forbids them", |now| {
        one(Value::Count(now.connections.cut))
    }),
    counter("weir_connections_adopted", &[], "Connections older than the programs that were judged and go on", |now| {
        one(Value::Count(now.connections.adopted))
    }),
    gauge(
        "weir_sweep_clean_generation",
        &[],
        "The generation by which the last sweep found nothing forbidden; 0 while there is something",
        |now| one(Value::Count(now.connections.clean_generation)),
    ),
    gauge("weir_sweep_duration_seconds", &[], "How long the last sweep took", |now| {
        one(Value::Number(now.connections.sweep.as_secs_f64()))
    }),
    gauge(
        "weir_collector_state",
        &["state"],
        "1 for the state of the stream to the collector: connected, connecting or disabled",
        |now| {
            let is = now.info.link.state().word;
            let states = ["connected", "connecting", "disabled"];
            states.map(|word| (vec![word.to_owned()], Value::Count((word == is).into()))).to_vec()
        },
    ),
    gauge("weir_records_queued", &[], "Records that the collector has not acknowledged, wherever they wait", |now| {
        one(Value::Count(now.records.pending + now.records.spool.records))
    }),
    gauge("weir_records_queue_pending", &[], "Of these, records that wait in memory to be packed", |now| {
        one(Value::Count(now.records.pending))
    }),
    gauge("weir_records_queue_capacity", &[], "Most records that may wait in memory to be packed", |now| {
        one(Value::Count(now.records.capacity))
    }),
    gauge("weir_spool_bytes", &[], "Bytes of batches that are kept for the collector", |now| {
        one(Value::Count(now.records.spool.bytes))
    }),
    gauge("weir_spool_capacity_bytes", &[], "Most bytes of batches that are kept; 0 without a disk", |now| {
        one(Value::Count(now.records.spool.capacity))
    }),
    gauge(
        "weir_spool_oldest_time_seconds",
        &[],
        "Time of the oldest batch that is kept, Unix time; 0 for none",
        |now| one(seconds(now.records.spool.oldest_ns)),
    ),
    gauge(
        "weir_spool_disk",
        &[],
        "0 while a disk that is to be used does not take what is spooled, and memory must",
        |now| one(Value::Count(now.records.spool.fault.is_empty().into())),
    ),
    counter("weir_records_sent", &[], "Records given to the stream, each time they were", |now| {
        one(Value::Count(now.records.spool.sent))
    }),
    counter("weir_records_acknowledged", &[], "Records the collector has taken over", |now| {
        one(Value::Count(now.records.spool.acknowledged))
    }),
    counter(
        "weir_records_lost",
        &["cause"],
        "Decisions, and with causes that end in _close other records, that will not be delivered",
        |now| {
            let losses = now.records.losses.iter();
            losses.map(|(cause, count)| (vec![cause.name().to_owned()], Value::Count(*count))).collect()
        },
    ),
    counter(
        "weir_policy_decisions",
        &["policy", "verdict"],
        "Decisions that are in records, by the policy that decided; with `metrics.perPolicy` only",
        policies,
    ),
    counter(
        "weir_policy_requests",
        &["outcome"],
        "Requests to change the policy: applied, unchanged, refused as faulty, or failed in the kernel",
        outcomes,
    ),
    histogram(
        "weir_policy_apply_seconds",
        &["phase"],
        "How long changes of the policy took: parse, compile, install, and whole requests",
        phases,
    ),
    gauge("weir_table_entries", TABLE, "Entries of a table that can fill", |now| tables(now, |table| table.entries)),
    gauge("weir_table_capacity", TABLE, "Entries that it has room for", |now| tables(now, |table| table.capacity)),
    gauge("weir_address_set_bytes", &[], "Kernel memory that the address sets take", |now| {
        one(number(now.status.set_bytes))
    }),
    counter(
        "weir_decisions_coarse",
        &[],
        "Decisions whose records say hook, verdict and reason only: the merge tables were full",
        |now| one(Value::Count(now.info.tally.overflowed())),
    ),
    counter(
        "weir_attribution_misses",
        &["cause"],
        "Records without their process or opening: the memory for them was full, or they are older",
        misses,
    ),
    counter(
        "weir_program_runs",
        PROGRAM,
        "Runs of a kernel program; while the kernel counts them (`metrics.programStats`)",
        |now| programs(now, |runs| Value::Count(runs.runs)),
    ),
    counter("weir_program_run_seconds", PROGRAM, "How long they took, all together", |now| {
        programs(now, |runs| Value::Number(runs.time.as_secs_f64()))
    }),
    counter("process_cpu_seconds", &[], "Processor time of the agent", |_| {
        process::cpu_seconds().map(|seconds| one(Value::Number(seconds))).unwrap_or_default()
    }),
    gauge("process_resident_memory_bytes", &[], "Memory of the agent, without the kernel's tables", |_| {
        known(process::resident_bytes())
    }),
    gauge("process_open_fds", &[], "Descriptors that the agent has open", |_| known(process::open_descriptors())),
    gauge("process_max_fds", &[], "Descriptors that it may have open", |_| known(process::most_descriptors())),
];

/// Rows of `metrics.perPolicy`: as many as there are policies, and never more than the tally tells apart.
fn policies(now: &Now<'_>) -> Vec<Sample> {
    let rows = now.info.tally.by_policy().into_iter();
    rows.map(|(policy, verdict, count)| (vec![policy, verdict.to_owned()], Value::Count(count))).collect()
}

fn outcomes(now: &Now<'_>) -> Vec<Sample> {
    let outcomes = now.status.timing.outcomes();
    outcomes.map(|(outcome, count)| (vec![outcome.name().to_owned()], Value::Count(count))).collect()
}

fn phases(now: &Now<'_>) -> Vec<Sample> {
    let phases = now.status.timing.phases();
    phases.map(|(phase, times)| (vec![phase.name().to_owned()], Value::Times(times.clone()))).collect()
}

/// The kernel's tables, and those that are emptied several times a second, by their highest of late.
fn tables(now: &Now<'_>, value: impl Fn(&Fill) -> u64) -> Vec<Sample> {
    let (tally, known) = (&now.info.tally, u64::try_from(now.connections.known).unwrap_or(u64::MAX));
    let others = [
        Fill::new("merged", tally.table.highest(), maps::MAX_MERGED),
        Fill::new("xdp_drops", tally.drops.highest(), maps::EDGE_DROPS),
        Fill { table: "connections", entries: known, capacity: CAPACITY as u64 },
    ];
    let all = now.status.fill.iter().copied().chain(others);
    all.map(|table| (vec![table.table.to_owned()], Value::Count(value(&table)))).collect()
}

fn misses(now: &Now<'_>) -> Vec<Sample> {
    let stats = now.info.tally.join_stats();
    let causes = [("evicted", stats.evicted), ("missed_close", stats.missed_closes), ("unreadable", stats.unreadable)];
    causes.map(|(cause, count)| (vec![cause.to_owned()], Value::Count(count))).to_vec()
}

fn programs(now: &Now<'_>, value: impl Fn(&ProgramRuns) -> Value) -> Vec<Sample> {
    now.status.runs.iter().map(|runs| (vec![runs.program.to_owned()], value(runs))).collect()
}

fn known(value: Option<u64>) -> Vec<Sample> {
    value.map(|value| one(Value::Count(value))).unwrap_or_default()
}

fn one(value: Value) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn two(name: &str, first: &str, one: u64, second: &str, other: u64) -> [Sample; 2] {
    [(first, one), (second, other)].map(|(word, value)| (vec![name.to_owned(), word.to_owned()], Value::Count(value)))
}

fn number(count: usize) -> Value {
    Value::Count(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Nanoseconds as seconds: to about a tenth of a microsecond today.
#[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
fn seconds(ns: u64) -> Value {
    Value::Number(ns as f64 / 1e9)
}

fn cells(now: &Now<'_>, value: impl Fn(&CounterCell) -> u64) -> Vec<Sample> {
    let labels = |cell: &CounterCell| [cell.hook.name(), cell.verdict.name(), cell.reason.name()].map(str::to_owned);
    now.status.counters.iter().map(|cell| (labels(cell).to_vec(), Value::Count(value(cell)))).collect()
}

fn limits(now: &Now<'_>, value: impl Fn(&LimitStats) -> (u64, u64)) -> Vec<Sample> {
    // A resource may stand for several numbers, and a number for none.
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let numbered = now.status.compiled.limits.iter().zip(&now.status.limits).filter(|(limit, _)| limit.is_some());
    for (limit, stats) in numbered {
        let (sum, (passed, exceeded)) = (sums.entry(&limit.policy).or_default(), value(stats));
        *sum = (sum.0.saturating_add(passed), sum.1.saturating_add(exceeded));
    }
    sums.into_iter().flat_map(|(name, sum)| two(name, "passed", sum.0, "exceeded", sum.1)).collect()
}
