//! Lives: weir-bench. What was measured, beside what is meant to be.
//! Called by: the program, at its end.
//! May touch: standard output, the file given by `--json`.
//! Never: turns a goal that was missed into a failure: machines differ, people judge.

use serde::Serialize;

use weir_policy::Sizes;

use crate::measure::{edits::Cost, one::One, speed::Speed};

/// Compile time when pods and policies double: at most this many times as long.
const GROWTH: f64 = 2.0 * 1.2;
/// One policy's update: at least this many times cheaper than all from scratch.
const CHEAPER: f64 = 50.0;
/// A pod has an address of each family, and one may take over another's.
const OWN_ADDRESSES: usize = 2;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The sizes, ascending.
    pub sizes: Vec<One>,
    /// The goals.
    pub goals: Vec<Goal>,
}

/// A goal and how near it is.
#[derive(Debug, PartialEq, Serialize)]
pub struct Goal {
    /// What is meant.
    pub what: String,
    /// How much of it is meant.
    pub goal: String,
    /// What was measured.
    pub measured: String,
    /// Whether that will do.
    pub met: bool,
}

impl Report {
    /// Compares the sizes with the goals.
    #[must_use]
    pub fn of(sizes: Vec<One>) -> Self {
        let mut goals: Vec<Goal> =
            sizes.iter().zip(sizes.iter().skip(1)).map(|(half, whole)| growth(half, whole)).collect();
        if let Some(largest) = sizes.last() {
            goals.extend(cheaper(largest));
            goals.extend(pods(largest));
        }
        Self { sizes, goals }
    }

    /// Tables for people.
    pub fn print(&self) {
        println!("\nfrom scratch (CPU time; memory is what compiling adds at its peak to the resources' own)");
        println!(
            "  {:>7} {:>8} {:>10} {:>9} {:>9} {:>10} {:>7} {:>6} {:>9} {:>6} {:>9} {:>8} {:>6}",
            "pods",
            "policies",
            "ms",
            "peak MB",
            "own MB",
            "identities",
            "classes",
            "sets",
            "cells",
            "pages",
            "endpoints",
            "prefixes",
            "rules"
        );
        self.sizes.iter().for_each(size);
        for one in self.sizes.iter().filter(|one| !one.edits.is_empty()) {
            edits(one);
        }
        for speed in self.sizes.iter().filter_map(|one| one.speed.as_ref()) {
            speeds(speed);
        }
        println!("\n  {:<72} {:>10} {:>10}  met", "goal", "meant", "measured");
        for goal in &self.goals {
            let met = if goal.met { "yes" } else { "NO" };
            println!("  {:<72} {:>10} {:>10}  {met}", goal.what, goal.goal, goal.measured);
        }
    }
}

fn growth(half: &One, whole: &One) -> Goal {
    let times = whole.full.milliseconds / half.full.milliseconds.max(f64::MIN_POSITIVE);
    Goal {
        what: format!("compile time from {} to {} pods", half.pods, whole.pods),
        goal: format!("<= {GROWTH:.2}x"),
        measured: format!("{times:.2}x"),
        met: times <= GROWTH,
    }
}

/// One goal for each kind of edit of a policy.
fn cheaper(one: &One) -> Vec<Goal> {
    let goal = |cost: &Cost| {
        let times = ratio(one, cost);
        Goal {
            what: format!("{} at {} pods, against all from scratch", cost.edit, one.pods),
            goal: format!(">= {CHEAPER:.0}x"),
            measured: format!("{times:.0}x"),
            met: times >= CHEAPER,
        }
    };
    one.edits.iter().filter(|cost| cost.of_a_policy).map(goal).collect()
}

/// One pod's event touches its own addresses and nothing else's.
fn pods(one: &One) -> Vec<Goal> {
    let goal = |cost: &Cost| Goal {
        what: format!("{}: addresses it touches", cost.edit),
        goal: format!("<= {OWN_ADDRESSES}"),
        measured: cost.touched.addresses.to_string(),
        met: cost.touched.addresses <= OWN_ADDRESSES,
    };
    one.edits.iter().filter(|cost| cost.of_a_pod).map(goal).collect()
}

fn ratio(one: &One, cost: &Cost) -> f64 {
    one.full.milliseconds / cost.milliseconds.max(f64::MIN_POSITIVE)
}

fn size(one: &One) {
    let Sizes { identities, classes, sets, cells, pages, endpoints, cidrs, rules, .. } = one.full.tables;
    println!(
        "  {:>7} {:>8} {:>10.1} {:>9.1} {:>9.1} {identities:>10} {classes:>7} {sets:>6} {cells:>9} {pages:>6} {endpoints:>9} \
         {cidrs:>8} {rules:>6}",
        one.pods,
        one.policies,
        one.full.milliseconds,
        megabytes(one.full.peak_bytes),
        megabytes(one.full.resources_bytes),
    );
}

fn edits(one: &One) {
    println!("\nedits at {} pods (median CPU time; the most that any of them touched)", one.pods);
    println!(
        "  {:<36} {:>9} {:>8} {:>9} {:>9} {:>10} {:>7} {:>5} {:>8} {:>6}",
        "edit", "ms", "cheaper", "workloads", "addresses", "identities", "classes", "sets", "cells", "pages"
    );
    for cost in &one.edits {
        let touched = cost.touched;
        println!(
            "  {:<36} {:>9.3} {:>7.0}x {:>9} {:>9} {:>10} {:>7} {:>5} {:>8} {:>6}",
            cost.edit,
            cost.milliseconds,
            ratio(one, cost),
            touched.workloads,
            touched.addresses,
            touched.identities,
            touched.classes,
            touched.sets,
            touched.cells,
            touched.pages
        );
    }
}

fn speeds(speed: &Speed) {
    println!("\nin a second of CPU time");
    let rows = [
        ("policies read, as JSON", speed.json_policies),
        ("policies read, as YAML", speed.yaml_policies),
        ("bytes of YAML read", speed.yaml_bytes),
        ("pods read, as JSON", speed.json_pods),
        ("questions to the reference evaluator", speed.questions),
        ("decisions by the compiled tables", speed.decisions),
    ];
    for (what, count) in rows {
        println!("  {what:<40} {count:>14.0}");
    }
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_policy::Touched;

    use crate::measure::compile::Full;

    fn one(pods: usize, milliseconds: f64, edits: Vec<Cost>) -> One {
        let full = Full { milliseconds, peak_bytes: 1, resources_bytes: 1, tables: Sizes::default() };
        One { pods, policies: 1, local: 1, namespaces: 1, nodes: 1, full, edits, speed: None }
    }

    fn cost(of_a_policy: bool, milliseconds: f64, addresses: usize) -> Cost {
        let touched = Touched { addresses, ..Touched::default() };
        Cost { edit: "edit".into(), of_a_pod: !of_a_policy, of_a_policy, milliseconds, touched }
    }

    #[test]
    fn a_goal_that_is_missed_is_said_to_be() {
        let rows = [
            (24.0, cost(true, 0.4, 0), [true, true]),
            (25.0, cost(true, 0.6, 0), [false, false]),
            (20.0, cost(false, 9.0, 2), [true, true]),
            (20.0, cost(false, 0.1, 3), [true, false]),
        ];
        for (milliseconds, cost, met) in rows {
            let report = Report::of(vec![one(1, 10.0, Vec::new()), one(2, milliseconds, vec![cost.clone()])]);
            assert_eq!(report.goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), met, "{milliseconds} {cost:?}");
        }
    }
}
