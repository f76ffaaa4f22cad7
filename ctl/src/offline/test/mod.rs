//! Lives: ctl, the verb policy test.
//! Called by: `offline`.
//! May touch: the files named, standard output, the file that takes the JUnit report.
//! Never: passes a test whose question makes no sense.

mod judge;
mod junit;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use weir_policy::{PolicyTest, Resources};

use self::judge::{Failed, Result as Judged};
use super::explained;
use super::load::{Reading, count, sources};
use crate::failure::{Failure, Outcome};
use crate::files::Source;
use crate::render::output;
use crate::render::style::{BAD, BOLD, GOOD, clean, paint};

const EXAMPLES: &str = "Examples:
  weirctl policy test expectations.yaml
  weirctl policy test tests/ -f policies/ -f cluster.yaml --junit report.xml

A file of expectations:
  apiVersion: weir.dev/v1alpha1
  kind: PolicyTest
  metadata: {name: shop}
  spec:
    resources: [../policies/, cluster.yaml]          # relative to this file
    tests:
    - {name: web reads, from: shop/web, to: data/db, port: 5432/tcp, expect: allow}
    - {from: [shop/web, 203.0.113.9], to: data/db, port: [22, 53/udp], expect: deny, by: NetworkPolicy/data/db}

expect is allow, deny or audit; by names the policy, or policy and rule, that decides. Of lists, every combination is
asked. Ends are written as for policy eval. Exit codes: 0 all passed, 1 a test failed or a file has faults, 2 usage.";

/// Arguments of policy test.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A file of PolicyTest documents, a folder with all below, or -; other documents in them count as resources.
    #[arg(value_name = "FILE", required = true)]
    tests: Vec<PathBuf>,
    /// Resources beside those that the tests name; may be repeated.
    #[arg(short, long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// Also write a report as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Name tests that pass, too.
    #[arg(short, long)]
    verbose: bool,
}

/// Expectations with what came of each.
pub struct Suite {
    pub test: PolicyTest,
    pub results: Vec<Judged>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let suites = suites(arguments)?;
    if suites.is_empty() {
        return Err(Failure::Refused("no PolicyTest document in these files".to_owned()));
    }
    let mut out = output::open();
    for suite in &suites {
        show(&mut out, suite, arguments.verbose)?;
    }
    let results = || suites.iter().flat_map(|suite| &suite.results);
    let failed = results().filter(|result| !result.failed.is_empty()).count();
    let passed = results().count() - failed;
    let style = if failed == 0 { GOOD } else { BAD };
    writeln!(out, "{}", paint(style, &format!("{passed} passed, {failed} failed")))?;
    out.flush()?;
    if let Some(path) = &arguments.junit {
        let fault = |error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
        let mut file = BufWriter::new(File::create(path).map_err(fault)?);
        junit::write(&mut file, &suites).and_then(|()| file.flush()).map_err(fault)?;
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Faulty })
}

fn suites(arguments: &Arguments) -> Result<Vec<Suite>, Failure> {
    let context = arguments.reading.context();
    let files = sources(&arguments.tests)?;
    let tests = arguments.reading.documents(&files)?.tests;
    let mut known: BTreeMap<Vec<PathBuf>, Resources> = BTreeMap::new();
    let mut suites = Vec::new();
    for test in tests {
        let paths = paths(&test, &arguments.files);
        if !known.contains_key(&paths) {
            known.insert(paths.clone(), resources(&paths, &files, &arguments.reading)?);
        }
        let resources = known.get(&paths).cloned().unwrap_or_default();
        let results = judge::judge(&resources, &context, &test)?;
        suites.push(Suite { test, results });
    }
    Ok(suites)
}

/// What a test is about: the paths it names, seen from its file, and those of the command line.
fn paths(test: &PolicyTest, more: &[PathBuf]) -> Vec<PathBuf> {
    let folder = Path::new(&test.origin.source).parent().unwrap_or(Path::new(""));
    let named = test.resources.iter().map(|path| folder.join(&path.text));
    named.chain(more.iter().cloned()).collect()
}

/// Resources of the paths and of the files of tests themselves, each file once.
fn resources(paths: &[PathBuf], tests: &[Source], reading: &Reading) -> Result<Resources, Failure> {
    let mut texts = sources(paths)?;
    let same = |a: &str, b: &str| match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        (Err(_), _) | (_, Err(_)) => a == b,
    };
    for test in tests {
        if !texts.iter().any(|text| same(&text.name, &test.name)) {
            texts.push(test.clone());
        }
    }
    Ok(reading.documents(&texts)?.resources.into_iter().collect())
}

fn show(out: &mut dyn Write, suite: &Suite, verbose: bool) -> io::Result<()> {
    for result in &suite.results {
        let name = format!("{}: {}", suite.test.name, result.name);
        let place = format!("{}:{}:{}", suite.test.origin.source, result.place.line, result.place.column);
        if !result.failed.is_empty() {
            writeln!(out, "{} {} ({})", paint(BAD, "FAIL"), paint(BOLD, &clean(&name)), clean(&place))?;
            result.failed.iter().try_for_each(|failed| show_failed(out, failed))?;
        } else if verbose {
            writeln!(out, "{} {} ({})", paint(GOOD, "pass"), clean(&name), count(result.asked, "question"))?;
        }
    }
    Ok(())
}

fn show_failed(out: &mut dyn Write, failed: &Failed) -> io::Result<()> {
    writeln!(out, "  {}: {}", clean(&failed.question), clean(&failed.problem))?;
    match &failed.explanation {
        Some(explanation) => explained::text(out, explanation),
        None => Ok(()),
    }
}
