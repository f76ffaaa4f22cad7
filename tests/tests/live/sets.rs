//! Lives: weir-tests, live tests of address sets that lists are loaded into.
//! Called by: main.
//! May touch: the stage.
//! Never: believes weirctl's word alone; a client must be shut out, and let in again.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde::Deserialize;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{self, Api, Client, Polite};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_client_is_shut_out_by_a_loaded_list_and_by_single_entries_and_is_let_in_again", loaded),
        on_stage("a_loaded_list_outlives_a_restart_of_the_agent_and_what_was_to_end_ends", restarted),
        on_stage("where_a_set_allows_only_the_clients_it_lists_reach_the_service", allowed),
        on_stage(
            "while_whole_lists_are_swapped_under_traffic_what_all_hold_never_passes_and_what_none_holds_always",
            swapped,
        ),
        on_stage("a_list_with_a_faulty_line_is_refused_with_the_line_and_changes_nothing", faulty),
    ]
}

fn stage(harness: &mut Harness, spec: &str) -> Result<()> {
    harness.apply(&format!("{}{}", workloads(), document("AddressSet", "guests", spec)))?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}

/// A client reaches the server, or does not, over each family. What must come through has time.
fn reaches(harness: &Harness, who: Who, port: u16, expected: [bool; 2], otherwise: &str) -> Result<()> {
    for (reached, api) in expected.into_iter().zip([Api.v4(), Api.v6()]) {
        let (timeout, result) = if reached { (8000, "ok") } else { (400, "ETIMEDOUT") };
        let line = format!("tcp-connect --to {} --timeout-ms {timeout}", SocketAddr::new(api, port));
        let tried = harness.world().attempt(who, &line)?;
        ensure!(tried.result == result, "{otherwise}: {tried:?}");
    }
    Ok(())
}

fn ctl(harness: &Harness, line: &str, input: &str) -> Result<String> {
    Ok(harness.ctl(&line.split(' ').collect::<Vec<_>>(), input)?.ok()?)
}

/// A set as `weirctl set list` shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    loaded: u64,
    next_expiry: Option<String>,
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
struct List {
    sets: Vec<Listed>,
}

/// The one set there is.
fn listed(harness: &Harness) -> Result<Listed> {
    let all: List = harness.ctl(&["set", "list", "-o", "json"], "")?.json()?;
    all.sets.into_iter().next().context("no set is listed")
}

fn loaded(harness: &mut Harness) -> Result<()> {
    stage(harness, "{action: block}")?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    reaches(harness, Client, 80, [true, true], "shut out by an empty set")?;
    let mark = Mark::now();
    let list = format!("# a list\n{} ; SBL1\n\n192.0.2.0/24\n{}/128,x\n", Client.v4(), Client.v6());
    let said = ctl(harness, "set load guests -", &list)?;
    ensure!(said.starts_with("3 entries loaded into guests"), "{said}");
    reaches(harness, Client, 80, [false, false], "not shut out")?;
    reaches(harness, Polite, 80, [true, true], "somebody else is shut out")?;
    let drop = harness.record(mark, "the block", |record| {
        record.is("deny", "xdp") && record.reason == "blocklist" && record.remote.address == Some(Client.v4())
    })?;
    ensure!(drop.policy == "AddressSet/guests", "{drop}");
    let set = listed(harness)?;
    ensure!(set.loaded == 3 && set.packets >= 2 && set.bytes >= 80, "{set:?}");

    let (v4, v6) = (Client.v4(), Client.v6());
    ctl(harness, &format!("set remove guests {v4} {v6}"), "")?;
    reaches(harness, Client, 80, [true, true], "still shut out")?;
    ctl(harness, &format!("set add guests {v4} --expires-in 10s"), "")?;
    let until = Instant::now() + Duration::from_secs(10);
    reaches(harness, Client, 80, [false, true], "the entry does nothing")?;
    let shown = ctl(harness, &format!("set show guests {v4}"), "")?;
    ensure!(shown.starts_with(&format!("{v4}/32 until ")), "{shown}");
    sleep(until.saturating_duration_since(Instant::now()));
    reaches(harness, Client, 80, [true, true], "the entry has not ended")?;
    harness.wait("the ended entry to be taken out", |harness| {
        listed(harness).is_ok_and(|set| set.loaded == 1 && set.next_expiry.is_none())
    })?;
    let again = harness.ctl(&["set", "remove", "guests", "203.0.113.9"], "")?;
    ensure!(!again.status.success() && again.err.contains("203.0.113.9/32 was not loaded"), "{again:?}");
    Ok(())
}

fn restarted(harness: &mut Harness) -> Result<()> {
    stage(harness, "{action: block}")?;
    ctl(harness, "set load guests -", &format!("{}\n192.0.2.0/24\n", Client.v4()))?;
    ctl(harness, &format!("set add guests {} --expires-in 1s", Client.v6()), "")?;
    ctl(harness, "set remove guests 192.0.2.0/24", "")?;
    let ended = Instant::now() + Duration::from_secs(1);
    let _ = harness.stop_agent()?;
    sleep(ended.saturating_duration_since(Instant::now()));
    harness.start_agent()?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    reaches(harness, Client, 80, [false, true], "IPv4 is loaded, IPv6 has ended")?;
    let shown = ctl(harness, "set show guests", "")?;
    ensure!(shown == format!("{}/32\n", Client.v4()), "{shown}");
    // With its document goes what was loaded.
    ctl(harness, "delete addressset guests", "")?;
    stage(harness, "{action: block}")?;
    reaches(harness, Client, 80, [true, true], "it came back")?;
    ensure!(listed(harness)?.loaded == 0, "it came back");
    Ok(())
}

