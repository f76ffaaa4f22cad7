//! Lives: weir-demo, the scene of the flood.
//! Called by: story.
//! May touch: the stage.
//! Never: calls a limit held that let too little pass.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use weir_tests::flood::Flood;
use weir_tests::harness::ctl::{ARRIVE_WITHIN, Mark};
use weir_tests::harness::{HarnessError, Record};
use weir_tests::world::Who;

use crate::show::Finding;
use crate::story::Stage;

/// How far from its limit a flooding client may be.
const WITHIN: f64 = 0.02;
const FLOODED: &str = "rate_limit_packets";

/// A flood and a polite client.
pub fn limited(stage: &mut Stage) -> Result<Vec<Finding>> {
    let dropped = |stage: &Stage| Ok::<_, HarnessError>(stage.harness.status()?.counted("xdp", "deny", FLOODED));
    let (mark, before) = (Mark::now(), dropped(stage)?);
    let to = SocketAddr::new(Who::Api.v4(), 9000);
    let flood =
        Flood { to, size: 64, flood: 20_000, polite: 200, seconds: 3.0, weight: 1.0, rate: 1000.0, burst: 100.0 };
    let measured = flood.run(stage.harness.world())?;
    let off = measured.off();
    let held = Finding {
        step: "outside client floods api",
        expected: format!("{:.0} pass, within 2%", measured.due),
        observed: format!("{:.0} of {:.0} passed, {:+.2}%", measured.arrived, measured.sent, off * 100.0),
        ok: off.abs() <= WITHIN && measured.sent > 3.0 * measured.due,
        records: Vec::new(),
    };
    let spared = Finding {
        step: "polite client meanwhile",
        expected: "loses nothing".to_owned(),
        observed: format!("{} of {} arrived", measured.polite_arrived, measured.polite.ok),
        ok: measured.polite_is_whole(),
        records: Vec::new(),
    };
    let dropped = dropped(stage)? - before;
    let (recorded, records) = drops(stage, mark, dropped)?;
    let all = Finding {
        step: "drops on record",
        expected: format!("{dropped}, as the kernel counted"),
        observed: format!("{recorded} in {} records", records.len()),
        ok: recorded == dropped && recorded > 0,
        // They differ in time and count only.
        records: records.into_iter().take(2).collect(),
    };
    Ok(vec![held, spared, all])
}

/// The records of the flood's drops and the sum of their counts, once it is what it must be, or after a while.
fn drops(stage: &Stage, mark: Mark, expected: u64) -> Result<(u64, Vec<Record>)> {
    let deadline = Instant::now() + ARRIVE_WITHIN;
    loop {
        let mut records = stage.harness.records_since(mark)?;
        records.retain(|record| record.is("deny", "xdp") && record.reason == FLOODED);
        let recorded = records.iter().map(|record| record.count).sum();
        if recorded == expected || Instant::now() > deadline {
            return Ok((recorded, records));
        }
        sleep(Duration::from_millis(50));
    }
}
