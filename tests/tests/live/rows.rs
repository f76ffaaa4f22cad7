//! Lives: weir-tests, a table of traffic and what must become of it.
//! Called by: the live tests that are tables.
//! May touch: the stage it is given.
//! Never: believes the client alone; the server must have seen the same, and a record must say why.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::documents::workloads;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Record};
use weir_tests::process::Running;
use weir_tests::report::{Attempt, Served};
use weir_tests::world::Who;

/// How long clients wait for what never arrives: below the first retransmission of a SYN.
const GIVE_UP_MS: u64 = 700;
/// How long they wait for everything else, where a busy machine is no fault.
const PATIENCE_MS: u64 = 8000;
/// A refusal that the client was told of at once, and not when it asked again.
const AT_ONCE_MS: f64 = 900.0;

/// How traffic is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Tcp,
    UdpConnected,
    UdpUnconnected,
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// IPv4 through an IPv6 socket.
    Mapped,
}

pub const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

/// What the client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It gets its bytes back.
    Passes,
    /// EPERM, at once.
    Refused,
    /// ECONNREFUSED, at once.
    Answered,
    /// It is answered, but a socket that is not connected is not told of it.
    Unheard,
    /// It never arrives.
    Lost,
}

impl Fate {
    /// How a record says it.
    const fn refusal(self) -> &'static str {
        match self {
            Fate::Passes => "",
            Fate::Refused => "eperm",
            Fate::Answered | Fate::Unheard => "refused",
            Fate::Lost => "silence",
        }
    }
}

/// Why: which record proves it.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    pub verdict: &'static str,
    pub hook: &'static str,
    pub reason: &'static str,
    /// Policy and rule; empty for none.
    pub by: (&'static str, &'static str),
    /// What staged policies would decide: the verdict, policy and rule.
    pub staged: Option<(&'static str, &'static str, &'static str)>,
}

/// One line of a table, run once for each family.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub from: Who,
    pub to: Who,
    pub how: How,
    pub port: u16,
    pub fate: Fate,
    pub proof: Proof,
}

/// A row for one family, with its client.
struct Case<'a> {
    row: &'a Row,
    family: Family,
    client: Option<Running>,
    attempt: Attempt,
}

/// Puts `policies` in force, runs every row in every family at the same time, and checks all of it.
pub fn judge(harness: &mut Harness, policies: &str, rows: &[Row]) -> Result<()> {
    let generation = harness.apply(&format!("{}{policies}", workloads()))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let servers = Servers::start(harness, rows)?;
    let mark = Mark::now();
    let mut cases = Vec::new();
    for row in rows {
        for family in FAMILIES {
            let client = harness.world().start("client", harness.world().probe_line(row.from, &line(row, family)))?;
            cases.push(Case { row, family, client: Some(client), attempt: Attempt::default() });
        }
    }
    for case in &mut cases {
        if let Some(client) = case.client.take() {
            case.attempt = client.attempt()?;
        }
        case.check_client()?;
    }
    let servers = servers.check(&cases)?;
    for case in &cases {
        let what = format!("{:?} {:?}", case.row, case.family);
        harness.record(mark, &what, |record| case.is_proved_by(record, generation, &servers))?;
    }
    // What passes, passes the first time. Datagrams that are refused are told of later than others that pass.
    crate::stage::agrees(harness)?;
    let refused: Vec<Record> = harness
        .records_since(mark)?
        .into_iter()
        .filter(|record| record.is_decided() && record.verdict == "deny")
        .collect();
    for case in cases.iter().filter(|case| case.row.fate == Fate::Passes) {
        let found = refused.iter().find(|record| case.is_of(record));
        ensure!(
            found.is_none(),
            "{:?} {:?}: refused before it passed: {}",
            case.row,
            case.family,
            found.map_or(String::new(), ToString::to_string)
        );
    }
    Ok(())
}

fn line(row: &Row, family: Family) -> String {
    let to = SocketAddr::new(address(row.to, family), row.port);
    let wait = match row.fate {
        Fate::Unheard | Fate::Lost => GIVE_UP_MS,
        Fate::Passes | Fate::Refused | Fate::Answered => PATIENCE_MS,
    };
    let wait = format!("--to {to} --timeout-ms {wait}");
    match row.how {
        How::Tcp => format!("tcp-connect {wait} --bytes 1000"),
        How::UdpConnected => format!("udp-exchange {wait} --connected"),
        How::UdpUnconnected => format!("udp-exchange {wait}"),
    }
}

fn address(who: Who, family: Family) -> IpAddr {
    match family {
        Family::V4 => who.v4(),
        Family::V6 => who.v6(),
        Family::Mapped => who.mapped(),
    }
}

