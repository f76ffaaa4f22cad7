//! Lives: collector, every name that leaves it by OTLP.
//! Called by: `rpc::otlp`.
//! May touch: nothing.
//! Never: names a thing twice, or invents a name where OpenTelemetry's semantic conventions have one.
//!
//! `docs/otlp.md` is these tables; a test holds them equal.

use Kind::{Number, Text, Texts};

/// What kind of value an attribute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// Strings.
    Texts,
    /// A 64-bit integer.
    Number,
}

/// An attribute of a resource, a log record or a point of a metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// Its value's kind.
    pub kind: Kind,
    /// What it says.
    pub meaning: &'static str,
}

/// How a metric is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Only grows, from the start time of its points on.
    Sum,
    /// What is so now.
    Gauge,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Sum or gauge.
    pub shape: Shape,
    /// Unit, in UCUM's notation.
    pub unit: &'static str,
    /// Attributes of its points.
    pub attributes: &'static [Attribute],
    /// What it says.
    pub meaning: &'static str,
}

/// Declares attributes, and the table of them all.
macro_rules! attributes {
    ($table:ident: $($name:ident = $text:literal, $kind:ident, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: Attribute = Attribute { name: $text, kind: $kind, meaning: $meaning };)*
        /// The table of these attributes.
        pub const $table: &[Attribute] = &[$($name),*];
    };
}

/// Declares metrics, and the table of them all.
macro_rules! metrics {
    ($($name:ident = $text:literal, $shape:ident, $unit:literal, [$($attribute:ident),*], $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: Metric = Metric {
            name: $text, shape: Shape::$shape, unit: $unit, attributes: &[$($attribute),*], meaning: $meaning,
        };)*
        /// The table of all metrics.
        pub const METRICS: &[Metric] = &[$($name),*];
    };
}

attributes! { RESOURCE:
    SERVICE_NAME = "service.name", Text, "`weir` for what a node reports, `weir-collector` for the collector itself";
    SERVICE_VERSION = "service.version", Text, "The collector's version";
    SERVICE_INSTANCE_ID = "service.instance.id", Text, "Of metrics: the node's boot, random for each start of its agent; for the collector itself, random for each start";
    HOST_NAME = "host.name", Text, "The node as its agent is configured to call it; for the collector itself, its host";
}

attributes! { LOGS:
    SOURCE_ADDRESS = "source.address", Text, "Address of the end that opened; absent while a socket has none yet";
    SOURCE_PORT = "source.port", Number, "Its port";
    DESTINATION_ADDRESS = "destination.address", Text, "Address of the end that was to be reached";
    DESTINATION_PORT = "destination.port", Number, "Its port";
    NETWORK_TRANSPORT = "network.transport", Text, "`tcp`, `udp`, `sctp`, `dccp` or `udplite`; absent for other protocols";
    NETWORK_TYPE = "network.type", Text, "`ipv4` or `ipv6`; an IPv4-mapped address is IPv4";
    NETWORK_IO_DIRECTION = "network.io.direction", Text, "`transmit`: the source is on this node; `receive`: the destination is";
    NETWORK_INTERFACE_NAME = "network.interface.name", Text, "Interface the packet came in on (XDP)";
    PROCESS_PID = "process.pid", Number, "The process behind the end on this node";
    PROCESS_EXECUTABLE_PATH = "process.executable.path", Text, "Its program; absent if it was gone before that could be read";
    PROCESS_EXECUTABLE_NAME = "process.executable.name", Text, "The last part of that path";
    PROCESS_REAL_USER_ID = "process.real_user.id", Number, "Its user";
    CONTAINER_ID = "container.id", Text, "The container it runs in, by its cgroup";
    K8S_NAMESPACE_NAME = "k8s.namespace.name", Text, "The pod's namespace, where the workload on this node is a pod by its cgroup";
    K8S_POD_NAME = "k8s.pod.name", Text, "The pod";
    K8S_POD_UID = "k8s.pod.uid", Text, "Its UID";
    VERDICT = "weir.verdict", Text, "`allow`, `deny` or `audit` (passed, and would have been denied)";
    REASON = "weir.reason", Text, "Why (docs/records.md)";
    HOOK = "weir.hook", Text, "Where in the kernel it was decided (docs/records.md)";
    POLICY = "weir.policy", Text, "Policy that decided, `Kind/namespace/name`";
    RULE = "weir.rule", Text, "Rule within it";
    GENERATION = "weir.generation", Number, "Generation of the policy that judged";
    REFUSAL = "weir.refusal", Text, "How a denial reached the source: `eperm`, `refused` or `silence`";
    COUNT = "weir.count", Number, "Equal decisions this record stands for, or decisions whose records are lost; 0 for what is no decision";
    END_TIME = "weir.end_time_unix_nano", Number, "Time of the last of several equal decisions or losses, nanoseconds since 1970; absent if there was one";
    START_TIME = "weir.start_time_unix_nano", Number, "Of a close or progress: when the connection was opened; absent if not known";
    KERNEL_REASON = "weir.kernel_reason", Text, "Why the kernel dropped it by itself, as it calls that";
    STAGED_VERDICT = "weir.staged.verdict", Text, "What staged policies would have decided, where that is another verdict";
    STAGED_POLICY = "weir.staged.policy", Text, "The policy that would have";
    STAGED_RULE = "weir.staged.rule", Text, "Rule within it";
    SOURCE_WORKLOAD = "weir.source.workload", Text, "Workload at the source, `namespace/name`";
    SOURCE_LABELS = "weir.source.labels", Texts, "Its labels, `key=value`";
    SOURCE_SERVICE = "weir.source.service", Text, "Service whose address the source is";
    SOURCE_IDENTITY = "weir.source.identity", Number, "Its numeric identity; 1 world, 2 host";
    SOURCE_BYTES = "weir.source.bytes", Number, "Of a close or progress: bytes the source sent";
    SOURCE_PACKETS = "weir.source.packets", Number, "Of a close or progress: segments the source sent";
    DESTINATION_WORKLOAD = "weir.destination.workload", Text, "Workload at the destination";
    DESTINATION_LABELS = "weir.destination.labels", Texts, "Its labels";
    DESTINATION_SERVICE = "weir.destination.service", Text, "Service whose address the destination is";
    DESTINATION_IDENTITY = "weir.destination.identity", Number, "Its numeric identity";
    DESTINATION_BYTES = "weir.destination.bytes", Number, "Of a close or progress: bytes the destination sent";
    DESTINATION_PACKETS = "weir.destination.packets", Number, "Of a close or progress: segments the destination sent";
    PROTOCOL = "weir.ip.protocol", Number, "IP protocol number";
    TCP_FLAGS = "weir.tcp.flags", Number, "TCP flags of the packet, as bits; of merged records all that were seen";
    TCP_RTT = "weir.tcp.rtt_us", Number, "Of a close or progress: round-trip time, microseconds";
    TCP_RETRANSMITS = "weir.tcp.retransmits", Number, "Of a close or progress: segments sent again by the end on this node";
    ICMP_TYPE = "weir.icmp.type", Number, "Type of the ICMP or ICMPv6 message";
    COMMAND = "weir.process.command", Text, "Name of the task, at most 15 bytes";
    START_TICKS = "weir.process.start_ticks", Number, "Its start in clock ticks since boot: tells two processes of one pid apart";
    COMMAND_LINE_HASH = "weir.process.command_line_hash", Text, "First 8 bytes of the SHA-256 of its command line, in hexadecimal; the command line itself is never sent";
    CGROUP = "weir.cgroup", Text, "Cgroup below the managed tree";
    UNIT = "weir.unit", Text, "Unit of systemd that the cgroup belongs to";
    COOKIE = "weir.socket.cookie", Number, "The kernel's socket cookie; of an ingress verdict the listener's";
    PACKET = "weir.packet", Text, "How the dropped packet begins, from the IP header on, in hexadecimal; absent unless the agent is told to";
    LOSS_CAUSE = "weir.loss_cause", Text, "Of a loss: where the records went (above, and docs/records.md)";
    LOST_RECORDS = "weir.lost_records", Number, "Of a loss on the way out of the collector: records it stands for";
}

