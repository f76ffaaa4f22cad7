//! Lives: ctl, the verb policy diff.
//! Called by: `offline`.
//! May touch: the files named, standard output.
//! Never: compares texts; two states that say the same in other words do not differ.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use weir_common::verdict::Verdict;
use weir_policy::Resources;
use weir_policy::reach::{Cause, Change, Changes, Named, Side, changes};

use super::load::{Reading, count, sources};
use crate::failure::{Failure, Outcome};
use crate::render::output::{self, Format};
use crate::render::style::{BAD, DIM, GOOD, ODD, clean, paint};

const EXAMPLES: &str = "Examples:
  weirctl policy diff main/policies branch/policies -f cluster.yaml
  weirctl policy diff yesterday.yaml today.yaml -o json

Lines: + passes now, - is denied now, ~ passes before and now, but audit policies see it differently. A pod's own node
always reaches it and a pod always reaches itself, so neither is compared.

Exit codes: 0 no connection changes, 5 some do, or an end is there on one side only; 1 refused, 2 usage.";

/// Arguments of policy diff.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The state before: a file, a folder with all below, or - for standard input.
    old: PathBuf,
    /// The state after.
    new: PathBuf,
    /// What is the same on both sides, such as the pods; may be repeated.
    #[arg(short, long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// How to show the changes.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let Arguments { old, new, files, reading, .. } = arguments;
    let dash = |path: &&PathBuf| path.as_os_str() == "-";
    if [old, new].into_iter().chain(files).filter(dash).count() > 1 {
        return Err(Failure::Usage("standard input can be read once only; name a file for the other side".to_owned()));
    }
    let common = sources(files)?;
    let side = |path: &PathBuf| -> Result<Resources, Failure> {
        let mut texts = sources(std::slice::from_ref(path))?;
        texts.extend(common.iter().cloned());
        Ok(reading.documents(&texts)?.resources.into_iter().collect())
    };
    let (before, after) = (side(old)?, side(new)?);
    if before.workloads().next().is_none() && after.workloads().next().is_none() {
        let remedy = "add them with -f, for example of kubectl get pods,namespaces,nodes,services -A -o yaml";
        return Err(Failure::Refused(format!(
            "neither side describes a pod or workload, so nothing can change; {remedy}"
        )));
    }
    let changes = changes(&before, &after, &reading.context());
    let mut out = output::open();
    match arguments.output {
        Format::Text => text(&mut out, &changes, [old, new])?,
        Format::Json => output::json(&mut out, &Json::from(&changes))?,
    }
    out.flush()?;
    let same = changes.list.is_empty() && changes.only_old.is_none() && changes.only_new.is_none();
    Ok(if same { Outcome::Done } else { Outcome::Changed })
}

fn text(out: &mut dyn Write, changes: &Changes, [old, new]: [&PathBuf; 2]) -> io::Result<()> {
    for change in &changes.list {
        let (sign, style) = match (change.was.verdict.passes(), change.now.verdict.passes()) {
            (true, false) => ("-", BAD),
            (false, true) => ("+", GOOD),
            (true, true) | (false, false) => ("~", ODD),
        };
        let Change { from, to, ports, was, now, .. } = change;
        let ends = format!("{} -> {} {ports}", from.long, to.long);
        let why = format!("was {}, now {}", words(was), words(now));
        writeln!(out, "{} {}: {}", paint(style, sign), clean(&ends), clean(&why))?;
    }
    for (only, path) in [(&changes.only_old, old), (&changes.only_new, new)] {
        if let Some(Named { long, .. }) = only {
            writeln!(out, "  only in {}: {}", clean(&path.display().to_string()), clean(long))?;
        }
    }
    let pairs = count(changes.compared, "pair");
    if changes.list.is_empty() {
        return writeln!(out, "{}", paint(DIM, &format!("no connection changes ({pairs} of ends compared)")));
    }
    let (list, closed, opened) = (count(changes.list.len(), "change"), changes.closed, changes.opened);
    writeln!(out, "{list}; of {pairs} of ends {closed} lost connections and {opened} gained some")
}

/// What one side says of a connection.
fn words(side: &Side) -> String {
    let causes = side.causes.iter().map(cause).collect::<Vec<_>>().join(" and ");
    match side.verdict {
        Verdict::Allow if causes.is_empty() => "allowed as no policy applies".to_owned(),
        Verdict::Allow => format!("allowed by {causes}"),
        Verdict::Deny => format!("denied by {causes}"),
        Verdict::Audit => format!("allowed, though audited as denied by {causes}"),
    }
}

fn cause(Cause { policy, rule, .. }: &Cause) -> String {
    match rule.strip_prefix("default ") {
        Some(direction) => format!("the {direction} default of {policy}"),
        None => format!("{policy} {rule}"),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    changes: Vec<JsonChange<'a>>,
    only_old: Option<&'a str>,
    only_new: Option<&'a str>,
    /// Pairs of ends.
    compared: usize,
    closed: usize,
    opened: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonChange<'a> {
    from: &'a str,
    to: &'a str,
    from_ends: Vec<String>,
    to_ends: Vec<String>,
    pairs: usize,
    ports: String,
    was: JsonSide<'a>,
    now: JsonSide<'a>,
}

#[derive(Serialize)]
struct JsonSide<'a> {
    verdict: &'static str,
    by: Vec<JsonCause<'a>>,
}

#[derive(Serialize)]
struct JsonCause<'a> {
    policy: String,
    rule: &'a str,
    tier: &'static str,
}

impl<'a> From<&'a Changes> for Json<'a> {
    fn from(changes: &'a Changes) -> Self {
        let change = |change: &'a Change| JsonChange {
            from: &change.from.long,
            to: &change.to.long,
            from_ends: change.from_ends.iter().map(ToString::to_string).collect(),
            to_ends: change.to_ends.iter().map(ToString::to_string).collect(),
            pairs: change.pairs,
            ports: change.ports.to_string(),
            was: JsonSide::from(&change.was),
            now: JsonSide::from(&change.now),
        };
        Self {
            changes: changes.list.iter().map(change).collect(),
            only_old: changes.only_old.as_ref().map(|named| named.long.as_str()),
            only_new: changes.only_new.as_ref().map(|named| named.long.as_str()),
            compared: changes.compared,
            closed: changes.closed,
            opened: changes.opened,
        }
    }
}

impl<'a> From<&'a Side> for JsonSide<'a> {
    fn from(side: &'a Side) -> Self {
        let cause = |cause: &'a Cause| JsonCause {
            policy: cause.policy.to_string(),
            rule: &cause.rule,
            tier: cause.tier.name(),
        };
        Self { verdict: side.verdict.name(), by: side.causes.iter().map(cause).collect() }
    }
}
