//! Lives: host. Compiles resources to the image, prefixes and addresses of one generation.
//! Called by: the agent for every change, `weirctl` for dry runs, the tests.
//! May touch: nothing but its arguments.
//! Never: decides anything itself; each cell is the reference evaluator's answer.
//!
//! ```text
//! workloads ─ subjects ─► local sets (who the same policies select)        policies ─ terms ─► peers and ports they name
//! addresses, blocks ─ identities ─► numbers, endpoints, prefixes ─ classes ─► peer class by the terms an identity matches
//! ports ─ atoms ─► port atoms      sets x classes x atoms ─ cells ─► evaluate::judge ─► image
//! ```

mod atoms;
mod cells;
mod classes;
mod compiled;
mod faults;
mod identities;
mod image;
mod limits;
mod prefixes;
mod rules;
mod subjects;

pub use compiled::{Compiled, CompiledWorkload, LimitInfo, RuleInfo};

use crate::{Context, fault::Fault, model::Resources};

use faults::Problems;

/// Compiles the whole state.
///
/// # Errors
/// Every reason why the resources cannot be in force together, each at the document it is about.
pub fn compile(resources: &Resources, context: &Context) -> Result<Compiled, Vec<Fault>> {
    let mut problems = Problems::default();
    faults::check_workloads(resources, &mut problems);
    let subjects = subjects::Subjects::of(resources, context.now);
    let terms = classes::Terms::of(resources, &subjects);
    let numbering = rules::Numbering::of(resources, &mut problems);
    let limits = limits::Limits::of(resources, context, &numbering, &mut problems);
    let mut identities = identities::Identities::of(resources, context, &subjects, &mut problems);
    let atoms = atoms::Atoms::of(terms.ports().chain(limits.ports()), &mut problems);
    let classes = classes::Classes::of(&terms, &subjects, &identities, &mut problems);
    let cells = cells::Cells::of(&subjects, &terms, &classes, &identities, &atoms, &numbering, &mut problems);
    let services = limits.services(&identities, &atoms, &mut problems);
    let blocked = prefixes::blocked(resources, &numbering, &mut problems);
    problems.none()?;
    let pages =
        image::Image { context, identities: &identities, subjects: &subjects, classes: &classes, cells: &cells }.pages(
            &atoms,
            &limits,
            &services,
            !blocked.is_empty(),
        );
    Ok(Compiled {
        generation: context.generation,
        pages,
        workloads: identities.workloads(resources),
        endpoints: std::mem::take(&mut identities.endpoints),
        cidrs: std::mem::take(&mut identities.cidrs),
        blocked,
        rules: numbering.rules,
        limits: limits.infos,
    })
}