metrics! {
    DECISIONS = "weir.decisions", Sum, "{decision}", [HOOK, VERDICT, REASON], "Decisions in the node's records";
    DECISIONS_LOST = "weir.decisions.lost", Sum, "{decision}", [LOSS_CAUSE], "Decisions, and with causes that end in _close other records, that the node lost";
    RECORDS = "weir.records", Sum, "{record}", [], "Records taken over from the node";
    BATCHES_MISSING = "weir.batches.missing", Sum, "{batch}", [], "Batches of the node that never came";
    BATCHES_DUPLICATE = "weir.batches.duplicate", Sum, "{batch}", [], "Batches that came again and were not counted twice";
    NODE_CONNECTED = "weir.node.connected", Gauge, "1", [], "1 while the node's stream is open";
    NODE_LAST_SEEN = "weir.node.last_seen", Gauge, "s", [], "When a batch last came, Unix time";
    HISTORY_RECORDS = "weir.history.records", Gauge, "{record}", [], "Records the collector keeps for `weirctl observe`";
    HISTORY_CAPACITY = "weir.history.capacity", Gauge, "{record}", [], "Records it can keep";
    HISTORY_EVICTED = "weir.history.evicted", Sum, "{record}", [], "Records that made room for newer ones";
    OTLP_SENT = "weir.otlp.records.sent", Sum, "{record}", [], "Records the receiver has taken";
    OTLP_RETRIED = "weir.otlp.records.retried", Sum, "{record}", [], "Records that were sent once more";
    OTLP_DROPPED = "weir.otlp.records.dropped", Sum, "{record}", [LOSS_CAUSE], "Records that were not exported";
    OTLP_QUEUE_RECORDS = "weir.otlp.queue.records", Gauge, "{record}", [], "Records that wait for the receiver";
    OTLP_QUEUE_CAPACITY = "weir.otlp.queue.capacity", Gauge, "{record}", [], "Records that can wait";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(heading: &str) -> Vec<String> {
        let text = include_str!("../../../docs/otlp.md");
        let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        section.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
    }

    fn attributes(table: &[Attribute]) -> Vec<String> {
        let kind = |kind| match kind {
            Text => "string",
            Texts => "strings",
            Number => "integer",
        };
        table.iter().map(|one| format!("| `{}` | {} | {} |", one.name, kind(one.kind), one.meaning)).collect()
    }

    #[test]
    fn the_tables_of_the_documentation_are_those_of_the_code() {
        assert_eq!(rows("Resources"), attributes(RESOURCE));
        assert_eq!(rows("Attributes of log records"), attributes(LOGS));
        let metrics: Vec<String> = METRICS
            .iter()
            .map(|metric| {
                let shape = if metric.shape == Shape::Sum { "sum" } else { "gauge" };
                let attributes: Vec<_> = metric.attributes.iter().map(|attribute| attribute.name).collect();
                let (unit, attributes) = (metric.unit, attributes.join(", "));
                format!("| `{}` | {shape} | {unit} | {attributes} | {} |", metric.name, metric.meaning)
            })
            .collect();
        assert_eq!(rows("Metrics"), metrics);
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut names: Vec<_> = RESOURCE.iter().chain(LOGS).map(|attribute| attribute.name).collect();
        names.extend(METRICS.iter().map(|metric| metric.name));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
