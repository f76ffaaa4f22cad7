//! Lives: ctl.
//! Called by: `status`.
//! May touch: the writer it is given.
//! Never: hides a section because it is bad news; an empty one is left out.

use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::style::{BAD, BOLD, DIM, GOOD, ODD, PLAIN, clean, paint, state};
use super::table::Table;
use super::time::{full, span};
use crate::agreement::Agreement;
use crate::view::{Agent, Blocked, Collector, Connections, Disk, Exporter, NodeOnly, Otlp};

/// What is needed to show times.
#[derive(Clone, Debug)]
pub struct Clock {
    pub now: Timestamp,
    pub zone: TimeZone,
}

impl Clock {
    fn up(&self, start: Option<Timestamp>) -> String {
        start.map_or_else(String::new, |start| format!(", up {}", span(self.now.duration_since(start))))
    }

    fn since(&self, time: Option<Timestamp>) -> String {
        time.map_or_else(String::new, |time| format!(" since {}", full(time, &self.zone)))
    }
}

/// The agent's part.
pub fn agent(out: &mut dyn Write, agent: &Agent, counters: &Agreement, clock: &Clock) -> io::Result<()> {
    let (node, version) = (clean(&agent.node), clean(&agent.version));
    writeln!(
        out,
        "{} on {node}: {version}, abi {}{}",
        paint(BOLD, "weir-agent"),
        agent.abi_version,
        clock.up(agent.start)
    )?;
    let enforcing = if agent.enforcing { paint(GOOD, "yes") } else { paint(BAD, "no") };
    writeln!(
        out,
        "  enforcing          {enforcing}, generation {}{}",
        agent.generation,
        clock.since(agent.generation_time)
    )?;
    let repairs = if agent.repairs == 0 {
        String::new()
    } else {
        format!("; put back {} times what was taken away", agent.repairs)
    };
    let outlives = if agent.pinned { "stays in force" } else { "enforcement ends" };
    writeln!(out, "  without the agent  {outlives}{repairs}")?;
    let sealed = if agent.sealed {
        "loads and executes nothing more"
    } else {
        "not sealed: keeps what it was started with (see its log)"
    };
    writeln!(out, "  the agent itself   {sealed}; Landlock: {}", clean(&agent.landlock))?;
    let unselected = clean(&agent.unselected_workloads);
    writeln!(out, "  unknown workloads  {}, unselected ones {unselected}", clean(&agent.unknown_workloads))?;
    writeln!(out, "  cgroup root        {}", clean(&agent.cgroup_root))?;
    let counts = agent.resources.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>();
    writeln!(out, "  resources          {}", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") })?;
    if let Some(exporter) = &agent.exporter {
        self::exporter(out, exporter, clock)?;
    }
    if let Some(connections) = &agent.connections {
        self::connections(out, agent, connections)?;
    }
    section(out, "Workloads", &workloads(agent))?;
    uncovered(out, agent)?;
    section(out, "Node only", &node_only(agent))?;
    meaning_of_node_only(out, agent)?;
    section(out, "Interfaces", &interfaces(agent))?;
    section(out, "Rate limits", &limits(agent))?;
    unprotected(out, agent)?;
    section(out, "Counters", &self::counters(agent))?;
    agreement(out, counters)
}

fn exporter(out: &mut dyn Write, exporter: &Exporter, clock: &Clock) -> io::Result<()> {
    let mut target = clean(&exporter.collector).into_owned();
    if !exporter.detail.is_empty() {
        target = format!("{target} ({})", clean(&exporter.detail)).trim_start().to_owned();
    }
    writeln!(out, "  exporter           {} {target}", paint(state(&exporter.state), &clean(&exporter.state)))?;
    let Exporter { records_queued: queued, queue_capacity: capacity, records_sent: sent, .. } = exporter;
    let lost = match exporter.records_lost {
        0 => "0 lost".to_owned(),
        lost => paint(BAD, &format!("{lost} lost")),
    };
    let acknowledged = exporter.records_acknowledged;
    let pending = exporter.records_pending;
    writeln!(
        out,
        "  records            {queued} not acknowledged, {pending} of them (of at most {capacity}) not packed yet; {sent} sent, \
         {acknowledged} acknowledged, {lost}"
    )?;
    spool(out, exporter, clock)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// What waits on the disk.
fn spool(out: &mut dyn Write, exporter: &Exporter, clock: &Clock) -> io::Result<()> {
    let (bytes, capacity) = (mebibytes(exporter.spool_bytes), mebibytes(exporter.spool_capacity));
    let oldest = exporter.spool_oldest.map(|oldest| format!(", oldest of {}", full(oldest, &clock.zone)));
    let fault = match exporter.spool_fault.as_str() {
        "" => String::new(),
        fault => format!(" {}", paint(BAD, &format!("(kept in memory: {})", clean(fault)))),
    };
    writeln!(out, "  spool              {bytes} of {capacity} MiB{}{fault}", oldest.unwrap_or_default())
}

/// Living connections: whether the last sweep left anything that the policy forbids.
fn connections(out: &mut dyn Write, agent: &Agent, connections: &Connections) -> io::Result<()> {
    let Connections { known, cut, adopted, draining, sockets, namespaces, sweep_us, .. } = connections;
    let found = match connections.clean_generation {
        clean if clean == agent.generation => paint(GOOD, "none forbidden"),
        0 if connections.swept.is_none() => paint(ODD, "not looked at yet"),
        _ => paint(ODD, "being looked at"),
    };
    writeln!(out, "  connections        {found}, {known} known, {cut} cut, {adopted} adopted, {draining} draining")?;
    if connections.swept.is_some() {
        let milliseconds = *sweep_us as f64 / 1000.0;
        writeln!(out, "  last sweep         {sockets} sockets in {namespaces} namespaces, {milliseconds:.1} ms")?;
    }
    for blocked in &connections.blocked {
        let Blocked { workload, connection, rule, waited_ms } = blocked;
        let line = format!("{workload} {connection} by {rule}: its process holds the socket's lock for {waited_ms} ms");
        writeln!(out, "  {}        {}", paint(BAD, "not cut yet"), clean(&line))?;
    }
    Ok(())
}

fn workloads(agent: &Agent) -> Table {
    let mut table = Table::new(&[
        "WORKLOAD",
        ">IDENTITY",
        "STATE",
        "CGROUP",
        "INTERFACE",
        "NOT COVERED",
        "ADDRESSES",
        "DETAIL",
        "HOOKS",
    ]);
    for workload in &agent.workloads {
        table.styled([
            (workload.workload.clone(), PLAIN),
            (workload.identity.to_string(), PLAIN),
            (workload.state.clone(), state(&workload.state)),
            (or_dash(&workload.cgroup), PLAIN),
            (or_dash(&workload.interface), PLAIN),
            (or_dash(&workload.uncovered.join(",")), if workload.uncovered.is_empty() { PLAIN } else { ODD }),
            (or_dash(&workload.addresses.join(",")), PLAIN),
            (workload.detail.clone(), ODD),
            (or_dash(&workload.hooks.join(",")), DIM),
        ]);
    }
    table
}

/// Says what the words of the column mean, once, where there are any.
fn uncovered(out: &mut dyn Write, agent: &Agent) -> io::Result<()> {
    const MEANINGS: [(&str, &str); 8] = [
        ("af_packet", "frames its packet sockets, XDP sockets and TUN devices make"),
        ("forwarded", "what its kernel forwards for others"),
        ("icmp_echo", "echo requests to it, which its kernel answers"),
        ("source", "source addresses its sockets take that are not its own"),
        ("loopback", "what its own processes open to each other on loopback, at the called end (docs/modes.md)"),
        ("multicast", "multicast and broadcast datagrams to it (docs/modes.md)"),
        ("udp_connected", "datagrams of its connected UDP sockets after the first (docs/modes.md)"),
        ("refuse", "its refusals are silent, as no network namespace is known to be its own (docs/policy.md)"),
    ];
    let named = |word: &str| agent.workloads.iter().any(|workload| workload.uncovered.iter().any(|one| one == word));
    let found: Vec<String> =
        MEANINGS.iter().filter(|(word, _)| named(word)).map(|(word, meaning)| format!("{word}: {meaning}")).collect();
    if found.is_empty() {
        return Ok(());
    }
    let how = "judged where spec.interface names the workload's interface (docs/coverage.md)";
    writeln!(out, "{}", paint(DIM, &format!("not covered: {}; {how}", found.join("; "))))
}

/// What counts as the node, and which default its sockets have.
fn node_only(agent: &Agent) -> Table {
    let mut table = Table::new(&["WHAT", "CGROUP", ">PROCESSES", "ITS SOCKETS"]);
    for NodeOnly { pod, cgroup, processes } in &agent.node_only {
        let what =
            if pod.is_empty() { "processes of no workload".to_owned() } else { format!("pod {pod}, host network") };
        let default = match cgroup.as_str() {
            "" => "not judged: outside of the cgroup root".to_owned(),
            _ => format!("unknown workload: {}", agent.unknown_workloads),
        };
        table.styled([(what, PLAIN), (or_dash(cgroup), PLAIN), (processes.to_string(), PLAIN), (default, ODD)]);
    }
    table
}

fn meaning_of_node_only(out: &mut dyn Write, agent: &Agent) -> io::Result<()> {
    if agent.node_only.is_empty() {
        return Ok(());
    }
    let meaning = "no policy selects these: they have what holds for the node (unknownWorkloads; limits and address sets at its \
                   interfaces), as has everything outside of the cgroup root (docs/coverage.md)";
    writeln!(out, "{}", paint(DIM, meaning))
}

fn interfaces(agent: &Agent) -> Table {
    let mut table = Table::new(&["INTERFACE", "MODE", "REFUSES", ">SEEN", ">PASSED", ">DROPPED", "DETAIL"]);
    for interface in &agent.interfaces {
        table.styled([
            (interface.name.clone(), PLAIN),
            (interface.mode.clone(), state(&interface.mode)),
            (or_dash(&interface.refuses.join(",")), PLAIN),
            (interface.packets_seen.to_string(), PLAIN),
            (interface.packets_passed.to_string(), PLAIN),
            (interface.packets_dropped.to_string(), PLAIN),
            (interface.detail.clone(), ODD),
        ]);
    }
    table
}

fn limits(agent: &Agent) -> Table {
    let columns = &["LIMIT", ">PASSED", ">PASSED BYTES", ">EXCEEDED", ">EXCEEDED BYTES"];
    let mut table = Table::new(columns);
    for limit in &agent.limits {
        let numbers = [limit.passed_packets, limit.passed_bytes, limit.exceeded_packets, limit.exceeded_bytes];
        let [passed, passed_bytes, exceeded, exceeded_bytes] = numbers.map(|number| number.to_string());
        table.row([limit.limit.clone(), passed, passed_bytes, exceeded, exceeded_bytes]);
    }
    table
}

/// Names the limits whose SYN protection cannot act, and why.
fn unprotected(out: &mut dyn Write, agent: &Agent) -> io::Result<()> {
    for limit in &agent.limits {
        let Some(syn) = limit.syn_protection.as_ref().filter(|syn| syn.state == "cannot") else { continue };
        let (limit, detail) = (clean(&limit.limit), clean(&syn.detail));
        writeln!(out, "  {limit}: {}: {detail}", paint(BAD, "SYN protection cannot act"))?;
    }
    Ok(())
}

fn counters(agent: &Agent) -> Table {
    let mut table = Table::new(&["HOOK", "VERDICT", "REASON", ">DECIDED", ">RECORDED", ">LOST", ">QUIET"]);
    for counter in &agent.counters {
        let odd = if counter.agrees() { PLAIN } else { ODD };
        let verdict = match counter.verdict.as_str() {
            "deny" => BAD,
            "allow" => GOOD,
            "audit" => ODD,
            _ => PLAIN,
        };
        table.styled([
            (counter.hook.clone(), PLAIN),
            (counter.verdict.clone(), verdict),
            (counter.reason.clone(), PLAIN),
            (counter.decided.to_string(), odd),
            (counter.recorded.to_string(), odd),
            (counter.lost.to_string(), if counter.lost > 0 { BAD } else { PLAIN }),
            (counter.quiet.to_string(), PLAIN),
        ]);
    }
    table
}

/// The collector's part.
pub fn collector(out: &mut dyn Write, collector: &Collector, sums: &Agreement, clock: &Clock) -> io::Result<()> {
    let (version, up) = (clean(&collector.version), clock.up(collector.start));
    writeln!(out, "\n{}: {version}{up}", paint(BOLD, "weir-collector"))?;
    let Collector { history_records: kept, history_capacity: capacity, evicted, .. } = collector;
    writeln!(out, "  history            {kept}/{capacity} records in memory, {evicted} evicted")?;
    writeln!(out, "  on disk            {}", on_disk(collector.disk.as_ref(), clock))?;
    if let Some(otlp) = &collector.otlp {
        writeln!(out, "  otlp               {}", exported(otlp))?;
    }
    let columns =
        &["NODE", "BOOT", "CONNECTED", ">RECORDS", ">DECISIONS", ">DUPLICATES", ">MISSING", ">LOSSES", "LAST SEEN"];
    let mut table = Table::new(columns);
    for node in &collector.nodes {
        let connected = if node.connected { "yes" } else { "no" };
        let seen = node.last_seen.map_or_else(|| "never".to_owned(), |seen| full(seen, &clock.zone));
        table.styled([
            (node.node.clone(), PLAIN),
            (node.boot_id.chars().take(12).collect(), DIM),
            (connected.to_owned(), state(connected)),
            (node.records.to_string(), PLAIN),
            (node.decisions.values().sum::<u64>().to_string(), PLAIN),
            (node.duplicates.to_string(), PLAIN),
            (node.missing_batches.to_string(), if node.missing_batches > 0 { BAD } else { PLAIN }),
            (node.losses.values().sum::<u64>().to_string(), PLAIN),
            (seen, PLAIN),
        ]);
    }
    section(out, "Nodes", &table)?;
    agreement(out, sums)
}

fn on_disk(disk: Option<&Disk>, clock: &Clock) -> String {
    let Some(Disk { records, bytes, capacity, oldest }) = disk else {
        return paint(ODD, "nothing: records end with the collector (history.directory)");
    };
    let since = oldest.map_or_else(String::new, |oldest| format!(" since {}", full(oldest, &clock.zone)));
    format!("{records} records{since}, {} of {} MiB", mebibytes(*bytes), mebibytes(*capacity))
}

fn exported(otlp: &Otlp) -> String {
    let Otlp { sent, retried, queued, capacity, dropped } = otlp;
    let causes: Vec<_> = dropped.iter().map(|(cause, records)| format!("{} {records}", clean(cause))).collect();
    let lost = match causes.is_empty() {
        true => String::new(),
        false => paint(BAD, &format!(", not exported: {}", causes.join(", "))),
    };
    format!("{sent} records sent, {queued}/{capacity} waiting, {retried} sent again{lost}")
}

fn section(out: &mut dyn Write, title: &str, table: &Table) -> io::Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint(BOLD, title))?;
    table.write(out)
}

fn agreement(out: &mut dyn Write, agreement: &Agreement) -> io::Result<()> {
    let style = if agreement.agree { GOOD } else { ODD };
    writeln!(out, "{}", paint(style, &clean(&agreement.says)))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
