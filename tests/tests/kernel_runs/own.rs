//! Lives: weir-tests, in-kernel test of a pod's own address, on loopback.
//! Called by: cargo test.
//! May touch: the bench, one cgroup below it, one datagram to a port of 127.0.0.1 that nobody serves.
//! Never: leaves a process or a cgroup behind.

use std::sync::Arc;
use std::{fs, process::Command};

use weir_common::verdict::{Hook, Reason, Verdict};
use weir_policy::{CompiledWorkload, Kind, ResourceId};
use weir_tests::report::Report;

use crate::bench::Bench;

const DOCUMENTS: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {cgroup: web, addresses: [127.0.0.1]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: closed}
spec: {workloadSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], defaultAction: deny}
"#;

/// What a process of workload `web` is told that sends to its own address.
fn send_to_itself(bench: &mut Bench, kind: Kind) -> String {
    for workload in bench.compiled.local() {
        let renamed = CompiledWorkload { id: ResourceId::new(kind, "default", "web"), ..(*workload).clone() };
        bench.compiled.workloads.remove_mut(&workload.id);
        bench.compiled.workloads.insert_mut(renamed.id.clone(), Arc::new(renamed));
    }
    let cgroup = bench.cgroup.join("web");
    fs::create_dir_all(&cgroup).unwrap();
    let _ = bench.kernel.install(&bench.compiled).unwrap();
    let observed = bench.kernel.reconcile(&bench.compiled.local());
    assert!(observed.enforcing, "{observed:?}");
    let probe = Command::new(env!("CARGO_BIN_EXE_weir-probe"))
        .arg("--cgroup")
        .arg(&cgroup)
        .args(["udp-exchange", "--to", "127.0.0.1:9", "--connected", "--timeout-ms", "500"])
        .output()
        .unwrap();
    fs::remove_dir(&cgroup).unwrap();
    let said = String::from_utf8(probe.stdout).unwrap();
    match serde_json::from_str(said.lines().next().unwrap_or_default()) {
        Ok(Report::Attempt(attempt)) => attempt.result,
        other => panic!("{other:?}: {said} {}", String::from_utf8_lossy(&probe.stderr)),
    }
}

#[test]
fn a_pod_reaches_its_own_address_and_a_workload_that_isolates_itself_does_not() {
    let rows = [
        (Kind::Pod, "ECONNREFUSED", Verdict::Allow, Reason::NoPolicy),
        (Kind::Workload, "EPERM", Verdict::Deny, Reason::Default),
    ];
    for (kind, result, verdict, reason) in rows {
        let mut bench = Bench::new("own", DOCUMENTS, Verdict::Deny);
        assert_eq!(send_to_itself(&mut bench, kind), result, "{kind:?}");
        assert_eq!(bench.decided(Hook::Connect, verdict, reason), 1, "{kind:?}");
    }
}
