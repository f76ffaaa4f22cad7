//! Lives: weir-agent, at its edge.
//! Called by: `metrics`, whose page for probes says whether the agent is ready.
//! May touch: nothing but its arguments; pure.
//! Never: calls an agent ready that does not enforce; leaves out a workload of this node.

use weir_proto::v1::{InterfaceStatus, WorkloadStatus};

use super::status;
use crate::control::view::Status;

/// What keeps an agent from enforcing.
pub fn missing(status: &Status) -> String {
    let workloads = status.observed.workloads.iter().filter(|workload| !workload.detail.is_empty());
    let workloads = workloads.map(|one| format!("{}/{}: {}", one.id.namespace, one.id.name, one.detail));
    let interfaces = status.observed.interfaces.iter().filter(|interface| interface.mode == "failed");
    let interfaces = interfaces.map(|one| format!("{}: {}", one.name, one.detail));
    let found: Vec<String> = workloads.chain(interfaces).collect();
    if found.is_empty() { "not enforcing yet".to_owned() } else { format!("not enforcing: {}", found.join("; ")) }
}

/// A line for each workload of this node and each interface: `[+]` with the hooks that judge it and what they do not see, `[-]` with why
/// none does, `[ ]` where there is nothing to judge yet. What runs elsewhere has no line.
pub fn covered(now: &Status) -> String {
    lines(&status::workloads(now), &status::interfaces(now))
}

fn lines(workloads: &[WorkloadStatus], interfaces: &[InterfaceStatus]) -> String {
    let here = workloads.iter().filter(|workload| workload.state != "remote");
    let workloads = here.map(|one| {
        let judged = match &*one.state {
            "attached" => named(&one.hooks, " uncovered=", &one.uncovered),
            _ => one.detail.clone(),
        };
        line(&one.state, "workload", &one.workload, &judged)
    });
    let interfaces = interfaces.iter().map(|one| {
        let judged = match &*one.mode {
            "failed" | "waiting" => one.detail.clone(),
            _ => named(&["xdp".to_owned()], " refuses=", &one.refuses),
        };
        line(&one.mode, "interface", &one.name, &judged)
    });
    workloads.chain(interfaces).collect()
}

fn line(state: &str, kind: &str, name: &str, judged: &str) -> String {
    let sign = match state {
        "failed" => "[-]",
        "waiting" => "[ ]",
        _ => "[+]",
    };
    format!("{sign} {kind} {name} {state} {judged}").trim_end().to_owned() + "\n"
}

fn named(hooks: &[String], other: &str, others: &[String]) -> String {
    let tail = if others.is_empty() { String::new() } else { format!("{other}{}", others.join(",")) };
    format!("hooks={}{tail}", hooks.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_judges_or_why_nothing_does() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let workload = |state: &str, hooks: &[&str], uncovered: &[&str], detail: &str| WorkloadStatus {
            workload: "shop/api".into(),
            state: state.into(),
            hooks: words(hooks),
            uncovered: words(uncovered),
            detail: detail.into(),
            ..WorkloadStatus::default()
        };
        let rows = [
            (
                workload("attached", &["connect4", "ingress"], &[], ""),
                "[+] workload shop/api attached hooks=connect4,ingress\n",
            ),
            (
                workload("attached", &["ingress"], &["af_packet", "icmp_echo"], ""),
                "[+] workload shop/api attached hooks=ingress uncovered=af_packet,icmp_echo\n",
            ),
            (workload("waiting", &[], &[], ""), "[ ] workload shop/api waiting\n"),
            (workload("failed", &[], &[], "no room"), "[-] workload shop/api failed no room\n"),
            (workload("remote", &[], &[], ""), ""),
        ];
        for (workload, expected) in rows {
            assert_eq!(lines(std::slice::from_ref(&workload), &[]), expected, "{workload:?}");
        }
        let interface = |mode: &str, refuses: &[&str], detail: &str| InterfaceStatus {
            name: "eth0".into(),
            mode: mode.into(),
            refuses: words(refuses),
            detail: detail.into(),
            ..InterfaceStatus::default()
        };
        let rows = [
            (interface("native", &[], ""), "[+] interface eth0 native hooks=xdp\n"),
            (interface("generic", &["martian"], "a veth"), "[+] interface eth0 generic hooks=xdp refuses=martian\n"),
            (interface("waiting", &[], ""), "[ ] interface eth0 waiting\n"),
            (interface("failed", &[], "taken"), "[-] interface eth0 failed taken\n"),
        ];
        for (interface, expected) in rows {
            assert_eq!(lines(&[], std::slice::from_ref(&interface)), expected, "{interface:?}");
        }
    }
}
