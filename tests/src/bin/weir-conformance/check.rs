//! Lives: weir-conformance.
//! Called by: main, once per case.
//! May touch: nothing.
//! Never: reports a wrong answer without the evaluator's words for it.

use weir_common::verdict::Verdict;
use weir_policy::{Context, End, Explanation, Question, Resources, Timestamp, evaluate, evaluate_service};

use crate::case::{Case, Expected, State};
use crate::ends::{self, To};
use crate::report::Outcome;
use crate::tables::{Compilers, Tables};
use crate::walk;

/// Orders in which each state is built from scratch.
const ORDERS: u64 = 3;

/// What there is from state to state: the resources, and what each node has made of them.
#[derive(Default)]
struct Walked {
    resources: Resources,
    compilers: Compilers,
}

/// Every state of a case, from scratch and by increments from the state before.
pub fn case(case: &Case) -> Outcome {
    let mut outcome = Outcome { name: case.name.clone(), ..Outcome::default() };
    let mut walked = Walked::default();
    let mut state = case.state.clone();
    let steps = [("", None)].into_iter().chain(case.then.iter().map(|step| (step.change.as_str(), Some(step))));
    for (number, (change, step)) in (1u64..).zip(steps) {
        if let Some(step) = step {
            state = state.after(step);
        }
        let expected = step.map_or(&case.expected, |step| &step.expected);
        let mut found = Vec::new();
        one_state(&state, expected, &mut walked, number, &mut outcome, &mut found);
        let prefix = if change.is_empty() { String::new() } else { format!("after \"{change}\": ") };
        outcome.failures.extend(found.into_iter().map(|failure| format!("{prefix}{failure}")));
    }
    outcome
}

fn one_state(
    state: &State,
    expected: &[Expected],
    walked: &mut Walked,
    number: u64,
    outcome: &mut Outcome,
    found: &mut Vec<String>,
) {
    let (built, singly) = match (walk::read(state), walk::read_singly(state)) {
        (Ok(built), Ok(singly)) => (built, singly),
        (Err(faults), _) | (_, Err(faults)) => {
            found.extend(faults.iter().map(ToString::to_string));
            return;
        }
    };
    let scratch: Resources = built.iter().cloned().collect();
    for seed in 1..=ORDERS {
        let mut shuffled = built.clone();
        walk::shuffle(&mut shuffled, seed * number);
        if shuffled.into_iter().collect::<Resources>() != scratch {
            found.push(format!("the order of arrival matters (seed {})", seed * number));
        }
    }
    walk::step(&mut walked.resources, singly, number);
    if walked.resources != scratch {
        found.push("increments lead to another state than building it from scratch".to_owned());
    }
    let changed = Tables::changed(&mut walked.compilers, state, &walked.resources, number);
    let tables =
        [("from scratch", &scratch, Tables::of(state, &scratch)), ("by increments", &walked.resources, changed)];
    for probe in expected {
        outcome.asked += 1;
        for (how, resources, tables) in &tables {
            match ask(state, resources, tables, probe) {
                Ok(closed) => outcome.closed_sctp += usize::from(closed && *how == "from scratch"),
                Err(failure) => found.push(format!("{how}: {}: {failure}", shown(probe))),
            }
        }
    }
}

