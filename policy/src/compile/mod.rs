//! Lives: host. Compiles resources to the image, prefixes and addresses of one generation, and keeps them up to date.
//! Called by: the agent for every change, `weirctl` for dry runs, the tests.
//! May touch: nothing but its arguments.
//! Never: decides anything itself; each cell is the reference evaluator's answer.
//!
//! ```text
//! local workloads ─ policies ─► sets (whom the same policies select) ─ terms ─► peers and ports that their rules name
//! workloads ─ labels that terms look at ─► subjects ┐
//! addresses ─ blocks that terms name ─► regions     ┴► identities ─ terms matched ─► classes
//! addresses of services, ports ─ what is behind ─► identity and port that are judged instead; the answers of who calls itself
//! ports ─ entries ─► atoms, port rows      sets x classes x port classes ─ tables ─► evaluate::judge ─► image
//! ```
//!
//! Every arrow is a partition whose parts keep their numbers (`parts`), so a change goes down the arrows only as far as it makes
//! a difference: a pod with known labels ends at its addresses, new labels at one identity, an edited policy at the sets it
//! selects. From scratch is the same path with everything new.

mod address_sets;
mod bind;
mod classes;
mod compiled;
mod compiler;
mod describe;
mod faults;
mod fill;
mod fronts;
mod identify;
mod identities;
mod itself;
mod lead;
mod limits;
mod own;
mod parts;
mod policies;
mod port_rows;
mod ports;
mod room;
mod rules;
mod space;
mod tables;
mod terms;
mod update;
mod view;
mod words;
mod workloads;

pub use compiled::{Compiled, CompiledSet, CompiledWorkload, Endpoints, LimitInfo, RuleInfo, ServiceNames, Sizes};
pub use compiler::{Compiler, Edit, Touched};
pub use itself::OwnAnswers;
pub use own::OwnTables;
use weir_common::verdict::Direction;

use crate::{Context, fault::Fault, model::Resources};

/// Both directions, in the order of the tables.
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Compiles the whole state, from scratch.
///
/// # Errors
/// Every reason why the resources cannot be in force together, each at the document it is about.
pub fn compile(resources: &Resources, context: &Context) -> Result<Compiled, Vec<Fault>> {
    Compiler::of(resources, context.clone()).map(|compiler| compiler.compiled())
}
