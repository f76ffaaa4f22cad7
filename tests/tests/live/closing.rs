//! Lives: weir-tests, live tests of what is recorded when a connection ends.
//! Called by: main.
//! May touch: the stage.
//! Never: compares with anything but what both processes counted themselves.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Record};
use weir_tests::world::Who::{Api, Client, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![on_stage("a_closed_connection_is_recorded_at_both_ends_with_its_bytes", bytes)]
}

/// D5 and section 4 of the design: the kernel's counters hold SYN and FIN on some paths.
const OFF_BY: u64 = 1;

fn bytes(harness: &mut Harness) -> Result<()> {
    harness.apply(&workloads())?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let _server = harness.world().serve(Api, "tcp-serve --listen [::]:80")?;
    for size in [0, 1, 100_000, 3_000_000] {
        for to in [Api.v4(), Api.v6(), Api.mapped()] {
            let mark = Mark::now();
            let to_socket = std::net::SocketAddr::new(to, 80);
            let line = format!("tcp-connect --to {to_socket} --bytes {size} --timeout-ms 5000");
            let attempt = harness.world().attempt(Web, &line)?;
            ensure!(attempt.result == "ok" && attempt.received == size, "{attempt:?}");
            let port = attempt.local.map_or(0, |local| local.port());
            let what = format!("the close of {size} bytes to {to} from port {port}");
            let client = harness.record(mark, &what, |record| {
                record.kind == "close" && record.local.workload == "shop/web" && record.local.port == port
            })?;
            let server = harness.record(mark, &what, |record| {
                record.kind == "close" && record.local.workload == "shop/api" && record.remote.port == port
            })?;
            ensure!(carries(&client, size) && carries(&server, size), "{what}:\n  {client}\n  {server}");
            ensure!(client.direction == "egress" && server.direction == "ingress", "{what}:\n  {client}\n  {server}");
            ensure!(client.count == 0 && server.count == 0, "a close is no decision: {client}, {server}");
        }
    }
    let outside = harness.world().attempt(Client, "tcp-connect --to 10.77.0.20:80 --bytes 10")?;
    ensure!(outside.result == "ok", "{outside:?}");
    Ok(())
}

fn carries(record: &Record, size: u64) -> bool {
    record.bytes_sent.abs_diff(size) <= OFF_BY && record.bytes_received.abs_diff(size) <= OFF_BY
}