/// Asks the evaluator, then the tables. `true` when the tables are more closed, as they may be for SCTP.
fn ask(
    state: &State,
    resources: &Resources,
    tables: &Result<Tables, String>,
    probe: &Expected,
) -> Result<bool, String> {
    let (from, to, protocol) = (ends::from(state, probe)?, ends::to(state, probe)?, ends::protocol(probe)?);
    let context = context();
    let explanation = match &to {
        To::Service(id) => evaluate_service(resources, &context, &from, id, (protocol, probe.port)),
        To::End(to) => {
            let question = Question { from: from.clone(), to: to.clone(), protocol, port: probe.port };
            evaluate(resources, &context, &question)
        }
    };
    let explanation = match explanation {
        Ok(explanation) => explanation,
        // Nothing is behind the Service, so nothing can be opened.
        Err(_) if !probe.allowed && matches!(to, To::Service(_)) => return Ok(false),
        Err(error) => return Err(error.to_string()),
    };
    if (explanation.verdict == Verdict::Allow) != probe.allowed {
        let wanted = if probe.allowed { "allowed" } else { "refused" };
        return Err(format!("must be {wanted}; {explanation}"));
    }
    let tables = tables.as_ref().map_err(Clone::clone)?;
    match (&from, &to) {
        (End::Address(from), To::End(End::Address(to))) => {
            by_tables(tables, &explanation, *from, *to, (protocol, probe.port))
        }
        // What arrives after the Service's translation is a plain opening, which other questions ask.
        (End::Address(from), To::Service(id)) => {
            let addresses = resources.service(id).map(|service| service.addresses.as_slice()).unwrap_or_default();
            let same_family = addresses.iter().find(|to| to.as_v4().is_some() == from.as_v4().is_some());
            match (same_family, &explanation.egress) {
                (Some(to), Some(answer)) => tables.agree(answer, *to, (protocol, probe.port)),
                (_, _) => Ok(false),
            }
        }
        (End::Workload(_), _) | (_, To::End(End::Workload(_))) => Ok(false),
    }
}

fn by_tables(
    tables: &Tables,
    explanation: &Explanation,
    from: weir_common::addr::Addr,
    to: weir_common::addr::Addr,
    port: (weir_common::addr::Protocol, u16),
) -> Result<bool, String> {
    let mut closed = false;
    for (answer, remote) in [(&explanation.egress, to), (&explanation.ingress, from)] {
        let Some(answer) = answer else { continue };
        closed |= tables.agree(answer, remote, port)?;
    }
    Ok(closed)
}

/// No end of a case is this machine.
pub fn context() -> Context {
    Context {
        generation: 1,
        unknown: Verdict::Deny,
        unselected: Verdict::Allow,
        host_addresses: Vec::new(),
        tick_ns: 0,
        now: Timestamp(0),
    }
}

/// A question as people read it.
pub fn shown(probe: &Expected) -> String {
    let family = probe.family.as_ref().map_or_else(String::new, |family| format!(" ({family})"));
    format!("{} to {} {}/{}{family}", probe.from, probe.to, probe.port, probe.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{self, File};
    use crate::validation;

    fn all() -> Vec<File> {
        files::read(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/conformance"))).unwrap()
    }

    #[test]
    fn every_case_and_manifest_of_the_repository_passes() {
        let mut asked = 0;
        for file in all() {
            let outcomes = match &file {
                File::Case(one) => vec![case(one)],
                File::Manifests(manifests) => manifests.iter().map(validation::check).collect(),
                File::Unreadable(file, error) => panic!("{file}: {error:#}"),
            };
            for outcome in outcomes {
                assert_eq!(outcome.failures, Vec::<String>::new(), "{}", outcome.name);
                asked += outcome.asked;
            }
        }
        assert!(asked > 22_000, "only {asked} questions");
    }

    /// The format's README numbers what is usually got wrong; cases of our own name the sentences they ask about.
    #[test]
    fn every_numbered_sentence_is_asked_about() {
        let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/cases"));
        let texts: String = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        let missing: Vec<_> = (1..=32).filter(|item| !texts.contains(&format!("\"item-{item}\""))).collect();
        assert_eq!(missing, Vec::<i32>::new());
    }

    #[test]
    fn every_wrong_expectation_is_reported_both_ways() {
        for file in all() {
            match file {
                File::Case(mut wrong) if wrong.then.is_empty() => {
                    wrong.expected.iter_mut().for_each(|probe| probe.allowed = !probe.allowed);
                    assert_eq!(case(&wrong).failures.len(), 2 * wrong.expected.len(), "{}", wrong.name);
                }
                File::Case(_) | File::Unreadable(..) => {}
                File::Manifests(mut manifests) => {
                    for manifest in &mut manifests {
                        manifest.accepted = !manifest.accepted;
                        assert_eq!(validation::check(manifest).failures.len(), 1, "{}", manifest.name);
                    }
                }
            }
        }
    }
}
