//! Lives: weir-tests, the benchmark of the socket hooks: policies of any size.
//! Called by: the benchmark.
//! May touch: nothing; it makes text and lets the compiler make tables of it.
//! Never: tables that no document could have made.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Result, anyhow};
use weir_agent::kernel::tick_ns;
use weir_common::verdict::Verdict;
use weir_policy::Compiled;

use crate::site::{CLIENT, LAST_PORT, PORT, SERVER};

/// What the tables are to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Peers that policies tell apart, each with an address.
    pub identities: u32,
    /// Rules in force on the node, each for one peer and port; up to 1,000 of them are the calling workload's.
    pub rules: u32,
    /// Whether what is allowed makes records.
    pub log: bool,
}

/// Peers that rules name one by one.
const NAMED: u32 = 100;
/// Rules of one workload; more belong to its neighbours on the node.
const BLOCK: u32 = 1000;
/// Called at the same time in turn.
const CALLED: u32 = 10;
/// Four for each decision that a CPU remembers.
const STRANGERS: u32 = 4 * weir_common::recent::ENTRIES;

impl Shape {
    /// Peers spread over all there are.
    pub fn called(&self) -> Vec<Ipv4Addr> {
        (0..CALLED.min(self.identities)).map(|n| peer(n * (self.identities / CALLED).max(1))).collect()
    }

    /// More peers than any CPU remembers decisions about, the same for all shapes that have as many.
    pub fn strangers() -> Vec<Ipv4Addr> {
        (0..STRANGERS).map(peer).collect()
    }

    /// The tables; `generation` names them.
    pub fn compile(&self, generation: u64) -> Result<Compiled> {
        let tables = weir_tests::compiled::compiled(&self.documents(), generation, Verdict::Allow, tick_ns());
        tables.map_err(|faults| anyhow!("{:?}", faults.first()))
    }

    /// The documents they are made of.
    pub fn documents(&self) -> String {
        let mut text = String::new();
        let mut workload = |name: &str, spec: String| {
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                text,
                "---\napiVersion: weir.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{{spec}}}\n"
            );
        };
        workload("web", format!("cgroup: web, addresses: [{CLIENT}]"));
        workload("api", format!("cgroup: api, addresses: [{SERVER}]"));
        for n in 0..self.identities {
            workload(&format!("p{n}"), format!("addresses: [{}]", peer(n)));
        }
        let _ = write!(
            text,
            "---\napiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: api}}\n\
             spec:\n  workloadSelector: {{matchLabels: {{app: api}}}}\n  defaultAction: deny\n  ingress:\n  \
             - {{log: {}, from: [{{workloadSelector: {{matchLabels: {{app: web}}}}}}], ports: [{{port: {PORT}, endPort: {LAST_PORT}}}]}}\n\
             ---\napiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: web}}\n\
             spec:\n  workloadSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Egress]\n  defaultAction: deny\n  \
             egress:\n  - log: {}\n    to: [{{workloadSelector: {{matchExpressions: [{{key: app, operator: Exists}}]}}}}]\n    \
             ports: [{{port: {PORT}, endPort: {LAST_PORT}}}, {{protocol: UDP, port: {PORT}}}]\n",
            self.log, self.log
        );
        text += &self.own_rules(self.rules.min(BLOCK));
        for block in 1..self.rules.div_ceil(BLOCK) {
            text += &self.neighbour(block);
        }
        text
    }

    /// Another workload of this node, with rules of its own.
    fn neighbour(&self, block: u32) -> String {
        format!(
            "---\napiVersion: weir.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: n{block}, labels: {{app: n{block}}}}}\nspec: {{cgroup: n{block}}}\n\
             ---\napiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: n{block}}}\n\
             spec:\n  workloadSelector: {{matchLabels: {{app: n{block}}}}}\n  policyTypes: [Egress]\n  \
             defaultAction: deny\n  egress:\n"
        ) + &self.own_rules(BLOCK)
    }

    /// So many rules of one workload, each for another peer or port.
    fn own_rules(&self, rules: u32) -> String {
        let mut text = String::new();
        for rule in 0..rules {
            let (named, port) = (rule % NAMED.min(self.identities), 10_000 + rule / NAMED);
            let _ = writeln!(
                text,
                "  - {{to: [{{workloadSelector: {{matchLabels: {{app: p{named}}}}}}}], ports: [{{port: {port}}}]}}"
            );
        }
        text
    }
}

fn peer(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n)
}
