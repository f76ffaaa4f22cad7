//! Lives: weir-tests, the benchmark of XDP: the firewalls that Weir is measured against.
//! Called by: rounds, plan, honesty, smoke.
//! May touch: the rules of namespaces of the benchmark's own world, by `nft` and `iptables`.
//! Never: rules of the host's: the programs are started in the namespace; a rule that makes a rival slower than its manual does.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::world::links::INSIDE;
use weir_tests::world::nat::rules_in;
use weir_tests::world::tools::{IPTABLES, NFT, XDP_FILTER};

use crate::frame::PORT;
use crate::programs::CLIENTS;
use crate::site::Wire;

/// A firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rival {
    /// nftables: a chain at the interface's ingress, a set of meters.
    Nftables,
    /// iptables: the table `raw`, which is asked first, and hashlimit.
    Hashlimit,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// To drop everything: what it takes until it is asked, and a drop.
    Drop,
    /// To let each client send a packet a minute.
    Tight,
    /// To let each client send more than ever comes.
    Wide,
    /// The limit of the honesty run.
    Honest,
}

/// A limit in the words of both: packets, the unit of time, and packets at once.
type Words = (u32, &'static str, u32);

impl Rules {
    fn words(self, honest: (u32, u32)) -> Option<Words> {
        match self {
            Rules::Drop => None,
            Rules::Tight => Some((1, "minute", 1)),
            // The most that hashlimit knows; a turn is a tenth of that.
            Rules::Wide => Some((1_000_000, "second", 1_000_000)),
            Rules::Honest => Some((honest.0, "second", honest.1)),
        }
    }
}

impl Rival {
    /// Both.
    pub const ALL: [Rival; 2] = [Rival::Nftables, Rival::Hashlimit];

    /// Its name, as it is written everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Rival::Nftables => "nftables",
            Rival::Hashlimit => "iptables hashlimit",
        }
    }

    /// Why it cannot take part.
    pub fn absent(self) -> Option<String> {
        let tool = match self {
            Rival::Nftables => NFT,
            Rival::Hashlimit => IPTABLES,
        };
        (!tool.available())
            .then(|| format!("{}: no program `{}`, and setup could not bring it", self.name(), tool.name))
    }

    /// Gives the judging end of `wire` these rules. `folder` is for locks.
    pub fn rule(self, wire: &Wire, rules: Rules, honest: (u32, u32), folder: &Path) -> Result<()> {
        let words = rules.words(honest);
        match self {
            Rival::Nftables => rules_in(&wire.receiver, &ruleset(words)).context("nft"),
            Rival::Hashlimit => wire.at_receiver(|| iptables(words, folder)),
        }
    }
}

/// One chain, one rule; the set holds as many clients as Weir, and forgets those who were silent for ten seconds.
fn ruleset(words: Option<Words>) -> String {
    let rule = words.map_or("drop".to_owned(), |(rate, unit, burst)| {
        format!(
            "udp dport {PORT} update @clients {{ ip saddr limit rate over {rate}/{unit} burst {burst} packets }} drop"
        )
    });
    format!(
        "table netdev bench {{\n set clients {{\n  type ipv4_addr; size {CLIENTS}; flags dynamic,timeout; timeout 10s;\n }}\n \
         chain judge {{\n  type filter hook ingress device {INSIDE} priority 0; policy accept;\n  {rule}\n }}\n}}\n"
    )
}

/// Prefixes in a set of nftables, whose sources are dropped.
pub fn listed(wire: &Wire, prefixes: &[String]) -> Result<()> {
    let rules = format!(
        "table netdev bench {{\n set listed {{\n  type ipv4_addr; flags interval; auto-merge; elements = {{ {} }}\n }}\n \
         chain judge {{\n  type filter hook ingress device {INSIDE} priority 0; policy accept;\n  \
         ip saddr @listed drop\n }}\n}}\n",
        prefixes.join(", ")
    );
    rules_in(&wire.receiver, &rules).context("nft")
}

/// xdp-filter, dropping these sources; it lists addresses only. It keeps its maps in the BPF file system, here one of its own that ends
/// with the commands; the program stays attached.
pub fn filter(wire: &Wire, sources: &[String]) -> Result<()> {
    let (_, program) = XDP_FILTER.command();
    let objects = XDP_FILTER.libraries().map(|libraries| libraries.join("bpf"));
    let program = program.display();
    let mut script = format!("mount -t bpf bpf /sys/fs/bpf && {program} load -m native -f ipv4 {INSIDE}");
    script.extend(sources.iter().map(|source| format!(" && {program} ip -m src {source}")));
    wire.at_receiver(|| {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", &script]);
        if let Some(objects) = objects {
            shell.env("LIBXDP_OBJECT_PATH", &objects);
            shell.env("LD_LIBRARY_PATH", objects.with_file_name(""));
        }
        let output = shell.output().context("starting xdp-filter")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "xdp-filter: {}", String::from_utf8_lossy(&said).trim());
        Ok(())
    })
}

/// The same by iptables: as many clients, as many places for them, the same silence.
fn iptables(words: Option<Words>, folder: &Path) -> Result<()> {
    let (mut program, _) = IPTABLES.command();
    set_up(&mut program, folder);
    let match_udp = format!("-t raw -A PREROUTING -i {INSIDE} -p udp --dport {PORT}");
    program.args(match_udp.split(' '));
    if let Some((rate, unit, burst)) = words {
        let limit = format!(
            "-m hashlimit --hashlimit-name bench --hashlimit-mode srcip --hashlimit-above {rate}/{unit} --hashlimit-burst {burst} \
             --hashlimit-htable-size {CLIENTS} --hashlimit-htable-max {CLIENTS} --hashlimit-htable-expire 10000"
        );
        program.args(limit.split_whitespace());
    }
    program.args(["-j", "DROP"]);
    let output = program.output().context("starting iptables")?;
    if !output.status.success() {
        bail!("iptables: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn set_up(program: &mut Command, folder: &Path) {
    program.env("XTABLES_LOCKFILE", folder.join("xtables.lock"));
    if let Some(libraries) = IPTABLES.libraries() {
        program.env("XTABLES_LIBDIR", libraries.join("xtables"));
    }
}
