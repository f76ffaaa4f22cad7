//! Lives: weir-bench. Everything that is measured of one size.
//! Called by: the program, in a process of its own for each size, so that memory figures do not mix.
//! May touch: what its parts may.
//! Never: runs two measurements at once.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    compile::{Full, full, refused},
    edits::{Cost, costs},
    speed::{Speed, speed},
};
use crate::{
    cluster::{Cluster, Size},
    edits::Editor,
};

/// What one size takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct One {
    /// Pods of the cluster.
    pub pods: usize,
    /// Its policies.
    pub policies: usize,
    /// Its pods on this node.
    pub local: usize,
    /// Its namespaces.
    pub namespaces: usize,
    /// Its nodes.
    pub nodes: usize,
    /// From scratch.
    pub full: Full,
    /// By increments, kind by kind; empty unless asked for.
    pub edits: Vec<Cost>,
    /// Reading and answering; none unless asked for.
    pub speed: Option<Speed>,
}

/// Measures one size; `all`: also edits and speeds.
///
/// # Errors
/// The cluster is refused, or the system does not tell time or memory.
pub fn one(size: &Size, rounds: usize, all: bool) -> Result<One> {
    let cluster = Cluster::generate(size);
    let resources = cluster.resources().map_err(|faults| refused(&faults))?;
    let (full, mut compiler) = full(&resources, rounds)?;
    let (mut edits, mut measured) = (Vec::new(), None);
    if all {
        measured = Some(speed(&cluster, &resources, &compiler.compiled())?);
        // The compiler alone holds what an edit replaces, as in the agent.
        drop(resources);
        edits = costs(&mut compiler, &mut Editor::new(cluster), rounds * EDITS)?;
    }
    let Size { pods, policies, local, namespaces, nodes, .. } = *size;
    Ok(One { pods, policies, local, namespaces, nodes, full, edits, speed: measured })
}

/// Edits of each kind for each full compile: they are that much cheaper.
const EDITS: usize = 5;
