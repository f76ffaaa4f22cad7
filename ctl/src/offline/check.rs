//! Lives: ctl, the verb policy check.
//! Called by: `offline`.
//! May touch: the files named, standard output.
//! Never: stops at the first fault, or passes what an agent would refuse.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use weir_policy::{Documents, Fault, Origin, Resource, Resources, Spec, Warning, compile, warnings};

use super::load::{Reading, count, remark_skipped, sources};
use crate::failure::{Failure, Outcome};
use crate::files::Source;
use crate::render::output::{self, Format};
use crate::render::style::{BAD, GOOD, ODD, clean, paint};
use crate::verbs::JsonFault;

const EXAMPLES: &str = "Examples:
  weirctl policy check policies/
  weirctl policy check policies/ cluster.yaml --warnings-as-errors
  kubectl get networkpolicies -A -o yaml | weirctl policy check -
  weirctl policy check k8s/ --skip-other-kinds -o json

Faults are printed as FILE:LINE:COLUMN: FIELD: PROBLEM (VALUE); REMEDY. Exit codes: 0 sound, 1 faults, 2 usage.";

/// Arguments of policy check.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A file, a folder (its *.yaml, *.yml and *.json, and those of folders in it), or - for standard input.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// Exit with 1 when there is a warning, too.
    #[arg(long)]
    warnings_as_errors: bool,
    /// How to show what was found.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was found.
#[derive(Default)]
struct Found {
    documents: usize,
    policies: usize,
    warnings: Vec<Placed>,
    faults: Vec<Fault>,
}

/// A warning and where its document starts.
#[derive(Serialize)]
struct Placed {
    source: String,
    line: u32,
    column: u32,
    resource: String,
    field: String,
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    files: usize,
    documents: usize,
    policies: usize,
    warnings: &'a [Placed],
    faults: Vec<JsonFault<'a>>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let sources = sources(&arguments.paths)?;
    let found = found(&sources, &arguments.reading);
    let mut out = output::open();
    match arguments.output {
        Format::Text => text(&mut out, &sources, &found)?,
        Format::Json => {
            let Found { documents, policies, ref warnings, ref faults } = found;
            let faults = faults.iter().map(JsonFault::from).collect();
            output::json(&mut out, &Json { files: sources.len(), documents, policies, warnings, faults })?;
        }
    }
    out.flush()?;
    let bad = !found.faults.is_empty() || (arguments.warnings_as_errors && !found.warnings.is_empty());
    Ok(if bad { Outcome::Faulty } else { Outcome::Done })
}

fn found(sources: &[Source], reading: &Reading) -> Found {
    match reading.parse(sources) {
        Err(faults) => Found { faults, ..Found::default() },
        Ok(documents) => {
            remark_skipped(&documents.skipped);
            together(documents, reading)
        }
    }
}

/// What shows only when documents meet.
fn together(documents: Documents, reading: &Reading) -> Found {
    let is_policy = |resource: &&Resource| matches!(resource.spec(), Spec::Policy(_));
    let policies = documents.resources.iter().filter(is_policy).count();
    let found = Found { documents: documents.resources.len() + documents.tests.len(), policies, ..Found::default() };
    let resources: Resources = documents.resources.into_iter().collect();
    let context = reading.context();
    match compile(&resources, &context) {
        Ok(_) => {
            let warnings = warnings(&resources, context.now);
            Found { warnings: warnings.into_iter().map(|warning| placed(&resources, warning)).collect(), ..found }
        }
        Err(faults) => Found { faults, ..found },
    }
}

fn placed(resources: &Resources, Warning { id, field, text }: Warning) -> Placed {
    let origin = resources.get(&id).map(|resource| resource.origin().clone()).unwrap_or_default();
    let Origin { source, place } = origin;
    Placed { source, line: place.line, column: place.column, resource: id.to_string(), field, text }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, field, text, .. } = self;
        match field.is_empty() {
            true => write!(f, "{resource}: {text}"),
            false => write!(f, "{resource}: {field}: {text}"),
        }
    }
}

fn text(out: &mut dyn Write, sources: &[Source], found: &Found) -> std::io::Result<()> {
    for fault in &found.faults {
        writeln!(out, "{}", clean(&fault.to_string()))?;
    }
    for warning in &found.warnings {
        let place = format!("{}:{}:{}", warning.source, warning.line, warning.column);
        writeln!(out, "{}: {} {}", clean(&place), paint(ODD, "warning:"), clean(&warning.to_string()))?;
    }
    if !found.faults.is_empty() {
        let (faults, files) = (count(found.faults.len(), "fault"), count(sources.len(), "file"));
        return writeln!(out, "{} in {files}", paint(BAD, &faults));
    }
    let (documents, policies) = (count(found.documents, "document"), count(found.policies, "policy"));
    let warnings = count(found.warnings.len(), "warning");
    writeln!(out, "{documents}, {policies}, {warnings}, {}", paint(GOOD, "no faults"))
}
