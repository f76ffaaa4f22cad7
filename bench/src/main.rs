//! Lives: weir-bench, the program behind `cargo xtask bench policy`.
//! Called by: xtask, a person.
//! May touch: standard output, the file given by `--json`; children of its own, one per size.
//! Never: fails because something is slow: it measures, people judge.

use std::{
    env, fs,
    io::{BufWriter, Write, stdout},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_bench::{
    cluster::{Cluster, Size},
    measure::one::{One, one},
    report::Report,
};

/// Measures the policy engine on generated clusters of realistic shape.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure a quarter of the size, half of it and all of it, and compare with the goals
    Policy {
        #[command(flatten)]
        size: Shape,
        /// Also write everything as JSON to FILE
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Measure one size, and print it as JSON
    One {
        #[command(flatten)]
        size: Shape,
        /// Edits and speeds too
        #[arg(long)]
        all: bool,
    },
    /// Print a cluster's documents
    Cluster {
        #[command(flatten)]
        size: Shape,
        /// How they are written
        #[arg(long, value_enum, default_value_t = Format::Yaml)]
        format: Format,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Documents with `---` between them
    Yaml,
    /// One document a line
    Json,
}

#[derive(Args)]
struct Shape {
    /// Pods of the cluster
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(40..=200_000))]
    pods: u32,
    /// Its policies, of all kinds
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(40..=50_000))]
    policies: u32,
    /// Its pods on the node that is looked at
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=500))]
    local: u32,
    /// Full compiles, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.task {
        Task::Policy { size, json } => policy(size, json.as_deref()),
        Task::One { size, all } => {
            let measured = one(&size.part(1), size.rounds as usize, *all)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        Task::Cluster { size, format } => documents(&size.part(1), *format),
    }
}

impl Shape {
    /// A part of the cluster with as many pods on the node.
    fn part(&self, part: u32) -> Size {
        let most = self.pods / part;
        Size::of(most as usize, (self.policies / part) as usize, self.local.min(most) as usize)
    }
}

fn policy(shape: &Shape, json: Option<&Path>) -> Result<()> {
    let mut sizes = Vec::new();
    for part in [4, 2, 1] {
        let size = shape.part(part);
        eprintln!("measuring {} pods, {} policies, {} pods here", size.pods, size.policies, size.local);
        sizes.push(child(&size, shape.rounds, part == 1)?);
    }
    let report = Report::of(sizes);
    report.print();
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// One size in a process of its own: what it takes at most must be its own doing.
fn child(size: &Size, rounds: u32, all: bool) -> Result<One> {
    let program = env::current_exe().context("finding this program")?;
    let mut child = Command::new(program);
    child.arg("one").stdin(Stdio::null()).stderr(Stdio::inherit());
    for (option, value) in [("--pods", size.pods), ("--policies", size.policies), ("--local", size.local)] {
        child.arg(option).arg(value.to_string());
    }
    child.arg("--rounds").arg(rounds.to_string());
    if all {
        child.arg("--all");
    }
    let output = child.output().context("starting the measurement of one size")?;
    ensure!(output.status.success(), "the measurement of {} pods ended with {}", size.pods, output.status);
    serde_json::from_slice(&output.stdout).context("reading the measurement of one size")
}

fn documents(size: &Size, format: Format) -> Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    for document in Cluster::generate(size).documents() {
        match format {
            Format::Yaml => write!(out, "---\n{}", document.yaml())?,
            Format::Json => writeln!(out, "{}", document.json())?,
        }
    }
    Ok(out.flush()?)
}
