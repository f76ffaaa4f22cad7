//! Lives: weir-demo, the order of things.
//! Called by: main.
//! May touch: the world it builds, the file for the result.
//! Never: stops at a difference; the table shows all of them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::Running;
use weir_tests::world::{Who, World};

use crate::scenes::{self, Scene};
use crate::show::{Finding, Show};
use crate::{contain, flood, kept, update};

/// What the demo's worlds are called.
pub const LABEL: &str = "demo";

pub const WORKLOADS: &str = include_str!("../../../demo/workloads.yaml");
pub const POLICY: &str = include_str!("../../../demo/policy.yaml");
pub const UPDATE: &str = include_str!("../../../demo/update.yaml");
pub const CONTAIN: &str = include_str!("../../../demo/contain.yaml");

/// Weir in a world, with a server for each service.
pub struct Stage {
    // Declared first: the servers end before the world does.
    pub web: Running,
    pub api: Running,
    pub db: Running,
    pub harness: Harness,
}

/// The file of `--json`.
#[derive(Serialize)]
struct Outcome<'a> {
    ok: bool,
    steps: &'a [Finding],
}

/// Runs the demo; whether everything was as expected.
pub fn tell(json: Option<&Path>, keep: bool) -> Result<bool> {
    let show = Show::new();
    let start = Instant::now();
    show.title("Weir: holds traffic back, lets a chosen amount through, and measures it, inside the kernel.");
    let world = World::new(LABEL).context("building the world")?;
    show.done(
        "four services (web, api, db, an outside client) and a polite neighbour, each in a namespace of its own",
        start,
    );
    let step = Instant::now();
    let mut harness = Harness::start(world, Options::default()).context("starting Weir")?;
    show.done("weir-collector and weir-agent are up, programs attached", step);
    let step = Instant::now();
    let applied = scenes::policy(&mut harness)?;
    show.finding(&applied, step);
    // After the policy, so that each server's process is known from the moment it binds.
    let mut stage = open(harness)?;
    show.done("web, api and db serve", step);
    let mut findings = vec![applied];
    findings.extend(play(&mut stage, &show)?);
    show.table(&findings);
    let ok = findings.iter().all(|finding| finding.ok);
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&Outcome { ok, steps: &findings })?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    show.verdict(ok, start);
    if keep {
        kept::leave(stage)?;
    }
    Ok(ok)
}

/// The three servers. IPv6 listeners take IPv4 as well.
fn open(harness: Harness) -> Result<Stage> {
    let serve = |who, port| harness.world().serve(who, &format!("tcp-serve --seconds 86400 --listen [::]:{port}"));
    let (web, api, db) = (serve(Who::Web, 80)?, serve(Who::Api, 8080)?, serve(Who::Db, 5432)?);
    Ok(Stage { web, api, db, harness })
}

fn play(stage: &mut Stage, show: &Show) -> Result<Vec<Finding>> {
    let scenes: [Scene; 10] = [
        scenes::allowed,
        scenes::refused,
        scenes::kept_out,
        flood::limited,
        update::updated,
        scenes::bad_document,
        contain::contained,
        scenes::collector_hangs,
        scenes::agreed,
        scenes::agent_killed,
    ];
    let mut findings = Vec::new();
    for scene in scenes {
        let step = Instant::now();
        let seen = scene(stage).map_err(|error| anyhow!("{error:#}\n{}", stage.harness.logs()))?;
        seen.iter().for_each(|finding| show.finding(finding, step));
        findings.extend(seen);
    }
    Ok(findings)
}
