//! Lives: weir-tests, live tests of the ground everything else stands on: worlds without Weir.
//! Called by: main.
//! May touch: worlds of its own.
//! Never: starts an agent.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::process::{Running, SOON};
use weir_tests::world::{Who, World, cgroup, ledger, netns};

use crate::test;

pub fn trials() -> Vec<Trial> {
    vec![
        test("without_weir_a_world_carries_tcp_and_udp_in_both_families", carries),
        test("without_weir_a_paced_stream_arrives_whole_and_a_flood_is_fast_enough_to_test_limits", streams),
        test("a_world_leaves_nothing_behind", leaves_nothing),
        test("a_kept_world_and_its_processes_live_on_until_it_is_removed", kept),
        test("a_world_whose_maker_was_killed_is_collected_by_the_next", collected),
    ]
}

fn carries() -> Result<()> {
    let world = World::new("carries")?;
    let any = "tcp-serve --listen 0.0.0.0:80 --listen [::]:81";
    let web = world.serve(Who::Web, any)?;
    let udp = world.serve(Who::Web, "udp-serve --listen 0.0.0.0:53 --listen [::]:54")?;
    for from in [Who::Client, Who::Api, Who::Polite, Who::Node] {
        let ends =
            [format!("{}:80", Who::Web.v4()), format!("[{}]:81", Who::Web.v6()), "[::ffff:10.77.0.10]:80".into()];
        for end in ends {
            let attempt = world.attempt(from, &format!("tcp-connect --to {end} --bytes 100000"))?;
            ensure!(attempt.result == "ok" && attempt.received == 100_000, "{from:?} to {end}: {attempt:?}");
        }
        for (end, how) in [("10.77.0.10:53", ""), ("10.77.0.10:53", "--connected"), ("[fd77:0:0:a::1]:54", "")] {
            let attempt = world.attempt(from, &format!("udp-exchange --to {end} {how}"))?;
            ensure!(attempt.result == "ok" && attempt.received == 64, "{from:?} to {end}: {attempt:?}");
        }
    }
    ensure!(web.accepted() == 12, "accepted {} of 12", web.accepted());
    for (from, to) in [("192.0.2.1", "10.0.1.4:80"), ("2001:db8::1", "[fd00:1::4]:81")] {
        let _db = world.serve(Who::Db, any)?;
        let attempt = world.attempt(Who::Polite, &format!("tcp-connect --from {from} --to {to} --bytes 10"))?;
        ensure!(attempt.result == "ok", "{from} to {to}: {attempt:?}");
    }
    let refused = world.attempt(Who::Client, "tcp-connect --to 10.77.0.10:9")?;
    ensure!(refused.result == "ECONNREFUSED", "{refused:?}");
    let served = udp.served()?;
    ensure!(served.from(Who::Client.v4()).packets == 2 && served.from(Who::Client.v6()).packets == 1, "{served:?}");
    Ok(())
}

fn streams() -> Result<()> {
    let world = World::new("streams")?;
    let server = world.serve(Who::Api, "udp-serve --silent --listen 0.0.0.0:5000")?;
    let to = "--to 10.77.0.20:5000";
    let paced =
        world.start("paced", world.probe_line(Who::Polite, &format!("udp-paced {to} --rate 200 --seconds 2")))?;
    let flood = world.probe_line(Who::Client, &format!("udp-flood {to} --rate 20000 --seconds 2"));
    let flood = world.start("flood", flood)?.sent()?;
    let paced = paced.sent()?;
    let served = server.served()?;
    ensure!(flood.ok > 20 * paced.ok && flood.refused.is_empty(), "the flood is too slow: {flood:?} beside {paced:?}");
    ensure!(paced.ok > 20, "{paced:?}");
    let polite = served.from(Who::Polite.v4());
    ensure!(polite.packets == paced.ok && polite.repeated == 0, "sent {paced:?}, arrived {polite:?}");
    Ok(())
}

fn leaves_nothing() -> Result<()> {
    let world = World::new("leaves-nothing")?;
    let (name, folder) = (world.name().to_owned(), world.folder().to_owned());
    // Still running when the world goes.
    let _server = world.serve(Who::Db, "tcp-serve --listen 0.0.0.0:80")?;
    ensure!(traces(&name)?.len() == 8, "{:?}", traces(&name)?);
    drop(world);
    ensure!(traces(&name)?.is_empty() && !folder.exists(), "{:?}", traces(&name)?);
    Ok(())
}

fn kept() -> Result<()> {
    let world = World::new("kept")?;
    let name = world.name().to_owned();
    let mut line = world.probe(Who::Db);
    line.args(["tcp-serve", "--listen", "0.0.0.0:80", "--seconds", "60"]);
    let mut server = Running::start_daemon("server", line, world.folder())?;
    world.keep()?;
    ledger::collect();
    ensure!(traces(&name)?.len() == 8 && !server.ended(), "not kept: {:?}", traces(&name)?);
    ensure!(ledger::remove_kept("kept")? == [name.clone()], "another world was kept as well");
    ensure!(traces(&name)?.is_empty(), "left: {:?}", traces(&name)?);
    server.wait(SOON)?;
    Ok(())
}

fn collected() -> Result<()> {
    // This program again, with nothing to do but build a world and wait to be killed.
    let own = std::env::current_exe()?;
    let mut maker = Command::new(own).arg(super::MAKE_A_WORLD).stdout(Stdio::null()).spawn()?;
    let prefix = format!("weir-orphan-{}", maker.id());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !traces(&prefix)?.contains(&"ready".to_owned()) {
        ensure!(std::time::Instant::now() < deadline, "the world to orphan was not made: {:?}", traces(&prefix)?);
        std::thread::sleep(Duration::from_millis(5));
    }
    ledger::collect();
    ensure!(traces(&prefix)?.len() > 8, "collected while its maker lives");
    maker.kill()?;
    maker.wait()?;
    let collected = ledger::collect();
    ensure!(collected.contains(&prefix), "collected {collected:?}");
    ensure!(traces(&prefix)?.is_empty(), "left: {:?}", traces(&prefix)?);
    Ok(())
}

/// What there is of a world, by whatever it is found.
fn traces(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in [netns::FOLDER.into(), cgroup::mount()?, ledger::FOLDER.into()] {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?.flatten() {
            let entry_name = entry.file_name().to_string_lossy().into_owned();
            if entry_name.starts_with(name) {
                found.push(entry_name);
            }
        }
    }
    if std::path::Path::new(ledger::FOLDER).join(name).join("ready").exists() {
        found.push("ready".to_owned());
    }
    Ok(found)
}

/// Builds a world and waits for its end; run by [`collected`] in a process of its own.
pub fn make_and_wait() -> Result<()> {
    let world = World::new("orphan")?;
    world.write("ready", "")?;
    // Killed long before; a bound all the same.
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}
