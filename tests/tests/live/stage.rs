//! Lives: weir-tests, the world with a running Weir that most live tests share.
//! Called by: the tests, through [`on_stage`]; main, to close it.
//! May touch: its world.
//! Never: lets a test end well while kernel, agent and collector disagree; goes on with a stage on which a test failed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libtest_mimic::Trial;
use weir_tests::harness::{Harness, Options};
use weir_tests::world::World;

use crate::test;

static STAGE: Mutex<Option<Harness>> = Mutex::new(None);

/// Set, it keeps the world of a failed test to look at.
const KEEP: &str = "WEIR_KEEP_WORLD";

/// How long it may take until everything decided has reached the collector.
const AGREE_WITHIN: Duration = Duration::from_secs(30);

/// A test on the shared stage.
pub fn on_stage(promise: &str, body: impl FnOnce(&mut Harness) -> Result<()> + Send + 'static) -> Trial {
    test(promise, move || {
        let mut stage = stage();
        let mut harness = match stage.take() {
            Some(harness) => harness,
            None => Harness::start(World::new("stage")?, Options::default()).context("setting the stage")?,
        };
        let done = body(&mut harness).and_then(|()| agrees(&harness));
        match done {
            Ok(()) => {
                *stage = Some(harness);
                Ok(())
            }
            // The next test gets a fresh one.
            Err(error) => {
                let logs = harness.logs();
                Err(anyhow::anyhow!("{error:#}\n{logs}{}", afterwards(harness)?))
            }
        }
    })
}

/// What becomes of the world of a failed test.
fn afterwards(harness: Harness) -> Result<String> {
    if std::env::var_os(KEEP).is_none() {
        return Ok(format!("  ({KEEP}=1 keeps the world of a failed test)"));
    }
    let step_inside = harness.world().step_inside();
    harness.keep()?;
    Ok(format!("{step_inside}\nto remove it: weir-demo --remove"))
}

/// Takes the stage down.
pub fn close() {
    drop(stage().take());
}

/// Kernel counters, agent and collector agree once traffic has stopped.
pub fn agrees(harness: &Harness) -> Result<()> {
    let deadline = Instant::now() + AGREE_WITHIN;
    loop {
        let status = harness.status()?;
        let differences = status.disagreements();
        if differences.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("kernel, agent and collector do not agree:\n{}", differences.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn stage() -> MutexGuard<'static, Option<Harness>> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}
