//! Lives: weir-tests, live tests of faults at every step of a start, while an agent before has left a policy in force.
//! Called by: `faults`.
//! May touch: worlds of its own, whose agent it lets fail, kills and starts.
//! Never: looks away while two agents' programs stand beside each other: what is in force is asked by traffic then, too.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::faults::Failing::{self, Cannot, Goes, Refuses};
use crate::faults::{Part, Stage, errors};

/// The parts of the matrix that are run here.
pub const PARTS: [Part; 2] = [("start-killed", killed), ("start-failed", failed)];

/// The points of a start, in their order, as those of a change.
const STEPS: [(&str, u32, Failing); 18] = [
    ("start.load", 7, Refuses),
    ("start.run", 1, Refuses),
    ("install.maps", 2, Refuses),
    ("install.lead", 5, Refuses),
    ("install.page", 3, Refuses),
    ("install.switch", 2, Refuses),
    ("attach.cgroup", 2, Goes),
    ("attach.cgroup", 12, Goes),
    ("attach.storage", 1, Goes),
    ("attach.caller", 2, Goes),
    ("attach.namespace", 1, Goes),
    ("attach.wire", 2, Goes),
    ("pin.link", 1, Goes),
    ("pin.link", 8, Goes),
    ("pin.pinned", 8, Cannot),
    ("xdp.update", 1, Goes),
    ("xdp.updated", 1, Cannot),
    ("release.link", 3, Goes),
];

/// The same, killed only.
const LAST: [(&str, u32); 1] = [("release.run", 1)];

/// Where no agent was before: there is nothing else to be in force.
const FIRST: [(&str, u32); 1] = [("attach.xdp", 1)];

/// The points that are tried here.
pub fn names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(name, ..)| *name).chain(LAST.iter().chain(&FIRST).map(|(name, _)| *name))
}

/// How long a start may take that ends by a fault.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn killed() -> Result<()> {
    let mut stage = Stage::new("kstart")?;
    for (point, count) in STEPS.iter().map(|(point, count, _)| (*point, *count)).chain(LAST) {
        let fault = format!("{point} kill {count}\n");
        stage.harness.kill_agent()?;
        hasty(&mut stage, &fault).with_context(|| fault.clone())?;
        stage.is(stage.side, &format!("killed at {fault}"))?;
        stage.repaired().with_context(|| fault.clone())?;
    }
    for (point, count) in FIRST {
        let fault = format!("{point} kill {count}\n");
        stage.harness.detach()?;
        hasty(&mut stage, &fault).with_context(|| fault.clone())?;
        stage.repaired().with_context(|| fault.clone())?;
    }
    Ok(())
}

/// An agent that ends by these faults, one way or the other; its log.
fn hasty(stage: &mut Stage, faults: &str) -> Result<String> {
    stage.arm(faults)?;
    let command = stage.harness.agent_command()?;
    let mut hasty = stage.harness.world().start("hasty", command)?;
    let ended = hasty.wait(ENDS_WITHIN)?;
    ensure!(!ended.success(), "it ended well");
    stage.came(faults)?;
    Ok(std::fs::read_to_string(hasty.log())?)
}

fn failed() -> Result<()> {
    let mut stage = Stage::new("fstart")?;
    for (turn, (point, count, failing)) in STEPS.into_iter().enumerate().filter(|(_, step)| step.2 != Cannot) {
        for error in errors(turn) {
            let fault = format!("{point} {error} {count}\n");
            fail_at(&mut stage, (point, &fault), failing).with_context(|| fault.clone())?;
        }
    }
    for (turn, (point, count)) in FIRST.into_iter().enumerate() {
        for error in errors(turn) {
            let fault = format!("{point} {error} {count}\n");
            stage.harness.detach()?;
            stage.arm(&fault)?;
            stage.repaired().with_context(|| fault.clone())?;
            stage.came(&fault)?;
        }
    }
    Ok(())
}

fn fail_at(stage: &mut Stage, (point, fault): (&str, &str), failing: Failing) -> Result<()> {
    stage.harness.kill_agent()?;
    if failing == Refuses {
        let log = hasty(stage, fault)?;
        ensure!(log.contains(point) || log.contains("run-"), "the log does not name the step:\n{log}");
        stage.is(stage.side, "the start failed")?;
        return stage.repaired();
    }
    // Killed as soon as it has let go of what was before: whatever failed must have been made good until then.
    hasty(stage, &format!("{fault}release.run kill 1\n"))?;
    stage.is(stage.side, "killed as soon as it had let go")?;
    // And one that is left alone mends it.
    stage.arm(fault)?;
    stage.repaired()?;
    stage.came(fault)
}
