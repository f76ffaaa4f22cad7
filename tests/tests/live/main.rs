//! Lives: weir-tests, the live tests: real traffic between namespaces, judged by the running programs.
//! Called by: cargo test; `cargo xtask test`.
//! May touch: worlds of its own.
//! Never: passes a test that did not run; leaves a world behind.
//!
//! A harness of our own, because worlds are shared by the tests of a file and must go after the last of them. One test at
//! a time: several of them measure rates, and two cores are not many. But those that mostly wait, in worlds of their own, run abreast.

mod adopted;
mod alerts;
mod alone;
mod attacks_churn;
mod attacks_kernel;
mod attacks_places;
mod attacks_replies;
mod attacks_sources;
mod attacks_ways;
mod attacks_wire;
mod attribution;
mod capabilities;
mod cases;
mod closing;
mod conformance;
mod crafted;
mod cutting;
mod cutting_hard;
mod delivery;
mod doctor;
mod doctor_bundle;
mod faults;
mod faults_others;
mod faults_start;
mod flips;
mod flips_records;
mod helpers;
mod icmp;
mod interfaces;
mod kernel_drops;
mod kinds;
mod lifecycle;
mod limited;
mod limits;
mod limits_socket;
mod metrics;
mod modes;
mod neighbours;
mod otlp;
mod otlp_receiver;
mod outlives;
mod pods;
mod policies;
mod poor;
mod quiet;
mod random;
mod refusals;
mod rows;
mod sealed;
mod services;
mod sets;
mod soak;
mod stage;
mod syn_flood;
mod themselves;
mod tls;
mod translated;
mod translator;
mod units;
mod updates;
mod upgrades;
mod verdicts;
mod worlds;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial, run};

/// How many tests run abreast.
const ABREAST: usize = 4;
/// Who runs: one test alone, or some of those that may run abreast.
static FLOOR: Floor = Floor { turns: Mutex::new(Turns { taken: 0, called: 0, abreast: 0 }), changed: Condvar::new() };

/// The argument with which this program only builds a world and waits to be killed, for a test.
const MAKE_A_WORLD: &str = "--make-a-world-and-wait";

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some(MAKE_A_WORLD) {
        return worlds::make_and_wait();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(ABREAST);
    let groups = [
        // Abreast, so together.
        services::trials(),
        translated::trials(),
        themselves::trials(),
        alerts::trials(),
        helpers::trials(),
        units::trials(),
        worlds::trials(),
        verdicts::trials(),
        attribution::trials(),
        metrics::trials(),
        otlp::trials(),
        adopted::trials(),
        cases::trials(),
        pods::trials(),
        conformance::trials(),
        kinds::trials(),
        icmp::trials(),
        attacks_ways::trials(),
        attacks_places::trials(),
        attacks_wire::trials(),
        attacks_sources::trials(),
        attacks_kernel::trials(),
        attacks_churn::trials(),
        attacks_replies::trials(),
        quiet::trials(),
        closing::trials(),
        cutting::trials(),
        cutting_hard::trials(),
        limits::trials(),
        sets::trials(),
        limits_socket::trials(),
        syn_flood::trials(),
        modes::trials(),
        neighbours::trials(),
        refusals::trials(),
        alone::trials(),
        updates::trials(),
        flips::trials(),
        random::trials(),
        poor::trials(),
        limited::trials(),
        capabilities::trials(),
        sealed::trials(),
        soak::trials(),
        policies::trials(),
        lifecycle::trials(),
        kernel_drops::trials(),
        outlives::trials(),
        upgrades::trials(),
        faults::trials(),
        delivery::trials(),
        doctor::trials(),
        doctor_bundle::trials(),
        interfaces::trials(),
        tls::trials(),
    ];
    let conclusion = run(&arguments, groups.into_iter().flatten().collect());
    stage::close();
    conclusion.exit()
}

/// Lets tests run in the order in which they came, whichever thread they came to: some on the stage go on from what those before have left.
struct Floor {
    turns: Mutex<Turns>,
    changed: Condvar,
}

struct Turns {
    /// The next test's.
    taken: u64,
    /// Whose turn it is.
    called: u64,
    /// Tests that run abreast now.
    abreast: usize,
}

impl Floor {
    /// Waits until all that came before have ended, or are among those that may run beside `abreast`.
    fn enter(&self, abreast: bool) {
        let mut turns = self.lock();
        let turn = turns.taken;
        turns.taken += 1;
        while turns.called != turn || (!abreast && turns.abreast > 0) {
            turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        if abreast {
            turns.abreast += 1;
            turns.called += 1;
            self.changed.notify_all();
        }
    }

    fn leave(&self, abreast: bool) {
        let mut turns = self.lock();
        if abreast {
            turns.abreast -= 1;
        } else {
            turns.called += 1;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the floor however a test ends.
struct OnFloor {
    abreast: bool,
}

impl OnFloor {
    fn enter(abreast: bool) -> OnFloor {
        FLOOR.enter(abreast);
        OnFloor { abreast }
    }
}

impl Drop for OnFloor {
    fn drop(&mut self) {
        FLOOR.leave(self.abreast);
    }
}

/// A test called `promise`, beside which no other runs.
fn test(promise: &str, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    on_floor(promise, false, body)
}

/// A test called `promise` that measures nothing and has a world of its own: others of its kind may run beside it.
fn abreast(promise: &str, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    on_floor(promise, true, body)
}

fn on_floor(promise: &str, abreast: bool, body: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(promise, move || {
        let _here = OnFloor::enter(abreast);
        body().map_err(|error| Failed::from(format!("{error:#}")))
    })
}
