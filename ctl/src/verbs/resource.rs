//! Lives: ctl.
//! Called by: verbs that name a resource or show what became of some.
//! May touch: the writer it is given.
//! Never: guesses a kind.

use std::io::Write;

use serde::Serialize;
use weir_policy::{Fault, Kind, ResourceId};

use crate::failure::Failure;
use crate::render::output::{self, Format, remark};
use crate::render::style::{BAD, DIM, GOOD, ODD, PLAIN, clean, paint};
use crate::view::{Change, Changed, Doomed};

/// The namespace of a name that says none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads a kind, for clap.
pub fn kind(word: &str) -> Result<Kind, String> {
    word.parse::<Kind>().map_err(|unknown| unknown.to_string())
}

/// The resources that words stand for: a kind and names of that kind, or each word a kind with its name.
pub fn named(words: &[String], namespace: Option<&str>) -> Result<Vec<ResourceId>, Failure> {
    match words {
        [word, names @ ..] if !word.contains('/') => {
            let kind = kind(word).map_err(Failure::Usage)?;
            if names.is_empty() {
                return Err(Failure::Usage(format!("{kind} needs a NAME, as in {}", example(kind))));
            }
            names.iter().map(|name| id(kind, name, namespace)).collect()
        }
        words => words.iter().map(|word| whole(word, namespace)).collect(),
    }
}

/// The resource that `KIND/NAME` or `KIND/NAMESPACE/NAME` stands for: as it is printed, so that it can be copied.
pub fn whole(word: &str, namespace: Option<&str>) -> Result<ResourceId, Failure> {
    let (first, name) = word.split_once('/').unwrap_or((word, ""));
    let kind = kind(first).map_err(|unknown| Failure::Usage(format!("{word} is not KIND/NAME: {unknown}")))?;
    if name.is_empty() {
        return Err(Failure::Usage(format!("{word} names no resource; write {}", example(kind))));
    }
    id(kind, name, namespace)
}

fn example(kind: Kind) -> String {
    if kind.namespaced() { format!("{kind}/shop/api") } else { format!("{kind}/blocked") }
}

/// The resource that `NAME` or `NAMESPACE/NAME`, and perhaps `-n`, stand for.
pub fn id(kind: Kind, name: &str, namespace: Option<&str>) -> Result<ResourceId, Failure> {
    if name.split('/').any(str::is_empty) || name.split('/').count() > 2 {
        return Err(Failure::Usage(format!(
            "{name} is not NAME or NAMESPACE/NAME of a {kind}; an example: {}",
            example(kind)
        )));
    }
    let (written, name) = name.rsplit_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name));
    let namespace = match (kind.namespaced(), written, namespace) {
        (false, None, None) => "",
        (false, _, _) => return Err(Failure::Usage(format!("{kind} resources have no namespace"))),
        (true, Some(written), Some(flag)) if written != flag => {
            return Err(Failure::Usage(format!("the name says namespace {written} and -n says {flag}")));
        }
        (true, written, flag) => written.or(flag).unwrap_or(DEFAULT_NAMESPACE),
    };
    Ok(ResourceId::new(kind, namespace, name))
}

/// Shows the answer to apply and delete. Faults make it a failure.
pub fn show(changed: &Changed, format: Format) -> Result<(), Failure> {
    let mut out = output::open();
    match format {
        Format::Text => text(&mut out, changed)?,
        Format::Json => output::json(&mut out, &Json::from(changed))?,
    }
    out.flush()?;
    if format == Format::Text {
        changed.faults.iter().for_each(|fault| remark(&clean(&fault.to_string())));
    }
    match changed.faults.len() {
        0 => Ok(()),
        faults => Err(Failure::Refused(format!(
            "refused: {faults} {}; nothing was changed (generation {} stays in force)",
            if faults == 1 { "fault" } else { "faults" },
            changed.generation
        ))),
    }
}

fn text(out: &mut dyn Write, changed: &Changed) -> Result<(), Failure> {
    changed.warnings.iter().for_each(|warning| remark(&format!("{} {}", paint(ODD, "warning:"), clean(warning))));
    if !changed.faults.is_empty() {
        return Ok(());
    }
    for change in &changed.changes {
        let style = match change.action.as_str() {
            "created" => GOOD,
            "changed" => ODD,
            "deleted" => BAD,
            "unchanged" => DIM,
            _ => PLAIN,
        };
        writeln!(out, "{} {}", paint(style, &format!("{:9}", clean(&change.action))), clean(&change.id()))?;
    }
    would_cut(out, changed)?;
    match changed.dry_run {
        true => writeln!(out, "dry run: nothing was changed; generation {} stays in force", changed.generation)?,
        false => writeln!(out, "generation {} is in force", changed.generation)?,
    }
    Ok(())
}