impl Case<'_> {
    fn check_client(&self) -> Result<()> {
        let Case { row, family, attempt, .. } = self;
        let as_it_must = match row.fate {
            Fate::Passes => attempt.result == "ok" && attempt.received == attempt.sent && attempt.sent > 0,
            Fate::Refused => attempt.result == "EPERM" && attempt.elapsed_ms < AT_ONCE_MS,
            Fate::Answered => attempt.result == "ECONNREFUSED" && attempt.elapsed_ms < AT_ONCE_MS,
            Fate::Unheard | Fate::Lost => attempt.result == "ETIMEDOUT" && attempt.received == 0,
        };
        ensure!(as_it_must, "{row:?} {family:?}: the client saw {attempt:?}");
        Ok(())
    }

    /// Whether a record speaks of this row's traffic on its way to the called end.
    fn is_of(&self, record: &Record) -> bool {
        let Row { from, to, port, how, .. } = *self.row;
        let (from, to) = (address(from, self.family), address(to, self.family));
        let incoming = record.direction == "ingress";
        let (called, whose) = if incoming { (&record.local, self.row.to) } else { (&record.remote, self.row.from) };
        let (local, remote) = if incoming { (to, from) } else { (from, to) };
        let protocol = if how == How::Tcp { "TCP" } else { "UDP" };
        // A socket that was not bound has no address of its own yet.
        record.protocol == protocol
            && called.port == port
            && record.local.workload == workload(whose)
            && record.between(local, remote)
    }

    /// The record names everything: who, what, why, which policy and which process.
    fn is_proved_by(&self, record: &Record, generation: u64, servers: &[Server]) -> bool {
        let Case { row, family, attempt, .. } = self;
        let incoming = matches!(row.proof.hook, "ingress" | "sk_lookup" | "xdp");
        let (local, remote) = if incoming { (row.to, row.from) } else { (row.from, row.to) };
        let port = if incoming { record.local.port } else { record.remote.port };
        let protocol = if row.how == How::Tcp { "TCP" } else { "UDP" };
        let pid = if incoming { pid_of(servers, row) } else { attempt.pid };
        record.is(row.proof.verdict, row.proof.hook)
            && record.reason == row.proof.reason
            && (record.policy.as_str(), record.rule.as_str()) == row.proof.by
            && record.refusal == row.fate.refusal()
            && record.staged_verdict.as_deref() == row.proof.staged.map(|(verdict, ..)| verdict)
            && row
                .proof
                .staged
                .is_none_or(|(_, policy, rule)| (policy, rule) == (&*record.staged_policy, &*record.staged_rule))
            && record.generation == generation
            && record.protocol == protocol
            && port == row.port
            && record.between(address(local, *family), address(remote, *family))
            && record.local.workload == workload(local)
            && record.remote.workload == workload(remote)
            && record.direction == if incoming { "ingress" } else { "egress" }
            && record.process.as_ref().is_some_and(|process| {
                // A client may be gone before its executable can be looked up; a server is not.
                let executable = process.executable.ends_with("/weir-probe") || !incoming;
                process.pid == pid && process.command == "weir-probe" && executable
            })
            && record.cgroup == local.name()
            && record.count > 0
    }
}

fn workload(who: Who) -> String {
    if who.managed() { format!("shop/{}", who.name()) } else { String::new() }
}

/// The servers a table needs.
struct Servers(Vec<Server>);

struct Server {
    who: Who,
    tcp: bool,
    pid: u32,
    running: Option<Running>,
}

fn pid_of(servers: &[Server], row: &Row) -> u32 {
    let tcp = row.how == How::Tcp;
    servers.iter().find(|server| server.who == row.to && server.tcp == tcp).map_or(0, |server| server.pid)
}

impl Servers {
    fn start(harness: &Harness, rows: &[Row]) -> Result<Servers> {
        let kinds: BTreeSet<(Who, bool)> = rows.iter().map(|row| (row.to, row.how == How::Tcp)).collect();
        let started = kinds.into_iter().map(|(who, tcp)| {
            let wanted = rows.iter().filter(|row| row.to == who && (row.how == How::Tcp) == tcp);
            let ports: BTreeSet<u16> = wanted.map(|row| row.port).collect();
            // Dual-stack listeners: one for all three families.
            let listen: String = ports.iter().map(|port| format!(" --listen [::]:{port}")).collect();
            let verb = if tcp { "tcp-serve" } else { "udp-serve" };
            let running = harness.world().serve(who, &format!("{verb}{listen}"))?;
            Ok(Server { who, tcp, pid: running.pid(), running: Some(running) })
        });
        Ok(Servers(started.collect::<Result<_>>()?))
    }

    /// Each server has seen exactly what passed.
    fn check(mut self, cases: &[Case<'_>]) -> Result<Vec<Server>> {
        for server in &mut self.0 {
            let running = server.running.take().context("a server was stopped before")?;
            let served: Served = running.served()?;
            for from in Who::ALL {
                for (address, v6) in [(from.v4(), false), (from.v6(), true)] {
                    let expected = cases.iter().filter(|case| {
                        let row = case.row;
                        let same = row.from == from && row.to == server.who && (row.how == How::Tcp) == server.tcp;
                        same && row.fate == Fate::Passes && (case.family == Family::V6) == v6
                    });
                    let (seen, expected) = (served.from(address).packets, expected.count() as u64);
                    ensure!(seen == expected, "{:?} saw {seen} of {expected} from {from:?} {address}", server.who);
                }
            }
        }
        Ok(self.0)
    }
}

/// Nothing else can be waited for where something must not happen; short, and bounded.
pub const A_WHILE: Duration = Duration::from_millis(300);
