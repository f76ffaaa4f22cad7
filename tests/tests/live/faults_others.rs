//! Lives: weir-tests, live tests of faults where address sets are loaded, and where an XDP slot is shared.
//! Called by: `faults`.
//! May touch: worlds of its own, whose agent it lets fail, kills and starts.
//! Never: believes the agent: who is shut out, and what the neighbour sees, is asked by traffic.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{Harness, Options};
use weir_tests::world::Who::{Api, Client, Polite};
use weir_tests::world::links::XdpAttached;

use crate::faults::Failing::{self, Cannot, Goes, Refuses};
use crate::faults::{Part, arm, came, errors};
use crate::neighbours::{Neighbour, judged, limit, pins, serve, sharing, world};

/// The parts of the matrix that are run here.
pub const PARTS: [Part; 2] = [("sets", sets), ("shared-slot", shared)];

/// Where a list is loaded whole.
const LOADING: [(&str, u32, Failing); 7] = [
    ("install.image", 1, Refuses),
    ("install.set", 2, Refuses),
    ("set.switch", 1, Refuses),
    ("set.create", 1, Goes),
    ("set.sync", 1, Goes),
    ("set.rename", 1, Goes),
    ("set.renamed", 1, Goes),
];

/// Where one entry is added.
const NOTING: &str = "set.note";

const SHARING: [(&str, u32, Failing); 3] =
    [("share.pin", 1, Goes), ("share.exchange", 1, Goes), ("share.exchanged", 1, Cannot)];

/// The points that are tried here.
pub fn names() -> impl Iterator<Item = &'static str> {
    LOADING.iter().chain(&SHARING).map(|(name, ..)| *name).chain([NOTING])
}

fn sets() -> Result<()> {
    let mut harness = Harness::start(world("fsets")?, Options { faults: true, ..Options::default() })?;
    harness.apply(&format!("{}{}", workloads(), document("AddressSet", "guests", "{action: block}")))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let list = |polite: bool| format!("{}\n192.0.2.0/24\n", if polite { Polite } else { Client }.v4());
    let mut polite = false;
    harness.ctl(&["set", "load", "guests", "-"], &list(polite))?.ok()?;
    ensure!(is_polite_shut_out(&harness)? == polite, "the first list");
    for (turn, (point, count, failing)) in LOADING.into_iter().enumerate() {
        let kill = format!("{point} kill {count}\n");
        arm(&harness, &kill)?;
        let said = harness.ctl(&["set", "load", "guests", "-"], &list(!polite))?;
        came(&harness, &kill)?;
        ensure!(!said.status.success(), "{kill}: answered: {said:?}");
        harness.kill_agent()?;
        let now = is_polite_shut_out(&harness).with_context(|| kill.clone())?;
        ensure!(now == (polite != (failing == Goes)), "{kill}: the wrong list is in force");
        harness.start_agent()?;
        // What was not saved may be lost, and not a part of it.
        polite = is_polite_shut_out(&harness).with_context(|| kill.clone())?;
        for error in errors(turn) {
            let fault = format!("{point} {error} {count}\n");
            arm(&harness, &fault)?;
            let said = harness.ctl(&["set", "load", "guests", "-"], &list(!polite))?;
            came(&harness, &fault)?;
            ensure!(said.status.success() == (failing == Goes), "{fault}: {said:?}");
            let now = is_polite_shut_out(&harness).with_context(|| fault.clone())?;
            ensure!(now == (polite != (failing == Goes)), "{fault}: the wrong list is in force");
            harness.ctl(&["set", "load", "guests", "-"], &list(!polite))?.ok()?;
            polite = !polite;
            ensure!(is_polite_shut_out(&harness)? == polite, "{fault}: once more");
        }
    }
    // Both are shut out when one is added; half a line of that is none.
    let other = if polite { Client } else { Polite }.v4().to_string();
    let kill = format!("{NOTING} kill 1\n");
    arm(&harness, &kill)?;
    let said = harness.ctl(&["set", "add", "guests", &other], "")?;
    came(&harness, &kill)?;
    ensure!(!said.status.success(), "answered: {said:?}");
    harness.kill_agent()?;
    ensure!(shut_out(&harness)? == [true, true], "the entry is not in force");
    harness.start_agent()?;
    ensure!(is_polite_shut_out(&harness)? == polite, "half a line counts");
    harness.ctl(&["set", "add", "guests", &other], "")?.ok()?;
    harness.kill_agent()?;
    harness.start_agent()?;
    ensure!(shut_out(&harness)? == [true, true], "an entry behind half a line was lost");
    Ok(())
}

/// client and polite.
fn shut_out(harness: &Harness) -> Result<[bool; 2]> {
    let mut found = [false; 2];
    for (who, out) in [Client, Polite].into_iter().zip(&mut found) {
        let line = format!("tcp-connect --to {} --timeout-ms 1000", SocketAddr::new(Api.v4(), 80));
        *out = harness.world().attempt(who, &line)?.result != "ok";
    }
    Ok(found)
}

fn is_polite_shut_out(harness: &Harness) -> Result<bool> {
    match shut_out(harness)? {
        [true, false] => Ok(false),
        [false, true] => Ok(true),
        both => bail!("neither list is in force as a whole: {both:?}"),
    }
}

fn shared() -> Result<()> {
    let world = world("fshare")?;
    let mut neighbour = Neighbour::load("xdp.frags")?;
    neighbour.attach(&world, XdpAttached::Driver)?;
    let mut harness = Harness::start(world, Options { faults: true, ..sharing() })?;
    harness.apply(&limit())?;
    let _server = serve(harness.world())?;
    judged(&harness, &neighbour, false).context("at first")?;
    for (turn, (point, count, failing)) in SHARING.into_iter().enumerate() {
        let kill = format!("{point} kill {count}\n");
        harness.kill_agent()?;
        arm(&harness, &kill)?;
        let command = harness.agent_command()?;
        let mut hasty = harness.world().start("hasty", command)?;
        hasty.wait(std::time::Duration::from_secs(20))?;
        came(&harness, &kill)?;
        judged(&harness, &neighbour, false).with_context(|| kill.clone())?;
        harness.start_agent()?;
        judged(&harness, &neighbour, false).with_context(|| format!("started after {kill}"))?;
        for error in errors(turn).into_iter().filter(|_| failing == Goes) {
            let fault = format!("{point} {error} {count}\n");
            harness.kill_agent()?;
            arm(&harness, &fault)?;
            harness.start_agent()?;
            came(&harness, &fault)?;
            judged(&harness, &neighbour, false).with_context(|| fault.clone())?;
        }
        ensure!(pins(harness.world()).len() == 1, "{point}: left: {:?}", pins(harness.world()));
    }
    ensure!(fs::metadata(harness.faults())?.len() == 0, "a fault is left");
    Ok(())
}
