//! Lives: xtask, what is run on each kernel, and what a kernel is known not to do.
//! Called by: vm.
//! May touch: nothing.
//! Never: has a kernel leave something out without a reason that docs/kernel-support.md shows.

/// A test program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// In-kernel runs: all cases of a part by one start.
    KernelRuns,
    /// Agents, collectors and namespaces: a start for each case.
    Live,
}

/// Cases that are run together.
pub struct Part {
    /// On the command line and in the table.
    pub name: &'static str,
    /// What it shows, for people.
    pub shows: &'static str,
    /// Whose cases they are.
    pub of: Of,
    /// What the program is started with, beside the names of cases.
    pub options: &'static [&'static str],
    /// Whole names.
    pub cases: &'static [&'static str],
    /// Longest time of a start, in an emulator.
    pub patience: u32,
}

/// The part that every kernel tries.
pub const LOADING: &str = "loading";

const ONE_AT_A_TIME: &[&str] = &["--exact", "--test-threads", "1"];

/// Everything, in the order it runs. The first is tried also by a kernel that is known to refuse.
pub const PARTS: [Part; 7] = [
    Part {
        name: LOADING,
        shows: "every program is accepted by the verifier, those for shared XDP slots too",
        of: Of::KernelRuns,
        options: &["--ignored", "--exact", "--nocapture"],
        cases: &["budget::what_every_program_takes"],
        patience: 120,
    },
    Part {
        name: "sockets",
        shows: "real connections and datagrams, to a workload and from it, IPv4 and IPv6, pass or are refused as its policy says",
        of: Of::KernelRuns,
        options: ONE_AT_A_TIME,
        cases: &["real::real_packets_are_judged_at_sockets_as_the_policy_says"],
        patience: 300,
    },
    Part {
        name: "verdicts",
        shows: "packets made up for the purpose are decided at sockets as the policy says, counted, and recorded where they are to be",
        of: Of::KernelRuns,
        options: ONE_AT_A_TIME,
        cases: &["sockets::what_a_quiet_rule_decides_is_counted_exactly_and_makes_no_record"],
        patience: 300,
    },
    Part {
        name: "sctp",
        shows: "SCTP is judged by its ports, and an opening is never an answer",
        of: Of::KernelRuns,
        options: ONE_AT_A_TIME,
        cases: &["sockets::sctp_is_judged_by_its_ports_and_an_opening_is_never_an_answer"],
        patience: 300,
    },
    Part {
        name: "frames",
        shows: "frames at XDP: a blocked source is dropped behind tags too, the longest prefix of address sets decides, a SYN is answered \
                by a cookie that its listener takes",
        of: Of::KernelRuns,
        options: ONE_AT_A_TIME,
        cases: &[
            "edge::xdp_drops_a_blocked_source_in_both_families_behind_tags_too_and_names_the_rule",
            "sets::the_longest_prefix_names_the_set_and_each_set_counts_what_it_refused",
            "syn::a_syn_is_answered_by_a_cookie_that_its_listener_takes",
        ],
        patience: 300,
    },
    Part {
        name: "agent",
        shows: "an agent with its collector enforces between namespaces, records what was decided and carried, cuts what a change forbids, \
                and leaves in force what is when it ends",
        of: Of::Live,
        options: ONE_AT_A_TIME,
        cases: &[
            "egress_is_refused_at_once_with_eperm_unless_a_rule_allows_it",
            "denied_ingress_never_reaches_the_server_and_allowed_ingress_does",
            "adversarial 65: a_connection_that_a_change_forbids_is_cut_at_both_ends_and_no_other",
            "a_connection_older_than_enforcement_is_told_of_at_its_end_with_its_bytes",
            "what_is_in_force_stays_in_force_whatever_becomes_of_the_agent",
        ],
        patience: 400,
    },
    Part {
        name: "limits",
        shows: "a rate limit at XDP holds back who floods and nobody else, and a blocked address reaches nobody",
        of: Of::Live,
        options: ONE_AT_A_TIME,
        cases: &[
            "a_connection_limit_holds_a_flooding_client_within_two_percent_and_spares_a_polite_one",
            "a_blocked_address_reaches_nobody_until_the_set_is_deleted",
        ],
        patience: 400,
    },
];

/// A kernel that refuses the programs, or what a part needs.
pub struct Refusal {
    /// Its series.
    pub series: &'static str,
    /// What it refuses; after [`LOADING`] no other part is tried.
    pub part: &'static str,
    /// What is said then: another refusal is a failure, and so is none.
    pub says: &'static str,
    /// For people.
    pub why: &'static str,
}

/// Why made-up packets tell nothing at sockets before Linux 6.18: a test run showed their programs no bytes of them until then. The
/// part `sockets` has real ones.
const SHOWN_NOTHING: &str = "its test runs (`BPF_PROG_TEST_RUN`) show programs at sockets no bytes of the packet, so all are malformed to them; \
                             real packets they see";

/// Kernels that are known to refuse. Whoever mends that removes the row: a run fails until then.
pub const REFUSALS: [Refusal; 4] = [
    Refusal { series: "6.12", part: "verdicts", says: "failed: port 53", why: SHOWN_NOTHING },
    Refusal { series: "6.12", part: "sctp", says: "failed: first port of the range", why: SHOWN_NOTHING },
    Refusal { series: "6.1", part: "verdicts", says: "failed: port 53", why: SHOWN_NOTHING },
    Refusal { series: "6.1", part: "sctp", says: "failed: first port of the range", why: SHOWN_NOTHING },
];

/// Why a kernel refuses, if it is known to.
pub fn refusal(series: &str, part: &str) -> Option<&'static Refusal> {
    REFUSALS.iter().find(|refusal| refusal.series == series && refusal.part == part)
}

/// Features that not every supported kernel has: since when, and what happens before.
pub const FEATURES: [(&str, &str, &str); 7] = [
    (
        "TC programs on workloads' own interfaces by links (TCX)",
        "6.6",
        "attached as filters of a clsact qdisc: they end with the agent (`pin` does not hold for them), and an empty qdisc stays",
    ),
    (
        "records of what living connections have come to",
        "6.9",
        "such connections are recorded at their end only; the agent says so when it starts",
    ),
    (
        "records of what the kernel drops by itself",
        "5.17, with types of its own (BTF); from 6.11 on it names the socket that was to receive, too",
        "none of them; `weirctl doctor` says so (`kernel-drops`). Before 6.11 what arrives is known by its address where no socket took it yet",
    ),
    (
        "records of the end of connections older than enforcement",
        "6.1, with types of its own (BTF)",
        "none; `weirctl doctor` says so (`adopted-closes`)",
    ),
    ("SCTP", "where the kernel has the module `sctp`", "no such socket can be made, by anybody"),
    ("MPTCP", "where the kernel is built with it", "no such socket can be made, by anybody"),
    (
        "sharing an XDP slot with another program (`xdpNeighbour: chain`)",
        "6.1; from 6.18 on that program must name its attach type",
        "the neighbour keeps the slot, and the agent says why",
    ),
];
