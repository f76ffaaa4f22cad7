//! Lives: weir-tests, live tests of ICMP: what is judged of it, and by its type.
//! Called by: main.
//! May touch: the stage.
//! Never: claims more than sockets can show: echo requests that the kernel answers itself reach no socket and no hook.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::world::Who::{Api, Client, Db, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("a_rule_for_echo_requests_lets_ping_work_and_no_other_message_out", pings),
        on_stage("a_ping_that_no_rule_allows_never_leaves", refused),
    ]
}

/// Web is closed both ways, but for `rules` to go out; it may open raw sockets.
fn close_web(harness: &mut Harness, rules: &str) -> Result<u64> {
    let select = "workloadSelector: {matchLabels: {app: web}}";
    let spec = format!(
        "\n  {select}\n  policyTypes: [Ingress, Egress]\n  defaultAction: deny\n  sockets: [raw]\n  egress: [{rules}]"
    );
    let generation = harness.apply(&format!("{}{}", workloads(), document("Policy", "web", &spec)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    Ok(generation)
}

/// Request, reply and the name in records.
const fn types(to: IpAddr) -> (u8, u8, &'static str) {
    if to.is_ipv4() { (8, 0, "ICMP") } else { (128, 129, "ICMPv6") }
}

fn pings(harness: &mut Harness) -> Result<()> {
    let ports = "ports: [{protocol: ICMP, type: echo-request}, {protocol: ICMPv6, type: echo-request}]";
    let peers = "to: [{workloadSelector: {matchLabels: {app: api}}}, {entity: world}]";
    let generation = close_web(harness, &format!("{{name: ping, {peers}, {ports}}}"))?;
    let rule = ("Policy/shop/web", "egress[0] ping");
    for (to, whose) in [(Api.v4(), "shop/api"), (Api.v6(), "shop/api"), (Client.v4(), ""), (Client.v6(), "")] {
        for how in ["", "--connected", "--raw"] {
            let mark = Mark::now();
            let echo = harness.world().attempt(Web, &format!("ping --to {to} {how} --timeout-ms 2000"))?;
            ensure!(echo.result == "ok" && echo.received > 0, "{to} {how}: {echo:?}");
            let (request, reply, protocol) = types(to);
            let what = format!("the echo request to {to} {how}");
            harness.record(mark, &what, |record| {
                record.is("allow", "egress")
                    && (record.policy.as_str(), record.rule.as_str()) == rule
                    && (record.protocol.as_str(), record.icmp_type) == (protocol, Some(request))
                    && record.generation == generation
                    && (record.local.port, record.remote.port) == (0, 0)
                    && record.remote.workload == whose
                    && record.remote.address == Some(to)
            })?;
            harness.record(mark, &format!("the answer to {what}"), |record| {
                record.is("allow", "ingress")
                    && record.reason == "reply"
                    && record.icmp_type == Some(reply)
                    && record.remote.address == Some(to)
            })?;
        }
        // A timestamp request, and what ICMPv6 has of the kind: a node information query.
        let other = if to.is_ipv4() { 13 } else { 139 };
        let mark = Mark::now();
        let refused = harness.world().attempt(Web, &format!("ping --to {to} --raw --type {other} --timeout-ms 300"))?;
        ensure!(refused.result == "EPERM", "type {other} to {to}: {refused:?}");
        harness.record(mark, &format!("type {other} to {to}"), |record| {
            record.is("deny", "egress") && record.reason == "default" && record.icmp_type == Some(other)
        })?;
    }
    Ok(())
}

fn refused(harness: &mut Harness) -> Result<()> {
    let elsewhere = "to: [{workloadSelector: {matchLabels: {app: db}}}]";
    close_web(harness, &format!("{{{elsewhere}, ports: [{{protocol: ICMP, type: 8}}]}}, {{ports: [{{port: 80}}]}}"))?;
    let elsewhere = harness.world().attempt(Web, &format!("ping --to {}", Db.v4()))?;
    ensure!(elsewhere.result == "ok", "{elsewhere:?}");
    for (to, how, hook, fate) in [
        (Api.v4(), "", "egress", "EPERM"),
        (Api.v4(), "--connected", "connect", "EPERM"),
        (Api.v4(), "--raw", "egress", "EPERM"),
        // The kernel does not hand on what became of a message of an IPv6 ping socket (ping_v6_sendmsg).
        (Db.v6(), "", "egress", "ETIMEDOUT"),
        (Db.v6(), "--connected", "connect", "EPERM"),
        (Db.v6(), "--raw", "egress", "EPERM"),
    ] {
        let mark = Mark::now();
        let refused = harness.world().attempt(Web, &format!("ping --to {to} {how}"))?;
        ensure!(refused.result == fate, "{to} {how}: {refused:?}");
        let (request, _, protocol) = types(to);
        harness.record(mark, &format!("the refused echo request to {to} {how}"), |record| {
            record.is("deny", hook)
                && record.reason == "default"
                && (record.protocol.as_str(), record.icmp_type) == (protocol, Some(request))
                && record.remote.address == Some(to)
        })?;
    }
    Ok(())
}
