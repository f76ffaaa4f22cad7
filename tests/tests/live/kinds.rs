//! Lives: weir-tests, live tests of socket kinds that no port rule can judge.
//! Called by: main.
//! May touch: the stage.
//! Never: takes a kind the kernel itself lacks for one that Weir refused.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{Client, Db, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("raw_sctp_and_mptcp_sockets_are_refused_to_an_isolated_workload", refused),
        on_stage("raw_sctp_and_mptcp_sockets_open_where_the_policy_names_them", named),
    ]
}

const VERBS: [&str; 6] =
    ["raw-socket", "raw-socket --ipv6", "sctp-socket", "sctp-socket --ipv6", "mptcp-socket", "mptcp-socket --ipv6"];

fn refused(harness: &mut Harness) -> Result<()> {
    isolate(harness, "")?;
    let world = harness.world();
    for verb in VERBS {
        let mark = Mark::now();
        let (inside, outside) = (world.attempt(Web, verb)?, world.attempt(Client, verb)?);
        let other = world.attempt(Db, verb)?;
        ensure!(
            other.result == outside.result,
            "{verb}: a workload without a policy sees {other:?}, outside {outside:?}"
        );
        if outside.result != "ok" {
            // The kernel has no such protocol: it says so to everybody, and nothing reaches our hook.
            ensure!(
                inside.result == outside.result || inside.result == "EPERM",
                "{verb}: {inside:?}, outside {outside:?}"
            );
            continue;
        }
        ensure!(inside.result == "EPERM", "{verb}: {inside:?}");
        harness.record(mark, verb, |record| {
            record.is("deny", "sock_create")
                && record.reason == "socket_type"
                && record.local.workload == "shop/web"
                && record.process.as_ref().is_some_and(|process| process.pid == inside.pid)
        })?;
    }
    Ok(())
}

fn named(harness: &mut Harness) -> Result<()> {
    isolate(harness, "sockets: [raw, sctp, mptcp]")?;
    for verb in VERBS {
        let (inside, outside) = (harness.world().attempt(Web, verb)?, harness.world().attempt(Client, verb)?);
        ensure!(inside.result == outside.result, "{verb}: {inside:?}, outside {outside:?}");
    }
    Ok(())
}

fn isolate(harness: &mut Harness, sockets: &str) -> Result<()> {
    let select = "workloadSelector: {matchLabels: {app: web}}";
    let spec = format!("\n  {select}\n  policyTypes: [Egress]\n  defaultAction: deny\n  {sockets}");
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", &spec)))?;
    Ok(harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?)
}