/// The living connections that a dry run would cut.
fn would_cut(out: &mut dyn Write, changed: &Changed) -> Result<(), Failure> {
    for doomed in &changed.would_cut {
        let Doomed { workload, connection, direction, reason, policy, rule } = doomed;
        let by = if policy.is_empty() { reason.clone() } else { format!("{policy} {rule}") };
        let whose = if workload.is_empty() { "no workload" } else { workload };
        let line = format!("{connection} ({whose}, {}) by {by}", direction.name());
        writeln!(out, "{} {}", paint(BAD, "would cut"), clean(&line))?;
    }
    let unlisted = changed.would_cut_count.saturating_sub(changed.would_cut.len() as u64);
    match (changed.would_cut_count, unlisted) {
        (0, _) => Ok(()),
        (count, 0) => Ok(writeln!(out, "{count} living connections would be cut")?),
        (count, unlisted) => {
            Ok(writeln!(out, "{count} living connections would be cut, {unlisted} of them not listed")?)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    generation: u64,
    dry_run: bool,
    changes: &'a [Change],
    faults: Vec<JsonFault<'a>>,
    warnings: &'a [String],
    would_cut: &'a [Doomed],
    would_cut_count: u64,
}

/// A fault as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JsonFault<'a> {
    source: &'a str,
    line: u32,
    column: u32,
    field: &'a str,
    value: &'a str,
    problem: &'a str,
    remedy: &'a str,
}

impl<'a> From<&'a Fault> for JsonFault<'a> {
    fn from(fault: &'a Fault) -> Self {
        let Fault { source, line, column, field, value, problem, remedy } = fault;
        Self { source, line: *line, column: *column, field, value, problem, remedy }
    }
}

impl<'a> From<&'a Changed> for Json<'a> {
    fn from(changed: &'a Changed) -> Self {
        Self {
            generation: changed.generation,
            dry_run: changed.dry_run,
            changes: &changed.changes,
            faults: changed.faults.iter().map(JsonFault::from).collect(),
            warnings: &changed.warnings,
            would_cut: &changed.would_cut,
            would_cut_count: changed.would_cut_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_flag_make_an_id() {
        for (kind, name, flag, expected) in [
            (Kind::Policy, "api", None, Some("Policy/default/api")),
            (Kind::Policy, "api", Some("shop"), Some("Policy/shop/api")),
            (Kind::Policy, "shop/api", None, Some("Policy/shop/api")),
            (Kind::Policy, "shop/api", Some("shop"), Some("Policy/shop/api")),
            (Kind::Policy, "shop/api", Some("other"), None),
            (Kind::AddressSet, "bad", None, Some("AddressSet/bad")),
            (Kind::AddressSet, "bad", Some("shop"), None),
            (Kind::AddressSet, "shop/bad", None, None),
            (Kind::Policy, "Policy/shop/api", None, None),
            (Kind::Policy, "shop/", None, None),
            (Kind::Policy, "", None, None),
        ] {
            let id = id(kind, name, flag).ok().map(|id| id.to_string());
            assert_eq!(id.as_deref(), expected, "{kind} {name} {flag:?}");
        }
    }

    #[test]
    fn resources_are_named_by_kind_and_name_or_as_they_are_printed() {
        for (words, flag, expected) in [
            ("policy api shop/web", None, Some("Policy/default/api Policy/shop/web")),
            ("Policy/shop/api addressset/blocked", None, Some("Policy/shop/api AddressSet/blocked")),
            ("policies/api", Some("shop"), Some("Policy/shop/api")),
            ("Policy/shop/api", Some("other"), None),
            ("policy", None, None),
            ("policy policy/shop/api", None, None),
            ("Policy/shop/api web", None, None),
            ("shop/api", None, None),
            ("Policy/", None, None),
            ("Policy//api", None, None),
            ("Policy/shop/api/more", None, None),
            ("AddressSet/shop/blocked", None, None),
        ] {
            let split: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let ids = named(&split, flag).ok();
            let ids = ids.map(|ids| ids.iter().map(ResourceId::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(ids.as_deref(), expected, "{words} {flag:?}");
        }
    }
}
