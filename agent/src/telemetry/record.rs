//! Lives: weir-agent, telemetry.
//! Called by: `join`, which makes records; `exporter`, which keeps them; `rpc`, which sends them.
//! May touch: nothing.
//! Never: names generated types; copies a name that is shared.

use std::sync::Arc;

use weir_common::{
    addr::Addr,
    verdict::{Direction, Hook, Reason, Refusal, Verdict},
};

/// One line of the story: a decision, a connection's end, or a loss. What it has in common with its neighbours is shared: there are
/// many of a kind, and they pass through three threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What it tells.
    pub kind: RecordKind,
    /// Wall clock, nanoseconds: of the decision, the first of several, the close.
    pub time_ns: u64,
    /// Of the last of several, or of the connection's end; 0: same as `time_ns`.
    pub end_ns: u64,
    /// For a close: when the connection was opened; 0 when not known.
    pub start_ns: u64,
    /// What it is about.
    pub about: Arc<About>,
    /// The port of the end on this node; 0 when there is none.
    pub local_port: u16,
    /// Of the other end.
    pub remote_port: u16,
    /// TCP flags of the packet, or of all merged ones.
    pub tcp_flags: u32,
    /// Type of the ICMP or ICMPv6 message.
    pub icmp_type: Option<u8>,
    /// Socket cookie; 0 for none.
    pub cookie: u64,
    /// Decisions this stands for; 0 for what is none.
    pub count: u64,
    /// What went over the wire.
    pub traffic: Traffic,
    /// How the dropped packet begins, the first of several; `None` where that is not asked for or not known.
    pub packet: Option<Box<[u8]>>,
}

impl Record {
    /// A record of which nothing else is known than what it is about.
    #[must_use]
    pub fn of(about: Arc<About>) -> Self {
        Self {
            about,
            kind: RecordKind::Verdict,
            time_ns: 0,
            end_ns: 0,
            start_ns: 0,
            local_port: 0,
            remote_port: 0,
            tcp_flags: 0,
            icmp_type: None,
            cookie: 0,
            count: 0,
            traffic: Traffic::default(),
            packet: None,
        }
    }
}

/// What records of one kind have in common: who, by whose word, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What was decided. For a close: when it was opened; `None` when not known.
    pub verdict: Option<Verdict>,
    /// Why.
    pub reason: Option<Reason>,
    /// Where.
    pub hook: Option<Hook>,
    /// Which side opened.
    pub direction: Option<Direction>,
    /// The rule that decided.
    pub rule: Option<Arc<RuleName>>,
    /// Why the kernel dropped it by itself, in its own words; `None` for what Weir decided.
    pub kernel_reason: Option<Arc<str>>,
    /// How a denial reached the one that opened; `None` where it passed.
    pub refusal: Option<Refusal>,
    /// What staged policies would have decided, where that is another verdict.
    pub staged: Option<Staged>,
    /// The generation that judged.
    pub generation: u64,
    /// The end on this node.
    pub local: End,
    /// The other end.
    pub remote: End,
    /// IP protocol number.
    pub protocol: u8,
    /// The process behind the local end.
    pub process: Option<Arc<ProcessInfo>>,
    /// Cgroup path below the managed tree.
    pub cgroup: Option<Arc<str>>,
    /// Interface (XDP).
    pub interface: Option<Arc<str>>,
}

/// What would have been decided were staged policies enforced too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The verdict, which is another than the one in force.
    pub verdict: Verdict,
    /// The rule that would have decided; `None` where none would.
    pub rule: Option<Arc<RuleName>>,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A decision, or several equal ones.
    #[default]
    Verdict,
    /// A TCP connection ended.
    Close,
    /// Records were lost.
    Loss(Cause),
    /// A living connection was cut, because the policy in force forbids it.
    Cut,
    /// A connection older than the programs was judged and goes on.
    Adopted,
    /// A TCP connection lives; what it has come to.
    Progress,
}

/// Where records were lost. Those of decisions and those of other records (closes) are counted apart, because a loss says how many
/// decisions have no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The event of a decision found no room in the kernel's ring: it was full, or scarce, and the workload had its share of it.
    RingFull,
    /// As `RingFull`, of closes.
    RingFullClose,
    /// The kernel dropped packets of its own accord while it was telling of another drop on the same CPU.
    KernelDropMissed,
    /// The agent's queue was full.
    QueueFull,
    /// As `QueueFull`, of records that are no decisions.
    QueueFullClose,
    /// The workload had its share of the queue or the spool, and room was scarce.
    Quota,
    /// As `Quota`, of records that are no decisions.
    QuotaClose,
    /// The spool had its most bytes: the oldest batches had to go.
    SpoolFull,
    /// As `SpoolFull`, of records that are no decisions.
    SpoolFullClose,
    /// Batches in the spool were older than they may be.
    SpoolExpired,
    /// As `SpoolExpired`, of records that are no decisions.
    SpoolExpiredClose,
    /// Batches that an earlier run left in the spool had to go. Apart, because they are none of this run's decisions.
    EarlierRun,
    /// As `EarlierRun`, of records that are no decisions.
    EarlierRunClose,
    /// Batches in the spool could not be read any more.
    SpoolDamaged,
    /// An earlier run of the agent ended without a word, with what it had in memory. How much that was is not known: the count is 0, and the
    /// times say from when to when nothing was recorded.
    AgentEnded,
}

