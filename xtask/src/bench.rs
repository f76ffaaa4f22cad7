//! Lives: xtask, the task `bench`.
//! Called by: a person who wants to know what something takes.
//! May touch: the target folder, `.tools`; then it becomes `weir-bench` or the benchmark in `tests`, which measure.
//! Never: fails because something is slow: a goal that was missed is said, and people judge.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Error, Result, bail};
use clap::{Args, Subcommand};

use crate::paths::Repo;
use crate::{build, process, setup};

/// Shown below `cargo xtask bench policy --help`.
pub const HELP: &str = "\
A quarter of the size, half of it and all of it, each in a process of its own, on generated clusters of realistic shape.
Times are CPU time of one thread, medians of rounds; ratios within one run are what is compared with the goals.

Examples:
  cargo xtask bench policy                                     30,000 pods, 5,000 policies, 250 pods here: a minute or two
  cargo xtask bench policy --pods 3000 --policies 500          a few seconds
  cargo xtask bench policy --rounds 9 --json bench.json        more patience, and the figures as JSON";

/// Shown below `cargo xtask bench socket --help`.
pub const SOCKET_HELP: &str = "\
Needs root: client and server in namespaces and cgroups of its own, which are removed at the end. CPU time of both ends, softirq
included; everybody takes turns, every program is loaded five times. nft is brought from Debian where it is missing, and used
inside those namespaces only.

Examples:
  cargo xtask bench socket                                     about four minutes
  cargo xtask bench socket --rounds 5 --no-sizes               a minute, a first impression
  cargo xtask bench socket --rounds 30 --json bench.json       more patience, and the figures as JSON
  cargo xtask bench socket --only verdict --rounds 25          one comparison by itself: verdict, fresh, connect, connection,
                                                               round-trip, sizes, agent";

/// Shown below `cargo xtask bench xdp --help`.
pub const XDP_HELP: &str = "\
Needs root: packets are made in the kernel and judged in namespaces of its own, which are removed at the end. CPU time of a packet from
its making to its end; everybody takes turns. iptables and xdp-filter are brought from Debian where they are missing, and used
inside those namespaces only; what cannot be brought is named, and has no row. No release build: kernel programs always are optimised, and
nothing else is measured.

Examples:
  cargo xtask bench xdp                                        about three minutes
  cargo xtask bench xdp --only drop,pass --rounds 3            a minute: one client, 65,536, every packet a new one
  cargo xtask bench xdp --only honesty                         what limiters let through in a flood
  cargo xtask bench xdp --only prefixes --json bench.json      block lists; and the figures as JSON";

/// Shown below `cargo xtask bench telemetry --help`.
pub const TELEMETRY_HELP: &str = "\
Needs root: agents, collectors and traffic in worlds of their own, which are removed at the end. CPU time and wake-ups of the agent's threads
for each record that a collector has acknowledged, beside a thread that only reads the ring and writes to TCP; bytes are counted
between agent and collector.

Examples:
  cargo xtask bench telemetry                                  about two minutes
  cargo xtask bench telemetry --rounds 2 --loads 1             half a minute, a first impression
  cargo xtask bench telemetry --json bench.json                the figures as JSON, too";

/// `cargo xtask bench`.
#[derive(Subcommand)]
pub enum What {
    /// The policy engine: full compiles, increments, parsing, evaluating, deciding
    #[command(after_help = HELP)]
    Policy(Policy),
    /// The socket hooks: connect, new connections, open ones; beside empty programs, nftables and nothing
    #[command(after_help = SOCKET_HELP)]
    Socket(Socket),
    /// The edge: limits and block lists at XDP; beside empty programs, an LRU limiter, nftables and iptables
    #[command(after_help = XDP_HELP)]
    Xdp(Xdp),
    /// Records: from the kernel's ring to the collector's socket, beside a raw copy
    #[command(after_help = TELEMETRY_HELP)]
    Telemetry(Telemetry),
}

