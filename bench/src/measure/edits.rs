//! Lives: weir-bench.
//! Called by: the measurement of one size.
//! May touch: this process's CPU clock.
//! Never: times the making of an edit.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use weir_policy::{Compiler, Edit, Touched};

use super::{
    clock::{median, milliseconds, timed},
    compile::refused,
};
use crate::edits::{Editor, Kinds, Step};

/// What edits of one kind cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The kind, in words.
    pub edit: String,
    /// Whether it is about one pod.
    pub of_a_pod: bool,
    /// Whether it is about one policy.
    pub of_a_policy: bool,
    /// CPU time until the new tables are there, the median of the rounds.
    pub milliseconds: f64,
    /// What an edit touched, at most in any round.
    pub touched: Touched,
}

/// A step as the compiler takes it.
#[must_use]
pub fn edits(step: Step) -> Vec<Edit> {
    let removed = step.removed.into_iter().map(Edit::Remove);
    removed.chain(step.put.into_iter().map(Edit::Put)).collect()
}

/// Makes `rounds` edits of each kind, one after the other, on a compiler of the editor's cluster.
///
/// # Errors
/// An edit is refused, the cluster is too small for it, or the system tells no time.
pub fn costs(compiler: &mut Compiler, editor: &mut Editor, rounds: usize) -> Result<Vec<Cost>> {
    Kinds::ALL.iter().map(|(kind, words)| cost(compiler, editor, (*kind, words), rounds)).collect()
}

fn cost(compiler: &mut Compiler, editor: &mut Editor, (kind, words): (Kinds, &str), rounds: usize) -> Result<Cost> {
    let mut times = Vec::new();
    let mut touched = Touched::default();
    // The tables before are kept meanwhile, as the agent keeps those in force.
    let mut kept = compiler.compiled();
    for _ in 0..rounds {
        let edits = edits(editor.next(kind)?);
        let (time, result) = timed(|| compiler.apply(edits).map(|touched| (touched, compiler.compiled())))?;
        let (one, compiled) = result.map_err(|faults| refused(&faults))?;
        touched = most(touched, one);
        times.push(time);
        kept = compiled;
    }
    drop(kept);
    let milliseconds = milliseconds(median(times));
    let (of_a_pod, of_a_policy) = (kind.is_of_a_pod(), kind.is_of_a_policy());
    Ok(Cost { edit: words.to_owned(), of_a_pod, of_a_policy, milliseconds, touched })
}

/// The larger of both, each for itself.
fn most(one: Touched, other: Touched) -> Touched {
    Touched {
        workloads: one.workloads.max(other.workloads),
        addresses: one.addresses.max(other.addresses),
        identities: one.identities.max(other.identities),
        classes: one.classes.max(other.classes),
        sets: one.sets.max(other.sets),
        cells: one.cells.max(other.cells),
        pages: one.pages.max(other.pages),
    }
}