impl Cause {
    /// Every cause there is.
    pub const ALL: &'static [Self] = &[
        Self::RingFull,
        Self::RingFullClose,
        Self::KernelDropMissed,
        Self::QueueFull,
        Self::QueueFullClose,
        Self::Quota,
        Self::QuotaClose,
        Self::SpoolFull,
        Self::SpoolFullClose,
        Self::SpoolExpired,
        Self::SpoolExpiredClose,
        Self::EarlierRun,
        Self::EarlierRunClose,
        Self::SpoolDamaged,
        Self::AgentEnded,
    ];

    /// The word used in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::RingFullClose => "ring_full_close",
            Self::KernelDropMissed => "kernel_drop_missed",
            Self::QueueFull => "queue_full",
            Self::QueueFullClose => "queue_full_close",
            Self::Quota => "quota",
            Self::QuotaClose => "quota_close",
            Self::SpoolFull => "spool_full",
            Self::SpoolFullClose => "spool_full_close",
            Self::SpoolExpired => "spool_expired",
            Self::SpoolExpiredClose => "spool_expired_close",
            Self::EarlierRun => "earlier_run",
            Self::EarlierRunClose => "earlier_run_close",
            Self::SpoolDamaged => "spool_damaged",
            Self::AgentEnded => "agent_ended",
        }
    }

    /// The cause by which it is told where an earlier run had lost it.
    #[must_use]
    pub const fn of_earlier_run(self) -> Self {
        match self {
            Self::AgentEnded => Self::AgentEnded,
            Self::RingFullClose
            | Self::KernelDropMissed
            | Self::QueueFullClose
            | Self::QuotaClose
            | Self::SpoolFullClose
            | Self::SpoolExpiredClose
            | Self::EarlierRunClose => Self::EarlierRunClose,
            Self::RingFull
            | Self::QueueFull
            | Self::Quota
            | Self::SpoolFull
            | Self::SpoolExpired
            | Self::EarlierRun
            | Self::SpoolDamaged => Self::EarlierRun,
        }
    }

    /// The cause by which records that are no decisions are counted.
    #[must_use]
    pub const fn of_others(self) -> Self {
        match self {
            Self::QueueFull => Self::QueueFullClose,
            Self::Quota => Self::QuotaClose,
            Self::SpoolFull => Self::SpoolFullClose,
            Self::SpoolExpired => Self::SpoolExpiredClose,
            Self::EarlierRun => Self::EarlierRunClose,
            other @ (Self::RingFull
            | Self::RingFullClose
            | Self::KernelDropMissed
            | Self::QueueFullClose
            | Self::QuotaClose
            | Self::SpoolFullClose
            | Self::SpoolExpiredClose
            | Self::EarlierRunClose
            | Self::SpoolDamaged
            | Self::AgentEnded) => other,
        }
    }
}

/// One end of a flow, without its port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The workload, if the address or socket belongs to one.
    pub workload: Option<Arc<WorkloadName>>,
    /// The service whose address it is, as "namespace/name".
    pub service: Option<Arc<str>>,
    /// Its identity.
    pub identity: u32,
    /// Its address; unspecified when there is none.
    pub addr: Addr,
}

/// A workload as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadName {
    /// "namespace/name".
    pub name: String,
    /// "key=value", sorted.
    pub labels: Vec<String>,
    /// Path below the managed tree, if it runs here.
    pub cgroup: Option<Arc<str>>,
}

/// A rule as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// "Kind/namespace/name".
    pub policy: String,
    /// Its name or place within.
    pub rule: String,
}

/// The process behind a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Name of the task.
    pub command: String,
    /// Path of the executable; empty if the process was gone, or its pid another's, before it could be read.
    pub executable: String,
    /// Start time, clock ticks since boot; 0 when the executable is empty.
    pub start_ticks: u64,
    /// Hash of the command line (`process`); `None` if it could not be read.
    pub command_line_hash: Option<u64>,
}

/// What went over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes sent (close), bytes of IP packets (merged).
    pub bytes_sent: u64,
    /// As above, received.
    pub bytes_received: u64,
    /// Segments or packets sent.
    pub packets_sent: u64,
    /// Segments or packets received.
    pub packets_received: u64,
    /// Smoothed round-trip time.
    pub rtt_us: u32,
    /// Segments retransmitted.
    pub retransmits: u32,
}
