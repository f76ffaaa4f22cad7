//! Lives: weir-tests, the benchmark of XDP as a test: what is measured there does what it is said to do.
//! Called by: cargo test.
//! May touch: a world of its own.
//! Never: looks at a time; passes a contestant that is not here without saying so.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use weir_tests::world::tools::XDP_FILTER;

use crate::frame::{self, ELSEWHERE, For};
use crate::generator::{Clients, Generator};
use crate::honesty;
use crate::prefixes::Prefixes;
use crate::rivals::Rival;
use crate::rounds::{Also, Contestant, Fate, Field};
use crate::site::{Site, Wire};

const FRAMES: u32 = 300;
/// Others than the first clients, who come in turn.
const ALONE: Clients = Clients::One(1 << 20);
const MANY: Clients = Clients::Many(64);

/// Runs as a test program does.
pub fn run() -> ExitCode {
    let test = || counts().map_err(|error| Failed::from(format!("{error:#}")));
    let trials = vec![Trial::test("bench_xdp_counts_what_everybody_lets_through", test)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn counts() -> Result<()> {
    let site = Site::new()?;
    let rivals: Vec<Rival> = Rival::ALL.into_iter().filter(|rival| rival.absent().is_none()).collect();
    Rival::ALL.into_iter().filter_map(Rival::absent).for_each(|absent| println!("left out: {absent}"));
    let mut field = Field::new(&site, 1, &rivals, honesty::LIMIT)?;
    // Who judges, what its limit does, who sends, and how many of 300 come through.
    let mut rows = vec![
        (Contestant::Drop, Fate::Dropped, Clients::New, 0),
        (Contestant::Pass, Fate::Passed, Clients::New, 300),
        (Contestant::Nothing, Fate::Passed, Clients::New, 300),
    ];
    for limits in
        [Contestant::Weir, Contestant::Lru].into_iter().chain(rivals.iter().map(|one| Contestant::Limits(*one)))
    {
        rows.push((limits, Fate::Dropped, ALONE, 1));
        rows.push((limits, Fate::Dropped, MANY, 64));
        rows.push((limits, Fate::Dropped, Clients::New, 300));
        rows.push((limits, Fate::Passed, ALONE, 300));
    }
    rows.extend(rivals.iter().map(|rival| (Contestant::Drops(*rival), Fate::Dropped, ALONE, 0)));
    let listed = Prefixes { number: 16 };
    let also = Also { nftables: rivals.contains(&Rival::Nftables), filter: XDP_FILTER.available() };
    if !also.filter {
        println!("left out: xdp-filter");
    }
    field.list(&site, &listed, listed.compile(3)?, also)?;
    let (set, filter) = (also.nftables.then_some(Contestant::Set), also.filter.then_some(Contestant::Filter));
    for contestant in [Contestant::Blocks, Contestant::Trie].into_iter().chain(set).chain(filter) {
        rows.push((contestant, Fate::Dropped, listed.hits(), 0));
        rows.push((contestant, Fate::Passed, listed.innocent(), 300));
    }
    for (contestant, fate, clients, expected) in rows {
        let passed = field.with(0, contestant, fate, |generator, wire| passed(generator, wire, clients))?;
        ensure!(
            passed == expected,
            "{contestant:?}, {clients:?}, {fate:?}: {passed} of {FRAMES} came through, not {expected}"
        );
    }
    Ok(())
}

/// How many frames get to where they would be routed.
fn passed(generator: &mut Generator, wire: &Wire, clients: Clients) -> Result<u64> {
    let frame = frame::datagram(For::Us(wire.mac), ELSEWHERE)?;
    // What no route is for.
    let arrived = || wire.counter("Ip", "InAddrErrors");
    let before = arrived()?;
    let _ = generator.send(wire, &frame, clients, FRAMES)?;
    Ok(arrived()? - before)
}