/// `cargo xtask bench telemetry`. What is not given, the benchmark decides.
#[derive(Args)]
pub struct Telemetry {
    /// Times everybody has a turn at each job [default: 6]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Times everything is started [default: 3]
    #[arg(long, value_name = "N")]
    loads: Option<u32>,
    /// Length of one turn [default: 2000]
    #[arg(long, value_name = "MS")]
    milliseconds: Option<u32>,
    /// Open connections that are remembered for the figure of memory [default: 1000000]
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `cargo xtask bench xdp`. What is not given, the benchmark decides.
#[derive(Args)]
pub struct Xdp {
    /// Times everybody has a turn [default: 6]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Times all programs are loaded [default: 3]
    #[arg(long, value_name = "N")]
    loads: Option<u32>,
    /// CPU time of one turn [default: 40]
    #[arg(long, value_name = "MS")]
    milliseconds: Option<u32>,
    /// Measure only these: drop, pass, prefixes, bulk, honesty [default: all]
    #[arg(long, value_name = "PART,...")]
    only: Option<String>,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `cargo xtask bench socket`. What is not given, the benchmark decides.
#[derive(Args)]
pub struct Socket {
    /// Times everybody has a turn [default: 15]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Times all programs are loaded [default: 5]
    #[arg(long, value_name = "N")]
    loads: Option<u32>,
    /// CPU time of one turn [default: 60]
    #[arg(long, value_name = "MS")]
    milliseconds: Option<u32>,
    /// Leave out how cost grows with rules and identities
    #[arg(long)]
    no_sizes: bool,
    /// Measure only these: verdict, fresh, connect, connection, round-trip, sizes, agent [default: all]
    #[arg(long, value_name = "PART,...")]
    only: Option<String>,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `cargo xtask bench policy`. What is not given, `weir-bench` decides.
#[derive(Args)]
pub struct Policy {
    /// Pods of the largest cluster [default: 30000]
    #[arg(long, value_name = "N")]
    pods: Option<u32>,
    /// Its policies, of all kinds [default: 5000]
    #[arg(long, value_name = "N")]
    policies: Option<u32>,
    /// Pods on the node that is looked at [default: 250]
    #[arg(long, value_name = "N")]
    local: Option<u32>,
    /// Full compiles of each size, of which the median counts [default: 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Also write everything as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures.
pub fn task(repo: &Repo, what: &What) -> Result<bool> {
    match what {
        What::Policy(options) => policy(repo, options),
        What::Socket(options) => socket(repo, options),
        What::Xdp(options) => xdp(repo, options),
        What::Telemetry(options) => telemetry(repo, options),
    }
}

/// Builds the measuring program as shipped, with progress shown, then turns into it.
fn policy(repo: &Repo, options: &Policy) -> Result<bool> {
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--locked", "--release", "--package", "weir-bench"]);
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    let program = repo.target()?.join("release").join("weir-bench");
    let mut bench = process::clean(&program);
    bench.arg("policy");
    let given = [
        ("--pods", options.pods),
        ("--policies", options.policies),
        ("--local", options.local),
        ("--rounds", options.rounds),
    ];
    turn_into(bench, &given, options.json.as_deref())
}

/// Builds everything as shipped, with progress shown, then lets cargo become the benchmark.
fn socket(repo: &Repo, options: &Socket) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let programs = build::programs(repo, true)?;
    let mut cargo = process::cargo(repo);
    cargo.args(["bench", "--locked", "--package", "weir-tests", "--bench", "socket", "--"]);
    cargo.env("WEIR_BIN_DIR", programs);
    let given = [("--rounds", options.rounds), ("--loads", options.loads), ("--milliseconds", options.milliseconds)];
    if options.no_sizes {
        cargo.arg("--no-sizes");
    }
    if let Some(parts) = &options.only {
        cargo.args(["--only", parts]);
    }
    turn_into(cargo, &given, options.json.as_deref())
}

/// Brings the rivals, then lets cargo become the benchmark: the test program of the same name, told to measure.
fn xdp(repo: &Repo, options: &Xdp) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    setup::rivals(repo);
    let mut cargo = process::cargo(repo);
    cargo.args(["test", "--locked", "--package", "weir-tests", "--bench", "xdp", "--", "--bench"]);
    let given = [("--rounds", options.rounds), ("--loads", options.loads), ("--milliseconds", options.milliseconds)];
    if let Some(parts) = &options.only {
        cargo.args(["--only", parts]);
    }
    turn_into(cargo, &given, options.json.as_deref())
}

/// Builds everything as shipped, with progress shown, then lets cargo become the benchmark.
fn telemetry(repo: &Repo, options: &Telemetry) -> Result<bool> {
    setup::demand(repo, setup::For::Live)?;
    let programs = build::programs(repo, true)?;
    let mut cargo = process::cargo(repo);
    cargo.args(["bench", "--locked", "--package", "weir-tests", "--bench", "telemetry", "--"]);
    cargo.env("WEIR_BIN_DIR", programs);
    let given = [
        ("--rounds", options.rounds),
        ("--loads", options.loads),
        ("--milliseconds", options.milliseconds),
        ("--connections", options.connections),
    ];
    turn_into(cargo, &given, options.json.as_deref())
}

/// Hands over what was given, then turns into the program: on success this never returns.
fn turn_into(mut program: Command, given: &[(&str, Option<u32>)], json: Option<&Path>) -> Result<bool> {
    for (option, value) in given {
        program.args(value.map(|value| [(*option).to_owned(), value.to_string()]).into_iter().flatten());
    }
    if let Some(file) = json {
        // cargo starts it in the package's folder.
        program.arg("--json").arg(std::path::absolute(file)?);
    }
    let name = program.get_program().to_string_lossy().into_owned();
    Err(Error::new(program.exec()).context(format!("starting {name}")))
}