fn allowed(harness: &mut Harness) -> Result<()> {
    stage(harness, "{action: allow, ports: [{protocol: TCP, port: 80}]}")?;
    let _guarded = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    let _open = harness.world().serve(Api, "tcp-serve --listen [::]:81")?;
    let mark = Mark::now();
    reaches(harness, Client, 80, [false, false], "an empty set that allows lets somebody in")?;
    ctl(harness, "set load guests -", &format!("{}\n{}\n", Polite.v4(), Polite.v6()))?;
    reaches(harness, Polite, 80, [true, true], "who is listed is shut out")?;
    reaches(harness, Client, 80, [false, false], "who is not listed is let in")?;
    reaches(harness, Client, 81, [true, true], "another port is guarded too")?;
    let drop = harness.record(mark, "the refusal", |record| {
        record.is("deny", "xdp") && record.reason == "not_listed" && record.remote.address == Some(Client.v4())
    })?;
    ensure!(drop.policy == "AddressSet/guests", "{drop}");
    Ok(())
}

/// Lists that hold the client in different ways, loaded by turns, some of them with another generation of the policy.
fn swapped(harness: &mut Harness) -> Result<()> {
    const SWAPS: u8 = 40;
    stage(harness, "{action: block}")?;
    let client = format!("{}\n{}\n", Client.v4(), Client.v6());
    let many: String = (0..2000).map(|number| format!("198.51.{}.{}\n", number / 256, number % 256)).collect();
    let loads = [
        ("set load guests -", format!("{client}198.18.0.0/15\n")),
        ("set load guests - --expires-in 1h", format!("{client}{many}2001:db8::/48\n")),
        ("set load guests -", format!("{many}{client}2000::/3\n")),
    ];
    ctl(harness, loads[0].0, &loads[0].1)?;
    let ends = [Api.v4(), Api.v6()].map(|address| SocketAddr::new(address, 80));
    let [v4, v6] = ends;
    let server = harness.world().serve(Api, &format!("storm-serve --listen {v4} --listen {v6}"))?;
    let storm = |who: Who, timeout: u32| {
        let line = format!("storm --threads 3 --timeout-ms {timeout} --pause-ms 5 --to {v4} --to {v6}");
        harness.world().start("storm", harness.world().probe_line(who, &line))
    };
    let (shut_out, let_in) = (storm(Client, 25)?, storm(Polite, 8000)?);
    for (swap, (line, list)) in (0..SWAPS).zip(loads.iter().cycle()) {
        ctl(harness, line, list)?;
        if swap % 5 == 0 {
            let spec = format!("{{action: block, addresses: [203.0.113.{swap}]}}");
            harness.apply(&document("AddressSet", "guests", &spec))?;
        }
    }
    let (shut_out, let_in) = (shut_out.stormed()?, let_in.stormed()?);
    for (protocol, end) in ends.into_iter().flat_map(|end| [("tcp", end), ("udp", end)]) {
        for (who, stormed, word) in [(Client, &shut_out, "ETIMEDOUT"), (Polite, &let_in, "ok")] {
            let results = stormed.of(protocol, end);
            let tries: u64 = results.values().sum();
            ensure!(
                results.keys().all(|result| result == word) && tries > 20,
                "{who:?} to {protocol} {end}: {results:?}"
            );
        }
    }
    drop(server.stormed()?);
    let set = listed(harness)?;
    ensure!(set.packets > 100, "counts must outlive the swaps: {set:?}");
    Ok(())
}

fn faulty(harness: &mut Harness) -> Result<()> {
    stage(harness, "{action: block}")?;
    ctl(harness, "set load guests -", "192.0.2.0/24\n")?;
    let rows = [
        (
            "set load guests -",
            "192.0.2.1\nexample.org\n10.0.0.1/8\n",
            "line 2: \"example.org\": not an IP address; write",
        ),
        ("set load guests -", "# only this\n", "the list has no entries, nothing was changed; say --allow-empty"),
        ("set load guests -", "192.0.2.1\nexample.org\n10.0.0.1/8\n", "line 3: \"10.0.0.1/8\": has bits set"),
        (
            "set add guests 192.0.2.1 10.0.0.0/40",
            "",
            "entry 2: \"10.0.0.0/40\": not a prefix length; write a whole number",
        ),
        ("set load nobody -", "192.0.2.1\n", "AddressSet/nobody"),
        ("set load guests /nowhere", "", "/nowhere: No such file"),
        ("set add guests 192.0.2.1 --expires-in soon", "", "write one such as 90s"),
    ];
    for (line, input, expected) in rows {
        let said = harness.ctl(&line.split(' ').collect::<Vec<_>>(), input)?;
        ensure!(!said.status.success() && said.err.contains(expected), "{line}: {said:?}");
        ensure!(ctl(harness, "set show guests", "")? == "192.0.2.0/24\n", "{line} has changed something");
    }
    let said = ctl(harness, "set load guests - --allow-empty", "# only this\n")?;
    ensure!(said.starts_with("0 entries loaded into guests, in place of 1"), "{said}");
    Ok(())
}
