//! Lives: ctl.
//! Called by: `policy eval` and, for what failed, `policy test`.
//! May touch: the writer it is given.
//! Never: leaves out why; the evaluator's answer is shown whole.

use std::io::{self, Write};

use serde::Serialize;
use weir_common::verdict::Verdict;
use weir_policy::{Answer, Explanation};

use crate::render::style;
use crate::render::style::{BOLD, DIM, clean, paint};
use crate::view;

/// What the text of an answer stands below.
const INDENT: &str = "                  ";

/// The style of a verdict.
pub fn style(verdict: Verdict) -> anstyle::Style {
    style::verdict(match verdict {
        Verdict::Allow => view::Verdict::Allow,
        Verdict::Deny => view::Verdict::Deny,
        Verdict::Audit => view::Verdict::Audit,
    })
}

/// Writes both ends' answers, and what staged policies would change.
pub fn text(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    for (direction, answer, end) in [
        ("egress", &explanation.egress, "the end that opens"),
        ("ingress", &explanation.ingress, "the end that is called"),
    ] {
        let heading = paint(BOLD, &format!("{direction:7}"));
        match answer {
            Some(answer) => side(out, &heading, answer)?,
            None => writeln!(
                out,
                "  {heading}  {}",
                paint(DIM, &format!("-      {end} is no workload, so no policy applies"))
            )?,
        }
    }
    if let Some(verdict) = explanation.staged() {
        let verdict = paint(style(verdict), verdict.name());
        writeln!(out, "  {}   were staged policies enforced, the verdict would be {verdict}", paint(BOLD, "staged"))?;
    }
    Ok(())
}

fn side(out: &mut dyn Write, heading: &str, answer: &Answer) -> io::Result<()> {
    let verdict = paint(style(answer.verdict), &format!("{:5}", answer.verdict.name()));
    let by = match answer.tier {
        Some(tier) => format!("{} tier: {} {}", tier.name(), answer.policy, answer.rule),
        None => answer.reason.name().to_owned(),
    };
    let of = paint(DIM, &format!("({})", clean(&answer.workload.to_string())));
    writeln!(out, "  {heading}  {verdict}  {} {of}", clean(&by))?;
    writeln!(out, "{INDENT}{}", clean(&answer.why))?;
    if let Some(staged) = &answer.staged {
        let by = match staged.policy.is_empty() {
            true => String::new(),
            false => format!(" by {} {}", staged.policy, staged.rule),
        };
        writeln!(
            out,
            "{INDENT}staged: would be {}{}",
            paint(style(staged.verdict), staged.verdict.name()),
            clean(&by)
        )?;
    }
    if !answer.logged {
        writeln!(out, "{INDENT}{}", paint(DIM, "makes no records (log: false); it is counted all the same"))?;
    }
    Ok(())
}

/// An explanation as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Json<'a> {
    verdict: &'static str,
    /// The verdict were staged policies enforced, if it is another.
    staged: Option<&'static str>,
    egress: Option<Side<'a>>,
    ingress: Option<Side<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side<'a> {
    workload: String,
    verdict: &'static str,
    reason: &'static str,
    tier: Option<&'static str>,
    policy: &'a str,
    rule: &'a str,
    passed: &'a [String],
    staged: Option<Staged<'a>>,
    logged: bool,
    why: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Staged<'a> {
    verdict: &'static str,
    policy: &'a str,
    rule: &'a str,
}

impl<'a> From<&'a Explanation> for Json<'a> {
    fn from(explanation: &'a Explanation) -> Self {
        Self {
            verdict: explanation.verdict.name(),
            staged: explanation.staged().map(Verdict::name),
            egress: explanation.egress.as_ref().map(Side::from),
            ingress: explanation.ingress.as_ref().map(Side::from),
        }
    }
}

impl<'a> From<&'a Answer> for Side<'a> {
    fn from(answer: &'a Answer) -> Self {
        Self {
            workload: answer.workload.to_string(),
            verdict: answer.verdict.name(),
            reason: answer.reason.name(),
            tier: answer.tier.map(weir_policy::Tier::name),
            policy: &answer.policy,
            rule: &answer.rule,
            passed: &answer.passed,
            staged: answer.staged.as_ref().map(|staged| Staged {
                verdict: staged.verdict.name(),
                policy: &staged.policy,
                rule: &staged.rule,
            }),
            logged: answer.logged,
            why: &answer.why,
        }
    }
}
