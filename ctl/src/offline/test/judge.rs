//! Lives: ctl.
//! Called by: `policy test`.
//! May touch: nothing.
//! Never: stops at the first combination that fails; all of them are named.

use weir_policy::{Context, Expectation, Explanation, Fault, Place, PolicyTest, Resources, Written};

use crate::failure::Failure;
use crate::offline::ask::{Asked, ask_all};
use crate::offline::ends;
use crate::offline::load::count;
use crate::protocol::Port;
use crate::render::output::remark;
use crate::render::style::clean;

/// What came of one expectation.
pub struct Result {
    /// Its name, or the question where it has none.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// How many questions it asked.
    pub asked: usize,
    /// The ones with another answer.
    pub failed: Vec<Failed>,
}

/// A question with another answer than expected, or none.
pub struct Failed {
    pub question: String,
    pub problem: String,
    pub explanation: Option<Explanation>,
}

/// Asks everything that a document expects.
pub fn judge(resources: &Resources, context: &Context, test: &PolicyTest) -> std::result::Result<Vec<Result>, Failure> {
    let mut faults = Vec::new();
    let mut results = Vec::new();
    for expectation in &test.tests {
        let ports = ports(&test.origin.source, expectation, &mut faults);
        results.push(one(resources, context, expectation, &ports));
    }
    match faults.len() {
        0 => Ok(results),
        number => {
            faults.iter().for_each(|fault| remark(&clean(&fault.to_string())));
            Err(Failure::Refused(format!("refused: {}", count(number, "fault"))))
        }
    }
}

fn ports(source: &str, expectation: &Expectation, faults: &mut Vec<Fault>) -> Vec<Port> {
    let mut ports = Vec::new();
    for written in &expectation.ports {
        match written.text.parse() {
            Ok(port) => ports.push(port),
            Err(bad) => {
                let bad: crate::protocol::BadPort = bad;
                faults.push(written.fault(source, bad.problem, crate::protocol::PORT_REMEDY));
            }
        }
    }
    ports
}

fn one(resources: &Resources, context: &Context, expectation: &Expectation, ports: &[Port]) -> Result {
    let Expectation { name, place, from, to, .. } = expectation;
    let mut result = Result { name: String::new(), place: *place, asked: 0, failed: Vec::new() };
    for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
        for port in ports {
            let answers = match ask(resources, context, [from, to], *port) {
                Ok(answers) => answers,
                Err(problem) => vec![(format!("{} -> {} {port}", from.text, to.text), Err(problem))],
            };
            result.asked += answers.len();
            let compared = answers.into_iter().filter_map(|(question, answer)| compare(expectation, question, answer));
            result.failed.extend(compared);
        }
    }
    let texts = |written: &[Written]| written.iter().map(|it| it.text.as_str()).collect::<Vec<_>>().join(", ");
    let asked = || format!("{} -> {} {}", texts(from), texts(to), texts(&expectation.ports));
    result.name = name.clone().unwrap_or_else(asked);
    result
}

fn ask(
    resources: &Resources,
    context: &Context,
    [from, to]: [&Written; 2],
    port: Port,
) -> std::result::Result<Vec<Asked>, String> {
    let find = |end: &Written| ends::find_all(resources, &end.text).map_err(|bad| bad.to_string());
    Ok(ask_all(resources, context, (&find(from)?, &find(to)?), port))
}

/// What is wrong with an answer.
fn compare(
    expectation: &Expectation,
    question: String,
    answer: std::result::Result<Explanation, String>,
) -> Option<Failed> {
    let explanation = match answer {
        Ok(explanation) => explanation,
        Err(problem) => return Some(Failed { question, problem, explanation: None }),
    };
    let (expected, found) = (expectation.expect, explanation.verdict);
    let problem = if expected != found {
        format!("expected {}, got {}", expected.name(), found.name())
    } else {
        let by = expectation.by.as_ref().filter(|by| !is_by(&explanation, &by.text))?;
        let deciding = explanation.deciding().map(|answer| format!("{} {}", answer.policy, answer.rule));
        let deciding = deciding.filter(|words| !words.trim().is_empty()).unwrap_or_else(|| "no policy".to_owned());
        format!("{} as expected, but by {deciding}, not by {}", found.name(), by.text)
    };
    Some(Failed { question, problem, explanation: Some(explanation) })
}

/// Whether an answer that agrees with the verdict is by this policy, or this policy's rule.
fn is_by(explanation: &Explanation, by: &str) -> bool {
    let (policy, rule) = by.split_once(' ').map_or((by, None), |(policy, rule)| (policy, Some(rule.trim())));
    let named = |known: &str, rule: &str| {
        known == rule || known.strip_prefix(rule).is_some_and(|rest| rest.starts_with(' ')) || {
            // A rule may also be called by its name alone.
            known.split_once(' ').is_some_and(|(place, name)| place.ends_with(']') && name == rule)
        }
    };
    let answers = explanation.egress.iter().chain(&explanation.ingress);
    answers
        .filter(|answer| answer.verdict == explanation.verdict)
        .any(|answer| answer.policy == policy && rule.is_none_or(|rule| named(&answer.rule, rule)))
}
